"""Tests of the distributions, scales, seeds and configs of all initializers.

Add a new initializer as a row of ROWS in `tests/helpers/initializer_rows.py`.
"""

import copy
import importlib
import inspect
import json
import pickle
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

import keras_initx as kx
from keras_initx.initializers.base import compute_fans
from keras_initx.initializers.einsum_axes import KERAS_NAMES_AXES
from tests.helpers import processes
from tests.helpers.initializer_rows import (
    BY_LAYER,
    LEVELS,
    NORMAL,
    ROWS,
    STABLE,
    TAKE_GENERATORS,
    assert_half_are_positive,
    he,
    mixture,
    tfd,
)
from tests.helpers.stat_checks import assert_shares

rows = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
rows_with_generator = pytest.mark.parametrize(
    "row", TAKE_GENERATORS.values(), ids=TAKE_GENERATORS
)
rows_by_layer = pytest.mark.parametrize(
    "row", [ROWS[name] for name in BY_LAYER], ids=BY_LAYER
)

# `test_einsum_axes.py` tests what the versions before do.
names_axes = pytest.mark.skipif(
    not KERAS_NAMES_AXES, reason="Keras passes axes from version 3.15 on"
)


# ---- Distribution and scale ------------------------------------------------


def detected(row):
    """Returns the message of `assert_drawn`, or None for a check of its own."""
    return "draws lie below" if row.check is None else None


@rows
def test_weights_have_their_distribution_and_scale(row, seed):
    weights = np.asarray(row.make(seed=seed)((64, row.columns)))
    row.assert_drawn(weights, 64)
    if row.check is None:
        assert_half_are_positive(weights)
    with pytest.raises(AssertionError, match=detected(row)):
        row.assert_drawn(1.01 * weights, 64)


def test_a_wrong_stability_is_detected(seed):
    other = kx.initializers.AlphaStable(1.55, seed=seed)((64, 65536))
    # At the right scale, so that only the shape is wrong.
    unit = other / kx.theory.stable_weight_scale(1.55, 64)
    with pytest.raises(AssertionError, match="draws lie below"):
        assert_shares(np.abs(unit), STABLE[1.5], LEVELS)


def test_stability_2_is_normal_of_twice_the_variance(seed):
    # sigma that keeps E log |phi(W x)| for normal weights, at 64 units.
    weights = kx.initializers.AlphaStable(2.0, seed=seed)((64, 65536))
    assert_shares(np.abs(weights) / 0.180357614, NORMAL, LEVELS)


def test_two_points_stay_two_points(seed):
    signs = tfd().FiniteDiscrete([-3.0, 3.0], probs=[0.5, 0.5])
    make = kx.initializers.FromDistribution
    weights = np.asarray(make(signs, seed=seed)((50, 400)))
    np.testing.assert_allclose(np.abs(weights), 0.2, rtol=1e-6)
    linear = np.asarray(make(signs, activation="linear", seed=seed)((25, 40)))
    np.testing.assert_allclose(np.abs(linear), 0.2, rtol=1e-6)
    as_it_is = np.asarray(
        make(signs, preserve_variance=False, seed=seed)((25, 40))
    )
    np.testing.assert_array_equal(np.abs(as_it_is), 3)


def test_negative_slope_sets_the_scale(seed):
    signs = tfd().FiniteDiscrete([-3.0, 3.0], probs=[0.5, 0.5])
    weights = kx.initializers.FromDistribution(
        signs, activation="leaky_relu", negative_slope=0.5, seed=seed
    )((10, 10))
    np.testing.assert_allclose(
        np.abs(weights), np.sqrt(2 / (1 + 0.25) / 10), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("kind", "given", "scale"),
    [
        (
            kx.initializers.FractionalMoment,
            {"order": 1.2},
            kx.theory.fractional_moment_std,
        ),
        (
            kx.initializers.AlphaStable,
            {"stability": 1.5, "order": 1.2},
            kx.theory.stable_weight_scale,
        ),
    ],
)
def test_every_parameter_reaches_the_theory(kind, given, scale, seed):
    plain = kind(**given, seed=seed)((20, 9)) / scale(width=20, **given)
    for more in (
        {"activation": "linear"},
        {"activation": "leaky_relu"},
        {"activation": "leaky_relu", "negative_slope": 0.4},
        {"activation": "rrelu"},
        {"activation": "rrelu", "negative_slope_range": (0.3, 0.9)},
        {"dropout_rate": 0.4},
    ):
        weights = kind(**given | more, seed=seed)((20, 9))
        np.testing.assert_allclose(
            weights, plain * scale(width=20, **given | more), rtol=1e-6
        )


# ---- The fan-in ------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "axes", "fans"),
    [
        ((), {}, (1, 1)),
        ((7,), {}, (7, 7)),
        ((64, 128), {}, (64, 128)),
        ((5, 64, 128), {}, (320, 640)),
        ((3, 5, 64, 128), {}, (960, 1920)),
        ((2, 3, 5, 64, 128), {}, (1920, 3840)),
        ((0, 4), {}, (0, 4)),
        ((64, 4, 16), {"input_axes": [0], "output_axes": [1, 2]}, (64, 64)),
        ((4, 16, 32), {"input_axes": [0, 1], "output_axes": [2]}, (64, 32)),
        ((8, 9), {"input_axes": [], "output_axes": [0, 1]}, (1, 72)),
        ((8, 9), {"input_axes": [-1], "output_axes": [-2]}, (9, 8)),
    ],
)
def test_fans(shape, axes, fans):
    assert compute_fans(shape, **axes) == fans
    if axes and not KERAS_NAMES_AXES:
        return
    # Keras computes the same fans.
    unit = keras.random.normal(shape, seed=0)
    for mode, fan in zip(("fan_in", "fan_out"), fans, strict=True):
        twin = keras.initializers.VarianceScaling(
            1.0, mode, "untruncated_normal", seed=0, **axes
        )
        np.testing.assert_allclose(
            twin(shape), unit / np.sqrt(max(1, fan)), rtol=1e-6
        )


