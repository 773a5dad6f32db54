"""Tests of the values, shapes, dtypes and configs of all layers.

Add a new layer as a row of ROWS in `tests/helpers/layer_rows.py`.
"""

import inspect
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx
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
from tests.helpers import processes
from tests.helpers.layer_rows import ROWS, ones, total, twice

rows = pytest.mark.parametrize(("make", "expected"), ROWS.values(), ids=ROWS)


class Subclass(keras.Model):
    """A subclassed model of one layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, x):
        return self.layer(x)


def functional(layer):
    inputs = keras.Input((4,))
    return keras.Model(inputs, layer(inputs))


MODELS = {
    "alone": lambda layer: layer,
    "sequential": lambda layer: keras.Sequential([layer]),
    "functional": functional,
    "subclassed": Subclass,
}


@pytest.fixture
def x(rng):
    return rng.standard_normal((5, 4)).astype(np.float32)


@rows
@pytest.mark.parametrize("kind", MODELS)
def test_outputs_are_those_of_the_formula(make, expected, kind, x):
    model = MODELS[kind](make())
    np.testing.assert_allclose(model(x), expected(x), rtol=1e-5, atol=1e-6)


@rows
def test_shapes_before_any_call(make, expected):
    layer = make()
    assert layer.compute_output_shape((None, 7, 4)) == (None, 7, 4)
    symbolic = layer(keras.KerasTensor((None, 7, 4)))
    assert symbolic.shape == (None, 7, 4)
    assert symbolic.dtype == "float32"


@rows
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "float64"])
def test_dtype_policies(make, expected, policy, x):
    keras.config.set_dtype_policy(policy)
    try:
        layer = make()
        y = layer(keras.ops.cast(x, layer.compute_dtype))
    finally:
        keras.config.set_dtype_policy("float32")
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
    assert all(w.dtype == layer.variable_dtype for w in layer.weights)
    tolerance = 1e-6 if policy == "float64" else 0.05
    y = keras.ops.convert_to_numpy(keras.ops.cast(y, "float32"))
    np.testing.assert_allclose(y, expected(x), rtol=tolerance, atol=tolerance)


@rows
def test_xla(make, expected, x):
    model = functional(make())
    y = tf.function(model, jit_compile=True)(x)
    np.testing.assert_allclose(y, expected(x), rtol=1e-5, atol=1e-5)


@rows
def test_saved_loaded_and_cloned(make, expected, x, tmp_path):
    model = functional(make())
    # The weights are not those of an initializer.
    model.set_weights([w + 0.25 for w in model.get_weights()])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), model(x))
    cloned = keras.models.clone_model(model)
    np.testing.assert_allclose(cloned(x), expected(x), rtol=1e-5, atol=1e-6)
    config = json.loads(json.dumps(model.get_config()))
    assert json.dumps(loaded.get_config()) == json.dumps(config)


@rows
def test_config_holds_every_argument(make, expected):
    layer = make()
    arguments = set(inspect.signature(type(layer).__init__).parameters)
    base = set(keras.layers.Layer().get_config())
    config = layer.get_config()
    assert set(config) - base == arguments - {"self", "kwargs"}


@rows
def test_passes_masks_on(make, expected, x):
    inputs = keras.Input((None, 4))
    y = make()(keras.layers.Masking(0.0)(inputs))
    masked = np.stack([x, 0 * x], axis=1)
    kept = keras.Model(inputs, y)(masked)._keras_mask
    np.testing.assert_array_equal(kept, [[True, False]] * 5)


@pytest.mark.slow
def test_all_train(x):
    """One model has all rows, so that it is compiled once."""
    inputs = keras.Input((None, 4))
    steps = keras.layers.Masking(0.0)(inputs)
    parts = {name: make() for name, (make, _) in ROWS.items()}
    outputs = [
        keras.layers.Dense(4, name=f"after-{name}")(part(steps))
        for name, part in parts.items()
    ]
    model = keras.Model(inputs, keras.layers.Concatenate()(outputs))
    masked = np.stack([x, 0 * x], axis=1)
    before = [w.copy() for w in model.get_weights()]
    model.compile("sgd", "mse")
    # A scale that is 0 at first lets other weights train from the second step.
    model.fit(masked, np.tile(masked, len(parts)), epochs=2, verbose=0)
    for weight, start in zip(model.weights, before, strict=True):
        value = np.asarray(weight)
        assert np.isfinite(value).all(), weight.path
        if weight.trainable:
            assert (value != start).any(), weight.path


def test_a_functional_branch_is_saved_with_its_weights(x, tmp_path):
    inputs = keras.Input((4,))
    branch = keras.Model(inputs, keras.layers.Add()([ones()(inputs), inputs]))
    model = functional(Residual(branch, BranchScale(depth=4)))
    np.testing.assert_allclose(model(x), 1.5 * x + total(x) / 2, rtol=1e-4)
    model.set_weights([w + 0.25 for w in model.get_weights()])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), model(x))


# ---- Training and depth ----------------------------------------------------


def test_an_initial_value_is_trained_and_a_constant_is_not(x):
    learns = Residual(ones(), BranchScale(initial_value=0.0, per_channel=True))
    with tf.GradientTape() as tape:
        loss = keras.ops.sum(learns(x))
    scale = learns.scale.trainable_weights[0]
    assert scale.shape == (4,)
    # d/ds_c sum_n (x + s total)_nc = sum_n total_n
    np.testing.assert_allclose(
        tape.gradient(loss, scale), total(x).sum(0), rtol=1e-4, atol=1e-4
    )
    assert BranchScale(depth=4)(x) is not None
    assert not BranchScale(depth=4).weights


def test_a_scalar_bias_is_one_trainable_number(x):
    layer = ScalarBias()
    with tf.GradientTape() as tape:
        loss = keras.ops.sum(layer(x))
    (bias,) = layer.trainable_weights
    assert bias.shape == ()
    assert float(tape.gradient(loss, bias.value)) == x.size


def test_the_training_argument_reaches_the_branch(x):
    block = Residual(keras.layers.Dropout(0.5))
    np.testing.assert_allclose(block(x), 2 * x, rtol=1e-6)
    assert np.abs(block(x, training=True) - 2 * x).max() > 0.1


def test_layers_inside_a_branch_are_measured(x):
    inputs = keras.Input((4,))
    h = inputs
    for k in range(3):
        h = Residual(keras.layers.Dense(4, "relu", name=f"inside_{k}"))(h)
    profile = kx.measure(keras.Model(inputs, h), x)
    assert [name.split("/")[-1] for name in profile.layers] == [
        "inside_0",
        "inside_1",
        "inside_2",
    ]


class TwoMatrices(keras.layers.Layer):
    """Computes V relu(W x) with normal weights of variance 1 / width.

    A matrix of independent standard normal numbers, times a vector that does
    not depend on it, is a vector of such numbers times the vector's norm.
    """

    def __init__(self, rng):
        super().__init__()
        self.draw = rng.standard_normal

    def compute_output_shape(self, input_shape):
        return input_shape

    def call(self, x):
        x = keras.ops.convert_to_numpy(x)
        for activation in (lambda z: np.maximum(z, 0), lambda z: z):
            size = np.sqrt(np.mean(x**2, axis=-1, keepdims=True))
            x = activation(size * self.draw(x.shape, np.float32))
        return keras.ops.convert_to_tensor(x)


@pytest.mark.slow
def test_a_thousand_branches_grow_as_the_theory_says(rng):
    """E |h_L|^2 = (1 + 1/(2 L))^L at beta 1/2, whatever the width.

    One input through 64 nets that lie side by side. log |h_L| is
    normal of deviation sqrt(1/(2 d)) for a net; the mean square over nets has
    the relative deviation 2 sqrt(1/(2 d)) / sqrt(nets). A band of 6: false
    alarms below 1e-8. Sees beta = 1, a doubled variance,
    and a relu that is missing.
    """
    depth, width, nets = 1000, 40, 64
    x = rng.standard_normal((1, nets, width)).astype(np.float32)
    h = x
    for _ in range(depth):
        h = Residual(TwoMatrices(rng), BranchScale(depth=depth))(h)
    ratio = np.mean(np.square(h).sum(-1) / np.square(x).sum(-1))

    band = 6 * 2 * math.sqrt(1 / (2 * width)) / math.sqrt(nets)
    expected = kx.theory.residual_growth(depth)
    assert expected == pytest.approx(math.exp(0.5), rel=1e-3)
    assert abs(ratio / expected - 1) < band
    for wrong in ({"exponent": 1.0}, {"scale": 2.0}, {"activation": "linear"}):
        other = kx.theory.residual_growth(depth, **wrong)
        assert abs(other / expected - 1) > 2 * band


@pytest.mark.slow
def test_a_thousand_linear_branches_are_exact():
    """(1 + 1/L)^L, or (alpha + 1/L)^L with a skip weight."""
    depth = 1000
    for weight in (1.0, 0.999):
        block = Residual(
            keras.layers.Identity(dtype="float64"),
            BranchScale(depth=depth, exponent=1.0, dtype="float64"),
            skip_weight=weight,
            dtype="float64",
        )
        h = np.ones((1, 1))
        for _ in range(depth):
            h = block(h)
        assert float(h[0, 0]) == pytest.approx(
            (weight + 1 / depth) ** depth, rel=1e-12
        )


def test_a_number_as_scale_has_the_precision_of_the_block():
    block = Residual(
        [keras.layers.Identity(dtype="float64")], scale=1 / 3, dtype="float64"
    )
    y = block(np.full((1, 1), 1 / 3))
    assert float(y[0, 0]) == pytest.approx(4 / 9, rel=1e-15)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (BranchScale(constant=0.5), [1.0, 1.5]),
        (BranchScale(constant=0.5, dtype="float64"), [1.0, 1.5]),
        (BranchScale(initial_value=0.5), [1.0, 1.5]),
        (ScalarBias(0.5), [2.5, 3.5]),
        (Residual(keras.layers.Rescaling(0.25)), [2.5, 3.75]),
        (ShapedReLU(width=4, c_plus=0.5), [2.5, 3.75]),
        (ShapedActivation("linear", width=4), [2.0, 3.0]),
    ],
)
def test_whole_numbers_are_not_rounded(layer, expected):
    y = layer(np.array([[2, 3]]))
    np.testing.assert_allclose(y, [expected])
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype


@pytest.mark.parametrize(
    "make",
    [
        lambda: BranchScale(depth=np.int64(4), exponent=np.float32(0.5)),
        lambda: BranchScale(index=np.int32(4)),
        lambda: BranchScale(constant=np.float32(0.5)),
        lambda: BranchScale(initial_value=np.float64(0.5)),
        lambda: ScalarBias(np.float32(0.5)),
        lambda: Residual(twice(), np.float32(0.5), skip_weight=np.float32(2)),
        lambda: ShapedReLU(np.int64(4), np.float32(0.5), np.float32(-0.5)),
        lambda: ShapedActivation("tanh", depth=np.int64(4), a=np.float32(2)),
        lambda: TriangleWave(
            np.int64(2),
            np.bool_(False),
            peaks=np.full(3, 0.4),
            seed=np.int64(1),
        ),
    ],
)
def test_arguments_from_numpy_can_be_saved(make, x):
    layer = make()
    config = json.loads(json.dumps(layer.get_config()))
    copy = type(layer).from_config(config)
    np.testing.assert_array_equal(copy(x), layer(x))


def test_shaped_relu_has_one_of_its_slopes_at_0():
    """Padding and zero biases make many inputs 0."""
    relu, x = ShapedReLU(width=100), tf.zeros((3,))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = relu(x)
    np.testing.assert_allclose(tape.gradient(y, x), relu.slopes[1], rtol=1e-6)


def test_layers_that_are_made_inside_a_graph(x):
    @tf.function
    def late(x):
        return ShapedActivation(keras.activations.tanh, width=3)(x)

    root = math.sqrt(3)
    np.testing.assert_allclose(late(x), root * np.tanh(x / root), rtol=1e-5)


# ---- Masks -----------------------------------------------------------------


def lstm_in(kind):
    lstm = keras.layers.LSTM(4, return_sequences=True)
    inputs = keras.Input((None, 4))
    made = {
        "layer": lambda: lstm,
        "list": lambda: [lstm],
        "functional": lambda: keras.Model(inputs, lstm(inputs)),
    }
    return lstm, made[kind]()


@pytest.mark.parametrize("kind", ["layer", "list", "functional"])
def test_the_branch_sees_the_mask(kind, x):
    lstm, branch = lstm_in(kind)
    masked = np.stack([x, 0 * x, x], axis=1)
    inputs = keras.Input((None, 4))
    y = Residual(branch, scale=2.0)(keras.layers.Masking(0.0)(inputs))
    mask = np.array([[True, False, True]] * 5)
    np.testing.assert_allclose(
        keras.Model(inputs, y)(masked),
        masked + 2 * np.asarray(lstm(masked, mask=mask)),
        rtol=1e-5,
        atol=1e-6,
    )


def test_the_skip_passes_the_mask_as_its_projection_does(x):
    mask = np.array([[True, False]] * 5)
    steps = keras.ops.convert_to_tensor(np.stack([x, 0 * x], axis=1))
    kept = Residual(ones(3), projection=ones(3))
    assert kept.compute_output_shape((None, 2, 4)) == (None, 2, 3)
    assert kept.compute_mask(steps, mask) is mask
    shorter = Residual(
        keras.layers.Conv1D(3, 2), projection=keras.layers.AveragePooling1D(2)
    )
    assert shorter.compute_mask(steps, mask) is None


@pytest.mark.parametrize(
    ("layer", "scale"),
    [
        (ShapedReLU(width=100, c_minus=-10.0), 2.0),
        (ShapedReLU(width=25, c_plus=-2.5), 2 / (0.5**2 + 0.8**2)),
        (ShapedActivation("linear", width=9), 1.0),
        (ShapedActivation("tanh", width=1), 2.536175),
    ],
)
def test_the_critical_scale_keeps_the_variance(layer, scale, rng):
    assert layer.critical_scale == pytest.approx(scale, rel=1e-6)
    z = rng.standard_normal(10**6)
    y = np.asarray(layer(z.astype(np.float32)), np.float64)
    # phi^2 has a deviation below 4 of its mean: 6 / 1000 of them.
    assert np.mean(y**2) * scale == pytest.approx(1, abs=6e-3 * 4)


def test_slopes_of_a_shaped_relu():
    relu = ShapedReLU(width=16, c_minus=-4.0)
    assert relu.slopes == (1.0, 0.0)
    np.testing.assert_array_equal(relu(np.array([-2.0, 3.0])), [0, 3])


def test_float32_blocks_keep_a_small_branch_under_bfloat16(x):
    """In bfloat16 a branch of 1e-4 of the skip is rounded away."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        moved = {}
        for dtype in ("float32", None):
            scale = BranchScale(constant=1e-4, dtype=dtype)
            block = Residual(twice(), scale, dtype=dtype)
            y = block(block(np.float32(np.ones((1, 4)))))
            moved[dtype] = float(keras.ops.cast(y[0, 0], "float32")) - 1
    finally:
        keras.config.set_dtype_policy("float32")
    assert moved["float32"] == pytest.approx(4e-4, rel=0.01)
    assert moved[None] == 0


