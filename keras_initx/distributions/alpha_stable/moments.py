"""Moments and the characteristic function of stable distributions."""

from __future__ import annotations

import math

import tensorflow as tf

from keras_initx.distributions.alpha_stable.elementary import (
    scaled_tangent,
    sinhc,
)


def s1_shift(
    stability: tf.Tensor, skewness: tf.Tensor, scale: tf.Tensor
) -> tf.Tensor:
    """Returns the location in S0 less that in S1 of the same distribution.

        g b tan(pi a / 2),  or  (2/pi) g b log(g)  at a = 1

    for stability a, skewness b and scale g. It is unbounded near a = 1, where
    S1 is not continuous.

    Reference: Nolan, Univariate Stable Distributions (2020), section 1.3.
    """
    one = stability == 1
    e = tf.where(one, tf.ones_like(stability), 1 - stability)
    tangent = scaled_tangent(stability) / e
    at_one = 2 / math.pi * tf.math.log(scale)
    return scale * skewness * tf.where(one, at_one, tangent)


def mean(stability: tf.Tensor, skewness: tf.Tensor) -> tf.Tensor:
    """Returns the mean of the standard S0 distribution.

    It is -b tan(pi a / 2) for a > 1. For a <= 1 it is infinite, with the sign
    of b, if |b| = 1, and undefined and NaN otherwise.
    """
    exists = stability > 1
    e = tf.where(exists, 1 - stability, -1)
    finite = -skewness * scaled_tangent(stability) / e
    infinite = tf.where(tf.abs(skewness) == 1, skewness * math.inf, math.nan)
    return tf.where(exists, finite, infinite)


def variance(stability: tf.Tensor) -> tf.Tensor:
    """Returns the variance of the standard distribution.

    It is 2 at a = 2 and infinite for 1 < a < 2. It is NaN for a <= 1, where
    there is no finite mean that values could deviate from.
    """
    infinite = tf.where(
        stability > 1, tf.constant(math.inf, stability.dtype), math.nan
    )
    return tf.where(stability == 2, tf.constant(2.0, stability.dtype), infinite)


def log_characteristic_function(
    t: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the real and imaginary part of log E exp(i t X).

    For the standard S0 distribution these are

        -|t|^a,    -|t|^a b sign(t) tan(pi a / 2) (|t|^(1-a) - 1)

    They are continuous through a = 1, where the imaginary part is
    -(2/pi) b t log|t|.

    Reference: Nolan, Univariate Stable Distributions (2020), definition 1.3.
    """
    nonzero = tf.where(t == 0, tf.ones_like(t), tf.abs(t))
    log_t, e = tf.math.log(nonzero), 1 - stability
    power = tf.where(t == 0, tf.zeros_like(t), tf.exp(stability * log_t))
    root = tf.exp(e * log_t / 2)
    # (|t|^e - 1) / e
    growth = log_t * root * sinhc(e * log_t / 2)
    phase = skewness * tf.sign(t) * scaled_tangent(stability) * growth
    return -power, -power * phase


def fractional_moment(
    order: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor
) -> tf.Tensor:
    """Returns E|X|^p of the standard S1 distribution, for -1 < p < a.

        2^p Gamma((1 + p)/2) Gamma(1 - p/a) / (sqrt(pi) Gamma(1 - p/2))
            (1 + B^2)^(p / 2a) cos(p/a arctan B),    B = b tan(pi a / 2)

    At a = 2 the formula holds for all p > -1; otherwise the moment is infinite
    for p >= a. The result is NaN where no closed form is known: for p <= -1,
    and at a = 1 with skewness.

    Args:
        order: Tensor. p.
        stability: Tensor. a, in (0, 2].
        skewness: Tensor. b, in [-1, 1].

    Reference: Samorodnitsky & Taqqu, Stable Non-Gaussian Random Processes
    (1994), property 1.2.17, regrouped by the duplication formula of Gamma.
    """
    normal = stability == 2
    known = (order > -1) & ((stability != 1) | (skewness == 0))
    exists = (order < stability) | normal
    # Where it is not known or infinite, p = 0 is computed and not used.
    p = tf.where(known & exists, order, tf.zeros_like(order))
    a = tf.where(stability == 1, 0.5, stability)
    tangent = skewness * scaled_tangent(a) / (1 - a)
    tangent = tf.where(stability == 1, tf.zeros_like(tangent), tangent)
    ratio = p / stability
    gammas = tf.math.lgamma(1 - tf.where(normal, 0.0, ratio))
    gammas -= tf.math.lgamma(1 - tf.where(normal, 0.0, p / 2))
    gammas += tf.math.lgamma((1 + p) / 2) - math.log(math.pi) / 2
    skewed = tf.cos(ratio * tf.atan(tangent))
    # Not by cos(arctan B), which loses its digits where B is large.
    skewed *= tf.exp(ratio / 2 * tf.math.log1p(tangent**2))
    moment = tf.exp(p * math.log(2) + gammas) * skewed
    moment = tf.where(exists, moment, math.inf)
    return tf.where(known, moment, math.nan)
