"""Layers that move values without changing them, and averages over positions.

With T(i) the point that the output i reads, and an average or another matrix M
over positions,

    E y_i y_j = E h_T(i) h_T(j),    0 where nothing is read, as in a padding
    E y y^T = M (E h h^T) M^T

`Flatten` makes channels of all positions, so that the second moments of two
samples are the mean over positions.

Reference: Novak et al., arXiv:1810.05148, for averages and `Flatten`.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_initx.prediction.moment_tensor import MomentTensor
from keras_initx.prediction.propagation import Propagation
from keras_initx.prediction.refusals import Unpredictable
from keras_initx.prediction.registry import register_propagation

_L = keras.layers


def check_channels_last(layer: Any) -> None:
    """Refuses a layer whose channels are not the last axis."""
    if getattr(layer, "data_format", None) == "channels_first":
        raise Unpredictable("its data_format is channels_first")


def places(x: MomentTensor) -> np.ndarray:
    """Returns the index of each position, in the shape of the positions."""
    return np.arange(x.places).reshape(x.positions)


@register_propagation(_L.Flatten)
def _flatten(steps: Propagation, layer: Any, x: MomentTensor) -> MomentTensor:
    check_channels_last(layer)
    return steps.reshape(x, (x.places * x.width,))


@register_propagation(_L.Reshape)
def _reshape(steps: Propagation, layer: Any, x: MomentTensor) -> MomentTensor:
    return steps.reshape(x, layer.target_shape)


@register_propagation(_L.Permute)
def _permute(steps: Propagation, layer: Any, x: MomentTensor) -> MomentTensor:
    return permuted(steps, x, [0, *layer.dims])


def permuted(
    steps: Propagation, x: MomentTensor, order: list[int]
) -> MomentTensor:
    """Returns a tensor with its axes in another order.

    Raises:
        Unpredictable: If channels become positions.
    """
    lead = 0 if x.samples is None else 1
    rank, channels = len(x.shape), len(x.channels)
    order = [axis % rank for axis in order]
    if order[:lead] != list(range(lead)) or order[rank - channels :] != list(
        range(rank - channels, rank)
    ):
        raise Unpredictable("it moves the axis of channels or of samples")
    moved = places(x).transpose([a - lead for a in order[lead:-channels]])
    return steps.take(x, moved, moved.shape)


@register_propagation(_L.RepeatVector)
def _repeat(steps: Propagation, layer: Any, x: MomentTensor) -> MomentTensor:
    return steps.take(x, np.zeros(layer.n, int), (layer.n,))


@register_propagation(_L.ZeroPadding1D, _L.ZeroPadding2D, _L.ZeroPadding3D)
def _pad(steps: Propagation, layer: Any, x: MomentTensor) -> MomentTensor:
    check_channels_last(layer)
    index = np.pad(places(x), _by_axis(layer.padding, x), constant_values=-1)
    return steps.take(x, index, index.shape)


@register_propagation(_L.Cropping1D, _L.Cropping2D, _L.Cropping3D)
def _crop(steps: Propagation, layer: Any, x: MomentTensor) -> MomentTensor:
    check_channels_last(layer)
    cuts = [
        slice(before, size - after)
        for (before, after), size in zip(
            _by_axis(layer.cropping, x), x.positions, strict=True
        )
    ]
    index = places(x)[tuple(cuts)]
    return steps.take(x, index, index.shape)


def _by_axis(pairs: Any, x: MomentTensor) -> list[tuple[int, int]]:
    if len(x.positions) == 1 and np.ndim(pairs) == 1:
        return [tuple(pairs)]
    return [tuple(pair) for pair in pairs]


@register_propagation(_L.UpSampling1D, _L.UpSampling2D, _L.UpSampling3D)
def _upsample(steps: Propagation, layer: Any, x: MomentTensor) -> MomentTensor:
    check_channels_last(layer)
    if getattr(layer, "interpolation", "nearest") != "nearest":
        raise Unpredictable("it interpolates")
    size = layer.size
    factors = (size,) if isinstance(size, int) else tuple(size)
    index = places(x)
    for axis, factor in enumerate(factors):
        index = np.repeat(index, factor, axis=axis)
    return steps.take(x, index, index.shape)


@register_propagation(_L.TimeDistributed)
def _time_distributed(
    steps: Propagation, layer: Any, x: MomentTensor
) -> MomentTensor:
    """The inner layer, with time steps in the place of samples."""
    if x.samples is None or not x.positions:
        raise Unpredictable("its input has no axis of time")
    time, *inner = x.positions
    folded = x.like(x.signal, samples=x.samples * time, positions=tuple(inner))
    y = layer.layer(folded, training=steps.training)
    return y.like(y.signal, samples=x.samples, positions=(time, *y.positions))


@register_propagation(
    _L.GlobalAveragePooling1D,
    _L.GlobalAveragePooling2D,
    _L.GlobalAveragePooling3D,
)
def _global_average(
    steps: Propagation, layer: Any, x: MomentTensor
) -> MomentTensor:
    check_channels_last(layer)
    kept = (1,) * len(x.positions) if layer.keepdims else ()
    return steps.mix(x, np.full((1, x.places), 1 / x.places), kept)
