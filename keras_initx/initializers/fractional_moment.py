"""Normal weights that preserve a moment of the signal's norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_initx import theory
from keras_initx.initializers.base import (
    TYPICAL_FAN_IN,
    FanInInitializer,
    check_activation_name,
    without_none,
)
from keras_initx.validation import check_real


@keras.saving.register_keras_serializable(package="keras_initx")
class FractionalMoment(FanInInitializer):
    """Normal weights that preserve a moment of the signal's norm.

        w ~ N(0, sigma^2),    E |phi(W x)|^s = |x|^s    for every x

    Here s is the order of the moment, |x| the Euclidean norm, phi the
    activation and sigma = `theory.fractional_moment_std`. Order 2 is Kaiming
    initialization, sigma^2 = 2 / fan_in for relu. A smaller order has a sigma
    larger by a factor 1 + O(1 / fan_in): in a deep network a typical signal
    shrinks more slowly, while its second moment grows.

    The moment is preserved exactly by a layer without bias that is as wide as
    its input. In layers of another width the sigma of the fan-in preserves the
    scale of the units, see `theory.fractional_moment_std`. Nothing is proved
    for convolutions, whose outputs share weights.

    Args:
        order: float. The order s of the moment, in (0, 2]. Defaults to 1.
        activation: str. The activation phi after the kernel: "linear",
            "relu", "leaky_relu" or "rrelu", as in
            `theory.fractional_moment_std`. Defaults to "relu".
        negative_slope: float. The slope of "leaky_relu" below 0. Defaults to
            0.2, as in `keras.activations.leaky_relu` (the default of
            `keras.layers.LeakyReLU` is 0.3).
        negative_slope_range: Sequence of two floats. The range from which
            "rrelu" draws the slope of each unit below 0. Defaults to the
            range of PyTorch, (1/8, 1/3).
        dropout_rate: float. The rate of a `keras.layers.Dropout` after the
            activation, in [0, 1). Defaults to 0.
        fan_in: int. Overrides the fan-in that the shape or the axes give, at
            least 1.
        input_axes: list of int. The axes of the kernel that the layer sums
            over. `EinsumDense` and attention layers set them, from Keras 3.15
            on.
        output_axes: list of int. The axes of the kernel that the layer's
            output has. `EinsumDense` and attention layers set them, from Keras
            3.15 on.
        seed: None, int or `keras.random.SeedGenerator`. With an int, kernels
            of equal shape get equal weights, such as the query, key and value
            kernels of `MultiHeadAttention`: see `keras_initx.initializers`.

    Returns:
        When called with a shape and a dtype: weights in float16, bfloat16,
        float32 or float64.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> layer = keras.layers.Dense(
    ...     256, kernel_initializer=FractionalMoment(order=1.0)
    ... )
    >>> layer.build((None, 256))
    >>> f"{keras.ops.std(layer.kernel):.2f}"
    '0.09'

    Reference: Gürbüzbalaban & Hu, AISTATS (2021), arXiv:2005.11878. Dropout,
    and layers that are not as wide as their input, are derived here.
    """

    def __init__(
        self,
        order: float = 1.0,
        activation: str = "relu",
        negative_slope: float | None = None,
        negative_slope_range: Sequence[float] | None = None,
        dropout_rate: float = 0.0,
        fan_in: int | None = None,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
        seed: int | keras.random.SeedGenerator | None = None,
    ):
        super().__init__(fan_in, input_axes, output_axes, seed)
        self.order = check_real("order", order, "(0, 2]")
        self.activation = check_activation_name(activation)
        self.negative_slope = check_real(
            "negative_slope", negative_slope, optional=True
        )
        self.negative_slope_range = negative_slope_range
        self.dropout_rate = check_real("dropout_rate", dropout_rate, "[0, 1)")
        # Theory refuses the other arguments that are not valid.
        self._std(self.fan_in or TYPICAL_FAN_IN)
        if negative_slope_range is not None:
            self.negative_slope_range = [float(s) for s in negative_slope_range]

    def _std(self, fan_in: int) -> float:
        return theory.fractional_moment_std(
            self.order,
            fan_in,
            self.activation,
            dropout_rate=self.dropout_rate,
            **without_none(
                negative_slope=self.negative_slope,
                negative_slope_range=self.negative_slope_range,
            ),
        )

    def draw(self, shape: tuple[int, ...], fan_in: int) -> Any:
        """Returns normal weights in float32."""
        return keras.random.normal(
            shape, stddev=self._std(fan_in), dtype="float32", seed=self.seed
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON can hold them."""
        slopes = self.negative_slope_range
        return {
            "order": self.order,
            "activation": self.activation,
            "negative_slope": self.negative_slope,
            "negative_slope_range": None if slopes is None else [*slopes],
            "dropout_rate": self.dropout_rate,
        } | super().get_config()