def layer_kernels():
    """Returns a layer, the shape of its input and the fan-in of its kernels."""
    layers = keras.layers
    return {
        "Dense": (
            lambda **k: layers.Dense(1024, use_bias=False, **k),
            (None, 256),
            {"dense/kernel": 256},
        ),
        "Conv2D": (
            lambda **k: layers.Conv2D(256, 4, use_bias=False, **k),
            (None, 8, 8, 64),
            {"conv2d/kernel": 1024},
        ),
        "EinsumDense": (
            lambda **k: layers.EinsumDense(
                "abc,cde->abde", (None, 64, 64), **k
            ),
            (None, 5, 64),
            {"einsum_dense/kernel": 64},
        ),
        "MultiHeadAttention": (
            lambda **k: layers.MultiHeadAttention(16, 64, use_bias=False, **k),
            (None, 5, 256),
            {
                "multi_head_attention/query/kernel": 256,
                "multi_head_attention/key/kernel": 256,
                "multi_head_attention/value/kernel": 256,
                "multi_head_attention/attention_output/kernel": 1024,
            },
        ),
    }


@rows_by_layer
@pytest.mark.parametrize("name", layer_kernels())
def test_layers_get_the_right_fan_in(name, row, seed):
    # The weights, 262144 at most, detect an error of 4% in the scale. A fan-in
    # that is wrong by a factor 4 makes an error by a factor 2 or more.
    make, shape, fans = layer_kernels()[name]
    if name in ("EinsumDense", "MultiHeadAttention") and not KERAS_NAMES_AXES:
        pytest.skip(names_axes.kwargs["reason"])
    layer = make(kernel_initializer=row.make())
    layer.build(*[shape] * (2 if name == "MultiHeadAttention" else 1))
    kernels = {weight.path: weight.value for weight in layer.weights}
    assert set(kernels) == set(fans)
    for path, fan_in in fans.items():
        row.assert_drawn(kernels[path], fan_in)
        with pytest.raises(AssertionError, match=detected(row)):
            row.assert_drawn(1.04 * kernels[path], fan_in)


@rows_by_layer
def test_fan_in_overrides_the_shape(row, seed):
    made = row.make(fan_in=64, seed=seed)
    row.assert_drawn(made((16, 65536)), 64)
    axes = row.make(fan_in=64, input_axes=[1], output_axes=[0], seed=seed)
    np.testing.assert_array_equal(axes((16, 64)), made((16, 64)))
    layer = keras.layers.EinsumDense(
        "abc,cde->abde", (None, 64, 64), kernel_initializer=made
    )
    layer.build((None, 5, 16))
    np.testing.assert_array_equal(layer.kernel, made((16, 64, 64)))


@rows_by_layer
def test_axes_override_the_shape(row, seed):
    made = row.make(input_axes=[1], output_axes=[0, 2], seed=seed)
    row.assert_drawn(made((16, 64, 512)), 64)


# ---- Seeds and purity ------------------------------------------------------


@pytest.mark.filterwarnings("ignore:This .* initializer has no seed")
@rows
def test_calls_repeat_and_instances_differ(row, seed):
    made, other = row.make(), row.make()
    weights = made((16, 8))
    np.testing.assert_array_equal(made((16, 8)), weights)
    assert np.mean(np.asarray(other((16, 8))) == weights) < 0.9
    again = row.make(seed=seed)
    np.testing.assert_array_equal(again((16, 8)), row.make(seed=seed)((16, 8)))
    np.testing.assert_array_equal(
        again((16, 8)), row.make(seed=np.int64(seed))((16, 8))
    )


