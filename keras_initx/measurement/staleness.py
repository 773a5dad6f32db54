"""What a trace of a layer depends on, as far as a user can change it.

A compiled pass holds on to every Python value that the layer's `call` read.
What stands in a variable is read anew at each run. Numbers, names, arrays, and
lists and dicts of them are compared by value, all else by identity: what has
changed inside of a function or of an object of another kind cannot be seen.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type, tf.DType)
_VARIABLES = (keras.Variable, tf.Variable)


def settings(layer: keras.layers.Layer) -> Any:
    """The layer's attributes, in a form that can be compared with `==`.

    Keeps nothing alive but numbers and names.
    """
    own = _names_of_keras()
    attributes = {k: v for k, v in vars(layer).items() if k not in own}
    what = [
        layer.trainable,
        layer.compute_dtype,
        _comparable(attributes),
    ]
    if isinstance(layer, keras.Model):
        what += [_Same(each) for each in (*layer.layers, *layer.weights)]
    return what


@functools.cache
def _names_of_keras() -> frozenset[str]:
    """Attributes in which Keras keeps books, and no setting of a user's."""
    inputs = keras.Input((1,))
    plain = keras.Model(inputs, inputs)
    plain.compile("sgd", "mse")
    books = set(vars(plain)) | set(vars(keras.Sequential([inputs])))
    # What fit, evaluate and predict leave behind, or use in between.
    books |= {"history", "stop_training", "stop_evaluating", "stop_predicting"}
    books |= {"_eval_epoch_iterator"}
    # A name without underscore that every layer has may be set: `autocast`.
    layer = vars(keras.layers.Layer())
    return frozenset(books - {name for name in layer if name[0] != "_"})


class _Same:
    """Equal to another of the same object, which it does not keep alive."""

    def __init__(self, value: Any):
        try:
            # A method is made anew each time that one asks for it.
            kind = (
                weakref.WeakMethod
                if isinstance(value, types.MethodType)
                else weakref.ref
            )
            self.get = kind(value)
        except TypeError:
            self.get = lambda: value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Same):
            return NotImplemented
        mine, its = self.get(), other.get()
        if isinstance(mine, types.MethodType):
            return mine == its
        return mine is not None and mine is its


def _comparable(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        # By its text, in which NaN equals itself, and 1 is not 1.0 or True.
        return repr(value)
    if isinstance(value, (keras.layers.Layer, *_VARIABLES)):
        return _Same(value)
    if isinstance(value, (np.ndarray, np.generic)):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, tf.Tensor) and hasattr(value, "numpy"):
        return _comparable(np.asarray(value))
    if isinstance(value, Mapping):
        return [(repr(k), _comparable(v)) for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return [_comparable(each) for each in value]
    return _Same(value)
