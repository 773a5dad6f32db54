"""Statistics of data that layers collect in training and use in inference."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras

# The attributes of the mean and of the variance: those that training moves, as
# in `BatchNormalization`, and those that `adapt` sets, as in `Normalization`.
_ATTRIBUTES = (
    ("moving_mean", "moving_variance", False),
    ("adapt_mean", "adapt_variance", True),
)


class MovingStatistics(NamedTuple):
    """The statistics by which a layer normalizes in inference.

    Args:
        mean: keras.Variable. The mean of each feature.
        variance: keras.Variable. The variance of each feature.
        by_adapt: bool. Whether `adapt` sets them, and not training.
    """

    mean: Any
    variance: Any
    by_adapt: bool

    def are_fresh(self) -> bool:
        """Whether they are those of a new layer, mean 0 and variance 1."""
        mean, variance = (
            keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable))
            for variable in (self.mean, self.variance)
        )
        return not mean.any() and bool((variance == 1).all())


def moving_statistics(layer: keras.layers.Layer) -> MovingStatistics | None:
    """Returns the statistics by which a layer normalizes in inference.

    They are known by the names of the attributes that hold them, as they are
    in `BatchNormalization`, in `Normalization` and in layers written after
    them.

    Args:
        layer: keras.layers.Layer. The layer.

    Returns:
        MovingStatistics. None if the layer has none, or is not built.
    """
    for mean_name, variance_name, by_adapt in _ATTRIBUTES:
        mean, variance = (
            getattr(layer, name, None) for name in (mean_name, variance_name)
        )
        if isinstance(mean, keras.Variable) and isinstance(
            variance, keras.Variable
        ):
            return MovingStatistics(mean, variance, by_adapt)
    return None