def repeats(initializer, shapes):
    """The number of warnings of a repetition, in calls for these shapes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for shape in shapes:
            initializer(shape)
    return sum("called a second time" in str(each.message) for each in caught)


@rows_with_generator
def test_an_unseeded_instance_warns_once_that_it_repeats(row, seed):
    one, other = (4, 8), (2, 8)
    assert repeats(row.make(), [one] * 5) == 1
    assert repeats(row.make(), [one, other]) == 0
    assert repeats(row.make(), [one, other, one, other]) == 2
    for given in (seed, keras.random.SeedGenerator(seed)):
        assert repeats(row.make(seed=given), [one] * 3) == 0
    in_a_graph = row.make()
    for n in range(2):
        tf.function(lambda n=n: in_a_graph(one) + n, autograph=False)()
    assert repeats(in_a_graph, [one]) == 0
    assert repeats(copy.deepcopy(in_a_graph), [one]) == 1
    assert repeats(in_a_graph.clone(), [one]) == 0


def test_what_does_not_depend_on_the_seed_does_not_warn():
    for initializer in (
        kx.initializers.Dirac(),
        kx.initializers.DiracAverage(),
        kx.initializers.Scaled(kx.initializers.Dirac(), 2),
    ):
        assert repeats(initializer, [(4, 8)] * 3) == 0
    assert repeats(kx.initializers.Dirac(noise=0.1), [(4, 8)] * 3) == 1


def test_scaled_warns_for_the_initializer_inside_of_it():
    inner = kx.initializers.FractionalMoment()
    scaled = kx.initializers.Scaled(inner, 2, [0], [1])
    assert repeats(scaled, [(4, 8)] * 3) == 1


def test_layers_that_share_an_instance_make_it_warn():
    layer, init = keras.layers.Dense, kx.initializers.FractionalMoment()
    with pytest.warns(UserWarning, match="initializer of its own"):
        keras.Sequential(
            [keras.Input((4,))]
            + [layer(4, kernel_initializer=init) for _ in range(5)]
        )


@rows
def test_set_random_seed_covers_seed_none(row, seed):
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(seed)
        drawn.append(np.stack([row.make()((4, 8)), row.make()((4, 8))]))
    np.testing.assert_array_equal(*drawn)
    assert (drawn[0][0] != drawn[0][1]).any()


@rows_with_generator
def test_seed_generators_change_at_each_call_and_copies_restart(row, seed):
    made = row.make(seed=keras.random.SeedGenerator(seed))
    copy = made.clone()
    first, second = np.asarray(made((4, 8))), np.asarray(made((4, 8)))
    assert (first != second).any()
    np.testing.assert_array_equal(copy((4, 8)), first)
    np.testing.assert_array_equal(copy((4, 8)), second)


@pytest.mark.parametrize("seed_of", [int, keras.random.SeedGenerator, None])
@rows_by_layer
def test_attention_kernels_are_equal_unless_unseeded(row, seed_of, seed):
    layer = keras.layers.MultiHeadAttention(
        2,
        4,
        kernel_initializer=row.make(seed=seed_of and seed_of(seed)),
        use_bias=False,
    )
    layer.build((None, 5, 8), (None, 5, 8))
    query, key, value, _ = map(np.asarray, layer.get_weights())
    # The docstrings warn of equal kernels.
    equal = seed_of is not None
    assert (query == key).all() == equal
    assert (query == value).all() == equal


@rows
def test_a_graph_draws_the_same(row, seed):
    made = row.make(seed=seed)
    graph = tf.function(lambda: made((32, 16)), autograph=False)()
    np.testing.assert_allclose(graph, made((32, 16)), rtol=1e-5)


@pytest.mark.slow
@rows_by_layer
def test_xla_draws_from_the_same_distribution(row, seed):
    made = row.make(seed=seed)
    weights = tf.function(lambda: made((64, 1024)), jit_compile=True)()
    row.assert_drawn(weights, 64)
    if isinstance(made, kx.initializers.AlphaStable):
        median = np.median(np.abs(weights / made((64, 1024)) - 1))
        assert median < 1e-6


def test_order_2_is_kaiming_exactly(seed):
    kaiming = keras.initializers.VarianceScaling(
        2.0, "fan_in", "untruncated_normal", seed=seed
    )
    made = kx.initializers.FractionalMoment(2, seed=seed)
    for shape in ((64, 32), (3, 3, 16, 8)):
        np.testing.assert_allclose(made(shape), kaiming(shape), rtol=1e-6)


@rows
def test_symbolic_calls_have_shape_and_dtype(row):
    made = row.make()

    class Weighted(keras.layers.Layer):
        def call(self, x):
            return x + made((3, 2), "float32")

    out = Weighted()(keras.Input((3, 2)))
    assert out.shape == (None, 3, 2)


class Attentive(keras.Layer):
    """Layers that are not built before the first call."""

    def __init__(self, make):
        super().__init__()
        layers = keras.layers
        self.dense = layers.Dense(8, "relu", kernel_initializer=make())
        self.attention = layers.MultiHeadAttention(
            2, 4, kernel_initializer=make()
        )
        self.last = layers.Dense(1, kernel_initializer=make())

    def call(self, x):
        h = self.dense(x)
        return self.last(self.attention(h, h))


class OneOfEach(keras.Model):
    """A subclassed model with a part for each initializer."""

    def __init__(self, makes):
        super().__init__()
        self.parts = [Attentive(make) for make in makes]

    def call(self, x):
        return keras.ops.concatenate([part(x) for part in self.parts], -1)


# The test calls the model's initializers once more.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*called a second time")
def test_lazily_built_model_fits(rng):
    """One model has all rows, so that it is traced once."""
    made = {name: [ROWS[name].make() for _ in range(3)] for name in BY_LAYER}
    model = OneOfEach([iter(each).__next__ for each in made.values()])
    # `fit` builds it symbolically first, in eager mode too.
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    x = rng.standard_normal((8, 5, 4)).astype(np.float32)
    model.fit(x, np.zeros((8, 5, len(made))), verbose=0)
    for (name, (first, _, last)), part in zip(
        made.items(), model.parts, strict=True
    ):
        np.testing.assert_array_equal(
            part.dense.kernel, first((4, 8)), err_msg=name
        )
        np.testing.assert_array_equal(
            part.last.kernel, last((8, 1)), err_msg=name
        )
        assert all(np.isfinite(w).all() for w in part.get_weights()), name


# ---- Dtypes and shapes -----------------------------------------------------

DTYPES = ["float16", "bfloat16", "float32", "float64"]


@rows
@pytest.mark.parametrize(
    "shape", [(), (5,), (4, 0), (2, 3, 4), (2, 2, 3, 4, 5)]
)
def test_any_rank(row, shape):
    weights = row.make()(shape)
    assert weights.shape == shape
    assert weights.dtype == "float32"
    assert np.isfinite(weights).all()


@rows
@pytest.mark.parametrize("dtype", DTYPES)
def test_drawn_in_float32_and_cast_last(row, dtype, seed):
    made = row.make(seed=seed)
    single = tf.constant(made((64, 64), "float32"))
    for name in (dtype, tf.as_dtype(dtype)):
        weights = made((64, 64), dtype=name)
        assert weights.dtype == dtype
        assert np.isfinite(tf.cast(weights, tf.float64)).all()
        expected = tf.cast(
            tf.clip_by_value(single, -65504, 65504)
            if dtype == "float16"
            else single,
            dtype,
        )
        np.testing.assert_array_equal(weights, expected)


def test_default_dtype_is_floatx(monkeypatch):
    made = kx.initializers.FractionalMoment()
    before = keras.config.floatx()
    try:
        keras.config.set_floatx("float64")
        assert made((2, 2)).dtype == "float64"
    finally:
        keras.config.set_floatx(before)


@rows
@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64", "string", 7])
def test_other_dtypes_are_refused(row, dtype):
    with pytest.raises(ValueError, match=r"real numbers. Received: dtype="):
        row.make()((2, 2), dtype=dtype)


@rows
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "float16"])
def test_dtype_policies(row, policy, seed):
    made = row.make(seed=seed)
    layer = keras.layers.Dense(8, kernel_initializer=made, dtype=policy)
    out = layer(np.ones((2, 64), np.float32))
    variable = "float32" if policy == "mixed_bfloat16" else policy
    assert layer.kernel.dtype == variable
    assert out.dtype == policy.removeprefix("mixed_")
    np.testing.assert_array_equal(
        layer.kernel.value, made((64, 8), dtype=variable)
    )


@pytest.mark.parametrize("stability", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_heaviest_tails_are_finite_and_not_all_zero(stability, dtype, seed):
    weights = kx.initializers.AlphaStable(stability, seed=seed)(
        (256, 1024), dtype
    )
    values = tf.cast(weights, tf.float64).numpy()
    assert np.isfinite(values).all()
    assert values.any()


def test_clipping_is_as_rare_as_the_docstring_says(seed):
    # A wide scale, by a fan-in of 1, so that there is something to count.
    made = kx.initializers.AlphaStable(0.5, fan_in=1, seed=seed)
    weights = made((1000, 1000), "float16")
    clipped = np.count_nonzero(np.abs(weights) == np.float16(65504))
    c = kx.theory.stable_weight_scale(0.5, 1)
    tail = 2 / np.pi * special.gamma(0.5) * np.sin(np.pi / 4)
    # The next term of the tail is smaller by a factor of sqrt(c / M) < 1%.
    expected = 1e6 * tail * np.sqrt(c / 65504)
    assert abs(clipped - expected) < 6 * np.sqrt(expected) + 0.01 * expected
    assert expected > 100


# ---- Configs and files -----------------------------------------------------


@rows
def test_config_round_trip(row, seed):
    made = row.make(fan_in=12, seed=seed)
    config = made.get_config()
    assert json.loads(json.dumps(config)) == config
    for other in (
        type(made).from_config(config),
        made.clone(),
        keras.initializers.deserialize(keras.initializers.serialize(made)),
        copy.deepcopy(made),
        pickle.loads(pickle.dumps(made)),
    ):
        assert type(other) is type(made)
        assert other.get_config() == config
        np.testing.assert_array_equal(other((6, 4)), made((6, 4)))


@rows
def test_config_holds_every_argument(row):
    made = row.make()
    config = made.get_config()
    assert set(config) == set(
        inspect.signature(type(made).__init__).parameters
    ) - {"self"}
    # A copy of an unseeded initializer draws other weights.
    assert (
        config.get("initializer", {"config": config})["config"]["seed"] is None
    )
    assert (made.clone()((8, 8)) != made((8, 8))).numpy().any()


@pytest.mark.slow
def test_model_is_saved_loaded_and_cloned(tmp_path, rng):
    """One model has a branch for each row, and so is one file."""
    inputs = keras.Input((5, 8))
    outputs = []
    for name in BY_LAYER:
        make = ROWS[name].make
        h = keras.layers.Dense(
            8, "relu", kernel_initializer=make(), name=f"{name}-dense"
        )(inputs)
        h = keras.layers.MultiHeadAttention(
            2, 4, kernel_initializer=make(), name=f"{name}-attention"
        )(h, h)
        h = keras.layers.Conv1D(
            3, 2, kernel_initializer=make(seed=5), name=f"{name}-seeded"
        )(h)
        outputs.append(h)
    model = keras.Model(inputs, outputs)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    # As JSON, in which tuples are lists.
    config = json.dumps(model.get_config())
    assert json.dumps(loaded.get_config()) == config
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)
    x = rng.standard_normal((2, 5, 8)).astype(np.float32)
    for name, ours, theirs in zip(BY_LAYER, model(x), loaded(x), strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=name)

    cloned = keras.models.clone_model(model)
    for name in BY_LAYER:
        dense, attention, seeded = (
            [m.get_layer(f"{name}-{kind}") for m in (model, cloned)]
            for kind in ("dense", "attention", "seeded")
        )
        for one, other in (dense, attention, seeded):
            key = "kernel_initializer"
            assert one.get_config()[key] == other.get_config()[key], name
        kernels = [layer.get_weights()[0] for layer in dense]
        assert (kernels[0] != kernels[1]).any(), name
        # The seed in the config makes the last kernel again.
        kernels = [layer.get_weights()[0] for layer in seeded]
        np.testing.assert_array_equal(*kernels, err_msg=name)


def test_names_in_strings():
    layer = keras.layers.Dense(
        4, kernel_initializer="keras_initx>FractionalMoment"
    )
    assert isinstance(
        layer.kernel_initializer, kx.initializers.FractionalMoment
    )
    layer.build((None, 3))


def emptied(config):
    """Deletes all that a config holds, at any depth."""
    values = config.values() if isinstance(config, dict) else config
    for value in values:
        if isinstance(value, dict | list):
            emptied(value)
    config.clear()


@rows
def test_changing_a_config_does_not_change_the_initializer(row, seed):
    axes = {"input_axes": [0], "output_axes": [1]}
    made = row.make(seed=seed, **axes)
    before = np.asarray(made((4, 4)))
    config = copy.deepcopy(made.get_config())
    emptied(made.get_config())
    assert made.get_config() == config
    np.testing.assert_array_equal(made((4, 4)), before)
    # Nor does changing the arguments.
    emptied(axes)
    np.testing.assert_array_equal(made((4, 4)), before)


@pytest.mark.slow
@rows
def test_calls_depend_on_config_shape_and_dtype_only(row, seed):
    made, twin = row.make(seed=seed), row.make(seed=seed)
    before = np.asarray(twin((16, 8)))
    keras.utils.set_random_seed(1)
    made((3, 5))
    made((16, 8), "float16")
    tf.function(lambda: made((2, 2)))()
    row.make()((16, 8))
    floatx = keras.config.floatx()
    try:
        keras.config.set_floatx("float64")
        np.testing.assert_array_equal(made((16, 8), "float32"), before)
    finally:
        keras.config.set_floatx(floatx)
    # The shape may be any sequence of ints.
    np.testing.assert_array_equal(made([np.int64(16), 8]), before)


def test_distribution_parameters_become_plain_numbers(seed):
    distribution = tfd().Normal(
        tf.Variable(0.0), keras.Variable(np.float32(2.0)).value, name="mine"
    )
    made = kx.initializers.FromDistribution(distribution)
    assert made.get_config()["distribution"] == {
        "distribution": "tfp.distributions.Normal",
        "parameters": {"loc": 0.0, "scale": 2.0},
    }
    # The parameters are those at the time of construction.
    distribution.loc.assign(5.0)
    assert (
        kx.initializers.FromDistribution(tfd().Normal(0.0, 2.0), seed=seed)(
            (3, 3)
        )
        .numpy()
        .tolist()
        == kx.initializers.FromDistribution(
            made.get_config()["distribution"], seed=seed
        )((3, 3))
        .numpy()
        .tolist()
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_distribution_of_another_dtype_draws_in_float32(dtype, seed):
    one = tf.ones((), dtype)
    if dtype == "float64":
        one = np.float64(1)
    distribution = tfd().StudentT(5 * one, 0 * one, one)
    assert distribution.dtype == dtype
    weights = kx.initializers.FromDistribution(distribution, seed=seed)(
        (8, 8), dtype
    )
    same = kx.initializers.FromDistribution(
        tfd().StudentT(5.0, 0.0, 1.0), seed=seed
    )((8, 8), dtype)
    np.testing.assert_array_equal(weights, same)


def test_distributions_of_this_package(seed):
    distribution = kx.distributions.AlphaStable(1.5, scale=2.0)
    made = kx.initializers.FromDistribution(
        distribution, preserve_variance=False, seed=seed
    )
    weights = np.abs(made((512, 512))) / 2
    assert_shares(weights, STABLE[1.5], LEVELS)
    config = json.loads(json.dumps(made.get_config()))
    assert config["distribution"]["distribution"] == (
        "keras_initx.distributions.AlphaStable"
    )
    again = kx.initializers.FromDistribution.from_config(config)
    np.testing.assert_array_equal(again((4, 4)), made((4, 4)))
    with pytest.raises(ValueError, match="its variance is inf"):
        kx.initializers.FromDistribution(distribution)
    normal = kx.initializers.FromDistribution(
        kx.distributions.AlphaStable(2.0, scale=3.0), seed=seed
    )((64, 4096))
    assert_shares(np.abs(normal) / he(64), NORMAL, LEVELS)


def test_nested_distributions_round_trip(seed):
    distribution = tfd().Mixture(
        tfd().Categorical(logits=[0.0, 1.0]),
        (tfd().Independent(tfd().Normal(0, 1), 0), mixture()),
    )
    made = kx.initializers.FromDistribution(distribution, seed=seed)
    config = json.loads(json.dumps(keras.initializers.serialize(made)))
    again = keras.initializers.deserialize(config)
    np.testing.assert_array_equal(made((5, 5)), again((5, 5)))


# ---- Scaled ----------------------------------------------------------------


@pytest.mark.parametrize(
    "initializer",
    [
        "he_normal",
        {"class_name": "Constant", "config": {"value": 3.0}},
        keras.initializers.Orthogonal(seed=1),
        keras.initializers.HeUniform,
        kx.initializers.DepthProcess(9, "smooth", seed=1).at(4),
    ],
    ids=["name", "config", "orthogonal", "class", "depth"],
)
@pytest.mark.parametrize("factor", [0.25, -3, 0])
def test_scaled_is_its_initializer_times_the_factor(initializer, factor):
    made = kx.initializers.Scaled(initializer, factor)
    expected = factor * np.asarray(made.initializer((6, 5)))
    np.testing.assert_allclose(made((6, 5)), expected, rtol=1e-6)
    config = json.loads(json.dumps(keras.initializers.serialize(made)))
    again = keras.initializers.deserialize(config)
    assert type(again.initializer) is type(made.initializer)
    assert again.get_config() == made.get_config()


@names_axes
def test_axes_are_passed_on_unless_the_initializer_has_some(seed):
    he_normal = keras.initializers.HeNormal(seed=seed)
    twice = kx.initializers.Scaled(kx.initializers.Scaled(he_normal, 0.5), 6)
    axes = {"input_axes": [0], "output_axes": [1, 2]}
    kernels = []
    for initializer in (twice, he_normal):
        layer = keras.layers.EinsumDense(
            "abc,cde->abde", (None, 4, 5), kernel_initializer=initializer
        )
        layer.build((None, 3, 7))
        kernels.append(np.asarray(layer.kernel))
    np.testing.assert_allclose(kernels[0], 3 * kernels[1], rtol=1e-6)
    seeded = kx.initializers.Scaled("he_normal", 2, seed=seed)
    np.testing.assert_allclose(seeded((4, 5)), 2 * he_normal((4, 5)), rtol=1e-6)
    # The initializer of the user does not change.
    kx.initializers.Scaled(he_normal, 2, **axes)((7, 4, 5))
    assert he_normal.input_axes is None
    own = kx.initializers.FractionalMoment(
        2, input_axes=[2], output_axes=[0, 1], seed=seed
    )
    made = kx.initializers.Scaled(own, 3, **axes)
    np.testing.assert_allclose(made((7, 4, 5)), 3 * own((7, 4, 5)), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_scaled_beyond_the_range_is_clipped(dtype):
    made = kx.initializers.Scaled(keras.initializers.Constant(1e30), -1e30)
    limit = min(tf.as_dtype(dtype).max, tf.float32.max)
    np.testing.assert_array_equal(made((2, 2), dtype), -limit)


# ---- Dirac -----------------------------------------------------------------


def built(kind, shape, value=1.0):
    """Returns the kernel, computed entry by entry."""
    kernel = np.zeros(shape)
    if 0 in shape:
        return kernel
    *window, inputs, outputs = shape
    middle = tuple((size - 1) // 2 for size in window)
    for c in range(inputs):
        for d in range(outputs):
            if kind is kx.initializers.DiracAverage:
                kernel[*middle, c, d] = value / inputs
            elif c == d % inputs:
                kernel[*middle, c, d] = value
    return kernel


DIRAC = (kx.initializers.DiracAverage, kx.initializers.Dirac)
diracs = pytest.mark.parametrize("kind", DIRAC)


@diracs
@pytest.mark.parametrize("value", [1.0, -100.0])
@pytest.mark.parametrize(
    "shape",
    [
        *[(3, 7), (7, 3), (1, 1), (5, 3, 7), (3, 5, 4, 8), (1, 1, 4, 8)],
        (3, 1, 5, 2, 6),
        # The center is where padding "same" lays the position.
        *[(2, 3, 3), (4, 2, 3, 3)],
        *[(0, 4), (4, 0), (0, 3, 4)],
    ],
)
def test_the_center_is_that_of_the_formula(kind, shape, value):
    made = kind(value=value)
    np.testing.assert_allclose(made(shape), built(kind, shape, value), 1e-7)
    other = kind(0.25, value, seed=1)
    noise = other(shape) - kind(0.25, 0.0, seed=1)(shape)
    np.testing.assert_allclose(
        noise, 0.75 * built(kind, shape, value), rtol=1e-4, atol=1e-5
    )


@diracs
def test_layers_copy_or_average_channels(kind, rng):
    layers = keras.layers
    options = {"kernel_initializer": kind(), "use_bias": False}
    for layer, shape in (
        (layers.Dense(6, **options), (2, 3)),
        (layers.Conv1D(6, 2, padding="same", **options), (2, 5, 3)),
        (layers.Conv2D(6, (3, 4), padding="same", **options), (2, 5, 6, 3)),
        (layers.Conv3D(6, 3, padding="same", **options), (2, 4, 5, 4, 3)),
    ):
        x = rng.standard_normal(shape).astype(np.float32)
        expected = (
            np.broadcast_to(x.mean(-1, keepdims=True), (*shape[:-1], 6))
            if kind is kx.initializers.DiracAverage
            else np.concatenate([x, x], axis=-1)
        )
        np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-6)


@diracs
def test_groups_are_averaged_and_copied_one_by_one(kind, rng):
    layer = keras.layers.Conv1D(
        4, 3, groups=2, padding="same", kernel_initializer=kind()
    )
    x = rng.standard_normal((2, 5, 4)).astype(np.float32)
    left, right = x[..., :2].mean(-1), x[..., 2:].mean(-1)
    expected = (
        np.stack([left, left, right, right], axis=-1)
        if kind is kx.initializers.DiracAverage
        else x
    )
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-6)


@diracs
def test_named_axes_make_one_matrix(kind):
    flat = built(kind, (6, 4)).reshape(2, 3, 4)
    made = kind(input_axes=[2, 0], output_axes=[-2])
    np.testing.assert_allclose(
        made((3, 4, 2)), flat.transpose(1, 2, 0), rtol=1e-7
    )
    with pytest.raises(ValueError, match="each axis of the kernel once"):
        kind(input_axes=[0], output_axes=[1])((3, 4, 2))


@names_axes
@diracs
def test_axes_of_a_layer_make_one_matrix(kind):
    layer = keras.layers.EinsumDense(
        "abcd,cde->abe", (None, 5), kernel_initializer=kind()
    )
    layer.build((None, 4, 2, 3))
    np.testing.assert_allclose(
        layer.kernel, built(kind, (6, 5)).reshape(2, 3, 5), rtol=1e-7
    )


@diracs
def test_without_noise_xla_builds_the_same(kind):
    made = kind()
    shape = (3, 3, 4, 8)
    compiled = tf.function(lambda: made(shape), jit_compile=True)()
    np.testing.assert_array_equal(compiled, made(shape))


# ---- Bad input -------------------------------------------------------------


def bad_values():
    """Yields a class, its required arguments, a name and values to refuse."""
    fractional, stable = (
        (kx.initializers.FractionalMoment, {}),
        (kx.initializers.AlphaStable, {"stability": 1.5}),
    )
    nan, inf = float("nan"), float("inf")
    for which in (fractional, stable):
        yield *which, "fan_in", [0, -3, 2.5, True, "64", nan]
        yield *which, "input_axes", [[0], 3, "01"]
        yield *which, "output_axes", [[0]]
        yield *which, "seed", [1.5, "1", True, 2**70, [1]]
        yield (
            *which,
            "activation",
            ["tanh", "nonsense", None, abs, keras.activations.relu, ["relu"]],
        )
        yield *which, "dropout_rate", [1, -0.1, 1.1, nan, "1", None]
        # Arguments of other activations.
        yield *which, "negative_slope", [0.1, "0.1"]
        yield *which, "negative_slope_range", [[0.1, 0.3], 0.1]
        leaky = which[0], which[1] | {"activation": "leaky_relu"}
        yield *leaky, "negative_slope", [nan, "0.1", [0.1]]
        random = which[0], which[1] | {"activation": "rrelu"}
        yield (
            *random,
            "negative_slope_range",
            [[0.3, 0.1], [0.1], 0.1, [0.1, inf], "01"],
        )
    yield *fractional, "order", [0, -1, 2.001, nan, inf, "1", None, True, [1.0]]
    yield stable[0], {}, "stability", [0, -1, 2.001, nan, "1.5", None, [1.0]]
    yield stable[0], {}, "stability", [True]
    scaled = kx.initializers.Scaled, {"initializer": "ones", "factor": 2.0}
    yield *scaled, "initializer", [None, "nonsense", 3, abs, {"a": 1}]
    yield *scaled, "factor", [nan, inf, -1e31, "1", None, True, [1.0]]
    yield *scaled, "input_axes", [[0], 3, "01"]
    # The initializer is "ones", which takes no seed.
    yield *scaled, "seed", [1.5, "1", 1]
    delta, paired = kx.initializers.DeltaOrthogonal, kx.initializers.Paired
    yield delta, {}, "gain", [nan, inf, -1e31, "1", None, True, [1.0]]
    yield delta, {}, "groups", [0, -1, 1.5, "2", None, True]
    yield delta, {}, "input_axes", [[0], 3, "01"]
    yield delta, {}, "seed", [1.5, "1", True]
    yield paired, {}, "initializer", [None, "nonsense", 3, abs, {"a": 1}]
    yield paired, {}, "inputs", [0, 2, -1.0, True, "-1", [1]]
    yield paired, {}, "outputs", [0, -2, 1.0, True, "1", [1]]
    yield paired, {}, "scale", [-1, nan, inf, "1", None, True]
    yield paired, {}, "seed", [1.5, "1"]
    yield paired, {"initializer": "ones"}, "seed", [1]
    for dirac in DIRAC:
        yield dirac, {}, "noise", [-0.1, 1.1, nan, "0.1", None, True, [0.1]]
        yield dirac, {}, "value", [nan, inf, -1e31, "1", None, True]
        yield dirac, {}, "scale", [-1, nan, inf, "1", None, True]
        yield dirac, {}, "fan_in", [0, 2.5, True]
        yield dirac, {}, "seed", [1.5, "1"]
    yield *stable, "order", [0, 1.5, 1.6, -1, nan, "s", "Log", None, [0.5]]


BAD = [
    # Functions have no text that is the same in each process but their name.
    pytest.param(
        kind,
        given,
        name,
        value,
        id=f"{kind.__name__}-{name}={getattr(value, '__name__', value)}",
    )
    for kind, given, name, values in bad_values()
    for value in values
]


@pytest.mark.parametrize(("kind", "given", "name", "value"), BAD)
def test_bad_arguments_raise_at_construction(kind, given, name, value):
    with pytest.raises(ValueError, match=rf"Received: .*{name}="):
        kind(**given | {name: value})


def test_the_order_must_be_below_the_stability():
    kx.initializers.AlphaStable(0.8, order=0.79)
    with pytest.raises(ValueError, match=r"Received: order=0.8, stab"):
        kx.initializers.AlphaStable(0.8, order=0.8)


@pytest.mark.parametrize("axes", [([2], [0]), ([0], [-3]), ([0], [5, 1])])
@rows_by_layer
def test_axes_outside_the_kernel_are_refused(row, axes):
    made = row.make(input_axes=axes[0], output_axes=axes[1])
    with pytest.raises(ValueError, match=r"shape is \(4, 5\). Received: "):
        made((4, 5))


class Own:
    """The distribution of a user, which cannot be loaded."""

    @staticmethod
    def distribution():
        class Mine(tfd().Normal):
            pass

        return Mine(0.0, 1.0)


REFUSED = {
    "no variance": (lambda: tfd().Cauchy(0.0, 1.0), "its variance is nan"),
    "infinite": (lambda: tfd().StudentT(2.0, 0.0, 1.0), "its variance is inf"),
    "undefined": (lambda: tfd().StudentT(1.0, 0.0, 1.0), "its variance is nan"),
    "one point": (lambda: tfd().Deterministic(0.0), "its variance is 0.0"),
    "unknown": (
        lambda: tfd().SinhArcsinh(0.0, 1.0, 0.5, 1.0),
        "its variance is nan",
    ),
    "mean": (lambda: tfd().Normal(0.1, 1.0), "its mean is 0.1"),
    "one-sided": (lambda: tfd().Gamma(2.0, 1.0), "its mean is 2"),
    "circle": (lambda: tfd().VonMises(0.0, 1.0), "directions on a circle"),
    "circle inside": (
        lambda: tfd().MixtureSameFamily(
            tfd().Categorical(probs=[0.5, 0.5]), tfd().VonMises(0.0, [1.0, 2.0])
        ),
        "directions on a circle",
    ),
    "batch": (lambda: tfd().Normal([0.0, 0.0], 1.0), "its batch shape must be"),
    "event": (
        lambda: tfd().MultivariateNormalDiag([0.0, 0.0]),
        "its event shape must be",
    ),
    "joint": (
        lambda: tfd().JointDistributionSequential([tfd().Normal(0.0, 1.0)]),
        "its batch shape must be|its event shape must be",
    ),
    "scale": (lambda: tfd().Normal(0.0, -1.0), "must be valid"),
    "nan": (
        lambda: tfd().StudentT(float("nan"), 0.0, 1.0),
        "must be valid|variance",
    ),
    "own class": (Own.distribution, "an instance of a class of"),
    "no distribution": (lambda: "normal", "an instance of a class of"),
    "a class": (lambda: tfd().Normal, "an instance of a class of"),
    "a function inside": (
        lambda: tfd().Autoregressive(
            lambda x: tfd().Normal(x, 1.0), tf.zeros(3)
        ),
        "must be numbers",
    ),
    "a bijector inside": (
        lambda: tfd().TransformedDistribution(
            tfd().Normal(0.0, 1.0),
            importlib.import_module("tensorflow_probability").bijectors.Tanh(),
        ),
        "must be numbers",
    ),
    "complex": (lambda: tfd().Deterministic(1j), "must be numbers"),
}


@pytest.mark.parametrize(
    ("distribution", "reason"), REFUSED.values(), ids=REFUSED
)
def test_distributions_are_refused_with_the_reason(distribution, reason):
    with pytest.raises(ValueError, match=rf"(?s)(?:{reason}).*Received: "):
        kx.initializers.FromDistribution(distribution())


def test_without_preserve_variance_no_moment_is_needed(seed):
    twins = {
        stats.cauchy(1, 2): tfd().Cauchy(1.0, 2.0),
        stats.gamma(2, 0, 3): tfd().Gamma(2.0, 1 / 3),
        stats.vonmises(2): tfd().VonMises(0.0, 2.0),
    }
    for twin, distribution in twins.items():
        make = kx.initializers.FromDistribution
        weights = make(distribution, preserve_variance=False, seed=seed)(
            (512, 512)
        )
        assert_shares(weights, twin.ppf(LEVELS), LEVELS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("preserve_variance", "log"),
        ("preserve_variance", 0.5),
        ("preserve_variance", None),
        ("activation", "nonsense"),
        ("activation", None),
        ("negative_slope", 0.1),
        ("fan_in", 0),
        ("seed", "1"),
    ],
)
def test_bad_arguments_of_from_distribution(name, value):
    with pytest.raises(ValueError, match=rf"Received: .*{name}="):
        kx.initializers.FromDistribution(
            tfd().Normal(0.0, 1.0), **{name: value}
        )


FORM = "must have the keys"
CLASS = "must name a class of tfp.distributions or keras_initx.distributions"
VALID = "parameters must be valid"


def config(name, **parameters):
    return {"distribution": name, "parameters": parameters}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, FORM),
        ({"distribution": "tfp.distributions.Normal"}, FORM),
        (config("tfp.distributions.Normal") | {"parameters": [0, 1]}, FORM),
        (config("os.system", command="true"), CLASS),
        (config("tfp.bijectors.Exp"), CLASS),
        (config("tfp.distributions.__loader__"), CLASS),
        (config("tfp.distributions.kl_divergence"), CLASS),
        (config("tfp.distributions.RegisterKL"), CLASS),
        (config("tfp.distributions.Nothing"), CLASS),
        (config("keras_initx.distributions.Any"), CLASS),
        (config("keras_initx.distributions.alpha_stable.distribution"), CLASS),
        (config(None), CLASS),
        (config(["tfp.distributions.Normal"]), CLASS),
        (
            config(
                "tfp.distributions.Independent",
                distribution=config("subprocess.Popen", args="true"),
            ),
            CLASS,
        ),
        (config("tfp.distributions.Normal", a=1), VALID),
        (config("tfp.distributions.Normal", loc=0.0, scale="1"), VALID),
        (config("tfp.distributions.Normal", loc=0.0, scale=0.0), VALID),
    ],
)
def test_configs_load_distributions_and_nothing_else(config, reason):
    with pytest.raises(ValueError, match=rf"{reason}.*Received: "):
        kx.initializers.FromDistribution(config)


# ---- In another process ----------------------------------------------------

REPLICAS = """
import sys
import warnings

