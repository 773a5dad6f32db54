"""theory.sinusoidal: frequencies of networks of sines, and of data."""

import math

import numpy as np
import pytest

from keras_initx import theory


@pytest.mark.parametrize(
    ("layers", "factor"),
    [(0, 1), (1, 1.1459), (2, 1.2748), (3, 1.4057), (4, 1.5451), (6, 1.8613)],
)
def test_sine_bandwidth(layers, factor):
    for frequency in (1, 0.3, 30.0):
        result = theory.sine_bandwidth(frequency, layers)
        assert result == pytest.approx(frequency * factor, rel=5e-5)


def test_the_bandwidth_of_many_layers_grows_by_the_factor_of_the_edge():
    # chi_1 is the growth of squared gradients at constant variance.
    point = theory.signal_fixed_point("sine", 2.0)
    factor = theory.sine_bandwidth(1, 41) / theory.sine_bandwidth(1, 40)
    assert factor**2 == pytest.approx(point.gradient_growth, rel=1e-9)


@pytest.mark.parametrize("hidden", [0, 1, 4])
def test_sine_frequency_is_the_inverse_of_the_bandwidth(hidden):
    for bandwidth in (0.3, 20.0):
        frequency = theory.sine_frequency(bandwidth, hidden)
        result = theory.sine_bandwidth(frequency, hidden)
        assert result == pytest.approx(bandwidth, rel=1e-12)
        # SIREN at 30 has the standard deviations 17.3, 8.66 and 5.77.
        for inputs, deviation in ((1, 17.3205), (2, 8.66025), (3, 5.7735)):
            made = theory.sine_bandwidth(deviation, hidden)
            frequency = theory.sine_frequency(made, hidden, inputs)
            assert frequency == pytest.approx(30, rel=1e-5)


def grid(n):
    axis = np.linspace(-1, 1, n)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)


X = np.linspace(-1, 1, 2001)
SMOOTH = np.sin(3 * grid(60) @ [1, 0]) * np.cos(5 * grid(60) @ [0, 1])


@pytest.mark.parametrize(
    ("x", "y", "expected", "tolerance"),
    [
        (X, np.sin(20 * X), 20, 0.02),
        (X, np.stack([np.sin(20 * X), np.cos(20 * X)], 1), 20, 0.02),
        # A scale and a shift of y change nothing, and x has a unit.
        (7 * X, 3 - 4 * np.sin(20 * X), 20 / 7, 0.02),
        # A line over its variance, 1 / sqrt(1 / 3).
        (X, X, math.sqrt(3), 0.01),
        # The mean over directions of |grad f|^2, (9 + 25) / 2 on average.
        (grid(60), SMOOTH, math.sqrt(17), 0.2),
    ],
)
def test_rms_frequency(x, y, expected, tolerance):
    result = theory.rms_frequency(x, y)
    assert result == pytest.approx(expected, rel=tolerance)


def test_points_may_be_scattered_and_may_repeat(rng):
    x = rng.uniform(-1, 1, (4000, 2))
    y = np.sin(3 * x[:, 0]) * np.cos(5 * x[:, 1])
    expected = theory.rms_frequency(grid(60), SMOOTH)
    assert theory.rms_frequency(x, y) == pytest.approx(expected, rel=0.1)
    twice = theory.rms_frequency(np.tile(x, (2, 1)), np.tile(y, 2))
    assert 0 < twice < 2 * expected


def test_noise_is_subtracted(rng):
    x = np.linspace(-1, 1, 300)
    clean = np.sin(10 * x)
    noisy = clean + 0.05 * rng.normal(size=x.size)
    true = theory.rms_frequency(x, clean)
    assert theory.rms_frequency(x, noisy) > 1.2 * true
    # 300 differences: their mean square has an error of 10%.
    assert theory.rms_frequency(x, noisy, noise=0.05) == pytest.approx(
        true, rel=0.3
    )
    assert theory.rms_frequency(x, noisy, noise=10.0) == 0


def test_more_neighbors_are_farther():
    near, far = (
        theory.rms_frequency(X, np.sin(20 * X), neighbors=k) for k in (2, 200)
    )
    assert far < 0.95 * near


@pytest.mark.parametrize(
    ("x", "y", "frequency", "value"),
    [
        ((0.3, -0.2), (0.1, 0.4), 1, 0.7952011),
        ((0.3, -0.2), (0.25, -0.1), 4, 8.3787945),
        ((0.9,), (-0.2,), 0.5, 0.2911568),
    ],
)
def test_tangent_kernel_of_sines(x, y, frequency, value):
    result = theory.sine_tangent_kernel([x, y], [y], frequency)
    assert result.shape == (2, 1)
    assert result[0, 0] == pytest.approx(value, abs=1e-7)


def test_tangent_kernel_is_that_of_a_wide_network(rng):
    """The sum over weights of the products of derivatives."""
    width, w = 200_000, 1.7
    x, y = np.array([0.4, -0.3]), np.array([-0.1, 0.5])
    W, b, v = rng.normal(size=(width, 2)), *rng.normal(size=(2, width))
    angles = [w * (W @ p + b) for p in (x, y)]
    terms = np.sin(angles[0]) * np.sin(angles[1])
    inner = v**2 * w**2 * (x @ y + 1) * np.cos(angles[0]) * np.cos(angles[1])
    total = terms + inner
    expected = theory.sine_tangent_kernel([x], [y], w)[0, 0]
    # False alarms below 1e-8.
    assert abs(total.mean() - expected) < 6 * total.std() / math.sqrt(width)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: theory.sine_bandwidth(0, 1), "frequency"),
        (lambda: theory.sine_bandwidth(math.inf, 1), "frequency"),
        (lambda: theory.sine_bandwidth("1", 1), "frequency"),
        (lambda: theory.sine_bandwidth(1, -1), "hidden_layers"),
        (lambda: theory.sine_bandwidth(1, 1.5), "hidden_layers"),
        (lambda: theory.sine_frequency(0, 1), "bandwidth"),
        (lambda: theory.sine_frequency(math.nan, 1), "bandwidth"),
        (lambda: theory.sine_frequency(1, -1), "hidden_layers"),
        (lambda: theory.sine_frequency(1, 1, 0), "inputs"),
        (lambda: theory.sine_frequency(1, 1, 2.5), "inputs"),
        (lambda: theory.rms_frequency([1, 2, 3], [1, 2]), "x"),
        (lambda: theory.rms_frequency([1, 2], [1, 2]), "x"),
        (lambda: theory.rms_frequency([1, 2, 3], [1, 1, 1]), "y"),
        (lambda: theory.rms_frequency([1, 1, 1], [1, 2, 3]), "x"),
        (lambda: theory.rms_frequency([1, 2, math.nan], [1, 2, 3]), "x"),
        (lambda: theory.rms_frequency(np.ones((3, 1, 1)), [1, 2, 3]), "x"),
        (
            lambda: theory.rms_frequency([1, 2, 3], [1, 2, 3], neighbors=3),
            "neighbors",
        ),
        (lambda: theory.rms_frequency([1, 2, 3], [1, 2, 3], noise=-1), "noise"),
        (lambda: theory.sine_tangent_kernel([1.0], [[1.0]]), "x"),
        (lambda: theory.sine_tangent_kernel([[1.0]], [[1.0, 2.0]]), "x"),
        (lambda: theory.sine_tangent_kernel([[1.0]], [[1.0]], 0), "frequency"),
    ],
)
def test_bad_arguments(call, name):
    with pytest.raises(ValueError, match=f"Received: {name}="):
        call()
