"""Moments of signals with many positions.

`AveragedMoments` computes a `positions.Table` where `moments.Moments` would
compute a matrix that is too large, by the same rules. Where a rule needs the
channels themselves, as pooling by the largest value does, expressions are
computed on channels that are drawn for a pair of positions and what they read
(`PairsOfPositions`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from keras_initx.prediction.channels import Channels, whitened_normal
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
    Standardized,
    StandardizedGradient,
    Sum,
    Take,
    Unflat,
    Values,
    White,
    Winner,
    taken,
)
from keras_initx.prediction.moments import Moments
from keras_initx.prediction.positions import (
    Centering,
    Grid,
    Table,
    Whole,
    of_channels,
    of_drawn,
    of_groups,
    outer,
    read,
    repaired,
    zeros,
)
from keras_initx.prediction.refusals import TooManyPointsError, Unpredictable
from keras_initx.theory.mean_field.gaussian_products import (
    ProductsOfPoints,
    gaussian_products_of_pairs,
)

POSITIONS = (
    "positions averaged: pairs of distant positions are known as means over "
    "parts of the image, and pooling windows are drawn; behind poolings of "
    "photographs, smoother images and noise, totals were at most 7% off and "
    "gradients at most 11%"
)
# The largest window of a mean over positions.
_MOST_READINGS = 32
# About how many values are drawn for a table, how many of them at once, and the
# bounds of how many channels that makes.
_VALUES, _AT_ONCE = 2**25, 2**21
_FEWEST, _MOST = 256, 4096
# How many values may be drawn for a pair of positions, whose covariance has a
# root that takes as many steps.
_MOST_OF_PAIR = 512
# The number of entries of all covariances that are drawn from.
_ENTRIES = 2**25
# How many positions stand for all of them in a mean within a pooling window.
_SPREAD = 16
# The share of a variance that is taken to be a rounding error.
_NOTHING = 1e-9


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
        self._draws = 0

    def is_large(self, x: Expression) -> bool:
        """Returns whether the moments of an expression are a table."""
        return x.size > self.most

    def check_maximum(self, x: Expression) -> None:
        """Implements `Moments.check_maximum`."""
        if self._is_or_reads_large(x):
            raise Unpredictable(
                f"its maximum over {x.size // self.samples} positions is "
                f"drawn, for at most {self.most // self.samples} positions in "
                "a model of large images: give smaller images, or put a "
                "pooling and a convolution before it"
            )

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
        self._mark_sampled(x)
        every = np.arange(grid.count)
        return PairsOfPositions(self, x, x).means(every).ravel()

    def _compute_second(self, x: Expression, y: Expression) -> Any:
        if not (self.is_large(x) or self.is_large(y)):
            if self._is_or_reads_large(x) or self._is_or_reads_large(y):
                return self._small_of_large(x, y)
            return super()._compute_second(x, y)
        if not x.support & y.support and not (x.given and y.given):
            return self._outer(x, y)
        if x.size != y.size or self.grid(x) is not self.grid(y):
            raise TooManyPointsError(max(x.size, y.size), self.most)
        if x.given and y.given and len(x.support | y.support) == 1:
            return self._second_of_given(x, y)
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
            table.near[:, :, grid.middle] = inner[:, :, None]
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
        known = np.ones(len(target.offsets), bool)
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
                term: Any
                term, reached = read(origin, mine, theirs, target, profile)
                known &= reached
            else:
                pairs = origin.lookup(mine[:, None], theirs[None, :], profile)
                term = pairs.transpose(0, 2, 1, 3).reshape(x.size, y.size)
            if left is not None:
                term = left[:, None] * term
            if right is not None:
                term = right[None, :] * term
            total = term if total is None else total + term
        if large:
            total.fill(~known, profile)
        if x is y and not large and isinstance(origin, Table):
            return repaired(total, np.arange(x.size) % target.count)
        return total

    def _is_or_reads_large(self, x: Expression) -> bool:
        """Returns whether an expression or a part of it has a table."""
        return x.points > self.most

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
        split = (grid.samples, grid.count)
        m_x, m_y = (mean.reshape(split) for mean in means)
        q_x, q_y = (
            self._variance(s).reshape(split) for s in (source_x, source_y)
        )
        mean_x, mean_y = grid.means(m_x), grid.means(m_y)
        root_x, root_y = grid.means(np.sqrt(q_x)), grid.means(np.sqrt(q_y))
        of_x, of_y = np.s_[:, None, :, None], np.s_[None, :, None, :]
        shape = covariance.far.shape
        columns = [
            np.concatenate([same.ravel(), np.broadcast_to(far, shape).ravel()])
            for same, far in (
                (np.repeat(m_x, grid.samples, axis=0), mean_x[of_x]),
                (np.tile(m_y, (grid.samples, 1)), mean_y[of_y]),
                (np.repeat(q_x, grid.samples, axis=0), root_x[of_x] ** 2),
                (np.tile(q_y, (grid.samples, 1)), root_y[of_y] ** 2),
                (covariance.same, covariance.far),
            )
        ]
        values = gaussian_products_of_pairs(f.function, g.function, *columns)
        table = zeros(grid)
        same, far = np.split(values, [covariance.same.size])
        table.same, table.far = (
            same.reshape(table.same.shape),
            far.reshape(shape),
        )
        products = ProductsOfPoints(
            f.function, g.function, *(v.ravel() for v in (m_x, m_y, q_x, q_y))
        )
        for k, q in enumerate(grid.moved):
            (p,) = np.nonzero(q >= 0)
            starts = np.arange(grid.samples) * grid.count
            table.near[:, :, k, p] = products.at(
                starts[:, None, None] + p,
                starts[None, :, None] + q[p],
                covariance.near[:, :, k, p],
            )
        return table

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
        self._mark_sampled(x)
        self._mark_sampled(y)
        pairs = PairsOfPositions(self, x, y)
        found = of_drawn(grid, pairs.products, x is y, pairs.most())
        if self.is_large(x):
            return found
        every = np.arange(x.size)
        matrix = found.at(every, every, x is y)
        return repaired(matrix, every % grid.count) if x is y else matrix

    def new_seed(self) -> list[int]:
        """Returns a seed that no other draws have."""
        self._draws += 1
        return [self.seed, self._draws]

    def lookup_between(self, x: Expression, y: Expression) -> Table | Whole:
        """Returns the second moments of two, to look entries up."""
        found = self.second(x, y)
        if isinstance(found, Table):
            return found
        return Whole(found, self.grid(x).samples)

    def _mark_averaged(self, *xs: Expression) -> None:
        for x in xs:
            self._mark(x, POSITIONS)


class Restricted(Known):
    """A Gaussian vector at some of its points, in groups.

    Args:
        source: Expression. The Gaussian vector.
        codes: int array. The group of each point times the number of points of
            the source, and its number, sorted.
    """

    gaussian = True

    def __init__(self, source: Expression, codes: np.ndarray):
        (family,) = source.support
        super().__init__(np.zeros((len(codes), 0)), family, ())
        self.source = source
        self.codes = codes


class PairsOfPositions:
    """Draws two expressions at pairs of positions.

    Each pair is a group: what the expressions read of other positions is drawn
    for the pair alone, for all samples together. A point of a group is known by
    a code, the number of the group times the number of points, and its own
    number.

    Args:
        moments: AveragedMoments. It knows the second moments of what is drawn.
        x: Expression.
        y: Expression, with the same grid.
    """

    def __init__(self, moments: AveragedMoments, x: Expression, y: Expression):
        self.moments = moments
        self.x, self.y = x, y
        self.grid = moments.grid(x)
        self.middle = np.array([self.grid.count // 2])
        self.order = _from_users_to_parts([x, y])

    def products(self, p: np.ndarray, q: np.ndarray) -> np.ndarray:
        """Returns E x_(a,p) y_(b,q), of shape `(samples, samples, pairs)`."""
        parts = [
            np.einsum("cga,cgb->abg", x, y) / len(x)
            for x, y in self._values(p, q)
        ]
        return np.concatenate(parts, axis=-1)

    def means(self, p: np.ndarray) -> np.ndarray:
        """Returns E x_(a,p), of shape `(samples, positions)`."""
        parts = [x.mean(axis=0).T for x, _ in self._values(p, p)]
        return np.concatenate(parts, axis=-1)

    def most(self) -> int:
        """Returns how many pairs of different positions may be drawn."""
        size = self._size(np.array([0]), self.middle)
        if size > _MOST_OF_PAIR:
            raise Unpredictable(
                f"a pooling window of it depends on {size} values of a larger "
                "tensor, whose moments are averaged over positions, and "
                f"{_MOST_OF_PAIR} are drawn at most: give a model of smaller "
                "inputs, or predict with training=False"
            )
        return max(_ENTRIES // size**2, 1)

    def _size(self, p: np.ndarray, q: np.ndarray) -> int:
        """Returns how many values are drawn for a pair of positions."""
        return sum(map(len, self._needed(p, q)[0].values()))

    def _values(
        self, p: np.ndarray, q: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Draws x at p and y at q, each `(channels, pairs, samples)`."""
        if not len(p):
            empty = np.zeros((1, 0, self.grid.samples))
            yield empty, empty
            return
        half = slice(len(p) // 2, len(p) // 2 + 1)
        size = self._size(p[half], q[half])
        channels = _VALUES // (size * len(p))
        channels = min(max(channels, _FEWEST), _MOST) // 2 * 2
        step = max(1, _AT_ONCE // (size * channels))
        rng = np.random.default_rng(self.moments.new_seed())
        for start in range(0, len(p), step):
            part = slice(start, start + step)
            yield self._drawn(p[part], q[part], channels, rng)

    def _needed(
        self, p: np.ndarray, q: np.ndarray
    ) -> tuple[dict[int, np.ndarray], np.ndarray, np.ndarray]:
        """Returns the codes at which each expression is needed, sorted."""
        starts = np.arange(self.grid.samples) * self.grid.count
        groups = np.arange(len(p))[:, None] * self.grid.size
        of_x = groups + starts + p[:, None]
        of_y = groups + starts + q[:, None]
        waiting: dict[int, list[np.ndarray]] = {}
        waiting.setdefault(id(self.x), []).append(of_x.ravel())
        waiting.setdefault(id(self.y), []).append(of_y.ravel())
        needed: dict[int, np.ndarray] = {}
        # What an expression needs is known when all that use it are.
        for x in self.order:
            wanted = np.unique(np.concatenate(waiting[id(x)]))
            # One point where no window is read, as at an uneven border.
            needed[id(x)] = wanted if len(wanted) else np.zeros(1, int)
            for part, wanted in self._reads(x, needed[id(x)]):
                waiting.setdefault(id(part), []).append(wanted[wanted >= 0])
        return needed, of_x, of_y

    def _drawn(
        self,
        p: np.ndarray,
        q: np.ndarray,
        channels: int,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        self.needed, of_x, of_y = self._needed(p, q)
        self.made: dict[int, Expression] = {}
        for x in reversed(self.order):
            self.made[id(x)] = self._build(x, self.needed[id(x)])
        drawn = Channels(channels, int(rng.integers(2**32)), _no_second)
        families: dict[Any, list[Restricted]] = {}
        for each in self.made.values():
            if isinstance(each, Restricted):
                families.setdefault(each.source.support, []).append(each)
        for family in families.values():
            found = self._of_family(family, channels, rng, len(p))
            for each, value in zip(family, found, strict=True):
                drawn.set_values(each, value)

        def values(x: Expression, codes: np.ndarray) -> np.ndarray:
            at = np.searchsorted(self.needed[id(x)], codes)
            return drawn.values(self.made[id(x)])[:, at]

        return values(self.x, of_x), values(self.y, of_y)

    def _of_family(
        self,
        family: list[Restricted],
        channels: int,
        rng: np.random.Generator,
        groups: int,
    ) -> list[np.ndarray]:
        """Draws Gaussian vectors of one family in all groups."""
        places = []
        for each in family:
            grid = self.moments.grid(each.source)
            group, point = np.divmod(each.codes, grid.size)
            places.append(_in_rows(group, point % grid.count, groups))
        samples = self.grid.samples
        rows = []
        for x, at in zip(family, places, strict=True):
            row = []
            for y, others in zip(family, places, strict=True):
                second = self.moments.lookup_between(x.source, y.source)
                found = second.lookup(
                    at[:, :, None], others[:, None, :], x is y
                )
                found = found.transpose(2, 3, 0, 4, 1)
                row.append(
                    found.reshape(
                        groups, at.shape[1] * samples, others.shape[1] * samples
                    )
                )
            rows.append(np.concatenate(row, axis=2))
        root = _roots(np.concatenate(rows, axis=1))
        normal = whitened_normal(rng, channels, root.shape[2])
        values = root @ normal.T
        parts, start = [], 0
        for x, at in zip(family, places, strict=True):
            stop = start + at.shape[1] * samples
            part = values[:, start:stop].reshape(
                groups, at.shape[1], samples, channels
            )
            grid = self.moments.grid(x.source)
            group, point = np.divmod(x.codes, grid.size)
            # The rank of a position among those of its group.
            rank = (at[group] == (point % grid.count)[:, None]).argmax(axis=1)
            parts.append(part[group, rank, point // grid.count].T)
            start = stop
        return parts

    def _reads(
        self, x: Expression, codes: np.ndarray
    ) -> list[tuple[Expression, np.ndarray]]:
        """Returns the codes of its parts that an expression needs, or -1."""
        if _is_leaf(x):
            return []
        if isinstance(x, Take):
            return [(x.parts[0], _moved(codes, x, x.index, x.parts[0]))]
        if isinstance(x, Stack):
            return [
                (part, _moved(codes, x, _inverse(at, x.size), part))
                for part, at in zip(x.parts, x.at, strict=True)
            ]
        if isinstance(x, Largest):
            taps = [_moved(codes, x, tap, x.parts[0]) for tap in x.taps]
            return [(x.parts[0], np.concatenate(taps))]
        if isinstance(x, Winner):
            return [
                (x.parts[0], codes),
                (x.parts[1], _moved(codes, x, x.owner, x.parts[1])),
            ]
        if _is_centered(x):
            everywhere = self._spread(x, codes)
            return [(x.parts[0], np.concatenate([codes, everywhere]))]
        if isinstance(x, Mix):
            return [(x.parts[0], _entries(x, codes)[1])]
        if isinstance(x, Shifted):
            return [(x.part, codes)]
        if isinstance(x, Sum | Product | Map | Drawn):
            return [(part, codes) for part in x.parts]
        if isinstance(x, Standardized | StandardizedGradient):
            raise Unpredictable(
                "statistics of a batch behind it depend on a larger tensor, "
                "whose moments are averaged over positions: give a model of "
                "smaller inputs, or predict with training=False"
            )
        raise TooManyPointsError(x.size, self.moments.most)

    def _build(self, x: Expression, codes: np.ndarray) -> Expression:
        """Returns an expression at codes."""
        group, points = np.divmod(codes, x.size)
        if isinstance(x, Values):
            (family,) = x.support
            return Values(x.values[:, points], family)
        if isinstance(x, Mask):
            (family,) = x.support
            groups = x.groups[points] + group * (x.groups.max() + 1)
            return Mask(x.rate, groups, family)
        if isinstance(x, Constant):
            return Constant(x.values[points])
        if _is_leaf(x):
            return Restricted(x, codes)
        if isinstance(x, Take):
            return self._at(x.parts[0], _moved(codes, x, x.index, x.parts[0]))
        if isinstance(x, Stack):
            terms = [
                self._at(part, _moved(codes, x, _inverse(at, x.size), part))
                for part, at in zip(x.parts, x.at, strict=True)
            ]
            return Sum(terms, [1.0] * len(terms))
        if isinstance(x, Largest):
            part = x.parts[0]
            taps = [
                _local(self.needed[id(part)], _moved(codes, x, tap, part))
                for tap in x.taps
            ]
            return Largest(self.made[id(part)], taps)
        if isinstance(x, Winner):
            part, windows = x.parts
            every = self.needed[id(part)]
            largest = self.made[id(windows)]
            assert isinstance(largest, Largest)
            owner = _moved(every, x, x.owner, windows)
            winner = Winner(largest, _local(self.needed[id(windows)], owner))
            return taken(winner, _local(every, codes))
        if isinstance(x, Mix):
            return self._mixed(x, codes)
        if isinstance(x, Shifted):
            return Shifted(self._at(x.part, codes), x.shift)
        parts = [self._at(part, codes) for part in x.parts]
        if isinstance(x, Sum):
            factors = [
                np.asarray(f)[points] if np.ndim(f) else f for f in x.factors
            ]
            return Sum(parts, factors)
        if isinstance(x, Product):
            return Product(parts)
        if isinstance(x, Map):
            return Map(x.function, parts)
        assert isinstance(x, Drawn)
        return Drawn(parts[0])

    def _at(self, x: Expression, codes: np.ndarray) -> Expression:
        """Returns an expression at codes, which it was made for, or -1."""
        return taken(self.made[id(x)], _local(self.needed[id(x)], codes))

    def _spread(self, x: Expression, codes: np.ndarray) -> np.ndarray:
        """Returns points of each group that stand for all points."""
        points = np.linspace(0, x.size - 1, _SPREAD).astype(int)
        groups = np.unique(codes // x.size) * x.size
        return (groups[:, None] + points).ravel()

    def _mixed(self, x: Mix, codes: np.ndarray) -> Expression:
        """Returns a matrix times an expression, at codes.

        The mean over all points of a channel that is not normal is taken over
        a few of them.
        """
        every = self.needed[id(x.parts[0])]
        if isinstance(x.matrix, Centering):
            everywhere = self._spread(x, codes)
            same = (codes // x.size)[:, None] == everywhere // x.size
            rows, columns = np.nonzero(same)
            rows = np.concatenate([np.arange(len(codes)), rows])
            read = np.concatenate([codes, everywhere[columns]])
            share = x.matrix.scale / _SPREAD
            values = np.full(len(read), -share)
            values[: len(codes)] = x.matrix.scale
        else:
            rows, read, values = _entries(x, codes)
        at = rows, np.searchsorted(every, read)
        matrix = sparse.coo_matrix((values, at), (len(codes), len(every)))
        return Mix(self.made[id(x.parts[0])], matrix.tocsr())


def _no_second(x: Expression, y: Expression) -> np.ndarray:
    raise AssertionError("all Gaussian vectors are drawn before")


def _in_rows(group: np.ndarray, place: np.ndarray, groups: int) -> np.ndarray:
    """Returns the different positions of each group, -1 behind the last.

    Args:
        group: int array of shape `(points,)`.
        place: int array. The position of each point.
        groups: int. The number of groups.
    """
    both = np.unique(np.stack([group, place]), axis=1)
    counts = np.bincount(both[0], minlength=groups)
    rank = np.arange(both.shape[1]) - (np.cumsum(counts) - counts)[both[0]]
    found = np.full((groups, counts.max()), -1)
    found[both[0], rank] = both[1]
    return found


def _roots(covariances: np.ndarray) -> np.ndarray:
    """Returns lower triangular roots of matrices that are near covariances.

    A Cholesky decomposition, in which an entry is at most what the diagonal
    leaves for it, so that the diagonal is that of the matrix in any case.

    Args:
        covariances: Array of shape `(groups, n, n)`. Covariances, of which
            entries of distant positions may not be exact.
    """
    rest = covariances.transpose(1, 2, 0).copy()
    size = rest.shape[0]
    known = np.einsum("iig->ig", rest).copy()
    roots = np.zeros_like(rest)
    for j in range(size):
        left = np.maximum(np.einsum("iig->ig", rest[j:, j:]), 0)
        pivot = np.where(left[0] > _NOTHING * known[j], left[0], 0.0)
        column = rest[j:, j] / np.sqrt(np.where(pivot > 0, pivot, np.inf))
        most = np.sqrt(left)
        column = np.clip(column, -most, most)
        roots[j:, j] = column
        rest[j:, j:] -= column[:, None] * column[None]
    return roots.transpose(2, 0, 1)


def _moved(
    codes: np.ndarray, x: Expression, index: np.ndarray, part: Expression
) -> np.ndarray:
    """Returns the codes in a part that points of x read, -1 for none."""
    group, point = np.divmod(codes, x.size)
    read = index[point]
    return np.where(read >= 0, group * part.size + read, -1)


def _entries(
    x: Mix, codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns rows, codes of the part and entries of a matrix at codes."""
    group, point = np.divmod(codes, x.size)
    chosen = x.matrix[point]
    rows, columns = chosen.nonzero()
    values = np.asarray(chosen[rows, columns]).ravel()
    return rows, group[rows] * x.parts[0].size + columns, values


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


def _is_leaf(x: Expression) -> bool:
    """Returns whether an expression is drawn without its parts."""
    if isinstance(x, White | Values | Mask | Constant | Linear | Unflat):
        return True
    return isinstance(x, Mix) and x.gaussian and len(x.support) == 1


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
