"""Quantiles and the mode of the alpha-stable distribution, by root finding."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_initx.distributions.alpha_stable.density import (
    LEAST_STABILITY,
    float64_arguments,
    log_survival,
)
from keras_initx.distributions.alpha_stable.elementary import where
from keras_initx.distributions.alpha_stable.integration import (
    SMALL,
    density_slopes,
    in_chunks,
    log_tail_and_slope,
)
from keras_initx.distributions.alpha_stable.root import falling_root
from keras_initx.distributions.alpha_stable.sampling import (
    chambers_mallows_stuck,
)
from keras_initx.distributions.alpha_stable.small_stability import (
    angles,
    centered_values,
)

# About asinh, and the logarithm, of the largest float64.
_LARGEST_ASINH, _LARGEST_LOG = 709.0, 709.0


def quantile(p: Any, stability: Any, skewness: Any) -> tf.Tensor:
    """Returns the z for which P(Z <= z) = p, for a standard S0 distribution.

    It is the root of the logarithm of the smaller of the two tail probabilities
    as a function of asinh(z), in which both tails are nearly straight lines.
    The first guess is the Chambers-Mallows-Stuck transform of the angle that
    belongs to p, with a typical value in the place of the exponential variable,
    so that three evaluations are enough on average. For a stability below
    0.3 the logarithm of the distance to the center takes the place of asinh(z).

    Args:
        p: Tensor-like of real numbers in [0, 1].
        stability: Tensor-like, in [0.05, 2].
        skewness: Tensor-like, in [-1, 1].

    Returns:
        A tensor of the broadcast shape, of the widest floating dtype among the
        arguments, float32 for Python numbers. It is -inf and inf for p = 0 and
        1, and NaN for arguments outside their range. It is differentiable in
        all arguments.

    Raises:
        ValueError: If the shapes do not broadcast.

    Example:

    >>> round(float(quantile(0.75, 1.0, 0.0)), 6)
    1.0

    Reference: derived here.
    """
    p, stability, skewness, dtype = float64_arguments(p, stability, skewness)
    return tf.cast(_quantile(p, stability, skewness), dtype)


@tf.custom_gradient
def _quantile(
    p: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor]]]:
    """Returns the quantile in float64, and its gradient."""
    valid = _is_valid(stability, skewness) & (p >= 0) & (p <= 1)
    inside = valid & (p > 0) & (p < 1)
    known = (
        where(inside, p, 0.5),
        where(valid, stability, 2.0),
        where(valid, skewness, 0.0),
    )
    flat = (tf.stop_gradient(tf.reshape(each, [-1])) for each in known)
    root = _choose(_ordinary_quantile, _small_quantile, *flat)
    root = tf.reshape(root, tf.shape(p))
    root = where(inside, root, 0.0)
    z = where(p == 1, math.inf, where(p == 0, -math.inf, root))
    z = where(valid, z, math.nan)

    def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
        arguments = [root, *known]
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            excess = _log_smaller_tail(*arguments[1:2]) - log_survival(
                *_mirrored(*arguments)
            )
        by_z, *others = tape.gradient(excess, arguments)
        return [where(inside, -upstream * each / by_z, 0.0) for each in others]

    return z, gradient


def _mirrored(
    z: tf.Tensor, p: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns z, stability and skewness of Z or -Z: p is in the upper tail.

    The lower tail is the upper one of -Z, whose skewness is the opposite.
    """
    side = where(p < 0.5, -1.0, tf.ones_like(p))
    return side * z, stability, side * skewness


def _log_smaller_tail(p: tf.Tensor) -> tf.Tensor:
    """Returns log(p) or log(1 - p)."""
    return where(
        p < 0.5,
        tf.math.log(tf.minimum(p, 0.5)),
        tf.math.log1p(-tf.maximum(p, 0.5)),
    )


def _is_valid(stability: tf.Tensor, skewness: tf.Tensor) -> tf.Tensor:
    valid = (stability >= LEAST_STABILITY) & (stability <= 2)
    return valid & (tf.abs(skewness) <= 1)


def _choose(
    ordinary: Callable[..., tf.Tensor],
    small: Callable[..., tf.Tensor],
    *vectors: tf.Tensor,
) -> tf.Tensor:
    """Returns a result of one of two functions, by the stability.

    Args:
        ordinary: Callable. For a stability of `SMALL` or more.
        small: Callable. For a stability of `SMALL` or less.
        *vectors: Tensors. The last two are stability and skewness.
    """
    *others, stability, skewness = vectors
    is_small = stability < SMALL
    none = tf.zeros_like(stability)
    # In eager mode nothing is traced here, which would take a second.
    high = tf.cond(
        tf.reduce_all(is_small),
        lambda: none,
        lambda: ordinary(*others, tf.maximum(stability, SMALL), skewness),
    )
    low = tf.cond(
        tf.reduce_any(is_small),
        lambda: small(*others, tf.minimum(stability, SMALL), skewness),
        lambda: none,
    )
    return where(is_small, low, high)


