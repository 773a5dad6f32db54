"""Keras optimizers with a learning rate for each weight."""

from keras_initx.optimizers.with_multipliers import with_multipliers

__all__ = ["with_multipliers"]


def __dir__() -> list[str]:
    return __all__
