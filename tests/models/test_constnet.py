"""Tests of the networks whose features start identical."""

import json
import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx
from keras_initx.models import ConstNet, LeakyNet

ROOT = Path(kx.__file__).parent.parent


def outputs_of(model, x, ending):
    """Returns the outputs of the layers whose names have this ending."""
    outputs = {
        layer.name: layer.output
        for layer in model.layers
        if layer.name.endswith(ending)
    }
    values = keras.Model(model.input, outputs)(x)
    return {name: np.asarray(values[name], np.float64) for name in outputs}


def spread(values):
    """Returns 0 only if all entries along the last axis are equal."""
    return np.abs(values - values[..., :1]).max()


# ---- ConstNet --------------------------------------------------------------


def test_the_network_of_the_paper_has_its_sizes_and_weights(rng):
    model = ConstNet()
    assert sum(w.numpy().size for w in model.trainable_weights) == 17_115_354
    convs = {
        layer.name: layer.kernel.numpy()
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D)
    }
    assert len(convs) == 1 + 12 + 3
    nonzero = {k: np.count_nonzero(w) for k, w in convs.items() if w.any()}
    assert nonzero == {
        "stem": 48,
        "group1_block1_skip": 2_560,
        "group2_block1_skip": 51_200,
        "group3_block1_skip": 204_800,
    }
    for name, count in nonzero.items():
        inputs, outputs = convs[name].shape[-2:]
        assert count == inputs * outputs
        assert convs[name].sum() == pytest.approx(outputs, rel=1e-5)
    x = rng.standard_normal((1, 32, 32, 3)).astype(np.float32)
    blocks = outputs_of(model, x, "_add")
    assert [v.shape[1:] for v in blocks.values()] == [
        *[(32, 32, 160)] * 4,
        *[(16, 16, 320)] * 4,
        *[(8, 8, 640)] * 4,
    ]
    for name, values in blocks.items():
        assert spread(values) == 0, name
        assert values.std() > 0, name


def small(**options):
    return ConstNet(
        **{
            "depth": 10,
            "width_multiplier": 2,
            "classes": 3,
            "input_shape": (8, 8, 3),
        }
        | options
    )


def compiled(model, rate=0.05, in_a_graph=False):
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # Two steps take less time than a graph of them.
        run_eagerly=not in_a_graph,
        jit_compile=False,
    )
    return model


@pytest.mark.parametrize("classes", [3, 10, 100])
def test_the_first_loss_is_log_classes(classes, rng):
    x = rng.standard_normal((5, 8, 8, 3)).astype(np.float32)
    y = rng.integers(classes, size=5)
    for model in (
        small(classes=classes),
        small(classes=classes, random_init=True),
        LeakyNet("1_i1_i1_i1", 1, classes, (8, 8, 3)),
    ):
        logits = model(x)
        loss = keras.losses.sparse_categorical_crossentropy(
            y, logits, from_logits=True
        )
        assert float(tf.reduce_mean(loss)) == pytest.approx(math.log(classes))
        np.testing.assert_array_equal(logits, np.zeros((5, classes)))


def test_a_block_adds_what_its_formula_says(rng):
    """Compares with NumPy for random weights, at inference."""
    model = ConstNet(7, 2, 3, (6, 7, 2))
    model.set_weights(
        [
            rng.uniform(0.1, 0.5, w.shape) - 0.2 * (w.ndim == 4)
            for w in model.get_weights()
        ]
    )
    x = rng.standard_normal((2, 6, 7, 2))

    def weights(name):
        layer = model.get_layer(name)
        return [np.asarray(w, np.float64) for w in layer.get_weights()]

    def conv(x, kernel, strides=1):
        k = kernel.shape[0] // 2
        padded = np.pad(x, [(0, 0), (k, k), (k, k), (0, 0)])
        rows, columns = x.shape[1:3]
        every = sum(
            padded[:, i : i + rows, j : j + columns] @ kernel[i, j]
            for i in range(kernel.shape[0])
            for j in range(kernel.shape[1])
        )
        return every[:, ::strides, ::strides]

    h = conv(x, *weights("stem"))
    for group, strides in enumerate((1, 2, 2), 1):
        block = f"group{group}_block1"
        gamma, beta, mean, variance = weights(f"{block}_bn")
        start = (h - mean) / np.sqrt(variance + 1e-5) * gamma + beta
        start = np.maximum(start, 0)
        branch = conv(start, *weights(f"{block}_conv"), strides)
        h = conv(start, *weights(f"{block}_skip"), strides) + branch
    kernel, bias = weights("logits")
    expected = np.maximum(h, 0).mean((1, 2)) @ kernel + bias
    np.testing.assert_allclose(model(x.astype(np.float32)), expected, 1e-4)


