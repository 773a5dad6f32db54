"""Enters a context around the call of every layer, by replacing a method.

Keras has no hook for a layer's call, and its walk over the layers inside layers
is not public. What this module needs of Keras, and what is not documented:

* Every layer runs through `keras.layers.Layer.__call__`, looked up on the class
  at each call, so that a replacement of this attribute meets exactly the layers
  that run, in the order in which they run.
* `Layer.__call__` runs `self.call` (or `self.quantized_call`) as an attribute
  of the instance, looked up after the replacement has been entered.
* An operation that is given a symbolic tensor, an instance of a subclass of
  `keras.KerasTensor` included, runs `Operation.symbolic_call`, looked up on the
  class at each call.

`tests/hooks/test_undocumented_keras.py` fails as soon as one of these is not
so. No other module of this package replaces an attribute of a Keras class.
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


class InPlace(Protocol):
    """Something that runs in the place of layers and operations."""

    def layer_call(
        self, layer: keras.layers.Layer, *args: Any, **kwargs: Any
    ) -> Any:
        """Returns the output of a layer."""

    def operation_call(
        self, operation: keras.Operation, *args: Any, **kwargs: Any
    ) -> Any:
        """Returns the output of an operation on symbolic tensors."""


@contextlib.contextmanager
def around_layer_calls(around: Around) -> Iterator[None]:
    """Calls each layer in `around.attached(layer)`, within.

    Only calls in the context (as of `contextvars`) and thread that entered it
    are affected. `Layer.__call__` is restored when no thread is within.
    """
    token = _current.set(around)
    try:
        with _replaced():
            yield
    finally:
        _current.reset(token)


@contextlib.contextmanager
def in_place_of_calls(in_place: InPlace) -> Iterator[None]:
    """Calls `in_place` for each layer and each symbolic operation, within.

    It affects the same calls as `around_layer_calls`.
    """
    token = _in_place.set(in_place)
    try:
        with _replaced():
            yield
    finally:
        _in_place.reset(token)


@contextlib.contextmanager
def _replaced() -> Iterator[None]:
    """Replaces the methods, within; they are restored when no thread is in."""
    global _entered, _original, _original_operation
    with _lock:
        if _entered == 0:
            _original = keras.layers.Layer.__call__
            _original_operation = keras.Operation.symbolic_call
            keras.layers.Layer.__call__ = _call
            keras.Operation.symbolic_call = _operation_call
        _entered += 1
    try:
        yield
    finally:
        with _lock:
            _entered -= 1
            if _entered == 0:
                keras.layers.Layer.__call__ = _original
                keras.Operation.symbolic_call = _original_operation


@contextlib.contextmanager
def plain_layer_calls() -> Iterator[None]:
    """Calls layers as Keras does, within, also in `around_layer_calls`."""
    token, other = _current.set(None), _in_place.set(None)
    try:
        yield
    finally:
        _current.reset(token)
        _in_place.reset(other)


def is_current(around: Around) -> bool:
    """Whether layers that are called now are called around by `around`."""
    return _current.get() is around


_current: contextvars.ContextVar[Around | None] = contextvars.ContextVar(
    "keras_initx_around", default=None
)
_in_place: contextvars.ContextVar[InPlace | None] = contextvars.ContextVar(
    "keras_initx_in_place", default=None
)
_lock = threading.Lock()
_entered = 0
_original = keras.layers.Layer.__call__
_original_operation = keras.Operation.symbolic_call


def _call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
    in_place = _in_place.get()
    if in_place is not None:
        return in_place.layer_call(layer, *args, **kwargs)
    around = _current.get()
    if around is None:
        return _original(layer, *args, **kwargs)
    with around.attached(layer):
        return _original(layer, *args, **kwargs)


def _operation_call(
    operation: keras.Operation, *args: Any, **kwargs: Any
) -> Any:
    in_place = _in_place.get()
    if in_place is None:
        return _original_operation(operation, *args, **kwargs)
    return in_place.operation_call(operation, *args, **kwargs)