def _ordinary_quantile(
    p: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor
) -> tf.Tensor:
    """Returns the quantile for a stability of `SMALL` or more."""
    side, _, skewness = _mirrored(tf.ones_like(p), p, stability, skewness)
    log_q = _log_smaller_tail(p)

    def excess(
        x: tf.Tensor,
        log_q: tf.Tensor,
        stability: tf.Tensor,
        skewness: tf.Tensor,
        count: tf.Tensor,
    ) -> list[tf.Tensor]:
        sign = where(x < 0, -1.0, tf.ones_like(x))
        log_p, slope = log_tail_and_slope(
            sign * x, stability, sign * skewness, count
        )
        log_p = tf.minimum(log_p, 0.0)
        # log(1 - P), whose derivative in -x is that of log(P) times the odds.
        complement = tf.math.log1p(-tf.exp(log_p))
        value = where(x < 0, complement, log_p)
        slope *= where(x < 0, tf.exp(log_p - complement), tf.ones_like(x))
        return [value - log_q, slope]

    root = falling_root(
        excess,
        tf.asinh(_guess(log_q, stability, skewness)),
        _LARGEST_ASINH,
        [log_q, stability, skewness],
    )
    return side * tf.sinh(root)


def _guess(
    log_q: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor
) -> tf.Tensor:
    """Returns about the z for which P(Z > z) is exp(log_q) <= 1/2.

    It is the Chambers-Mallows-Stuck transform of the angle that Z exceeds with
    that probability if the exponential variable W is a constant. Without
    skewness, W = Gamma(1 / a)^(a / (1 - a)) is exact at the median, and W =
    Gamma(a)^(-1 / (1 - a)) in a Pareto tail.
    """
    q = tf.exp(tf.maximum(log_q, -690.0))
    e = 1 - stability
    # Both limits are exp(-0.5772) at stability 1.
    e = where(tf.abs(e) < 1e-5, 1e-5, e)
    stability = 1 - e
    log_tail = -tf.math.lgamma(stability) / e
    log_center = tf.math.lgamma(1 / stability) * stability / e
    share = (1 - 2 * q) ** 2
    return chambers_mallows_stuck(
        math.pi * q,
        tf.exp(log_center + (log_tail - log_center) * share),
        stability,
        skewness,
    )


def _small_quantile(
    p: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor
) -> tf.Tensor:
    """Returns the quantile for a stability of `SMALL` or less.

    With Y = Z + skewness T, T = tan(pi stability / 2), the root is that of the
    logarithm of P(Y > y) / P(0 < Y < y), as a function of log(y).
    """
    negative = p < angles(stability, skewness)[1] / math.pi
    sign = where(negative, -1.0, tf.ones_like(p))
    mirrored = sign * skewness
    width, rest = (each / math.pi for each in angles(stability, mirrored))
    above = where(negative, p, 1 - p)
    between = where(negative, 1 - p, p) - rest
    tiny = 1e-300
    log_above = tf.math.log(tf.maximum(above, tiny))
    log_between = tf.math.log(tf.maximum(between, tiny))
    tangent = tf.tan(math.pi / 2 * stability)

    def excess(
        x: tf.Tensor,
        log_odds: tf.Tensor,
        stability: tf.Tensor,
        skewness: tf.Tensor,
        count: tf.Tensor,
    ) -> list[tf.Tensor]:
        odds, slope = _small_log_odds()(count, tf.exp(x), stability, skewness)
        return [odds - log_odds, slope]

    # P(Y > y | Y > 0) is about 1 - exp(-w) at w = R y^-a.
    log_root = 0.5 * tf.math.log1p((mirrored * tangent) ** 2)
    share = tf.clip_by_value(between / width, tiny, 1.0)
    w = where(
        share < 0.5,
        -tf.math.log(share),
        -tf.math.log1p(-tf.clip_by_value(above / width, 0.0, 0.5)),
    )
    start = (log_root - tf.math.log(tf.maximum(w, tiny))) / stability
    start = tf.clip_by_value(start, -_LARGEST_LOG, _LARGEST_LOG)
    root = falling_root(
        excess,
        start,
        _LARGEST_LOG,
        [log_above - log_between, stability, mirrored],
    )
    return sign * tf.exp(root) - skewness * tangent


@functools.cache
def _small_log_odds() -> Callable[..., list[tf.Tensor]]:
    """Returns the function whose root `_small_quantile` finds."""

    def log_odds(
        y: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor
    ) -> list[tf.Tensor]:
        """Returns the log odds and their derivative in log(y)."""
        values = centered_values(y, stability, skewness)
        log_mass = values.log_density + tf.math.log(y)
        slope = -tf.exp(log_mass - values.log_above) - tf.exp(
            log_mass - values.log_between
        )
        return [values.log_above - values.log_between, slope]

    return in_chunks(log_odds, 2)


