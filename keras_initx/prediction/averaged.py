"""Moments of signals with many positions.

`AveragedMoments` computes a `positions.Table` where `moments.Moments` would
compute a matrix that is too large, by the same rules. Where a rule needs the
channels themselves, as pooling by the largest value does, expressions are
restricted to a block of positions in each cell (`restricted`), and `Moments`
computes the matrix of these few points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_initx.prediction.expressions import (
    Constant,
    Drawn,
    Expression,
    Flat,
    Known,
    Largest,
    Linear,
    Map,
    Mask,
    Mix,
    OneWeight,
    Product,
    Shifted,
    Stack,
    Sum,
    Take,
    Unflat,
    Values,
    White,
    Winner,
    taken,
)
from keras_initx.prediction.moments import SAMPLED, Moments
from keras_initx.prediction.positions import (
    Centering,
    Grid,
    Table,
    Whole,
    of_blocks,
    of_channels,
    of_groups,
    outer,
    read,
    repaired,
    variances_of_pairs,
    zeros,
)
from keras_initx.prediction.refusals import TooManyPointsError, Unpredictable
from keras_initx.theory.mean_field.gaussian_products import (
    gaussian_products_of_pairs,
)

POSITIONS = (
    "positions averaged: pairs of different positions are known as means over "
    "parts of the image; behind two poolings totals were 14% to 31% lower than "
    "those of drawn networks, and gradients up to 9% off; behind one "
    "pooling of photographs the total was 19% too large, and 34% of images "
    "that vary more slowly"
)
# The largest window of a mean over positions.
_MOST_READINGS = 32


class AveragedMoments(Moments):
    """Computes tables where there are more points than a matrix may have.

    Args:
        channels: int. As in `Moments`.
        limit: int. The largest number of points of a matrix.
        seed: int. As in `Moments`.
        samples: int. The number of samples.
    """

    def __init__(self, channels: int, limit: int, seed: int, samples: int):
        super().__init__(channels, 2**20, seed)
        self.most = limit
        self.samples = samples
        self._grids: dict[tuple[int, tuple[int, ...]], Grid] = {}
        self._windows: dict[int, bool] = {}
        self._large: dict[int, bool] = {}
        self._blocks: dict[tuple[int, bytes], np.ndarray] = {}

    def is_large(self, x: Expression) -> bool:
        """Returns whether the moments of an expression are a table."""
        return x.size > self.most

    def grid(self, x: Expression) -> Grid:
        """Returns the samples and the axes of positions of an expression.

        Raises:
            TooManyPointsError: If they are not known.
        """
        places = x.places
        if places is None and not self.is_large(x):
            places = (x.size // self.samples,)
        if places is None:
            raise TooManyPointsError(x.size, self.most)
        count = int(np.prod(places))
        samples = x.size // count
        if samples * count != x.size or samples > self.samples:
            raise TooManyPointsError(x.size, self.most)
        key = (samples, places)
        if key not in self._grids:
            self._grids[key] = Grid(samples, places)
        return self._grids[key]

    def second(self, x: Expression, y: Expression) -> Any:
        """Returns E x_i y_j, a matrix or a table."""
        found = self._second_or_none(x, y)
        if found is not None:
            return found
        if self.is_large(x):
            return zeros(self.grid(x))
        return np.zeros((x.size, y.size))

    def _first_of_draws(self, x: Expression) -> np.ndarray:
        if not self._is_or_reads_large(x):
            return super()._first_of_draws(x)
        grid = self.grid(x)
        self._mark_averaged(x)
        inner, (restricted,) = self._in_blocks(grid, [x])
        values = inner.first(restricted).reshape(grid.samples, -1)
        if SAMPLED in inner.reasons(restricted):
            self._mark_sampled(x)
        return values[:, grid.classes].ravel()

    def _compute_second(self, x: Expression, y: Expression) -> Any:
        if not (self.is_large(x) or self.is_large(y)):
            if self._reads_large(x) or self._reads_large(y):
                return self._small_of_large(x, y)
            return super()._compute_second(x, y)
        if not x.support & y.support and not (x.given and y.given):
            return self._outer(x, y)
        if x.size != y.size or self.grid(x) is not self.grid(y):
            raise TooManyPointsError(max(x.size, y.size), self.most)
        if self._has_windows(x) or self._has_windows(y):
            return self._second_of_draws(x, y)
        for one in (x, y):
            if isinstance(one, Sum) or _is_centered(one):
                return super()._compute_second(x, y)
        if isinstance(x, Take | Stack | Mix) or isinstance(
            y, Take | Stack | Mix
        ):
            return self._second_of_reading(x, y)
        if isinstance(x, OneWeight) and isinstance(y, OneWeight):
            raise Unpredictable(
                "weights of a depthwise convolution are drawn in training "
                f"mode, for {self.most} positions times samples at most: give "
                "a model of smaller inputs"
            )
        grid = self.grid(x)
        if isinstance(x, Unflat) and isinstance(y, Unflat):
            inner = self._second_or_none(x.parts[0], y.parts[0])
            if inner is None:
                return None
            table = zeros(grid)
            table.same[:] = inner[:, :, None]
            table.near[..., len(grid.offsets) // 2] = inner[:, :, None]
            return table
        if isinstance(x, White) and isinstance(y, White):
            return of_groups(grid, x.same, y.same, 1.0, 0.0)
        if isinstance(x, Values) and isinstance(y, Values):
            return of_channels(grid, x.values, y.values)
        if isinstance(x, Mask) and isinstance(y, Mask):
            kept = 1 / (1 - x.rate)
            return of_groups(grid, x.groups, y.groups, kept, 1.0)
        if isinstance(x, Known | Flat) or isinstance(y, Known | Flat):
            raise TooManyPointsError(x.size, self.most)
        return super()._compute_second(x, y)

    def _outer(self, x: Expression, y: Expression) -> Any:
        if not (self.is_large(x) or self.is_large(y)):
            return super()._outer(x, y)
        first, second = self.first(x), self.first(y)
        if not np.any(first) or not np.any(second):
            return None
        if x.size != y.size:
            raise TooManyPointsError(max(x.size, y.size), self.most)
        return outer(self.grid(x), first, second)

    def _rows(self, x: Expression) -> Any:
        if not self.is_large(x):
            return super()._rows(x)
        return outer(self.grid(x), self.first(x), np.ones(x.size))

    def _second_of_given(self, x: Expression, y: Expression) -> Any:
        if not self.is_large(x):
            return super()._second_of_given(x, y)
        first, second = self._on_channels(x), self._on_channels(y)
        return of_channels(self.grid(x), first, second)

    # ---- what reads other points -----------------------------------------

    def _second_of_linear(self, x: Linear, y: Linear) -> Any:
        large = self.is_large(x)
        blocks = [*x.source, *y.source]
        if not large and not any(self.is_large(b.expression) for b in blocks):
            return super()._second_of_linear(x, y)
        scale = x.scale if x.scale == y.scale else np.sqrt(x.scale * y.scale)
        if x.covariance is not None:
            scale = scale * x.covariance[abs(x.index - y.index)]
        if scale == 0:
            return None
        inner = self.second_of_blocks(x.source, y.source)
        if x.taps is None or y.taps is None:
            return scale * inner
        readings = list(zip(x.taps, y.taps, strict=True))
        weights = [(None, None)] * len(readings)
        same = x.source is y.source
        return scale * self._read(x, y, inner, readings, weights, same)

    def _read(
        self,
        x: Expression,
        y: Expression,
        inner: Any,
        readings: Sequence[tuple[np.ndarray, np.ndarray]],
        weights: Sequence[tuple[Any, Any]],
        profile: bool,
    ) -> Any:
        """Returns the sum of what x and y read, as a table or a matrix."""
        target = self.grid(x)
        origin: Table | Whole = inner
        count = inner.shape[0] // target.samples
        if not isinstance(inner, Table):
            origin = Whole(inner, target.samples)
        large = self.is_large(x)
        crossed = any(a is not b for a, b in readings)
        if isinstance(origin, Table) and (crossed or not (large and profile)):
            self._mark_averaged(x, y)
        total: Any = None
        cached: dict[int, np.ndarray] = {}

        def local(index: np.ndarray) -> np.ndarray:
            if id(index) not in cached:
                cached[id(index)] = target.per_sample(index, count)
            return cached[id(index)]

        for (first, second), (left, right) in zip(
            readings, weights, strict=True
        ):
            mine, theirs = local(first), local(second)
            if large:
                term: Any = read(origin, mine, theirs, target, profile)
            else:
                pairs = origin.lookup(mine[:, None], theirs[None, :], profile)
                term = pairs.transpose(0, 2, 1, 3).reshape(x.size, y.size)
            if left is not None:
                term = left[:, None] * term
            if right is not None:
                term = right[None, :] * term
            total = term if total is None else total + term
        if x is y and not large and isinstance(origin, Table):
            return repaired(total, np.arange(x.size) % target.count)
        return total

    def _reads_large(self, x: Expression) -> bool:
        """Returns whether a part of an expression has a table."""
        return any(map(self._is_or_reads_large, x.parts))

    def _is_or_reads_large(self, x: Expression) -> bool:
        if id(x) not in self._large:
            self._kept.append(x)
            self._large[id(x)] = self.is_large(x) or self._reads_large(x)
        return self._large[id(x)]

    def _small_of_large(self, x: Expression, y: Expression) -> Any:
        for one, other, swapped in ((x, y, False), (y, x, True)):
            if isinstance(one, Sum):
                found = self._second_of_sum(one, other)
                return found.T if swapped and found is not None else found
        if not x.support & y.support and not (x.given and y.given):
            return self._outer(x, y)
        if self._has_windows(x) or self._has_windows(y):
            return self._second_of_draws(x, y)
        if isinstance(x, Flat) and isinstance(y, Flat):
            inner = self._second_or_none(x.parts[0], y.parts[0])
            if isinstance(inner, Table):
                return inner.same.mean(axis=2)
            return super()._compute_second(x, y)
        if (
            isinstance(x, Mix)
            and isinstance(y, Mix)
            and _is_mean(x)
            and _is_mean(y)
            and self.is_large(x.parts[0])
            and x.size == y.size == self.grid(x.parts[0]).samples
        ):
            sums: Any = self._second_or_none(x.parts[0], y.parts[0])
            if sums is None:
                return None
            self._mark_averaged(x, y)
            return sums.pair_sums() * x.matrix.max() * y.matrix.max()
        of_x, of_y = self._reads_table(x), self._reads_table(y)
        if of_x and not of_y and isinstance(y, Take | Stack | Mix):
            # The one that reads a matrix comes first.
            found = super()._compute_second(y, x)
            return None if found is None else found.T
        if of_x or of_y:
            return self._second_of_reading(x, y)
        return super()._compute_second(x, y)

    def _reads_table(self, x: Expression) -> bool:
        """Returns whether an expression is made of points of a large one."""
        return isinstance(x, Take | Stack | Mix) and any(
            map(self.is_large, x.parts)
        )

    def _second_of_reading(self, x: Expression, y: Expression) -> Any:
        """Returns the second moments of sums of other points of parts."""
        total: Any = None
        for part, index, weight in _readings(x):
            for other, of_other, factor in _readings(y):
                inner = self._second_or_none(part, other)
                if inner is None:
                    continue
                if part.size != other.size:
                    raise TooManyPointsError(part.size, self.most)
                term = self._read(
                    x,
                    y,
                    inner,
                    [(index, of_other)],
                    [(weight, factor)],
                    part is other,
                )
                total = term if total is None else total + term
        return total

    # ---- functions of common variables -----------------------------------

    def _second_of_pair(
        self, source_x: Any, f: Any, source_y: Any, g: Any
    ) -> Any:
        if not self.is_large(source_x):
            return super()._second_of_pair(source_x, f, source_y, g)
        grid = self.grid(source_x)
        covariance = self.second(source_x, source_y)
        means = [self.first(s) for s in (source_x, source_y)]
        if means[0].any() and means[1].any():
            covariance = covariance + -1.0 * outer(grid, *means)
        ones = np.ones(grid.size)
        flat = [
            np.concatenate([t.same.ravel(), t.near.ravel(), t.far.ravel()])
            for t in (
                outer(grid, means[0], ones),
                outer(grid, ones, means[1]),
                *variances_of_pairs(
                    grid, self._variance(source_x), self._variance(source_y)
                ),
                covariance,
            )
        ]
        values = gaussian_products_of_pairs(f.function, g.function, *flat)
        ends = np.cumsum([covariance.same.size, covariance.near.size])
        same, near, far = np.split(values, ends)
        return Table(
            grid,
            same.reshape(covariance.same.shape),
            near.reshape(covariance.near.shape),
            far.reshape(covariance.far.shape),
        )

    def _has_windows(self, x: Expression) -> bool:
        """Returns whether an expression compares values of a window."""
        if id(x) not in self._windows:
            self._kept.append(x)
            self._windows[id(x)] = isinstance(
                x, Largest | Winner | Drawn
            ) or any(map(self._has_windows, x.parts))
        return self._windows[id(x)]

    def _second_of_draws(self, x: Expression, y: Expression) -> Any:
        if not self._is_or_reads_large(x) and not self._is_or_reads_large(y):
            return super()._second_of_draws(x, y)
        grid = self.grid(x)
        self._mark_averaged(x, y)
        inner, (a, b) = self._in_blocks(grid, [x, y])
        found = of_blocks(
            grid, inner.second(a, b), x is y, _filled(x), _filled(y)
        )
        if SAMPLED in inner.reasons(a) | inner.reasons(b):
            self._mark_sampled(x)
            self._mark_sampled(y)
        if self.is_large(x):
            return found
        every = np.arange(x.size)
        matrix = found.at(every, every)
        return repaired(matrix, every % grid.count) if x is y else matrix

    def at_classes(self, x: Expression, points: np.ndarray) -> np.ndarray:
        """Returns second moments at points, means over their classes."""
        key = (id(x), points.tobytes())
        if key not in self._blocks:
            found = self.second(x, x)
            if isinstance(found, Table):
                matrix = found.in_classes(points, points, True)
            else:
                matrix = found[np.ix_(points, points)]
            self._blocks[key] = matrix
        return self._blocks[key]

    def _in_blocks(
        self, grid: Grid, roots: list[Expression]
    ) -> tuple[Moments, list[Expression]]:
        return _BlockMoments(self), Restriction(self).of(roots, grid)

    def _mark_averaged(self, *xs: Expression) -> None:
        for x in xs:
            self._mark(x, POSITIONS)


class Restricted(Known):
    """The values of a Gaussian vector at some of its points.

    Its second moments are means over all points of the class of each one.

    Args:
        source: Expression. The Gaussian vector.
        points: int array. The points.
        moments: AveragedMoments. It knows the second moments of the source.
    """

    gaussian = True

    def __init__(
        self, source: Expression, points: np.ndarray, moments: AveragedMoments
    ):
        self.source = source
        self.chosen = points
        self.moments = moments
        (family,) = source.support
        second = moments.at_classes(source, points)
        super().__init__(second, family, tuple(moments.reasons(source)))

    def with_other(self, other: Restricted) -> np.ndarray:
        """Returns the second moments with those of another one."""
        found = self.moments.second(self.source, other.source)
        if isinstance(found, Table):
            same = self.source is other.source
            return found.in_classes(self.chosen, other.chosen, same)
        return found[np.ix_(self.chosen, other.chosen)]


class _BlockMoments(Moments):
    """Computes the moments of expressions that are restricted.

    Args:
        outer: AveragedMoments. It knows those of the whole expressions.
    """

    def __init__(self, moments: AveragedMoments):
        super().__init__(moments.channels // 2, 2**20, moments.seed)

    def _compute_second(self, x: Expression, y: Expression) -> Any:
        if isinstance(x, Restricted) and isinstance(y, Restricted):
            if x is y:
                return x.second
            return x.with_other(y) if x.support & y.support else None
        return super()._compute_second(x, y)


class Restriction:
    """Expressions at the blocks of a grid, and what these are made of.

    Args:
        moments: AveragedMoments.
    """

    def __init__(self, moments: AveragedMoments):
        self.moments = moments
        self.needed: dict[int, list[np.ndarray]] = {}
        self.made: dict[int, tuple[np.ndarray, Expression]] = {}

    def of(self, roots: Sequence[Expression], grid: Grid) -> list[Expression]:
        """Returns expressions at the blocks of their grid."""
        points = self.at_blocks(grid)
        for root in roots:
            self.needed.setdefault(id(root), []).append(points)
        # What an expression needs is known when all that use it are.
        order = _from_users_to_parts(roots)
        for x in order:
            every = np.unique(np.concatenate(self.needed[id(x)]))
            self.needed[id(x)] = [every]
            for part, wanted in self.reads(x, every):
                self.needed.setdefault(id(part), []).append(wanted)
        for x in reversed(order):
            every = self.needed[id(x)][0]
            self.made[id(x)] = every, self.build(x, every)
        return [self.at(root, points) for root in roots]

    def at_blocks(self, grid: Grid) -> np.ndarray:
        """Returns the points of all blocks of a grid."""
        starts = np.arange(grid.samples)[:, None] * grid.count
        return (starts + grid.blocks.ravel()).ravel()

    def reads(
        self, x: Expression, points: np.ndarray
    ) -> list[tuple[Expression, np.ndarray]]:
        """Returns the points of its parts that an expression needs."""

        def inside(index: np.ndarray) -> np.ndarray:
            return index[index >= 0]

        if _is_leaf(x):
            return []
        if isinstance(x, Take):
            return [(x.parts[0], inside(x.index[points]))]
        if isinstance(x, Stack):
            return [
                (part, inside(_inverse(at, x.size)[points]))
                for part, at in zip(x.parts, x.at, strict=True)
            ]
        if isinstance(x, Largest):
            taps = [inside(tap[points]) for tap in x.taps]
            return [(x.parts[0], np.concatenate(taps))]
        if isinstance(x, Winner):
            return [
                (x.parts[0], points),
                (x.parts[1], inside(x.owner[points])),
            ]
        if _is_centered(x):
            everywhere = self.at_blocks(self.moments.grid(x))
            return [(x.parts[0], np.concatenate([points, everywhere]))]
        if isinstance(x, Mix):
            rows = x.matrix[points]
            columns = np.unique(rows.nonzero()[1])
            return [(x.parts[0], columns)]
        if isinstance(x, Shifted):
            return [(x.part, points)]
        if isinstance(x, Sum | Product | Map | Drawn):
            return [(part, points) for part in x.parts]
        raise TooManyPointsError(x.size, self.moments.most)

    def build(self, x: Expression, points: np.ndarray) -> Expression:
        """Returns an expression at points."""
        if isinstance(x, White):
            (family,) = x.support
            return White(len(points), family, x.same[points])
        if isinstance(x, Values):
            (family,) = x.support
            return Values(x.values[:, points], family)
        if isinstance(x, Mask):
            (family,) = x.support
            return Mask(x.rate, x.groups[points], family)
        if isinstance(x, Constant):
            return Constant(x.values[points])
        if _is_leaf(x):
            return Restricted(x, points, self.moments)
        if isinstance(x, Take):
            return self.at(x.parts[0], x.index[points])
        if isinstance(x, Stack):
            terms = [
                self.at(part, _inverse(at, x.size)[points])
                for part, at in zip(x.parts, x.at, strict=True)
            ]
            return Sum(terms, [1.0] * len(terms))
        if isinstance(x, Largest):
            part, every = self.whole(x.parts[0])
            return Largest(part, [_local(every, t[points]) for t in x.taps])
        if isinstance(x, Winner):
            largest, windows = self.whole(x.parts[1])
            every = self.made[id(x.parts[0])][0]
            assert isinstance(largest, Largest)
            winner = Winner(largest, _local(windows, x.owner[every]))
            return taken(winner, _local(every, points))
        if isinstance(x, Mix):
            return self.mixed(x, points)
        if isinstance(x, Shifted):
            return Shifted(self.at(x.part, points), x.shift)
        parts = [self.at(part, points) for part in x.parts]
        if isinstance(x, Sum):
            factors = [
                np.asarray(f)[points] if np.ndim(f) else f for f in x.factors
            ]
            return Sum(parts, factors, tuple(x.reasons))
        if isinstance(x, Product):
            return Product(parts)
        if isinstance(x, Map):
            return Map(x.function, parts)
        assert isinstance(x, Drawn)
        return Drawn(parts[0])

    def whole(self, x: Expression) -> tuple[Expression, np.ndarray]:
        """Returns an expression at all points that are needed, and these."""
        points, made = self.made[id(x)]
        return made, points

    def at(self, x: Expression, points: np.ndarray) -> Expression:
        """Returns an expression at points, which it was made for, or -1."""
        every, made = self.made[id(x)]
        return taken(made, _local(every, points))

    def mixed(self, x: Mix, points: np.ndarray) -> Expression:
        """Returns a matrix times an expression, at points.

        The mean over all points of a channel that is not normal is taken over
        the blocks.
        """
        part, every = self.whole(x.parts[0])
        if isinstance(x.matrix, Centering):
            everywhere = self.at_blocks(self.moments.grid(x))
            counts = np.bincount(
                _local(every, everywhere), minlength=len(every)
            )
            rows = (points[:, None] == every).astype(float)
            matrix = x.matrix.scale * (rows - counts / counts.sum())
        else:
            chosen = x.matrix[points][:, every]
            matrix = np.asarray(
                chosen if isinstance(chosen, np.ndarray) else chosen.toarray()
            )
        return Mix(part, matrix, tuple(x.reasons))


def _is_centered(x: Expression) -> bool:
    return isinstance(x, Mix) and isinstance(x.matrix, Centering)


def _is_mean(x: Expression) -> bool:
    """Returns whether an expression is the mean over all positions."""
    if not isinstance(x, Mix) or isinstance(x.matrix, Centering):
        return False
    rows, _ = x.matrix.nonzero()
    high = x.matrix.max()
    return (
        len(rows) == x.matrix.shape[1]
        and abs(x.matrix.sum() - high * len(rows)) < 1e-9 * high * len(rows)
        and bool(np.all(np.bincount(rows) == len(rows) // x.size))
    )


def _filled(x: Expression) -> np.ndarray:
    """Returns where an expression is not 0 in all channels, `(points,)`."""
    if isinstance(x, Winner):
        return x.owner >= 0
    if isinstance(x, Take):
        return (x.index >= 0) & _filled(x.parts[0])[np.maximum(x.index, 0)]
    every = [_filled(p) for p in x.parts if p.size == x.size]
    if not every or not isinstance(x, Product | Sum):
        return np.ones(x.size, bool)
    join = np.logical_and if isinstance(x, Product) else np.logical_or
    return join.reduce(every)


def _is_leaf(x: Expression) -> bool:
    """Returns whether an expression is restricted without its parts."""
    if isinstance(x, White | Values | Mask | Constant | Linear | Unflat):
        return True
    return _is_centered(x) and x.gaussian and len(x.support) == 1


def _children(x: Expression) -> list[Expression]:
    if _is_leaf(x):
        return []
    return [x.part] if isinstance(x, Shifted) else list(x.parts)


def _from_users_to_parts(roots: Sequence[Expression]) -> list[Expression]:
    """Returns all expressions, each one before what it is made of."""
    order: list[Expression] = []
    seen: set[int] = set()
    waiting = [(root, False) for root in roots]
    while waiting:
        x, done = waiting.pop()
        if done:
            order.append(x)
        elif id(x) not in seen:
            seen.add(id(x))
            waiting.append((x, True))
            waiting += [(part, False) for part in _children(x)]
    return order[::-1]


def _local(every: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Returns where points are in a sorted array, -1 for those that are not."""
    at = np.minimum(np.searchsorted(every, points), len(every) - 1)
    return np.where(every[at] == points, at, -1)


