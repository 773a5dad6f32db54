"""theory.parametrization, against networks of several widths."""

import functools

import numpy as np
import pytest

from keras_initx.theory import (
    AbcParametrization,
    abc_parametrization,
    first_step_exponent,
    mup_factors,
)

NAMES = ("standard", "ntk", "mean_field", "mup")


@pytest.mark.parametrize(
    ("name", "a", "b", "c"),
    [
        ("standard", (0, 0, 0, 0), (0, 0.5, 0.5, 0.5), (0, 0, 0, 0)),
        ("ntk", (0, 0.5, 0.5, 0.5), (0, 0, 0, 0), (0, 0, 0, 0)),
        ("mean_field", (0, 1, 1, 1), (0, 0, 0, 0), (-1, -2, -2, -1)),
        ("integrable", (0, 1, 1, 1), (0, 0, 0, 0), (-1, -2, -2, -1)),
        ("mup", (-0.5, 0, 0, 0.5), (0.5, 0.5, 0.5, 0.5), (0, 0, 0, 0)),
    ],
)
def test_exponents(name, a, b, c):
    assert abc_parametrization(name, 4) == (a, b, c)
    middle = [0, 1, 3]
    assert abc_parametrization(name) == tuple(
        tuple(column[i] for i in middle) for column in (a, b, c)
    )
    assert abc_parametrization(name, 2).multiplier == (a[0], a[3])


@functools.cache
def squared_derivatives(layers, width, seed, nets=40):
    """The squared derivatives of the output of relu networks by each map.

    The mean over networks whose maps have normal entries of variance 2: relu
    halves the mean square.
    """
    rng = np.random.default_rng([seed, layers, width])
    sizes = [8, *[width] * (layers - 1), 1]
    squared = np.zeros(layers)
    for _ in range(nets):
        x = rng.normal(size=8)
        maps = [
            np.sqrt(2) * rng.normal(size=(sizes[i + 1], sizes[i]))
            for i in range(layers)
        ]
        signals, masks = [x], []
        for w in maps[:-1]:
            z = w @ signals[-1]
            masks.append(z > 0)
            signals.append(z * masks[-1])
        back = np.ones(1)
        for i in reversed(range(layers)):
            if i < layers - 1:
                back = (maps[i + 1].T @ back) * masks[i]
            squared[i] += np.sum(back**2) * np.sum(signals[i] ** 2) / nets
    return squared


@pytest.mark.parametrize("name", NAMES)
def test_first_steps_are_those_of_networks_with_multipliers(name, rng):
    """One network with the weights, factors and rates of a parametrization.

    The weights are w = m^-b times what is drawn, a map multiplies by m^-a w,
    and the rate is m^-c. Derivatives are central differences.
    """
    m, layers = 4, 3
    parametrization = abc_parametrization(name, layers)
    a, b, c = map(np.array, parametrization)
    # The draws of `squared_derivatives`.
    seed = int(rng.integers(2**31))
    drawn = np.random.default_rng([seed, layers, m])
    x = drawn.normal(size=8)
    sizes = [8, m, m, 1]
    kernels = [
        m ** -b[i] * np.sqrt(2) * drawn.normal(size=(sizes[i + 1], sizes[i]))
        for i in range(layers)
    ]

    def output():
        h = x
        for i, w in enumerate(kernels):
            h = m ** -a[i] * w @ (np.maximum(h, 0) if i else h)
        return h[0]

    change = 0.0
    for i, w in enumerate(kernels):
        for at in np.ndindex(w.shape):
            start, step = w[at], 1e-6 * m ** -b[i]
            w[at] = start + step
            above = output()
            w[at] = start - step
            slope = (above - output()) / (2 * step)
            w[at] = start
            change += m ** -c[i] * slope**2
    assert first_steps(parametrization, m, seed, nets=1) == pytest.approx(
        change, rel=1e-5
    )


def first_steps(parametrization, width, seed, nets=40):
    """The mean change of the output of relu networks in their first step.

    The derivative of the loss by the output is taken as 1, and the change as
    the sum of rates times squared derivatives. A factor of a map is a factor
    of the output and of its derivatives by all other maps, so that all
    parametrizations are computed from the same networks.
    """
    a, b, c = map(np.array, parametrization)
    squared = squared_derivatives(len(a), width, seed, nets)
    others = np.sum(a + b) - (a + b)
    return np.sum(float(width) ** (-2 * others - 2 * a - c) * squared)


