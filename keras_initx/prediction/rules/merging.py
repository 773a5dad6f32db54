"""Layers that join several signals.

A sum, a product or a maximum acts on each channel alone:

    E (x + y)_i (x + y)_j = E x_i x_j + E x_i y_j + E y_i x_j + E y_i y_j

and likewise for others. The terms E x_i y_j are those of what the branches have
in common, so that x + x has four times the mean square of x, and x + W x twice
as much with weights W that keep the mean square.

Reference: derived here; `prediction.moments` has the rules for E x_i y_j.
"""

from __future__ import annotations

from typing import Any

import keras

from keras_initx.prediction.elementwise import Elementwise
from keras_initx.prediction.moment_tensor import MomentTensor
from keras_initx.prediction.propagation import Propagation
from keras_initx.prediction.registry import register_propagation

_L = keras.layers


@register_propagation(_L.Add)
def _add(steps: Propagation, layer: Any, xs: Any) -> MomentTensor:
    return steps.add(xs)


@register_propagation(_L.Subtract)
def _subtract(steps: Propagation, layer: Any, xs: Any) -> MomentTensor:
    return steps.add(xs, [1.0, -1.0])


@register_propagation(_L.Average)
def _average(steps: Propagation, layer: Any, xs: Any) -> MomentTensor:
    return steps.add(xs, [1 / len(xs)] * len(xs))


@register_propagation(_L.Multiply)
def _multiply(steps: Propagation, layer: Any, xs: Any) -> MomentTensor:
    product = xs[0]
    for x in xs[1:]:
        product = steps.multiply(product, x)
    return product


@register_propagation(_L.Maximum)
def _maximum(steps: Propagation, layer: Any, xs: Any) -> MomentTensor:
    return steps.elementwise(largest(len(xs)), *xs)


@register_propagation(_L.Minimum)
def _minimum(steps: Propagation, layer: Any, xs: Any) -> MomentTensor:
    smallest = Elementwise(
        lambda *t: keras.ops.min(keras.ops.stack(t), axis=0), arity=len(xs)
    )
    return steps.elementwise(smallest, *xs)


@register_propagation(_L.Concatenate)
def _concatenate(steps: Propagation, layer: Any, xs: Any) -> MomentTensor:
    return steps.concatenate(xs, layer.axis)


def largest(count: int) -> Elementwise:
    """Returns the maximum of several arguments."""
    return Elementwise(
        lambda *t: keras.ops.max(keras.ops.stack(t), axis=0), arity=count
    )
