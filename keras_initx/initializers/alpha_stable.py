"""Heavy-tailed weights that preserve the scale of the signal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_initx import theory
from keras_initx.distributions.alpha_stable.sampling import standard_stable
from keras_initx.initializers.base import (
    TYPICAL_FAN_IN,
    FanInInitializer,
    check_activation_name,
    stateless_seed,
    without_none,
)
from keras_initx.validation import check_real


@keras.saving.register_keras_serializable(package="keras_initx")
class AlphaStable(FanInInitializer):
    """Symmetric alpha-stable weights that preserve the scale of the signal.

        w ~ c Z,    E exp(i t Z) = exp(-|t|^alpha)

    Here alpha is the stability. At stability 2 the weights are normal with
    variance 2 c^2. Below 2 they have no variance, and below 1 no mean:
    P(|w| > x) ~ C (c / x)^alpha for large x, with
    C = (2 / pi) Gamma(alpha) sin(pi alpha / 2). What a layer can preserve is
    the norm |x|_alpha = (sum |x_i|^alpha)^(1 / alpha) of its signal:

        order="log"    E log |phi(W x)|_alpha = log |x|_alpha
        order=s        E |phi(W x)|_alpha^s = |x|_alpha^s,   0 < s < alpha

    for every x, with phi the activation and c = `theory.stable_weight_scale`.
    The scale of textbooks, c = fan_in^(-1 / alpha), leaves out a logarithm of
    the fan-in: with relu, stability 1.5 and 256 units |x|_alpha then grows by
    a factor 1.44 in each layer.

    The norm is preserved exactly by a layer without bias that is as wide as
    its input. In layers of another width the c of the fan-in preserves the
    scale of the units, see `theory.stable_weight_scale`.

    A weight beyond the largest number M of the dtype is clipped to M. The
    probability for one weight is C (c / M)^alpha. With relu and a fan-in of
    256 it is

        stability                        1.5      1.0      0.5      0.1
        float16 (M = 65504)              5e-11    2e-8     4e-6     4e-4
        bfloat16, float32 (M = 3e38)     0        0        6e-23    2e-7

    float16 also rounds weights below 3e-8 to 0, which are one in fifty at
    stability 0.5 and nearly all at 0.1. Do not use it for tails that heavy.

    `kx.distributions.AlphaStable` is the distribution itself, with any
    skewness, location and scale.

    Args:
        stability: float. The stability alpha, in (0, 2].
        activation: str. The activation phi after the kernel: "linear",
            "relu", "leaky_relu" or "rrelu", as in
            `theory.stable_weight_scale`. Defaults to "relu".
        order: "log" or float. The moment of the norm that is preserved:
            "log" for the mean logarithm, or the order s of the moment, in
            (0, stability). Defaults to "log".
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

    >>> layer = keras.layers.Dense(256, kernel_initializer=AlphaStable(1.5))
    >>> layer.build((None, 256))
    >>> f"{keras.ops.median(abs(layer.kernel)):.2f}"
    '0.02'

    Reference: Peluchetti, Favaro & Fortini, AISTATS (2020), arXiv:2003.00394,
    for stable weights; Gürbüzbalaban & Hu, AISTATS (2021), arXiv:2005.11878,
    for a preserved moment of the norm with normal weights. Stable weights that
    preserve a moment are derived here.
    """

    def __init__(
        self,
        stability: float,
        activation: str = "relu",
        order: str | float = "log",
        negative_slope: float | None = None,
        negative_slope_range: Sequence[float] | None = None,
        dropout_rate: float = 0.0,
        fan_in: int | None = None,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
        seed: int | keras.random.SeedGenerator | None = None,
    ):
        super().__init__(fan_in, input_axes, output_axes, seed)
        self.stability = check_real("stability", stability, "(0, 2]")
        self.activation = check_activation_name(activation)
        self.order = order
        self.negative_slope = check_real(
            "negative_slope", negative_slope, optional=True
        )
        self.negative_slope_range = negative_slope_range
        self.dropout_rate = check_real("dropout_rate", dropout_rate, "[0, 1)")
        # Theory refuses the other arguments that are not valid.
        self._weight_scale(self.fan_in or TYPICAL_FAN_IN)
        if order != "log":
            self.order = float(order)
        if negative_slope_range is not None:
            self.negative_slope_range = [float(s) for s in negative_slope_range]

    def _weight_scale(self, fan_in: int) -> float:
        return theory.stable_weight_scale(
            self.stability,
            fan_in,
            self.activation,
            order=self.order,
            dropout_rate=self.dropout_rate,
            **without_none(
                negative_slope=self.negative_slope,
                negative_slope_range=self.negative_slope_range,
            ),
        )

    def draw(self, shape: tuple[int, ...], fan_in: int) -> tf.Tensor:
        """Returns stable weights, in float64 below stability 0.4."""
        return standard_stable(
            shape,
            self.stability,
            seed=stateless_seed(self.seed),
            scale=self._weight_scale(fan_in),
            # The scale and the unit draw leave the range of float32 long
            # before their product does.
            dtype=tf.float64 if self.stability < 0.4 else tf.float32,
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON can hold them."""
        slopes = self.negative_slope_range
        return {
            "stability": self.stability,
            "activation": self.activation,
            "order": self.order,
            "negative_slope": self.negative_slope,
            "negative_slope_range": None if slopes is None else [*slopes],
            "dropout_rate": self.dropout_rate,
        } | super().get_config()