def mode(stability: Any, skewness: Any) -> tf.Tensor:
    """Returns the z at which the density of a stable distribution is highest.

    It is the root of the density's derivative, in two evaluations on average.
    For a stability below 0.3 that is a function of the logarithm of the
    distance to the center.

    Args:
        stability: Tensor-like, in [0.05, 2].
        skewness: Tensor-like, in [-1, 1].

    Returns:
        A tensor of the broadcast shape, of the widest floating dtype among the
        arguments, float32 for Python numbers. It lies in [-1, 1], has the
        opposite sign of the skewness, and has no gradient.

    Raises:
        ValueError: If the shapes do not broadcast.

    Example:

    >>> round(float(mode(0.5, 1.0)), 6)
    -0.666667

    Reference: Yamazato, Annals of Probability 6 (1978), for the fact that a
    stable distribution has one mode. That it lies in [-1, 1] was found
    numerically here.
    """
    stability, skewness, dtype = float64_arguments(stability, skewness)
    valid = _is_valid(stability, skewness)
    flat = [
        tf.stop_gradient(tf.reshape(each, [-1]))
        for each in (
            where(valid, stability, 2.0),
            where(valid, tf.abs(skewness), 0.0),
        )
    ]
    z = _choose(_ordinary_mode, _small_mode, *flat)
    z = -tf.sign(skewness) * tf.reshape(z, tf.shape(skewness))
    return tf.cast(where(valid, z, math.nan), dtype)


# The mode is about -(c(1 / a) b + d(1 / a) b^3) for polynomials c and d, whose
# coefficients were fitted to it for a stability a of 0.3 or more. The error is
# below a tenth of the width of the peak.
_MODE = (
    (1.0140893, -2.3242419, 0.5981591, 0.278919, -0.1449551, 0.0173758),
    (-0.3120516, 0.6803977, -0.1202736, -0.1904756, 0.0881175, -0.0107754),
)


def _ordinary_mode(stability: tf.Tensor, skewness: tf.Tensor) -> tf.Tensor:
    """Returns minus the mode for a stability of `SMALL` or more.

    Args:
        stability: Tensor.
        skewness: Tensor, >= 0.
    """
    # The width sqrt(-f(0) / f''(0)) of the peak without skewness.
    log_width = tf.math.lgamma(1 / stability) - tf.math.lgamma(3 / stability)
    width = tf.exp(0.5 * log_width)
    center = tf.exp(tf.math.lgamma(1 + 1 / stability)) / math.pi

    def slope(
        x: tf.Tensor,
        width: tf.Tensor,
        unit: tf.Tensor,
        stability: tf.Tensor,
        skewness: tf.Tensor,
        count: tf.Tensor,
    ) -> list[tf.Tensor]:
        first, second = density_slopes(
            tf.abs(x * width), stability, -skewness, count
        )
        return [unit * first, tf.sign(x) * unit * width * second]

    first, second = (
        tf.math.polyval(
            [tf.constant(c, tf.float64) for c in reversed(coefficients)],
            1 / stability,
        )
        for coefficients in _MODE
    )
    start = -skewness * (first + second * skewness**2)
    root = falling_root(
        slope,
        tf.maximum(start, 0.0) / width,
        _LARGEST_ASINH,
        [width, width / center, stability, skewness],
    )
    return where(skewness == 0, 0.0, tf.abs(root * width))


def _small_mode(stability: tf.Tensor, skewness: tf.Tensor) -> tf.Tensor:
    """Returns minus the mode for a stability of `SMALL` or less.

    Args:
        stability: Tensor.
        skewness: Tensor, >= 0.
    """
    tangent = tf.tan(math.pi / 2 * stability)

    def slope(
        x: tf.Tensor,
        stability: tf.Tensor,
        skewness: tf.Tensor,
        count: tf.Tensor,
    ) -> list[tf.Tensor]:
        return _small_slope()(count, tf.exp(x), stability, skewness)

    # The mode for skewness 1, if P(Y < y) were exp(-y^-a).
    start = tf.math.log(stability / (1 + stability)) / stability
    x = falling_root(
        slope,
        tf.maximum(start, -_LARGEST_LOG),
        _LARGEST_LOG,
        [stability, skewness],
    )
    y = where(skewness == 0, 0.0, tf.exp(x))
    return skewness * tangent - y


@functools.cache
def _small_slope() -> Callable[..., list[tf.Tensor]]:
    """Returns the function whose root `_small_mode` finds."""
    return in_chunks(lambda *each: list(centered_values(*each).slopes), 2)
