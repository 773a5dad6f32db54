"""The rules of layers and operations, registered by class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

Rule = Callable[..., Any]
_RULES: dict[type, Rule] = {}
# Rules of operations, by the names of their classes, which Keras does not
# export.
_OPERATIONS: dict[str, Rule] = {}
# Rules of layers that Keras does not export, by the names of their classes.
_BY_NAME: dict[str, Rule] = {}


def register_propagation(*classes: type) -> Callable[[Rule], Rule]:
    """Registers how a layer class changes the moments of a signal.

    `predict` runs a layer without a rule by its own `call`, so a rule is needed
    only for a layer that calls functions of TensorFlow, or operations that have
    no rule themselves. Subclasses that do not override `call` inherit the rule.

    The rule is called as `rule(steps, layer, *inputs)`, and returns the output
    of the layer. Inputs and outputs are symbolic tensors that stand for random
    signals. The rule computes with them by the methods of `steps`, a
    `prediction.propagation.Propagation`, whose docstrings have all arguments:

        linear(x, kernel, bias, outputs=n)   a random linear map
        activate(layer, x)                   layer.activation; x is the row
        apply(function, x)                   an activation, which is no row
        elementwise(function, x, y)          a function of tensors that acts on
                                             each entry alone
        add([x, y], factors)                 the sum of factors times tensors
        multiply(x, y)                       the product, entry by entry
        normalize(x, epsilon, center=True)   over the channels
        concatenate([x, y], axis)            along an axis
        reshape(x, shape)                    shape without the axis of samples
        mask(x, rate)                        a dropout

    Args:
        *classes: Layer classes.

    Returns:
        A decorator of the rule.

    Raises:
        TypeError: If one of `classes` is no layer class.

    Example:

    >>> import keras, tensorflow as tf, keras_initx as kx
    >>> class Softened(keras.layers.Layer):
    ...     def call(self, x):
    ...         return tf.nn.softsign(x)
    >>> @kx.prediction.register_propagation(Softened)
    ... def softened(steps, layer, x):
    ...     return steps.apply(keras.activations.softsign, x)
    >>> model = keras.Sequential(
    ...     [keras.Input((8,)), Softened(), keras.layers.Dense(4)]
    ... )
    >>> len(kx.predict(model))
    1

    Reference: derived here.
    """
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, keras.layers.Layer)):
            raise TypeError(
                "register_propagation takes layer classes, as in "
                f"@register_propagation(MyLayer). Received: {cls!r}"
            )

    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(classes, rule))
        return rule

    return register


def register_operation(*names: str) -> Callable[[Rule], Rule]:
    """Registers the rule of operations of `keras.ops`.

    Args:
        *names: The names of the classes of the operations, such as "Add".

    Returns:
        A decorator of the rule, which is called as
        `rule(steps, operation, *arguments)`.
    """

    def register(rule: Rule) -> Rule:
        _OPERATIONS.update(dict.fromkeys(names, rule))
        return rule

    return register


def register_name(*names: str) -> Callable[[Rule], Rule]:
    """Registers the rule of layers of Keras that it does not export.

    Args:
        *names: The names of the classes of the layers, such as "LayerScale".

    Returns:
        A decorator of the rule.
    """

    def register(rule: Rule) -> Rule:
        _BY_NAME.update(dict.fromkeys(names, rule))
        return rule

    return register


def rule_of(layer: keras.layers.Layer) -> Rule | None:
    """Returns the rule of a layer, None for one that runs its own `call`."""
    cls = type(layer)
    for base in cls.__mro__:
        if base in _RULES:
            same = cls.call is base.call  # type: ignore[attr-defined]
            return _RULES[base] if same else None
    if cls.__module__.startswith("keras."):
        return _BY_NAME.get(cls.__name__)
    return None


def operation_rule(operation: keras.Operation) -> Rule | None:
    """Returns the rule of an operation, None without one."""
    return _OPERATIONS.get(type(operation).__name__)
