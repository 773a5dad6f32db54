"""What the rows of a profile are: signals, tables, scores, heads of zeros."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_initx.inspection.graph import has_graph, read_graph
from keras_initx.inspection.traversal import ModelView

_NUMBER = re.compile(r":\d+$")


def row_roles(
    view: ModelView,
    names: Sequence[str],
    units: Sequence[float] | np.ndarray,
    sample_variance: np.ndarray,
) -> tuple[str, ...]:
    """Returns what each row of a profile is, as `VarianceProfile` names it.

    A kernel of zeros that only the output of another one feeds is no head, but
    a "signal": neither of the two is ever trained.

    Args:
        view: ModelView. The model.
        names: Sequence of str. The names of the rows, as `measure` gives them.
        units: Sequence of numbers. The number of units of each row.
        sample_variance: Array of shape `(rows,)`.
    """
    tables = {
        id(weight.layer)
        for weight in view.weights
        if weight.role == "embedding"
    }
    scores = {
        id(layer)
        for attention in view.layers
        for layer in view.rule(attention).score_layers or ()
    }
    # A table that is tied to a read-out is a row of the read-out too, which
    # has other units.
    width: dict[int, float] = {}
    roles = []
    layers = _layers(view, names)
    for layer, count, variance in zip(
        layers, units, sample_variance, strict=True
    ):
        role = "signal"
        if id(layer) in scores:
            role = "scores"
        elif (
            id(layer) in tables and width.setdefault(id(layer), count) == count
        ):
            role = "table"
        elif variance == 0 and layer is not None and _is_zero(view, layer):
            role = "zeros"
        roles.append(role)
    first = len(roles)
    while first and roles[first - 1] == "zeros":
        first -= 1
    count = len(roles) - first
    # A last row alone is a head, or ends a branch.
    if count > 1:
        zeros = [
            layer
            for layer, role in zip(layers, roles, strict=True)
            if role == "zeros"
        ]
        fed = _are_fed(view, zeros, count)
        roles[first:] = ["zeros" if is_fed else "signal" for is_fed in fed]
    return tuple(roles)


def have_positions(
    view: ModelView, names: Sequence[str], units: Sequence[float] | np.ndarray
) -> bool:
    """Whether a row of a profile has more units than its layer has outputs.

    Args:
        view: ModelView. The model.
        names: Sequence of str. As in `row_roles`.
        units: Sequence of numbers. As in `row_roles`.
    """
    for layer, count in zip(_layers(view, names), units, strict=True):
        known = None if layer is None else view.rule(layer).units
        if known is not None and count > known.count:
            return True
    return False


def _layers(
    view: ModelView, names: Sequence[str]
) -> list[keras.layers.Layer | None]:
    """Returns the layer of each row, whose second call has ":2" behind it."""
    layers = {view.name(layer): layer for layer in view.layers}
    return [
        layers.get(name if name in layers else _NUMBER.sub("", name))
        for name in names
    ]


def _are_fed(view: ModelView, zeros: Sequence[Any], count: int) -> list[bool]:
    """Whether each of the last calls of layers of zeros takes more than zeros.

    It does if a path leads to it from an input of the model through no other
    call of such a layer, such as the skip of a residual branch. In a model
    without a graph, this is known of the first one alone.

    Args:
        view: ModelView. The model.
        zeros: Sequence of layers. The layer of each call, in their order.
        count: int. The number of calls that are asked for.
    """
    if not has_graph(view.model):
        return [i == 0 for i in range(count)]
    graph = read_graph(view.model, view)
    ids = {id(layer) for layer in zeros}
    alive = set(range(len(graph.shapes))) - set(graph.producers)
    calls: dict[int, list[bool]] = {}
    for step in graph.steps:
        is_fed = not alive.isdisjoint(step.inputs)
        layer = step.operation
        inner = view.inside(layer) if view.tracks(layer) else []
        is_first = True
        for one in inner:
            if id(one) in ids:
                calls.setdefault(id(one), []).append(is_fed and is_first)
                is_first = False
        while view.rule(layer).output_layer is not None:
            layer = view.rule(layer).output_layer
        if is_fed and id(layer) not in ids:
            alive.update(step.outputs)
    # What an operation calls again in a loop is one call here.
    fed = [bool(calls.get(id(one))) and calls[id(one)].pop(0) for one in zeros]
    return fed[-count:]


def _is_zero(view: ModelView, layer: keras.layers.Layer) -> bool:
    """Whether a layer has a kernel, and all its kernels are zeros."""
    kernels = [
        weight.variable
        for weight in view.weights
        if weight.layer is layer and weight.geometry.is_linear
    ]
    return bool(kernels) and not any(
        bool(keras.ops.any(keras.ops.not_equal(kernel, 0)))
        for kernel in kernels
    )
