"""Enters a context around the call of every layer, by replacing a method.

Keras has no hook for a layer's call, and its walk over the layers inside layers
is not public. What this module needs of Keras, and what is not documented:

* Every layer runs through `keras.layers.Layer.__call__`, looked up on the class
  at each call, so that a replacement of this attribute meets exactly the layers
  that run, in the order in which they run.
* `Layer.__call__` runs `self.call` (or `self.quantized_call`) as an attribute
  of the instance, looked up after the replacement has been entered.

`tests/hooks/test_undocumented_keras.py` fails as soon as either is not so. No
other module of this package replaces an attribute of a Keras class.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Iterator
from typing import Any, Protocol

import keras


class Around(Protocol):
    """Something with a context for each layer's call."""

    def attached(
        self, layer: keras.layers.Layer
    ) -> contextlib.AbstractContextManager[None]:
        """Returns the context in which `layer` is called."""


@contextlib.contextmanager
def around_layer_calls(around: Around) -> Iterator[None]:
    """Calls each layer in `around.attached(layer)`, within.

    Only calls in the context (as of `contextvars`) and thread that entered it
    are affected. `Layer.__call__` is restored when no thread is within.
    """
    global _entered, _original
    token = _current.set(around)
    with _lock:
        if _entered == 0:
            _original = keras.layers.Layer.__call__
            keras.layers.Layer.__call__ = _call
        _entered += 1
    try:
        yield
    finally:
        with _lock:
            _entered -= 1
            if _entered == 0:
                keras.layers.Layer.__call__ = _original
        _current.reset(token)


@contextlib.contextmanager
def plain_layer_calls() -> Iterator[None]:
    """Calls layers as Keras does, within, also in `around_layer_calls`."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


def is_current(around: Around) -> bool:
    """Whether layers that are called now are called around by `around`."""
    return _current.get() is around


_current: contextvars.ContextVar[Around | None] = contextvars.ContextVar(
    "keras_initx_around", default=None
)
_lock = threading.Lock()
_entered = 0
_original = keras.layers.Layer.__call__


def _call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
    around = _current.get()
    if around is None:
        return _original(layer, *args, **kwargs)
    with around.attached(layer):
        return _original(layer, *args, **kwargs)
