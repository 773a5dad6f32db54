"""Passes over a model on TensorFlow: a `tf.function` each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_initx.backend.passes import (
    FEW_ROWS,
    NewSlot,
    Operation,
    Passes,
    Tensor,
)


class TensorFlowPasses(Passes):
    """Compiles to graphs, in which the number of samples is not known."""

    def spec(self, tensor: Tensor) -> Any:
        return tf.type_spec_from_value(tensor)

    def batch_spec(self, tensor: Tensor) -> Any:
        return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)

    def of_any_size(self, tensor: Tensor) -> Tensor:
        if tensor.shape[0] is None:
            return tensor
        return tf.compat.v1.placeholder_with_default(
            tensor, [None, *tensor.shape[1:]]
        )

    def compile(
        self, function: Callable[..., Any], *examples: Any
    ) -> tuple[Callable[..., Any], Any]:
        # Not tf.function's own cache: it would warn of models measured one
        # after another as if one function were traced too often.
        traced = tf.function(function, autograph=False)
        concrete = traced.get_concrete_function(
            *tf.nest.map_structure(_spec, examples)
        )
        return concrete, concrete.structured_outputs

    def graph(self) -> Any:
        return tf.compat.v1.get_default_graph()

    def dense(self, gradient: Any) -> Tensor:
        # The gradient of a gather lists rows, one of them perhaps twice.
        if not isinstance(gradient, tf.IndexedSlices):
            return gradient
        return tf.math.unsorted_segment_sum(
            gradient.values, gradient.indices, gradient.dense_shape[0]
        )

    def knows_graph(self) -> bool:
        return not tf.executing_eagerly()

    def is_in_graph(self, value: Any) -> bool:
        return isinstance(value, tf.Tensor) and hasattr(value, "graph")

    def is_here(self, tensor: Tensor) -> bool:
        return tensor.graph is tf.compat.v1.get_default_graph()

    def operation(self, tensor: Tensor) -> Operation:
        return tensor.op

    def unknown_axes(self, tensor: Tensor) -> int:
        rank = tensor.shape.rank
        return 2 if rank is None else tensor.shape.as_list().count(None)

    def after(self, tensors: Sequence[Tensor], signal: Tensor) -> Tensor:
        with tf.control_dependencies(tensors):
            return tf.identity(signal)

    def checked_equal(self, number: Any, other: Any, message: str) -> Any:
        check = tf.debugging.assert_equal(other, number, message=message)
        with tf.control_dependencies([check]):
            return tf.identity(number)

    def joined(self, tensors: Sequence[Tensor]) -> Tensor:
        return tf.concat(tensors, axis=0)

    def to_numpy(self, tensor: Tensor) -> Any:
        return tensor.numpy()

    def has_value(self, tensor: Tensor) -> bool:
        return hasattr(tensor, "numpy")

    def gradients(
        self, run: Callable[[NewSlot], tuple[Tensor, Any]], size: int
    ) -> tuple[list[Tensor], Any]:
        graph = self.graph()
        slots: list[Tensor] = []

        def new_slot() -> Tensor:
            # Inside of a loop, the slot must be outside of its graph.
            with graph.as_default():
                slot = tf.zeros([size])
            tape.watch(slot)
            slots.append(slot)
            return slot

        # Variables are of no interest, and would make every kernel's gradient.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            number, others = run(new_slot)
        found = tape.gradient(
            number, slots, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return found, others

    def push(
        self,
        run: Callable[[list[Tensor]], list[Tensor]],
        tensors: list[Tensor],
        tangents: list[Tensor],
    ) -> list[Tensor | None]:
        accumulator = tf.autodiff.ForwardAccumulator(tensors, tangents)
        with accumulator:
            signals = run(tensors)
        return [accumulator.jvp(signal) for signal in signals]

    def pull(
        self,
        run: Callable[[list[Tensor]], list[Tensor]],
        tensors: list[Tensor],
        cotangents: list[Tensor],
    ) -> list[Tensor | None]:
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            signals = run(tensors)
        return tape.gradient(signals, tensors, cotangents)

    def fused(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a function that is compiled to one kernel.

        This saves the memory, and half of the time. Where XLA does not run (a
        GPU installation may lack parts of it), the same operations run one by
        one.
        """
        return _fused(function)

    def lengths(self, tensors: Sequence[Tensor]) -> Tensor:
        if len(tensors) == 1:
            return tf.slice(tf.shape(tensors[0]), [0], [1])
        return tf.stack(tf.shape_n(tensors))[:, 0]

    # Python's form of a slice, and Keras's split, are traced into several times
    # the operations.

    def first_rows(self, tensor: Tensor, rows: Any) -> Tensor:
        return tf.slice(tensor, [0, 0], [rows, -1])

    def first_row(self, stack: Tensor) -> Tensor:
        size = [-1] * (stack.shape.rank - 2) + [1, -1]
        return tf.slice(stack, [0] * len(size), size)

    def parts(self, tensor: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
        return tf.split(tensor, sizes) if len(sizes) > 1 else [tensor]

    def half_sum_of_squares(self, tensor: Tensor) -> Tensor:
        # On a CPU this kernel sums in a tree over several threads; reduce_mean
        # is ten times slower for a large layer and not more exact.
        return tf.nn.l2_loss(tensor)

    def mean_and_variance(
        self, tensor: Tensor, axes: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        mean = tf.reduce_mean(tensor, axes, keepdims=True)
        # In one operation, without the memory of the difference.
        square = tf.math.squared_difference(tensor, mean)
        variance = tf.reduce_mean(square, axes)
        return tf.reshape(mean, variance.shape), variance

    def reduce_rows(
        self,
        stack: Tensor,
        reduce: Callable[[Tensor], Tensor],
        merge: Callable[[Tensor, Tensor], Tensor],
        few: bool,
        goes_on: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        if few:
            return reduce(stack)
        *layers, samples, units = tf.unstack(tf.shape(stack))
        step = tf.minimum(samples, _rows_at_once() or samples)
        steps = samples // step

        def add(i: Tensor, so_far: Tensor) -> tuple[Tensor, Tensor]:
            begin = [0] * len(layers)
            rows = tf.slice(
                stack, [*begin, i * step, 0], [*layers, step, units]
            )
            rows.set_shape([*stack.shape[:-2], None, stack.shape[-1]])
            return i + 1, merge(so_far, reduce(rows))

        def is_next(i: Tensor, so_far: Tensor) -> Tensor:
            is_left = i < steps
            return is_left if goes_on is None else is_left & goes_on(so_far)

        rest = reduce(stack[..., steps * step :, :])
        return tf.while_loop(is_next, add, (0, rest))[1]


def _rows_at_once() -> int | None:
    """The number of rows that are summed at once; None for all of them."""
    devices = tf.config.list_logical_devices()
    return FEW_ROWS if all(d.device_type == "CPU" for d in devices) else None


@functools.cache
def _fused(function: Callable[..., Any]) -> Callable[..., Any]:
    if _can_fuse():
        return tf.function(function, autograph=False, jit_compile=True)
    return function


@functools.cache
def _can_fuse() -> bool:
    try:
        with tf.init_scope():
            tf.function(tf.sqrt, jit_compile=True)(tf.ones(1))
    except (tf.errors.OpError, ValueError):
        return False
    return True


def _spec(example: Any) -> Any:
    # An optional input may be None.
    if example is None or isinstance(example, tf.TypeSpec):
        return example
    return tf.type_spec_from_value(example)


PASSES = TensorFlowPasses()
