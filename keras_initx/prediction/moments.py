"""Means and second moments of expressions.

The second moments E x_i y_j of two expressions are found by the first of these
rules that applies. Here a_k are factors, T is an index, M a matrix, and p runs
over positions:

    channels at one shift           those of their parts
    x = sum_k a_k x_k               sum_k a_k E x_k y
    no variable in common           E x_i E y_j
    x linear in a variable of mean  0
    0 that y does not have
    x = Take(x', T)                 E x'_T(i) y_j
    x = Stack(x_k at points)        E x_k y_j at the points of each x_k, else 0
    x = Mix(M, x')                  M E x' y
    Known with itself               its second moments
    Flat, Flat                      mean over p of E x'_(ip) y'_(jp)
    Unflat, Unflat                  E x'_i y'_j at equal positions, else 0
    Linear, Linear                  scale sum over taps o of E h_o(i) h'_o(j)
    White, White                    1 at points of one group, else 0
    OneWeight, OneWeight                  mean square of the entries
    Values, Values                  mean over the channels of x_i y_j
    Mask, Mask                      1 / (1 - rate) at points of one group, else
                                    1
    f(u), g(v), u and v Gaussian    E f(u_i) g(v_j), by
                                    `theory.mean_field.gaussian_products`,
                                    unless f or g varies too fast for it
    products                        the product over groups of factors that have
                                    no variable in common
    a product with a sum            the sum of the products
    functions of given values       mean over the given channels
    Drawn, and all others           mean over channels that are drawn

In the last case the variables of x and y are drawn, once, for 8192 channels,
and the expressions are computed on these. Such moments are marked as sampled.
For expressions that have the statistics of a batch they are drawn for each
moment anew.

Reference: Cho & Saul, NeurIPS 22 (2009), and Poole et al., arXiv:1606.05340,
for functions of one vector; Novak et al., arXiv:1810.05148, for taps. The rules
for sums, products and draws are derived here.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import numpy as np

from keras_initx.prediction.channels import (
    Channels,
    combined,
    rows_at,
    total_of,
)
from keras_initx.prediction.elementwise import Elementwise
from keras_initx.prediction.expressions import (
    Block,
    Blocks,
    Constant,
    Expression,
    Flat,
    Known,
    Linear,
    Mask,
    Mix,
    OneWeight,
    Product,
    Shifted,
    Stack,
    Standardized,
    Sum,
    Take,
    Unflat,
    Values,
    White,
    as_function_of_one,
)
from keras_initx.prediction.refusals import TooManyPointsError, Unpredictable
from keras_initx.theory.mean_field.gaussian_products import (
    UnresolvedError,
    gaussian_mean,
    gaussian_product,
)

SAMPLED = "sampled"
# At most about how many values are drawn of channels with the statistics of a
# batch, for one moment and for all of a model.
_BATCH_VALUES = 2**20
_ALL_BATCH_VALUES = 2**26
# At most about how many values of all Gaussian vectors together are drawn for
# one moment. That of a late residual branch has the vectors of those before it.
_BATCH_DRAWS = 2**22
# Fewer are drawn where the standard error of a mean square that has passed all
# normalizations is smaller.
_BATCH_ERROR = 0.005
_FEWEST_CHANNELS = 1024


class Moments:
    """Computes moments of expressions, each once.

    Args:
        channels: int. The number of channels that are drawn.
        limit: int. The largest number of points.
        seed: int. The seed of the draws.
    """

    def __init__(self, channels: int, limit: int, seed: int):
        self.channels = channels
        self.limit = limit
        self.seed = seed
        self._first: dict[int, np.ndarray] = {}
        self._second: dict[tuple[int, int], np.ndarray | None] = {}
        # Expressions are known by id, so they must stay.
        self._kept: list[Expression] = []
        # Why the moments of an expression are not exact, by its id.
        self._marks: dict[int, set[str]] = {}
        self._products: dict[tuple[int, ...], Expression] = {}
        self._sums: dict[int, Expression | None] = {}
        self._drawn = Channels(channels, seed, self.second)
        self._batches = 0
        # How many normalizations over a batch there are.
        self.normalizations = 0

    # ---- means -----------------------------------------------------------

    def first(self, x: Expression) -> np.ndarray:
        """Returns E x, of shape `(points,)`."""
        if id(x) not in self._first:
            self._kept.append(x)
            self._first[id(x)] = self._compute_first(x)
        return self._first[id(x)]

    def _compute_first(self, x: Expression) -> np.ndarray:
        if isinstance(x, Constant):
            return x.values
        if isinstance(x, White | OneWeight | Linear | Unflat | Known):
            return np.zeros(x.size)
        if isinstance(x, Values):
            return x.values.mean(axis=0)
        if isinstance(x, Mask):
            return np.ones(x.size)
        if isinstance(x, Sum):
            return total_of(
                factor * self.first(part)
                for factor, part in zip(x.factors, x.parts, strict=True)
            )
        if isinstance(x, Take):
            return rows_at(self.first(x.parts[0])[:, None], x.index)[:, 0]
        if isinstance(x, Mix) and _is_linear(x):
            return x.matrix @ self.first(x.parts[0])
        if isinstance(x, Stack):
            first = np.zeros(x.size)
            for part, points in zip(x.parts, x.at, strict=True):
                first[points] = self.first(part)
            return first
        if isinstance(x, Flat):
            return self.first(x.parts[0]).reshape(x.size, -1).mean(axis=1)
        if isinstance(x, Shifted):
            return self.first(x.part)
        pair = as_function_of_one(x)
        if pair is not None:
            source, f = pair
            variance = self._variance(source)
            with contextlib.suppress(UnresolvedError):
                return gaussian_mean(f.function, self.first(source), variance)
        if isinstance(x, Product):
            groups = _independent_groups([x.parts])
            if len(groups) > 1:
                means = [self.first(self._product(g)) for (g,) in groups]
                return np.prod(means, axis=0)
            expanded = self._expanded(x)
            if expanded is not None:
                return self.first(expanded)
        if _is_of_channels(x):
            return self._on_channels(x).mean(axis=0)
        return self._first_of_draws(x)

    def _first_of_draws(self, x: Expression) -> np.ndarray:
        """Returns the mean on drawn channels."""
        self._mark_sampled(x)
        return self._channels_for(x).values(x).mean(axis=0)

    # ---- second moments --------------------------------------------------

    def second(self, x: Expression, y: Expression) -> np.ndarray:
        """Returns E x_i y_j, of shape `(points of x, points of y)`.

        Raises:
            TooManyPointsError: If there are more points than the limit.
        """
        found = self._second_or_none(x, y)
        return np.zeros((x.size, y.size)) if found is None else found

    def diagonal(self, x: Expression) -> np.ndarray:
        """Returns E x_i^2, of shape `(points,)`."""
        return self.second(x, x).diagonal()

    def second_of_blocks(self, x: Blocks, y: Blocks) -> np.ndarray:
        """Returns the mean over channels of E x_i y_j of two tensors."""
        pairs = aligned(x, y)
        total = sum(a.width for a, _ in pairs)
        return total_of(
            a.width / total * self.second(a.expression, b.expression)
            for a, b in pairs
        )

    def _second_or_none(
        self, x: Expression, y: Expression
    ) -> np.ndarray | None:
        """As `second`, with None for a matrix of zeros."""
        key = (id(x), id(y))
        if key in self._second:
            return self._second[key]
        if (id(y), id(x)) in self._second:
            found = self._second[id(y), id(x)]
            return None if found is None else found.T
        if max(x.size, y.size) > self.limit:
            raise TooManyPointsError(max(x.size, y.size), self.limit)
        self._kept += [x, y]
        self._second[key] = self._compute_second(x, y)
        return self._second[key]

    def _compute_second(
        self, x: Expression, y: Expression
    ) -> np.ndarray | None:
        if (
            isinstance(x, Shifted)
            and isinstance(y, Shifted)
            and x.shift == y.shift
        ):
            return self._second_or_none(x.part, y.part)
        for one, other, swapped in ((x, y, False), (y, x, True)):
            if isinstance(one, Sum):
                return _transposed_if(self._second_of_sum(one, other), swapped)
        if not x.support & y.support:
            return self._outer(x, y)
        if x.linear_in - y.support or y.linear_in - x.support:
            return None
        if isinstance(x, Stack) and isinstance(y, Stack):
            f, g = as_function_of_one(x), as_function_of_one(y)
            if f and g and not (x.gaussian or y.gaussian):
                with contextlib.suppress(UnresolvedError):
                    return self._second_of_pair(*f, *g)
        for one, other, swapped in ((x, y, False), (y, x, True)):
            if isinstance(one, Stack):
                return _transposed_if(
                    self._second_of_stack(one, other), swapped
                )
            if isinstance(one, Take):
                inner = self._second_or_none(one.parts[0], other)
                taken = None if inner is None else rows_at(inner, one.index)
                return _transposed_if(taken, swapped)
            if isinstance(one, Mix) and _is_linear(one):
                inner = self._second_or_none(one.parts[0], other)
                mixed = None if inner is None else one.matrix @ inner
                return _transposed_if(mixed, swapped)
        if isinstance(x, Known) and x is y:
            return x.second
        if isinstance(x, Flat) and isinstance(y, Flat):
            inner = self._second_or_none(x.parts[0], y.parts[0])
            if inner is None:
                return None
            shape = (x.size, x.positions, y.size, y.positions)
            return np.einsum("apbp->ab", inner.reshape(shape)) / x.positions
        if isinstance(x, Unflat) and isinstance(y, Unflat):
            inner = self._second_or_none(x.parts[0], y.parts[0])
            if inner is None:
                return None
            return np.kron(inner, np.eye(x.positions))
        if isinstance(x, Linear) and isinstance(y, Linear):
            return self._second_of_linear(x, y)
        if isinstance(x, White) and isinstance(y, White):
            return (x.same[:, None] == y.same[None, :]).astype(float)
        if isinstance(x, OneWeight) and isinstance(y, OneWeight):
            return np.full((x.size, y.size), np.mean(x.entries**2))
        if isinstance(x, Values) and isinstance(y, Values):
            return x.values.T @ y.values / len(x.values)
        if isinstance(x, Mask) and isinstance(y, Mask):
            same = x.groups[:, None] == y.groups[None, :]
            return np.where(same, 1 / (1 - x.rate), 1.0)
        return self._second_of_functions(x, y)

    def _outer(self, x: Expression, y: Expression) -> np.ndarray | None:
        """Returns E x_i E y_j, the second moments of independent x and y."""
        first = self.first(x)
        if not np.any(first):
            return None
        second = self.first(y)
        return np.multiply.outer(first, second) if np.any(second) else None

    def _second_of_stack(self, x: Stack, y: Expression) -> np.ndarray | None:
        """Returns E x_i y_j, part by part."""
        total = None
        for part, points in zip(x.parts, x.at, strict=True):
            found = self._second_or_none(part, y)
            if found is not None:
                if total is None:
                    total = np.zeros((x.size, y.size))
                total[points] = found
        return total

    def _second_of_sum(self, x: Sum, y: Expression) -> np.ndarray | None:
        """Returns the sum over k of a_k E x_k y, for x = sum_k a_k x_k."""
        total = None
        for factor, part in zip(x.factors, x.parts, strict=True):
            term = self._second_or_none(part, y)
            if term is not None:
                scaled = (
                    factor * term
                    if np.ndim(factor) == 0
                    else np.asarray(factor)[:, None] * term
                )
                total = scaled if total is None else total + scaled
        return total

    def _second_of_linear(self, x: Linear, y: Linear) -> np.ndarray | None:
        """Returns scale times the sum over taps o of E h_o(i) h'_o(j).

        Both are maps of the tensors h and h' by the same weights, or by those
        of two layers of a `DepthProcess`, whose covariance multiplies it.
        """
        scale = x.scale if x.scale == y.scale else np.sqrt(x.scale * y.scale)
        if x.covariance is not None:
            scale = scale * x.covariance[abs(x.index - y.index)]
        if scale == 0:
            return None
        inner = self.second_of_blocks(x.source, y.source)
        if x.taps is None or y.taps is None:
            return scale * inner
        # The index -1 reads the zeros of one more row and column.
        inner = np.pad(inner, ((0, 1), (0, 1)))
        total = np.zeros((x.size, y.size))
        for tap_x, tap_y in zip(x.taps, y.taps, strict=True):
            total += inner.take(tap_x, axis=0, mode="wrap").take(
                tap_y, axis=1, mode="wrap"
            )
        return scale * total

    def _second_of_functions(
        self, x: Expression, y: Expression
    ) -> np.ndarray | None:
        """Returns the second moments of functions of common variables."""
        if x.gaussian and y.gaussian:
            raise Unpredictable(
                "the weights of one layer meet signals of different shapes"
            )
        if x.drawn or y.drawn:
            # All moments are those of the same channels, since moments that
            # differ by the error of draws might be no covariance.
            return self._second_of_draws(x, y)
        f, g = as_function_of_one(x), as_function_of_one(y)
        if f is not None and g is not None:
            with contextlib.suppress(UnresolvedError):
                return self._second_of_pair(*f, *g)
        if isinstance(x, Product) or isinstance(y, Product):
            groups = _independent_groups([_factors(x), _factors(y)])
            if len(groups) > 1:
                return self._second_of_groups(groups)
            for one, other, swapped in ((x, y, False), (y, x, True)):
                expanded = self._expanded(one)
                if expanded is not None:
                    found = self._second_or_none(expanded, other)
                    return _transposed_if(found, swapped)
        if _is_of_channels(x) and _is_of_channels(y):
            return self._second_of_given(x, y)
        return self._second_of_draws(x, y)

    def _second_of_given(self, x: Expression, y: Expression) -> np.ndarray:
        """Returns the second moments on the channels of given values."""
        first, second = self._on_channels(x), self._on_channels(y)
        return first.T @ second / len(first)

    def _second_of_draws(self, x: Expression, y: Expression) -> np.ndarray:
        """Returns the second moments on drawn channels."""
        self._mark_sampled(x)
        self._mark_sampled(y)
        channels = self._channels_for(x, y)
        first, second = channels.values(x), channels.values(y)
        return mean_products(first, second)

    def _channels_for(self, *expressions: Expression) -> Channels:
        """Returns the channels on which moments of expressions are found.

        Channels with the statistics of a batch are drawn anew for each moment,
        and forgotten then, since there is one for each normalization. There are
        as many as the standard error of the mean square takes, which an eighth
        of the largest number tells. That number falls with that of the points,
        as the mean is over points too, with their share of the channels of a
        tensor, with the number of normalizations, and with that of the Gaussian
        vectors, which are those of all branches of a residual stage so far,
        where the error of one branch matters less.
        """
        batches = [x for x in expressions if x.by_batch]
        if not batches:
            return self._drawn
        self._batches += 1
        size = max(x.points for x in expressions)
        share = max(x.share for x in batches)
        count = max(self.normalizations, 1)
        values = min(_BATCH_VALUES, _ALL_BATCH_VALUES // count)
        vectors = frozenset().union(*(x.vectors for x in expressions))
        draws = _BATCH_DRAWS // max(len(vectors), 1)
        most = min(int(values * share), draws) // size
        most = min(max(most, _FEWEST_CHANNELS), 65536)
        wanted = _BATCH_ERROR / math.sqrt(count)
        tried = max(most // 8, _FEWEST_CHANNELS)
        if tried < most:
            channels = self._new_channels(tried)
            error = max(
                mean_square_error(channels.values(x))
                for x in dict.fromkeys(expressions)
            )
            if error <= wanted:
                return channels
            most = min(most, int(tried * (error / wanted) ** 2) + 1)
        return self._new_channels(most)

    def _new_channels(self, count: int) -> Channels:
        seed = self.seed + (self._batches << 64)
        return Channels(2 * (count // 2), seed, self.second)

    def _second_of_groups(
        self, groups: list[list[list[Expression]]]
    ) -> np.ndarray | None:
        """Returns the product over independent groups of factors."""
        total: np.ndarray | None = None
        for a, b in groups:
            if a and b:
                term = self._second_or_none(self._product(a), self._product(b))
            elif a:
                term = self._rows(self._product(a))
            else:
                term = self._rows(self._product(b)).T
            if term is None or not np.any(term):
                return None
            total = term if total is None else total * term
        return total

    def _rows(self, x: Expression) -> np.ndarray:
        """Returns E x_i as what multiplies the row i of a matrix."""
        return self.first(x)[:, None]

    def _product(self, factors: Sequence[Expression]) -> Expression:
        """Returns a product, the same object for the same factors."""
        if len(factors) == 1:
            return factors[0]
        key = tuple(map(id, factors))
        if key not in self._products:
            self._products[key] = Product(factors)
        return self._products[key]

    def _expanded(self, x: Expression) -> Expression | None:
        """Returns a product of sums as a sum of products, or None."""
        if not isinstance(x, Product):
            return None
        if id(x) not in self._sums:
            self._kept.append(x)
            self._sums[id(x)] = None
            for i, factor in enumerate(x.parts):
                if isinstance(factor, Sum) and not factor.gaussian:
                    rest = [*x.parts[:i], *x.parts[i + 1 :]]
                    terms = [self._product([p, *rest]) for p in factor.parts]
                    self._sums[id(x)] = Sum(terms, factor.factors)
                    break
        return self._sums[id(x)]

    def check_maximum(self, x: Expression) -> None:
        """Refuses a maximum over more positions than can be drawn together."""
        return None

    def reasons(self, x: Expression) -> frozenset[str]:
        """Returns why the moments of an expression are not exact."""
        found = set(x.reasons)
        waiting = [x]
        seen: set[int] = set()
        while waiting:
            one = waiting.pop()
            if id(one) not in seen:
                seen.add(id(one))
                found |= self._marks.get(id(one), set())
                waiting += one.parts
        return frozenset(found)

    def _second_of_pair(
        self,
        source_x: Expression,
        f: Elementwise,
        source_y: Expression,
        g: Elementwise,
    ) -> np.ndarray:
        """Returns E f(u_i) g(v_j) of Gaussian u and v."""
        mean_u, mean_v = self.first(source_x), self.first(source_y)
        covariance = self.second(source_x, source_y) - np.multiply.outer(
            mean_u, mean_v
        )
        return gaussian_product(
            f.function,
            g.function,
            mean_u,
            mean_v,
            self._variance(source_x),
            self._variance(source_y),
            covariance,
        )

    def _variance(self, x: Expression) -> np.ndarray:
        return np.maximum(self.diagonal(x) - self.first(x) ** 2, 0)

    # ---- channels ---------------------------------------------------------

    def _mark_sampled(self, x: Expression) -> None:
        """Records that the moments of an expression come from draws."""
        self._mark(x, SAMPLED)

    def _mark(self, x: Expression, reason: str) -> None:
        """Records why the moments of an expression are not exact."""
        self._marks.setdefault(id(x), set()).add(reason)
        self._kept.append(x)

    def _on_channels(self, x: Expression) -> np.ndarray:
        """Returns a function of given values on their own channels."""
        if isinstance(x, Values):
            return x.values
        if isinstance(x, Constant):
            return x.values[None, :]
        parts = [self._on_channels(part) for part in x.parts]
        return combined(x, parts)


def mean_products(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the mean over channels of x_i y_j.

    Points that are 0 in all channels cost nothing, as most are of the gradients
    behind a window.

    Args:
        x: Array of shape `(channels, points)`.
        y: Array of shape `(channels, points)`.

    Returns:
        Array of shape `(points of x, points of y)`.
    """
    if x is y:
        rows, part = _filled_columns(x)
        # NumPy then computes half of the symmetric matrix only.
        columns, products = rows, part.T @ part
    else:
        (rows, part), (columns, other) = map(_filled_columns, (x, y))
        products = part.T @ other
    products /= len(x)
    if len(rows) == x.shape[1] and len(columns) == y.shape[1]:
        return products
    whole = np.zeros((x.shape[1], y.shape[1]))
    whole[np.ix_(rows, columns)] = products
    return whole