import keras
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
import keras_initx as kx

model = keras.models.load_model(sys.argv[1])
print("sums", *[float(w.sum()) for w in model.get_weights()])

import tensorflow_probability as tfp

MAKERS = [
    lambda: kx.initializers.FractionalMoment(0.8),
    lambda: kx.initializers.AlphaStable(1.5),
    lambda: kx.initializers.FromDistribution(
        tfp.distributions.StudentT(3.0, 0.0, 1.0)
    ),
    lambda: kx.initializers.DepthProcess(
        9, "fractional", hurst=0.7, seed=1
    ).at(4),
    lambda: kx.initializers.Scaled("he_normal", 0.5),
    lambda: kx.initializers.DiracAverage(0.01),
    lambda: kx.initializers.Dirac(0.01),
]

def weights(fit):
    keras.utils.set_random_seed(3)
    layers = [
        keras.layers.Dense(8, "tanh", kernel_initializer=make())
        for make in MAKERS
    ]
    layers += [
        keras.layers.EinsumDense("ab,bc->ac", (8,), kernel_initializer=make())
        for make in MAKERS
    ]
    # Without an Input: built by fit, symbolically first.
    model = keras.Sequential(layers)
    x = np.ones((4, 8), np.float32)
    if fit:
        model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
        model.fit(x, x, batch_size=4, verbose=0)
    else:
        model(x)
    # As large as draws in pieces are.
    large = keras.layers.Dense(1030, kernel_initializer=MAKERS[1]())
    large.build((None, 1030))
    return model.get_weights() + large.get_weights()

