"""Reference implementations, and assertions with known rates of failure."""

import numpy as np
from scipy import stats

import keras_initx as kx


def profile_of(signals):
    """Returns the profile of `{name: signal}`, computed simply in float64.

    The first axis of a signal has the samples. The other axes have the units.
    """
    rows = []
    for signal in signals.values():
        y = np.asarray(signal, np.float64)
        y = y.reshape(len(y), -1)
        mean = y.sum(axis=0) / len(y)
        variance = ((y - mean) ** 2).sum(axis=0) / len(y)
        rows.append((variance.mean(), (mean**2).mean(), y.shape[1]))
    return kx.VarianceProfile(list(signals), *np.transpose(rows))


def assert_same_profile(profile, expected, rtol):
    """Asserts that names and units are equal, and numbers within `rtol`.

    The tolerance of the sample variance is relative to itself, however large
    the mean is. That of the squared mean is relative to the total, because a
    mean of zero is computed as a rounding error of the signal.
    """
    assert profile.layers == expected.layers
    assert profile.units.tolist() == expected.units.tolist()
    for column, scale in (
        ("sample_variance", expected.sample_variance),
        ("squared_mean", expected.total),
    ):
        error = np.abs(getattr(profile, column) - getattr(expected, column))
        assert (error <= rtol * scale).all(), (
            f"{column} differs by {error} in the layers {profile.layers}, "
            f"whose scale is {scale}"
        )


# 12 comparisons of a mean exceed this number of normal standard deviations with
# probability 12 * 2e-9. If the standard deviation is known from 60 nets only,
# to 9%, the probability is below 1e-6.
DEVIATIONS = 6.0


def smallest_detectable(spread, nets, reference_nets):
    """Returns the error of a mean that is detected half of the time.

    Args:
        spread: float. Standard deviation from net to net.
        nets: int. Number of nets that were measured.
        reference_nets: int. Number of nets whose mean is the reference.
    """
    return DEVIATIONS * spread * np.sqrt(1 / nets + 1 / reference_nets)


def assert_mean(values, reference, spread, reference_nets):
    """Asserts that the mean over nets, the first axis, is the reference.

    The assertion fails by chance with a probability below 1e-6 in each test. It
    detects an error of `smallest_detectable`.
    """
    values = np.asarray(values)
    band = smallest_detectable(spread, len(values), reference_nets)
    error = values.mean(axis=0) - reference
    assert (np.abs(error) <= band).all(), (
        f"off by {error}, where {band} is chance"
    )


def assert_shares(draws, quantiles, levels):
    """Asserts that shares `levels` of the draws lie below the `quantiles`.

    The counts are compared with the exact tails of the binomial distribution.
    The assertion fails by chance with a probability of 1e-8 for each level.
    With 4e6 draws it detects an error of 0.0025 in a share with a probability
    above 1 - 1e-5. An error of 1% in the scale of the absolute value of a
    normal, Laplace, stable or Student variable changes the share below its
    median by 0.003 or more.
    """
    draws = np.asarray(draws).ravel()
    assert np.isfinite(draws).all()
    for quantile, level in zip(quantiles, levels, strict=True):
        below = np.count_nonzero(draws <= quantile)
        binomial = stats.binom(len(draws), level)
        chance = 2 * min(binomial.cdf(below), binomial.sf(below - 1))
        assert chance > 1e-8, (
            f"{below / len(draws):.6f} of {len(draws)} draws lie below "
            f"{quantile}, where {level} should"
        )


def bernstein(variance, bound, count, rate):
    """Returns a deviation of a mean that is exceeded with a small probability.

    It is the bound of Bernstein's inequality.

    Args:
        variance: Number or array. The variance of each of the variables.
        bound: float. The largest distance of a variable from its mean.
        count: int. The number of independent variables.
        rate: float. An upper bound of the probability of a larger deviation.
    """
    log = np.log(2 / rate) / count
    linear = bound * log / 3
    return linear + np.sqrt(linear**2 + 2 * variance * log)


def stable_cf(t, stability, skewness):
    """Returns E exp(i t X) of the standard S0 distribution for t > 0."""
    if stability == 1:
        phase = 2 / np.pi * t * np.log(t)
    else:
        phase = np.tan(np.pi * stability / 2) * (t - t**stability)
    return np.exp(-(t**stability) - 1j * skewness * phase)


def assert_stable(values, stability, skewness):
    """Asserts that values are independent samples of a stable distribution.

    The distribution is the standard one in S0. The means of cos(tX) and
    sin(tX), which are bounded and have a known variance, are compared with
    their expectations at three t. At t = 1 they depend on the scale, at smaller
    t on the stability as well; a Kolmogorov-Smirnov test depends little on
    either.

    The assertion fails by chance with a probability below 6e-7. With 2^18
    values it detects an error of 0.05 in a stability from 0.3 to 2, and misses
    it with the same probability.
    """
    x = np.asarray(values, np.float64).ravel()
    for t in (0.1, 0.3, 1.0):
        once, twice = (stable_cf(k * t, stability, skewness) for k in (1, 2))
        for function, mean, square in (
            (np.cos, once.real, (1 + twice.real) / 2),
            (np.sin, once.imag, (1 - twice.real) / 2),
        ):
            error = function(t * x).mean() - mean
            band = bernstein(square - mean**2, 2, x.size, 1e-7)
            assert abs(error) <= band, (
                f"at t = {t} off by {error}, where {band} is chance"
            )
