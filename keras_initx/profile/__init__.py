"""The record that theory and measurement share."""

from keras_initx.profile.variance_profile import VarianceProfile

__all__ = ["VarianceProfile"]
