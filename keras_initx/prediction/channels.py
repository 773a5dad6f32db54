"""Draws of the channels that expressions stand for.

The variables of an expression are drawn, each once, and the expression is
computed on them. Gaussian vectors of one family are drawn one after the other,
each given those before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
from scipy import linalg

from keras_initx.prediction.expressions import (
    Constant,
    Drawn,
    Expression,
    Flat,
    Largest,
    Map,
    Mask,
    Mix,
    OneWeight,
    Product,
    Shifted,
    Stack,
    Standardized,
    StandardizedGradient,
    Sum,
    Take,
    Values,
    Winner,
)
from keras_initx.prediction.refusals import Unpredictable

# Expressions whose values on drawn channels are those of their parts, combined.
_COMBINED = (
    *(Sum, Product, Map, Take, Stack, Mix, Largest, Winner),
    StandardizedGradient,
)
# How many numbers are kept of what can be computed again.
_KEPT_VALUES = 2**26


class _Family:
    """The Gaussian vectors of one family that are drawn, one after the other.

    With the normal draws z of all of them, u = L z, and C the covariance of all
    of them, C = L L^T.
    """

    def __init__(self) -> None:
        self.members: list[Expression] = []
        self.root = np.zeros((0, 0))
        self.normal: list[np.ndarray] = []


class _Recent:
    """The arrays that were used last, up to a number of entries together."""

    def __init__(self) -> None:
        self._arrays: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._entries = 0

    def get(self, key: Hashable) -> np.ndarray | None:
        if key in self._arrays:
            self._arrays.move_to_end(key)
        return self._arrays.get(key)

    def add(self, key: Hashable, array: np.ndarray) -> None:
        self.drop(key)
        self._arrays[key] = array
        self._entries += array.size
        while self._entries > _KEPT_VALUES and len(self._arrays) > 1:
            self.drop(next(iter(self._arrays)))

    def drop(self, key: Hashable) -> None:
        array = self._arrays.pop(key, None)
        if array is not None:
            self._entries -= array.size

    def keys(self) -> set[Hashable]:
        return set(self._arrays)


class Channels:
    """Values of expressions on channels that are drawn.

    Args:
        count: int. The number of channels.
        seed: int. The seed of the draws.
        second: callable. From two expressions to their second moments.
    """

    def __init__(
        self,
        count: int,
        seed: int,
        second: Callable[[Expression, Expression], np.ndarray],
    ):
        self.count = count
        self.seed = seed
        self.second = second
        # The values of variables, which must not be drawn again, and of
        # functions, of which all later ones are made.
        self._values: dict[Hashable, np.ndarray] = {}
        self._computed = _Recent()
        self._kept: list[Expression] = []
        # The Gaussian vectors that are drawn, by family.
        self._families: dict[Hashable, _Family] = {}
        # The weights that are drawn, by support.
        self._weights: dict[Hashable, np.ndarray] = {}
        # The draws of `Shifted`, by the shift.
        self._shifted: dict[int, Channels] = {}
        self._generators = 0

    def values(self, x: Expression) -> np.ndarray:
        """Returns an expression on drawn channels, `(channels, points)`."""
        if isinstance(x, Shifted):
            return self._at_shift(x.shift).values(x.part)
        key = _key(x)
        found = self._values.get(key)
        if found is None:
            found = self._computed.get(key)
        if found is None:
            # An expression is known by its id, so it must stay.
            self._kept.append(x)
            if isinstance(x, Drawn):
                return self._values_of_drawn(x)
            found = self._compute_values(x)
            if isinstance(x, _COMBINED) and not isinstance(x, Map):
                self._computed.add(key, found)
            else:
                self._values[key] = found
        return found

    def set_values(self, x: Expression, values: np.ndarray) -> None:
        """Sets an expression on the channels, which are drawn elsewhere."""
        self._kept.append(x)
        self._values[id(x)] = values

    def _values_of_drawn(self, x: Drawn) -> np.ndarray:
        """Returns the values of the part, and drops those it is made of.

        Variables, which must not be drawn again, and other `Drawn` are kept.
        """
        before = self._computed.keys() | set(self._values)
        values = self.values(x.parts[0])
        for one in self._made_of(x, before):
            self._computed.drop(_key(one))
            self._values.pop(_key(one), None)
        self._values[id(x)] = values
        return values

    def _product(self, factors: Sequence[Expression]) -> np.ndarray:
        """Returns the values of a product.

        Going back through a network, each product is one of before, times one
        more factor, the first one.
        """
        ids = tuple(map(id, factors))
        at = len(factors) - 1
        product = self.values(factors[at])
        for i in range(1, at):
            known = self._computed.get(ids[i:])
            if known is not None:
                at, product = i, known
                break
        for factor in reversed(factors[:at]):
            product = self.values(factor) * product
        return product

    def _made_of(self, x: Drawn, before: set[Hashable]) -> list[Expression]:
        """Returns the sums, products and functions that a `Drawn` is made of.

        Those whose values were known before are left out.
        """
        found: list[Expression] = []
        waiting = list(x.parts)
        while waiting:
            one = waiting.pop()
            if _key(one) in before or isinstance(one, Drawn):
                continue
            if isinstance(one, _COMBINED):
                found.append(one)
                waiting += one.parts
        return found

    def _compute_values(self, x: Expression) -> np.ndarray:
        if isinstance(x, Constant):
            return np.broadcast_to(x.values, (self.count, x.size))
        if isinstance(x, Product):
            return self._product(x.parts)
        if isinstance(x, _COMBINED):
            return combined(x, [self.values(part) for part in x.parts])
        if isinstance(x, Values):
            rng = self._generator()
            count = -(-self.count // len(x.values))
            index = np.tile(np.arange(len(x.values)), count)[: self.count]
            return x.values[rng.permutation(index)]
        if isinstance(x, Flat):
            # Each channel of the result is a position of one of the part.
            inner = self.values(x.parts[0])
            split = inner.reshape(self.count, x.size, x.positions)
            channels = np.arange(self.count)
            return split[channels, :, channels % x.positions]
        if isinstance(x, OneWeight):
            if x.support not in self._weights:
                self._weights[x.support] = drawn_weights(
                    self._generator(), self.count, x.entries
                )
            weight = self._weights[x.support]
            return np.broadcast_to(weight[:, None], (self.count, x.size))
        if isinstance(x, Mask):
            rng = self._generator()
            _, groups = np.unique(x.groups, return_inverse=True)
            draws = rng.random((self.count, groups.max() + 1)) >= x.rate
            return draws[:, groups] / (1 - x.rate)
        if x.gaussian:
            return self._gaussian_values(x)
        raise Unpredictable(
            f"the moments of {type(x).__name__.lower()} channels are not known"
        )

    def _at_shift(self, shift: int) -> Channels:
        """Returns the draws of the channels at a shift."""
        if shift not in self._shifted:
            seed = self.seed + (shift << 32)
            self._shifted[shift] = Channels(self.count, seed, self.second)
        return self._shifted[shift]

    def _gaussian_values(self, x: Expression) -> np.ndarray:
        """Draws a Gaussian vector, given those of its family drawn before."""
        (name,) = x.support or (None,)
        family = self._families.setdefault(name, _Family())
        covariance = self.second(x, x)
        normal = whitened_normal(self._generator(), self.count, x.size)
        count = len(family.root)
        known = np.zeros((x.size, 0))
        if count:
            # u2 given z1 has the mean R z1, R = C21 L1^-T, and the covariance
            # C22 - R R^T.
            crossed = [self.second(x, member) for member in family.members]
            known = _solved(family.root, np.concatenate(crossed, axis=1))
        root = lower_root(covariance - known @ known.T)
        # Moments that are averaged over positions may be no covariance, and
        # what is near them then has larger variances.
        variance = np.diagonal(covariance).clip(0)
        found = (known**2).sum(axis=1) + (root**2).sum(axis=1)
        scale = np.sqrt(variance / np.where(found > 0, found, 1.0))[:, None]
        known, root = scale * known, scale * root
        values = normal @ root.T
        if count:
            values = values + np.concatenate(family.normal, axis=1) @ known.T
        family.members.append(x)
        family.normal.append(normal)
        family.root = np.block(
            [[family.root, np.zeros((count, x.size))], [known, root]]
        )
        return values

    def _generator(self) -> np.random.Generator:
        self._generators += 1
        return np.random.default_rng([self.seed, self._generators])


def _key(x: Expression) -> Hashable:
    """Returns what the values of an expression are kept under."""
    if isinstance(x, Product):
        return tuple(map(id, x.parts))
    return id(x)


def _solved(root: np.ndarray, crossed: np.ndarray) -> np.ndarray:
    """Returns C L^-T for a lower triangular L, 0 for its rows of zeros."""
    empty = np.diagonal(root) == 0
    if empty.any():
        root = root + np.diag(empty.astype(float))
    return linalg.solve_triangular(root, crossed.T, lower=True).T


def lower_root(covariance: np.ndarray) -> np.ndarray:
    """Returns a lower triangular root of a covariance, which may be singular.

    Eigenvalues below 1e-12 of the largest one are replaced by that number.
    """
    size = float(np.diagonal(covariance).max())
    if size <= 0:
        return np.zeros_like(covariance)
    try:
        return np.linalg.cholesky(
            covariance + 1e-12 * size * np.eye(len(covariance))
        )
    except np.linalg.LinAlgError:
        scale, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(scale, 1e-12 * scale.max()))
        return np.linalg.qr(root.T)[1].T


def whitened_normal(
    rng: np.random.Generator, count: int, size: int
) -> np.ndarray:
    """Returns normal draws whose second moments are exactly the identity.

    Args:
        rng: numpy.random.Generator.
        count: int. The number of draws, even. Half of them are the others with
            the opposite sign.
        size: int. The number of independent variables.

    Returns:
        Array of shape `(count, size)`.

    Reference: antithetic draws and moment matching, as in Boyle, Broadie &
    Glasserman, Journal of Economic Dynamics and Control 21 (1997).
    """
    z = rng.standard_normal((count // 2, size))
    if 2 * size <= count // 2 and size:
        z = z @ np.linalg.inv(np.linalg.cholesky(z.T @ z / len(z))).T
    return np.concatenate([z, -z])


def drawn_weights(
    rng: np.random.Generator, count: int, entries: np.ndarray
) -> np.ndarray:
    """Returns draws of given entries with either sign.

    Each of `count` equal shares of the sorted magnitudes is drawn once, so that
    a mean of 1 / w^2 varies little.

    Args:
        rng: numpy.random.Generator.
        count: int. The number of draws.
        entries: Array of shape `(entries,)`.
    """
    share = (rng.permutation(count) + rng.random(count)) / count
    sizes = np.sort(np.abs(entries))
    size = sizes[(share * len(sizes)).astype(int)]
    return size * rng.choice([-1.0, 1.0], count)


def combined(x: Expression, parts: list[np.ndarray]) -> np.ndarray:
    """Returns an expression on channels from its parts on them."""
    if isinstance(x, Sum):
        return total_of(
            f * part for f, part in zip(x.factors, parts, strict=True)
        )
    if isinstance(x, Product):
        product = parts[0]
        for part in parts[1:]:
            product = product * part
        return product
    if isinstance(x, Map):
        return x.function.values(*np.broadcast_arrays(*parts))
    if isinstance(x, Largest | Winner | Standardized | StandardizedGradient):
        return x.on(*parts)
    if isinstance(x, Take):
        (inside,) = np.nonzero(x.index >= 0)
        read = parts[0].take(x.index[inside], axis=1)
        if len(inside) == x.size:
            return read
        values = np.zeros((len(read), x.size))
        values[:, inside] = read
        return values
    if isinstance(x, Stack):
        values = np.zeros((len(parts[0]), x.size))
        for part, points in zip(parts, x.at, strict=True):
            values[:, points] = part
        return values
    assert isinstance(x, Mix)
    return parts[0] @ x.matrix.T


def rows_at(matrix: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Returns rows of a matrix, and zeros where the index is -1."""
    rows = matrix[np.maximum(index, 0)]
    if (index < 0).any():
        rows = np.where((index < 0)[:, None], 0.0, rows)
    return rows


def total_of(terms: Iterable[np.ndarray]) -> np.ndarray:
    """Returns the sum of several arrays, at least one."""
    total, *others = terms
    for term in others:
        total = total + term
    return total
