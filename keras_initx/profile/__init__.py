"""`VarianceProfile`, the record that theory and measurement both return."""

from keras_initx.profile.variance_profile import VarianceProfile

__all__ = ["VarianceProfile"]


def __dir__() -> list[str]:
    return __all__
