"""Passes over a model on TensorFlow: a `tf.function` each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_initx.backend.passes import Passes, Tensor, Watch


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

    def gradients(
        self,
        run: Callable[[Watch], tuple[Sequence[Tensor], Any]],
        cotangents: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    ) -> tuple[list[Tensor | None], Any]:
        watched: list[Tensor] = []

        def watch(signal: Tensor) -> Tensor:
            # A tensor of its own, so that the gradient is not that of another
            # watched tensor which this one is.
            signal = tf.identity(signal)
            tape.watch(signal)
            watched.append(signal)
            return signal

        # Variables are of no interest, and would make every kernel's gradient.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            starts, others = run(watch)
        found = tape.gradient(starts, watched, cotangents(starts))
        return found, others


def _spec(example: Any) -> Any:
    # An optional input may be None.
    if example is None or isinstance(example, tf.TypeSpec):
        return example
    return tf.TensorSpec.from_tensor(example)


PASSES = TensorFlowPasses()