alone = weights(fit=False)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    mirrored = weights(fit=True)
    assert strategy.num_replicas_in_sync == 2
kernels = 0
for one, two in zip(alone, mirrored, strict=True):
    # Two logical CPUs share the work in other portions, and TensorFlow's
    # logarithm and root round differently at a portion's end.
    np.testing.assert_allclose(one, two, rtol=2e-5)
    kernels += one.any()
print("equal", kernels)
"""


@pytest.mark.slow
@pytest.mark.isolated
def test_in_another_process_models_load_and_replicas_agree(tmp_path):
    path = tmp_path / "model.keras"
    layers = [
        keras.layers.Dense(3, kernel_initializer=row.make())
        for row in ROWS.values()
    ]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.save(path)
    # A new process, since two logical CPUs must be asked for before
    # TensorFlow starts, and since importing us must be enough to load.
    ran = processes.run_code(REPLICAS, path)
    sums = [float(w.sum()) for w in model.get_weights()]
    assert ran.output.splitlines() == [
        " ".join(["sums", *map(str, sums)]),
        "equal 15",
    ], ran.errors


# ---- Deep networks ---------------------------------------------------------


NETS, DEPTH, WIDTH = 16, 50, 256


def log_norm_growth(initializer, rng):
    """Returns the growth of log |x|_1.5 per layer in each of several nets.

    The nets lie side by side in one model, so that a kernel holds the weights
    of one layer of each.
    """
    x = rng.standard_normal((1, NETS, WIDTH)).astype(np.float32)
    layers = [
        keras.layers.EinsumDense(
            "bni,nij->bnj",
            (NETS, WIDTH),
            activation="relu",
            kernel_initializer=initializer(),
        )
        for _ in range(DEPTH)
    ]
    out = keras.Sequential([keras.Input((NETS, WIDTH)), *layers])(x)
    before, after = (
        np.log(np.sum(np.float64(np.abs(v)) ** 1.5, axis=-1)) / 1.5
        for v in (x, out)
    )
    return (after - before)[0] / DEPTH


def textbook(shape, dtype=None):
    """Returns stable weights of scale fan_in^(-1 / alpha)."""
    made = kx.initializers.AlphaStable(1.5, fan_in=WIDTH)
    scale = kx.theory.stable_weight_scale(1.5, WIDTH)
    return made(shape, dtype) * (WIDTH ** (-1 / 1.5) / scale)


@pytest.mark.slow
def test_stable_weights_neither_explode_nor_vanish_in_50_layers(rng):
    # From layer to layer log |x| moves by independent steps, whose standard
    # deviation at 256 units is 0.433. A band of 6 of those of their mean, here
    # 0.092: false alarms are below 1e-8.
    band = 6 * 0.433 / np.sqrt(NETS * DEPTH)
    ours = log_norm_growth(
        lambda: kx.initializers.AlphaStable(1.5, fan_in=WIDTH), rng
    )
    assert abs(ours.mean()) < band
    # The textbook's scale: log(0.024803 / 0.0171705) a layer.
    theirs = log_norm_growth(lambda: textbook, rng)
    assert abs(theirs.mean() - 0.3677) < band
    assert 4 * band < 0.3677
