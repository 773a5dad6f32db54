"""Keras callbacks that show the signal, and the weights, in training."""

from keras_initx.callbacks.feature_symmetry import FeatureSymmetry
from keras_initx.callbacks.sample_variance_decay import SampleVarianceDecay

__all__ = ["FeatureSymmetry", "SampleVarianceDecay"]


def __dir__() -> list[str]:
    return __all__
