"""The engine for networks of the width that a model has.

Networks are drawn without their weights. What a network with normal weights W
of variance v does to a few samples depends on W only through a few products.
Given the signals h of the samples, of shape (inputs, points), the rows of
u = W h are normal with the covariance v h^T h, so that u is drawn and W is not.

A second use of the same weights, forward or backward, must agree with the first
one. Let H be all signals that W was applied to so far, U = W H, D all gradients
that W^T was applied to, and E = W^T D. Then

    forward     W h = U H^+ h + y,    y ~ rows N(0, v h^T (1 - P_H) h)
    backward    W^T d = H^+T U^T d + (1 - P_H) (E D^+ d + z)
                                      z ~ rows N(0, v d^T (1 - P_D) d)

with P_A the projection on the columns of A, and A^+ its pseudo-inverse. This is
exact for normal weights at every width, as long as all forward uses come before
the first backward one. A layer costs inputs x points^2 + points^3 operations
for each network.

Reference: conditional normal distributions of matrices, as in Bolthausen,
Communications in Mathematical Physics 325 (2014), and Yang, arXiv:1910.12478.
The use for networks of finite width is derived here.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from keras_initx.backend import float64
from keras_initx.prediction.elementwise import Elementwise
from keras_initx.prediction.engine import Engine, Signal, Weight
from keras_initx.prediction.refusals import TooManyPointsError, Unpredictable

Array = np.ndarray


class _Uses:
    """The signals and gradients that one weight was applied to so far."""

    def __init__(self) -> None:
        # H, U = W H, D and E = W^T D of the docstring of this module.
        self.inputs: Array | None = None
        self.outputs: Array | None = None
        self.gradients: Array | None = None
        self.returned: Array | None = None


class DrawnEngine(Engine):
    """Computes with the values of several drawn networks at once.

    A value is an array of shape `(networks, channels, points)`.

    Args:
        networks: int. The number of networks.
        limit: int. The largest number of points.
        rng: numpy.random.Generator. What draws them.
    """

    def __init__(self, networks: int, limit: int, rng: np.random.Generator):
        super().__init__()
        self.networks = networks
        self.limit = limit
        self.rng = rng
        self._uses: dict[Hashable, _Uses] = {}
        self._vectors: dict[Hashable, Array] = {}
        self._given: dict[Hashable, Array] = {}

    def white(self, size: int, width: int) -> Signal:
        """Implements `Engine.white`."""
        return self._signal(
            self.rng.standard_normal((self.networks, width, size))
        )

    def given(self, values: Array, family: Hashable) -> Signal:
        """Implements `Engine.given`."""
        shape = (self.networks, *values.shape)
        return self._signal(np.broadcast_to(values, shape))

    def one_hot(self, tokens: Array) -> Signal:
        """Implements `Engine.one_hot`, with the tokens at hand as channels."""
        hot = np.arange(tokens.max() + 1)[:, None] == tokens[None, :]
        return self.given(hot.astype(float), "tokens")

    def linear(
        self,
        x: Signal,
        weight: Weight,
        taps: list[Array] | None,
        size: int,
        outputs: int,
        reasons: Sequence[str] = (),
    ) -> Signal:
        """Implements `Engine.linear`."""
        if size > self.limit:
            raise TooManyPointsError(size, self.limit)
        if weight.covariance is not None and np.any(weight.covariance[1:]):
            raise Unpredictable(
                'with width="actual" there is no rule for weights that are '
                "correlated with those of other layers"
            )
        if weight.outputs != outputs or (
            weight.inputs != x.width and weight.inputs != 1
        ):
            raise Unpredictable(
                'with width="actual" there is no rule for channels in groups'
            )
        h = x.value
        if taps is not None:
            if weight.inputs == 1 and x.width > 1:
                raise Unpredictable(
                    'with width="actual" there is no rule for depthwise kernels'
                )
            h = np.concatenate([_taken(h, tap) for tap in taps], axis=1)
        uses = self._uses.setdefault((weight.family, weight.index), _Uses())
        u = self._forward(uses, h, weight.variance, outputs)

        def pull(gradient: Array) -> list[tuple[Signal, Array]]:
            back = self._backward(uses, gradient, weight.variance)
            if taps is None:
                return [(x, back)]
            total = np.zeros((self.networks, x.width, x.size))
            for i, tap in enumerate(taps):
                part = back[:, i * x.width : (i + 1) * x.width]
                total += part @ _reading_matrix(tap, x.size)
            return [(x, total)]

        return self.with_gradient(self._signal(u), pull)

    def _forward(
        self, uses: _Uses, h: Array, variance: float, outputs: int
    ) -> Array:
        """Draws W h, given W H = U, and adds both to the uses of W."""
        known = 0.0
        rest = h
        if uses.inputs is not None and uses.outputs is not None:
            share = _coordinates(uses.inputs, h)
            known = uses.outputs @ share
            rest = h - uses.inputs @ share
        gram = variance * np.swapaxes(rest, 1, 2) @ rest
        z = self.rng.standard_normal((self.networks, outputs, h.shape[2]))
        u = known + z @ np.swapaxes(_root(gram), 1, 2)
        uses.inputs = _joined(uses.inputs, h)
        uses.outputs = _joined(uses.outputs, u)
        return u

    def _backward(self, uses: _Uses, d: Array, variance: float) -> Array:
        """Draws W^T d, given W H = U and W^T D = E, and adds both to them."""
        assert uses.inputs is not None and uses.outputs is not None
        inputs, outputs = uses.inputs, uses.outputs
        known = np.swapaxes(outputs, 1, 2) @ d
        gram = np.swapaxes(inputs, 1, 2) @ inputs
        back = inputs @ (np.linalg.pinv(gram, hermitian=True) @ known)
        rest = d
        free = 0.0
        if uses.gradients is not None and uses.returned is not None:
            share = _coordinates(uses.gradients, d)
            free = uses.returned @ share
            rest = d - uses.gradients @ share
        gram = variance * np.swapaxes(rest, 1, 2) @ rest
        z = self.rng.standard_normal(
            (self.networks, inputs.shape[1], d.shape[2])
        )
        free = free + z @ np.swapaxes(_root(gram), 1, 2)
        back = back + free - inputs @ _coordinates(inputs, free)
        uses.gradients = _joined(uses.gradients, d)
        uses.returned = _joined(uses.returned, back)
        return back

    def new_vector(
        self,
        family: Hashable,
        variance: float,
        size: int,
        width: int,
        entries: Array | None = None,
    ) -> Signal:
        """Implements `Engine.new_vector`."""
        if family not in self._vectors:
            shape = (self.networks, width, 1)
            if entries is None:
                vector = self.rng.standard_normal(shape)
            else:
                vector = self.rng.choice(entries.ravel(), shape)
                vector *= self.rng.choice([-1.0, 1.0], shape)
                vector /= math.sqrt(np.mean(entries**2))
            self._vectors[family] = math.sqrt(variance) * vector
        vector = self._vectors[family]
        return self._signal(
            np.broadcast_to(vector, (self.networks, width, size))
        )

    def add(self, signals: Sequence[Signal], factors: Sequence[Any]) -> Signal:
        """Implements `Engine.add`."""
        value: Array = np.sum(
            [f * s.value for s, f in zip(signals, factors, strict=True)], axis=0
        )

        def pull(gradient: Array) -> list[tuple[Signal, Array]]:
            return [
                (s, f * gradient) for s, f in zip(signals, factors, strict=True)
            ]

        return self.with_gradient(self._signal(value), pull)

    def shift(self, x: Signal, constant: Any) -> Signal:
        """Implements `Engine.shift`."""
        return self.with_gradient(
            self._signal(x.value + constant), lambda g: [(x, g)]
        )

    def means(self, x: Signal) -> Array | None:
        """Implements `Engine.means`: they differ from network to network."""
        return None

    def constant(self, values: Array, width: int) -> Signal:
        """Implements `Engine.constant`."""
        return self.given(np.broadcast_to(values, (width, len(values))), "")

    def constant_values(self, x: Signal) -> Array | None:
        """Implements `Engine.constant_values`."""
        first = x.value[0, 0]
        return first if np.all(x.value == first) else None

    def multiply(self, x: Signal, y: Signal) -> Signal:
        """Implements `Engine.multiply`."""
        return self.with_gradient(
            self._signal(x.value * y.value),
            lambda g: [(x, g * y.value), (y, g * x.value)],
        )

    def map(self, function: Elementwise, signals: Sequence[Signal]) -> Signal:
        """Implements `Engine.map`."""
        values = [signal.value for signal in signals]

        def pull(gradient: Array) -> list[tuple[Signal, Array]]:
            parts = float64.entries_at_float64(
                lambda outer, *tensors: float64.gradients(
                    function.call, tensors, outer
                ),
                *(gradient, *values),
            )
            return [
                (signal, part)
                for i, (signal, part) in enumerate(
                    zip(signals, parts, strict=True)
                )
                if function.passes_gradient(i)
            ]

        return self.with_gradient(self._signal(function.values(*values)), pull)

    def take(self, x: Signal, index: Array) -> Signal:
        """Implements `Engine.take`."""
        back = _reading_matrix(index, x.size)
        return self.with_gradient(
            self._signal(_taken(x.value, index)), lambda g: [(x, g @ back)]
        )

    def stack(
        self, signals: Sequence[Signal], at: Sequence[Array], size: int
    ) -> Signal:
        """Implements `Engine.stack`."""
        value = np.zeros((self.networks, signals[0].width, size))
        for signal, points in zip(signals, at, strict=True):
            value[..., points] = signal.value
        return self.with_gradient(
            self._signal(value),
            lambda g: [
                (signal, g[..., points])
                for signal, points in zip(signals, at, strict=True)
            ],
        )

    def sampled(self, x: Signal) -> Signal:
        """Implements `Engine.sampled`: the values are known."""
        return x

    def mix(self, x: Signal, matrix: Array) -> Signal:
        """Implements `Engine.mix`."""
        return self.with_gradient(
            self._signal(x.value @ matrix.T), lambda g: [(x, g @ matrix)]
        )

    def largest(self, x: Signal, taps: list[Array]) -> Signal:
        """Implements `Engine.largest`."""
        parts = np.stack([_taken(x.value, tap, -np.inf) for tap in taps])
        winner = parts.argmax(axis=0)

        def pull(gradient: Array) -> list[tuple[Signal, Array]]:
            total = np.zeros(x.value.shape)
            for i, tap in enumerate(taps):
                won = np.where(winner == i, gradient, 0.0)
                total += won @ _reading_matrix(tap, x.size)
            return [(x, total)]

        return self.with_gradient(self._signal(parts.max(axis=0)), pull)

    def normalize(
        self, x: Signal, groups: Array, center: bool, epsilon: float
    ) -> Signal:
        """Implements `Engine.normalize`."""
        members = len(groups) // len(np.unique(groups))

        def split(value: Array) -> Array:
            return value.reshape(*value.shape[:2], -1, members)

        return self._normalized(x, split, (1, 3), center, epsilon)

    def normalize_channels(self, x: Signal, epsilon: float) -> Signal:
        """Implements `Engine.normalize_channels`."""
        return self._normalized(x, lambda value: value, (2,), True, epsilon)

    def _normalized(
        self,
        x: Signal,
        split: Any,
        axes: tuple[int, ...],
        center: bool,
        epsilon: float,
    ) -> Signal:
        """Returns a signal that is normalized over some axes.

            y = (x - m) / s,    dx = (g - <g> - y <g y>) / s

        with the mean m, s = sqrt(variance + epsilon), the gradient g of y, and
        <> the mean over the axes. Without centering m and <g> are 0, and s is
        sqrt(mean square + epsilon).
        """

        def mean(value: Array) -> Array:
            return value.mean(axis=axes, keepdims=True)

        value = split(x.value)
        if center:
            value = value - mean(value)
        scale = 1 / np.sqrt(mean(value**2) + epsilon)
        y = value * scale

        def pull(gradient: Array) -> list[tuple[Signal, Array]]:
            g = split(gradient)
            back = g - y * mean(g * y)
            if center:
                back = back - mean(g)
            return [(x, (back * scale).reshape(x.value.shape))]

        return self.with_gradient(self._signal(y.reshape(x.value.shape)), pull)

    def concatenate(self, signals: Sequence[Signal]) -> Signal:
        """Implements `Engine.concatenate`."""
        value = np.concatenate([signal.value for signal in signals], axis=1)
        ends = np.cumsum([signal.width for signal in signals])

        def pull(gradient: Array) -> list[tuple[Signal, Array]]:
            return list(
                zip(signals, np.split(gradient, ends[:-1], axis=1), strict=True)
            )

        return self.with_gradient(self._signal(value), pull)

    def channels(self, x: Signal, start: int, stop: int) -> Signal:
        """Implements `Engine.channels`."""

        def pull(gradient: Array) -> list[tuple[Signal, Array]]:
            total = np.zeros(x.value.shape)
            total[:, start:stop] = gradient
            return [(x, total)]

        return self.with_gradient(self._signal(x.value[:, start:stop]), pull)

    def flatten(self, x: Signal, positions: int) -> Signal:
        """Implements `Engine.flatten`."""
        samples = x.size // positions
        shape = (self.networks, x.width, samples, positions)
        moved = x.value.reshape(shape).transpose(0, 3, 1, 2)
        value = moved.reshape(self.networks, -1, samples)

        def pull(gradient: Array) -> list[tuple[Signal, Array]]:
            back = gradient.reshape(moved.shape).transpose(0, 2, 3, 1)
            return [(x, back.reshape(x.value.shape))]

        return self.with_gradient(self._signal(value), pull)

    def mask(
        self,
        rate: float,
        groups: Array,
        width: int,
        all_channels: bool = False,
    ) -> Signal:
        """Implements `Engine.mask`."""
        _, index = np.unique(groups, return_inverse=True)
        shape = (self.networks, 1 if all_channels else width, index.max() + 1)
        kept = (self.rng.random(shape) >= rate) / (1 - rate)
        kept = np.broadcast_to(kept, (self.networks, width, shape[2]))
        return self._signal(kept[..., index])

    def cotangent(self, x: Signal) -> Array:
        """Implements `Engine.cotangent`."""
        return self.rng.standard_normal(x.value.shape)

    def sum_of(self, a: Array, b: Array) -> Array:
        """Implements `Engine.sum_of`."""
        return a + b

    def _signal(self, value: Array) -> Signal:
        return Signal(value, value.shape[1], value.shape[2])


def _taken(value: Array, index: Array, outside: float = 0.0) -> Array:
    """Returns values at the points of an index, `outside` where it is -1."""
    taken = value[..., np.maximum(index, 0)]
    return np.where(index < 0, outside, taken) if (index < 0).any() else taken


def _reading_matrix(index: Array, size: int) -> Array:
    """Returns a matrix with 1 where a point reads one of `size` others."""
    return (index[:, None] == np.arange(size)).astype(float)


def _coordinates(basis: Array, vectors: Array) -> Array:
    """Returns (B^T B)^+ B^T v, the coordinates of the projection of v on B."""
    transposed = np.swapaxes(basis, 1, 2)
    gram = np.linalg.pinv(transposed @ basis, hermitian=True)
    return gram @ (transposed @ vectors)


def _root(gram: Array) -> Array:
    """Returns a root R of each positive matrix, with R R^T the matrix."""
    scale, vectors = np.linalg.eigh(gram)
    return vectors * np.sqrt(np.maximum(scale, 0))[:, None, :]


def _joined(known: Array | None, more: Array) -> Array:
    """Returns the columns of two arrays, beside one another."""
    return more if known is None else np.concatenate([known, more], axis=2)
