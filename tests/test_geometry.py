"""What the weights of Keras layers are, against plain readings of them."""

import keras
import numpy as np
import pytest

import keras_initx as kx

L = keras.layers

# A layer, the shape of its input, and of each weight path the maps, rows,
# columns, fan_in and fan_out.
CASES = {
    "dense": (lambda: L.Dense(6), (4,), "kernel", (1, 4, 6, 4, 6)),
    "conv": (
        lambda: L.Conv2D(8, 3, groups=2, strides=2),
        (9, 9, 4),
        "kernel",
        (2, 18, 4, 18, 9),
    ),
    "transposed": (
        lambda: L.Conv2DTranspose(8, 4, strides=2),
        (9, 9, 6),
        "kernel",
        (1, 96, 8, 24, 128),
    ),
    "depthwise": (
        lambda: L.DepthwiseConv2D(3, depth_multiplier=2),
        (9, 9, 6),
        "kernel",
        (6, 9, 2, 9, 18),
    ),
    "batched": (
        lambda: L.EinsumDense("bgi,gio->bgo", (3, 5)),
        (3, 4),
        "kernel",
        (3, 4, 5, 4, 5),
    ),
    "embedding": (lambda: L.Embedding(9, 5), (), "embeddings", (1, 9, 5, 1, 5)),
    "lstm": (
        lambda: L.LSTM(5),
        (7, 3),
        "lstm_cell:0/kernel",
        (4, 3, 5, 3, 5),
    ),
    "conv_lstm": (
        lambda: L.ConvLSTM1D(5, 3),
        (4, 9, 2),
        "conv_lstm_cell:0/recurrent_kernel",
        (4, 15, 5, 15, 15),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_maps_and_fans(case):
    make, shape, name, expected = CASES[case]
    layer = make()
    layer.build((None, *shape))
    geometry = kx.models.kernel_geometry(layer)[name]
    found = (*geometry.matrices, geometry.fan_in, geometry.fan_out)
    assert found == expected


def test_matrices_and_back():
    geometry = kx.models.Geometry(
        "kernel", (3, 2, 4, 5), maps=(2,), inputs=(0, 3), outputs=(1,)
    )
    weight = np.arange(120.0).reshape(3, 8, 5)
    matrices = kx.models.to_matrices(weight, geometry)
    assert matrices.shape == (4, 15, 2)
    assert matrices[1, 7, 1] == weight[1, 5, 2]
    back = kx.models.from_matrices(matrices, geometry, weight.shape)
    assert np.array_equal(back, weight)


def test_unknown_is_said():
    class Odd(L.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(2, 3), name="w")

    layer = Odd()
    layer.build((None, 2))
    assert kx.models.kernel_geometry(layer)["w"].role == "unknown"


def test_unbuilt_is_refused():
    with pytest.raises(ValueError, match="built"):
        kx.models.kernel_geometry(L.Dense(3))
