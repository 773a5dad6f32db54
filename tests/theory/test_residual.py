"""theory.residual, and theory.trained_weights over depth."""

import math

import numpy as np
import pytest
from scipy import integrate, sparse, stats

from keras_initx import theory
from keras_initx.theory import (
    critical_exponent,
    deepnorm_scale,
    estimate_hurst,
    estimate_scaling,
    fixup_factor,
    fractional_process,
    gpt2_residual_std,
    neural_covariance_sde,
    residual_growth,
    residual_log_norm,
    shaped_relu_drift,
    shaped_variance_drift,
    smooth_process,
    stable_resnet_scale,
    tfixup_factor,
)

# Growth


@pytest.mark.parametrize(
    ("depth", "exponent", "growth"),
    [
        (10, 0.25, 4.3400),
        (10, 0.5, 1.6289),
        (10, 1, 1.0511),
        (100, 0.25, 131.5),
        (100, 0.5, 1.6467),
        (1000, 0.5, 1.6485),
        (1000, 1, 1.0005),
        (1000, 0.25, 6.50e6),
    ],
)
def test_growth_of_relu(depth, exponent, growth):
    result = residual_growth(depth, exponent)
    assert result == pytest.approx(growth, rel=1e-3)
    product = 1.0
    for _ in range(depth):
        product += product * depth ** (-2 * exponent) / 2
    assert result == pytest.approx(product, rel=1e-10)


def test_growth_of_other_activations_and_extreme_arguments():
    assert residual_growth(50, activation="linear") == pytest.approx(
        1.02**50, rel=1e-12
    )
    assert residual_growth(50, scale=2.0) == pytest.approx(1.02**50, rel=1e-12)
    slope = residual_growth(8, activation="leaky_relu", negative_slope=0.5)
    assert slope == pytest.approx((1 + 0.625 / 8) ** 8, rel=1e-12)
    # At depth L = 10^6 it is e^(1/2) (1 - 1 / (8 L)).
    assert residual_growth(10**6) / math.exp(0.5) == pytest.approx(
        1 - 1 / 8e6, rel=1e-12
    )
    assert residual_growth(10**6, exponent=0.0) == math.inf
    assert residual_growth(1000, exponent=-100.0) == math.inf
    assert residual_log_norm(1000, 10, exponent=-400.0) == (math.inf, math.inf)


def norm_ratios(rng, depth, width, exponent, count, matrices):
    """Returns |h_L| / |h_0| of independent residual relu nets.

    A matrix of independent standard normal numbers, times a vector that does
    not depend on it, is a vector of such numbers times the vector's norm. No
    matrix is used twice, so that none is drawn.
    """

    def times_normal_matrix(x):
        norm = np.linalg.norm(x, axis=1, keepdims=True)
        return norm * rng.standard_normal((count, width))

    h = rng.standard_normal((count, width))
    start = np.linalg.norm(h, axis=1)
    scale = depth**-exponent / math.sqrt(width)
    for _ in range(depth):
        x = times_normal_matrix(h) / math.sqrt(width) if matrices == 2 else h
        h = h + scale * times_normal_matrix(np.maximum(x, 0))
    return np.linalg.norm(h, axis=1) / start


@pytest.mark.slow
def test_log_norm_of_random_nets(rng):
    """Mean and variance of log |h_L| at width 40, for 1500 nets of 50 layers.

    Bands of 6 standard deviations: false alarms below 1e-8. Leaving out
    1 / width (0.0125 of the mean) or doubling the variance is detected.
    """
    depth, width, count = 50, 40, 1500
    log = np.log(norm_ratios(rng, depth, width, 0.5, count, matrices=2))
    mean, variance = residual_log_norm(depth, width)
    assert (mean, variance) == pytest.approx((0.2375, 0.0125))
    # The distance to the limit is of order 1 / L: at most 0.002 here.
    band = 6 * math.sqrt(variance / count) + 0.002
    assert abs(log.mean() - mean) < band
    assert log.var() / variance == pytest.approx(
        1, abs=6 * math.sqrt(2 / count) + 0.05
    )


def test_growth_of_narrow_nets_with_two_matrices_is_exact(rng):
    """The mean square at width 4 is within 6 deviations; 8% is detected."""
    ratio = norm_ratios(rng, 10, 4, 0.5, 8000, matrices=2) ** 2
    error = ratio.mean() / residual_growth(10) - 1
    band = 6 * ratio.std() / ratio.mean() / math.sqrt(8000)
    assert abs(error) < band < 0.08


