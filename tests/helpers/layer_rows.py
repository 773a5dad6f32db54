"""A row for each layer: how it is made, and what it does.

The tests of `tests/layers`, `tests/test_static.py` and `tests/distribute` run
for each row.
"""

import math

import keras
import numpy as np

from keras_initx.layers import (
    BranchScale,
    HardTanh,
    Residual,
    ScalarBias,
    ShapedActivation,
    ShapedReLU,
    Sine,
    TriangleWave,
)


def twice():
    # Keras's Rescaling needs TensorFlow on every backend.
    return BranchScale(constant=2.0)


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.layers.Layer):
    """A branch that builds its layers in `build`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.dense = keras.layers.Dense(4, kernel_initializer="ones")

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.built = True

    def call(self, x):
        return self.dense(x)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 4)


def ones(units=4):
    return keras.layers.Dense(units, kernel_initializer="ones")


def total(x):
    """Returns the output of the layer `ones`."""
    return np.broadcast_to(x.sum(-1, keepdims=True), x.shape)


def shaped(x, root, plus, minus):
    return np.where(x > 0, (1 + plus / root) * x, (1 + minus / root) * x)


def ramp_of_one_wave(x):
    """Returns x + W_0 / 4, with the peak at 1/2."""
    return x + np.minimum(2 * x, 2 - 2 * x) / 4


def v_of_two_waves(x):
    """Returns 1 - W_0 - W_1 / 4, with both peaks at 1/2."""
    w = np.minimum(1 + x, 1 - x)
    return 1 - w - np.minimum(2 * w, 2 - 2 * w) / 4


# name: (how to make it, what it does to an array of 4 channels)
ROWS = {
    "depth": (lambda: BranchScale(depth=100), lambda x: 0.1 * x),
    "smooth": (lambda: BranchScale(depth=10, exponent=1.0), lambda x: 0.1 * x),
    "index": (
        lambda: BranchScale(index=3),
        lambda x: x / (math.sqrt(3) * math.log(4)),
    ),
    "constant": (lambda: BranchScale(constant=-0.5), lambda x: -0.5 * x),
    "skip-init": (lambda: BranchScale(initial_value=0.0), lambda x: 0 * x),
    "layer-scale": (
        lambda: BranchScale(initial_value=0.25, per_channel=True),
        lambda x: 0.25 * x,
    ),
    "residual": (lambda: Residual(twice()), lambda x: 3 * x),
    "residual-scaled": (
        lambda: Residual(ones(), scale=0.5),
        lambda x: x + 0.5 * total(x),
    ),
    "residual-list": (
        lambda: Residual([ones(), twice()], BranchScale(depth=4)),
        lambda x: x + total(x),
    ),
    "residual-subclassed": (
        lambda: Residual(Subclassed(), BranchScale(initial_value=0.5)),
        lambda x: x + 0.5 * total(x),
    ),
    "residual-deepnorm": (
        lambda: Residual(ones(), skip_weight=3.0),
        lambda x: 3 * x + total(x),
    ),
    "residual-nested": (
        lambda: Residual(Residual(ones(), scale=0.5), scale=0.5),
        lambda x: 1.5 * x + 0.25 * total(x),
    ),
    "residual-projected": (
        lambda: Residual(ones(), projection=ones()),
        lambda x: 2 * total(x),
    ),
    "scalar-bias": (lambda: ScalarBias(-0.5), lambda x: x - 0.5),
    "shaped-relu": (
        lambda: ShapedReLU(width=4, c_plus=1.0, c_minus=-0.5),
        lambda x: shaped(x, 2, 1.0, -0.5),
    ),
    "shaped-relu-depth": (
        lambda: ShapedReLU(depth=16),
        lambda x: shaped(x, 4, 0.0, -1.0),
    ),
    "shaped-tanh": (
        lambda: ShapedActivation("tanh", width=4, a=0.5),
        np.tanh,
    ),
    "shaped-tanh-depth": (
        lambda: ShapedActivation(keras.ops.tanh, depth=9),
        lambda x: 3 * np.tanh(x / 3),
    ),
    "hard-tanh": (lambda: HardTanh(0.5), lambda x: np.clip(x, -0.5, 0.5)),
    "sine": (lambda: Sine(3.0), lambda x: np.sin(3 * x)),
    "triangle-v": (
        lambda: TriangleWave(2, False, peaks=[0.5] * 3, form="v"),
        v_of_two_waves,
    ),
    "triangle-v-free": (
        lambda: TriangleWave(2, False, True, [[0.5] * 3] * 4, form="v"),
        v_of_two_waves,
    ),
    "triangle-ramp": (
        lambda: TriangleWave(1, peaks=[0.5] * 2),
        lambda x: ramp_of_one_wave(np.maximum(x, 0)),
    ),
}
