"""Runs a model on tensors of moments.

While the model runs, Keras's calls of layers and operations come here instead
(`hooks.patched_call`). What has a rule runs it, and what has none runs its own
`call`, whose inner layers and operations come here again.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_initx.hooks.patched_call import in_place_of_calls, plain_layer_calls
from keras_initx.hooks.patching import replaced
from keras_initx.prediction.elementwise import (
    Elementwise,
    acts_on_each_entry,
)
from keras_initx.prediction.moment_tensor import MomentTensor
from keras_initx.prediction.propagation import Propagation, numbers
from keras_initx.prediction.refusals import (
    TooManyPointsError,
    Unpredictable,
    WrongDataError,
)
from keras_initx.prediction.registry import operation_rule, rule_of

_COMPARISONS = frozenset(
    ("Equal", "NotEqual", "Greater", "GreaterEqual", "Less", "LessEqual")
)


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
        self.steps.enter(layer, training)
        try:
            if args and getattr(args[0], "scores", None) is None:
                given = kwargs.pop("mask", None)
                if any(m is not None for m in keras.tree.flatten(given)):
                    args = (_with_mask(args[0], given), *args[1:])
            mask = _mask_of(args, kwargs)
            if mask is not None:
                _check_mask(layer)
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
        if mask is not None and not isinstance(layer, keras.Model):
            # As in Keras, other layers take no mask and give none.
            kept = mask if layer.supports_masking else None
            for leaf in keras.tree.flatten(output):
                if isinstance(leaf, MomentTensor):
                    fits = kept is not None and leaf.grid == kept.shape
                    leaf.mask = kept if fits else None
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
            except (Unpredictable, TooManyPointsError, WrongDataError):
                raise
            except Exception as error:
                raise Unpredictable(_why_not(error)) from error

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

    def _of_integers(
        self, operation: keras.Operation, args: tuple, kwargs: dict[str, Any]
    ) -> MomentTensor | None:
        """Returns an operation on tokens or masks, computed on their values.

        Comparisons of given numbers are computed, too. None for an operation on
        other tensors, or of another result than one tensor.
        """
        leaves = keras.tree.flatten((args, kwargs))
        moving = [leaf for leaf in leaves if isinstance(leaf, MomentTensor)]
        if (
            not moving
            or any(x.values is None for x in moving)
            or not (
                type(operation).__name__ in _COMPARISONS
                or all(map(_is_integer, moving))
            )
        ):
            return None
        with plain_layer_calls():
            filled = keras.tree.map_structure(
                lambda x: x.values if isinstance(x, MomentTensor) else x,
                (args, kwargs),
            )
            result = operation.call(*filled[0], **filled[1])
        if not keras.ops.is_tensor(result):
            return None
        values = numbers(result)
        if not values.ndim or len(values) != moving[0].samples:
            return None
        return self.steps.given(values)

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
        known = self._of_integers(operation, args, kwargs)
        if known is not None:
            return known
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


def _is_integer(x: MomentTensor) -> bool:
    """Whether a tensor holds given integers or booleans, such as tokens."""
    return x.values is not None and x.values.dtype.kind in "iub"


def _with_mask(x: Any, mask: Any) -> Any:
    """Returns a tensor with the mask that a layer is given for it.

    Raises:
        Unpredictable: If the mask depends on the signal.
    """
    values = None
    if isinstance(mask, MomentTensor):
        values = mask.values
    elif keras.ops.is_tensor(mask) or isinstance(mask, np.ndarray):
        values = numbers(mask)
    if values is None or not isinstance(x, MomentTensor):
        raise Unpredictable("its mask depends on the signal")
    return x.like(x.signal, mask=values.astype(bool))


def _mask_of(args: tuple, kwargs: dict[str, Any]) -> np.ndarray | None:
    """Returns the mask of the tensors that a layer is given, None without."""
    for leaf in keras.tree.flatten((args, kwargs)):
        if isinstance(leaf, MomentTensor) and leaf.mask is not None:
            return None if leaf.mask.all() else leaf.mask
    return None


def _check_mask(layer: keras.layers.Layer) -> None:
    """Refuses a mask for a layer that uses it, but for loops over time.

    Raises:
        Unpredictable: If there is no rule for the mask.
    """
    loops = (keras.layers.RNN, keras.layers.Bidirectional)
    if isinstance(layer, (keras.Model, *loops)):
        return
    names = inspect.signature(layer.call).parameters
    if any(
        name == "mask" or name.endswith(("query_mask", "value_mask"))
        for name in names
    ):
        raise Unpredictable("it takes the mask of its input, e.g. of padding")


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


def _why_not(error: Exception) -> str:
    """Returns why a `call` does not run on tensors of moments."""
    text = str(error)
    found = re.search(r"cannot be used as input to an? (\w+) function", text)
    if found is not None:
        return (
            f"it calls functions of {found[1]}, and moments pass through those "
            "of keras.ops alone"
        )
    first = next(iter(text.strip().splitlines()), "")
    why = f"{type(error).__name__}: {first}".removesuffix(".")
    return (
        "its call does not run on symbolic tensors of keras.ops: "
        f"{textwrap.shorten(why, 200)}"
    )


def _snake(name: str) -> str:
    return "".join(
        f"_{c.lower()}" if c.isupper() and i else c.lower()
        for i, c in enumerate(name)
    )