def test_random_init_and_noise_have_the_variances_of_the_authors(seed):
    # The mean square of n normal weights has the deviation sqrt(2 / n). A band
    # of 6 deviations has false alarms below 1e-8 for each kernel. It detects
    # fan-in in place of fan-out (a factor 2 and more), and a factor 2 in all
    # kernels of more than 1000 weights.
    random, noisy = (
        {
            layer.name: layer.kernel.numpy().astype(np.float64)
            for layer in model.layers
            if isinstance(layer, keras.layers.Conv2D)
        }
        for model in (
            ConstNet(7, 8, random_init=True),
            ConstNet(7, 8, noise=0.01),
        )
    )
    for name, kernel in random.items():
        *window, inputs, outputs = kernel.shape
        scale = 2 if name.endswith("_conv") else 1
        variance = scale / (math.prod(window) * outputs)
        band = 6 * math.sqrt(2 / kernel.size)
        assert np.mean(kernel**2) == pytest.approx(variance, rel=band), name
        kernel = noisy[name]
        if name.endswith("_conv"):
            variance *= 0.01
        else:
            middle = tuple(size // 2 for size in window)
            kernel[middle] -= 0.99 / inputs
            variance = 0.01 / (math.prod(window) * inputs)
        assert np.mean(kernel**2) == pytest.approx(variance, rel=band), name
    assert not np.any(
        ConstNet(7, 1, random_init=True).get_layer("logits").kernel
    )


def test_dropout_layers():
    def dropouts(model):
        return [
            layer.rate
            for layer in model.layers
            if isinstance(layer, keras.layers.Dropout)
        ]

    assert dropouts(small()) == []
    assert dropouts(small(dropout=0.01)) == [0.01] * 6
    assert dropouts(LeakyNet("i_ii_ii_ii", 1, dropout=0.1)) == [0.1] * 6


# ---- LeakyNet --------------------------------------------------------------


def passed_on(group):
    """Returns the channel of the image that each channel of a group copies."""
    channels = np.arange(16) % 3
    for outputs in [32 * 2**g for g in range(group + 1)]:
        channels = channels[np.arange(outputs) % len(channels)]
    return channels


@pytest.mark.parametrize("slope", [0.01, 1 / 128, 1 / 3, 1.0])
@pytest.mark.parametrize("letters", ["i_ii_ii_ii", "i_iiii_iiii_iiii"])
def test_pairs_are_minus_the_identity(slope, letters, rng):
    model = LeakyNet(
        letters, 2, 3, (16, 16, 3), negative_slope=slope, batch_norm=False
    )
    x = rng.standard_normal((2, 16, 16, 3)).astype(np.float32)
    pairs = outputs_of(model, x, "_relu")
    n = len(letters.split("_")[1])
    exact = math.log2(slope).is_integer()
    for i, (name, values) in enumerate(pairs.items()):
        group, layer = divmod(i, n)
        expected = x[:, :: 2**group, :: 2**group]
        expected = np.float64(expected[..., passed_on(group)])
        if i % 2:
            sign = (-1) ** (i // 2 + 1)
            assert name == f"group{group + 1}_layer{layer + 1}_relu"
            np.testing.assert_allclose(
                values, sign * expected, rtol=0 if exact else 1e-5
            )


def test_averages_are_of_rank_1_and_identities_are_not(rng):
    x = rng.standard_normal((4, 8, 8, 3)).astype(np.float32)
    for letters, rank in (("i_ii_ii_ii", 3), ("i_11_ii_ii", 1)):
        model = LeakyNet(letters, 1, 3, (8, 8, 3), batch_norm=False)
        (values,) = outputs_of(model, x, "pool").values()
        assert np.linalg.matrix_rank(values, tol=1e-4) == rank
        assert (spread(values) < 1e-5) == (rank == 1)


def test_initializers_of_the_letters_are_those_of_the_authors():
    model = LeakyNet("h_ik_1a_hh", 1, negative_slope=0.25)
    found = {
        layer.name: layer.kernel_initializer
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D)
    }
    scale = math.sqrt(2) * 1.25
    assert [
        (type(w).__name__, w.noise, w.value, w.scale) for w in found.values()
    ] == [
        ("DiracAverage", 1.0, 1.0, scale),
        ("Dirac", 0.0, 1.0, scale),
        ("Dirac", 0.01, -4.0, scale),
        ("DiracAverage", 0.0, 1.0, scale),
        ("DiracAverage", 0.01, -4.0, scale),
        ("DiracAverage", 1.0, 1.0, scale),
        ("DiracAverage", 1.0, -4.0, scale),
    ]
    # With an odd number of layers in a group, pairs extend over its end.
    odd = LeakyNet("1_iii_iii_iii", 1, negative_slope=0.25)
    values = [
        layer.kernel_initializer.value
        for layer in odd.layers
        if layer.name.endswith("_conv")
    ]
    assert values == [1, -4, 1, -4, 1, -4, 1, -4, 1]
    assert sum("_bn" in layer.name for layer in odd.layers) == 4


@pytest.mark.parametrize(
    ("letters", "names"),
    [
        ("1_i_i_i", ["dirac_average", "dirac", "dirac", "dirac"]),
        (
            "h_ik_1a_hh",
            [
                *["random", "dirac", "noisy_dirac"],
                *["dirac_average", "noisy_dirac_average", "random", "random"],
            ],
        ),
        (
            "1_ii11_ii11_ii11",
            (
                "dirac_average",
                *3 * ("dirac", "dirac", "dirac_average", "dirac_average"),
            ),
        ),
    ],
)
def test_names_and_letters_make_the_same_network(letters, names):
    configs = []
    for initialization in (letters, names):
        keras.utils.set_random_seed(1)
        model = LeakyNet(initialization, 1, 3, (8, 8, 3))
        configs.append(model.get_config())
    assert configs[0] == configs[1]


def test_the_default_start_is_that_of_the_authors():
    assert (
        LeakyNet(width_multiplier=1).get_config()
        == LeakyNet("1_ii11_ii11_ii11", 1).get_config()
    )


def test_every_weight_has_a_role():
    model = LeakyNet("1_i1_i1_i1", 1)
    roles = [g.role for g in kx.inspection.kernel_geometry(model).values()]
    assert "unknown" not in roles
    assert roles.count("bias") == 6 + 1


# ---- As any Keras model ----------------------------------------------------

MODELS = {
    "const": lambda: small(dropout=0.01),
    "noise": lambda: small(noise=0.01),
    "random": lambda: small(random_init=True),
    "leaky": lambda: LeakyNet("1_k1_ai_hh", 1, 3, (8, 8, 3), dropout=0.01),
}
models = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


@pytest.fixture
def x(rng):
    return rng.standard_normal((4, 8, 8, 3)).astype(np.float32)


@pytest.mark.slow
@models
def test_saved_loaded_cloned_and_compiled_by_xla(make, x, tmp_path):
    model = make()
    model.set_weights([w + 0.01 for w in model.get_weights()])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), model(x))
    config = json.dumps(model.get_config())
    assert json.dumps(loaded.get_config()) == config
    cloned = keras.models.clone_model(model)
    assert [w.path for w in cloned.weights] == [w.path for w in model.weights]
    assert [w.shape for w in cloned.weights] == [w.shape for w in model.weights]
    # The other models differ in their weights alone.
    if make in (MODELS["const"], MODELS["leaky"]):
        xla = tf.function(model, jit_compile=True)(x)
        np.testing.assert_allclose(xla, model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("make", [MODELS["const"], MODELS["leaky"]])
def test_mixed_precision(make, x):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = compiled(make(), in_a_graph=make is MODELS["const"])
        start = model.get_layer("stem").kernel.numpy()
        for _ in range(2):
            model.train_on_batch(x, np.arange(4) % 3)
        assert model.compute_dtype == "bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    assert all(w.dtype == "float32" for w in model.trainable_weights)
    assert all(np.isfinite(w).all() for w in model.get_weights())
    # Behind the logits, which start at 0, weights train from the second step.
    stem = model.get_layer("stem").kernel.numpy()
    assert (stem != start).any()


@models
def test_names_and_weights_are_the_same_each_time(make):
    found = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        found.append(make())
    one, two = found
    assert [w.path for w in one.weights] == [w.path for w in two.weights]
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "make",
    [
        lambda shape: ConstNet(7, 1, 3, shape),
        lambda shape: LeakyNet("1_i1_i1_i1", 1, 3, shape),
    ],
)
@pytest.mark.parametrize("shape", [(None, None, 1), [5, 9, 4], (1, 1, 2)])
def test_any_size_of_image(make, shape, rng):
    model = make(shape)
    size = [n or 11 for n in shape]
    assert model(rng.standard_normal((2, *size))).shape == (2, 3)


