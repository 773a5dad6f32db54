"""Second moments of signals with many positions, averaged over positions.

The matrix E h_i h_j over all points of an image of 224 x 224 positions has too
many entries. A `Table` keeps of it, for each pair of samples a and b,

    same   E h_(a,p) h_(b,p)        at each position p
    near   E h_(a,p) h_(b,p+e)      mean over the positions p of a cell, for
                                    each offset e of at most 3 positions
    far    E h_(a,p) h_(b,p')       mean over the positions p of one cell and p'
                                    of another one, or the same

where the cells divide the image in 5 x 5 parts. A linear map, an activation and
a sum change `same` exactly, since the taps of a window have independent
weights:

    E u_p u_p' = n var(W) sum over taps o of E h_p(o) h_p'(o)

`near` and `far` are what pooling, means over positions, batch statistics and a
flattened image need of other positions.

Reference: `same` alone, Xiao et al., arXiv:1806.05393. `near` and `far` are
derived here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_initx.prediction.refusals import Unpredictable

# The number of cells along each axis, and the largest offset, by the number of
# axes of positions.
_CELLS = {1: 25, 2: 5, 3: 3}
_RADIUS = {1: 16, 2: 3, 3: 1}
# How many positions of a cell stand for it along an axis, in means over pairs.
_SAMPLED = 6
# How many directions stand for those that means over cells do not know.
_OTHER_MODES = 400
# How often a matrix is made a covariance.
_REPAIRS = 8


class Grid:
    """The points of a tensor: samples, and positions along some axes.

    Args:
        samples: int. The number of samples.
        places: tuple of ints. The sizes of the axes of positions.

    Attributes:
        size: int. The number of points.
        count: int. The number of positions of a sample.
        coordinates: int array of shape `(positions, axes)`.
        cells: int array of shape `(positions,)`. The cell of each position.
        in_cell: int array. The number of positions of each cell.
        offsets: int array of shape `(offsets, axes)`, symmetric about its
            middle, which is 0.
        near_pairs: int array of shape `(cells, offsets)`. How many positions p
            of a cell have a position p + e.
        near_between: int array of shape `(offsets, cells, cells)`. How many of
            them have p + e in each cell.
        far_pairs: int array of shape `(cells, cells)`. How many pairs of
            positions of two cells are further apart than the offsets.
        sides: int array of shape `(cells,)`. Which sides of the image a cell
            is at.
        classes: int array of shape `(positions,)`. The class of each position:
            its cell, and whether its coordinates are even.
        blocks: int array of shape `(cells, positions)`. A block of 2 positions
            along each axis in the middle of each cell, one of each class.
    """

    def __init__(self, samples: int, places: tuple[int, ...]):
        rank = len(places)
        if rank not in _CELLS:
            raise Unpredictable(f"it has {rank} axes of many positions")
        self.samples = samples
        self.places = places
        self.count = math.prod(places)
        self.size = samples * self.count
        self.coordinates = np.indices(places).reshape(rank, -1).T
        shape = np.array(places)
        along = np.minimum(shape // 2, _CELLS[rank]).clip(1)
        parts = self.coordinates * along // shape
        self.cells = np.ravel_multi_index(tuple(parts.T), tuple(along))
        self.cell_count = int(along.prod())
        cell = np.indices(tuple(along)).reshape(rank, -1).T
        kinds = np.where(cell == 0, 0, np.where(cell == along - 1, 1, 2))
        self.sides = np.ravel_multi_index(tuple(kinds.T), (3,) * rank)
        self.in_cell = np.bincount(self.cells, minlength=self.cell_count)
        self.radius = _RADIUS[rank]
        steps = range(-self.radius, self.radius + 1)
        self.offsets = np.array(list(itertools.product(steps, repeat=rank)))
        self._set_pairs()
        self._set_blocks(along, shape)

    def _set_pairs(self) -> None:
        cells, pairs = self.cell_count, self.cell_count**2
        near = np.zeros((cells, len(self.offsets)), int)
        between = np.zeros((len(self.offsets), pairs), int)
        for k, offset in enumerate(self.offsets):
            other = self.moved(np.arange(self.count), offset)
            (inside,) = np.nonzero(other >= 0)
            mine, theirs = self.cells[inside], self.cells[other[inside]]
            near[:, k] = np.bincount(mine, minlength=cells)
            between[k] = np.bincount(mine * cells + theirs, minlength=pairs)
        self.near_pairs = near
        self.near_between = between.reshape(-1, cells, cells)
        every = np.multiply.outer(self.in_cell, self.in_cell)
        self.far_pairs = every - self.near_between.sum(axis=0)

    def _set_blocks(self, along: np.ndarray, shape: np.ndarray) -> None:
        rank = len(shape)
        sides, strides = [], []
        for axis in range(rank):
            cell = np.arange(along[axis])
            low = -(-cell * shape[axis] // along[axis])
            high = -(-(cell + 1) * shape[axis] // along[axis])
            # The even and the odd coordinate next to the middle of each cell;
            # in a cell of one position it is both.
            middle = (low + high - 1) // 2
            other = np.where(middle + 1 < high, middle + 1, middle - 1)
            other = np.maximum(other, low)
            two = np.stack([middle, other], axis=1)
            sides.append(np.where(two[:, :1] % 2, two[:, ::-1], two))
            width = np.minimum(high - low, _SAMPLED)
            # Neighbors, one even and one odd, from side to side of a cell.
            step = np.arange(_SAMPLED)
            rest = (high - low)[:, None] - 2
            spread = step // 2 * rest // (_SAMPLED // 2 - 1) + step % 2
            spread = np.where(rest + 2 > _SAMPLED, spread, step)
            strides.append(
                np.where(step < width[:, None], low[:, None] + spread, -1)
            )
        self.blocks = self._joined(sides)
        self._sampled = self._joined(strides)
        odd = self.coordinates % 2
        code = np.ravel_multi_index(tuple(odd.T), (2,) * rank)
        self.classes = self.cells * 2**rank + code
        self.class_count = self.cell_count * 2**rank

    def _joined(self, axes: list[np.ndarray]) -> np.ndarray:
        """Returns positions from coordinates of cells along each axis.

        It is -1 where a coordinate is.
        """
        found = []
        for cell in itertools.product(*axes):
            grid = np.stack(np.meshgrid(*cell, indexing="ij"), axis=-1)
            found.append(self._index(grid.reshape(-1, len(cell)), 0))
        return np.array(found)

    def _index(self, at: np.ndarray, offset: Any) -> np.ndarray:
        """Returns positions from coordinates, -1 outside of the image."""
        at = at + offset
        inside = np.all((at >= 0) & (at < self.places), axis=-1)
        safe = np.where(inside[..., None], at, 0)
        index = np.ravel_multi_index(
            tuple(np.moveaxis(safe, -1, 0)), self.places
        )
        return np.where(inside, index, -1)

    def moved(self, positions: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """Returns positions at an offset, -1 outside of the image."""
        found = self._index(self.coordinates[positions], offset)
        return np.where(positions >= 0, found, -1)

    def near_samples(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns pairs of positions that stand for the pairs of `near`.

        Two arrays that broadcast to `(cells, offsets, pairs)`, with -1 for a
        position outside of the image.
        """
        first = self._sampled[:, None, :]
        second = np.stack(
            [self.moved(self._sampled, offset) for offset in self.offsets],
            axis=1,
        )
        return first, second

    def means(self, values: np.ndarray) -> np.ndarray:
        """Returns means over the cells of values `(..., positions)`."""
        return _grouped(values, self.cells, self.in_cell)

    def pair_means(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Returns means of x_p y_(p+e) over the pairs of `near`.

        Args:
            x: Array of shape `(samples, positions)`.
            y: Array of shape `(samples, positions)`.

        Returns:
            Array of shape `(samples, samples, cells, offsets)`.
        """
        samples, rank = len(x), len(self.places)
        border = [(0, 0)] + [(self.radius, self.radius)] * rank
        padded = np.pad(y.reshape(samples, *self.places), border)
        sums = np.empty((samples, samples, *self.near_pairs.shape))
        for k, offset in enumerate(self.offsets):
            begin = offset + self.radius
            window = tuple(
                slice(b, b + n) for b, n in zip(begin, self.places, strict=True)
            )
            moved = padded[(slice(None), *window)].reshape(samples, -1)
            products = x[:, None] * moved[None]
            sums[..., k] = self.means(products)
        pairs = np.maximum(self.near_pairs, 1)
        return sums * self.in_cell[:, None] / pairs

    def class_means(self, values: np.ndarray) -> np.ndarray:
        """Returns means over the classes of values `(..., positions)`."""
        counts = np.bincount(self.classes, minlength=self.class_count)
        return _grouped(values, self.classes, counts)

    def per_sample(self, index: np.ndarray, source: int) -> np.ndarray:
        """Returns an index of points as one of positions, equal in samples.

        Args:
            index: int array of shape `(points,)`. Points that are read, or -1.
            source: int. The number of positions that are read from.

        Raises:
            Unpredictable: If samples read differently.
        """
        split = index.reshape(self.samples, self.count)
        start = np.arange(self.samples)[:, None] * source
        local = np.where(split < 0, -1, split - start)
        if (local != local[0]).any() or local.max() >= source:
            raise Unpredictable(
                "its positions are too many, and differ from sample to sample"
            )
        return local[0]


def _grouped(
    values: np.ndarray, groups: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Returns means over groups of the last axis, 0 for an empty group."""
    flat = values.reshape(-1, values.shape[-1])
    sums = [np.bincount(groups, row, minlength=len(counts)) for row in flat]
    means = np.array(sums) / np.maximum(counts, 1)
    return means.reshape(*values.shape[:-1], len(counts))


def _quotient(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns x / y, 0 where y is 0."""
    return np.where(y > 0, x / np.where(y > 0, y, 1.0), 0.0)


class Table:
    """Second moments E x_i y_j of two tensors of one grid.

    Sums and products with other tables, numbers, and an array of shape
    `(points, 1)`, one factor for each row, are those of the matrix.

    Args:
        grid: Grid. The points of both.
        same: Array of shape `(samples, samples, positions)`.
        near: Array of shape `(samples, samples, cells, offsets)`.
        far: Array of shape `(samples, samples, cells, cells)`.
    """

    # NumPy then leaves its products with a table to the table.
    __array_ufunc__ = None

    def __init__(
        self, grid: Grid, same: np.ndarray, near: np.ndarray, far: np.ndarray
    ):
        self.grid = grid
        self.same = same
        self.near = near
        self.far = far
        self._of_roots: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the matrix."""
        return (self.grid.size, self.grid.size)

    def _map(self, function: Callable[..., np.ndarray], *others: Any) -> Table:
        return Table(
            self.grid,
            function(self.same, *(o.same for o in others)),
            function(self.near, *(o.near for o in others)),
            function(self.far, *(o.far for o in others)),
        )

    def __add__(self, other: Table) -> Table:
        return self._map(np.add, other)

    def __mul__(self, other: Any) -> Table:
        if isinstance(other, Table):
            return self._map(np.multiply, other)
        if np.ndim(other) == 0:
            return self._map(lambda x: x * other)
        rows, columns = np.shape(other)
        ones = np.ones(self.grid.size)
        if columns == 1:
            return self * outer(self.grid, np.ravel(other), ones)
        assert rows == 1
        return self * outer(self.grid, ones, np.ravel(other))

    __rmul__ = __mul__

    @property
    def T(self) -> Table:
        """The transposed matrix."""
        grid = self.grid
        # The pair of p and p + e is that of p + e and -e.
        near = np.einsum(
            "eAB,baBe->abAe", grid.near_between, self.near[..., ::-1]
        )
        return Table(
            grid,
            self.same.transpose(1, 0, 2),
            near / np.maximum(grid.near_pairs, 1),
            self.far.transpose(1, 0, 3, 2),
        )

    def diagonal(self) -> np.ndarray:
        """Returns the diagonal, of shape `(points,)`."""
        return np.einsum("aap->ap", self.same).ravel()

    def any(self, axis: None = None, out: None = None) -> bool:
        """Returns whether an entry is not 0, for `numpy.any`."""
        return bool(self.same.any() or self.near.any() or self.far.any())

    def pair_sums(self) -> np.ndarray:
        """Returns the sums over two positions, `(samples, samples)`."""
        near = self.near * self.grid.near_pairs
        near[..., len(self.grid.offsets) // 2] = 0
        far = self.far * self.grid.far_pairs
        return (
            self.same.sum(axis=2) + near.sum(axis=(2, 3)) + far.sum(axis=(2, 3))
        )

    def means_of_cells(self) -> np.ndarray:
        """Returns means over all pairs, `(samples, samples, cells, cells)`."""
        grid = self.grid
        cells = np.arange(grid.cell_count)
        near = self.near.copy()
        near[..., len(grid.offsets) // 2] = 0
        sums = self.far * grid.far_pairs
        sums += np.einsum("abAe,eAB->abAB", near, grid.near_between)
        sums[..., cells, cells] += grid.means(self.same) * grid.in_cell
        return sums / np.multiply.outer(grid.in_cell, grid.in_cell)

    def lookup(
        self, first: np.ndarray, second: np.ndarray, profile: bool = False
    ) -> np.ndarray:
        """Returns entries at pairs of positions, which broadcast.

        Args:
            first: int array. The position of x, of any shape; -1 gives 0.
            second: int array. That of y.
            profile: bool. Whether the matrix is that of one tensor, so that
                what is known of a cell is divided among its positions as the
                root of their mean squares is.

        Returns:
            Array of shape `(samples, samples, *shape)`.
        """
        grid = self.grid
        first, second = np.broadcast_arrays(first, second)
        a, b = np.maximum(first, 0), np.maximum(second, 0)
        gap = grid.coordinates[b] - grid.coordinates[a]
        close = np.all(np.abs(gap) <= grid.radius, axis=-1)
        side = 2 * grid.radius + 1
        safe = np.where(close[..., None], gap + grid.radius, grid.radius)
        offset = np.ravel_multi_index(
            tuple(np.moveaxis(safe, -1, 0)), (side,) * gap.shape[-1]
        )
        mine, theirs = grid.cells[a], grid.cells[b]
        found = np.where(
            close, self.near[:, :, mine, offset], self.far[:, :, mine, theirs]
        )
        if profile:
            near, far = self._correlations()
            found = np.where(
                close, near[:, :, mine, offset], far[:, :, mine, theirs]
            )
            roots = self._roots()
            found *= roots[:, None, a] * roots[None, :, b]
        found = np.where(a == b, self.same[:, :, a], found)
        return np.where((first >= 0) & (second >= 0), found, 0.0)

    def _roots(self) -> np.ndarray:
        """Returns roots of mean squares, of shape `(samples, positions)`."""
        squares = np.einsum("aap->ap", self.same)
        return np.sqrt(np.maximum(squares, 0))

    def _correlations(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns `near` and `far` over means of products of two roots.

        These are means over the same pairs, so that an entry of `near` is at
        most 1.
        """
        if self._of_roots is None:
            roots = self._roots()
            near = self.grid.pair_means(roots, roots)
            means = self.grid.means(roots)
            far = means[:, None, :, None] * means[None, :, None, :]
            self._of_roots = (
                np.clip(_quotient(self.near, near), -1, 1),
                _quotient(self.far, far),
            )
        return self._of_roots

    def _shares(self) -> np.ndarray:
        """Returns roots of mean squares over their mean in the cell."""
        roots = self._roots()
        mean = self.grid.means(roots)[:, self.grid.cells]
        return np.where(mean > 0, roots / np.maximum(mean, 1e-300), 1.0)

    def reading(
        self, index: np.ndarray, target: Grid, profile: bool
    ) -> np.ndarray:
        """Returns how much of a cell of a target reads each cell of this.

        Args:
            index: int array. The position that each one of the target reads.
            target: Grid.
            profile: bool. As in `lookup`.

        Returns:
            Array of shape `(samples, cells of the target, cells)`.
        """
        shares = self._shares() if profile else np.ones((1, self.grid.count))
        cells = self.grid.cells, self.grid.cell_count
        return _reading(index, target, *cells, shares)

    def in_classes(
        self, points: np.ndarray, others: np.ndarray, profile: bool
    ) -> np.ndarray:
        """Returns the matrix at points, averaged over the class of each.

        Args:
            points: int array. Points of x.
            others: int array. Points of y.
            profile: bool. As in `lookup`.

        Returns:
            Array of shape `(points, others)`.
        """
        grid = self.grid
        mean = grid.class_means(self.same)[:, :, grid.classes]
        table = Table(grid, mean, self.near, self.far)
        if profile:
            # The correlations of the positions are kept, not their products.
            table._of_roots = self._correlations()
        return table.at(points, others, profile)

    def at(
        self, points: np.ndarray, others: np.ndarray, profile: bool = False
    ) -> np.ndarray:
        """Returns the matrix at points, of shape `(points, others)`."""
        count = self.grid.count
        places, inverse = np.unique(points % count, return_inverse=True)
        theirs, of_theirs = np.unique(others % count, return_inverse=True)
        whole = self.lookup(places[:, None], theirs[None, :], profile)
        return whole[
            (points // count)[:, None],
            (others // count)[None, :],
            inverse[:, None],
            of_theirs[None, :],
        ]


class Whole:
    """A matrix of second moments that a `Table` is read from.

    Args:
        matrix: Array of shape `(points, points)`.
        samples: int. The number of samples.
    """

    def __init__(self, matrix: np.ndarray, samples: int):
        count = len(matrix) // samples
        shape = (samples, count, samples, count)
        self.count = count
        self.far = matrix.reshape(shape).transpose(0, 2, 1, 3)

    def lookup(
        self, first: np.ndarray, second: np.ndarray, profile: bool = False
    ) -> np.ndarray:
        """Returns entries at pairs of positions, as `Table.lookup`."""
        found = self.far[:, :, np.maximum(first, 0), np.maximum(second, 0)]
        return np.where((first >= 0) & (second >= 0), found, 0.0)

    def reading(
        self, index: np.ndarray, target: Grid, profile: bool
    ) -> np.ndarray:
        """Returns how much of a cell of a target reads each position."""
        ones = np.ones((1, self.count))
        return _reading(index, target, np.arange(self.count), self.count, ones)


def _reading(
    index: np.ndarray,
    target: Grid,
    cells: np.ndarray,
    count: int,
    shares: np.ndarray,
) -> np.ndarray:
    """Returns sums of shares that cells of a target read, over its positions.

    Args:
        index: int array. The position that each one of the target reads.
        target: Grid.
        cells: int array. The cell of each position that is read.
        count: int. The number of these cells.
        shares: Array of shape `(samples, positions)`.
    """
    (inside,) = np.nonzero(index >= 0)
    read_at = index[inside]
    code = target.cells[inside] * count + cells[read_at]
    size = target.cell_count * count
    sums = [np.bincount(code, row[read_at], minlength=size) for row in shares]
    return (
        np.array(sums).reshape(len(shares), -1, count)
        / (target.in_cell[:, None])
    )


def outer(grid: Grid, first: np.ndarray, second: np.ndarray) -> Table:
    """Returns the table of the matrix x_i y_j of two vectors."""
    x = first.reshape(grid.samples, grid.count)
    y = second.reshape(grid.samples, grid.count)
    mean_x, mean_y = grid.means(x), grid.means(y)
    ones = np.ones((1, 1, 1, len(grid.offsets)))
    return Table(
        grid,
        x[:, None] * y[None],
        (mean_x[:, None] * mean_y[None])[..., None] * ones,
        mean_x[:, None, :, None] * mean_y[None, :, None, :],
    )


def variances_of_pairs(
    grid: Grid, first: np.ndarray, second: np.ndarray
) -> list[Table]:
    """Returns the variances of x_i and of y_j of each entry of a table.

    For a pair of different positions, the product of both is the squared mean
    of the product of the two standard deviations, so that the correlation of
    the pair is that of the positions where all pairs have one correlation.

    Args:
        grid: Grid.
        first: Array of shape `(points,)`. The variances of x.
        second: Array of shape `(points,)`. Those of y.

    Returns:
        List of two tables.
    """
    ones = np.ones(grid.size)
    roots = np.sqrt(first), np.sqrt(second)
    tables = outer(grid, roots[0], ones), outer(grid, ones, roots[1])
    found = [table * table for table in tables]
    split = [root.reshape(grid.samples, -1) for root in roots]
    products = grid.pair_means(*split)
    factor = _quotient(products, tables[0].near * tables[1].near)
    for table in found:
        table.near = table.near * factor
    shape = found[0].same.shape
    u, v = (each.reshape(grid.samples, -1) for each in (first, second))
    found[0].same = np.broadcast_to(u[:, None], shape)
    found[1].same = np.broadcast_to(v[None], shape)
    return found


def zeros(grid: Grid) -> Table:
    """Returns a table of zeros."""
    pair = (grid.samples, grid.samples)
    cells = grid.cell_count
    return Table(
        grid,
        np.zeros((*pair, grid.count)),
        np.zeros((*pair, cells, len(grid.offsets))),
        np.zeros((*pair, cells, cells)),
    )


def read(
    source: Table | Whole,
    first: np.ndarray,
    second: np.ndarray,
    target: Grid,
    profile: bool = False,
) -> Table:
    """Returns the table of the values that a target reads from a source.

    Args:
        source: Table or Whole. The second moments of what is read.
        first: int array. The position that each position of the target reads
            for x, -1 for none, which is 0.
        second: int array. The same for y.
        target: Grid.
        profile: bool. As in `Table.lookup`.
    """
    p, q = target.near_samples()
    exists = np.broadcast_to(q >= 0, np.broadcast_shapes(p.shape, q.shape))
    there = np.where(q >= 0, second[np.maximum(q, 0)], -1)
    pairs = source.lookup(first[p], there, profile)
    near = pairs.sum(axis=-1) / np.maximum(exists.sum(axis=-1), 1)
    left = source.reading(first, target, profile)
    right = source.reading(second, target, profile)
    return Table(
        target,
        source.lookup(first, second, profile),
        near,
        left[:, None] @ source.far @ right[None].transpose(0, 1, 3, 2),
    )


def of_channels(grid: Grid, x: np.ndarray, y: np.ndarray) -> Table:
    """Returns the table of the mean of x_i y_j over given channels.

    Args:
        grid: Grid.
        x: Array of shape `(channels, points)`.
        y: Array of shape `(channels, points)`.
    """
    shape = (-1, grid.samples, grid.count)
    x, y = x.reshape(shape), y.reshape(shape)
    x, y = np.broadcast_arrays(x, y)
    channels = len(x)

    def products(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.einsum("cap,cbp->abp", first, second) / channels

    same = products(x, y)
    near = np.zeros((*same.shape[:2], grid.cell_count, len(grid.offsets)))
    total = np.einsum(
        "caA,cbB->abAB",
        grid.means(x) * grid.in_cell,
        grid.means(y) * grid.in_cell,
    )
    total /= channels
    for k, offset in enumerate(grid.offsets):
        other = grid.moved(np.arange(grid.count), offset)
        (inside,) = np.nonzero(other >= 0)
        found = products(x[..., inside], y[..., other[inside]])
        mine, theirs = grid.cells[inside], grid.cells[other[inside]]
        code = mine * grid.cell_count + theirs
        for a, b in np.ndindex(*same.shape[:2]):
            sums = np.bincount(mine, found[a, b], minlength=grid.cell_count)
            near[a, b, :, k] = sums / np.maximum(grid.near_pairs[:, k], 1)
            total[a, b] -= np.bincount(
                code, found[a, b], minlength=grid.cell_count**2
            ).reshape(total.shape[2:])
    return Table(grid, same, near, total / np.maximum(grid.far_pairs, 1))


def of_groups(
    grid: Grid,
    first: np.ndarray,
    second: np.ndarray,
    equal: float,
    other: float,
) -> Table:
    """Returns the table of a matrix of two values.

    Args:
        grid: Grid.
        first: int array of shape `(points,)`. The group of each point of x.
        second: int array. The same for y.
        equal: float. The entry of points of one group.
        other: float. That of other points.
    """
    x = first.reshape(grid.samples, grid.count)
    y = second.reshape(grid.samples, grid.count)

    def entries(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        equals = x[:, p][:, None] == y[:, q][None]
        return np.where(equals, equal, other)

    every = np.arange(grid.count)
    p, q = grid.near_samples()
    near = np.where(q >= 0, entries(*np.broadcast_arrays(p, q)), 0.0)
    counts = np.maximum((q >= 0).sum(axis=-1), 1)
    ends = grid.blocks[:, 0], grid.blocks[:, -1]
    return Table(
        grid,
        entries(every, every),
        near.sum(axis=-1) / counts,
        entries(*np.broadcast_arrays(ends[0][:, None], ends[1][None])),
    )


def of_blocks(
    grid: Grid,
    matrix: np.ndarray,
    profile: bool,
    filled: np.ndarray,
    of_other: np.ndarray,
) -> Table:
    """Returns the table of a matrix that is known at the blocks of a grid.

    A position gets what the one of its class in the block has. What is further
    away than the positions of a block is as the mean over other cells.

    Args:
        grid: Grid.
        matrix: Array of shape `(points, points)`, with the positions of all
            blocks for each sample.
        profile: bool. Whether it is the matrix of one tensor.
        filled: Array of bool of shape `(points,)`. Where x is not 0.
        of_other: Array of bool of shape `(points,)`. Where y is not 0.
    """
    cells, size = grid.blocks.shape
    shape = (grid.samples, cells, size, grid.samples, cells, size)
    split = matrix.reshape(shape).transpose(0, 3, 1, 4, 2, 5)
    every = np.arange(cells)
    # (samples, samples, cells, size, size)
    inside = split[:, :, every, every]
    same = np.einsum("abcss->abcs", inside)
    same = same.reshape(*same.shape[:2], -1)[..., grid.classes]
    far = split.mean(axis=(-2, -1))
    around = inside.mean(axis=(-2, -1))
    if cells > 1:
        # The correlation with other cells, for what lies within a cell.
        roots = np.ones((grid.samples, cells))
        if profile:
            squares = np.einsum("aacss->acs", inside)
            roots = np.sqrt(np.maximum(squares, 0)).mean(axis=-1)
            roots = np.where(roots > 0, roots, 1.0)
        others = far / (roots[:, None, :, None] * roots[None, :, None, :])
        # Those at the same sides of the image, where there are some.
        like = grid.sides[:, None] == grid.sides
        like &= ~np.eye(cells, dtype=bool)
        like |= ~like.any(axis=1, keepdims=True) & ~np.eye(cells, dtype=bool)
        around = (others * like).sum(axis=-1) / like.sum(axis=1)
        around = around * roots[:, None] * roots[None, :]
    far[:, :, every, every] = around
    near = np.repeat(around[..., None], len(grid.offsets), axis=-1)
    place = grid.coordinates[grid.blocks]
    gap = place[:, None, :] - place[:, :, None]
    for k, offset in enumerate(grid.offsets):
        pairs = np.all(gap == offset, axis=-1)
        counts = pairs.sum(axis=(-2, -1))
        sums = np.sum(inside * pairs, axis=(-2, -1))
        near[..., k] = np.where(
            counts > 0, sums / np.maximum(counts, 1), near[..., k]
        )
    shares = []
    for each in (filled, of_other):
        split_mask = each.reshape(grid.samples, grid.count).astype(float)
        in_block = split_mask[:, grid.blocks].mean(axis=-1)
        mean = grid.means(split_mask)
        shares.append(
            np.where(in_block > 0, mean / np.maximum(in_block, 1e-9), 0.0)
        )
    left, right = shares[0][:, None], shares[1][None]
    x, y = (each.reshape(grid.samples, -1) for each in (filled, of_other))
    return Table(
        grid,
        same * (x[:, None] & y[None]),
        near * (left * right)[..., None],
        far * left[..., :, None] * right[..., None, :],
    )


def variances_of_modes(table: Table) -> np.ndarray:
    """Returns variances that stand for the spectrum of a centered table.

    The eigenvalues of means over cells are kept, and what they leave of the
    trace is spread evenly over the other directions, for which 400 stand.

    Args:
        table: Table. The second moments of a tensor, before its mean over all
            points is subtracted.

    Returns:
        Array of eigenvalues, whose sum is the trace.
    """
    grid = table.grid
    centered = Centering(grid.size) @ table
    centered = (Centering(grid.size) @ centered.T).T
    trace = float(centered.diagonal().sum())
    counts = np.tile(grid.in_cell, grid.samples)
    cells = centered.means_of_cells().transpose(0, 2, 1, 3)
    cells = cells.reshape(len(counts), len(counts))
    root = np.sqrt(counts)
    modes = np.linalg.eigvalsh(root[:, None] * (cells + cells.T) / 2 * root)
    modes = np.clip(modes, 0, trace)
    rest = max(trace - modes.sum(), 0.0) / _OTHER_MODES
    return np.concatenate([modes, np.full(_OTHER_MODES, rest)])


def repaired(matrix: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Returns a covariance near a matrix that may have negative eigenvalues.

    Means over cells are no covariance where the correlation changes within a
    cell. Negative eigenvalues are set to 0, and the moments of equal positions
    to what they were, a few times in turn.

    Args:
        matrix: Array of shape `(points, points)`.
        places: int array of shape `(points,)`. The position of each point.

    Reference: alternating projections as in Higham, IMA Journal of Numerical
    Analysis 22 (2002).
    """
    rows, columns = np.nonzero(places[:, None] == places)
    known = matrix[rows, columns]
    for _ in range(_REPAIRS):
        scale, vectors = np.linalg.eigh(matrix)
        low = scale < 0
        if -scale[low].sum() < 1e-4 * np.trace(matrix):
            break
        matrix = matrix - (vectors[:, low] * scale[low]) @ vectors[:, low].T
        matrix[rows, columns] = known
    return matrix


class Centering:
    """A matrix that subtracts from each channel its mean over all points.

    Args:
        size: int. The number of points.
        scale: float. A factor. Defaults to 1.
    """

    __array_ufunc__ = None

    def __init__(self, size: int, scale: float = 1.0):
        self.size = size
        self.scale = scale

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the matrix."""
        return (self.size, self.size)

    @property
    def T(self) -> Centering:
        """The transposed matrix."""
        return self

    def __mul__(self, scale: float) -> Centering:
        return Centering(self.size, self.scale * scale)

    __rmul__ = __mul__

    def __matmul__(self, other: Any) -> Any:
        """Returns the matrix times a vector, a matrix or a `Table`."""
        if not isinstance(other, Table):
            return self.scale * (other - other.mean(axis=0))
        grid = other.grid
        # The mean of each column, the same for the positions of a cell but for
        # what a point has with itself.
        cells = other.means_of_cells().mean(axis=0)
        share = grid.in_cell / grid.count
        column = np.einsum("bAB,A->bB", cells, share)[:, grid.cells]
        mean = outer(grid, np.ones(grid.size), column.ravel())
        return self.scale * (other + -1.0 * mean)
