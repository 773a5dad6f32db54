"""Closed forms: the stable laws that are normal, Cauchy or Levy."""

from __future__ import annotations

import math

import tensorflow as tf

from keras_initx.distributions.alpha_stable.exponent import where

# Where exp and erfc, or z^2, are still ordinary numbers.
_NEAR, _MODERATE = 25.0, 1e8


def known_log_density(
    value: tf.Tensor, z: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor
) -> tf.Tensor:
    """`value`, or what is known instead.

    stability 2              -z^2 / 4 - log(4 pi) / 2
    stability 1, skewness 0  -log(1 + z^2) - log(pi)
    stability 1/2, skewness +-1, y = 1 +- z > 0
                             -log(2 pi y^3) / 2 - 1 / (2 y)
    """
    z2 = tf.minimum(tf.abs(z), _MODERATE) ** 2
    normal = -tf.abs(z) * (tf.abs(z) / 4) - math.log(4 * math.pi) / 2
    cauchy = -tf.math.log1p(z2) - math.log(math.pi)
    y, inside = _levy(z, skewness)
    levy = -0.5 * (math.log(2 * math.pi) + 1 / y) - 1.5 * tf.math.log(y)
    levy = where(inside, levy, -math.inf)
    near = tf.abs(z) < _MODERATE
    value = where(stability == 2, normal, value)
    value = where(_is_cauchy(stability, skewness) & near, cauchy, value)
    return where(_is_levy(stability, skewness), levy, value)


def known_log_survival(
    value: tf.Tensor, z: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor
) -> tf.Tensor:
    """`value`, or what is known instead, of P(Z > z) for z >= 0.

    stability 2                            erfc(z / 2) / 2
    stability 1, skewness 0                arctan2(1, z) / pi
    stability 1/2, skewness 1, y = 1 + z   erf(1 / sqrt(2 y))
    stability 1/2, skewness -1, y = 1 - z  erfc(1 / sqrt(2 y))
    """
    normal = tf.math.erfc(tf.minimum(z / 2, _NEAR)) / 2
    cauchy = tf.atan2(tf.ones_like(z), z) / math.pi
    y, inside = _levy(z, skewness)
    root = tf.math.rsqrt(2 * y)
    levy = where(skewness > 0, tf.math.erf(root), tf.math.erfc(root))
    deep = inside & (root > _NEAR)
    value = where(
        (stability == 2) & (z / 2 < _NEAR), tf.math.log(normal), value
    )
    value = where(_is_cauchy(stability, skewness), tf.math.log(cauchy), value)
    levy = where(inside, tf.math.log(levy), -math.inf)
    return where(_is_levy(stability, skewness) & ~deep, levy, value)


def _is_cauchy(stability: tf.Tensor, skewness: tf.Tensor) -> tf.Tensor:
    return (stability == 1) & (skewness == 0)


def _is_levy(stability: tf.Tensor, skewness: tf.Tensor) -> tf.Tensor:
    return (stability == 0.5) & (tf.abs(skewness) == 1)


def _levy(z: tf.Tensor, skewness: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """y, 1 where it is not positive; and whether it is."""
    y = 1 + tf.sign(skewness) * z
    return where(y > 0, y, 1.0), y > 0
