"""Keras callbacks that show the signal while a model trains."""

from keras_initx.callbacks.sample_variance_decay import SampleVarianceDecay

__all__ = ["SampleVarianceDecay"]
