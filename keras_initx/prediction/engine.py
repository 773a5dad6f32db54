"""What a model computes with in place of numbers, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from keras_initx.prediction.elementwise import Elementwise
from keras_initx.prediction.refusals import Unpredictable

Value = TypeVar("Value")


class Signal(Generic[Value]):
    """A tensor of a model, as an engine holds it.

    Args:
        value: What the engine knows of it.
        width: int. The number of channels.
        size: int. The number of points: positions of samples.
    """

    def __init__(self, value: Value, width: int, size: int):
        self.value = value
        self.width = width
        self.size = size


@dataclass(frozen=True)
class Weight:
    """A random weight of a linear map.

    Args:
        family: Hashable. The weight: two uses of one weight have one family.
        variance: float. The variance of an entry.
        inputs: int. The channels that an output sums for each tap.
        outputs: int. The channels that an input feeds by each tap.
    """

    family: Hashable
    variance: float
    inputs: int
    outputs: int


Pull = Callable[[Any], list[tuple[Signal, Any]]]


class Engine:
    """Runs the operations of a model on signals, and their gradients back.

    A subclass computes each operation, and notes on `tape` how a gradient of
    the result becomes gradients of the arguments.
    """

    def __init__(self) -> None:
        self.tape: list[tuple[Signal, Pull]] = []

    def noted(self, output: Signal, pull: Pull) -> Signal:
        """Returns a signal after its gradient is noted."""
        self.tape.append((output, pull))
        return output

    def gradients(
        self, last: Signal, rows: Sequence[Signal]
    ) -> list[Any | None]:
        """Returns the gradients at rows, for a normal cotangent at the last.

        Args:
            last: Signal. Where the cotangent is.
            rows: Sequence of Signals.

        Returns:
            List of gradients, None for a signal that the last does not depend
            on.
        """
        found: dict[int, Any] = {id(last): self.cotangent(last)}
        for output, pull in reversed(self.tape):
            gradient = found.get(id(output))
            if gradient is None:
                continue
            for source, part in pull(gradient):
                before = found.get(id(source))
                found[id(source)] = (
                    part if before is None else self.sum_of(before, part)
                )
        return [found.get(id(row)) for row in rows]

    # What each engine computes.

    def white(self, size: int, width: int) -> Signal:
        """Returns independent standard normal values."""
        raise NotImplementedError

    def given(self, values: np.ndarray, family: Hashable) -> Signal:
        """Returns given values, of shape `(channels, points)`."""
        raise NotImplementedError

    def one_hot(self, tokens: np.ndarray) -> Signal:
        """Returns a channel for each token, of shape `(points,)`."""
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
        """Returns a random linear map, see `expressions.Linear`."""
        raise NotImplementedError

    def new_vector(
        self, family: Hashable, variance: float, size: int, width: int
    ) -> Signal:
        """Returns a normal number for each channel, the same at all points."""
        raise NotImplementedError

    def add(self, signals: Sequence[Signal], factors: Sequence[Any]) -> Signal:
        """Returns a sum, with a number or one number a point as factors."""
        raise NotImplementedError

    def shift(self, x: Signal, constant: Any) -> Signal:
        """Returns a signal plus a number, or plus one number a point."""
        raise NotImplementedError

    def means(self, x: Signal) -> np.ndarray | None:
        """Returns the mean over channels at each point, None if random."""
        raise NotImplementedError

    def constant(self, values: np.ndarray, width: int) -> Signal:
        """Returns numbers that are the same in all channels."""
        raise NotImplementedError

    def sure(self, x: Signal) -> np.ndarray | None:
        """Returns the numbers of such a signal, None for another one."""
        raise NotImplementedError

    def multiply(self, x: Signal, y: Signal) -> Signal:
        """Returns a product."""
        raise NotImplementedError

    def map(self, function: Elementwise, signals: Sequence[Signal]) -> Signal:
        """Returns a function of each entry alone."""
        raise NotImplementedError

    def take(self, x: Signal, index: np.ndarray) -> Signal:
        """Returns the values at other points, 0 where the index is -1."""
        raise NotImplementedError

    def mix(self, x: Signal, matrix: np.ndarray) -> Signal:
        """Returns a matrix times the values at all points."""
        raise NotImplementedError

    def largest(self, x: Signal, taps: list[np.ndarray]) -> Signal:
        """Returns the largest value over the taps of a window."""
        raise NotImplementedError

    def normalize(
        self, x: Signal, groups: np.ndarray, center: bool, epsilon: float
    ) -> Signal:
        """Returns a signal normalized over channels and groups of points."""
        raise NotImplementedError

    def normalize_channels(self, x: Signal, epsilon: float) -> Signal:
        """Returns a signal of which each channel is normalized over points."""
        raise NotImplementedError

    def concatenate(self, signals: Sequence[Signal]) -> Signal:
        """Returns the channels of several signals."""
        raise NotImplementedError

    def channels(self, x: Signal, start: int, stop: int) -> Signal:
        """Returns some of the channels."""
        raise NotImplementedError

    def flatten(self, x: Signal, positions: int) -> Signal:
        """Returns the channels of all positions as channels."""
        raise NotImplementedError

    def mask(self, rate: float, groups: np.ndarray, width: int) -> Signal:
        """Returns the mask of a dropout."""
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
        """Returns the output of heads of attention, see `attention`."""
        raise Unpredictable("attention has no rule for this width")

    def cotangent(self, x: Signal) -> Any:
        """Returns independent standard normal gradients of a signal."""
        raise NotImplementedError

    def sum_of(self, a: Any, b: Any) -> Any:
        """Returns the sum of two gradients."""
        raise NotImplementedError
