"""Balance of the weights into and out of the units of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from keras_initx.validation import check_array, refuse

# A unit is balanced when its two sums of squares differ by less than this
# share of them.
_TOLERANCE = 1e-12
# Newton steps, each of which changes a gain by a factor of e^(1/2) or so, and
# the iterations that solve for one.
_STEPS, _ITERATIONS = 500, 2000
_Array = np.ndarray


def imbalance(
    incoming: Any, outgoing: Any, bias: Any | None = None
) -> np.ndarray:
    """Returns how much larger the weights into each unit are than those out.

    For unit i of a layer between two others,

        imbalance_i = |w_in,i|^2 + b_i^2 - |w_out,i|^2,

    with the sums of squares of its incoming weights, of its bias and of its
    outgoing weights. Gradient flow keeps it where the activation is relu,
    leaky relu or none, so that it says where training began. Rescaling the
    unit, w_in and b by c > 0 and w_out by 1/c, leaves the function of the
    network as it is, and the sum of all squares is smallest where every
    imbalance is 0: see `keras_initx.balance`.

    Args:
        incoming: array-like of shape (..., inputs, units). The kernel before
            the units, as Keras's dense layers and convolutions have it.
        outgoing: array-like of shape (..., units, outputs). The kernel behind
            them.
        bias: array-like of shape (units,). Their biases. Defaults to None,
            which is no bias.

    Returns:
        Array of shape (units,).

    Raises:
        ValueError: If the numbers of units differ, or a weight is not finite.

    Example:

    >>> imbalance([[3.0, 1.0], [4.0, 0.0]], [[1.0], [2.0]], bias=[0.0, 2.0])
    array([24.,  1.])

    Reference: Du, Hu & Lee, NeurIPS (2018), arXiv:1806.00900, for relu
    networks; Min et al., ICML (2021), arXiv:2105.06351, for linear ones.
    """
    w_in = check_array("incoming", incoming)
    w_out = check_array("outgoing", outgoing)
    b = None if bias is None else check_array("bias", bias)
    units = w_in.shape[-1] if w_in.ndim else None
    if (
        min(w_in.ndim, w_out.ndim) < 2
        or w_out.shape[-2] != units
        or (b is not None and b.shape != (units,))
    ):
        refuse(
            "incoming must have the shape (..., inputs, units), outgoing "
            "(..., units, outputs), and bias (units,).",
            incoming=w_in.shape,
            outgoing=w_out.shape,
            bias=None if b is None else b.shape,
        )
    into = np.square(w_in).sum(axis=tuple(range(w_in.ndim - 1)))
    outputs = (*range(w_out.ndim - 2), w_out.ndim - 1)
    into = into - np.square(w_out).sum(axis=outputs)
    return into if b is None else into + np.square(b)


def balanced_gains(squares: Any) -> np.ndarray:
    """Returns the gains of units at which their weights are smallest.

    The gains g > 0 minimize

        sum_ij squares_ij (g_j / g_i)^2,   g_0 = 1,

    the sum of squares of a network once the weights from unit i to unit j are
    multiplied by g_j / g_i. Unit 0 stands for all that keeps its scale. At the
    minimum the sums over the weights into and out of each unit are equal. In
    log g the sum is convex; Newton's method with conjugate gradients finds its
    minimum.

    A minimum exists where a path of weights leads from unit 0 to every unit
    and back. The others have no effect, and keep a gain of 1.

    Args:
        squares: array or sparse array of shape (n, n). The sums of the squares
            of the weights from each unit to each other one, >= 0.

    Returns:
        Array of shape (n,), with the gains.

    Example:

    >>> balanced_gains([[0, 1], [16, 0]])
    array([1., 2.])

    Reference: Osborne, J. ACM 7, 338 (1960), who minimizes the same sum to
    balance a matrix, over one gain after the other; Stock et al., ICLR (2019),
    arXiv:1902.10416, for relu networks. Newton's method is derived here.
    """
    a = sparse.csr_array(squares, dtype=np.float64)
    a.eliminate_zeros()
    _, parts = csgraph.connected_components(a, connection="strong")
    free = parts == parts[0]
    free[0] = False
    # What keeps its gain is unit 0.
    index = np.where(free, np.cumsum(free), 0)
    n = len(index)
    merge = sparse.csr_array(
        (np.ones(n), (np.arange(n), index)), shape=(n, index.max() + 1)
    )
    a = sparse.csr_array(merge.T @ a @ merge)
    a.setdiag(0)
    return np.exp(_minimum(a)[index])


def _minimum(a: Any) -> _Array:
    """The logarithms of the gains, of which the first is 0."""
    s = np.zeros(a.shape[0])
    back = sparse.csr_array(a.T)

    def flows(s: _Array) -> tuple[_Array, _Array, _Array]:
        """The squared gains, and the sums into and out of each unit."""
        with np.errstate(over="ignore", invalid="ignore"):
            g = np.exp(2 * s)
            return g, g * (back @ (1 / g)), (a @ g) / g

    g, into, out = flows(s)
    for _ in range(_STEPS):
        gap, total = (out - into)[1:], (out + into)[1:]
        if (abs(gap) <= _TOLERANCE * total).all():
            break

        def hessian(p: _Array, g: _Array = g, total: _Array = total) -> _Array:
            p = np.concatenate([[0.0], p])
            return (
                total * p[1:] - (g * (back @ (p / g)) + (a @ (g * p)) / g)[1:]
            )

        step = np.concatenate([[0.0], _solved(hessian, total, gap / 2)])
        size, before, slope = 1.0, out.sum(), step[1:] @ gap
        while True:
            g, into, out = flows(s + size * step)
            if out.sum() <= before * (1 + 1e-15) - 1e-4 * size * slope:
                s = s + size * step
                break
            size /= 2
            if size < 1e-6:
                # Rounding is all that is left.
                return s
    return s


def _solved(
    apply: Callable[[_Array], _Array], diagonal: _Array, b: _Array
) -> _Array:
    """Solves a positive definite system by conjugate gradients."""
    x, r = np.zeros_like(b), b
    z = r / diagonal
    p, rho = z, (r * z).sum()
    least = 1e-8 * rho
    for _ in range(_ITERATIONS):
        if rho <= least:
            break
        q = apply(p)
        alpha = rho / (p * q).sum()
        x, r = x + alpha * p, r - alpha * q
        z = r / diagonal
        previous, rho = rho, (r * z).sum()
        p = z + rho / previous * p
    return x
