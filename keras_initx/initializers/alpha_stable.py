"""Heavy-tailed weights that keep the signal's scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_initx import theory
from keras_initx.distributions.stable_sampling import standard_stable
from keras_initx.initializers.base import (
    TYPICAL_FAN_IN,
    FanInInitializer,
    given,
    stateless_seed,
)


@keras.saving.register_keras_serializable(package="keras_initx")
class AlphaStable(FanInInitializer):
    """Symmetric alpha-stable weights that keep the scale of the signal.

        w ~ c Z,    E exp(i t Z) = exp(-|t|^alpha),    alpha = stability

    Stability 2 is normal, of variance 2 c^2. Below 2 weights have no variance,
    below 1 no mean: P(|w| > x) ~ C (c / x)^alpha for large x, with
    C = (2 / pi) Gamma(alpha) sin(pi alpha / 2). What the layer can keep is its
    signal's l_alpha norm |x|_alpha = (sum |x_i|^alpha)^(1 / alpha):

        preserve="log"    E log |phi(W x)|_alpha = log |x|_alpha
        preserve=s        E |phi(W x)|_alpha^s = |x|_alpha^s,   0 < s < alpha

    for every x, by c = `theory.stable_weight_scale`. The scale of textbooks,
    c = fan_in^(-1 / alpha), leaves out a logarithm of the fan-in: with relu,
    alpha 1.5 and 256 units |x|_alpha then grows 1.44 times a layer.

    As in `FractionalMoment`, this is exact for a layer without bias that is as
    wide as its input, and the fan-in is put in for the width.

    A weight beyond the range of the dtype, up to M, is clipped to it. Each is
    with probability C (c / M)^alpha: in float16 (M = 65504) at stability 1 with
    a fan-in of 256, 2e-8; at stability 0.5, below which float16 is a poor
    choice, 7e-6. In bfloat16, float32 and float64 (all drawn in float32, so
    M = 3e38) it is 1e-22 or less down to stability 0.5.

    Args:
        stability: alpha, in (0, 2].
        activation: "linear", "relu", "leaky_relu" or "rrelu", as in
            `theory.stable_weight_scale`.
        preserve: "log", or the order s of the moment to keep, in
            (0, stability).
        negative_slope: Of "leaky_relu"; by default that of Keras, 0.2.
        bounds: Of "rrelu", the slopes between which each unit draws its own.
        keep_rate: Of an inverted dropout after the activation, the part that
            it keeps, in (0, 1]; 1 - rate of `keras.layers.Dropout`.
        fan_in: An int >= 1 in place of the fan-in that shape or axes give.
        input_axes: Axes of the kernel that the layer sums over, and
        output_axes: axes that its output has: ints, both or neither.
            `EinsumDense` and attention layers fill them in.
        seed: None, an int, or a `keras.random.SeedGenerator`. With an int,
            equal shapes get equal weights, such as the query, key and value
            kernels of `MultiHeadAttention`: see `keras_initx.initializers`.

    Returns:
        When called with a shape and dtype, weights in float16, bfloat16,
        float32 or float64.

    Raises:
        ValueError: An argument is outside its range.

    Example:

    >>> layer = keras.layers.Dense(256, kernel_initializer=AlphaStable(1.5))
    >>> layer.build((None, 256))
    >>> f"{np.median(np.abs(layer.kernel)):.3f}"
    '0.017'

    Reference: Peluchetti, Favaro Favaro, Fortini & Peluchetti, AISTATS (2020) Fortini, AISTATS (2020), PMLR 108:1137-1146,
    arXiv:2003.00394, for stable weights; Gurbuzbalaban & Hu, AISTATS (2021),
    arXiv:2005.11878, for keeping a moment, of normal weights. Keeping the
    l_alpha norm is derived here.
    """

    def __init__(
        self,
        stability: float,
        activation: str = "relu",
        preserve: str | float = "log",
        negative_slope: float | None = None,
        bounds: Sequence[float] | None = None,
        keep_rate: float = 1.0,
        fan_in: int | None = None,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
        seed: int | keras.random.SeedGenerator | None = None,
    ):
        super().__init__(fan_in, input_axes, output_axes, seed)
        self.stability = stability
        self.activation = activation
        self.preserve = preserve
        self.negative_slope = negative_slope
        self.bounds = bounds
        self.keep_rate = keep_rate
        self._weight_scale(self.fan_in or TYPICAL_FAN_IN)

    def _weight_scale(self, fan_in: int) -> float:
        return theory.stable_weight_scale(
            self.stability,
            fan_in,
            self.activation,
            preserve=self.preserve,
            keep_rate=self.keep_rate,
            **given(negative_slope=self.negative_slope, bounds=self.bounds),
        )

    def draw(self, shape: tuple[int, ...], fan_in: int) -> tf.Tensor:
        return self._weight_scale(fan_in) * standard_stable(
            shape, self.stability, seed=stateless_seed(self.seed)
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, fit for JSON."""
        return {
            "stability": self.stability,
            "activation": self.activation,
            "preserve": self.preserve,
            "negative_slope": self.negative_slope,
            "bounds": self.bounds,
            "keep_rate": self.keep_rate,
        } | super().get_config()
