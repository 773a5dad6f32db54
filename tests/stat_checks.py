"""What tests hold numbers against: an obvious twin, and bands with a rate."""

import numpy as np
from scipy import stats

import keras_initx as kx


def profile_of(signals):
    """The profile of `{name: signal}`, in float64, written for the eye.

    A signal has its samples along the first axis; what the others hold are
    the units.
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
    """Same names and units, and numbers within `rtol`.

    Of the sample variance relative to itself, however large the mean. Of the
    squared mean relative to the total, since a mean of zero comes out as a
    rounding error of the signal.
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


# Normal deviations that 12 comparisons of a mean exceed with probability
# 12 * 2e-9; with the spread known from 60 nets only, to 9%, below 1e-6.
DEVIATIONS = 6.0


def smallest_detectable(spread, nets, reference_nets):
    """The error of a mean that is seen at least half of the time.

    Args:
        spread: Standard deviation from net to net.
        nets: Nets that were measured.
        reference_nets: Nets that the reference is the mean of.
    """
    return DEVIATIONS * spread * np.sqrt(1 / nets + 1 / reference_nets)


def assert_mean(values, reference, spread, reference_nets):
    """The mean over nets, the first axis, is that of the reference.

    False alarms: below 1e-6 for each test. Sees an error of
    `smallest_detectable`.
    """
    values = np.asarray(values)
    band = smallest_detectable(spread, len(values), reference_nets)
    error = values.mean(axis=0) - reference
    assert (np.abs(error) <= band).all(), (
        f"off by {error}, where {band} is chance"
    )


def assert_shares(draws, quantiles, levels):
    """Of the draws, a share `levels` lies below the `quantiles`.

    Binomial counts, by their exact tails. False alarms: 1e-8 for each level.
    Of 4e6 draws, it sees a share that is off by 0.0015 with probability above
    1 - 1e-5, which an error of 1% in the scale of a normal, stable or Student
    law makes about three times over.
    """
    draws = np.asarray(draws).ravel()
    assert np.isfinite(draws).all()
    for quantile, level in zip(quantiles, levels, strict=True):
        below = np.count_nonzero(draws <= quantile)
        law = stats.binom(len(draws), level)
        chance = 2 * min(law.cdf(below), law.sf(below - 1))
        assert chance > 1e-8, (
            f"{below / len(draws):.6f} of {len(draws)} draws lie below "
            f"{quantile}, where {level} should"
        )
