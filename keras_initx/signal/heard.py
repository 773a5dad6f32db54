"""What a listener is told of a layer's call, and the tools of telling it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf


@dataclass(frozen=True)
class Heard:
    """One call of one layer, as a listener is told of it.

    Args:
        name: The names of the layers that were running, outermost first,
            without the model's own, joined by "/". Further calls of the same
            layer are numbered: "dense", "dense:2".
        layer: The layer.
    """

    name: str
    layer: keras.layers.Layer


Picks = Callable[[Heard], bool]
Listener = Callable[[Heard, tf.Tensor], tf.Tensor]
After = Callable[[Heard, Any, Any], None]


def check_reachable(heard: Heard, graph: tf.Graph) -> None:
    """Refuse a tensor that lives in the graph of a loop, not in `graph`."""
    if tf.compat.v1.get_default_graph() is not graph:
        raise RuntimeError(
            "A layer can be heard where the model itself runs it, but not "
            "inside a loop, a branch or a tf.function of another layer, nor "
            "in a TimeDistributed layer whose number of time steps is "
            "unknown. Leave it out through `layers`. "
            f"Received: layer {heard.name!r}"
        )


@contextlib.contextmanager
def swapped(owner: object, name: str, value: Any) -> Iterator[None]:
    """Within, the instance attribute `owner.name` is `value`."""
    # Not through setattr: a Keras layer tracks, and may lock, what is set.
    attributes = vars(owner)
    absent = object()
    before = attributes.get(name, absent)
    attributes[name] = value
    try:
        yield
    finally:
        if before is absent:
            del attributes[name]
        else:
            attributes[name] = before
