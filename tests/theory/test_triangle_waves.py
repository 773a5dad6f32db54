"""theory.triangle_waves: the formula, the matrices and the counted pieces."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from keras_initx import theory
from keras_initx.theory import (
    count_linear_regions,
    fit_peaks,
    triangle_wave,
    triangle_wave_scales,
    triangle_wave_weights,
)

FAMILIES = list(itertools.product(("ramp", "v"), (True, False)))
families = pytest.mark.parametrize(("form", "concave"), FAMILIES)
START = {"ramp": 0.0, "v": -1.0}


def grid(form, points=4097):
    return np.linspace(START[form], 1, points)


def curve_by_definition(x, a, concave, form):
    """Returns F at one point, computed case by case from its definition."""
    sign = 1 if concave else -1
    if form == "v":
        scale, w, total = 1.0, (x + 1) / 2, (1 - sign) / 2
    else:
        scale = (1 - a[0] if concave else a[0]) * a[1]
        w = total = x
    for i in range(len(a) - 1):
        if i > 0:
            scale *= (1 - a[i]) * a[i + 1]
        w = w / a[i] if w <= a[i] else (1 - w) / (1 - a[i])
        total += sign * scale * w
    return total


def outputs(weights, x):
    """Returns the outputs of a relu net, computed by NumPy."""
    h = np.asarray(x, float).reshape(len(x), -1)
    for k, (kernel, bias) in enumerate(weights):
        h = h @ kernel + bias
        if k < len(weights) - 1:
            h = np.maximum(h, 0)
    return h


# The formula


@families
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_curve_equals_its_definition(form, concave, depth, rng):
    a = rng.uniform(0.02, 0.98, depth + 1)
    x = rng.uniform(START[form], 1, 50)
    expected = [curve_by_definition(value, a, concave, form) for value in x]
    np.testing.assert_allclose(
        triangle_wave(x, a, concave, form), expected, atol=1e-14
    )


@families
def test_ends_and_curvature(form, concave, rng):
    """The curve meets its end points and is concave or convex.

    Second differences on a grid of 4097 points are exact to 1e-12 of values of
    size 1.
    """
    sign = 1 if concave else -1
    for a in rng.uniform(0.05, 0.95, (20, 7)):
        y = triangle_wave(grid(form), a, concave, form)
        ends = [0, 1] if form == "ramp" else [(1 - sign) / 2] * 2
        np.testing.assert_allclose(y[[0, -1]], ends, atol=1e-14)
        bends = np.diff(y, 2)
        assert (sign * bends < 1e-12).all()
        assert np.abs(bends).max() > 1e-6
        if form == "v":
            peak = triangle_wave(2 * a[0] - 1, a, concave, form)
            assert peak == pytest.approx((1 + sign) / 2, abs=1e-14)


@pytest.mark.parametrize("concave", [True, False])
def test_slopes_at_the_ends_of_infinitely_many_waves(concave, rng):
    """120 waves: the remainder of the sums is below 0.7^119 < 1e-18."""
    sign = 1 if concave else -1
    a = rng.uniform(0.3, 0.7, 121)
    s = triangle_wave_scales(a, concave)
    at_0 = 1 + sign * np.sum(s / np.cumprod(a[:-1]))
    falls = np.concatenate([[1.0], np.cumprod(a[1:-1])])
    at_1 = 1 - sign * np.sum(s / ((1 - a[0]) * falls))
    expected = [1 / a[0], 0] if concave else [0, 1 / (1 - a[0])]
    np.testing.assert_allclose([at_0, at_1], expected, atol=1e-12)


@families
def test_slope_is_continuous_at_a_peak(form, concave, rng):
    """The kink at the first peak vanishes as further waves are added.

    The one-sided slopes of W_0 are 1/a and -1/(1 - a), both followed by slopes
    that grow from 0: after n more waves the jump is that of W_0 times the
    product of the (1 - a_m).
    """
    a = rng.uniform(0.3, 0.7, 42)
    s = triangle_wave_scales(a, concave, form)
    before, after = 1 / a[0], -1 / (1 - a[0])
    slopes = []
    for first in (before, after):
        wave, total = first, s[0] * first
        for i in range(1, 41):
            # At the peak of W_0, which is 1, W_1 is 0 and rises to both sides.
            wave = -wave / (1 - a[i]) if i == 1 else wave / a[i]
            total += s[i] * wave
        slopes.append(total)
    assert abs(slopes[0] - slopes[1]) < 1e-9 * s[0] / a[0]


@pytest.mark.parametrize("depth", range(1, 11))
def test_peaks_of_one_half_give_the_parabola(depth):
    """Largest error 2^-(2d+2), mean square 16^-d / 30, with 2^d pieces."""
    a = [0.5] * (depth + 1)
    # The grid contains all peaks and all points half way between them.
    x = grid("ramp", 2 ** (depth + 3) + 1)
    error = triangle_wave(x, a, concave=False) - x**2
    assert error.max() == 2.0 ** -(2 * depth + 2)
    assert error.min() == 0
    concave = triangle_wave(x, a, concave=True)
    np.testing.assert_array_equal(concave, 1 - (x[::-1] ** 2 + error[::-1]))
    # The trapezoidal rule with 8 panels per parabola errs by 1/64^2 of it.
    mean = np.mean((error**2)[:-1])
    assert mean == pytest.approx(16.0**-depth / 30, rel=1e-3)
    v = 2 * x - 1
    error = triangle_wave(v, a, False, "v") - v**2
    assert error.max() == 4.0**-depth


# The matrices


@families
@pytest.mark.parametrize("depth", [1, 2, 3, 6, 10])
@pytest.mark.parametrize("other_scales", [False, True])
def test_matrices_compute_the_formula(form, concave, depth, other_scales, rng):
    for _ in range(10):
        a = rng.uniform(0.05, 0.95, depth + 1)
        s = triangle_wave_scales(a, concave, form)
        # Only smaller scales keep every partial sum above 0.
        s = s * rng.uniform(0.1, 1, depth) if other_scales else s
        weights = triangle_wave_weights(a, concave, form, s)
        x = grid(form, 501)
        expected = triangle_wave(x, a, concave, form, s)
        np.testing.assert_allclose(
            outputs(weights, x)[:, 0], expected, atol=1e-12, rtol=0
        )
        assert not any(bias.any() for _, bias in weights[1:])


@families
@pytest.mark.parametrize("depth", range(1, 11))
def test_number_of_linear_regions(form, concave, depth, rng):
    for a in rng.uniform(0.05, 0.95, (3, depth + 1)):
        weights = triangle_wave_weights(a, concave, form)
        assert count_linear_regions(weights, START[form]) == 2**depth
        # Half of them are on one side of the first peak.
        peak = 2 * a[0] - 1 if form == "v" else a[0]
        result = count_linear_regions(weights, START[form], peak)
        assert result == 2 ** (depth - 1)


def regions_in_fractions(weights, low, high):
    """Returns the number of linear regions, counted in exact fractions.

    The breakpoints of each layer are computed between those of the layers
    before, where its units are linear.
    """

    def layer_outputs(x, depth):
        h = [x]
        for k, (kernel, bias) in enumerate(weights[:depth]):
            h = [max(v, 0) for v in h] if k else h
            h = [
                sum(v * Fraction(int(kernel[i, j])) for i, v in enumerate(h))
                + Fraction(int(bias[j]))
                for j in range(len(bias))
            ]
        return h

    cuts = [Fraction(low), Fraction(high)]
    for depth in range(1, len(weights)):
        points = set(cuts)
        for a, b in itertools.pairwise(cuts):
            ends = zip(
                layer_outputs(a, depth), layer_outputs(b, depth), strict=True
            )
            points |= {a + (b - a) * p / (p - q) for p, q in ends if p * q < 0}
        cuts = sorted(points)
    slopes = []
    for a, b in itertools.pairwise(cuts):
        ends = (layer_outputs(x, len(weights)) for x in (a, b))
        slopes.append([(q - p) / (b - a) for p, q in zip(*ends, strict=True)])
    return 1 + sum(p != q for p, q in itertools.pairwise(slopes))


@pytest.mark.parametrize("sizes", [(1, 6, 1), (1, 4, 4, 1), (1, 3, 4, 3, 2)])
def test_regions_of_random_nets_are_counted_exactly(sizes, rng):
    counts = []
    for _ in range(15):
        weights = [
            (rng.integers(-4, 5, (a, b)), rng.integers(-4, 5, b))
            for a, b in itertools.pairwise(sizes)
        ]
        expected = regions_in_fractions(weights, -3, 2)
        assert count_linear_regions(weights, -3, 2) == expected
        counts.append(expected)
    assert max(counts) > 1


def test_rounding_makes_no_regions():
    # Two units that bend at one point, except for the last digit.
    one = np.array([[1.0, 3.0]]), np.array([-0.1, -0.3])
    weights = one, (np.ones((2, 1)), np.zeros(1))
    assert count_linear_regions(weights) == 2
    # A bend that cancels in the output.
    weights = one, (np.array([[3.0], [-1.0]]), np.zeros(1))
    assert count_linear_regions(weights) == 1
    single = [
        tuple(np.float32(part) for part in layer)
        for layer in triangle_wave_weights(np.linspace(0.3, 0.6, 7), True, "v")
    ]
    for tolerance in (None, 1e-4):
        assert count_linear_regions(single, -1, 1, tolerance) == 64


@pytest.mark.parametrize(
    ("target", "concave", "mse"),
    [
        (lambda x: x**2, False, 7.57e-9),
        (lambda x: x**3, False, 3.402e-5),
        (lambda x: x**11, False, 3.304e-4),
        (lambda x: np.sin(np.pi * x / 2), True, 5.987e-6),
        (lambda x: np.tanh(3 * x), True, 2.767e-5),
    ],
)
def test_fitted_peaks_against_another_optimizer(target, concave, mse):
    x = np.linspace(0, 1, 500)
    result = fit_peaks(x, target(x), 5, concave, starts=8)
    assert result.mse == pytest.approx(mse, rel=1e-3)
    error = triangle_wave(x, result.peaks, concave) - target(x)
    assert result.mse == pytest.approx(np.mean(error**2), rel=1e-12)


# Bad arguments

nan, inf = math.nan, math.inf


def bad_values():
    """Yields a function, its good arguments, a name, and values to refuse."""
    line = np.linspace(0, 1, 9)
    peaks = [[0.5], [0.5, 1.0], [0, 0.5], [nan, 0.5], "0.5", None, [[0.5] * 3]]
    scales = {"peaks": [0.5, 0.5, 0.5]}
    curve = scales | {"x": line}
    for call, good in (
        (triangle_wave_scales, scales),
        (triangle_wave, curve),
        (triangle_wave_weights, scales),
    ):
        yield call, good, "peaks", peaks
        yield call, good, "concave", [0, 1, -1, "1", None, nan]
        yield call, good, "form", ["w", None, 1]
    bad_scales = [[1.0], [1.0, 0.0], [1.0, -1.0], [nan, 1.0], "s"]
    yield triangle_wave, curve, "scales", bad_scales
    yield triangle_wave_weights, scales, "scales", bad_scales
    yield triangle_wave, curve, "x", [[-0.1], [1.1], [nan], "x"]
    net = [np.ones((1, 2)), np.ones(2)], [np.ones((2, 1)), np.ones(1)]
    regions = count_linear_regions, {"weights": net}
    yield *regions, "weights", [[], None, net[::-1], [[np.ones((1, 2))]]]
    yield *regions, "weights", [[[np.full((1, 2), nan), np.ones(2)]]]
    yield *regions, "low", [1.0, nan, -inf, "0"]
    yield *regions, "high", [0.0, inf]
    yield *regions, "tolerance", [-0.1, 1.0, nan, "1"]
    fit = fit_peaks, {"x": line, "y": line, "depth": 2}
    yield *fit, "depth", [0, 1.5, None, True]
    yield *fit, "concave", [1, None]
    yield *fit, "form", ["w"]
    yield *fit, "x", [line + 0.1, [nan] * 9]
    yield *fit, "y", [[nan] * 9, "y", line[1:]]
    yield *fit, "starts", [0, 1.5]
    yield *fit, "seed", [-1, None]


BAD = [
    pytest.param(call, good, name, value, id=f"{call.__name__}-{name}={value}")
    for call, good, name, values in bad_values()
    for value in values
]


@pytest.mark.parametrize(("call", "good", "name", "value"), BAD)
def test_bad_arguments(call, good, name, value):
    with pytest.raises(ValueError, match=rf"(?s){name}.*Received: "):
        call(**good | {name: value})


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (
            lambda: triangle_wave([0.5, 1.5], [0.5, 0.5]),
            "x must be numbers in [0, 1]. Received: x=[0.5, 1.5]",
        ),
        (
            lambda: triangle_wave_scales([0.5, 0.5], form="w"),
            "form must be 'ramp' or 'v'. Received: form='w'",
        ),
        (
            lambda: triangle_wave(0.5, [0.5, 0.5], scales=[1.0, 1.0]),
            "scales must be as many as the waves, 1: one fewer than the "
            "peaks. "
            "Received: scales=[1.0, 1.0]",
        ),
        (
            lambda: fit_peaks([0.0, 1.0], [0.0], 2),
            "x and y must be of one shape (n,), n >= 1. "
            "Received: shapes (2,) and (1,)",
        ),
        (
            lambda: theory.count_linear_regions([([[1.0]], [0.0])], 1, 0.5),
            "low must be below high. Received: low=1.0, high=0.5",
        ),
    ],
)
def test_messages(use, message):
    with pytest.raises(ValueError) as caught:
        use()
    assert str(caught.value) == message
