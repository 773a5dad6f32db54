"""Networks of sines."""

from __future__ import annotations

import math
from typing import Any

import keras

from keras_initx.layers import Sine
from keras_initx.validation import check_choice, check_int, check_real, refuse

_I = keras.initializers


def SinusoidalNetwork(
    units: int,
    hidden_layers: int,
    outputs: int = 1,
    frequency: float = 30.0,
    input_shape: tuple[int | None, ...] = (2,),
    initialization: str = "simple",
    name: str = "sinusoidal_network",
) -> keras.Model:
    """Returns a network of sines, which learns images, sounds and shapes.

        sin(W x + b), then `hidden_layers` times sin(W x + b), then W x + b

    The frequency is in the FIRST kernel, and all activations are plain sines:

        initialization    "simple"                 "siren"
        first kernel      N(0, frequency^2)        U(-w, w), w = frequency / n
        first bias        U(-pi, pi)               U(-v, v)
        hidden kernels    N(0, 2 / n)              U(-u, u), u = sqrt(6 / n)
        hidden biases     0                        U(-v, v)
        last kernel       N(0, 2 / n)              U(-u, u) / frequency

    where n is the fan-in and v = frequency / sqrt(n). All kernels of hidden
    layers have the variance 2 / n. With "siren" the weights are those of the
    authors' code, where a factor of 30 multiplies kernel and bias; the
    bandwidth then depends on the number of inputs, frequency / (n sqrt(3)) in
    the first layer, and the biases make the start depend on the width. In
    their code a weight is held before that factor, and Adam moves it 30 times
    as far: their rate of 1e-4 is 3e-3 here, for all layers but the last.

    The network is at the start a random function of bandwidth
    `theory.sine_bandwidth(frequency, hidden_layers)`, with "simple". Choose the
    frequency from the data, whose inputs are scaled to [-1, 1]:

        bandwidth = 0.7 * rms_frequency(x, y)
        frequency = sine_frequency(bandwidth, hidden_layers, inputs)   "siren"
        frequency = sine_frequency(bandwidth, hidden_layers)           "simple"

    with these functions of `theory`. On images, "siren" reached a lower error
    than "simple" between the samples.

    Args:
        units: int. The width of the layers of sines, at least 1.
        hidden_layers: int. The number of layers of sines behind the first one,
            at least 0.
        outputs: int. The number of outputs, at least 1. Defaults to 1.
        frequency: float. The frequency, > 0. Defaults to 30.
        input_shape: tuple. The shape of an input, whose last entry is the
            number of coordinates. Defaults to (2,).
        initialization: str. "simple" or "siren". Defaults to "simple".
        name: str. The name of the model. Defaults to "sinusoidal_network".

    Returns:
        A functional `keras.Model` of `Dense` layers named "first", "hidden1",
        ..., "last", and `layers.Sine`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> import keras_initx as kx
    >>> model = SinusoidalNetwork(64, 2, outputs=3, frequency=10.0)
    >>> [layer.name for layer in model.layers if layer.weights]
    ['first', 'hidden1', 'hidden2', 'last']
    >>> round(kx.theory.sine_bandwidth(10.0, 2), 2)
    12.75

    Reference: Sitzmann et al., NeurIPS (2020), arXiv:2006.09661, as read from
    the authors' code, for "siren"; Belbute-Peres & Kolter (2022),
    arXiv:2211.14503, for "simple", with a uniform phase and without biases in
    hidden layers, as chosen here. The bandwidth is derived here.
    """
    units = check_int("units", units, 1)
    hidden_layers = check_int("hidden_layers", hidden_layers, 0)
    outputs = check_int("outputs", outputs, 1)
    frequency = check_real("frequency", frequency, "(0, inf)")
    siren = check_choice("initialization", initialization, ("simple", "siren"))
    siren = siren == "siren"
    shape = tuple(input_shape) if isinstance(input_shape, tuple | list) else ()
    if not shape or shape[-1] is None:
        refuse(
            "input_shape must end in the number of coordinates.",
            input_shape=input_shape,
        )
    coordinates = check_int("the last entry of input_shape", shape[-1], 1)

    def dense(size: int, fan_in: int, kernel: Any, name: str) -> Any:
        bias: Any = "zeros"
        if siren:
            bias = _uniform(frequency / math.sqrt(fan_in))
        elif name == "first":
            bias = _uniform(math.pi)
        if siren and name == "last":
            bias = _uniform(1 / math.sqrt(fan_in))
        return keras.layers.Dense(
            size, kernel_initializer=kernel, bias_initializer=bias, name=name
        )

    def scaled(scale: float) -> Any:
        distribution = "uniform" if siren else "untruncated_normal"
        return _I.VarianceScaling(scale, "fan_in", distribution)

    inputs = keras.Input(shape, name="coordinates")
    first = (
        _uniform(frequency / coordinates)
        if siren
        else _I.RandomNormal(0, frequency)
    )
    x = dense(units, coordinates, first, "first")(inputs)
    x = Sine(name="first_sine")(x)
    for i in range(hidden_layers):
        hidden = f"hidden{i + 1}"
        x = dense(units, units, scaled(2.0), hidden)(x)
        x = Sine(name=f"{hidden}_sine")(x)
    last = scaled(2.0 / frequency**2 if siren else 2.0)
    x = dense(outputs, units, last, "last")(x)
    return keras.Model(inputs, x, name=name)


def _uniform(limit: float) -> keras.Initializer:
    return _I.RandomUniform(-limit, limit)
