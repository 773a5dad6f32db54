"""The rules of the layers of Keras, against plain readings of the layers."""

import functools
import inspect

import keras
import numpy as np
import pytest

import keras_initx as kx
from keras_initx.inspection.layer_rule import measured_by_default
from keras_initx.inspection.traversal import inspect_model as inspected
from tests.helpers import layer_rows

L = keras.layers

# A layer, the shape of its input, the path of a weight, and the weight's number
# of maps, rows, columns, fan_in and fan_out.
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
    geometry = kx.inspection.kernel_geometry(layer)[name]
    found = (*geometry.matrices, geometry.fan_in, geometry.fan_out)
    assert found == expected


def test_matrices_and_back():
    geometry = kx.inspection.Geometry(
        "kernel",
        (3, 2, 4, 5),
        batch_axes=(2,),
        input_axes=(0, 3),
        output_axes=(1,),
    )
    weight = np.arange(120.0).reshape(3, 8, 5)
    matrices = kx.inspection.to_matrices(weight, geometry)
    assert matrices.shape == (4, 15, 2)
    assert matrices[1, 7, 1] == weight[1, 5, 2]
    back = kx.inspection.from_matrices(matrices, geometry, weight.shape)
    assert np.array_equal(back, weight)


def test_a_weight_without_a_rule_is_unknown():
    class Odd(L.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(2, 3), name="w")

    layer = Odd()
    layer.build((None, 2))
    assert kx.inspection.kernel_geometry(layer)["w"].role == "unknown"


def test_unbuilt_is_refused():
    with pytest.raises(ValueError, match="built"):
        kx.inspection.kernel_geometry(L.Dense(3))


# Arguments that the constructors of Keras's layers require, by name.
REQUIRED = {
    "units": 8,
    "filters": 8,
    "kernel_size": 3,
    "input_dim": 10,
    "output_dim": 8,
    "num_heads": 2,
    "key_dim": 4,
    "head_dim": 4,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
}
MADE = {
    "Attention": lambda: L.Attention(use_scale=True),
    "Bidirectional": lambda: L.Bidirectional(L.GRU(8)),
    "EinsumDense": lambda: L.EinsumDense("ab,bc->ac", 8, bias_axes="c"),
    "GroupNormalization": lambda: L.GroupNormalization(4),
    "RNN": lambda: L.RNN([L.LSTMCell(8), L.GRUCell(8)]),
    "SpectralNormalization": lambda: L.SpectralNormalization(L.Dense(8)),
    "TimeDistributed": lambda: L.TimeDistributed(L.Dense(8)),
}
CALLED = {
    "AdditiveAttention": lambda layer, x: layer([x, x]),
    "Attention": lambda layer, x: layer([x, x]),
    "GroupQueryAttention": lambda layer, x: layer(x, x),
    "MultiHeadAttention": lambda layer, x: layer(x, x),
}
SHAPES = [
    (2, 8),
    (2, 6, 8),
    (2, 8, 8, 8),
    (2, 8, 8, 8, 8),
    (2, 4, 8, 8, 8, 8),
    (2, 600),
]


@functools.cache
def built(name):
    """A layer of Keras on the first input that it takes, None without one."""
    cls = getattr(L, name)
    required = [
        p.name
        for p in inspect.signature(cls.__init__).parameters.values()
        if p.default is p.empty and p.kind == p.POSITIONAL_OR_KEYWORD
    ][1:]
    if name not in MADE and not set(required) <= set(REQUIRED):
        return None
    make = MADE.get(
        name, lambda: cls(**{key: REQUIRED[key] for key in required})
    )
    call = CALLED.get(name, lambda layer, x: layer(x))
    for shape in SHAPES:
        dtype = "int32" if "Embedding" in name else "float32"
        try:
            layer = make()
            call(layer, np.ones(shape, dtype))
        except Exception:
            continue
        return layer
    return None


def roles(name):
    layer = built(name)
    if layer is None:
        return set()
    return {g.role for g in kx.inspection.kernel_geometry(layer).values()}


