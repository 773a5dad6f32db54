"""Heavy-tailed weights that preserve the scale of the signal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_initx import backend, theory
from keras_initx.initializers.base import (
    LARGEST,
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

    def draw(self, shape: tuple[int, ...], fan_in: int) -> Any:
        """Returns stable weights, on TensorFlow in float64 below 0.4."""
        scale = self._weight_scale(fan_in)
        if not backend.is_tensorflow():
            return symmetric_stable(shape, self.stability, scale, self.seed)
        # Compiled, and in pieces that stay in a core's cache.
        from keras_initx.distributions.alpha_stable import sampling

        return sampling.standard_stable(
            shape,
            self.stability,
            seed=stateless_seed(self.seed),
            scale=scale,
            # The scale and the unit draw leave the range of float32 long
            # before their product does.
            dtype="float64" if self.stability < 0.4 else "float32",
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


def symmetric_stable(
    shape: tuple[int, ...],
    stability: float,
    scale: float,
    seed: int | keras.random.SeedGenerator,
) -> Any:
    """Samples symmetric stable distributions on any backend of Keras.

        log |X| = log scale + log(sin(a |V|) / cos V)
                  + (e / a) log(cos(e V) / (W cos V)),     e = 1 - a

    Here a is the stability, V is uniform on (-pi/2, pi/2) and W exponential.
    The logarithm stays in the range of float32 where a scale or a product
    would leave it.

    Args:
        shape: tuple of int. The shape of the result.
        stability: float. The stability, in (0, 2].
        scale: float. The scale, above 0.
        seed: int or `keras.random.SeedGenerator`. The seed.

    Returns:
        A float32 tensor. A value beyond the range of float32 becomes its
        largest number, of the same sign.

    Reference: Chambers, Mallows & Stuck, JASA 71, 340 (1976).
    """
    ops = keras.ops
    bits = keras.random.randint(
        (2, *shape), -(2**31), 2**31 - 1, dtype="int32", seed=seed
    )
    # Odd integers are symmetric about zero, and never zero.
    first, second = ops.cast(ops.bitwise_or(bits, 1), "float32")
    # The gap between |V| and pi/2, since the tails lie at a gap of zero, where
    # floating-point numbers are dense.
    gap = ops.abs(first) * (math.pi * 2.0**-32)
    # The cast may round a uniform number up to 1, whose logarithm is zero.
    uniform = ops.minimum(ops.abs(second) * 2.0**-31, 1 - 2.0**-24)
    log_w = ops.log(-ops.log(uniform))
    log_cos = ops.log(ops.sin(gap))
    e = 1 - stability
    rest = math.pi / 2 * min(stability, 2 - stability)
    log_cos_e = ops.log(ops.sin(rest + abs(e) * gap))
    # sin(a |V|) without the cancellation of a |V| with pi.
    angle = (
        stability * (math.pi / 2 - gap)
        if stability <= 1
        else rest + stability * gap
    )
    size = ops.log(ops.abs(ops.sin(angle))) - log_cos
    size = size + (e / stability) * (log_cos_e - log_w - log_cos)
    limit = LARGEST["float32"]
    x = ops.exp(size + math.log(scale))
    return ops.sign(first) * ops.minimum(x, limit)
