"""What the channels of a wide random network are: functions of few variables.

As a network becomes wide, each channel of a tensor is one draw of the same
random vector, which has an entry for each point, that is, each position of each
sample. A random linear map makes a Gaussian vector that is new, given the
second moments of what it maps, and everything between two of them acts on each
channel alone. So each channel of a tensor is an expression in variables:
Gaussian vectors, the values of the data, and the masks of dropout. Two uses of
the same weights make two vectors of one family, which are jointly Gaussian. For
example,
the channels of relu(x) + W relu(x) with x = V h are Sum([Map(relu, x'),
Linear(relu(x'))]) with x' = Linear(h), in which x' and the outer Linear are of
different families, and thus independent.

Reference: Yang, arXiv:1910.12478 and arXiv:2006.14548 (tensor programs). The
expressions are introduced here.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_initx.prediction.elementwise import IDENTITY, Elementwise

Support = frozenset[Hashable]
_UNKNOWN = object()


class Expression:
    """A random vector with an entry for each point.

    Attributes:
        size: int. The number of points.
        parts: tuple of expressions. What it is computed from.
        points: int. The largest number of points in it and its parts.
        support: frozenset. The families of its variables. Expressions of
            disjoint supports are independent.
        vectors: frozenset. Those of them that have a value at each point.
        gaussian: bool. Whether it is a Gaussian vector.
        reasons: frozenset of str. Why its moments are not exact.
        exact: bool. Whether its moments are means over networks of any width.
        given: bool. Whether it is a function of given values.
        drawn: bool. Whether its moments are those of drawn channels.
        by_batch: bool. Whether it has the statistics that each channel has over
            a batch, and no closed form for them.
        share: float. Which share of the channels of a tensor it is, at least,
            of one with `by_batch`.
        linear_in: frozenset. Families of mean 0 in which it is linear. E x y is
            0 if y does not depend on one of those of x.
        function_of_one: The result of `as_function_of_one`, once it was asked
            for.
        shifts: dict. The `Shifted` channels that were made of it.
        places: tuple of ints or None. The axes of positions of its points,
            where they are known.
    """

    gaussian = False
    exact = False
    given = False

    def __init__(
        self,
        size: int,
        parts: Sequence[Expression] = (),
        family: Hashable = None,
        reasons: Sequence[str] = (),
    ):
        self.size = size
        self.parts = tuple(parts)
        self.points: int = max([size, *(part.points for part in self.parts)])
        own = () if family is None else (family,)
        self.support: Support = frozenset(own).union(
            *(part.support for part in self.parts)
        )
        self.vectors: Support = frozenset(own).union(
            *(part.vectors for part in self.parts)
        )
        self.reasons: frozenset[str] = frozenset(reasons).union(
            *(part.reasons for part in self.parts)
        )
        self.drawn: bool = any(part.drawn for part in self.parts)
        self.by_batch: bool = any(part.by_batch for part in self.parts)
        self.share: float = max(
            (part.share for part in self.parts if part.by_batch), default=1.0
        )
        self.linear_in: Support = frozenset()
        self.function_of_one: Any = _UNKNOWN
        self.shifts: dict[int, Expression] = {}
        self.places: tuple[int, ...] | None = None
        for part in self.parts:
            if part.size == size and part.places is not None:
                self.place(part.places)
                break

    def place(self, places: tuple[int, ...]) -> None:
        """Says which axes of positions the points have, if none are known."""
        if self.places is None:
            self.places = tuple(places)
            for part in self.parts:
                if part.size == self.size:
                    part.place(places)


@dataclass
class Block:
    """A slice of the channels of a tensor, which have one distribution.

    Args:
        width: int. The number of channels.
        expression: Expression. One of them.
    """

    width: int
    expression: Expression


Blocks = list[Block]


class White(Expression):
    """Gaussian values of variance 1 that are independent at all points."""

    gaussian = True

    def __init__(
        self, size: int, family: Hashable, same: np.ndarray | None = None
    ):
        super().__init__(size, family=family)
        self.exact = True
        self.linear_in = self.support
        # Points of one group have one value.
        self.same = np.arange(size) if same is None else same


class OneWeight(Expression):
    """A random weight of each channel, the same at all points.

    Args:
        size: int. The number of points.
        entries: Array of shape `(count,)`. What the weight is one of, with
            either sign.
        family: Hashable. The weight.
    """

    def __init__(self, size: int, entries: np.ndarray, family: Hashable):
        super().__init__(size, family=family)
        self.vectors = frozenset()
        self.linear_in = self.support
        self.entries = entries


class Linear(Expression):
    """A random linear map of a tensor, given the tensor's second moments.

        u_i = sum over taps o and channels c of W_(o, c) h_(o(i), c)

    with weights of mean 0 and variance `scale` / (number of channels of h), and
    o(i) the point that the tap o of the output i reads, -1 for none.

    Args:
        family: Hashable. The weights.
        source: Blocks. The tensor h.
        taps: list of int arrays of shape `(size,)`, or None for the identity.
        scale: float. The variance of a weight times the channels of h.
        size: int. The number of points.
        reasons: Sequence of str. As in `Expression`.

    Attributes:
        index: int. As in `engine.Weight`.
        covariance: Array or None. As in `engine.Weight`.
    """

    gaussian = True
    index = 0
    covariance: np.ndarray | None = None

    def __init__(
        self,
        family: Hashable,
        source: Blocks,
        taps: list[np.ndarray] | None,
        scale: float,
        size: int,
        reasons: Sequence[str] = (),
    ):
        super().__init__(size, family=family, reasons=reasons)
        for block in source:
            self.reasons |= block.expression.reasons
        self.exact = all(block.expression.exact for block in source)
        self.linear_in = self.support
        self.source = source
        self.taps = taps
        self.scale = scale


class Values(Expression):
    """Given values, in which the channels differ.

    Args:
        values: Array of shape `(channels, points)`.
        family: Hashable. Values of one family have the same channels.
    """

    def __init__(self, values: np.ndarray, family: Hashable):
        super().__init__(values.shape[1], family=family)
        self.exact = self.given = True
        self.values = values


class Mask(Expression):
    """The mask of a dropout: 0 for a share of all values, else 1 / (1 - rate).

    Args:
        rate: float. The share.
        groups: Array of ints of shape `(points,)`. Points of the same number
            are dropped together.
        family: Hashable. The dropout.
        reasons: Sequence of str. As in `Expression`.
    """

    def __init__(
        self,
        rate: float,
        groups: np.ndarray,
        family: Hashable,
        reasons: Sequence[str] = (),
    ):
        super().__init__(len(groups), family=family, reasons=reasons)
        self.rate = rate
        self.groups = groups


class Constant(Expression):
    """Numbers that are the same in all channels, of shape `(points,)`."""

    gaussian = True

    def __init__(self, values: np.ndarray):
        super().__init__(len(values))
        self.exact = self.given = True
        self.values = values


class Sum(Expression):
    """A sum of expressions, each times a number or one number a point."""

    def __init__(
        self,
        terms: Sequence[Expression],
        factors: Sequence[float | np.ndarray],
        reasons: Sequence[str] = (),
    ):
        super().__init__(terms[0].size, terms, reasons=reasons)
        self.factors = tuple(factors)
        self.given = all(term.given for term in terms)
        self.exact = self.given or (
            self.is_plain and all(term.exact for term in terms)
        )
        self.gaussian = all(term.gaussian for term in terms)
        self.linear_in = frozenset.intersection(*(t.linear_in for t in terms))

    @property
    def is_plain(self) -> bool:
        """Whether all factors are numbers."""
        return all(np.ndim(factor) == 0 for factor in self.factors)


class Product(Expression):
    """A product of expressions."""

    def __init__(self, factors: Sequence[Expression]):
        flat: list[Expression] = []
        for factor in factors:
            flat += factor.parts if isinstance(factor, Product) else [factor]
        super().__init__(flat[0].size, flat)
        self.given = self.exact = all(factor.given for factor in flat)
        for factor in flat:
            others = (one.support for one in flat if one is not factor)
            self.linear_in |= factor.linear_in.difference(*others)


class Map(Expression):
    """A function that acts on each point of expressions alone."""

    def __init__(self, function: Elementwise, arguments: Sequence[Expression]):
        super().__init__(arguments[0].size, arguments)
        self.given = self.exact = all(part.given for part in arguments)
        self.function = function


class Take(Expression):
    """The values of an expression at other points, 0 where the index is -1."""

    def __init__(self, part: Expression, index: np.ndarray):
        super().__init__(len(index), [part])
        self.index = index
        self.exact, self.given = part.exact, part.given
        self.gaussian = part.gaussian
        self.linear_in = part.linear_in
        self.places = None

    def place(self, places: tuple[int, ...]) -> None:
        """Implements `Expression.place`; the part may have other axes."""
        if self.places is None:
            self.places = tuple(places)


class Stack(Expression):
    """Several expressions side by side, each at some of the points.

    Args:
        size: int. The number of points.
        parts: Sequence of expressions.
        at: Sequence of int arrays. The points of this that each part fills, in
            the order of its own points. No point is filled twice. A point that
            no part fills is 0.
    """

    def __init__(
        self, size: int, parts: Sequence[Expression], at: Sequence[np.ndarray]
    ):
        super().__init__(size, parts)
        self.at = tuple(at)
        self.exact = all(part.exact for part in self.parts)
        self.given = all(part.given for part in self.parts)
        self.gaussian = all(part.gaussian for part in self.parts)
        self.linear_in = frozenset.intersection(
            *(part.linear_in for part in self.parts)
        )

    @property
    def is_full(self) -> bool:
        """Whether every point is filled."""
        return sum(len(points) for points in self.at) == self.size


class Drawn(Expression):
    """An expression whose moments are found on drawn channels.

    It stands where an expression has no closed form and would otherwise grow
    from step to step, as the state of a recurrent layer does.
    """

    def __init__(self, part: Expression):
        super().__init__(part.size, [part])
        self.drawn = True


class Mix(Expression):
    """A matrix `(points, points of the part)` times an expression."""

    def __init__(
        self, part: Expression, matrix: np.ndarray, reasons: Sequence[str] = ()
    ):
        super().__init__(matrix.shape[0], [part], reasons=reasons)
        self.matrix = matrix
        self.exact, self.given = part.exact, part.given
        self.gaussian = part.gaussian
        self.linear_in = part.linear_in


class Standardized(Mix):
    """A channel that is normalized over a batch, by its own statistics.

        y = (x - m) / sqrt(s^2 + epsilon)

    with the mean m and the variance s^2 of the n values of the channel. For a
    Gaussian x its moments are those of `matrix` x. Where x is not Gaussian, and
    wherever it is drawn, it is computed for each channel.

    Args:
        part: Expression. The channel x.
        matrix: Array of shape `(points, points)`. It gives x the second moments
            of y, if x is Gaussian.
        epsilon: float. What is added to the variance.
        batches: int. How many batches there are: the point i belongs to the
            batch i modulo `batches`. Defaults to 1.
        share: float. As in `Expression`. Defaults to 1.
        reasons: Sequence of str. As in `Expression`.
    """

    def __init__(
        self,
        part: Expression,
        matrix: np.ndarray,
        epsilon: float,
        batches: int = 1,
        share: float = 1.0,
        reasons: Sequence[str] = (),
    ):
        super().__init__(part, matrix, reasons)
        self.epsilon = epsilon
        self.batches = batches
        self.by_batch |= not self.gaussian
        self.share = share
        self.linear_in = frozenset()

    def on(self, values: np.ndarray) -> np.ndarray:
        """Returns it on channels, from the part `(channels, points)`."""
        batch = values.reshape(len(values), -1, self.batches)
        return normalized(batch, self.epsilon)[0].reshape(values.shape)


class StandardizedGradient(Expression):
    """The gradient at x that a gradient g at `Standardized` x becomes.

        (g - <g> - y <g y>) / sqrt(s^2 + epsilon)

    with y the normalized values and < > the mean over the batch.

    Args:
        part: Expression. The channel x.
        gradient: Expression. The gradient g.
        epsilon: float. As in `Standardized`.
        batches: int. As in `Standardized`. Defaults to 1.
        share: float. As in `Expression`. Defaults to 1.
        reasons: Sequence of str. As in `Expression`.
    """

    def __init__(
        self,
        part: Expression,
        gradient: Expression,
        epsilon: float,
        batches: int = 1,
        share: float = 1.0,
        reasons: Sequence[str] = (),
    ):
        super().__init__(part.size, [part, gradient], reasons=reasons)
        self.by_batch = True
        self.share = share
        self.linear_in = gradient.linear_in - part.support
        self.epsilon = epsilon
        self.batches = batches

    def on(self, values: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Returns it on channels, from both parts `(channels, points)`."""
        shape = (len(values), -1, self.batches)
        y, scale = normalized(values.reshape(shape), self.epsilon)
        g = gradient.reshape(shape)
        g = g - g.mean(axis=1, keepdims=True)
        g -= y * (g * y).mean(axis=1, keepdims=True)
        return (g * scale).reshape(values.shape)