@pytest.mark.parametrize(
    ("arguments", "exponent"),
    [
        ({}, 0.5),
        ({"matrices": 2}, 0.5),
        ({"kind": "smooth", "matrices": 2}, 1.0),
        ({"kind": "fractional", "hurst": 0.3}, 0.3),
        ({"kind": "fractional", "hurst": 1}, 1.0),
        ({"kind": "fractional", "hurst": 0.3, "matrices": 2}, 0.5),
        ({"kind": "fractional", "hurst": 0.7, "matrices": 2}, 0.7),
        (
            {
                "kind": "fractional",
                "hurst": 0.7,
                "matrices": 2,
                "activation": "tanh",
            },
            0.5,
        ),
        (
            {
                "kind": "fractional",
                "hurst": 0.9,
                "matrices": 2,
                "gradient": True,
            },
            0.8,
        ),
    ],
)
def test_critical_exponent(arguments, exponent):
    assert critical_exponent(**arguments) == pytest.approx(exponent, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("hurst", [0.3, 0.7])
def test_critical_exponent_of_random_nets_is_the_hurst_index(hurst, rng):
    """With one matrix |h_L - h_0| keeps its size at the exponent H alone.

    The exponent of L in the median over 20 nets of width 20, from L = 125 to
    2000, has a standard deviation of 0.042, and at these depths a mean within
    0.04 of 0. A band of 0.25 is 5 deviations more: false alarms below 1e-6. An
    exponent that is wrong by 0.5 is detected with the same certainty.
    """
    depths, width, count = (125, 2000), 20, 20
    weights = [
        fractional_process(depth, hurst)
        .sample(count * width**2, rng)
        .reshape(depth, count, width, width)
        for depth in depths
    ]

    def growth_exponent(exponent):
        moved = []
        for depth, w in zip(depths, weights, strict=True):
            start = h = rng.standard_normal((count, width, 1))
            scale = depth**-exponent / math.sqrt(width)
            for layer in w:
                h = h + scale * (layer @ np.maximum(h, 0))
            size = np.linalg.norm(h - start, axis=1)
            moved.append(np.median(size / np.linalg.norm(start, axis=1)))
        return np.log(moved[1] / moved[0]) / np.log(depths[1] / depths[0])

    critical = critical_exponent("fractional", hurst)
    assert abs(growth_exponent(critical)) < 0.25
    assert growth_exponent(hurst + 0.5) < -0.25


# Schemes


def test_values_of_the_papers():
    assert fixup_factor(54) == pytest.approx(0.1361, abs=5e-5)
    assert fixup_factor(16, layers=3) == 0.5
    assert tfixup_factor(6) == pytest.approx(0.4281, abs=5e-5)
    assert tfixup_factor(6, decoder=True) == pytest.approx(0.3689, abs=5e-5)
    assert deepnorm_scale(12) == pytest.approx((2.2134, 0.3195), abs=5e-5)
    assert deepnorm_scale(100) == pytest.approx((3.7606, 0.1880), abs=5e-5)
    encoder = deepnorm_scale(12, decoder_blocks=6)
    decoder = deepnorm_scale(6, encoder_blocks=12)
    size = (12.0**4 * 6) ** 0.0625
    assert encoder == pytest.approx((0.81 * size, 0.87 / size))
    assert decoder == pytest.approx((18**0.25, 72**-0.25))
    assert gpt2_residual_std(12) == pytest.approx(0.0040825, abs=5e-8)
    assert gpt2_residual_std(48) == pytest.approx(0.0020412, abs=5e-8)
    for depth, total in {10: 2.97, 100: 3.17, 1000: 3.243}.items():
        squares = [stable_resnet_scale(k + 1) ** 2 for k in range(depth)]
        assert sum(squares) == pytest.approx(total, abs=5e-3)


# The covariance SDE


@pytest.mark.slow
def test_relu_drift_is_the_nonlinear_part_of_the_kernel():
    """The drift is the nonlinear part of E phi(u) phi(v), at any slopes."""
    table = {0.0: 0.15915, 0.3: 0.09137, -0.5: 0.30450, 0.9: 0.00477}
    for rho, nu in table.items():
        assert shaped_relu_drift(rho) == pytest.approx(nu, abs=5e-6)
        assert shaped_relu_drift(rho, 1.0, -2.0) == pytest.approx(
            9 * shaped_relu_drift(rho), rel=1e-12
        )
    for plus, minus in ((1.5, 0.2), (1.0, 0.0)):
        scale = 2 / (plus**2 + minus**2)

        def phi(z, plus=plus, minus=minus):
            return np.where(z > 0, plus * z, minus * z)

        for rho in (-0.5, 0.0, 0.3, 0.9):
            c = theory.correlation_map(rho, phi)
            exact = rho + scale * shaped_relu_drift(rho, plus, minus)
            assert c == pytest.approx(exact, abs=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("c_minus", [0.0, -1.0, -3.0])
def test_sde_against_its_density(c_minus):
    """Mean and deviation of 20,000 paths are those of the density.

    The density solves the forward equation for artanh rho on a grid. Bands of
    6 standard errors: false alarms below 1e-8. A drift without its 1/2, or a
    noise that is wrong by 5%, is detected.
    """
    time, rho_0 = 1.0, 0.3
    x = np.linspace(-6, 6, 1201)
    step = x[1] - x[0]
    middle = (x[1:] + x[:-1]) / 2
    rho = np.tanh(middle)
    drift = (
        shaped_relu_drift(rho, 0.0, c_minus) * np.cosh(middle) ** 2 + rho / 2
    )

    # The flow between two points of the grid is `out` times p at the first
    # of them less `back` times p at the second.
    out, back = drift / 2 + 1 / (2 * step), 1 / (2 * step) - drift / 2
    leaving = np.append(out, 0) + np.insert(back, 0, 0)
    change = sparse.diags([out, -leaving, back], [-1, 0, 1]).tocsc() / step

    # The start is a narrow normal density, moved by the drift until then.
    early = 1e-3
    center = math.atanh(rho_0) + early * float(
        np.interp(math.atanh(rho_0), middle, drift)
    )
    start = stats.norm.pdf(x, center, math.sqrt(early))
    # SciPy's BDF subtracts a row of memory that it has yet to write, and uses
    # the difference only once the row is written; NaN in it warns at random.
    with np.errstate(invalid="ignore", over="ignore"):
        solved = integrate.solve_ivp(
            lambda _, p: change @ p,
            (early, time),
            start,
            method="BDF",
            jac=change,
            rtol=1e-6,
            atol=1e-9,
        )
    assert np.isfinite(solved.y).all()
    density = solved.y[:, -1] * step
    assert density.sum() == pytest.approx(1, abs=1e-4)
    mean = density @ np.tanh(x)
    stddev = math.sqrt(density @ np.tanh(x) ** 2 - mean**2)
    result = neural_covariance_sde(time, rho_0, c_minus=c_minus)
    assert abs(result.mean - mean) < 6 * stddev / math.sqrt(20_000) + 2e-3
    assert result.stddev == pytest.approx(stddev, abs=0.02)
    assert (np.diff(result.quantiles) > 0).all()
    if c_minus == -3.0:
        assert mean == pytest.approx(0.710, abs=3e-3)
        assert stddev == pytest.approx(0.319, abs=3e-3)


def test_sde_at_time_zero_and_near_minus_one():
    at_once = neural_covariance_sde(0.0, 0.3)
    assert at_once.mean == pytest.approx(0.3)
    assert at_once.stddev == pytest.approx(0, abs=1e-7)
    late = neural_covariance_sde(2.0, -0.999, c_minus=-20.0, paths=100)
    assert np.isfinite(late.quantiles).all()
    assert late.mean > 0.9


def test_variance_drift():
    assert shaped_variance_drift("tanh") == pytest.approx(-2, rel=1e-8)
    assert shaped_variance_drift("tanh", a=2.0) == pytest.approx(-0.5, rel=1e-8)
    assert shaped_variance_drift("linear") == pytest.approx(0, abs=1e-8)

    def bent(z):
        return z + 0.5 * z**2 - z**3 / 4

    # phi'' = 1, phi''' = -3/2.
    assert shaped_variance_drift(bent) == pytest.approx(0.75 - 1.5, rel=1e-8)


# Regularity over depth


@pytest.mark.parametrize("hurst", [0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize(("depth", "deviation"), [(32, 0.02), (1000, 0.005)])
def test_hurst_of_fractional_noise(hurst, depth, deviation, rng):
    """Bands of 6 deviations: false alarms below 1e-7 for all eight cases."""
    w = fractional_process(depth, hurst).sample(100, rng)
    assert abs(estimate_hurst(w).hurst - hurst) < 6 * deviation


def test_hurst_of_smooth_and_trended_weights(rng):
    w = smooth_process(200).sample(100, rng)
    assert estimate_hurst(w).hurst > 0.99
    white = fractional_process(1000, 0.5).sample(400, rng)
    shifted = white + 3 * rng.standard_normal(400)
    raw, without_mean = estimate_hurst(shifted)
    assert raw > 0.9
    assert without_mean == pytest.approx(0.5, abs=0.03)
    tied = estimate_hurst(np.ones((50, 1)) * [[1e-200, -3e-200, 0.1e-200]])
    assert tied.hurst == pytest.approx(1)
    assert math.isnan(tied.without_mean)
    # Layers may have any shape.
    cube = white.reshape(1000, 20, 20)
    assert estimate_hurst(cube) == estimate_hurst(white)


DEPTHS = (64, 256, 1024, 4096)


@pytest.mark.parametrize("hurst", [0.3, 0.5, 0.7, 0.9])
def test_scaling_of_fractional_weights(hurst, rng):
    """Bands of 0.05; the measured spread is 0.006 for 100 entries."""
    nets = [
        fractional_process(depth, hurst).sample(100, rng) * depth**-hurst
        for depth in DEPTHS
    ]
    result = estimate_scaling(nets)
    assert result.exponent == pytest.approx(hurst, abs=0.05)
    assert result.root_sum_of_squares == pytest.approx(0.5 - hurst, abs=0.05)
    assert result.quadratic_variation == pytest.approx(1 - 2 * hurst, abs=0.05)
    assert abs(result.increment) < 0.1
    assert result.limit == ("sde" if hurst == 0.5 else "neither")


@pytest.mark.slow
def test_scaling_of_smooth_and_tied_weights(rng):
    nets = [
        smooth_process(depth).sample(2000, rng) * depth**-0.3
        for depth in DEPTHS
    ]
    result = estimate_scaling(nets)
    assert result.exponent == pytest.approx(0.3, abs=0.05)
    assert result.increment == pytest.approx(-1, abs=0.1)
    assert result.quadratic_variation == pytest.approx(-1.6, abs=0.1)
    assert result.limit == "ode"
    tied = [np.ones((depth, 3)) / depth for depth in DEPTHS]
    assert estimate_scaling(tied).limit == "ode"
    assert estimate_scaling(tied).exponent == pytest.approx(1)


# Bad arguments


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: residual_growth(0), "depth"),
        (lambda: residual_growth(2.5), "depth"),
        (lambda: residual_growth(10, exponent=math.inf), "exponent"),
        (lambda: residual_growth(10, scale=0.0), "scale"),
        (lambda: residual_growth(10, activation="rulu"), "activation"),
        (lambda: residual_log_norm(10, 0), "width"),
        (lambda: critical_exponent("brown"), "kind"),
        (lambda: critical_exponent("fractional", 0.0), "hurst"),
        (lambda: critical_exponent(matrices=3), "matrices"),
        (lambda: fixup_factor(0), "branches"),
        (lambda: fixup_factor(3, layers=1), "layers"),
        (lambda: gpt2_residual_std(0), "blocks"),
        (lambda: gpt2_residual_std(2, std=-0.02), "std"),
        (lambda: tfixup_factor(-1), "blocks"),
        (lambda: deepnorm_scale(1.5), "blocks"),
        (lambda: deepnorm_scale(2, encoder_blocks=0), "encoder_blocks"),
        (lambda: deepnorm_scale(2, decoder_blocks=0), "decoder_blocks"),
        (
            lambda: deepnorm_scale(2, encoder_blocks=2, decoder_blocks=2),
            "at most one",
        ),
        (lambda: stable_resnet_scale(0), "index"),
        (lambda: shaped_relu_drift(1.1), "correlation"),
        (lambda: neural_covariance_sde(-1.0, 0.3), "time"),
        (lambda: neural_covariance_sde(1.0, 1.0), "correlation"),
        (lambda: neural_covariance_sde(1.0, 0.3, paths=0), "paths"),
        (lambda: neural_covariance_sde(1.0, 0.3, seed=-1), "seed"),
        (lambda: neural_covariance_sde(1.0, 0.3, quantiles=[2]), "quantiles"),
        (lambda: neural_covariance_sde(1.0, 0.3, c_plus=math.nan), "c_plus"),
        (lambda: shaped_relu_drift(0.1, c_minus="a"), "c_minus"),
        (lambda: critical_exponent(matrices=True), "matrices"),
        (lambda: shaped_variance_drift("tanh", a=0.0), "a must"),
        (lambda: shaped_variance_drift("softplus"), "slope 1"),
        (lambda: estimate_hurst(np.ones(9)), "weights"),
        (lambda: estimate_hurst(np.ones((3, 2))), "weights"),
        (lambda: estimate_hurst(np.zeros((9, 2))), "weights"),
        (lambda: estimate_hurst([["a"]]), "weights"),
        (lambda: estimate_scaling([np.ones((9, 2))]), "weights_by_depth"),
        (
            lambda: estimate_scaling([np.ones((9, 2)), np.ones((5, 3))]),
            "weights_by_depth",
        ),
        (
            lambda: estimate_scaling([np.ones((9, 2)), [[math.nan]]]),
            "weights_by_depth",
        ),
    ],
)
def test_bad_arguments(call, name):
    with pytest.raises(ValueError, match=rf"{name}.*Received: "):
        call()
