"""theory.imbalance, and the gains at which weights are smallest."""

import numpy as np
import pytest

import keras_initx as kx
from keras_initx.theory.trained_weights.balance import balanced_gains


def test_gains_are_those_of_a_cyclic_twin(rng):
    """The twin takes one unit after the other, as Osborne (1960)."""
    n = 8
    squares = rng.exponential(size=(n, n)) ** 3
    squares[0] += 0.1
    squares[:, 0] += 0.1
    g = np.ones(n)
    for _ in range(2000):
        before = g.copy()
        for i in range(1, n):
            others = np.arange(n) != i
            into = (squares[others, i] / g[others] ** 2).sum()
            out = (squares[i, others] * g[others] ** 2).sum()
            g[i] = (out / into) ** 0.25
        if np.allclose(before, g, rtol=1e-13, atol=0):
            break
    else:
        raise AssertionError("the twin does not converge")
    np.testing.assert_allclose(balanced_gains(squares), g, rtol=1e-8)


def test_sums_into_and_out_of_each_unit_are_equal(rng):
    """Weights of very different sizes, many of which are zero."""
    for n in (2, 8, 30):
        squares = rng.exponential(size=(n, n)) ** 6
        squares *= rng.random((n, n)) < 0.5
        squares[0] += 1e-6
        squares[:, 0] += 1e-6
        np.fill_diagonal(squares, 0)
        g = balanced_gains(squares)
        flow = squares * (g / g[:, None]) ** 2
        into, out = flow.sum(axis=0)[1:], flow.sum(axis=1)[1:]
        np.testing.assert_allclose(into, out, rtol=1e-10)


def test_gains_of_very_unequal_weights():
    np.testing.assert_allclose(
        balanced_gains([[0, 1e-30], [1e30, 0]]), [1, 1e15], rtol=1e-9
    )
    # Unit 2 leads nowhere, unit 3 comes from nowhere.
    squares = np.zeros((4, 4))
    squares[0, 1], squares[1, 0], squares[1, 2], squares[3, 1] = 1, 16, 3, 1
    gains = balanced_gains(squares)
    assert gains[0] == gains[2] == gains[3] == 1
    np.testing.assert_allclose(gains[1], (19 / 2) ** 0.25)


@pytest.mark.parametrize(
    ("incoming", "outgoing", "bias"),
    [
        (np.ones((2, 3)), np.ones((2, 3)), None),
        (np.ones(3), np.ones((3, 2)), None),
        (np.ones((2, 3)), np.ones(3), None),
        (np.ones((2, 3)), np.ones((3, 1)), np.ones(2)),
        (np.full((2, 3), np.nan), np.ones((3, 1)), None),
        (np.ones((2, 3)), "weights", None),
    ],
)
def test_imbalance_refuses(incoming, outgoing, bias):
    with pytest.raises(ValueError, match="Received"):
        kx.theory.imbalance(incoming, outgoing, bias)


def test_imbalance_of_convolutions(rng):
    incoming, outgoing = rng.normal(size=(3, 2, 4)), rng.normal(size=(2, 4, 5))
    expected = [
        sum(np.square(incoming[..., i]).ravel())
        - sum(np.square(outgoing[:, i]).ravel())
        for i in range(4)
    ]
    np.testing.assert_allclose(
        kx.theory.imbalance(incoming, outgoing), expected, rtol=1e-12
    )


def test_gradient_flow_keeps_the_imbalance(rng):
    """The drift of gradient descent is proportional to its rate."""
    x, y = rng.normal(size=(2, 16, 3))
    drifts = []
    for steps in (100, 1000):
        w, b, v = (
            np.random.default_rng(0).normal(size=shape)
            for shape in ((3, 4), (4,), (4, 3))
        )
        start = kx.theory.imbalance(w, v, b)
        for _ in range(steps):
            hidden = np.maximum(x @ w + b, 0)
            error = (hidden @ v - y) / len(x)
            back = (error @ v.T) * (hidden > 0)
            rate = 0.5 / steps
            w, b, v = (
                w - rate * x.T @ back,
                b - rate * back.sum(0),
                v - rate * hidden.T @ error,
            )
        drifts.append(abs(kx.theory.imbalance(w, v, b) - start).max())
    assert drifts[1] < drifts[0] / 5 < 0.1