def test_arguments_from_numpy_can_be_saved():
    n = np.int64
    for model in (
        ConstNet(n(7), n(1), n(3), (n(8), n(8), n(3)), np.float32(0.5)),
        ConstNet(7, 1, 3, (8, 8, 3), 0.0, np.float64(0.5), np.bool_(False)),
        LeakyNet("1_i1_i1_i1", n(1), n(3), (8, 8, n(3)), np.float32(0.5)),
    ):
        json.loads(json.dumps(model.get_config()))


def test_channels_are_last_for_every_data_format(x):
    kept = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        assert small()(x).shape == (4, 3)
        assert LeakyNet("1_i1_i1_i1", 1, 3, (8, 8, 3))(x).shape == (4, 3)
    finally:
        keras.config.set_image_data_format(kept)


# ---- Bad input -------------------------------------------------------------

NAN = float("nan")
BOTH = {
    "width_multiplier": [0, 1.5, "1", None, True],
    "classes": [0, -1, 2.0, None],
    "input_shape": [
        *[(32, 32), (32, 32, None), 3, None, "abc", (0, 8, 3)],
        *[(8, 8, 3, 1), (8.0, 8, 3), (8, 8, "3")],
    ],
    "dropout": [1, 1.5, -0.1, NAN, "0.1", None],
}
BAD = {
    ConstNet: BOTH
    | {
        "depth": [4, 5, 12, 1, -2, 16.0, "16", None, True],
        "noise": [-0.1, 1.1, NAN, "0", None],
    },
    LeakyNet: BOTH
    | {
        "initialization": [
            *["", "1", "1_i_i", "1_ii_i_i", "11_i_i_i", "1_x_i_i", "1___"],
            *["1_i_i_i_i", "_i_i_i", "1-i-i-i", 1, None, ["1_i_i_i"]],
            *[[], ["dirac"], ["dirac"] * 3, ["dirac"] * 5, ["dirac", 1, 1, 1]],
            *[["i"] * 4, ["dirac", "dirac", "dirac", "average"]],
        ],
        "negative_slope": [0, -0.1, 1.1, 1e-7, NAN, "0.1", None],
    },
}
CASES = [
    pytest.param(make, name, value, id=f"{make.__name__}-{name}={value}")
    for make, names in BAD.items()
    for name, values in names.items()
    for value in values
]


