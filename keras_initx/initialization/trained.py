"""Refuses models that have been trained, unless the user allows them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras

from keras_initx.inspection.traversal import ModelView


def check_untrained(view: ModelView) -> None:
    """Refuses a model that has been trained, or that holds one that has.

    Raises:
        ValueError: If there is one.
    """
    for layer, steps in trained_layers(view):
        raise ValueError(
            "The model has been trained, and its weights would be "
            "changed: pass overwrite=True if that is meant. Received: "
            f"overwrite=False, {layer.name!r} after {steps} steps"
        )


def trained_layers(
    view: ModelView,
) -> Iterator[tuple[keras.layers.Layer, int]]:
    """The models in a model that have been trained, and for how many steps."""
    for layer in view.layers:
        for optimizer in _optimizers(vars(layer).values()):
            steps = int(keras.ops.convert_to_numpy(optimizer.iterations))
            if steps:
                yield layer, steps


def _optimizers(values: Iterable[Any]) -> Iterator[keras.optimizers.Optimizer]:
    """The optimizers among values, and in lists and dicts of them."""
    for value in list(values):
        if isinstance(value, keras.optimizers.Optimizer):
            yield value
        elif isinstance(value, dict):
            yield from _optimizers(value.values())
        elif isinstance(value, list | tuple):
            yield from _optimizers(value)