def _inverse(at: np.ndarray, size: int) -> np.ndarray:
    """Returns which of some points each of `size` points is, -1 for none."""
    inverse = np.full(size, -1)
    inverse[at] = np.arange(len(at))
    return inverse


def _readings(
    x: Expression,
) -> list[tuple[Expression, np.ndarray, np.ndarray | None]]:
    """Returns an expression as a sum of others at other points.

    Returns:
        List of an expression, the point of it that each point reads, and a
        factor for each point, None for 1.
    """
    if isinstance(x, Take):
        return [(x.parts[0], x.index, None)]
    if isinstance(x, Stack):
        return [
            (part, _inverse(at, x.size), None)
            for part, at in zip(x.parts, x.at, strict=True)
        ]
    if not isinstance(x, Mix):
        return [(x, np.arange(x.size), None)]
    rows, columns = x.matrix.nonzero()
    order = np.argsort(rows, kind="stable")
    rows, columns = rows[order], columns[order]
    counts = np.bincount(rows, minlength=x.size)
    rank = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
    if len(rank) and rank.max() >= _MOST_READINGS:
        raise TooManyPointsError(x.parts[0].size, x.size)
    values = np.asarray(x.matrix[rows, columns]).ravel()
    found: list[tuple[Expression, np.ndarray, np.ndarray | None]] = []
    for k in range(rank.max() + 1 if len(rank) else 0):
        at = rank == k
        index, weight = np.full(x.size, -1), np.zeros(x.size)
        index[rows[at]], weight[rows[at]] = columns[at], values[at]
        found.append((x.parts[0], index, weight))
    return found
