"""Normalizations.

Over the channels of a wide layer the mean m and the mean square q of a sample
are not random, so that

    LayerNormalization   (h - m) / sqrt(q - m^2 + eps)
    RMSNormalization     h / sqrt(q + eps)
    UnitNormalization    h / sqrt(channels q)

are linear maps of h, and a gradient is divided by the same number. The
statistics of a channel over a batch stay random, see
`WideEngine.normalize_channels`. Outside of training, batch normalization takes
its moving statistics,

    BatchNormalization   gamma (h - mean) / sqrt(variance + eps) + beta

Reference: derived here. Batch normalization: Yang et al., arXiv:1902.08129.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from keras_initx.prediction.moment_tensor import MomentTensor
from keras_initx.prediction.propagation import Propagation, numbers
from keras_initx.prediction.refusals import Unpredictable
from keras_initx.prediction.registry import register_name, register_propagation

_L = keras.layers


def _axes(layer: Any, x: MomentTensor) -> tuple[int, ...]:
    axis = layer.axis
    axes = axis if isinstance(axis, list | tuple) else [axis]
    return tuple(sorted(a % len(x.shape) for a in axes))


def _over_positions(layer: Any, x: MomentTensor) -> bool:
    """Whether a layer normalizes over positions too.

    Raises:
        Unpredictable: If it normalizes over something else.
    """
    rank = len(x.shape)
    channels = tuple(range(rank - len(x.channels), rank))
    axes = _axes(layer, x)
    if axes == channels:
        return False
    if axes == tuple(range(1, rank)) and x.samples is not None:
        return True
    raise Unpredictable(
        f"it normalizes over the axes {axes}, where rules are for the channels "
        "with all positions or none"
    )


def _scale_and_shift(
    steps: Propagation, layer: Any, x: MomentTensor
) -> MomentTensor:
    for name in ("gamma", "scale"):
        weight = getattr(layer, name, None)
        if isinstance(weight, keras.Variable):
            x = steps.scale_channels(x, weight, layer, name)
    beta = getattr(layer, "beta", None)
    if beta is not None:
        x = steps.add_bias(x, beta, layer, "beta")
    return x


@register_propagation(_L.LayerNormalization)
def _layer_normalization(
    steps: Propagation, layer: Any, x: MomentTensor
) -> MomentTensor:
    center = not getattr(layer, "rms_scaling", False)
    over = _over_positions(layer, x)
    y = steps.normalize(x, layer.epsilon, center=center, over_positions=over)
    return _scale_and_shift(steps, layer, y)


@register_propagation(_L.RMSNormalization)
def _rms_normalization(
    steps: Propagation, layer: Any, x: MomentTensor
) -> MomentTensor:
    over = _over_positions(layer, x)
    y = steps.normalize(x, layer.epsilon, center=False, over_positions=over)
    return _scale_and_shift(steps, layer, y)


@register_propagation(_L.UnitNormalization)
def _unit_normalization(
    steps: Propagation, layer: Any, x: MomentTensor
) -> MomentTensor:
    over = _over_positions(layer, x)
    # Keras divides by sqrt(max(sum of squares, 1e-12)).
    y = steps.normalize(x, 0.0, center=False, over_positions=over)
    count = x.width * (x.places if over else 1)
    return steps.add([y], [1 / math.sqrt(count)])


@register_propagation(_L.GroupNormalization)
def _group_normalization(
    steps: Propagation, layer: Any, x: MomentTensor
) -> MomentTensor:
    """Statistics of wide groups, which are not random, are those of all."""
    if _axes(layer, x) != (len(x.shape) - 1,):
        raise Unpredictable("its channels are not the last axis")
    if x.width // layer.groups < 2 and x.places < 8:
        raise Unpredictable("its groups hold too few values")
    y = steps.normalize(x, layer.epsilon, center=True, over_positions=True)
    return _scale_and_shift(steps, layer, y)


@register_propagation(_L.BatchNormalization)
def _batch_normalization(
    steps: Propagation, layer: Any, x: MomentTensor
) -> MomentTensor:
    if _axes(layer, x) != (len(x.shape) - 1,):
        raise Unpredictable("its channels are not the last axis")
    if steps.training and layer.trainable:
        y = steps.normalize_channels(x, layer.epsilon)
        return _scale_and_shift(steps, layer, y)
    # gamma (h - mean) / sqrt(variance + eps) + beta, by the moving statistics
    mean, variance = (
        numbers(w).astype(float)
        for w in (layer.moving_mean, layer.moving_variance)
    )
    y = x
    if np.any(mean):
        y = steps.add([y, mean], [1.0, -1.0])
    scale = 1 / np.sqrt(variance + layer.epsilon)
    y = steps.multiply(y, scale)
    return _scale_and_shift(steps, layer, y)


@register_propagation(_L.Rescaling)
def _rescaling(steps: Propagation, layer: Any, x: MomentTensor) -> MomentTensor:
    y = steps.multiply(x, np.asarray(layer.scale, dtype=float))
    return steps.add([y, np.asarray(layer.offset, dtype=float)])


@register_propagation(_L.Normalization)
def _normalization(
    steps: Propagation, layer: Any, x: MomentTensor
) -> MomentTensor:
    mean, variance = (
        numbers(w).astype(float) for w in (layer.mean, layer.variance)
    )
    scale = 1 / np.maximum(np.sqrt(variance), 1e-7)
    if layer.invert:
        raise Unpredictable("it undoes a normalization")
    y = steps.add([x, mean], [1.0, -1.0])
    return steps.multiply(y, scale)


@register_name("LayerScale")
def _layer_scale(
    steps: Propagation, layer: Any, x: MomentTensor
) -> MomentTensor:
    return steps.scale_channels(x, layer.gamma, layer)


@register_name("StochasticDepth")
def _stochastic_depth(
    steps: Propagation, layer: Any, x: MomentTensor
) -> MomentTensor:
    if steps.training and layer.drop_path_rate:
        raise Unpredictable("it drops whole branches in training mode")
    return x
