"""DeltaOrthogonal and Paired: kernels that start as isometries."""

import itertools

import keras
import numpy as np
import pytest
from scipy import stats

import keras_initx as kx
from keras_initx.initializers import DeltaOrthogonal, Paired
from tests.helpers.initializer_rows import assert_orthonormal

L = keras.layers


@pytest.mark.parametrize(
    ("shape", "center"),
    [
        ((5, 5), ()),
        ((3, 7), ()),
        ((7, 3), ()),
        ((1, 1), ()),
        ((3, 4, 4), (1,)),
        ((4, 2, 6), (1,)),
        ((1, 6, 2), (0,)),
        ((3, 2, 4, 4), (1, 0)),
        ((2, 5, 3, 4, 5), (0, 2, 1)),
    ],
)
@pytest.mark.parametrize("gain", [1.0, -0.3])
def test_the_center_is_orthogonal_and_the_rest_zero(shape, center, gain, seed):
    kernel = np.array(DeltaOrthogonal(gain, seed=seed)(shape))
    assert_orthonormal(kernel[center] / gain)
    kernel[center] = 0
    assert not kernel.any()


def test_matrices_are_uniformly_distributed(seed):
    # A QR factorization alone has R, and so the matrices, of one sign.
    # False alarms below 1e-8 for each of the four entries.
    blocks = np.array(DeltaOrthogonal(groups=4000, seed=seed)((2, 8000)))
    blocks = blocks.reshape(2, 4000, 2)
    for i, j in itertools.product(range(2), range(2)):
        # The angle of a uniform rotation or reflection is uniform.
        test = stats.kstest(np.arcsin(blocks[i, :, j]) / np.pi + 0.5, "uniform")
        assert test.pvalue > 1e-8