# ---- Bad input -------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: BranchScale(), "exactly one"),
        (lambda: BranchScale(depth=3, constant=1.0), "exactly one"),
        (lambda: BranchScale(depth=0), "depth"),
        (lambda: BranchScale(0.1), r"depth must.*BranchScale\(constant="),
        (lambda: BranchScale(depth=2, exponent=math.nan), "exponent"),
        (lambda: BranchScale(depth=2, exponent=-0.5), "exponent"),
        (lambda: BranchScale(depth=2, exponent="a"), "exponent"),
        (
            lambda: BranchScale(index=2, exponent=0.5),
            "exponent must be None without depth",
        ),
        (
            lambda: BranchScale(initial_value=0.0, exponent=0.5),
            "exponent must be None without depth",
        ),
        (lambda: BranchScale(index=0), "index"),
        (lambda: BranchScale(constant="a"), "constant"),
        (lambda: BranchScale(initial_value=math.inf), "initial_value"),
        (lambda: BranchScale(depth=4, per_channel=True), "per_channel"),
        (lambda: Residual(None), "branch"),
        (lambda: Residual([]), "branch"),
        (lambda: Residual([twice(), "relu"]), "branch"),
        (lambda: Residual(keras.ops.relu), "branch"),
        (lambda: Residual(twice(), scale="half"), "scale"),
        (lambda: Residual(twice(), projection=4), "projection"),
        (lambda: Residual(twice(), skip_weight=None), "skip_weight"),
        (lambda: ScalarBias(math.nan), "initial_value"),
        (lambda: ScalarBias("a"), "initial_value"),
        (lambda: HardTanh(0), "bound"),
        (lambda: HardTanh(-1.0), "bound"),
        (lambda: HardTanh(math.inf), "bound"),
        (lambda: HardTanh("1"), "bound"),
        (lambda: HardTanh(True), "bound"),
        (lambda: Sine(0), "frequency"),
        (lambda: Sine(math.nan), "frequency"),
        (lambda: Sine(None), "frequency"),
        (lambda: ShapedReLU(), "width or depth"),
        (lambda: ShapedReLU(width=4, depth=4), "width or depth"),
        (lambda: ShapedReLU(width=0), "width"),
        (lambda: ShapedReLU(width=4, c_plus=math.inf), "c_plus"),
        (lambda: ShapedReLU(width=4, c_plus=-2.0, c_minus=-2.0), "slopes"),
        (lambda: ShapedActivation("tanh", width=4, a=0.0), "a must"),
        (lambda: ShapedActivation("gelu", width=4), "slope 1"),
        (lambda: ShapedActivation("sigmoid", width=4), "through 0"),
    ],
)
def test_bad_arguments(make, name):
    with pytest.raises(ValueError, match=rf"(?s){name}.*Received: "):
        make()


