"""Checks that the functions which run or change a model share."""

from __future__ import annotations

from typing import Any

import keras

from keras_initx import backend
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
    if backend.inside_function():
        raise RuntimeError(
            f"{what} changes the model, so it is called outside of a "
            "tf.function. Received: a call inside of one"
        )


def check_call(model: keras.Model) -> None:
    """Checks that a model has a `call`, without which there is no forward pass.

    Raises:
        ValueError: If it has none, as many models with a `train_step` of their
            own. The parts that may be used instead are named.
    """
    if type(model).call not in (keras.Model.call, keras.layers.Layer.call):
        return
    parts = [layer.name for layer in getattr(model, "layers", ())]
    raise ValueError(
        "model must have a `call`, which a forward pass runs. Measure a part "
        "that has one, as in `measure(vae.encoder, data)` or "
        "`SampleVarianceDecay(data, model=vae.encoder)`. Received: "
        f"model={model.name!r} of type {type(model).__name__} without `call`, "
        f"whose parts are {', '.join(parts) or 'not known'}"
    )