CONVOLUTIONS = {
    "1D": (lambda **k: L.Conv1D(6, 3, **k), (9, 4)),
    "even": (lambda **k: L.Conv1D(4, 2, **k), (5, 4)),
    "2D": (lambda **k: L.Conv2D(4, (4, 3), **k), (5, 6, 4)),
    "dilated": (lambda **k: L.Conv2D(4, 3, dilation_rate=2, **k), (6, 7, 3)),
    "3D": (lambda **k: L.Conv3D(3, 3, **k), (4, 4, 5, 2)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_keep_the_norm(name, rng):
    make, shape = CONVOLUTIONS[name]
    layer = make(padding="same", kernel_initializer=DeltaOrthogonal())
    x = rng.normal(size=(3, *shape)).astype(np.float32)
    y = np.asarray(layer(x))
    np.testing.assert_allclose(
        np.linalg.norm(y.reshape(3, -1), axis=1),
        np.linalg.norm(x.reshape(3, -1), axis=1),
        rtol=1e-5,
    )


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("whole", [False, True])
def test_each_group_has_a_matrix_of_its_own(groups, whole, rng):
    given = 1 if whole else groups
    layer = L.Conv2D(
        8,
        3,
        padding="same",
        groups=groups,
        kernel_initializer=DeltaOrthogonal(groups=given),
    )
    model = keras.Sequential([keras.Input((4, 4, 8)), layer])
    if whole:
        # The argument is that of the layer, whatever the initializer has.
        kx.initialize(model, DeltaOrthogonal(groups=3), seed=0)
    x = rng.normal(size=(1, 4, 4, 8)).astype(np.float32)
    assert np.linalg.norm(model(x)) / np.linalg.norm(x) == pytest.approx(
        1, abs=1e-5
    )
    center = np.array(layer.kernel[1, 1]).reshape(8 // groups, groups, -1)
    for i in range(groups):
        assert_orthonormal(center[:, i])
        assert not np.array_equal(center[:, i], center[:, i - 1]) or groups == 1


def test_initialize_knows_depthwise_and_transposed_kernels():
    depthwise, transposed = (
        L.DepthwiseConv2D(3, use_bias=False),
        L.Conv1DTranspose(4, 3, use_bias=False),
    )
    depthwise.build((None, 8, 8, 64))
    transposed.build((None, 8, 6))
    for layer in (depthwise, transposed):
        kx.initialize(layer, "delta_orthogonal", seed=0)
    center = np.array(keras.ops.convert_to_numpy(depthwise.kernel))
    np.testing.assert_allclose(abs(center[1, 1]), 1, rtol=1e-6)
    # All 64 equal has the probability 2^-63.
    assert abs(center[1, 1].sum()) < 64
    assert np.count_nonzero(center) == 64
    assert_orthonormal(transposed.kernel[1])


def test_a_depthwise_kernel_has_the_shape_of_one_output():
    one = np.array(DeltaOrthogonal(seed=1)((3, 3, 16, 1)))
    assert np.sum(one**2) == pytest.approx(1, rel=1e-6)
    layer = L.DepthwiseConv2D(3, depthwise_initializer=DeltaOrthogonal(seed=1))
    layer.build((None, 8, 8, 16))
    np.testing.assert_array_equal(np.reshape(layer.kernel, one.shape), one)


def test_groups_that_do_not_divide_the_outputs_are_refused():
    with pytest.raises(ValueError, match=r"outputs, 8.*Received: groups=3"):
        DeltaOrthogonal(groups=3)((3, 4, 8))


# Has axes on any version of Keras.
RELU = kx.initializers.FractionalMoment(2, "relu", seed=3)


@pytest.mark.parametrize("inputs", [None, -1, 1])
@pytest.mark.parametrize("outputs", [None, -1, 1])
@pytest.mark.parametrize(
    ("inner", "shape", "axes"),
    [
        ("he_normal", (6, 4), {}),
        ("orthogonal", (4, 10), {}),
        (kx.initializers.AlphaStable(1.5, seed=3), (4, 2), {}),
        ("delta_orthogonal", (3, 2, 4, 6), {}),
        (RELU, (4, 6), {"input_axes": [1], "output_axes": [0]}),
        (RELU, (4, 6), {"input_axes": [-1], "output_axes": [-2]}),
    ],
)
def test_halves_are_equal_or_opposite(inner, shape, axes, inputs, outputs):
    made = Paired(inner, inputs, outputs, scale=4.0, seed=7, **axes)
    kernel = np.array(made(shape))
    if axes:
        kernel = kernel.T
    *_, rows, columns = kernel.shape
    half = (
        *kernel.shape[:-2],
        rows if inputs is None else rows // 2,
        columns if outputs is None else columns // 2,
    )
    # The block is what the initializer draws at its size.
    block = made.initializer.clone()
    if axes:
        twin = made.initializer.get_config() | axes
        block = type(block).from_config(twin)
        expected = 2 * np.array(block(half[::-1])).T
    else:
        expected = 2 * np.array(block(half))
    for axis, sign in ((-1, outputs), (-2, inputs)):
        if sign is not None:
            expected = np.concatenate([expected, sign * expected], axis)
    np.testing.assert_allclose(kernel, expected, rtol=1e-6)
    assert np.ptp(kernel) > 0


@pytest.mark.parametrize(
    ("given", "shape", "reason"),
    [
        ({"inputs": -1}, (5, 4), r"5 inputs\. Received: inputs=-1"),
        ({"inputs": 1}, (3, 3, 5, 4), r"5 inputs\. Received: inputs=1"),
        ({"outputs": -1}, (4, 7), r"7 outputs\. Received: outputs=-1"),
        ({"outputs": 1}, (4,), r"one axis of outputs.*Received: outputs=1"),
        ({"inputs": -1}, (), r"one axis of inputs.*Received: inputs=-1"),
        (
            {"outputs": -1, "input_axes": [0], "output_axes": [1, 2]},
            (4, 2, 2),
            "2 axes of outputs. Received: outputs=-1",
        ),
        (
            {"inputs": -1, "input_axes": [0, 1], "output_axes": [2]},
            (4, 2, 2),
            "2 axes of inputs. Received: inputs=-1",
        ),
    ],
)
def test_kernels_without_pairs_are_refused(given, shape, reason):
    with pytest.raises(ValueError, match=reason):
        Paired("he_normal", **given)(shape)


def test_attention_is_refused():
    layer = L.MultiHeadAttention(2, 4, kernel_initializer=Paired(outputs=-1))
    with pytest.raises(ValueError, match="2 axes of outputs"):
        layer.build((None, 5, 8), (None, 5, 8))


def test_an_einsum_dense_tells_its_axes():
    layer = L.EinsumDense(
        "abc,dc->abd", (None, 6), kernel_initializer=Paired(inputs=-1)
    )
    layer.build((None, 3, 4))
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    np.testing.assert_array_equal(kernel[:, :2], -kernel[:, 2:])


def coupled(layers):
    """A network whose last hidden layer is coupled, of output zero."""
    hidden = [
        L.Dense(
            84,
            "relu",
            kernel_initializer=Paired("he_normal", inputs=i, outputs=o),
        )
        for i, o in layers
    ]
    last = L.Dense(3, kernel_initializer=Paired("he_normal", inputs=-1))
    return keras.Sequential([keras.Input((10,)), *hidden, last])


@pytest.mark.parametrize(
    ("layers", "live"),
    [
        ([(None, 1)], [True, True]),
        # Below the coupled layers no gradient arrives at the first step.
        ([(None, -1), (-1, 1)], [False, True, True]),
    ],
)
def test_coupled_pairs_start_at_zero_and_learn(layers, live, rng):
    model = coupled(layers)
    x = rng.normal(size=(64, 10)).astype(np.float32)
    assert np.abs(model(x)).max() < 1e-4
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(x, rng.normal(size=(64, 3)), batch_size=64, verbose=0)
    moved = [
        np.abs(new - old).max() > 1e-4
        for new, old in zip(model.get_weights()[::2], before[::2], strict=True)
    ]
    assert moved == live


def test_an_injective_relu_layer_can_be_inverted(rng):
    layer = L.Dense(12, "relu", kernel_initializer=Paired(outputs=-1))
    x = rng.normal(size=(50, 6)).astype(np.float32)
    y = np.array(layer(x))
    inverse = (y[:, :6] - y[:, 6:]) @ keras.ops.convert_to_numpy(layer.kernel)[
        :, :6
    ].T
    np.testing.assert_allclose(inverse, x, atol=1e-5)
    # The constant of the docstring, which x and -x attain.
    far = np.array(layer(-x))
    ratio = np.linalg.norm(2 * x, axis=1) / np.linalg.norm(y - far, axis=1)
    np.testing.assert_allclose(ratio, np.sqrt(2), rtol=1e-5)