@pytest.mark.parametrize("units", [1, 3, 8])
@pytest.mark.parametrize("call", [np.ones((2, 4)), keras.KerasTensor((2, 4))])
def test_a_branch_that_changes_the_shape_is_refused(units, call):
    """Shapes are not broadcast to each other."""
    with pytest.raises(ValueError, match=r"(?s)keep the shape.*Received: "):
        Residual(ones(units))(call)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        # A size of 1 could be broadcast to the unknown size.
        (
            lambda: Residual(
                keras.layers.GlobalAveragePooling2D(keepdims=True)
            )(keras.Input((None, None, 4))),
            "keep the shape",
        ),
        (
            lambda: Residual(keras.layers.Flatten())(keras.Input((2, 4))),
            "keep the shape",
        ),
        (
            lambda: Residual(keras.layers.Conv1D(4, 2)).compute_output_shape(
                (None, 8, 4)
            ),
            "keep the shape",
        ),
        (
            lambda: Residual(ones(), projection=ones(3))(np.ones((2, 4))),
            "cannot be added",
        ),
        (
            lambda: Residual(keras.layers.Add())([np.ones((2, 4))] * 2),
            "one tensor",
        ),
        (
            lambda: BranchScale(initial_value=0.0, per_channel=True)(
                keras.Input((None,))
            ),
            "last axis",
        ),
        (
            lambda: BranchScale(initial_value=0.0, per_channel=True)(
                tf.constant(1.0)
            ),
            "last axis",
        ),
    ],
)
def test_bad_shapes(use, message):
    with pytest.raises(ValueError, match=rf"(?s){message}.*[Rr]eceived"):
        use()


