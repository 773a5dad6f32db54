"""Checks that the functions which run or change a model share."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_initx.validation import check_instance


def check_model(model: Any) -> keras.Model:
    """Checks that an argument is a Keras model, or a layer used as one.

    Returns:
        The model.

    Raises:
        ValueError: If the argument is something else.
    """
    return check_instance("model", model, keras.layers.Layer, "a keras.Model")


def check_eager(what: str) -> None:
    """Checks that a function which changes a model is called eagerly.

    Args:
        what: str. The function, as in "calibrate".

    Raises:
        RuntimeError: If the call is inside of a `tf.function`.
    """
    if tf.inside_function():
        raise RuntimeError(
            f"{what} changes the model, so it is called outside of a "
            "tf.function. Received: a call inside of one"
        )