@pytest.mark.slow
@pytest.mark.parametrize("layers", [2, 3, 5])
@pytest.mark.parametrize("name", NAMES)
def test_the_first_step_grows_as_the_exponent_says(name, layers, request):
    """The slope between widths 64 and 512, from 40 networks of each.

    The relative deviation of a change is below 1.5, that of the mean of 40
    below 0.24, and that of the slope below 0.16: 5 deviations are 0.8. The
    exponents of other parametrizations are 1 apart or more.
    """
    parametrization = abc_parametrization(name, layers)
    small, large = (
        first_steps(parametrization, width, request.config.seed)
        for width in (64, 512)
    )
    slope = np.log(large / small) / np.log(8)
    assert slope == pytest.approx(first_step_exponent(parametrization), abs=0.8)


@pytest.mark.parametrize(
    ("name", "exponents"),
    [
        ("standard", [1, 1, 1, 1, 1]),
        ("ntk", [0] * 5),
        ("mean_field", [0, 0, -1, -2, -3]),
        ("mup", [0] * 5),
    ],
)
def test_exponents_of_the_first_step(name, exponents):
    actual = [
        first_step_exponent(abc_parametrization(name, layers))
        for layers in range(2, 7)
    ]
    assert actual == exponents


@pytest.mark.slow
def test_integrable_networks_of_more_than_four_layers_do_not_start(request):
    seed = request.config.seed
    for layers, factor in ((5, 1 / 16), (6, 1 / 64)):
        parametrization = abc_parametrization("integrable", layers)
        assert first_step_exponent(parametrization) < -1
        small, large = (
            first_steps(parametrization, width, seed) for width in (64, 512)
        )
        # An eighth to the power of 2 and 3; the means have deviations of 24%.
        assert large < factor * small
    mup = abc_parametrization("mup", 6)
    small, large = (first_steps(mup, width, seed) for width in (64, 512))
    assert large > small / 5


def test_equal_networks_have_equal_exponents():
    """A factor m^(-t) from the map to the weights is no change in SGD."""
    for name in NAMES:
        a, b, c = map(np.array, abc_parametrization(name, 5))
        for t in (-1.0, 0.5):
            moved = AbcParametrization(
                tuple(a + t), tuple(b - t), tuple(c - 2 * t)
            )
            expected = first_step_exponent(abc_parametrization(name, 5))
            assert first_step_exponent(moved) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ratios", "factors"),
    [
        ((), (1, 1, 1, 1, 1)),
        ((1, 4), (1, 1, 4, 1, 2)),
        ((4, 4), (1 / 2, 1 / 4, 1, 1 / 2, 1)),
        ((4, 1), (1 / 4, 1 / 4, 1 / 4, 1, 1 / 2)),
        ((4, 4, 4), (1 / 4, 1 / 8, 1 / 4, 1 / 2, 1 / 2)),
        ((9, 4), (1 / 3, 1 / 9, 4 / 9, 1 / 3, 2 / 3)),
        ((1, 1, 4), (1 / 2, 1 / 2, 1 / 4, 1, 1 / 2)),
    ],
)
def test_factors_of_mup(ratios, factors):
    assert mup_factors(*ratios) == factors


def test_factors_of_mup_have_its_exponents():
    """Weights of size m^-(a+b) whose steps are m^-(2a+c) times the gradient."""
    ratio = 16.0
    a, b, c = map(np.array, abc_parametrization("mup", 3))
    fans = [(1, ratio), (ratio, ratio), (ratio, 1)]
    for i, (inputs, outputs) in enumerate(fans):
        factors = mup_factors(inputs, outputs)
        assert factors.size == ratio ** -(a[i] + b[i])
        assert factors.sgd == ratio ** -(2 * a[i] + c[i])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: abc_parametrization("mupp"), "Did you mean 'mup'"),
        (lambda: abc_parametrization(3), "name must be"),
        (lambda: abc_parametrization("mup", 1), "layers must be an int >= 2"),
        (lambda: abc_parametrization("mup", 2.5), "layers must be"),
        (lambda: mup_factors(0), "input_ratio must be"),
        (lambda: mup_factors(1, -1), "output_ratio must be"),
        (lambda: mup_factors(1, 1, float("nan")), "head_ratio must be"),
        (lambda: first_step_exponent("mup"), "an AbcParametrization"),
        (lambda: first_step_exponent(((0,), (0,), (0,))), "parametrization"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