@pytest.mark.parametrize(("make", "name", "value"), CASES)
def test_bad_arguments(make, name, value):
    with pytest.raises(
        ValueError, match=rf"(?s){name} must.*Received: {name}="
    ):
        make(**{name: value})


def test_random_init_is_a_bool():
    with pytest.raises(ValueError, match="random_init must be True or False"):
        ConstNet(7, 1, random_init="no")


def test_slopes_that_float16_cannot_invert_are_refused():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with pytest.raises(ValueError, match="under the policy mixed_float16"):
            LeakyNet("i_i_i_i", 1, negative_slope=1e-6)
    finally:
        keras.config.set_dtype_policy(before)


def test_layers_of_a_leakynet():
    model = LeakyNet("1_ii_ii_ii", 1, input_shape=(8, 8, 1))
    kinds = [type(layer).__name__ for layer in model.layers]
    # There is one after each layer of the groups, and one before the logits.
    assert kinds.count("LeakyReLU") == 7
    norms = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(norms) == 3
    assert {(layer.momentum, layer.epsilon) for layer in norms} == {(0.9, 1e-5)}


def test_noise_with_random_init_is_refused():
    with pytest.raises(ValueError, match=r"noise must be 0 with random_init"):
        ConstNet(noise=0.01, random_init=True)
