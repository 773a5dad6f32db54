"""Passes over a model on TensorFlow: a `tf.function` each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_initx.backend.passes import NewSlot, Passes, Tensor


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


def _spec(example: Any) -> Any:
    # An optional input may be None.
    if example is None or isinstance(example, tf.TypeSpec):
        return example
    return tf.TensorSpec.from_tensor(example)


PASSES = TensorFlowPasses()
