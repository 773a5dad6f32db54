"""The rules of layers and operations, registered by class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

Rule = Callable[..., Any]
_RULES: dict[type, Rule] = {}
# The operations of Keras have no exported classes, so they go by name.
_OPERATIONS: dict[str, Rule] = {}
# Layers of Keras that are not exported.
_BY_NAME: dict[str, Rule] = {}


def register_propagation(*classes: type) -> Callable[[Rule], Rule]:
    """Registers how a layer class changes the moments of a signal.

    `predict` runs a layer without a rule by its own `call`, so a rule is needed
    only for a layer that calls functions of TensorFlow, or operations that have
    no rule themselves. Subclasses that do not override `call` inherit the rule.

    The rule is called as `rule(steps, layer, *inputs)`, with what the layer is
    called on, tensors of moments in the place of tensors, and returns such a
    tensor. The methods of `steps` make them, each from others:

        linear(x, kernel, bias, outputs=n)   a random linear map
        activate(layer, x)                   layer.activation, after its row
        apply(function, x)                   an activation
        elementwise(function, x, y)          a function of each entry alone
        add([x, y], factors), multiply(x, y)
        normalize(x, epsilon, center=True)   over the channels
        concatenate([x, y], axis)
        reshape(x, shape)
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
    """Registers the rule of operations of Keras, by the names of classes."""

    def register(rule: Rule) -> Rule:
        _OPERATIONS.update(dict.fromkeys(names, rule))
        return rule

    return register


def register_name(*names: str) -> Callable[[Rule], Rule]:
    """Registers the rule of layers that Keras does not export, by name."""

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
