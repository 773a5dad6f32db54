"""How many channels are drawn, and what is kept of them."""

import keras
import numpy as np
import pytest

import keras_initx as kx
from keras_initx.prediction import channels
from keras_initx.prediction.expressions import (
    OneWeight,
    Product,
    StandardizedGradient,
    Sum,
    White,
)
from keras_initx.prediction.moments import Moments, mean_square_error
from keras_initx.prediction.wide import _joined, _normalizing
from tests.prediction.test_batch_statistics import SIGMAS, row_gradient

L = keras.layers


def test_standard_error_of_a_mean_square(pytestconfig):
    """It is sqrt(2 / (n p)) for n pairs of channels of p normal values.

    The relative error of the standard deviation is 0.8%, that of squares whose
    kurtosis is 6.
    """
    rng = np.random.default_rng([pytestconfig.seed, 1])
    z = rng.standard_normal((20000, 4))
    found = mean_square_error(np.concatenate([z, -z]))
    assert found == pytest.approx(np.sqrt(2 / 80000), rel=SIGMAS * 0.008)
    assert mean_square_error(np.zeros((4, 3))) == 0


@pytest.fixture
def counts(monkeypatch):
    """The numbers of channels that are drawn, in turn."""
    found = []
    new = Moments._new_channels

    def counted(self, count):
        found.append(count)
        return new(self, count)

    monkeypatch.setattr(Moments, "_new_channels", counted)
    return found


@pytest.mark.parametrize(
    ("n", "normalizations", "expected"),
    [
        # The square of a channel is 9% off, and 0.4% in 512 pairs.
        (256, 1, [1024]),
        # 0.13% takes more than there are.
        (256, 16, [1024, 4096]),
        # In all normalizations together 2^26 values are drawn.
        (128, 2**8, [1024, 2048]),
        # 59% in a channel, and 0.5% in 14,000 pairs.
        (16, 1, [8192, 28000]),
    ],
)
def test_channels_are_drawn_until_the_error_is_small(
    n, normalizations, expected, counts, monkeypatch, pytestconfig
):
    """The gradient is that of `test_independent_values_without_activation`."""
    init = Moments.__init__

    def with_normalizations(self, *args):
        init(self, *args)
        self.normalizations = normalizations - 1

    monkeypatch.setattr(Moments, "__init__", with_normalizations)
    second = row_gradient(np.eye(n), 1e-9, seed=pytestconfig.seed)
    assert len(counts) == len(expected)
    # The standard deviation of the squares is known within 3% from 4096 pairs.
    np.testing.assert_allclose(counts, expected, rtol=0.2)
    fourth = n / (n - 2) * (n - 3) / (n - 5)
    error = np.sqrt((fourth - 1) / (counts[-1] / 2))
    found = np.diagonal(second).mean()
    assert abs(found * (n - 3) / (n - 2) - 1) < SIGMAS * error


@pytest.mark.parametrize(
    ("branches", "most"),
    # All vectors have 2^22 values together. There are 65536 channels at most.
    [(3, 65536), (31, 2**22 // (32 * 4)), (63, 2**22 // (64 * 4))],
)
def test_many_vectors_are_drawn_for_fewer_channels(branches, most, counts):
    x = White(4, "x")
    gradient = Sum([White(4, k) for k in range(branches)], [1] * branches)
    # The weights of a depthwise kernel, with one value in each channel.
    for k in range(9):
        weight = OneWeight(4, np.ones(1), ("tap", k))
        gradient = Product([weight, gradient])
    moments = Moments(16, 64, 0)
    moments.normalizations = 64
    found = moments._channels_for(StandardizedGradient(x, gradient, 1e-3))
    # The error that is wanted takes more channels than there are.
    assert counts == [most // 8, most]
    assert found.count == most


def tower():
    """A residual net with an activation of each sum."""
    inputs = keras.Input((6, 6, 4))
    x = L.Conv2D(8, 3, padding="same")(inputs)
    x = L.MaxPooling2D(3, 2)(x)
    for _ in range(4):
        x = L.Activation("relu")(x + L.Conv2D(8, 3, padding="same")(x))
    return keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling2D()(x)))


def test_what_is_computed_again_is_the_same(monkeypatch):
    model = tower()
    kwargs = {"weights": "initial", "samples": 2}
    expected = kx.predict(model, **kwargs)
    kept = []
    add = channels._Recent.add

    def noted(self, key, array):
        add(self, key, array)
        kept.append(self._entries)
        assert self._entries == sum(a.size for a in self._arrays.values())

    monkeypatch.setattr(channels._Recent, "add", noted)
    # Two arrays of 4 x 2 points.
    monkeypatch.setattr(channels, "_KEPT_VALUES", 2 * 8192 * 8)
    found = kx.predict(model, **kwargs)
    assert max(kept) <= 8192 * 72
    for column in ("total", "sample_fraction", "gradient"):
        np.testing.assert_allclose(
            getattr(found, column), getattr(expected, column), rtol=1e-10
        )


def test_reasons_of_an_expression_with_many_ways_to_a_part():
    x = y = White(2, "x")
    for _ in range(60):
        y = Sum([y, y], [0.5, 0.5])
    moments = Moments(16, 64, 0)
    moments._mark(x, "why")
    assert moments.reasons(y) == {"why"}


def test_owners_are_joined_where_no_value_has_two():
    size, stride, places = 3, 2, 9
    windows = (places - size) // stride + 1
    owners = []
    for tap in range(size):
        owner = np.full(places, -1)
        owner[tap + stride * np.arange(windows)] = np.arange(windows)
        owners.append(owner)
    joined = _joined(owners)
    # Each place belongs to two windows at most.
    assert len(joined) == 2
    pairs = [
        sorted(
            (place, owner[place])
            for owner in lists
            for place in range(places)
            if owner[place] >= 0
        )
        for lists in (owners, joined)
    ]
    assert pairs[0] == pairs[1]


def test_moments_that_are_not_quite_symmetric_are_normalized():
    """The values of a batch have the mean 0 and the variance 1."""
    second = 30.0 + np.eye(6) + 1e-4 * np.tri(6, k=-1)
    matrix = _normalizing(second, 1e-9)
    found = matrix @ second @ matrix.T
    assert np.trace(found) / 6 == pytest.approx(1, rel=1e-3)
    assert abs(matrix.sum(axis=1)).max() < 1e-9


def test_variances_stay_where_moments_are_no_covariance(pytestconfig):
    """Moments that are averaged over positions may have negative eigenvalues.

    Two Gaussian vectors of one family are drawn from such a matrix.
    """
    matrix = np.array(
        [
            [1.0, 0.9, -0.9, 0.6],
            [0.9, 2.0, 0.9, 0.0],
            [-0.9, 0.9, 3.0, 1.7],
            [0.6, 0.0, 1.7, 1.0],
        ]
    )
    assert np.linalg.eigvalsh(matrix)[0] < -0.1
    first, second = White(3, "weights"), White(1, "weights")
    points = {id(first): slice(0, 3), id(second): slice(3, 4)}

    def moments(x, y):
        return matrix[points[id(x)], points[id(y)]]

    drawn = channels.Channels(2**16, pytestconfig.seed, moments)
    squares = [(drawn.values(x) ** 2).mean(axis=0) for x in (first, second)]
    np.testing.assert_allclose(squares[0], matrix.diagonal()[:3], rtol=1e-9)
    # Draws of the two are not made orthogonal: at most 1 / sqrt(2^15).
    assert squares[1][0] == pytest.approx(1, abs=SIGMAS * 2**-7.5)
