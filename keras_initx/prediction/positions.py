"""Second moments of signals with many positions, averaged over positions.

The matrix E h_i h_j over all points of an image of 224 x 224 positions has too
many entries. A `Table` keeps of it, for each pair of samples a and b,

    same   E h_(a,p) h_(b,p)        at each position p
    near   E h_(a,p) h_(b,p+e)      at each position p, for each offset e of at
                                    most 4 positions
    far    E h_(a,p) h_(b,p')       mean over the positions p of one cell and p'
                                    of another one, or the same, that are
                                    further apart

where the cells divide the image in 8 x 8 parts. The offsets reach 3 positions
in images of more than 2^15 positions. One axis of positions has 25 cells and
offsets of at most 16 positions, and three axes have 3 x 3 x 3 cells and offsets
of 1. A linear map, an activation and a sum change `same` exactly, since the
taps of a window have independent weights,

    E u_p u_p' = n var(W) sum over taps o of E h_p(o) h_p'(o)

and `near` too, where the map keeps the gap between two positions. Pooling needs
`near` for the values of a window; means over positions and batch statistics
need all of it.

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
# axes of positions. The offset is one less with more than so many positions.
_CELLS = {1: 25, 2: 8, 3: 3}
_RADIUS = {1: 16, 2: 4, 3: 1}
_MANY = 2**15
# How many pairs of positions are tried, to find one for two cells.
_TRIED = 16
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
        moved: int array of shape `(offsets, positions)`. The position p + e,
            -1 outside of the image.
        far_pairs: int array of shape `(cells, cells)`. How many pairs of
            positions of two cells are further apart than the offsets.
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
        self.in_cell = np.bincount(self.cells, minlength=self.cell_count)
        self.radius = _RADIUS[rank]
        if self.count > _MANY:
            self.radius = max(self.radius - 1, 1)
        steps = range(-self.radius, self.radius + 1)
        self.offsets = np.array(list(itertools.product(steps, repeat=rank)))
        self.middle = len(self.offsets) // 2
        self.moved = np.array([self._at(e) for e in self.offsets])
        near = np.ones(self.moved.shape)
        every = np.multiply.outer(self.in_cell, self.in_cell)
        self.far_pairs = every - self.sums_of_pairs(near).round().astype(int)

    def _at(self, offset: np.ndarray) -> np.ndarray:
        """Returns positions at an offset, -1 outside of the image."""
        at = self.coordinates + offset
        inside = np.all((at >= 0) & (at < self.places), axis=-1)
        safe = np.where(inside[:, None], at, 0)
        index = np.ravel_multi_index(tuple(safe.T), self.places)
        return np.where(inside, index, -1)

    def offset_between(self, p: np.ndarray, q: np.ndarray) -> np.ndarray:
        """Returns which offset leads from p to q, -1 for none."""
        gap = self.coordinates[q] - self.coordinates[p]
        close = np.all(np.abs(gap) <= self.radius, axis=-1)
        return np.where(close, self.code_of(gap), -1)

    def code_of(self, gap: np.ndarray) -> np.ndarray:
        """Returns which offset a gap is, if it is one."""
        powers = (2 * self.radius + 1) ** np.arange(len(self.places))[::-1]
        return (gap + self.radius) @ powers

    def around(self, values: np.ndarray) -> np.ndarray:
        """Returns `(..., offsets, positions)`, at p + e, 0 outside."""
        return np.where(self.moved >= 0, values[..., self.moved], 0.0)

    def means(self, values: np.ndarray) -> np.ndarray:
        """Returns means over the cells of values `(..., positions)`."""
        flat = values.reshape(-1, values.shape[-1])
        sums = [np.bincount(self.cells, row, self.cell_count) for row in flat]
        means = np.array(sums) / self.in_cell
        return means.reshape(*values.shape[:-1], self.cell_count)

    def sums_of_pairs(self, near: np.ndarray) -> np.ndarray:
        """Returns sums of values of pairs p, p + e over each two cells.

        Args:
            near: Array of shape `(..., offsets, positions)`.

        Returns:
            Array of shape `(..., cells, cells)`.
        """
        code = self.cells * self.cell_count + self.cells[self.moved]
        inside = self.moved >= 0
        size = self.cell_count**2
        flat = near.reshape(-1, *self.moved.shape)
        sums = [np.bincount(code[inside], row[inside], size) for row in flat]
        shape = (*near.shape[:-2], self.cell_count, self.cell_count)
        return np.array(sums).reshape(shape)

    def far_samples(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns a pair of positions that stands for those of two cells.

        Two arrays of shape `(cells, cells)`. The pair of B and A is that of A
        and B.
        """
        rng = np.random.default_rng(0)
        shape = (_TRIED, self.cell_count)
        order = np.argsort(self.cells, kind="stable")
        starts = np.cumsum(self.in_cell) - self.in_cell
        p, q = (
            order[starts + (rng.random(shape) * self.in_cell).astype(int)]
            for _ in range(2)
        )
        p, q = np.broadcast_arrays(p[:, :, None], q[:, None, :])
        # One that is further apart than the offsets, if there is one.
        best = np.argmin(self.offset_between(p, q), axis=0)[None]
        p, q = (np.take_along_axis(each, best, axis=0)[0] for each in (p, q))
        upper = np.triu(np.ones(p.shape, bool))
        return np.where(upper, p, q.T), np.where(upper, q, p.T)

    def like(self, most: int) -> np.ndarray:
        """Returns for each position one that stands for it and others around.

        Both are even, or both odd, along each axis.

        Args:
            most: int. About the largest number of different positions.
        """
        share = self.count / most
        step = max(1, math.ceil(share ** (1 / len(self.places))))
        if step == 1:
            return np.arange(self.count)
        cell = self.coordinates // (2 * step) * (2 * step)
        middle = cell + step // 2 * 2 + self.coordinates % 2
        # At the border too, all offsets lead to positions of the image.
        last = np.array(self.places) - 1 - self.radius
        beyond = np.maximum(middle - last, 0)
        middle -= beyond + beyond % 2
        before = np.maximum(self.radius - middle, 0)
        middle += before + before % 2
        inside = np.all((middle >= 0) & (middle < self.places), axis=-1)
        middle = np.where(inside[:, None], middle, self.coordinates)
        return np.ravel_multi_index(tuple(middle.T), self.places)

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
        near: Array of shape `(samples, samples, offsets, positions)`, 0 where
            p + e is outside of the image.
        far: Array of shape `(samples, samples, cells, cells)`.
    """

    # NumPy then leaves its products with a table to the table.
    __array_ufunc__ = None

    def __init__(
        self, grid: Grid, same: np.ndarray, near: np.ndarray, far: np.ndarray
    ):
        self.grid = grid
        self.same = same
        self.near = near.astype(np.float32, copy=False)
        self.far = far
        self._kept: np.ndarray | None = None

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
        near = self.near.transpose(1, 0, 2, 3)[:, :, ::-1]
        back = np.take_along_axis(
            near, np.maximum(grid.moved, 0)[None, None], 3
        )
        return Table(
            grid,
            self.same.transpose(1, 0, 2),
            np.where(grid.moved >= 0, back, 0.0),
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
        far = (self.far * self.grid.far_pairs).sum(axis=(2, 3))
        near = self.near.sum(axis=3, dtype=float)
        near[:, :, self.grid.middle] = self.same.sum(axis=2)
        return near.sum(axis=2) + far

    def means_of_cells(self) -> np.ndarray:
        """Returns means over all pairs, `(samples, samples, cells, cells)`."""
        grid = self.grid
        near = self.near.copy()
        near[:, :, grid.middle] = self.same
        sums = self.far * grid.far_pairs + grid.sums_of_pairs(near)
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
        p, q = np.maximum(first, 0), np.maximum(second, 0)
        inside = (first >= 0) & (second >= 0)
        offset = np.where(inside, grid.offset_between(p, q), grid.middle)
        low, high = offset.min(initial=0), offset.max(initial=0)
        if low == high and low >= 0:
            found = self.near[:, :, low].take(p, axis=2)
        else:
            found = self.near[:, :, offset, p]
        if low < 0:
            found = np.where(offset >= 0, found, self._far(p, q, profile))
        at_middle = p == q
        if at_middle.any():
            found = np.where(at_middle, self.same.take(p, axis=2), found)
        return np.where(inside, found, 0.0)

    def fill(self, offsets: np.ndarray, profile: bool) -> None:
        """Sets `near` at some offsets, an array of bool, as `far` is."""
        for k in np.flatnonzero(offsets):
            (p,) = np.nonzero(self.grid.moved[k] >= 0)
            self.near[:, :, k, p] = self._far(p, self.grid.moved[k, p], profile)

    def _far(self, p: np.ndarray, q: np.ndarray, profile: bool) -> np.ndarray:
        """Returns entries of `far` at pairs of positions."""
        found = self.far[:, :, self.grid.cells[p], self.grid.cells[q]]
        if profile:
            shares = self._shares()
            found = found * shares[:, None, p] * shares[None, :, q]
        return found

    def _shares(self) -> np.ndarray:
        """Returns roots of mean squares over their mean in the cell."""
        if self._kept is None:
            roots = self.roots()
            mean = self.grid.means(roots)[:, self.grid.cells]
            self._kept = np.where(
                mean > 0, roots / np.maximum(mean, 1e-300), 1.0
            )
        return self._kept

    def roots(self) -> np.ndarray:
        """Returns roots of mean squares, of shape `(samples, positions)`."""
        squares = np.einsum("aap->ap", self.same)
        return np.sqrt(np.maximum(squares, 0))

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


class Given(Table):
    """The table of given channels, which knows all pairs of positions.

    Args:
        table: Table. Their table.
        x: Array of shape `(channels, samples, positions)`.
        y: Array of that shape.
    """

    def __init__(self, table: Table, x: np.ndarray, y: np.ndarray):
        super().__init__(table.grid, table.same, table.near, table.far)
        self.x, self.y = x, y

    def __mul__(self, other: Any) -> Table:
        found = super().__mul__(other)
        if isinstance(other, Table) or np.ndim(other):
            return found
        return Given(found, self.x * other, self.y)

    __rmul__ = __mul__

    def lookup(
        self, first: np.ndarray, second: np.ndarray, profile: bool = False
    ) -> np.ndarray:
        """Returns entries at pairs of positions, as `Table.lookup`."""
        first, second = np.broadcast_arrays(first, second)
        total = 0.0
        for x, y in zip(self.x, self.y, strict=True):
            total = total + x[:, None, first] * y[None, :, second]
        inside = (first >= 0) & (second >= 0)
        return np.where(inside, total / len(self.x), 0.0)


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
    return Table(
        grid,
        x[:, None] * y[None],
        x[:, None, None] * grid.around(y)[None],
        mean_x[:, None, :, None] * mean_y[None, :, None, :],
    )


def zeros(grid: Grid) -> Table:
    """Returns a table of zeros."""
    pair = (grid.samples, grid.samples)
    return Table(
        grid,
        np.zeros((*pair, grid.count)),
        np.zeros((*pair, *grid.moved.shape), np.float32),
        np.zeros((*pair, grid.cell_count, grid.cell_count)),
    )


def read(
    source: Table | Whole,
    first: np.ndarray,
    second: np.ndarray,
    target: Grid,
    profile: bool = False,
) -> tuple[Table, np.ndarray]:
    """Returns the table of the values that a target reads from a source.

    `near` is 0 at offsets that are beyond those of the source, in each tap of a
    stride. `Table.fill` fills it when the taps are added.

    Args:
        source: Table or Whole. The second moments of what is read.
        first: int array. The position that each position of the target reads
            for x, -1 for none, which is 0.
        second: int array. The same for y.
        target: Grid.
        profile: bool. As in `Table.lookup`.
    """
    table = zeros(target)
    table.same = source.lookup(first, second, profile)
    there = np.where(target.moved >= 0, second[target.moved], -1)
    known = np.ones(len(target.offsets), bool)
    step = None
    if np.array_equal(first, second):
        step = _step(first, source, target)
    if step is None or not isinstance(source, Table):
        for k, q in enumerate(there):
            table.near[:, :, k] = source.lookup(first, q, profile)
    else:
        # All gaps at one offset are one gap in the source.
        gaps = target.offsets * step
        known = np.all(np.abs(gaps) <= source.grid.radius, axis=-1)
        code = source.grid.code_of(gaps)
        for k in np.flatnonzero(known).tolist():
            near = source.near[:, :, code[k]].take(np.maximum(first, 0), axis=2)
            table.near[:, :, k] = near * ((first >= 0) & (there[k] >= 0))
    left = source.reading(first, target, profile)
    right = source.reading(second, target, profile)
    table.far = left[:, None] @ source.far @ right[None].transpose(0, 1, 3, 2)
    return table, known


def _step(
    index: np.ndarray, source: Table | Whole, target: Grid
) -> np.ndarray | None:
    """Returns the steps along each axis of positions that are read, or None.

    The position p reads step * p + shift, or nothing. None, too, where all
    entries of the source are known anyway.

    Args:
        index: int array. The position that each one of the target reads, or -1.
        source: Table or Whole.
        target: Grid.
    """
    if isinstance(source, Whole | Given):
        return None
    grid = source.grid
    (inside,) = np.nonzero(index >= 0)
    if len(grid.places) != len(target.places) or not len(inside):
        return None
    mine, theirs = target.coordinates[inside], grid.coordinates[index[inside]]
    length = mine[-1] - mine[0]
    step = np.where(
        length > 0, (theirs[-1] - theirs[0]) // np.maximum(length, 1), 1
    )
    shift = theirs - step * mine
    return np.asarray(step) if np.all(shift == shift[0]) else None


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
    near = np.zeros((*same.shape[:2], *grid.moved.shape))
    for k, other in enumerate(grid.moved):
        (inside,) = np.nonzero(other >= 0)
        near[:, :, k, inside] = products(x[..., inside], y[..., other[inside]])
    total = np.einsum(
        "caA,cbB->abAB",
        grid.means(x) * grid.in_cell,
        grid.means(y) * grid.in_cell,
    )
    total = total / channels - grid.sums_of_pairs(near)
    far = total / np.maximum(grid.far_pairs, 1)
    return Given(Table(grid, same, near, far), x, y)


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
    near = entries(np.broadcast_to(every, grid.moved.shape), grid.moved)
    p, q = grid.far_samples()
    return Table(
        grid,
        entries(every, every),
        np.where(grid.moved >= 0, near, 0.0),
        entries(p, q),
    )


def of_drawn(
    grid: Grid,
    entries: Callable[[np.ndarray, np.ndarray], np.ndarray],
    profile: bool,
    most: int,
) -> Table:
    """Returns the table of a matrix whose entries are drawn.

    `same` is drawn at many positions, which stand for those around them. `near`
    is drawn at some, and `far` at one pair for two cells, and others have the
    same correlation.

    Args:
        grid: Grid.
        entries: callable. From positions of x and of y, int arrays of shape
            `(pairs,)`, to an array of shape `(samples, samples, pairs)`.
        profile: bool. Whether it is the matrix of one tensor.
        most: int. About how many entries may be drawn for `same`, and for
            `near`.
    """
    table = zeros(grid)
    # Fewer windows read a position at the border, which stands for itself.
    inner = grid.coordinates.clip(
        grid.radius, np.array(grid.places) - 1 - grid.radius
    )
    border = np.any(inner != grid.coordinates, axis=-1)
    like = np.where(border, np.arange(grid.count), grid.like(most))
    chosen, of_chosen = np.unique(like, return_inverse=True)
    table.same = entries(chosen, chosen)[:, :, of_chosen]
    roots = table.roots() if profile else np.ones((grid.samples, grid.count))

    def correlations(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        sizes = roots[:, None, p] * roots[None, :, q]
        return _quotient(entries(p, q), sizes)

    # With one tensor, the pair of p and p + e is that of p + e and -e.
    offsets = np.arange(grid.middle if profile else len(grid.offsets))
    # Few, since each one needs many draws: their errors would widen a maximum.
    like = grid.like(max(most // (4 * len(offsets)), 1))
    chosen, of_chosen = np.unique(like, return_inverse=True)
    k, p = np.meshgrid(offsets, chosen, indexing="ij")
    q = grid.moved[k, p]
    found = np.zeros((*table.same.shape[:2], *q.shape))
    found[:, :, q >= 0] = correlations(p[q >= 0], q[q >= 0])
    table.near[:, :, offsets] = found[..., of_chosen]
    table.near *= roots[:, None, None] * grid.around(roots)[None]
    if profile:
        table.near += table.T.near
    table.near[:, :, grid.middle] = table.same
    p, q = grid.far_samples()
    cells = np.triu_indices(len(p)) if profile else np.indices(p.shape)
    found = np.zeros(table.far.shape)
    values = correlations(p[tuple(cells)], q[tuple(cells)])
    found[:, :, cells[0], cells[1]] = values
    if profile:
        found[:, :, cells[1], cells[0]] = values.swapaxes(0, 1)
    means = grid.means(roots)
    table.far = found * means[:, None, :, None] * means[None, :, None, :]
    return table


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
