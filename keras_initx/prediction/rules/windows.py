"""Convolutions and pooling, position by position.

With C channels, weights of variance v, a window of taps o, and p(o) the
position that the output at p reads by the tap o,

    E u_p u_p' = C v sum_o E h_p(o) h_p'(o)

where a tap outside of the image counts as 0. Different taps have independent
weights, so that only products of equal taps remain. Stride, dilation and
padding only change p(o), and a transposed convolution has the inverse of p(o).
A group of channels has its own C, and a depthwise convolution has C = 1.

Average pooling is a matrix over positions (`rules.shapes`). The largest value
of a window has no closed form, and is computed on channels that are drawn.

Reference: Novak et al., arXiv:1810.05148; Xiao et al., arXiv:1806.05393.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from scipy import sparse

from keras_initx.prediction.moment_tensor import MomentTensor
from keras_initx.prediction.propagation import Propagation
from keras_initx.prediction.refusals import Unpredictable
from keras_initx.prediction.registry import register_propagation
from keras_initx.prediction.rules.dense import check_plain
from keras_initx.prediction.rules.shapes import check_channels_last

_L = keras.layers
MIXTURE = (
    "a mixture of normal distributions is taken to be normal: before a batch "
    "normalization in training, gradients may be 90% too low"
)


def _tuple(value: Any, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


def axis_taps(
    size: int,
    outputs: int,
    window: int,
    stride: int,
    dilation: int,
    padding: str,
) -> np.ndarray:
    """Returns which input each output reads by each tap, -1 for none.

    Args:
        size: int. The number of inputs along the axis.
        outputs: int. The number of outputs.
        window: int. The number of taps.
        stride: int. The stride.
        dilation: int. The distance of taps.
        padding: str. "valid", "same" or "causal".

    Returns:
        Array of ints of shape `(window, outputs)`.
    """
    span = (window - 1) * dilation + 1
    before = 0
    if padding == "same":
        before = max((outputs - 1) * stride + span - size, 0) // 2
    elif padding == "causal":
        before = span - 1
    at = np.arange(outputs) * stride + np.arange(window)[:, None] * dilation
    at -= before
    return np.where((at >= 0) & (at < size), at, -1)


def transposed_axis_taps(
    size: int,
    outputs: int,
    window: int,
    stride: int,
    dilation: int,
    padding: str,
) -> np.ndarray:
    """Returns the same as `axis_taps` for a transposed convolution.

    Input i reaches the outputs i stride + o dilation - p by the taps o, with p
    the padding of the convolution from outputs to inputs.
    """
    span = (window - 1) * dilation + 1
    before = 0
    if padding == "same":
        before = max((size - 1) * stride + span - outputs, 0) // 2
    at = np.arange(outputs) + before - np.arange(window)[:, None] * dilation
    read = at // stride
    inside = (at % stride == 0) & (read >= 0) & (read < size)
    return np.where(inside, read, -1)


def joined_taps(
    axes: Sequence[np.ndarray], sizes: Sequence[int]
) -> list[np.ndarray]:
    """Returns the taps of a window over several axes, each `(outputs,)`."""
    taps = []
    for choice in itertools.product(*(range(len(axis)) for axis in axes)):
        index: np.ndarray = np.zeros((), int)
        inside: np.ndarray = np.ones((), bool)
        for axis, tap, size in zip(axes, choice, sizes, strict=True):
            read = axis[tap]
            index = np.add.outer(index * size, read)
            inside = np.logical_and.outer(inside, read >= 0)
        taps.append(np.where(inside, index, -1).ravel())
    return taps


def _output_positions(layer: Any, x: MomentTensor) -> tuple[int, ...]:
    return tuple(layer.compute_output_shape(tuple(x.shape))[1:-1])


def taps_of(
    layer: Any,
    x: MomentTensor,
    positions: tuple[int, ...],
    along: Any = axis_taps,
) -> list[np.ndarray]:
    """Returns the taps of a convolution, with the positions of its output."""
    rank = len(x.positions)
    settings = zip(
        x.positions,
        positions,
        _tuple(layer.kernel_size, rank),
        _tuple(layer.strides, rank),
        _tuple(layer.dilation_rate, rank),
        strict=True,
    )
    axes = [along(*each, layer.padding) for each in settings]
    return joined_taps(axes, x.positions)


@register_propagation(_L.Conv1D, _L.Conv2D, _L.Conv3D)
def _convolution(
    steps: Propagation, layer: Any, x: MomentTensor
) -> MomentTensor:
    check_plain(layer)
    check_channels_last(layer)
    positions = _output_positions(layer, x)
    u = steps.linear(
        x,
        layer.kernel,
        layer.bias,
        outputs=layer.filters,
        taps=taps_of(layer, x, positions),
        positions=positions,
        inputs=x.width // layer.groups,
        fan_out=layer.filters // layer.groups,
    )
    return steps.activate(layer, u)


@register_propagation(
    _L.Conv1DTranspose, _L.Conv2DTranspose, _L.Conv3DTranspose
)
def _transposed_convolution(
    steps: Propagation, layer: Any, x: MomentTensor
) -> MomentTensor:
    check_plain(layer)
    check_channels_last(layer)
    if layer.output_padding is not None:
        raise Unpredictable("it has an output_padding")
    positions = _output_positions(layer, x)
    u = steps.linear(
        x,
        layer.kernel,
        layer.bias,
        outputs=layer.filters,
        taps=taps_of(layer, x, positions, transposed_axis_taps),
        positions=positions,
    )
    return steps.activate(layer, u)


@register_propagation(_L.DepthwiseConv1D, _L.DepthwiseConv2D)
def _depthwise_convolution(
    steps: Propagation, layer: Any, x: MomentTensor
) -> MomentTensor:
    """A convolution of each channel by itself.

    An output is a sum of few terms, and so a mixture of normal distributions.
    In training, where a normalization makes the scale of each channel the same,
    the mixture is drawn. Else it is taken to be normal.
    """
    check_plain(layer)
    check_channels_last(layer)
    positions = _output_positions(layer, x)
    taps = taps_of(layer, x, positions)
    one_each = layer.depth_multiplier == 1
    if (
        steps.training
        and one_each
        and not steps.is_process(layer.kernel, "depthwise")
    ):
        u = steps.weigh_channels(
            x,
            layer.kernel,
            layer.bias,
            name="depthwise",
            taps=taps,
            positions=positions,
        )
    else:
        u = steps.linear(
            x,
            layer.kernel,
            layer.bias,
            outputs=x.width * layer.depth_multiplier,
            taps=taps,
            positions=positions,
            inputs=1,
            fan_out=layer.depth_multiplier,
            name="depthwise",
            reasons=(MIXTURE,),
        )
    return steps.activate(layer, u)


@register_propagation(_L.SeparableConv1D, _L.SeparableConv2D)
def _separable_convolution(
    steps: Propagation, layer: Any, x: MomentTensor
) -> MomentTensor:
    check_plain(layer)
    check_channels_last(layer)
    positions = _output_positions(layer, x)
    # The sum over channels that follows makes the mixture normal.
    inner = steps.linear(
        x,
        layer.depthwise_kernel,
        outputs=x.width * layer.depth_multiplier,
        taps=taps_of(layer, x, positions),
        positions=positions,
        inputs=1,
        fan_out=layer.depth_multiplier,
        name="depthwise",
    )
    u = steps.linear(
        inner,
        layer.pointwise_kernel,
        layer.bias,
        outputs=layer.filters,
        name="pointwise",
    )
    return steps.activate(layer, u)


def _pool_taps(
    layer: Any, x: MomentTensor
) -> tuple[list[np.ndarray], tuple[int, ...]]:
    check_channels_last(layer)
    positions = _output_positions(layer, x)
    rank = len(x.positions)
    settings = zip(
        x.positions,
        positions,
        _tuple(layer.pool_size, rank),
        _tuple(layer.strides, rank),
        strict=True,
    )
    axes = [axis_taps(*each, 1, layer.padding) for each in settings]
    return joined_taps(axes, x.positions), positions


@register_propagation(
    _L.AveragePooling1D, _L.AveragePooling2D, _L.AveragePooling3D
)
def _average_pooling(
    steps: Propagation, layer: Any, x: MomentTensor
) -> MomentTensor:
    """The mean over the part of a window that is inside."""
    taps, positions = _pool_taps(layer, x)
    read = np.array(taps)
    _, rows = np.nonzero(read >= 0)
    counts = (read >= 0).sum(axis=0)
    entries = (1 / counts)[rows], (rows, read[read >= 0])
    shape = (math.prod(positions), x.places)
    return steps.mix(x, sparse.csr_array(entries, shape), positions)


@register_propagation(_L.MaxPooling1D, _L.MaxPooling2D, _L.MaxPooling3D)
def _max_pooling(
    steps: Propagation, layer: Any, x: MomentTensor
) -> MomentTensor:
    taps, positions = _pool_taps(layer, x)
    return steps.largest(x, taps, positions)


@register_propagation(
    _L.GlobalMaxPooling1D, _L.GlobalMaxPooling2D, _L.GlobalMaxPooling3D
)
def _global_max(
    steps: Propagation, layer: Any, x: MomentTensor
) -> MomentTensor:
    check_channels_last(layer)
    taps = [np.array([place]) for place in range(x.places)]
    kept = (1,) * len(x.positions) if layer.keepdims else ()
    return steps.largest(x, taps, kept)
