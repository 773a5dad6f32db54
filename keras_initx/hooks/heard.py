"""What a listener is told of a layer's call, and the tools of telling it."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from keras_initx.inspection.selection import Heard

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
def swapped(
    owner: object, name: str, around: Callable[[Callable], Callable]
) -> Iterator[None]:
    """Within, and in this thread, `owner.name` does what `around` makes of it.

    Replicas are threads that may take turns in the middle of a layer's call:
    then several have an attribute swapped, and end in any order.

    Args:
        owner: Whose instance attribute to set.
        name: Of something callable.
        around: Called as `around(callable)`; returns the callable that stands
            in its place.
    """
    # Not through setattr: a Keras layer tracks, and may lock, what is set.
    attributes = vars(owner)
    thread = threading.get_ident()
    with _lock:
        shared = attributes.get(name)
        if not isinstance(shared, _ByThread):
            shared = _ByThread(getattr(owner, name), name in attributes)
            attributes[name] = shared
        outer = shared.of_thread.get(thread)
        shared.of_thread[thread] = around(shared.present())
    try:
        yield
    finally:
        with _lock:
            if outer is not None:
                shared.of_thread[thread] = outer
            else:
                del shared.of_thread[thread]
            if not shared.of_thread:
                if shared.was_set:
                    attributes[name] = shared.original
                else:
                    del attributes[name]


_lock = threading.Lock()


class _ByThread:
    """Stands where a callable stood while threads have it swapped."""

    def __init__(self, original: Callable, was_set: bool):
        # Keras reads the signatures of calls.
        functools.update_wrapper(self, original, updated=())
        self.original = original
        self.was_set = was_set
        self.of_thread: dict[int, Callable] = {}

    def present(self) -> Callable:
        return self.of_thread.get(threading.get_ident(), self.original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.present()(*args, **kwargs)