def normalized(
    values: np.ndarray, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns y = (x - m) / s over the middle axis, and 1 / s.

    s is the square root of the variance plus epsilon.
    """
    y = values - values.mean(axis=1, keepdims=True)
    scale = 1 / np.sqrt((y**2).mean(axis=1, keepdims=True) + epsilon)
    return y * scale, scale


class Largest(Expression):
    """The largest value over the taps of a window.

    Args:
        part: Expression.
        taps: list of int arrays of shape `(size,)`. The points that each point
            of this reads, -1 for none.
    """

    def __init__(self, part: Expression, taps: list[np.ndarray]):
        super().__init__(len(taps[0]), [part])
        self.taps = taps

    def on(self, values: np.ndarray) -> np.ndarray:
        """Returns it on channels, from the part `(channels, points)`."""
        found = np.full((len(values), self.size), -np.inf)
        for tap in self.taps:
            (inside,) = np.nonzero(tap >= 0)
            found[:, inside] = np.maximum(
                found[:, inside], values[:, tap[inside]]
            )
        return found


class Winner(Expression):
    """1 where a value is the largest of the window `owner`, else 0.

    It is the derivative of `Largest` by each point of the part.

    Args:
        largest: Largest. The largest values of the windows.
        owner: int array. The window of each point of its part, -1 for none.
    """

    def __init__(self, largest: Largest, owner: np.ndarray):
        super().__init__(largest.parts[0].size, [largest.parts[0], largest])
        self.owner = owner

    def on(self, values: np.ndarray, largest: np.ndarray) -> np.ndarray:
        """Returns it on channels, from the part and its largest values."""
        (inside,) = np.nonzero(self.owner >= 0)
        found = np.zeros(values.shape)
        found[:, inside] = values[:, inside] == largest[:, self.owner[inside]]
        return found


class Known(Expression):
    """A vector of mean 0 of which only the second moments are known.

    Args:
        second: Array of shape `(points, points)`. The second moments.
        family: Hashable. What it is.
        reasons: Sequence of str. As in `Expression`.
    """

    def __init__(
        self, second: np.ndarray, family: Hashable, reasons: Sequence[str]
    ):
        super().__init__(len(second), family=family, reasons=reasons)
        self.linear_in = self.support
        self.second = second


class Flat(Expression):
    """The channels of all positions of an expression, as one set of channels.

    Args:
        part: Expression. With `positions` positions for each point of this.
        positions: int. The number of positions.
    """

    def __init__(self, part: Expression, positions: int):
        super().__init__(part.size // positions, [part])
        self.exact, self.given = part.exact, part.given
        self.linear_in = part.linear_in
        self.positions = positions


class Unflat(Expression):
    """The inverse of `Flat`, for a Gaussian part: positions are independent."""

    def __init__(self, part: Expression, positions: int):
        super().__init__(part.size * positions, [part])
        self.positions = positions
        self.gaussian = part.gaussian
        self.linear_in = part.linear_in


class Shifted(Expression):
    """Other channels of the same distribution, independent of those of `part`.

    Args:
        part: Expression. One of the first channels of a block.
        shift: int. The number of channels between the two.
    """

    def __init__(self, part: Expression, shift: int):
        super().__init__(part.size, reasons=tuple(part.reasons))
        self.part = part
        self.shift = shift
        self.drawn = part.drawn
        self.support = frozenset((family, shift) for family in part.support)
        self.vectors = frozenset((family, shift) for family in part.vectors)
        self.gaussian = part.gaussian
        self.points = part.points
        self.by_batch, self.share = part.by_batch, part.share
        self.linear_in = frozenset((f, shift) for f in part.linear_in)


def as_function_of_one(
    expression: Expression,
) -> tuple[Expression, Elementwise] | None:
    """Returns a Gaussian vector and the function of it that an expression is.

    Args:
        expression: Expression.

    Returns:
        Tuple of a Gaussian expression and an Elementwise, or None if the
        expression is a function of several vectors, or no function point by
        point.
    """
    if expression.function_of_one is _UNKNOWN:
        expression.function_of_one = _as_function_of_one(expression)
    return expression.function_of_one


def _as_function_of_one(
    expression: Expression,
) -> tuple[Expression, Elementwise] | None:
    if expression.gaussian:
        return expression, IDENTITY
    if isinstance(expression, Map):
        if len(expression.parts) == 1 and expression.parts[0].gaussian:
            return expression.parts[0], expression.function
        combine = expression.function.call
    elif isinstance(expression, Product):
        combine = _product
    elif isinstance(expression, Sum) and expression.is_plain:
        combine = functools.partial(_weighted_sum, expression.factors)
    elif isinstance(expression, Stack):
        return _stacked_function(expression)
    else:
        return None
    functions = []
    source: Expression | None = None
    for part in expression.parts:
        pair = as_function_of_one(part)
        if pair is None or (source is not None and pair[0] is not source):
            return None
        source = pair[0]
        functions.append(pair[1])
    if source is None or isinstance(source, Constant):
        return None

    def call(z: Any) -> Any:
        return combine(*(f.call(z) for f in functions))

    return source, Elementwise(call)


def _stacked_function(x: Stack) -> tuple[Expression, Elementwise] | None:
    """Returns the function that all parts of a stack have in common."""
    pairs = [as_function_of_one(part) for part in x.parts]
    if not x.is_full or any(pair is None for pair in pairs):
        return None
    sources, functions = zip(*pairs, strict=True)
    if any(f is not functions[0] for f in functions):
        return None
    return Stack(x.size, sources, x.at), functions[0]


def taken(x: Expression, index: np.ndarray) -> Expression:
    """Returns the values of an expression at other points, simplified.

    Points of one part of a stack are those of the part.

    Args:
        x: Expression.
        index: int array. The points, -1 for one that is 0.
    """
    inside = index >= 0
    if isinstance(x, Stack) and inside.any():
        for part, points in zip(x.parts, x.at, strict=True):
            local = np.full(x.size, -1)
            local[points] = np.arange(len(points))
            if (local[index[inside]] >= 0).all():
                index = np.where(inside, local[np.maximum(index, 0)], -1)
                return taken(part, index)
    if len(index) == x.size and np.array_equal(index, np.arange(x.size)):
        return x
    if isinstance(x, Constant):
        return Constant(np.where(inside, x.values[np.maximum(index, 0)], 0.0))
    return Take(x, index)


def _product(*factors: Any) -> Any:
    result = factors[0]
    for factor in factors[1:]:
        result = result * factor
    return result


def _weighted_sum(weights: Sequence[Any], *terms: Any) -> Any:
    return sum(w * term for w, term in zip(weights, terms, strict=True))
