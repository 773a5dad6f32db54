"""What a model computes with in place of numbers, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from keras_initx.prediction.elementwise import Elementwise
from keras_initx.prediction.refusals import Unpredictable, refusals_of

Value = TypeVar("Value")


class Signal(Generic[Value]):
    """A tensor of a model, as an engine holds it.

    Args:
        value: What the engine knows of the tensor: blocks of expressions in
            `WideEngine`, an array in `DrawnEngine`.
        width: int. The number of channels.
        size: int. The number of points, that is, positions times samples.
    """

    def __init__(self, value: Value, width: int, size: int):
        self.value = value
        self.width = width
        self.size = size
        self.places: tuple[int, ...] | None = None

    def place(self, places: tuple[int, ...]) -> None:
        """Says which axes of positions the points have, if none are known."""
        if self.places is None:
            self.places = tuple(places)


@dataclass(frozen=True)
class Weight:
    """A random weight of a linear map.

    Args:
        family: Hashable. A key of the weight. Two uses of one weight have the
            same family, so that their results are correlated.
        variance: float. The variance of an entry.
        inputs: int. The number of channels that an output sums at each tap.
        outputs: int. The number of outputs that a channel goes into at each
            tap.
        index: int. The index of the layer in a `DepthProcess`. Weights of one
            family and of two indices are correlated. Defaults to 0.
        covariance: Array or None. The covariance of two layers that lie m
            apart, for m = 0, 1 and so on, over the variance. None for a weight
            that has no process. Defaults to None.
    """

    family: Hashable
    variance: float
    inputs: int
    outputs: int
    index: int = 0
    covariance: np.ndarray | None = None


# From the gradient of a result to each argument with its gradient: the product
# of a vector and a Jacobian, as in `tf.GradientTape`.
Pull = Callable[[Any], list[tuple[Signal, Any]]]
# The arguments x of an operation, each with d log E y^2 / d log E x^2 of its
# result y.
Parts = Sequence[tuple[Signal, float]]


class Engine:
    """Runs the operations of a model on signals, and their gradients back.

    A subclass computes each operation, and records on `tape` how a gradient of
    the result becomes gradients of the arguments. `gradients` runs the tape in
    reverse order, as reverse-mode differentiation does.

    Attributes:
        tape: list. For each operation its result, the function from a
            gradient of the result to gradients of the arguments, the
            arguments with their parts in a relative error, and the layer.
        layer_call: LayerCall or None. The layer that runs, which a refusal of
            its gradient names.
    """

    def __init__(self) -> None:
        self.tape: list[tuple[Signal, Pull, Parts, Any]] = []
        self.layer_call: Any = None

    def with_gradient(
        self, output: Signal, pull: Pull, parts: Parts = ()
    ) -> Signal:
        """Records how the gradient of a signal goes on, and returns the signal.

        Args:
            output: Signal. The result of an operation.
            pull: callable. From a gradient of `output` to a list of the
                arguments of the operation with their gradients.
            parts: Sequence of tuples. The arguments of which a relative error
                of the mean square passes on, each with the relative error of
                the result over that of the argument. Defaults to none.
        """
        self.tape.append((output, pull, parts, self.layer_call))
        return output

    def gradients(
        self, last: Signal, rows: Sequence[Signal]
    ) -> list[Any | None]:
        """Returns the gradients at several signals.

        Args:
            last: Signal. Where the gradient starts, with independent standard
                normal entries.
            rows: Sequence of Signals. Where the gradient is asked for.

        Returns:
            List of gradients, one for each of `rows`. None for a signal that
            `last` does not depend on.

        Raises:
            Unpredictable: If there is no formula for a gradient.
        """
        found: dict[int, Any] = {id(last): self.cotangent(last)}
        for output, pull, _, layer_call in reversed(self.tape):
            gradient = found.get(id(output))
            if gradient is None:
                continue
            with refusals_of(layer_call):
                for source, part in pull(gradient):
                    self.place_gradient(part, source)
                    before = found.get(id(source))
                    found[id(source)] = (
                        part if before is None else self.sum_of(before, part)
                    )
        return [found.get(id(row)) for row in rows]

    def place_gradient(self, gradient: Any, source: Signal) -> None:
        """Says which axes of positions a gradient has: those of its signal."""

    def stop_gradient(self, x: Signal) -> Signal:
        """Returns the same signal, behind which there is no gradient."""
        stopped = Signal(x.value, x.width, x.size)
        return self.with_gradient(stopped, lambda g: [], [(x, 1.0)])

    def error_at_end(self, last: Signal, rows: Sequence[Signal]) -> list[float]:
        """Returns how much a relative error of a signal grows to the last one.

            d log E y^2 / d log E x^2

        for the last signal y and each x, as far as operations know it.

        Args:
            last: Signal. The last signal.
            rows: Sequence of Signals. Where the error is.
        """
        found = {id(last): 1.0}
        for output, _, parts, _ in reversed(self.tape):
            size = found.get(id(output), 0.0)
            if size:
                for source, factor in parts:
                    before = found.get(id(source), 0.0)
                    found[id(source)] = before + size * factor
        return [found.get(id(row), 0.0) for row in rows]

    def largest_error(self, rows: Sequence[Signal]) -> list[float]:
        """Returns how large a relative error of 1 in an earlier row becomes.

        Args:
            rows: Sequence of Signals. Where the error is asked for; in each of
                them it is at least 1.
        """
        found: dict[int, float] = {}
        starts = set(map(id, rows))
        for output, _, parts, _ in self.tape:
            size = sum(found.get(id(s), 0.0) * factor for s, factor in parts)
            found[id(output)] = max(size, float(id(output) in starts))
        return [max(found.get(id(row), 1.0), 1.0) for row in rows]

    # What each engine computes.

    def white(self, size: int, width: int) -> Signal:
        """Returns independent standard normal values."""
        raise NotImplementedError

    def given(self, values: np.ndarray, family: Hashable) -> Signal:
        """Returns given values, of shape `(channels, points)`."""
        raise NotImplementedError

    def one_hot(self, tokens: np.ndarray) -> Signal:
        """Returns one-hot channels of integer tokens, of shape `(points,)`."""
        raise NotImplementedError

    def linear(
        self,
        x: Signal,
        weight: Weight,
        taps: list[np.ndarray] | None,
        size: int,
        outputs: int,
        reasons: Sequence[str] = (),
    ) -> Signal:
        """Returns a random linear map of the channels of x.

        Args:
            x: Signal. What is mapped.
            weight: Weight. The kernel.
            taps: list of int arrays of shape `(size,)`. For each tap the point
                of x that each point of the result reads, -1 for none. None for
                one tap that reads the point itself.
            size: int. The number of points of the result.
            outputs: int. The number of channels of the result.
            reasons: Sequence of str. Why the result is approximated.
        """
        raise NotImplementedError

    def new_vector(
        self,
        family: Hashable,
        variance: float,
        size: int,
        width: int,
        entries: np.ndarray | None = None,
    ) -> Signal:
        """Returns a random number for each channel, the same at all points.

        This is a bias; one family always has the same numbers.

        Args:
            family: Hashable. The weights.
            variance: float. Their variance.
            size: int. The number of points.
            width: int. The number of channels.
            entries: Array or None. What each number is one of, with either
                sign, up to a factor. Defaults to normal numbers.
        """
        raise NotImplementedError

    def add(self, signals: Sequence[Signal], factors: Sequence[Any]) -> Signal:
        """Returns the sum of factors times signals.

        A factor is a number, or an array with a number for each point.
        """
        raise NotImplementedError

    def shift(self, x: Signal, constant: Any) -> Signal:
        """Returns a signal plus a number, or plus a number for each point."""
        raise NotImplementedError

    def means(self, x: Signal) -> np.ndarray | None:
        """Returns the mean over channels at each point.

        None if it differs from network to network, as at finite width.
        """
        raise NotImplementedError

    def constant(self, values: np.ndarray, width: int) -> Signal:
        """Returns a signal that is not random: a number for each point.

        The numbers are the same in all channels.
        """
        raise NotImplementedError

    def constant_values(self, x: Signal) -> np.ndarray | None:
        """Returns the numbers of a signal that is the same in all channels.

        None for a signal whose channels differ or are random.
        """
        raise NotImplementedError

    def multiply(self, x: Signal, y: Signal) -> Signal:
        """Returns the product of two signals, channel by channel."""
        raise NotImplementedError

    def map(self, function: Elementwise, signals: Sequence[Signal]) -> Signal:
        """Returns a function of each entry alone."""
        raise NotImplementedError

    def take(self, x: Signal, index: np.ndarray) -> Signal:
        """Returns the values at other points, 0 where the index is -1."""
        raise NotImplementedError

    def stack(
        self,
        signals: Sequence[Signal],
        at: Sequence[np.ndarray],
        size: int,
    ) -> Signal:
        """Returns a signal of which each part fills some of the points.

        Args:
            signals: Sequence of Signals. The parts.
            at: Sequence of int arrays. The points that each part fills.
            size: int. The number of points of the result.
        """
        raise NotImplementedError

    def sampled(self, x: Signal) -> Signal:
        """Returns the same signal, whose moments are those of drawn channels.

        Its gradient is one of drawn channels, too.
        """
        raise NotImplementedError

    def mix(self, x: Signal, matrix: np.ndarray) -> Signal:
        """Returns a matrix of shape (new points, points) times each channel."""
        raise NotImplementedError

    def check_maximum(self, x: Signal) -> None:
        """Refuses a maximum over more positions than can be drawn together."""
        return None

    def largest(self, x: Signal, taps: list[np.ndarray]) -> Signal:
        """Returns the largest value over the taps of a window."""
        raise NotImplementedError

    def normalize(
        self, x: Signal, groups: np.ndarray, center: bool, epsilon: float
    ) -> Signal:
        """Returns a signal normalized over channels and groups of points.

        Args:
            x: Signal. The signal.
            groups: int array of shape `(points,)`. Points with the same number
                share their mean and variance.
            center: bool. Whether the mean is subtracted.
            epsilon: float. What is added to the variance.
        """
        raise NotImplementedError

    def normalize_channels(self, x: Signal, epsilon: float) -> Signal:
        """Returns a signal whose channels are each normalized over all points.

        This is batch normalization in training mode.
        """
        raise NotImplementedError

    def concatenate(self, signals: Sequence[Signal]) -> Signal:
        """Returns the channels of several signals."""
        raise NotImplementedError

    def channels(self, x: Signal, start: int, stop: int) -> Signal:
        """Returns some of the channels."""
        raise NotImplementedError

    def repeat_channels(self, x: Signal, count: int) -> Signal:
        """Returns copies of the channels, all of one distribution."""
        raise Unpredictable("it repeats channels")

    def flatten(self, x: Signal, positions: int) -> Signal:
        """Returns the channels of all positions as channels."""
        raise NotImplementedError

    def mask(
        self,
        rate: float,
        groups: np.ndarray,
        width: int,
        all_channels: bool = False,
    ) -> Signal:
        """Returns the mask of a dropout, 0 or 1 / (1 - rate).

        Args:
            rate: float. The share of the values that are 0.
            groups: int array of shape `(points,)`. Points with the same number
                are dropped together, in each channel.
            width: int. The number of channels.
            all_channels: bool. Whether a group is dropped in all channels, or
                in each one by itself. Defaults to the latter.
        """
        raise NotImplementedError

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
        """Returns what leaves the heads of an attention layer.

        The formulas stand in the module `attention`, and the arguments in its
        `Head`.
        """
        raise Unpredictable("attention has no rule for this width")

    def cotangent(self, x: Signal) -> Any:
        """Returns independent standard normal gradients of a signal."""
        raise NotImplementedError

    def sum_of(self, a: Any, b: Any) -> Any:
        """Returns the sum of two gradients."""
        raise NotImplementedError