def mean_square_error(x: np.ndarray) -> float:
    """Returns the relative standard error of the mean square of channels.

    Args:
        x: Array of shape `(channels, points)`. The second half of the channels
            are drawn with the normal values of the first half, negated.
    """
    squares = np.einsum("cp,cp->c", x, x).reshape(2, -1).mean(axis=0)
    mean = squares.mean()
    if not mean:
        return 0.0
    return float(squares.std() / (mean * math.sqrt(len(squares))))


def _filled_columns(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns which columns of a matrix are not 0, and these columns."""
    # Most that are not 0 anywhere are not 0 in some of the first rows.
    filled = x[:64].any(axis=0)
    if not filled.all():
        filled = x.any(axis=0)
    rows = np.flatnonzero(filled)
    return rows, x if len(rows) == x.shape[1] else x[:, rows]


def aligned(x: Blocks, y: Blocks) -> list[tuple[Block, Block]]:
    """Returns the blocks of two tensors, cut where one of them is cut."""
    if [b.width for b in x] == [b.width for b in y]:
        return list(zip(x, y, strict=True))
    ends = sorted({*_ends(x), *_ends(y)})
    starts = [0, *ends[:-1]]
    return [
        (sliced(x, start, end)[0], sliced(y, start, end)[0])
        for start, end in zip(starts, ends, strict=True)
    ]


def sliced(blocks: Blocks, start: int, stop: int) -> Blocks:
    """Returns the channels from `start` to `stop` of a tensor."""
    found = []
    at = 0
    for block in blocks:
        low, high = max(start, at), min(stop, at + block.width)
        if low < high:
            part = _part(block.expression, low - at, high - at, block.width)
            found.append(Block(high - low, part))
        at += block.width
    return found


def _part(x: Expression, start: int, stop: int, width: int) -> Expression:
    """Returns one channel of a slice of a block.

    Channels of one block have one distribution and are independent of one
    another, so that a slice that does not start the block is a `Shifted`.
    """
    if (start, stop) == (0, width) or isinstance(x, Constant):
        return x
    if isinstance(x, Values):
        return Values(x.values[start:stop], (x.support, start))
    if isinstance(x, Flat):
        raise Unpredictable("it takes a part of the channels of a Flatten")
    if start == 0:
        return x
    if start not in x.shifts:
        x.shifts[start] = Shifted(x, start)
    return x.shifts[start]


def _ends(blocks: Blocks) -> list[int]:
    return np.cumsum([block.width for block in blocks]).tolist()


def _transposed_if(
    matrix: np.ndarray | None, swapped: bool
) -> np.ndarray | None:
    """Returns a matrix, transposed if x and y were swapped to compute it."""
    return matrix.T if swapped and matrix is not None else matrix


def _factors(x: Expression) -> Sequence[Expression]:
    return x.parts if isinstance(x, Product) else [x]


def _independent_groups(
    sides: Sequence[Sequence[Expression]],
) -> list[list[list[Expression]]]:
    """Returns factors in groups whose supports are disjoint.

    Args:
        sides: Sequences of factors, of one product each.

    Returns:
        For each group its factors on each side.
    """
    groups: list[tuple[set, list[tuple[int, Expression]]]] = []
    for side, factor in (
        (side, factor)
        for side, factors in enumerate(sides)
        for factor in factors
    ):
        support, members = set(factor.support), [(side, factor)]
        apart = []
        for other, theirs in groups:
            if other & support:
                support |= other
                members = theirs + members
            else:
                apart.append((other, theirs))
        groups = [*apart, (support, members)]
    return [
        [[f for at, f in members if at == side] for side in range(len(sides))]
        for _, members in groups
    ]


def _is_linear(x: Mix) -> bool:
    """Whether the moments of a `Mix` are those of its matrix."""
    return x.gaussian or not isinstance(x, Standardized)


def _is_of_channels(x: Expression) -> bool:
    """Whether an expression is a function of given values alone."""
    return x.given and len(x.support) == 1
