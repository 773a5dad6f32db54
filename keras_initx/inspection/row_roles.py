"""What the rows of a profile are: signals, tables, scores, heads of zeros."""

from __future__ import annotations

import re
from collections.abc import Sequence

import keras
import numpy as np

from keras_initx.inspection.traversal import ModelView

_NUMBER = re.compile(r":\d+$")


def row_roles(
    view: ModelView,
    names: Sequence[str],
    units: Sequence[float] | np.ndarray,
    sample_variance: np.ndarray,
) -> tuple[str, ...]:
    """Returns what each row of a profile is, as `VarianceProfile` names it.

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
    for layer, count, variance in zip(
        _layers(view, names), units, sample_variance, strict=True
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
        layers.get(name) or layers.get(_NUMBER.sub("", name)) for name in names
    ]


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
