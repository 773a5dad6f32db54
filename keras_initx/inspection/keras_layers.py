"""The geometry of the weights of every layer that Keras has."""

from __future__ import annotations

import math

import keras

from keras_initx.inspection.geometry import Geometry, Role, register_geometry

_L = keras.layers
_LORA = Geometry("lora")
_NORM = {
    "gamma": "norm scale",
    "scale": "norm scale",
    "beta": "norm offset",
}


def convolution(
    role: Role,
    shape: tuple[int, ...],
    groups: int = 1,
    strides: int = 1,
) -> Geometry:
    """Of a kernel (window, inputs of a group, outputs)."""
    *window, inputs, outputs = shape
    n = len(window)
    return Geometry(
        role,
        (*window, inputs, groups, outputs // groups),
        batch_axes=(n + 1,),
        input_axes=tuple(range(n + 1)),
        output_axes=(n + 2,),
        window=n,
        fan_out=_share(math.prod(window) * (outputs // groups), strides),
    )


def _share(count: int, strides: int) -> float:
    """Of count terms, the share that meets one position; an int if it is."""
    return count // strides if count % strides == 0 else count / strides


def _strides(layer: keras.layers.Layer) -> int:
    strides = layer.strides
    return math.prod(strides) if isinstance(strides, tuple) else strides


def _depthwise(shape: tuple[int, ...], strides: int) -> Geometry:
    *window, _, multiplier = shape
    n = len(window)
    return Geometry(
        "depthwise kernel",
        shape,
        batch_axes=(n,),
        input_axes=tuple(range(n)),
        output_axes=(n + 1,),
        window=n,
        fan_out=_share(math.prod(window) * multiplier, strides),
    )


@register_geometry(_L.Dense)
def _dense(layer, weight):
    shape = tuple(weight.shape)
    if weight.name == "kernel":
        return Geometry("kernel", shape, (), (0,), (1,))
    return _common(weight)


@register_geometry(_L.Conv1D, _L.Conv2D, _L.Conv3D)
def _conv(layer, weight):
    if weight.name == "kernel":
        return convolution(
            "kernel", tuple(weight.shape), layer.groups, _strides(layer)
        )
    return _common(weight)


@register_geometry(_L.Conv1DTranspose, _L.Conv2DTranspose, _L.Conv3DTranspose)
def _transposed(layer, weight):
    if weight.name != "kernel":
        return _common(weight)
    *window, outputs, inputs = shape = tuple(weight.shape)
    n = len(window)
    size = math.prod(window)
    return Geometry(
        "kernel",
        shape,
        input_axes=(*range(n), n + 1),
        output_axes=(n,),
        window=n,
        fan_in=_share(size * inputs, _strides(layer)),
        fan_out=size * outputs,
    )


@register_geometry(_L.DepthwiseConv1D, _L.DepthwiseConv2D)
def _depthwise_conv(layer, weight):
    if weight.name == "kernel":
        return _depthwise(tuple(weight.shape), _strides(layer))
    return _common(weight)


@register_geometry(_L.SeparableConv1D, _L.SeparableConv2D)
def _separable(layer, weight):
    if weight.name == "depthwise_kernel":
        return _depthwise(tuple(weight.shape), _strides(layer))
    if weight.name == "pointwise_kernel":
        return convolution("pointwise kernel", tuple(weight.shape))
    return _common(weight)


@register_geometry(_L.EinsumDense)
def _einsum(layer, weight):
    if weight.name != "kernel":
        return _common(weight)
    left, result = layer.equation.replace(" ", "").split("->")
    given, letters = left.split(",")
    letters = letters.replace("...", "")
    if not len(letters) == len(set(letters)) == len(weight.shape):
        return None
    groups = {"batch_axes": [], "input_axes": [], "output_axes": []}
    for axis, letter in enumerate(letters):
        if letter not in result:
            groups["input_axes"].append(axis)
        else:
            groups["batch_axes" if letter in given else "output_axes"].append(
                axis
            )
    axes = {name: tuple(axes) for name, axes in groups.items()}
    return Geometry("kernel", tuple(weight.shape), **axes)


@register_geometry(_L.Embedding)
def _embedding(layer, weight):
    shape = tuple(weight.shape)
    if weight.name == "embeddings":
        # Of a one-hot input one term is not zero.
        return Geometry("embedding", shape, (), (0,), (1,), fan_in=1)
    if weight.name == "reverse_embeddings":
        return Geometry("kernel", shape, (), (0,), (1,))
    return _common(weight)


def _gated(layer, weight, gates):
    roles = {"kernel": "kernel", "recurrent_kernel": "recurrent kernel"}
    if weight.name not in roles:
        return _common(weight)
    *window, inputs, outputs = tuple(weight.shape)
    n = len(window)
    units = outputs // gates
    return Geometry(
        roles[weight.name],
        (*window, inputs, gates, units),
        batch_axes=(n + 1,),
        input_axes=tuple(range(n + 1)),
        output_axes=(n + 2,),
        window=n,
        fan_out=math.prod(window) * units,
    )


@register_geometry(_L.SimpleRNNCell)
def _simple_rnn(layer, weight):
    return _gated(layer, weight, 1)


@register_geometry(_L.GRUCell)
def _gru(layer, weight):
    return _gated(layer, weight, 3)


@register_geometry(_L.LSTMCell)
def _lstm(layer, weight):
    return _gated(layer, weight, 4)


@register_geometry(_L.Layer)
def _any_layer(layer, weight):
    # Keras does not export these: the cell of every ConvLSTM, and a layer of
    # ConvNeXt.
    cls = type(layer)
    if cls.__module__.startswith("keras."):
        if cls.__name__ == "ConvLSTMCell":
            return _gated(layer, weight, 4)
        if cls.__name__ == "LayerScale":
            return Geometry("branch scale")
    return None


@register_geometry(_L.RNN, _L.SpectralNormalization)
def _state(layer, weight):
    return None if weight.trainable else Geometry("statistic")


@register_geometry(_L.AdditiveAttention)
def _additive(layer, weight):
    shape = (*weight.shape, 1)
    return Geometry("kernel", shape, (), (0,), (1,))


@register_geometry(_L.Attention)
def _attention(layer, weight):
    return Geometry("attention scale")


@register_geometry(
    _L.BatchNormalization,
    _L.LayerNormalization,
    _L.GroupNormalization,
    _L.RMSNormalization,
    _L.Normalization,
)
def _normalization(layer, weight):
    if weight.name in _NORM:
        return Geometry(_NORM[weight.name])
    return None if weight.trainable else Geometry("statistic")


@register_geometry(_L.PReLU)
def _prelu(layer, weight):
    return Geometry("slope")


@register_geometry(_L.STFTSpectrogram)
def _spectrogram(layer, weight):
    return Geometry("fixed transform")


def _common(weight) -> Geometry | None:
    if weight.name == "bias":
        return Geometry("bias")
    return _LORA if weight.name.startswith("lora_") else None
