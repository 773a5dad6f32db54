"""The engine for the limit of wide layers.

A signal is a list of blocks of channels (`expressions.Block`), and each
operation makes the expressions of its result. A gradient is a list of blocks,
too:

    forward                   gradients of the arguments, given g of the result
    u = W h                   W^T g: a linear map with independent weights, as
                              if W^T were drawn anew (gradient independence)
    y = sum of f_k x_k        f_k g
    y = x_1 x_2               x_2 g, x_1 g
    y = phi(x_1, x_2)         phi_1'(x_1, x_2) g, phi_2'(x_1, x_2) g
    y_i = x_index(i)          the sum of g_i over the i that read a point
    y = M x                   M^T g
    y_i = max over o of x_o(i)    g_i at the point of the maximum, else 0
    y = (x - m) / s           g / s for the channels of a wide layer

Reference: Schoenholz et al., arXiv:1611.01232; Yang, arXiv:2006.14548, for the
independence of W^T. The gradients of expressions are derived here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from keras_initx.prediction.attention import (
    Head,
    attended,
    attended_gradients,
)
from keras_initx.prediction.averaged import POSITIONS
from keras_initx.prediction.elementwise import Elementwise
from keras_initx.prediction.engine import Engine, Parts, Signal, Weight
from keras_initx.prediction.expressions import (
    Block,
    Blocks,
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
from keras_initx.prediction.moments import (
    SAMPLED,
    Moments,
    aligned,
    sliced,
)
from keras_initx.prediction.positions import (
    Centering,
    Table,
    variances_of_modes,
)
from keras_initx.prediction.refusals import TooManyPointsError, Unpredictable
from keras_initx.theory.mean_field.batch_norm import (
    mean_inverse_variance,
    normalized_spectrum,
)
from keras_initx.theory.mean_field.gaussian_products import (
    Function,
    UnresolvedError,
    gaussian_mean,
)

# How many heads of attention are drawn.
_HEADS = 64
# The smallest variance of a batch, over its mean square, that is known where
# moments are averaged over positions.
_LEAST_SHARE = 0.03
_ONE_MASK = (
    "a dropout of all channels of a sample is taken to be one of each channel"
)
STATISTICS = (
    "the values of a normalized batch are taken to be normal: a relu or tanh "
    "of a batch of 2 independent values is up to 32% off, of 3 up to 20%, of 4 "
    "up to 14%, of 6 up to 9%, of 12 up to 4%, and from 48 on less than 1%"
)
BATCHES = (
    "its gradient through batch normalizations is a mean over draws: behind 50 "
    "to 120 of them it was 1% to 4% off"
)


class WideEngine(Engine):
    """Computes with expressions of channels, in the limit of wide layers.

    Args:
        moments: Moments. It computes the moments of the expressions.
    """

    def __init__(self, moments: Moments):
        super().__init__()
        self.moments = moments
        self._numbers = itertools.count()
        self._normalizing: dict[Hashable, tuple[Expression, np.ndarray]] = {}

    def white(self, size: int, width: int) -> Signal:
        """Implements `Engine.white`."""
        return self._signal([Block(width, White(size, self._family()))])

    def given(self, values: np.ndarray, family: Hashable) -> Signal:
        """Implements `Engine.given`."""
        return self._signal([Block(len(values), Values(values, family))])

    def one_hot(self, tokens: np.ndarray) -> Signal:
        """Implements `Engine.one_hot`."""
        # Given the tokens, E h_i h_j is 1 for equal tokens and 0 for others, as
        # for one white channel with equal values at equal tokens.
        one = White(len(tokens), "tokens", tokens)
        return self._signal([Block(1, one)])

    def linear(
        self,
        x: Signal,
        weight: Weight,
        taps: list[np.ndarray] | None,
        size: int,
        outputs: int,
        reasons: Sequence[str] = (),
    ) -> Signal:
        """Implements `Engine.linear`."""
        forward = self._linear(
            x.value,
            "forward",
            weight,
            taps,
            weight.variance * weight.inputs,
            size,
            reasons,
        )
        output = self._signal([Block(outputs, forward)])
        back = None if taps is None else [_inverse(t, x.size) for t in taps]

        def pull(gradient: Blocks) -> list[tuple[Signal, Blocks]]:
            backward = self._linear(
                gradient,
                "backward",
                weight,
                back,
                weight.variance * weight.outputs,
                x.size,
                (),
            )
            return [(x, [Block(x.width, backward)])]

        return self.with_gradient(output, pull, [(x, 1.0)])

    def _linear(
        self,
        source: Blocks,
        direction: str,
        weight: Weight,
        taps: list[np.ndarray] | None,
        scale: float,
        size: int,
        reasons: Sequence[str],
    ) -> Linear:
        """Returns the expression of a linear map, forward or backward."""
        # The moments of the source are computed now, so that later recursions
        # end at this layer.
        self.moments.second_of_blocks(source, source)
        known = frozenset(reasons).union(
            *(self.moments.reasons(block.expression) for block in source)
        )
        family = (direction, weight.family)
        u = Linear(family, source, taps, scale, size, tuple(known))
        u.index, u.covariance = weight.index, weight.covariance
        return u

    def new_vector(
        self,
        family: Hashable,
        variance: float,
        size: int,
        width: int,
        entries: np.ndarray | None = None,
    ) -> Signal:
        """Implements `Engine.new_vector`."""
        if entries is not None:
            scaled = entries * math.sqrt(variance / np.mean(entries**2))
            return self._signal([Block(width, OneWeight(size, scaled, family))])
        one = White(size, family, np.zeros(size, int))
        root = math.sqrt(variance)
        return self._signal([Block(width, Sum([one], [root]))])

    def add(self, signals: Sequence[Signal], factors: Sequence[Any]) -> Signal:
        """Implements `Engine.add`."""
        value = signals[0].value
        if len(signals) == 1:
            blocks = [
                Block(b.width, _sum([b.expression], factors)) for b in value
            ]
        else:
            blocks = _combined(
                [signal.value for signal in signals],
                lambda *parts: _sum(parts, factors),
            )

        def pull(gradient: Blocks) -> list[tuple[Signal, Blocks]]:
            return [
                (signal, _scaled(gradient, factor))
                for signal, factor in zip(signals, factors, strict=True)
            ]

        return self.with_gradient(
            self._signal(blocks), pull, self._shares(signals, factors)
        )

    def means(self, x: Signal) -> np.ndarray:
        """Implements `Engine.means`."""
        return sum(
            b.width / x.width * self.moments.first(b.expression)
            for b in x.value
        )

    def constant(self, values: np.ndarray, width: int) -> Signal:
        """Implements `Engine.constant`."""
        return self._signal([Block(width, Constant(values))])

    def constant_values(self, x: Signal) -> np.ndarray | None:
        """Implements `Engine.constant_values`."""
        (block, *others) = x.value
        if others or not isinstance(block.expression, Constant):
            return None
        return block.expression.values

    def shift(self, x: Signal, constant: Any) -> Signal:
        """Implements `Engine.shift`."""
        number = Constant(np.broadcast_to(np.asarray(constant, float), x.size))
        blocks = [
            Block(b.width, _sum([b.expression, number], [1.0, 1.0]))
            for b in x.value
        ]
        return self.with_gradient(
            self._signal(blocks), lambda g: [(x, g)], [(x, 1.0)]
        )

    def multiply(self, x: Signal, y: Signal) -> Signal:
        """Implements `Engine.multiply`."""
        blocks = _combined([x.value, y.value], lambda *parts: Product(parts))

        def pull(gradient: Blocks) -> list[tuple[Signal, Blocks]]:
            return [
                (
                    one,
                    _combined([other.value, gradient], lambda *p: Product(p)),
                )
                for one, other in ((x, y), (y, x))
            ]

        parts = [(s, 1.0) for s in (x, y) if not _is_given(s)]
        return self.with_gradient(self._signal(blocks), pull, parts)

    def map(self, function: Elementwise, signals: Sequence[Signal]) -> Signal:
        """Implements `Engine.map`."""
        values = [signal.value for signal in signals]
        blocks = _combined(values, lambda *parts: _map(function, parts))

        def pull(gradient: Blocks) -> list[tuple[Signal, Blocks]]:
            found = []
            for i, signal in enumerate(signals):
                if not function.passes_gradient(i):
                    continue
                slope = function.derivative(i)
                found.append(
                    (
                        signal,
                        _combined(
                            [*values, gradient],
                            lambda *p, slope=slope: Product(
                                [_map(slope, p[:-1]), p[-1]]
                            ),
                        ),
                    )
                )
            return found

        parts = [(signal, self._slope(function, signal)) for signal in signals]
        return self.with_gradient(self._signal(blocks), pull, parts)

    def take(self, x: Signal, index: np.ndarray) -> Signal:
        """Implements `Engine.take`."""
        blocks = [Block(b.width, taken(b.expression, index)) for b in x.value]
        read = index[index >= 0]
        if len(np.unique(read)) == len(read):
            (inside,) = np.nonzero(index >= 0)

            def pull(gradient: Blocks) -> list[tuple[Signal, Blocks]]:
                back = []
                for b in gradient:
                    part = taken(b.expression, inside)
                    if len(inside) == x.size and x.places is not None:
                        part.place(x.places)
                    placed = Stack(x.size, [part], [index[inside]])
                    back.append(Block(b.width, placed))
                return [(x, back)]

            return self.with_gradient(self._signal(blocks), pull, [(x, 1.0)])
        # Several points read one, whose gradient is the sum of theirs.
        spread = np.zeros((x.size, len(index)))
        spread[read, np.flatnonzero(index >= 0)] = 1.0
        return self.with_gradient(
            self._signal(blocks),
            lambda g: [(x, _mixed(g, spread))],
            [(x, 1.0)],
        )

    def stack(
        self,
        signals: Sequence[Signal],
        at: Sequence[np.ndarray],
        size: int,
    ) -> Signal:
        """Implements `Engine.stack`."""
        blocks = _combined(
            [signal.value for signal in signals],
            lambda *parts: Stack(size, parts, at),
        )

        def pull(gradient: Blocks) -> list[tuple[Signal, Blocks]]:
            return [
                (
                    signal,
                    [
                        Block(b.width, taken(b.expression, points))
                        for b in gradient
                    ],
                )
                for signal, points in zip(signals, at, strict=True)
            ]

        parts = [(signal, signal.size / size) for signal in signals]
        return self.with_gradient(self._signal(blocks), pull, parts)

    def sampled(self, x: Signal) -> Signal:
        """Implements `Engine.sampled`."""

        def drawn(blocks: Blocks) -> Blocks:
            return [Block(b.width, Drawn(b.expression)) for b in blocks]

        return self.with_gradient(
            self._signal(drawn(x.value)),
            lambda g: [(x, drawn(g))],
            [(x, 1.0)],
        )

    def mix(self, x: Signal, matrix: np.ndarray) -> Signal:
        """Implements `Engine.mix`."""
        return self.with_gradient(
            self._signal(_mixed(x.value, matrix)),
            lambda g: [(x, _mixed(g, matrix.T))],
            [(x, 1.0)],
        )

    def check_maximum(self, x: Signal) -> None:
        """Implements `Engine.check_maximum`."""
        for block in x.value:
            self.moments.check_maximum(block.expression)

    def largest(self, x: Signal, taps: list[np.ndarray]) -> Signal:
        """Implements `Engine.largest`."""
        forward = {
            id(b.expression): Largest(b.expression, taps) for b in x.value
        }
        blocks = [Block(b.width, forward[id(b.expression)]) for b in x.value]
        inverses = _joined([_inverse(tap, x.size) for tap in taps])

        def pull(gradient: Blocks) -> list[tuple[Signal, Blocks]]:
            def winners(value: Expression, g: Expression) -> Expression:
                y = forward.get(id(value)) or Largest(value, taps)
                terms = [
                    Product([Winner(y, owner), Take(g, owner)])
                    for owner in inverses
                ]
                return terms[0] if len(terms) == 1 else _plain_sum(terms)

            return [(x, _combined([x.value, gradient], winners))]

        return self.with_gradient(self._signal(blocks), pull, [(x, 1.0)])

    def normalize(
        self, x: Signal, groups: np.ndarray, center: bool, epsilon: float
    ) -> Signal:
        """Normalizes by statistics that are not random in a wide network.

            (h - m) / sqrt(q - m^2 + epsilon)

        with m = E h and q = E h^2 over channels and the points of a group. The
        gradient is divided by the same number.

        Reference: derived here.
        """
        total = sum(b.width for b in x.value)
        mean = sum(
            b.width / total * self.moments.first(b.expression) for b in x.value
        )
        square = sum(
            b.width / total * self.moments.diagonal(b.expression)
            for b in x.value
        )
        mean, square = _group_means(mean, groups), _group_means(square, groups)
        if not center:
            mean = np.zeros_like(mean)
        scale = 1 / np.sqrt(np.maximum(square - mean**2, 0) + epsilon)
        shift = Constant(mean)
        blocks = [
            Block(
                b.width,
                Sum([b.expression, shift], [scale, -scale])
                if center
                else Sum([b.expression], [scale]),
            )
            for b in x.value
        ]
        return self.with_gradient(
            self._signal(blocks), lambda g: [(x, _scaled(g, scale))]
        )

    def normalize_channels(self, x: Signal, epsilon: float) -> Signal:
        """Normalizes each channel over all points, as a batch does.

            y = (h - <h>) / s,    dh = (g - <g> - y <g y>) / s

        with < > the mean over the points, s^2 = <h^2> - <h>^2 + epsilon of a
        channel, and g the gradient of y. Forward, where h is Gaussian, y is
        taken to be Gaussian with its own second moments
        (`normalized_spectrum`). Backward, and where h is not Gaussian, y and s
        are computed on channels that are drawn: dh depends on h by y, by s, and
        by g, which is phi'(y) times a gradient that does not depend on h, so
        that its mean square has no closed form.

        Reference: Ioffe & Szegedy, arXiv:1502.03167, for dh. Yang et al.,
        arXiv:1902.08129, for networks with the statistics of a batch. Second
        moments and draws are derived here.
        """
        self.moments.normalizations += 1
        seconds: list[Any] = [self.second([block]) for block in x.value]
        for block, second in zip(x.value, seconds, strict=True):
            averaged = POSITIONS in self.moments.reasons(block.expression)
            if averaged and _variance_share(second) < _LEAST_SHARE:
                raise Unpredictable(
                    f"less than {_LEAST_SHARE:.0%} of the mean square of a "
                    "batch is its variance, and its moments are averaged over "
                    "positions: give a model of smaller inputs, or data with "
                    "mean 0, or predict with training=False"
                )
        if any(isinstance(second, Table) for second in seconds):
            return self._normalize_many(x, seconds, epsilon)

        def forward(h: Expression, share: float) -> Expression:
            if isinstance(h, Flat):
                part, count = _batches(h)
                y = self._standardized(part, count, epsilon, share)
                return Flat(y, count)
            return self._standardized(h, 1, epsilon, share)

        def backward(h: Block, g: Block) -> Block:
            share = g.width / x.width
            part, gradient, count = h.expression, g.expression, 1
            if isinstance(part, Flat):
                part, count = _batches(part)
                gradient = _unflat(gradient, count)
            pulled: Expression = StandardizedGradient(
                part, gradient, epsilon, count, share, (BATCHES,)
            )
            return Block(g.width, Flat(pulled, count) if count > 1 else pulled)

        def pull(gradient: Blocks) -> list[tuple[Signal, Blocks]]:
            pairs = aligned(x.value, gradient)
            return [(x, [backward(h, g) for h, g in pairs])]

        blocks = [
            Block(b.width, forward(b.expression, b.width / x.width))
            for b in x.value
        ]
        return self.with_gradient(self._signal(blocks), pull)

    def _normalize_many(
        self, x: Signal, seconds: Sequence[Table], epsilon: float
    ) -> Signal:
        """Normalizes each channel over a batch of many positions.

            (h - <h>) / sqrt(E s^2 + epsilon)

        The gradient is centered over the n points, and its mean square is
        multiplied by

            E[1 / (s^2 + epsilon)] (n - 2) / (n - 1)

        where the last factor stands for the part along the values, which the
        gradient loses.

        Reference: derived here, as an approximation.
        """
        n = x.size
        blocks: Blocks = []
        backward: list[Any] = []
        for b, second in zip(x.value, seconds, strict=True):
            variances = variances_of_modes(second)
            scale = 1 / math.sqrt(variances.sum() / n + epsilon)
            spectrum = variances * len(variances) / n
            inverse = mean_inverse_variance(spectrum, epsilon)
            inverse *= (n - 2) / (n - 1)
            backward.append(Centering(n, math.sqrt(max(inverse, 0.0))))
            centering: Any = Centering(n, scale)
            mixed = Mix(b.expression, centering, (STATISTICS,))
            blocks.append(Block(b.width, mixed))

        def pull(gradient: Blocks) -> list[tuple[Signal, Blocks]]:
            pairs = zip(aligned(x.value, gradient), backward, strict=True)
            return [
                (
                    x,
                    [
                        Block(g.width, Mix(g.expression, m))
                        for (_, g), m in pairs
                    ],
                )
            ]

        return self.with_gradient(self._signal(blocks), pull)

    def _standardized(
        self, h: Expression, batches: int, epsilon: float, share: float
    ) -> Standardized:
        """Returns a channel that is normalized over each batch."""
        key = (id(h), batches, epsilon)
        if key not in self._normalizing:
            # An expression is known by its id, so it must stay.
            self._normalizing[key] = (
                h,
                self._normalizing_matrix(h, batches, epsilon),
            )
        _, matrix = self._normalizing[key]
        reasons = (STATISTICS,) if h.gaussian else ()
        return Standardized(h, matrix, epsilon, batches, share, reasons)

    def _normalizing_matrix(
        self, h: Expression, batches: int, epsilon: float
    ) -> np.ndarray:
        """Returns the matrix of `Standardized`, zeros if h is not Gaussian."""
        matrix = np.zeros((h.size, h.size))
        if h.gaussian:
            second = self.moments.second(h, h)
            for batch in range(batches):
                points = np.arange(batch, h.size, batches)
                at = np.ix_(points, points)
                matrix[at] = _normalizing(second[at], epsilon)
        return matrix

    def concatenate(self, signals: Sequence[Signal]) -> Signal:
        """Implements `Engine.concatenate`."""
        blocks = [block for signal in signals for block in signal.value]
        ends = np.cumsum([signal.width for signal in signals]).tolist()

        def pull(gradient: Blocks) -> list[tuple[Signal, Blocks]]:
            return [
                (signal, sliced(gradient, end - signal.width, end))
                for signal, end in zip(signals, ends, strict=True)
            ]

        return self.with_gradient(
            self._signal(blocks), pull, self._shares(signals)
        )

    def channels(self, x: Signal, start: int, stop: int) -> Signal:
        """Implements `Engine.channels`."""
        blocks = sliced(x.value, start, stop)

        def pull(gradient: Blocks) -> list[tuple[Signal, Blocks]]:
            zero = Constant(np.zeros(x.size))
            # Where nothing reads a channel its gradient is 0.
            parts = [
                Block(start, zero),
                *gradient,
                Block(x.width - stop, zero),
            ]
            return [(x, [b for b in parts if b.width])]

        return self.with_gradient(self._signal(blocks), pull, [(x, 1.0)])

    def repeat_channels(self, x: Signal, count: int) -> Signal:
        """Implements `Engine.repeat_channels`.

        Gradients of copies come from different random weights and are
        uncorrelated, so that their sum has `count` times the mean square.
        """
        if len(x.value) > 1:
            raise Unpredictable("it repeats channels that differ")
        (block,) = x.value
        copies = [Block(block.width * count, block.expression)]

        def pull(gradient: Blocks) -> list[tuple[Signal, Blocks]]:
            if len(gradient) > 1:
                raise Unpredictable("it repeats channels that differ")
            scaled = Sum([gradient[0].expression], [math.sqrt(count)])
            return [(x, [Block(x.width, scaled)])]

        return self.with_gradient(self._signal(copies), pull, [(x, 1.0)])

    def flatten(self, x: Signal, positions: int) -> Signal:
        """Implements `Engine.flatten`."""
        if positions == 1:
            return x
        blocks = []
        for block in x.value:
            blocks.append(
                Block(
                    block.width * positions, _flat(block.expression, positions)
                )
            )
        if len(blocks) > 1:
            raise Unpredictable(
                "it flattens positions of channels that differ in distribution"
            )

        def pull(gradient: Blocks) -> list[tuple[Signal, Blocks]]:
            if len(gradient) > 1:
                raise Unpredictable(
                    "it flattens positions whose gradients differ in "
                    "distribution"
                )
            (block,) = gradient
            return [(x, [Block(x.width, _unflat(block.expression, positions))])]

        return self.with_gradient(self._signal(blocks), pull, [(x, 1.0)])

    def mask(
        self,
        rate: float,
        groups: np.ndarray,
        width: int,
        all_channels: bool = False,
    ) -> Signal:
        """Implements `Engine.mask`.

        A mask that all channels share is taken to be one of each channel. The
        second moments, which are means over masks, are the same, and what
        follows from their fluctuation is left out.
        """
        reasons = (_ONE_MASK,) if all_channels else ()
        mask = Mask(rate, groups, self._family(), reasons)
        return self._signal([Block(width, mask)])

    def attention(
        self,
        query: Signal,
        key: Signal,
        value: Signal,
        samples: int,
        heads: int,
        scale: float,
        mask: np.ndarray | None,
    ) -> Signal:
        """Implements `Engine.attention`."""
        inputs = (query, key, value)
        for signal in inputs:
            if not all(b.expression.gaussian for b in signal.value):
                raise Unpredictable("its queries or keys are not normal")
        supports = [
            frozenset().union(*(b.expression.support for b in signal.value))
            for signal in inputs
        ]
        if any(a & b for a, b in itertools.combinations(supports, 2)):
            raise Unpredictable(
                "its queries, keys or values have weights in common"
            )
        head = Head(
            self.matrix(query.value),
            self.matrix(key.value),
            self.matrix(value.value),
            samples,
            query.width // heads,
            value.width // heads,
            scale,
            mask,
        )
        known = {SAMPLED}.union(*(self.reasons(s.value) for s in inputs))
        seed = self.moments.seed

        def signal_of(second: np.ndarray) -> Known:
            return Known(second, self._family(), tuple(known))

        out = signal_of(attended(head, _HEADS, seed))

        def pull(gradient: Blocks) -> list[tuple[Signal, Blocks]]:
            seconds = attended_gradients(
                head, self.matrix(gradient), _HEADS, seed
            )
            return [
                (signal, [Block(signal.width, signal_of(second))])
                for signal, second in zip(inputs, seconds, strict=True)
            ]

        return self.with_gradient(
            self._signal([Block(value.width, out)]), pull, [(value, 1.0)]
        )

    def cotangent(self, x: Signal) -> Blocks:
        """Implements `Engine.cotangent`."""
        blocks = [Block(x.width, White(x.size, "cotangent"))]
        self.place_gradient(blocks, x)
        return blocks

    def place_gradient(self, gradient: Blocks, source: Signal) -> None:
        """Implements `Engine.place_gradient`."""
        if source.places is not None:
            for block in gradient:
                block.expression.place(source.places)

    def sum_of(self, a: Blocks, b: Blocks) -> Blocks:
        """Implements `Engine.sum_of`."""
        return _combined([a, b], lambda *parts: _plain_sum(parts))

    def second(self, value: Blocks) -> np.ndarray:
        """Returns the second moments of a signal or gradient."""
        return self.moments.second_of_blocks(value, value)

    def matrix(self, value: Blocks) -> np.ndarray:
        """Returns the second moments as a matrix over all points.

        Raises:
            TooManyPointsError: If there are too many points.
        """
        found = self.second(value)
        if isinstance(found, Table):
            raise TooManyPointsError(found.grid.size, found.grid.size)
        return found

    def reasons(self, value: Blocks) -> frozenset[str]:
        """Returns why the second moments of a signal are not exact."""
        return frozenset().union(
            *(self.moments.reasons(block.expression) for block in value)
        )

    def _shares(
        self, signals: Sequence[Signal], factors: Sequence[Any] | None = None
    ) -> Parts:
        """Returns the share that each signal has in the mean square of a sum.

        Only normal and given terms are known without draws; if there are
        others, all shares of terms that are not given are equal.
        """
        sizes = []
        moving = [not _is_given(signal) for signal in signals]
        known = all(
            b.expression.gaussian or b.expression.given
            for signal in signals
            for b in signal.value
        )
        for i, signal in enumerate(signals):
            factor = 1.0 if factors is None else np.mean(factors[i])
            square = 1.0
            if known:
                square = float(self.second(signal.value).diagonal().mean())
            if factors is None:
                square *= signal.width
            sizes.append(square * factor**2 if known or moving[i] else 0.0)
        total = sum(sizes) or 1.0
        return [
            (signal, size / total)
            for signal, size, moves in zip(signals, sizes, moving, strict=True)
            if moves
        ]

    def _slope(self, function: Elementwise, x: Signal) -> float:
        """Returns d log E phi(u)^2 / d log E u^2 at the variance of a signal.

        It is 1 for functions of several signals, for signals that are not
        normal, and for functions that vary too fast for quadrature, of which it
        is not known.
        """
        if function.slopes is not None or function.arity > 1:
            return 1.0
        if not all(b.expression.gaussian for b in x.value):
            return 1.0
        q = float(self.second(x.value).diagonal().mean())
        if not 1e-30 < q < 1e30:
            return 1.0
        squares = Function(lambda z: function.values(z) ** 2, function.kinks)
        step = 1e-3
        try:
            low, high = gaussian_mean(
                squares, np.zeros(2), q * np.exp([-step, step])
            )
        except UnresolvedError:
            return 1.0
        if not 0 < low < np.inf or not 0 < high < np.inf:
            return 1.0
        return float(np.log(high / low) / (2 * step))

    def _family(self) -> Hashable:
        """Returns a family that no other expression has."""
        return ("new", next(self._numbers))

    def _signal(self, blocks: Blocks) -> Signal:
        width = sum(block.width for block in blocks)
        return _Placed(blocks, width, blocks[0].expression.size)


class _Placed(Signal[Blocks]):
    """A signal whose expressions know the axes of positions, too."""

    def place(self, places: tuple[int, ...]) -> None:
        """Implements `Signal.place`."""
        super().place(places)
        for block in self.value:
            if self.places is not None:
                block.expression.place(self.places)


def _is_given(x: Signal) -> bool:
    """Whether a signal has given values, of which no error is known."""
    return all(block.expression.given for block in x.value)


def _map(function: Elementwise, parts: Sequence[Expression]) -> Expression:
    """Returns a function of expressions, inside a `Flat` if they are flat."""
    constants = [part.values for part in parts if isinstance(part, Constant)]
    if len(constants) == len(parts):
        return Constant(function.values(*constants))
    positions = {p.positions for p in parts if isinstance(p, Flat)}
    if not positions:
        return Map(function, parts)
    if len(positions) > 1 or not all(isinstance(p, Flat) for p in parts):
        raise Unpredictable("it joins a Flatten with another signal")
    inner = Map(function, [part.parts[0] for part in parts])
    return Flat(inner, positions.pop())


def _sum(terms: Sequence[Expression], factors: Sequence[Any]) -> Expression:
    """Returns a sum of expressions, as a number if all of them are numbers."""
    constants = [term.values for term in terms if isinstance(term, Constant)]
    if len(constants) == len(terms):
        pairs = zip(factors, constants, strict=True)
        return Constant(np.sum([f * values for f, values in pairs], axis=0))
    return Sum(terms, factors)


def _variance_share(second: Any) -> float:
    """Returns the share of a mean square that is the variance over points.

    Args:
        second: Array of shape `(n, n)` or `Table`. The second moments.
    """
    squares = float(second.diagonal().sum())
    sums = second.pair_sums() if isinstance(second, Table) else second
    if squares <= 0:
        return 1.0
    return 1 - float(sums.sum()) / (second.shape[0] * squares)


def _normalizing(second: np.ndarray, epsilon: float) -> np.ndarray:
    """Returns M so that M u has the second moments of a normalized batch.

    Args:
        second: Array of shape `(n, n)`. The second moments of the normal values
            u of a batch.
        epsilon: float. What is added to the variance.
    """
    centering = np.eye(len(second)) - 1 / len(second)
    # Moments that are averaged over positions are symmetric within their error
    # only, which would mix the mean into the values.
    covariance = centering @ (second + second.T) @ centering / 2
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0)
    values[values < 1e-12 * values.max()] = 0
    wanted = normalized_spectrum(values, epsilon)
    positive = values > 0
    gain = np.sqrt(wanted[positive] / values[positive])
    return (vectors[:, positive] * gain) @ vectors[:, positive].T


def _batches(x: Flat) -> tuple[Expression, int]:
    """Returns what a `Flat` is made of, and how many positions it has."""
    return x.parts[0], x.positions


def _flat(x: Expression, positions: int) -> Expression:
    """Returns the channels of all positions as channels of one position."""
    if isinstance(x, White) and len(np.unique(x.same)) == x.size:
        # Independent values everywhere stay so.
        return White(x.size // positions, ("flat", *x.support))
    if isinstance(x, Values):
        channels, points = x.values.shape
        split = x.values.reshape(channels, points // positions, positions)
        values = split.transpose(2, 0, 1).reshape(-1, points // positions)
        return Values(values, ("flat", *x.support))
    return Flat(x, positions)


def _unflat(x: Expression, positions: int) -> Expression:
    """Returns a gradient of a `Flat` as one of its positions."""
    if isinstance(x, Flat):
        return x.parts[0]
    if isinstance(x, Product):
        return Product([_unflat(part, positions) for part in x.parts])
    if isinstance(x, Map):
        return Map(x.function, [_unflat(part, positions) for part in x.parts])
    if isinstance(x, Sum):
        factors = [
            np.repeat(f, positions) if np.ndim(f) else f for f in x.factors
        ]
        return Sum([_unflat(part, positions) for part in x.parts], factors)
    if isinstance(x, Mask):
        count = len(np.unique(x.groups))
        groups = np.add.outer(x.groups, np.arange(positions) * count).ravel()
        return Mask(x.rate, groups, ("unflat", *x.support))
    if isinstance(x, Constant):
        return Constant(np.repeat(x.values, positions))
    if x.gaussian:
        return Unflat(x, positions)
    raise Unpredictable("its gradient does not go through a Flatten")


def _plain_sum(parts: Sequence[Expression]) -> Expression:
    """Returns a sum, without sums in it whose factors are numbers.

    Stacks that fill different points are one stack.
    """
    stacks = [part for part in parts if isinstance(part, Stack)]
    if len(stacks) == len(parts):
        at = [points for stack in stacks for points in stack.at]
        filled = np.concatenate(at)
        if len(np.unique(filled)) == len(filled):
            inner = [part for stack in stacks for part in stack.parts]
            return Stack(stacks[0].size, inner, at)
    terms: list[Expression] = []
    factors: list[Any] = []
    for part in parts:
        if isinstance(part, Sum):
            terms += part.parts
            factors += part.factors
        else:
            terms.append(part)
            factors.append(1.0)
    return Sum(terms, factors)


def _combined(values: Sequence[Blocks], combine: Any) -> Blocks:
    """Returns a function of the blocks of several tensors, side by side."""
    parts = [[block] for block in values[0]]
    for other in values[1:]:
        pairs = aligned([row[0] for row in parts], other)
        if len(pairs) != len(parts):
            ends = np.cumsum([a.width for a, _ in pairs]).tolist()
            columns = [
                [
                    sliced([row[i] for row in parts], end - a.width, end)[0]
                    for (a, _), end in zip(pairs, ends, strict=True)
                ]
                for i in range(len(parts[0]))
            ]
            parts = [list(row) for row in zip(*columns, strict=True)]
        parts = [[*row, b] for row, (_, b) in zip(parts, pairs, strict=True)]
    return [
        Block(row[0].width, combine(*(block.expression for block in row)))
        for row in parts
    ]


def _scaled(gradient: Blocks, factor: Any) -> Blocks:
    """Returns a gradient times a number, or times a number for each point."""
    if np.ndim(factor) == 0 and factor == 1:
        return gradient
    return [Block(b.width, Sum([b.expression], [factor])) for b in gradient]


def _mixed(blocks: Blocks, matrix: np.ndarray) -> Blocks:
    """Returns a matrix over points times each block."""
    return [Block(b.width, Mix(b.expression, matrix)) for b in blocks]


def _group_means(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Returns the mean over the points of each group, at each point."""
    _, inverse = np.unique(groups, return_inverse=True)
    return (np.bincount(inverse, values) / np.bincount(inverse))[inverse]


def _joined(owners: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns as few lists of owners as no value has two owners in one of them.

    Args:
        owners: Sequence of int arrays of shape `(points,)`. The window in which
            each point is at one place, -1 for none.
    """
    joined: list[np.ndarray] = []
    for owner in owners:
        for other in joined:
            if not ((other >= 0) & (owner >= 0)).any():
                np.maximum(other, owner, out=other)
                break
        else:
            joined.append(owner.copy())
    return joined


def _inverse(index: np.ndarray, size: int) -> np.ndarray:
    """Returns which output reads each of `size` inputs, -1 for none."""
    inverse = np.full(size, -1)
    (at,) = np.nonzero(index >= 0)
    inverse[index[at]] = at
    return inverse