@pytest.mark.slow
def test_every_layer_of_keras_is_known():
    layers = [
        name
        for name in dir(L)
        if isinstance(getattr(L, name), type)
        and issubclass(getattr(L, name), L.Layer)
    ]
    found = {name: roles(name) for name in layers}
    with_weights = {name for name, kinds in found.items() if kinds}
    # These are all layers of Keras 3.15, some under two names, except the
    # wrappers of other frameworks.
    assert len(with_weights) >= 41, sorted(set(layers) - with_weights)
    assert not [n for n, kinds in found.items() if "unknown" in kinds]


# Each layer of Keras that has weights, and the classes of the layers in it that
# are rows of `measure` by default, as of the time when the names of attributes
# decided.
ROWS = {
    "AdditiveAttention": [],
    "Attention": [],
    "BatchNormalization": [],
    "Bidirectional": ["GRUCell", "GRUCell"],
    "Conv1D": ["Conv1D"],
    "Conv1DTranspose": ["Conv1DTranspose"],
    "Conv2D": ["Conv2D"],
    "Conv2DTranspose": ["Conv2DTranspose"],
    "Conv3D": ["Conv3D"],
    "Conv3DTranspose": ["Conv3DTranspose"],
    "ConvLSTM1D": ["ConvLSTMCell"],
    "ConvLSTM2D": ["ConvLSTMCell"],
    "ConvLSTM3D": ["ConvLSTMCell"],
    "Dense": ["Dense"],
    "DepthwiseConv1D": ["DepthwiseConv1D"],
    "DepthwiseConv2D": ["DepthwiseConv2D"],
    "EinsumDense": ["EinsumDense"],
    "Embedding": ["Embedding"],
    "GRU": ["GRUCell"],
    "GroupNormalization": [],
    "GroupQueryAttention": ["EinsumDense"] * 4,
    "LSTM": ["LSTMCell"],
    "LayerNormalization": [],
    "MultiHeadAttention": ["EinsumDense"] * 4,
    "Normalization": [],
    "PReLU": [],
    "RMSNormalization": [],
    "RNN": ["LSTMCell", "GRUCell"],
    "ReversibleEmbedding": ["ReversibleEmbedding"],
    "STFTSpectrogram": [],
    "SeparableConv1D": ["SeparableConv1D"],
    "SeparableConv2D": ["SeparableConv2D"],
    "SimpleRNN": ["SimpleRNNCell"],
    "SpectralNormalization": ["Dense"],
    "TimeDistributed": ["Dense"],
}


@pytest.mark.parametrize("name", ROWS)
def test_default_rows_of_keras_layers(name):
    layers = inspected(built(name)).layers
    rows = [type(la).__name__ for la in layers if measured_by_default(la)]
    assert rows == ROWS[name]


@pytest.mark.slow
def test_the_table_of_default_rows_has_every_layer_with_weights():
    with_weights = {
        getattr(L, name).__name__
        for name in dir(L)
        if isinstance(getattr(L, name), type)
        and issubclass(getattr(L, name), L.Layer)
        and (layer := built(name)) is not None
        and layer.weights
    }
    # The class has another name than Keras exports it under.
    with_weights -= {"GroupedQueryAttention"}
    assert with_weights <= set(ROWS)


def test_every_layer_of_this_package_is_known():
    for layer in (
        kx.layers.BranchScale(initial_value=0.5, per_channel=True),
        kx.layers.Residual([L.Dense(8), L.Dense(4)], projection=L.Dense(4)),
        kx.layers.ScalarBias(),
        kx.layers.TriangleWave(3),
    ):
        layer(np.ones((2, 4)))
        found = kx.inspection.kernel_geometry(layer).values()
        assert found
        assert "unknown" not in {geometry.role for geometry in found}
    for name, row in layer_rows.ROWS.items():
        layer = row[0]()
        layer(np.ones((2, 4)))
        roles = {
            geometry.role
            for each in inspected(layer).layers
            for geometry in kx.inspection.kernel_geometry(each).values()
        }
        assert "unknown" not in roles, name
