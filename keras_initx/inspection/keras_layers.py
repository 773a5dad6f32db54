"""The rules of the layers that Keras has."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import keras

from keras_initx.inspection.geometry import Geometry, Role
from keras_initx.inspection.layer_rule import (
    LayerRule,
    LinearUnits,
    register_layer,
)

_L = keras.layers
_NORM: dict[str, Role] = {
    "gamma": "norm scale",
    "scale": "norm scale",
    "beta": "norm offset",
}
Shape = tuple[int, ...]
Weights = dict[str, Geometry]


@register_layer(_L.Dense)
def _dense(layer: Any) -> LayerRule:
    weights = _bias_and_lora(layer)
    for shape in _shapes(layer, "kernel"):
        weights["kernel"] = Geometry("kernel", shape, (), (0,), (1,))
    return LayerRule(weights, _units(layer, "kernel", (1,), (-1,)))


@register_layer(_L.Conv1D, _L.Conv2D, _L.Conv3D)
def _convolution(layer: Any) -> LayerRule:
    weights = _bias_and_lora(layer)
    for shape in _shapes(layer, "kernel"):
        weights["kernel"] = _grouped(
            "kernel", shape, layer.groups, _strides(layer)
        )
    return LayerRule(weights, _units(layer, "kernel", (-1,), _channels(layer)))


@register_layer(_L.Conv1DTranspose, _L.Conv2DTranspose, _L.Conv3DTranspose)
def _transposed_convolution(layer: Any) -> LayerRule:
    weights = _bias_and_lora(layer)
    for shape in _shapes(layer, "kernel"):
        *window, outputs, inputs = shape
        n, size = len(window), math.prod(window)
        weights["kernel"] = Geometry(
            "kernel",
            shape,
            input_axes=(*range(n), n + 1),
            output_axes=(n,),
            window=n,
            fan_in=_share(size * inputs, _strides(layer)),
            fan_out=size * outputs,
        )
    return LayerRule(weights, _units(layer, "kernel", (-2,), _channels(layer)))


@register_layer(_L.DepthwiseConv1D, _L.DepthwiseConv2D)
def _depthwise_convolution(layer: Any) -> LayerRule:
    weights = _bias_and_lora(layer)
    for shape in _shapes(layer, "kernel"):
        weights["kernel"] = _depthwise(shape, _strides(layer))
    return LayerRule(
        weights, _units(layer, "kernel", (-2, -1), _channels(layer))
    )


@register_layer(_L.SeparableConv1D, _L.SeparableConv2D)
def _separable_convolution(layer: Any) -> LayerRule:
    weights = _bias_and_lora(layer)
    for shape in _shapes(layer, "depthwise_kernel"):
        weights["depthwise_kernel"] = _depthwise(shape, _strides(layer))
    for shape in _shapes(layer, "pointwise_kernel"):
        weights["pointwise_kernel"] = _grouped("pointwise kernel", shape)
    units = _units(layer, "pointwise_kernel", (-1,), _channels(layer))
    return LayerRule(weights, units)


@register_layer(_L.EinsumDense)
def _einsum_dense(layer: Any) -> LayerRule:
    weights = _bias_and_lora(layer)
    equation = _parsed(layer.equation)
    kernel, outputs = equation.kernel, equation.outputs
    if len(set(kernel)) < len(kernel):
        return LayerRule(weights)
    for shape in _shapes(layer, "kernel"):
        if len(shape) == len(kernel):
            weights["kernel"] = equation.geometry(shape)
    letters = [letter for letter in outputs if letter in kernel]
    units = _units(
        layer,
        "kernel",
        tuple(kernel.index(letter) for letter in letters),
        tuple(equation.first + outputs.index(letter) for letter in letters),
        bias_per_unit=set(layer.bias_axes or "") == set(letters),
    )
    return LayerRule(weights, units)


@register_layer(_L.Embedding)
def _embedding(layer: Any) -> LayerRule:
    weights = _bias_and_lora(layer)
    for shape in _shapes(layer, "embeddings"):
        # A one-hot input has one term that is not zero.
        weights["embeddings"] = Geometry(
            "embedding", shape, (), (0,), (1,), fan_in=1
        )
    for shape in _shapes(layer, "reverse_embeddings"):
        weights["reverse_embeddings"] = Geometry(
            "kernel", shape, (), (0,), (1,)
        )
    return LayerRule(weights, skip_calibration="embedding")


@register_layer(_L.SimpleRNNCell)
def _simple_rnn_cell(layer: Any) -> LayerRule:
    return _cell(layer, gates=1)


@register_layer(_L.GRUCell)
def _gru_cell(layer: Any) -> LayerRule:
    return _cell(layer, gates=3)


@register_layer(_L.LSTMCell)
def _lstm_cell(layer: Any) -> LayerRule:
    return _cell(layer, gates=4)


@register_layer(_L.Layer)
def _layer_that_keras_does_not_export(layer: Any) -> LayerRule | None:
    """The cell of every ConvLSTM, and a layer of ConvNeXt."""
    cls = type(layer)
    if cls.__module__.startswith("keras."):
        if cls.__name__ == "ConvLSTMCell":
            return _cell(layer, gates=4)
        if cls.__name__ == "LayerScale":
            start = keras.initializers.Constant(layer.init_values)
            return _all_weights(layer, "branch scale", start)
    return None


@register_layer(_L.RNN)
def _rnn(layer: Any) -> LayerRule:
    return LayerRule(_statistics(layer), skip_calibration="recurrent")


@register_layer(_L.Bidirectional)
def _bidirectional(layer: Any) -> LayerRule:
    return LayerRule(skip_calibration="recurrent")


@register_layer(_L.TimeDistributed)
def _time_distributed(layer: Any) -> LayerRule:
    return LayerRule(
        skip_calibration="runs once a time step", output_layer=layer.layer
    )


@register_layer(_L.SpectralNormalization)
def _spectral_normalization(layer: Any) -> LayerRule:
    return LayerRule(
        _statistics(layer), skip_calibration="scaled by its wrapper"
    )


@register_layer(_L.MultiHeadAttention, _L.GroupQueryAttention)
def _attention_with_projections(layer: Any) -> LayerRule:
    # The attributes that hold them are public in one of the two classes only.
    inner = {
        one.name: one
        for one in vars(layer).values()
        if isinstance(one, keras.layers.Layer)
    }
    return LayerRule(
        skip_calibration="attention",
        output_layer=inner.get("attention_output"),
        score_layers=tuple(
            inner[name] for name in ("query", "key") if name in inner
        ),
    )


@register_layer(_L.AdditiveAttention)
def _additive_attention(layer: Any) -> LayerRule:
    # Its one kernel acts on a sum of query and key, which is no input.
    return LayerRule(
        {
            weight.name: Geometry("kernel", (*weight.shape, 1), (), (0,), (1,))
            for weight in layer.weights
        },
        measured=False,
        skip_calibration="attention",
    )


@register_layer(_L.Attention)
def _attention(layer: Any) -> LayerRule:
    return _all_weights(layer, "attention scale")


@register_layer(
    _L.BatchNormalization,
    _L.LayerNormalization,
    _L.GroupNormalization,
    _L.RMSNormalization,
)
def _normalization(layer: Any) -> LayerRule:
    roles = {
        weight.name: Geometry(_NORM[weight.name])
        for weight in layer.weights
        if weight.name in _NORM
    }
    return LayerRule(_statistics(layer) | roles, normalizes=True)


@register_layer(_L.UnitNormalization)
def _unit_normalization(layer: Any) -> LayerRule:
    return LayerRule(normalizes=True)


@register_layer(_L.Normalization)
def _normalization_of_features(layer: Any) -> LayerRule:
    return LayerRule(_statistics(layer))


@register_layer(_L.Activation, _L.ReLU, _L.LeakyReLU, _L.ELU, _L.Softmax)
def _activation(layer: Any) -> LayerRule:
    return LayerRule(activates=True)


@register_layer(_L.PReLU)
def _prelu(layer: Any) -> LayerRule:
    slopes = {weight.name: Geometry("slope") for weight in layer.weights}
    return LayerRule(slopes, activates=True)


@register_layer(_L.STFTSpectrogram)
def _spectrogram(layer: Any) -> LayerRule:
    return _all_weights(layer, "fixed transform")


class _Equation(NamedTuple):
    """The letters of `einsum(inputs, kernel) -> outputs`, without ellipses.

    Attributes:
        inputs: The letters of the layer's input.
        kernel: Those of the kernel.
        outputs: Those of the layer's output.
        first: The axis of the first letter of `outputs`, counted from the end
            of the output where no ellipsis stands in between.
    """

    inputs: str
    kernel: str
    outputs: str
    first: int

    def geometry(self, shape: Shape) -> Geometry:
        """The geometry of the kernel."""
        batch: list[int] = []
        summed: list[int] = []
        made: list[int] = []
        for axis, letter in enumerate(self.kernel):
            if letter not in self.outputs:
                summed.append(axis)
            elif letter in self.inputs:
                batch.append(axis)
            else:
                made.append(axis)
        return Geometry(
            "kernel", shape, tuple(batch), tuple(summed), tuple(made)
        )


def _parsed(equation: str) -> _Equation:
    left, outputs = equation.replace(" ", "").split("->")
    inputs, kernel = left.split(",")
    letters = outputs.replace("...", "")
    return _Equation(
        inputs.replace("...", ""),
        kernel.replace("...", ""),
        letters,
        0 if outputs.endswith("...") else -len(letters),
    )


def _grouped(
    role: Role, shape: Shape, groups: int = 1, strides: int = 1
) -> Geometry:
    """The geometry of a kernel (*window, inputs of a group, outputs)."""
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


def _depthwise(shape: Shape, strides: int) -> Geometry:
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


def _cell(layer: Any, gates: int) -> LayerRule:
    """The rule of a recurrent cell, whose kernels hold a map for each gate."""
    weights = _bias_and_lora(layer)
    if getattr(layer, "unit_forget_bias", False):
        for (size,) in _shapes(layer, "bias"):
            # The gates of an LSTM: input, forget, candidate, output.
            units = size // gates
            weights["bias"] = Geometry("bias", ones=(units, 2 * units))
    roles: dict[str, Role] = {
        "kernel": "kernel",
        "recurrent_kernel": "recurrent kernel",
    }
    for name, role in roles.items():
        for shape in _shapes(layer, name):
            *window, inputs, outputs = shape
            n, units = len(window), outputs // gates
            weights[name] = Geometry(
                role,
                (*window, inputs, gates, units),
                batch_axes=(n + 1,),
                input_axes=tuple(range(n + 1)),
                output_axes=(n + 2,),
                window=n,
                fan_out=math.prod(window) * units,
            )
    return LayerRule(weights, skip_calibration="recurrent")


def _units(
    layer: Any,
    name: str,
    kernel_axes: Shape,
    signal_axes: Shape,
    bias_per_unit: bool = True,
) -> LinearUnits | None:
    """The units of a layer that is linear in the kernel of that name.

    With a LoRA adapter, or quantized, a layer computes its kernel from several
    weights, in none of which alone it is linear.
    """
    if getattr(layer, "lora_enabled", False) or getattr(
        layer, "quantization_mode", None
    ):
        return None
    kernel = getattr(layer, name, None)
    if not isinstance(kernel, keras.Variable):
        return None
    bias = layer.bias
    rank = len(kernel.shape)
    axes = tuple(axis % rank for axis in kernel_axes)
    count = math.prod(kernel.shape[axis] for axis in axes)
    fits = bias is None or (bias_per_unit and math.prod(bias.shape) == count)
    return LinearUnits(kernel, axes, signal_axes, bias, fits)


def _channels(layer: Any) -> Shape:
    return (1,) if layer.data_format == "channels_first" else (-1,)


def _share(count: int, strides: int) -> float:
    """The share of count terms that meets one position; an int if it is one."""
    return count // strides if count % strides == 0 else count / strides


def _strides(layer: Any) -> int:
    strides = layer.strides
    return math.prod(strides) if isinstance(strides, tuple) else strides


def _shapes(layer: Any, name: str) -> list[Shape]:
    """The shape of the weight of that name, if the layer has it."""
    return [tuple(w.shape) for w in layer.weights if w.name == name][:1]


def _bias_and_lora(layer: Any) -> Weights:
    weights = {}
    for weight in layer.weights:
        if weight.name == "bias":
            weights["bias"] = Geometry("bias")
        elif weight.name.startswith("lora_"):
            weights[weight.name] = Geometry("lora")
    return weights


def _statistics(layer: Any) -> Weights:
    return {
        weight.name: Geometry("statistic")
        for weight in layer.weights
        if not weight.trainable
    }


def _all_weights(layer: Any, role: Role, initializer: Any = None) -> LayerRule:
    geometry = Geometry(role, initializer=initializer)
    return LayerRule({weight.name: geometry for weight in layer.weights})
