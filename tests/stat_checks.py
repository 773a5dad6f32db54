"""What tests hold numbers against: an obvious twin, and bands with a rate."""

import numpy as np

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


def assert_same_profile(profile, expected, rtol, atol=0.0):
    """Same names and units; numbers within `rtol` of the layer's total.

    Relative to the total, because a mean that is exactly zero comes out as a
    rounding error of the signal. `atol` is for a layer that is all zero.
    """
    assert profile.layers == expected.layers
    assert profile.units.tolist() == expected.units.tolist()
    for column in ("sample_variance", "squared_mean"):
        error = np.abs(getattr(profile, column) - getattr(expected, column))
        worst = error - rtol * expected.total - atol
        assert (worst <= 0).all(), (
            f"{column} differs by {error} in the layers {profile.layers}, "
            f"whose totals are {expected.total}"
        )
