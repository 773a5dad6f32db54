"""Means of products of two functions of Gaussian variables of any variance.

For two jointly Gaussian variables u, v and functions f, g,

    E f(u) g(v)

is what one layer of an infinitely wide network needs: with f = g = phi it is
the covariance of two samples behind the activation phi, with f = g = phi' the
factor of their gradients (Poole et al., 2016, arXiv:1606.05340; Schoenholz et
al., 2016, arXiv:1611.01232). Piecewise-linear functions have closed forms, and
all others are integrated over panels that are cut at their kinks.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev
from scipy import fft

from keras_initx.theory.mean_field.activations import ArrayFunction
from keras_initx.theory.mean_field.quadrature import (
    gaussian_rule,
    panel_slopes,
)

# The largest number of different pairs that are integrated with many nodes, and
# the largest number that are integrated with few. More pairs take a series.
_FEW_PAIRS, _MANY_PAIRS = 64, 512
_TERMS = 160
# The largest share of E f(u)^2 that the series may leave.
_REST = 0.03
# The same share, and the number of terms, of the series of `ProductsOfPoints`.
_LEFT, _FEW_TERMS = 1e-3, 48
# With at most this many variances, many pairs are interpolated in their angle.
# The series in the angle has at least and at most so many terms, and is long
# enough where its last quarter is below a share of the largest value.
_CLASSES = 4
_FEW_ANGLES, _MANY_ANGLES, _NEGLIGIBLE = 32, 256, 1e-7
# The numbers of nodes on a panel that must agree on E f(u)^2 and E f(u), and
# the share of E f(u)^2 to which they must.
_COMPARED, _AGREED = (32, 48, 72), 1e-4
# The nodes on a panel for many pairs, and where there are more panels: beyond
# this standard deviation they are also cut where a function that saturates
# bends.
_NODES_OF_MANY, _WIDE = 16, 4.0
_BENDS = (-12.0, -2.0, 0.0, 2.0, 12.0)
# The number of values of an integrand that are computed at once.
_CHUNK = 2**21


class Function:
    """A function of one variable, with the points where it is not smooth.

    Args:
        values: callable. The function, from a float64 array to one of its
            shape.
        kinks: tuple of floats. The points where it is not smooth. Defaults to
            none.
        slopes: tuple of two floats or None. (b, a) if the function is a z for
            z < 0 and b z for z > 0. Defaults to None.
        steps: tuple of two floats or None. (b, a) if the function is a for
            z < 0 and b for z > 0. Defaults to None.
    """

    def __init__(
        self,
        values: ArrayFunction,
        kinks: tuple[float, ...] = (),
        slopes: tuple[float, float] | None = None,
        steps: tuple[float, float] | None = None,
    ):
        self.values = values
        self.kinks = tuple(kinks)
        self.slopes = slopes
        self.steps = steps


class UnresolvedError(ValueError):
    """A function of a wide variable varies too fast for quadrature."""


def check_resolved(
    f: Function, mean: np.ndarray, variance: np.ndarray, nodes: int
) -> None:
    """Refuses a function that changes within the distance of two nodes.

    A function such as sin has many periods in one panel if the variance is
    large. More nodes then give other means of f(u) and f(u)^2.

    Args:
        f: Function. The function.
        mean: Array. Means of u.
        variance: Array of that shape. Variances of u; the largest is tried.
        nodes: int. The nodes on each panel.

    Raises:
        UnresolvedError: If the means differ.
    """
    if f.slopes or f.steps or not variance.size:
        return
    widest = np.argmax(variance)
    m, root = mean[[widest]], np.sqrt(np.maximum(variance[[widest]], 0))
    f = _resolved(f, variance)
    kinks = _standardized(f.kinks, m, root)
    rules = [gaussian_rule(kinks, count) for count in (nodes, *_COMPARED)]
    z = np.concatenate([nodes_of_rule for nodes_of_rule, _ in rules], axis=1)
    # One call, since that of a Keras function takes long for any size.
    every = f.values(m[:, None] + root[:, None] * z)
    ends = np.cumsum([weights.shape[1] for _, weights in rules])
    found = []
    for (_, weights), values in zip(
        rules, np.split(every, ends[:-1], axis=1), strict=True
    ):
        with np.errstate(over="ignore", invalid="ignore"):
            found.append((weights * values**2).sum())
            found.append((weights * values).sum() * math.sqrt(abs(found[-1])))
    squares, firsts = np.array(found).reshape(-1, 2).T
    if not np.isfinite(squares).all():
        return
    if max(np.ptp(squares), np.ptp(firsts)) > _AGREED * np.abs(squares).max():
        raise UnresolvedError(
            f"a function varies too fast for quadrature over a distribution of "
            f"standard deviation {root[0]:.3g}"
        )


def _resolved(f: Function, variance: np.ndarray) -> Function:
    """Returns a function with cuts near 0 if a variance is large.

    The panels are as wide as the distribution, and a bounded function of a wide
    variable changes within a small part of one panel.
    """
    if not np.any(variance > _WIDE**2):
        return f
    kinks = tuple(sorted({*f.kinks, *_BENDS}))
    return Function(f.values, kinks, f.slopes, f.steps)


def angles_between(
    variance_u: np.ndarray, variance_v: np.ndarray, covariance: np.ndarray
) -> np.ndarray:
    """Returns the angle arccos(rho) of pairs, pi/2 where a variance is 0."""
    product = variance_u * variance_v
    safe = np.where(product > 0, product, 1.0)
    rho = np.where(product > 0, covariance / np.sqrt(safe), 0.0)
    return np.arccos(np.clip(rho, -1, 1))


def piecewise_linear_product(
    slopes_f: tuple[float, float],
    slopes_g: tuple[float, float],
    variance_u: np.ndarray,
    variance_v: np.ndarray,
    covariance: np.ndarray,
) -> np.ndarray:
    """Returns E f(u) g(v) of two functions with a kink at 0, for mean 0.

        E relu(u) relu(v) = sqrt(q q') (sin t + (pi - t) cos t) / (2 pi)

    with t the angle of the two, and f(z) = a z + (b - a) relu(z).

    Args:
        slopes_f: tuple of two floats. (b, a) of f.
        slopes_g: tuple of two floats. (b, a) of g.
        variance_u: Array. The variance of u.
        variance_v: Array. The variance of v.
        covariance: Array. Their covariance.

    Returns:
        Array.

    Reference: Cho & Saul, NeurIPS 22 (2009), degree 1.
    """
    t = angles_between(variance_u, variance_v, covariance)
    size = np.sqrt(variance_u * variance_v)
    relu = size * (np.sin(t) + (math.pi - t) * np.cos(t)) / (2 * math.pi)
    (b, a), (d, c) = slopes_f, slopes_g
    # E u relu(v) = E relu(u) v = k / 2
    return (a * c + a * (d - c) / 2 + (b - a) * c / 2) * covariance + (
        b - a
    ) * (d - c) * relu


def step_product(
    steps_f: tuple[float, float],
    steps_g: tuple[float, float],
    variance_u: np.ndarray,
    variance_v: np.ndarray,
    covariance: np.ndarray,
) -> np.ndarray:
    """Returns E f(u) g(v) of two functions with a jump at 0, for mean 0.

        P(u > 0, v > 0) = (pi - t) / (2 pi)

    Args:
        steps_f: tuple of two floats. The values (b, a) of f above and below 0.
        steps_g: tuple of two floats. Those of g.
        variance_u: Array. The variance of u.
        variance_v: Array. The variance of v.
        covariance: Array. Their covariance.

    Returns:
        Array.

    Reference: Cho & Saul, NeurIPS 22 (2009), degree 0.
    """
    t = angles_between(variance_u, variance_v, covariance)
    both = (math.pi - t) / (2 * math.pi)
    (b, a), (d, c) = steps_f, steps_g
    return a * c + (a * (d - c) + (b - a) * c) / 2 + (b - a) * (d - c) * both


def gaussian_mean(
    f: Function, mean: np.ndarray, variance: np.ndarray
) -> np.ndarray:
    """Returns E f(u) for u ~ N(mean, variance), of 1-D arrays.

    Args:
        f: Function. The function.
        mean: Array. The means.
        variance: Array. The variances, >= 0.

    Returns:
        Array of their shape.

    Raises:
        UnresolvedError: If f varies too fast for quadrature.

    Reference: derived here.
    """
    check_resolved(f, mean, variance, 48)
    f = _resolved(f, variance)
    pairs, inverse = np.unique(
        np.stack([mean, variance]), axis=1, return_inverse=True
    )
    m, root = pairs[0], np.sqrt(pairs[1])
    z, weights = gaussian_rule(_standardized(f.kinks, m, root), 48)
    means = np.sum(weights * f.values(m[:, None] + root[:, None] * z), axis=1)
    return means[inverse.ravel()]


def gaussian_product(
    f: Function,
    g: Function,
    mean_u: np.ndarray,
    mean_v: np.ndarray,
    covariance_uu: np.ndarray,
    covariance_vv: np.ndarray,
    covariance_uv: np.ndarray,
) -> np.ndarray:
    """Returns the matrix E f(u_i) g(v_j) of jointly Gaussian u and v.

    Args:
        f: Function. The function of u.
        g: Function. The function of v.
        mean_u: Array of shape `(n,)`. The means of u.
        mean_v: Array of shape `(m,)`. The means of v.
        covariance_uu: Array of shape `(n,)`. The variances of u.
        covariance_vv: Array of shape `(m,)`. The variances of v.
        covariance_uv: Array of shape `(n, m)`. The covariances.

    Returns:
        Array of shape `(n, m)`.

    Raises:
        UnresolvedError: If f or g varies too fast for quadrature, or too fast
            for the series that many different pairs take.

    Reference: closed forms of Cho & Saul, NeurIPS 22 (2009); the quadrature is
    derived here.
    """
    shape = covariance_uv.shape
    q_u = np.broadcast_to(np.maximum(covariance_uu, 0)[:, None], shape)
    q_v = np.broadcast_to(np.maximum(covariance_vv, 0)[None, :], shape)
    centered = not (np.any(mean_u) or np.any(mean_v))
    known = _closed_form(f, g, q_u, q_v, covariance_uv) if centered else None
    if known is not None:
        return known
    m_u = np.broadcast_to(mean_u[:, None], shape)
    m_v = np.broadcast_to(mean_v[None, :], shape)
    columns = [a.ravel() for a in (m_u, m_v, q_u, q_v, covariance_uv)]
    pairs, inverse = _different_pairs(columns)
    values = _of_different_pairs(f, g, pairs)
    if values is None:
        return _by_series(
            f, g, mean_u, mean_v, covariance_uu, covariance_vv, covariance_uv
        )
    return values[inverse].reshape(shape)


def gaussian_products_of_pairs(
    f: Function,
    g: Function,
    mean_u: np.ndarray,
    mean_v: np.ndarray,
    variance_u: np.ndarray,
    variance_v: np.ndarray,
    covariance: np.ndarray,
) -> np.ndarray:
    """Returns E f(u) g(v) of pairs of jointly Gaussian u and v.

    Args:
        f: Function. The function of u.
        g: Function. The function of v.
        mean_u: Array of shape `(pairs,)`. The mean of u in each pair.
        mean_v: Array of shape `(pairs,)`. That of v.
        variance_u: Array of shape `(pairs,)`. The variance of u.
        variance_v: Array of shape `(pairs,)`. That of v.
        covariance: Array of shape `(pairs,)`. The covariance.

    Returns:
        Array of shape `(pairs,)`.

    Raises:
        UnresolvedError: As `gaussian_product`.

    Reference: as `gaussian_product`.
    """
    q_u, q_v = np.maximum(variance_u, 0), np.maximum(variance_v, 0)
    if not (np.any(mean_u) or np.any(mean_v)):
        known = _closed_form(f, g, q_u, q_v, covariance)
        if known is not None:
            return known
    pairs, inverse = _different_pairs([mean_u, mean_v, q_u, q_v, covariance])
    values = _of_different_pairs(f, g, pairs)
    if values is not None:
        return values[inverse]
    m_u, m_v, q_u, q_v, k = pairs
    a, rest_a = _coefficients(f, m_u, q_u)
    b, rest_b = _coefficients(g, m_v, q_v)
    rho = np.cos(angles_between(q_u, q_v, k))
    values = _series_of_pairs(a * b, rest_a * rest_b, rho, f is g)
    return values[inverse]


class ProductsOfPoints:
    """Means E f(u_i) g(v_j) at many pairs of few points i and j.

    Where there is no closed form, they are the first terms of Mehler's series,
    as many as leave 0.1% of the mean square of f and g, and at most 48.

    Args:
        f: Function. The function of u.
        g: Function. The function of v.
        mean_u: Array of shape `(n,)`. The means of u.
        mean_v: Array of shape `(m,)`. The means of v.
        variance_u: Array of shape `(n,)`. The variances of u.
        variance_v: Array of shape `(m,)`. The variances of v.

    Raises:
        UnresolvedError: As `gaussian_product`.

    Reference: as `gaussian_product`.
    """

    def __init__(
        self,
        f: Function,
        g: Function,
        mean_u: np.ndarray,
        mean_v: np.ndarray,
        variance_u: np.ndarray,
        variance_v: np.ndarray,
    ):
        self.f, self.g = f, g
        self.q_u = np.maximum(variance_u, 0)
        self.q_v = np.maximum(variance_v, 0)
        centered = not (np.any(mean_u) or np.any(mean_v))
        self.closed = centered and bool(
            (f.slopes and g.slopes) or (f.steps and g.steps)
        )
        if not self.closed:
            a, rest_a = _coefficients(f, mean_u, self.q_u)
            b, rest_b = _coefficients(g, mean_v, self.q_v)
            # What is left of the mean squares from each term on.
            left_a, left_b = (
                np.cumsum(c[:, ::-1] ** 2, axis=1)[:, ::-1] + rest[:, None] ** 2
                for c, rest in ((a, rest_a), (b, rest_b))
            )
            many = (left_a > _LEFT * left_a[:, :1]).any(axis=0)
            many |= (left_b > _LEFT * left_b[:, :1]).any(axis=0)
            count = min(int(many.sum()) + 1, _FEW_TERMS)
            self.a, self.b = a[:, :count].T.copy(), b[:, :count].T.copy()
            self.rests = np.sqrt(left_a[:, count]), np.sqrt(left_b[:, count])

    def at(
        self, i: np.ndarray, j: np.ndarray, covariance: np.ndarray
    ) -> np.ndarray:
        """Returns E f(u_i) g(v_j), for arrays that broadcast.

        Args:
            i: int array.
            j: int array.
            covariance: Array. The covariance of u_i and v_j.
        """
        q_u, q_v = self.q_u[i], self.q_v[j]
        if self.closed:
            known = _closed_form(self.f, self.g, q_u, q_v, covariance)
            assert known is not None
            return known
        rho = np.cos(angles_between(q_u, q_v, covariance))
        total = np.zeros(rho.shape)
        if self.f is self.g:
            total += self.rests[0][i] * self.rests[1][j]
        for a, b in zip(self.a[::-1], self.b[::-1], strict=True):
            total = total * rho + a[i] * b[j]
        return total


def _closed_form(
    f: Function,
    g: Function,
    variance_u: np.ndarray,
    variance_v: np.ndarray,
    covariance: np.ndarray,
) -> np.ndarray | None:
    """Returns E f(u) g(v) for mean 0 where it has a closed form, or None."""
    of_pair = variance_u, variance_v, covariance
    if f.slopes and g.slopes:
        return piecewise_linear_product(f.slopes, g.slopes, *of_pair)
    if f.steps and g.steps:
        return step_product(f.steps, g.steps, *of_pair)
    return None


def _different_pairs(
    columns: list[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Returns pairs that differ by more than rounding errors.

    Args:
        columns: list of arrays of shape `(pairs,)`. Two means, two variances
            and a covariance.

    Returns:
        Array of shape `(5, different pairs)`, and of which of them each pair
        is.
    """
    size = max(np.abs(columns[2]).max(), np.abs(columns[3]).max(), 1e-300)
    stacked = np.stack(columns)
    scales = np.array([size**0.5, size**0.5, size, size, size])[:, None]
    _, index, inverse = np.unique(
        np.round(stacked / scales, 13),
        axis=1,
        return_index=True,
        return_inverse=True,
    )
    return stacked[:, index], inverse.ravel()


def _of_different_pairs(
    f: Function, g: Function, pairs: np.ndarray
) -> np.ndarray | None:
    """Returns E f(u) g(v) of pairs `(5, pairs)`, None where a series must."""
    m_u, m_v, q_u, q_v, k = pairs
    resolved = _resolved(f, q_u), _resolved(g, q_v)
    few = pairs.shape[1] <= _FEW_PAIRS and resolved == (f, g)
    nodes = 32 if few else _NODES_OF_MANY
    check_resolved(f, m_u, q_u, nodes)
    check_resolved(g, m_v, q_v, nodes)
    if pairs.shape[1] > _MANY_PAIRS:
        return _by_angles(f, g, *pairs)
    return _by_quadrature(*resolved, m_u, m_v, q_u, q_v, k, nodes)[0]


def product_and_slopes(
    f: Function,
    variance_u: np.ndarray,
    variance_v: np.ndarray,
    covariance: np.ndarray,
    nodes: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns E f(u) f(v) and E f'(u) f'(v) of pairs of mean 0.

    Args:
        f: Function. The function, continuous, and smooth between its kinks.
        variance_u: Array of shape `(pairs,)`. The variances of u, > 0.
        variance_v: Array of shape `(pairs,)`. The variances of v, > 0.
        covariance: Array of shape `(pairs,)`. The covariances.
        nodes: int. The nodes of the quadrature on each panel.

    Returns:
        Two arrays of shape `(pairs,)`.

    Reference: derived here.
    """
    zero = np.zeros(len(covariance))
    return _by_quadrature(
        f, f, zero, zero, variance_u, variance_v, covariance, nodes, slopes=True
    )


def _standardized(
    kinks: tuple[float, ...], mean: np.ndarray, root: np.ndarray
) -> np.ndarray:
    """Returns where a standard normal variable meets kinks, `(n, kinks)`."""
    distance = np.subtract.outer(-mean, -np.array(kinks, dtype=float))
    safe = np.where(root > 0, root, 1.0)[:, None]
    return np.where(root[:, None] > 0, distance / safe, 0.0)


def _by_quadrature(
    f: Function,
    g: Function,
    mean_u: np.ndarray,
    mean_v: np.ndarray,
    variance_u: np.ndarray,
    variance_v: np.ndarray,
    covariance: np.ndarray,
    nodes: int,
    slopes: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns E f(u) g(v) of pairs, each array of shape `(pairs,)`.

    With `slopes`, the second array is E f'(u) g'(v), by the polynomials
    through the values on each panel, and 0 otherwise.

    With independent standard normal x, y, the angle t of u and v,
    c = cos(t / 2) and s = sin(t / 2),

        u = m + sqrt(q) (c x - s y),  v = m' + sqrt(q') (c x + s y).

    The integral over x is cut where u or v is at a kink, and that over y where
    two of these cuts cross. For an angle beyond pi / 2 the function of -v takes
    the place of that of v, so that the cuts do not move faster than y.
    """
    t = angles_between(variance_u, variance_v, covariance)
    flip = np.where(t > math.pi / 2, -1.0, 1.0)
    t = np.where(t > math.pi / 2, math.pi - t, t)
    c, s = np.cos(t / 2), np.sin(t / 2)
    root_u, root_v = np.sqrt(variance_u), np.sqrt(variance_v)
    at_u = _standardized(f.kinks, mean_u, root_u)
    at_v = flip[:, None] * _standardized(g.kinks, mean_v, root_v)
    gaps = (at_v[:, None, :] - at_u[:, :, None]).reshape(len(t), -1)
    twice = np.where(s > 0, 2 * s, 1.0)[:, None]
    crossings = np.where(s[:, None] > 0, gaps / twice, 0.0)
    means, of_slopes = np.empty(len(t)), np.zeros(len(t))
    width = (6 + crossings.shape[1]) * (6 + at_u.shape[1] + at_v.shape[1])
    step = max(1, _CHUNK // (width * nodes * nodes))
    for start in range(0, len(t), step):
        part = slice(start, start + step)
        y, weight_y = gaussian_rule(crossings[part], nodes)
        shift = (s[part, None] * y)[..., None]
        cuts = np.concatenate(
            [at_u[part, None, :] + shift, at_v[part, None, :] - shift], axis=-1
        )
        x, weight_x = gaussian_rule(cuts / c[part, None, None], nodes)
        along = c[part, None, None] * x
        first = f.values(
            mean_u[part, None, None]
            + root_u[part, None, None] * (along - shift)
        )
        second = g.values(
            mean_v[part, None, None]
            + (flip * root_v)[part, None, None] * (along + shift)
        )
        inner = np.sum(weight_x * first * second, axis=-1)
        means[part] = np.sum(weight_y * inner, axis=-1)
        if slopes:
            # Slopes along x, of which those of f and g are multiples.
            rates = panel_slopes(first, along, nodes)
            rates *= panel_slopes(second, along, nodes)
            inner = np.sum(weight_x * rates, axis=-1)
            of_slopes[part] = np.sum(weight_y * inner, axis=-1)
            of_slopes[part] /= (flip * root_u * root_v)[part]
    return means, of_slopes


def _by_angles(
    f: Function,
    g: Function,
    mean_u: np.ndarray,
    mean_v: np.ndarray,
    variance_u: np.ndarray,
    variance_v: np.ndarray,
    covariance: np.ndarray,
) -> np.ndarray | None:
    """Returns E f(u) g(v) of many pairs with few means and variances.

    The product is a smooth function of the angle t = arccos(rho) on [0, pi],
    also where f and g have kinks or jumps. It is computed at Chebyshev points
    of x with t = pi sin(x / 2)^2, which lie close together at both ends, and
    interpolated. None with many means and variances, and where the series of
    cosines does not end.
    """
    columns = np.stack([mean_u, mean_v, variance_u, variance_v])
    size = np.abs(columns).max() or 1.0
    _, index, inverse = np.unique(
        np.round(columns / size, 13),
        axis=1,
        return_index=True,
        return_inverse=True,
    )
    if len(index) > _CLASSES:
        return None
    inverse = inverse.ravel()
    angle = angles_between(variance_u, variance_v, covariance)
    x = 2 * np.arcsin(np.sqrt(np.clip(angle / np.pi, 0, 1)))
    values = np.empty(len(covariance))
    classes = columns[:, index]
    for each, (_, _, q_u, q_v) in enumerate(classes.T):
        functions = _resolved(f, q_u[None]), _resolved(g, q_v[None])

        def at(t: np.ndarray, each: int = each, fg: Any = functions) -> Any:
            one = np.repeat(classes[:, [each]], len(t), axis=1)
            k = np.sqrt(one[2] * one[3]) * np.cos(t)
            arguments = one[0], one[1], one[2], one[3], k, _NODES_OF_MANY
            return _by_quadrature(fg[0], fg[1], *arguments)[0]

        series = _angle_series(at)
        if series is None:
            return None
        (of_class,) = np.nonzero(inverse == each)
        values[of_class] = chebyshev.chebval(np.cos(x[of_class]), series)
    return values


def _angle_series(at: ArrayFunction) -> np.ndarray | None:
    """Returns the coefficients of cos(k x) of a function of pi sin(x / 2)^2."""
    count = _FEW_ANGLES
    while count <= _MANY_ANGLES:
        x = (np.arange(count) + 0.5) * np.pi / count
        values = at(np.pi * np.sin(x / 2) ** 2)
        series = fft.dct(values) / count
        series[0] /= 2
        last = np.abs(series[-count // 4 :]).max()
        if last <= _NEGLIGIBLE * np.abs(values).max():
            return series
        count *= 2
    return None


def _by_series(
    f: Function,
    g: Function,
    mean_u: np.ndarray,
    mean_v: np.ndarray,
    variance_u: np.ndarray,
    variance_v: np.ndarray,
    covariance: np.ndarray,
) -> np.ndarray:
    """Returns E f(u_i) g(v_j) by Mehler's series, for many pairs.

        E f(u) g(v) = sum_k a_k b_k rho^k

    with a_k and b_k the coefficients of f(m + sqrt(q) z) and
    g(m' + sqrt(q') z) in normalized Hermite polynomials. What the first terms
    leave of E f(u)^2 and E g(v)^2 is taken to be at the next power of rho.

    Raises:
        UnresolvedError: As `_coefficients`.
    """
    a, rest_a = _coefficients(f, mean_u, variance_u)
    b, rest_b = _coefficients(g, mean_v, variance_v)
    rho = np.cos(angles_between(variance_u[:, None], variance_v, covariance))
    total = np.zeros(covariance.shape)
    power = np.ones(covariance.shape)
    for k in range(_TERMS):
        total += np.multiply.outer(a[:, k], b[:, k]) * power
        power *= rho
    same = 1.0 if f is g else 0.0
    return total + same * np.multiply.outer(rest_a, rest_b) * power


def _series_of_pairs(
    products: np.ndarray, rests: np.ndarray, rho: np.ndarray, same: bool
) -> np.ndarray:
    """Returns the series of `_by_series` for pairs.

    Args:
        products: Array of shape `(pairs, terms)`. The products a_k b_k.
        rests: Array of shape `(pairs,)`. The products of the rests.
        rho: Array of shape `(pairs,)`. The correlations.
        same: bool. Whether both functions are one.
    """
    total, power = np.zeros(rho.shape), np.ones(rho.shape)
    for k in range(_TERMS):
        total += products[:, k] * power
        power *= rho
    return total + rests * power if same else total


def _coefficients(
    f: Function, mean: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns Hermite coefficients `(n, terms)`, and the root of the rest.

    Raises:
        UnresolvedError: If a share of E f(u)^2 above 3% is left.
    """
    f = _resolved(f, variance)
    pairs, inverse = np.unique(
        np.stack([mean, variance]), axis=1, return_inverse=True
    )
    m, root = pairs[0], np.sqrt(np.maximum(pairs[1], 0))
    z, weights = gaussian_rule(_standardized(f.kinks, m, root), 48)
    values = f.values(m[:, None] + root[:, None] * z)
    coefficients = np.empty((len(m), _TERMS))
    below, polynomial = np.zeros_like(z), np.ones_like(z)
    for k in range(_TERMS):
        coefficients[:, k] = np.sum(weights * values * polynomial, axis=1)
        above = (z * polynomial - math.sqrt(k) * below) / math.sqrt(k + 1)
        below, polynomial = polynomial, above
    squares = np.sum(weights * values**2, axis=1)
    rest = np.maximum(squares - np.sum(coefficients**2, axis=1), 0)
    if np.any(rest > _REST * squares):
        raise UnresolvedError(
            f"a series of {_TERMS} terms leaves more than {_REST:.0%} of "
            "the mean square of a function of a wide variable"
        )
    inverse = inverse.ravel()
    return coefficients[inverse], np.sqrt(rest)[inverse]
