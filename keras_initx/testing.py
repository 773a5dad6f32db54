"""Checks for the tests of your own package."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_initx.measurement.data import Data
from keras_initx.recommendation.recommend import recommend

__all__ = ["assert_healthy"]


def assert_healthy(
    model: keras.Model,
    data: Data = None,
    *,
    ignore: Sequence[str] = (),
    steps: int | None = 8,
) -> None:
    """Checks that `recommend` finds nothing in a model.

    Args:
        model: As in `recommend`.
        data: As in `recommend`.
        ignore: As in `recommend`.
        steps: As in `recommend`.

    Raises:
        AssertionError: If there is a finding, or nothing is known of the
            signal. The message is that of `recommend`.
        ValueError: As in `recommend`.

    Example:

    >>> import keras, keras_initx as kx
    >>> model = keras.Sequential([keras.Input((64,))] + [
    ...     keras.layers.Dense(64, "relu", kernel_initializer="he_normal")
    ...     for _ in range(4)
    ... ])
    >>> kx.testing.assert_healthy(model)

    Reference: derived here.
    """
    findings = recommend(model, data, ignore=ignore, steps=steps)
    if findings:
        raise AssertionError(str(findings))


def __dir__() -> list[str]:
    return __all__