@pytest.mark.parametrize(
    "layer",
    [Residual(ones()), BranchScale(initial_value=0.5, per_channel=True)],
)
def test_another_number_of_channels_is_refused(layer, x):
    layer(x)
    for wrong in (np.ones((5, 1)), keras.Input((1,))):
        with pytest.raises(ValueError, match="axis -1"):
            layer(wrong)


# ---- On two devices --------------------------------------------------------

REPLICAS = """
import keras
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
from keras_initx.layers import *

def losses():
    keras.utils.set_random_seed(3)
    layers = [
        TriangleWave(4, False, form="v", seed=1),
        Residual(
            [keras.layers.Dense(8), ShapedReLU(width=8)],
            BranchScale(initial_value=0.1, per_channel=True),
        ),
        Residual(keras.layers.Dense(8), BranchScale(depth=4), skip_weight=2.0),
        ScalarBias(0.1),
        ShapedActivation("tanh", width=8),
    ]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    x = np.linspace(-1, 1, 64).reshape(8, 8).astype(np.float32)
    history = model.fit(x, x, epochs=4, batch_size=8, shuffle=False, verbose=0)
    return history.history["loss"]

alone = losses()
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    mirrored = losses()
assert strategy.num_replicas_in_sync == 2
np.testing.assert_allclose(alone, mirrored, rtol=1e-5)
assert alone[-1] < alone[0]
print("equal")
"""


@pytest.mark.slow
@pytest.mark.isolated
def test_replicas_train_as_one_device():
    ran = processes.run_code(REPLICAS)
    assert ran.output.split() == ["equal"], ran.errors


def test_shaped_activation_sees_a_callable_that_has_changed():
    class Bent:
        bend = 0.0

        def __call__(self, x):
            return x - self.bend * keras.ops.tanh(x) ** 3

    activation = Bent()
    first = kx.layers.ShapedActivation(activation, width=4).critical_scale
    activation.bend = 0.3
    second = kx.layers.ShapedActivation(activation, width=4).critical_scale
    assert first == pytest.approx(1)
    assert second > 1.01
