"""Runs a model on tensors of moments.

While the model runs, Keras's calls of layers and operations come here instead
(`hooks.patched_call`). What has a rule runs it, and what has none runs its own
`call`, whose inner layers and operations come here again.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import keras

from keras_initx.hooks.patched_call import in_place_of_calls, plain_layer_calls
from keras_initx.hooks.patching import replaced
from keras_initx.prediction.elementwise import (
    Elementwise,
    acts_on_each_entry,
)
from keras_initx.prediction.moment_tensor import MomentTensor
from keras_initx.prediction.propagation import Propagation
from keras_initx.prediction.refusals import TooManyPointsError, Unpredictable
from keras_initx.prediction.registry import operation_rule, rule_of


class Walk:
    """Runs rules in the place of layers and operations.

    Args:
        steps: Propagation. What the rules are called with.
    """

    def __init__(self, steps: Propagation):
        self.steps = steps

    def run(
        self, model: keras.layers.Layer, inputs: Any, training: bool
    ) -> Any:
        """Returns what a model computes from tensors of moments."""
        with in_place_of_calls(self):
            return model(inputs, training=training)

    def layer_call(
        self, layer: keras.layers.Layer, *args: Any, **kwargs: Any
    ) -> Any:
        """Returns the output of a layer, by its rule or by its own `call`."""
        rule = rule_of(layer)
        moving = _has_moments((args, kwargs))
        if not moving and not isinstance(layer, keras.layers.Embedding):
            # Without a tensor of moments among its arguments, the layer
            # computes numbers, as Keras does.
            with plain_layer_calls():
                return layer(*args, **kwargs)
        training = kwargs.pop("training", None)
        kwargs = {k: v for k, v in kwargs.items() if k != "mask"}
        self.steps.enter(layer, training)
        try:
            output = (
                self._own_call(layer, *args, **kwargs)
                if rule is None
                else rule(self.steps, layer, *args, **kwargs)
            )
        except TooManyPointsError:
            raise
        except Unpredictable as error:
            if error.layer_call is None:
                error.layer_call = self.steps.frames[-1].call
            raise
        self.steps.leave(output)
        return output

    def _own_call(
        self, layer: keras.layers.Layer, *args: Any, **kwargs: Any
    ) -> Any:
        """Returns the output of a layer by its own `call`.

        Raises:
            Unpredictable: If the `call` does not run on symbolic tensors.
        """
        parameters = inspect.signature(layer.call).parameters
        if "training" in parameters:
            kwargs["training"] = self.steps.training
        with self._around_activation(layer):
            try:
                return layer.call(*args, **kwargs)
            except (Unpredictable, TooManyPointsError):
                raise
            except Exception as error:
                raise Unpredictable(
                    "its call needs numbers, or calls functions of TensorFlow, "
                    "where moments pass through keras.ops: "
                    f"{_first_line(error)}"
                ) from error

    def _around_activation(
        self, layer: keras.layers.Layer
    ) -> contextlib.AbstractContextManager[None]:
        """The context in which `layer.activation` records its input."""
        in_class = inspect.getattr_static(type(layer), "activation", None)
        if isinstance(in_class, property) or not callable(
            getattr(layer, "activation", None)
        ):
            return contextlib.nullcontext()

        def recorded(activation: Callable) -> Callable:
            def run(x: Any, *args: Any, **kwargs: Any) -> Any:
                if not isinstance(x, MomentTensor):
                    return activation(x, *args, **kwargs)
                self.steps.record(x)
                if args or kwargs or isinstance(activation, keras.layers.Layer):
                    return activation(x, *args, **kwargs)
                return self.steps.apply(activation, x)

            return run

        return replaced(layer, "activation", recorded)

    def operation_call(
        self, operation: keras.Operation, *args: Any, **kwargs: Any
    ) -> Any:
        """Returns the output of an operation of `keras.ops`.

        An operation without a rule that acts on each entry of one tensor alone
        is an elementwise function.

        Raises:
            Unpredictable: If there is no rule for another operation.
        """
        if isinstance(operation, keras.layers.Layer):
            return self.layer_call(operation, *args, **kwargs)
        rule = operation_rule(operation)
        if rule is not None:
            return rule(self.steps, operation, *args, **kwargs)
        leaves = keras.tree.flatten((args, kwargs))
        moving = [leaf for leaf in leaves if isinstance(leaf, MomentTensor)]
        if len(moving) == 1:
            function = _function_of_one(operation, args, kwargs)
            if acts_on_each_entry(function):
                return self.steps.elementwise(Elementwise(function), moving[0])
        raise Unpredictable(
            f"it calls keras.ops.{_snake(type(operation).__name__)}, which has "
            "no rule"
        )


def _function_of_one(
    operation: keras.Operation, args: tuple, kwargs: dict[str, Any]
) -> Callable[[Any], Any]:
    """Returns an operation as a function of its one tensor of moments.

    All other arguments keep their values.
    """

    def function(x: Any) -> Any:
        with plain_layer_calls():
            filled = keras.tree.map_structure(
                lambda leaf: x if isinstance(leaf, MomentTensor) else leaf,
                (args, kwargs),
            )
            return operation.call(*filled[0], **filled[1])

    return function


def _has_moments(structure: Any) -> bool:
    return any(
        isinstance(leaf, MomentTensor) for leaf in keras.tree.flatten(structure)
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:200]


def _snake(name: str) -> str:
    return "".join(
        f"_{c.lower()}" if c.isupper() and i else c.lower()
        for i, c in enumerate(name)
    )
