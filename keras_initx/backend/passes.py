"""What a pass over a model needs of a backend, with one module for each.

A pass is a function of a batch that runs the model within hooks. Whoever runs
one asks here to compile it, for gradients at signals within it, and which graph
is being built, and computes with `keras.ops` otherwise.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import keras
import numpy as np

from keras_initx import backend

# XLA on a CPU stores the terms of more rows before it adds them up, which takes
# memory of the signal's size and most of the time. (It also does so for any
# number of differences that are multiplied with nothing.)
FEW_ROWS = 32

Tensor: TypeAlias = Any
# Returns a vector of zeros, at which a gradient is computed.
NewSlot: TypeAlias = Callable[[], Tensor]


# Hands tensors of a running model to a function, as `Passes.observe` says.
Observe: TypeAlias = Callable[..., Any]


class Operation(Protocol):
    """An operation in a graph, as `tf.Operation` is one.

    Its `type` is the name of TensorFlow: "MatMul", "Conv2D", "Relu", or one
    that begins so.
    """

    type: str

    @property
    def inputs(self) -> Sequence[Any]:
        """What it computes from: each has the operation that made it, `op`."""

    @property
    def outputs(self) -> Sequence[Tensor]:
        """What it computes."""


@dataclass(frozen=True)
class BatchType:
    """The type of batches of any number of samples.

    Args:
        shape: tuple. The shape, None for the number of samples.
        dtype: str. The dtype.
    """

    shape: tuple[int | None, ...]
    dtype: str


class RecordingScope(keras.StatelessScope):
    """A stateless scope that lists the variables that would be written.

    Args:
        states: Iterable of pairs of a variable and its value within.
    """

    def __init__(self, states: Iterable[tuple[keras.Variable, Tensor]] = ()):
        super().__init__(list(states))
        self.written: dict[int, keras.Variable] = {}

    def add_update(self, update: tuple[keras.Variable, Tensor]) -> None:
        """Lists the variable."""
        self.written[id(update[0])] = update[0]
        super().add_update(update)


class Passes(abc.ABC):
    """Compiles passes over a model, and computes gradients in them."""

    @abc.abstractmethod
    def spec(self, tensor: Tensor) -> Any:
        """Returns the dtype and shape of a tensor, for `compile`."""

    def batch_spec(self, tensor: Tensor) -> Any:
        """Returns the type of batches of any number of samples.

        Two of them are equal, and have one `repr`, if their tensors have the
        same dtype, and the same shape but for the first axis.
        """
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        return BatchType((None, *tensor.shape[1:]), dtype)

    def of_any_size(self, tensor: Tensor) -> Tensor:
        """Returns a tensor that has any number of samples where it is traced.

        It is the tensor itself on a backend that traces a function once for
        each number of samples.
        """
        return tensor

    @abc.abstractmethod
    def compile(
        self, function: Callable[..., Any], *examples: Any
    ) -> tuple[Callable[..., Any], Any]:
        """Compiles a function for arguments of given types.

        The function is traced before this returns. It may read variables, whose
        values are those at each call.

        Args:
            function: Takes and returns structures of tensors.
            *examples: Structures of tensors, or of what `spec` returns for
                them.

        Returns:
            The compiled function, and what it returns, with anything that has
            a dtype and a shape in the place of each tensor.
        """

    def compile_pass(
        self,
        function: Callable[[Any, Any], Any],
        batch: Any,
        spec: Any,
        states: Sequence[Tensor],
    ) -> tuple[Callable[..., Any], Any]:
        """Compiles a pass for batches of any number of samples.

        On a backend whose graphs know the number of samples, the pass is
        traced first for another number, if the model takes that.

        Args:
            function: Called as `function(batch, states)`.
            batch: Structure of tensors. A batch.
            spec: The same structure of what `batch_spec` returns.
            states: Sequence of tensors. The states at the beginning.

        Returns:
            As `compile`.
        """
        return self.compile(function, spec, states)

    def run_once(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Runs a function of tensors that is not worth to be compiled."""
        return function(*arguments)

    def compile_when_called(
        self, function: Callable[..., Any], *examples: Any
    ) -> Callable[..., Any]:
        """Returns a function that is compiled at its first call, if any."""

        @functools.cache
        def compiled() -> Callable[..., Any]:
            return self.compile(function, *examples)[0]

        return lambda *arguments: compiled()(*arguments)

    @abc.abstractmethod
    def graph(self) -> Any:
        """Returns what a tensor that is computed now belongs to.

        A tensor is within reach where this returns the same object as where
        the tensor was computed. Loops, branches and functions that a backend
        traces have graphs of their own.
        """

    def dense(self, gradient: Any) -> Tensor:
        """Returns what a backward pass hands on as one tensor."""
        return gradient

    @abc.abstractmethod
    def gradients(
        self, run: Callable[[NewSlot], tuple[Tensor, Any]], size: int
    ) -> tuple[list[Tensor], Any]:
        """Returns gradients of a number, all in one backward pass.

        Args:
            run: Called as `run(new_slot)`, perhaps more than once. Calls
                `new_slot()` in the same order each time, also inside of loops,
                and computes with what that returns. Returns a number, and a
                structure of other tensors.
            size: int. The size of a slot.

        Returns:
            The gradient of the number at each slot, zeros where the number
            does not depend on it; and the structure.
        """

    @abc.abstractmethod
    def push(
        self,
        run: Callable[[list[Tensor]], list[Tensor]],
        tensors: list[Tensor],
        tangents: list[Tensor],
    ) -> list[Tensor | None]:
        """Returns the products of Jacobians and vectors, J v.

        Args:
            run: Takes some tensors, and returns others.
            tensors: list of tensors. What it is differentiated at.
            tangents: list of tensors. The part of v for each of them.

        Returns:
            The product for each tensor that `run` returns, None where no
            derivative arrives.
        """

    @abc.abstractmethod
    def pull(
        self,
        run: Callable[[list[Tensor]], list[Tensor]],
        tensors: list[Tensor],
        cotangents: list[Tensor],
    ) -> list[Tensor | None]:
        """Returns the products of vectors and Jacobians, J^T u.

        Args:
            run: Takes some tensors, and returns others.
            tensors: list of tensors. What it is differentiated at.
            cotangents: list of tensors. The part of u for each tensor that
                `run` returns.

        Returns:
            The product for each of `tensors`, None or zeros where no derivative
            arrives.
        """

    def run_again(
        self,
        known: dict[Any, Callable[..., Any]],
        key: Any,
        function: Callable[..., Any],
        *arguments: Any,
    ) -> Any:
        """Runs a function of tensors that runs several times.

        Args:
            known: dict. What was compiled for it, if anything is.
            key: Hashable. What the function depends on beside its arguments.
            function: Callable. The function, which may be another object each
                time.
            *arguments: Structures of tensors.
        """
        return function(*arguments)

    def stateless_scope(
        self, states: Iterable[tuple[keras.Variable, Tensor]] = ()
    ) -> RecordingScope:
        """Returns a scope in which no variable is written."""
        return RecordingScope(states)

    def restoring(
        self, layers: Callable[[], Iterable[keras.layers.Layer]]
    ) -> contextlib.AbstractContextManager[None]:
        """Returns a context that puts back what layers write elsewhere.

        That is what no variable of Keras holds, such as the state of a
        generator that layers without a seed draw from.

        Args:
            layers: Returns all layers of the model that runs within.
        """
        return contextlib.nullcontext()

    def observe(self, run: Callable[[Observe, Any], Any], batch: Any) -> Any:
        """Runs a model, and hands tensors to functions that see its graph.

        Args:
            run: Called as `run(observe, batch)`. In it, `observe(function,
                *arguments)` calls the function, at once or after the run, in
                the order of these calls, with the same arguments, and returns
                the tensor that goes on: what the function returned, or the last
                argument. Returns a structure of tensors.
            batch: Structure of tensors.

        Returns:
            What `run` returned.
        """
        return run(lambda function, *arguments: function(*arguments), batch)

    @abc.abstractmethod
    def knows_graph(self) -> bool:
        """Returns whether tensors now have an operation that made them."""

    @abc.abstractmethod
    def is_in_graph(self, value: Any) -> bool:
        """Returns whether a value is a tensor that has an operation."""

    def is_here(self, tensor: Tensor) -> bool:
        """Returns whether a tensor may be used in the present graph."""
        return True

    @abc.abstractmethod
    def operation(self, tensor: Tensor) -> Operation:
        """Returns the operation that made a tensor."""

    def forget(self, operation: Operation) -> None:
        """Lets go of what an operation computed, which was looked at."""
        return None

    def unknown_axes(self, tensor: Tensor) -> int:
        """Returns how many axes have no known size, 2 if none is known."""
        return 0

    def after(self, tensors: Sequence[Tensor], signal: Tensor) -> Tensor:
        """Returns a signal that goes on when some tensors are computed."""
        return signal

    def checked_equal(self, number: Any, other: Any, message: str) -> Any:
        """Returns a number that is equal to another one where it is computed.

        Args:
            number: int or tensor. The number.
            other: int or tensor. The other one.
            message: str. What the error says that is raised otherwise.
        """
        if number != other:
            raise ValueError(message)
        return number

    def joined(self, tensors: Sequence[Tensor]) -> Tensor:
        """Returns batches behind one another, of numbers or text."""
        return keras.ops.concatenate(tensors, axis=0)

    def to_numpy(self, tensor: Tensor) -> np.ndarray:
        """Returns the values of a tensor."""
        return keras.ops.convert_to_numpy(tensor)

    def has_value(self, tensor: Tensor) -> bool:
        """Returns whether a tensor has a value now."""
        return True

    def on_devices(self, batch: Any) -> Any:
        """Returns a batch on the devices that `keras.distribution` sets."""
        return batch

    def is_first_process(self) -> bool:
        """Returns whether this process prints and writes, of several."""
        return True

    @abc.abstractmethod
    def fused(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a function that stores no intermediate result, if it can."""

    @abc.abstractmethod
    def lengths(self, tensors: Sequence[Tensor]) -> Tensor:
        """Returns the size of the first axis of each tensor, int32."""

    def first_rows(self, tensor: Tensor, rows: Any) -> Tensor:
        """Returns the first rows of a matrix, at most all of them."""
        return tensor[:rows]

    def first_row(self, stack: Tensor) -> Tensor:
        """Returns the first row, with an axis of size 1, of each matrix."""
        return stack[..., :1, :]

    def parts(self, tensor: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
        """Divides a tensor along the first axis into parts of some sizes."""
        if len(sizes) == 1:
            return [tensor]
        return keras.ops.split(tensor, np.cumsum(sizes)[:-1].tolist())

    @abc.abstractmethod
    def half_sum_of_squares(self, tensor: Tensor) -> Tensor:
        """Returns half the sum of squares, summed in parts, in its dtype."""

    def mean_and_variance(
        self, tensor: Tensor, axes: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Returns the mean and the variance over some axes, summed in parts.

        Args:
            tensor: tensor. Its dtype is float32 or float64.
            axes: Sequence of int. The axes, from 0 on.
        """
        mean = keras.ops.mean(tensor, axes, keepdims=True)
        square = keras.ops.square(tensor - mean)
        variance = keras.ops.mean(square, axes)
        return keras.ops.reshape(mean, variance.shape), variance

    def without_gradients(self) -> contextlib.AbstractContextManager[Any]:
        """Returns a context in which nothing is kept for gradients.

        It holds for one thread.
        """
        return contextlib.nullcontext()

    def reduce_rows(
        self,
        stack: Tensor,
        reduce: Callable[[Tensor], Tensor],
        merge: Callable[[Tensor, Tensor], Tensor],
        few: bool,
        goes_on: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Reduces a tensor over the axis before the last one.

        Args:
            stack: tensor. Its shape is `(..., rows, units)`.
            reduce: Reduces some rows.
            merge: Merges what `reduce` returned for some rows and for others.
            few: bool. Whether there are at most `FEW_ROWS` rows.
            goes_on: Returns whether further rows make a difference to what was
                returned so far. Defaults to True.
        """
        return reduce(stack)


@functools.cache
def passes() -> Passes:
    """Returns the passes of the backend that Keras runs on.

    Raises:
        RuntimeError: If models are not measured on that backend.
    """
    if not backend.has_passes():
        raise RuntimeError(
            "Models are measured on Keras's TensorFlow, JAX and PyTorch "
            'backends; set KERAS_BACKEND="tensorflow" before Keras is '
            "imported. "
            f"Received: backend={keras.config.backend()!r}"
        )
    name = f"keras_initx.backend.{keras.config.backend()}_passes"
    return importlib.import_module(name).PASSES
