"""Paired activations, fixed points and the Jacobian at infinite width."""

import keras
import numpy as np
import pytest
from scipy import special

from keras_initx import theory


@pytest.mark.parametrize(
    ("activation", "parameters", "slope"),
    [
        ("relu", {}, 1),
        ("linear", {}, 2),
        ("leaky_relu", {"negative_slope": 0.25}, 1.25),
        ("leaky_relu", {"negative_slope": -3.0}, -2),
        ("gelu", {}, 1),
        ("gelu", {"approximate": True}, 1),
        ("swish", {}, 1),
        ("hard_swish", {}, 1),
        ("softplus", {}, 1),
        ("squareplus", {"b": 0.3}, 1),
        ("sparse_plus", {}, 1),
        ("log_sigmoid", {}, 1),
        (keras.activations.leaky_relu, {}, 1.2),
        (keras.layers.ReLU(negative_slope=0.5), {}, 1.5),
        # An even function may be added.
        (lambda z: 3 * z + np.cosh(z / 4), {}, 6),
        (lambda z: -np.maximum(z, 0) + z**2, {}, -1),
        (lambda z: z * special.expit(5 * z), {}, 1),
    ],
)
def test_paired_scale(activation, parameters, slope):
    scale = theory.paired_scale(activation, **parameters)
    assert scale == pytest.approx(1 / slope**2, rel=1e-11)


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [
        *[
            (name, {})
            for name in [
                "relu6",
                "elu",
                "celu",
                "selu",
                "mish",
                "exponential",
                "sigmoid",
                "hard_sigmoid",
                "sparse_sigmoid",
                "tanh",
                "hard_tanh",
                "erf",
                "softsign",
                "tanh_shrink",
                "soft_shrink",
                "hard_shrink",
                "softmax",
                "rrelu",
                "nonsense",
            ]
        ],
        ("leaky_relu", {"negative_slope": -1.0}),
        (abs, {}),
        (np.square, {}),
        (np.cbrt, {}),
        (lambda z: np.clip(z, -16.9, 16.9), {}),
        (lambda z: z + 1e-7 * np.sin(z), {}),
        (lambda z: z.astype(np.float32), {}),
    ],
)
def test_paired_scale_refuses(activation, parameters):
    with pytest.raises(ValueError, match="Received: activation="):
        theory.paired_scale(activation, **parameters)
