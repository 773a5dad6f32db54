"""Faults that the weights show without a signal."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import keras
import numpy as np

from keras_initx.initialization.branches import is_sum
from keras_initx.inspection.graph import Graph
from keras_initx.inspection.moving_statistics import moving_statistics
from keras_initx.inspection.traversal import ModelWeight
from keras_initx.prediction.weights import initializer_moments
from keras_initx.recommendation import lines
from keras_initx.recommendation.case import Case, entries, mean_square
from keras_initx.recommendation.reading import WHOLE, Reading, listed

_ATTRIBUTES = {
    "kernel": "kernel_initializer",
    "recurrent kernel": "recurrent_initializer",
    "depthwise kernel": "depthwise_initializer",
    "pointwise kernel": "pointwise_initializer",
}
# A variance that is wrong by less is no fault. The gates of an LSTM, whose
# kernels Keras draws together, have up to 4.
_FANS = 4.0
# A signal that is so many times the epsilon of a normalization is normalized.
EPSILONS = 20.0
# How far the mean square of a weight may be from the variance it is drawn with.
_SAMPLED = 0.3
# E q / exp(E log q): the mean over networks of a squared signal over the
# typical one.
_SPREAD = 10.0


def equal_weights(case: Case) -> Reading:
    """Layers that share one initializer have the same kernel."""
    groups: dict[Any, list[ModelWeight]] = defaultdict(list)
    for weight in case.view.weights:
        shape = tuple(weight.variable.shape)
        if weight.geometry.is_linear and len(shape) > 1 and 0 not in shape:
            # Few numbers tell almost all kernels apart.
            start = entries(weight.variable.value[0])
            # Two models in a model, as a network and its moving average, may
            # be equal on purpose.
            owner = tuple(map(id, weight.layers[:-1]))
            groups[owner, shape, start.tobytes()].append(weight)
    names: list[str] = []
    for group in groups.values():
        if len(group) < 2 or not weight_is_random(group[0].variable):
            continue
        first = entries(group[0].variable)
        same = [w for w in group if np.array_equal(entries(w.variable), first)]
        if len(same) > 1:
            names += [w.layer_name or w.layer.name for w in same]
    return Reading(
        bool(names),
        "layers whose kernels are equal to those of another (good: 0)",
        float(len(names)),
        where=listed(names) if names else WHOLE,
        why=(
            "What is known of random networks holds for weights of different "
            "layers that are independent (Poole et al., arXiv:1606.05340). "
            "Layers that share one initializer draw the same."
        ),
        lines=lines.draws(case.activations, list(dict.fromkeys(names))),
    )


def weight_is_random(variable: Any) -> bool:
    """Whether most entries of a weight are different numbers."""
    values = entries(variable).ravel()[:4096]
    return len(np.unique(values)) > 0.5 * len(values)


def wrong_fans(case: Case) -> Reading | None:
    """The variance of a kernel follows from its shape and not from its fans."""
    worst, names = 1.0, []
    looked = False
    for weight in case.view.weights:
        attribute = _ATTRIBUTES.get(weight.role)
        initializer = attribute and getattr(weight.layer, attribute, None)
        if not isinstance(initializer, keras.initializers.Initializer):
            continue
        shape = tuple(weight.variable.shape)
        drawn = initializer_moments(initializer, shape)
        meant = initializer_moments(initializer, shape, weight.geometry.fans)
        if not drawn or not meant or not drawn.variance or not meant.variance:
            continue
        looked = True
        present = mean_square(weight.variable)
        if is_normalized(case, weight.layer, present * weight.geometry.fans[0]):
            continue
        is_drawn = (
            present and abs(math.log(present / drawn.variance)) < _SAMPLED
        )
        factor = drawn.variance / meant.variance
        if is_drawn and not 1 / _FANS <= factor <= _FANS:
            names.append(weight.layer_name or weight.layer.name)
            if abs(math.log(factor)) > abs(math.log(worst)):
                worst = factor
    if not looked:
        return None
    names = list(dict.fromkeys(names))
    return Reading(
        bool(names),
        "variance of a kernel over the one that its initializer means (good: "
        f"{1 / _FANS:g} to {_FANS:g})",
        worst,
        where=listed(names) if names else WHOLE,
        why=(
            "Keras reads the fans of a kernel from its shape, which for "
            "depthwise, grouped and transposed convolutions says nothing of "
            "how many inputs an output sums (He et al., arXiv:1502.01852, for "
            "the variance; the fans are derived here)."
        ),
        lines=lines.draws(case.activations, names),
        note=(
            "Batch Normalization hides it in training, and not in inference "
            "mode."
            if case.by_batch
            else ""
        ),
    )


def is_normalized(case: Case, layer: Any, size: float) -> bool:
    """Whether nothing but normalizations take the output of a layer.

    A normalization over the units of a sample takes away the scale of a kernel,
    in training and in inference, if its epsilon is small beside the signal.
    That of a batch does so in training alone.

    Args:
        case: Case. The model.
        layer: keras.layers.Layer. The layer.
        size: float. The mean square of its output for inputs of mean square 1.
    """
    if case.graph is None:
        return False
    steps = [
        consumer
        for step in case.graph.steps
        if step.operation is layer
        for number in step.outputs
        for consumer in case.graph.consumers.get(number, [])
    ]
    return bool(steps) and all(
        step is not None
        and (epsilon := epsilon_of(case, step.operation)) is not None
        and size > EPSILONS * epsilon
        for step in steps
    )


def epsilon_of(case: Case, operation: Any) -> float | None:
    """Returns the epsilon of a normalization over the units of a sample.

    None for another operation, and for a normalization of a batch.
    """
    if not isinstance(operation, keras.layers.Layer):
        return None
    if not case.view.rule(operation).normalizes:
        return None
    if moving_statistics(operation) is not None:
        return None
    return float(getattr(operation, "epsilon", 0.0))


def width_against_depth(case: Case) -> Reading | None:
    """A narrow deep relu network, whose signal differs between seeds."""
    graph = case.graph
    if graph is None or case.normalizes or has_sum(graph):
        return None
    widths = []
    for step in graph.steps:
        layer = step.operation
        rule = case.view.rule(layer)
        if not rule.units or not is_relu(case.activation(layer)):
            continue
        if len(graph.shapes[step.outputs[0]]) == 2:
            widths.append(rule.units.count)
    if not widths:
        return None
    spread = (
        1.0 if case.is_paired else math.exp(2.5 * sum(1 / n for n in widths))
    )
    return Reading(
        spread > _SPREAD,
        f"mean square of the signal over networks, over the typical one (good: "
        f"below {_SPREAD:g})",
        spread,
        why=(
            "In a random relu network of widths n the squared signal is about "
            "log-normal with log-variance 5 sum 1/n, so that its mean is "
            "exp(2.5 sum 1/n) times the typical value (Hanin & Rolnick, "
            "arXiv:1803.01719; Hanin & Nica, arXiv:1812.05994)."
        ),
        lines=[lines.PAIRED],
        note=(
            f"{len(widths)} layers, sum 1/n = {sum(1 / n for n in widths):.2g}."
            " Wider layers, residual branches or normalization help too."
        ),
    )


def has_sum(graph: Graph) -> bool:
    """Whether a model adds tensors."""
    return any(is_sum(step) for step in graph.steps)


def has_merge(graph: Graph) -> bool:
    """Whether a model joins tensors, so that it is no chain of layers.

    What is concatenated skips layers too, as in DenseNet, or runs beside them.
    """
    return any(len(set(step.inputs)) > 1 for step in graph.steps)


def is_relu(activation: Any) -> bool:
    """Whether an activation is the relu of Keras, as a function or layer."""
    return activation is keras.activations.relu or (
        isinstance(activation, keras.layers.ReLU)
        and not activation.max_value
        and not activation.threshold
    )
