"""Predictions of the signal and the gradient in a model, before training."""

from keras_initx.prediction import rules as _rules  # noqa: F401
from keras_initx.prediction.registry import register_propagation

__all__ = ["register_propagation"]


def __dir__() -> list[str]:
    return __all__
