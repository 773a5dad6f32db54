"""Tests of models that are drawn at the fans of their layers."""

import hashlib
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx
from tests.helpers import processes

L = keras.layers
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import layer_variance  # noqa: E402

SCALINGS = {
    "VarianceScaling": keras.initializers.VarianceScaling(),
    "FractionalMoment": kx.initializers.FractionalMoment(
        order=2, activation="linear"
    ),
}
DTYPES = ("float32", "mixed_bfloat16", "bfloat16")


# Wider layers, which have enough weights after fewer draws.
WIDER = {
    "DepthwiseConv1D": {"shape": (12, 2048), "count": 10240},
    "DepthwiseConv2D": {"shape": (6, 6, 2048), "count": 18432},
    "DepthwiseConv2D, multiplier 2": {"shape": (6, 6, 1024), "count": 18432},
    "SeparableConv1D": {"shape": (12, 1024), "count": 5120},
    "SeparableConv2D": {"shape": (6, 6, 1024), "count": 9216},
    # The mean square of a score over inputs is the sum of the squared weights.
    "AdditiveAttention": {
        "shape": (4096,),
        "count": 4096,
        "output": lambda layer, x: 64 * np.asarray(layer.scale),
        "outputs": None,
    },
}


@pytest.fixture
def policy():
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("name", layer_variance.CASES)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_output_variance_is_one(name, scaling, seed):
    """The relative standard deviation is 0.6% at most: false alarms below 1e-6.

    The test detects any wrong fan, which is off by a quarter or more.
    """
    case = layer_variance.CASES[name]._replace(**WIDER.get(name, {}))
    found = layer_variance.with_initialize(
        case, SCALINGS[scaling], seed % 2**31
    )
    assert found == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("name", ["DepthwiseConv2D", "Conv2DTranspose"])
@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_output_variance_is_one_in_other_dtypes(name, dtype, seed, policy):
    policy(dtype)
    # Rounding moves a bfloat16 weight by up to 0.4%, either way.
    test_output_variance_is_one(name, "VarianceScaling", seed)


def attention(seed=None):
    inputs = keras.Input((6, 64))
    outputs = L.MultiHeadAttention(4, 16, name="attention")(inputs, inputs)
    return keras.Model(inputs, outputs)


def singular_values(weight, geometry):
    maps = kx.inspection.to_matrices(np.asarray(weight, np.float32), geometry)
    return np.linalg.svd(maps, compute_uv=False)


ORTHOGONAL = {
    "dense": (lambda: L.Dense(48), (64,)),
    "wide": (lambda: L.Dense(96), (64,)),
    "conv": (lambda: L.Conv2D(64, 3), (8, 8, 32)),
    "groups": (lambda: L.Conv2D(64, 3, groups=4), (8, 8, 32)),
    "transposed": (lambda: L.Conv2DTranspose(48, 3), (8, 8, 32)),
    "depthwise": (lambda: L.DepthwiseConv2D(3), (8, 8, 32)),
    "lstm": (lambda: L.LSTM(32), (5, 24)),
    "gru": (lambda: L.GRU(32), (5, 24)),
    "conv lstm": (lambda: L.ConvLSTM1D(16, 3), (5, 9, 8)),
    "batched": (lambda: L.EinsumDense("bgi,gio->bgo", (4, 16)), (4, 24)),
}


@pytest.mark.parametrize("dtype", (*DTYPES, "float16", "float64"))
@pytest.mark.parametrize("name", ORTHOGONAL)
def test_each_map_is_orthogonal(name, dtype, policy):
    policy(dtype)
    make, shape = ORTHOGONAL[name]
    layer = make()
    # Keras itself cannot draw orthogonal weights in bfloat16.
    if hasattr(layer, "recurrent_initializer"):
        layer.cell.recurrent_initializer = keras.initializers.Zeros()
    layer.build((None, *shape))
    kx.initialize(layer, "orthogonal", seed=3)
    tolerance = {"bfloat16": 0.03, "float16": 0.004}.get(dtype, 1e-5)
    kinds = kx.inspection.kernel_geometry(layer)
    found = [
        singular_values(weight, geometry)
        for weight, geometry in zip(layer.weights, kinds.values(), strict=True)
        if geometry.split_shape
    ]
    assert found
    for values in found:
        assert np.allclose(values, 1, atol=tolerance)


def test_attention_kernels_are_one_orthogonal_map_and_differ():
    model = attention()
    kx.initialize(model, "orthogonal", seed=1)
    kernels = [w for w in model.get_weights() if w.ndim == 3]
    for kernel in kernels[:3]:
        values = np.linalg.svd(kernel.reshape(64, 64), compute_uv=False)
        assert np.allclose(values, 1, atol=1e-5)
    for i, a in enumerate(kernels[:3]):
        assert not any(np.allclose(a, b) for b in kernels[:i])


def test_orthogonal_weights_do_not_run_the_threads_of_numpy(monkeypatch):
    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(np.linalg, "qr", refuse)
    layer = L.Dense(4)
    layer.build((None, 6))
    kx.initialize(layer, "orthogonal", seed=1)


def test_an_orthogonal_embedding_has_unit_variance():
    layer = L.Embedding(500, 40)
    layer.build()
    kx.initialize(layer, keras.initializers.Orthogonal(), seed=1)
    # Its columns are orthonormal, times the root of the number of rows.
    assert np.mean(np.square(layer.embeddings)) == pytest.approx(1, rel=1e-5)


def transformer():
    tokens = keras.Input((7,), dtype="int32", name="tokens")
    x = L.Embedding(50, 16, name="embed")(tokens)
    y = L.MultiHeadAttention(2, 8, name="attend")(x, x)
    x = L.LayerNormalization(name="norm")(x + y)
    y = L.Dense(32, "gelu", name="up")(x)
    y = L.Dense(16, name="down")(y)
    return keras.Model(tokens, L.Dense(3, name="head")(x + y))


def test_the_same_seed_gives_the_same_model_bit_for_bit():
    first = transformer()
    kx.initialize(first, kx.initializers.FractionalMoment(), seed=5)
    # Neither other layers, named before, nor earlier weights matter.
    keras.Sequential([keras.Input((3,)), L.Dense(2), L.Dense(2)])
    second = transformer()
    kx.initialize(second, "zeros", seed=1)
    kx.initialize(second, kx.initializers.FractionalMoment(), seed=5)
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        assert np.array_equal(a, b)
    kx.initialize(second, kx.initializers.FractionalMoment(), seed=6)
    assert not np.array_equal(
        first.get_layer("up").kernel, second.get_layer("up").kernel
    )


@pytest.mark.isolated
def test_the_same_seed_in_another_process():
    """The weights are equal, whatever layers that process made before."""
    model = transformer()
    kx.initialize(model, kx.initializers.FractionalMoment(), seed=11)
    here = hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights()))
    code = (
        "import hashlib, keras, keras_initx as kx\n"
        "from tests.initialization import test_initialize as t\n"
        "keras.layers.Dense(1)\n"
        "model = t.transformer()\n"
        "kx.initialize(model, kx.initializers.FractionalMoment(), seed=11)\n"
        "bits = b''.join(w.tobytes() for w in model.get_weights())\n"
        "print(hashlib.sha256(bits).hexdigest())"
    )
    ran = processes.run_code(code)
    assert ran.output.split()[-1:] == [here.hexdigest()], ran.errors


def test_a_fresh_seed_by_default():
    keras.utils.set_random_seed(3)
    first, again = named("a", "b"), named("a", "b")
    done = kx.initialize(first, "he_normal")
    assert f"Seed: {done.seed}" in str(done)
    assert f"Seed: {done.seed}" in done._repr_html_()
    assert kx.initialize(again, "he_normal").seed != done.seed
    assert not np.array_equal(first.get_weights()[0], again.get_weights()[0])
    kx.initialize(again, "he_normal", seed=done.seed)
    assert np.array_equal(first.get_weights()[0], again.get_weights()[0])
    keras.utils.set_random_seed(3)
    named("a", "b"), named("a", "b")
    assert kx.initialize(again, "he_normal").seed == done.seed


def named(*names):
    return keras.Sequential(
        [keras.Input((8,)), *(L.Dense(8, name=name) for name in names)]
    )


def test_another_layer_changes_no_other():
    few, more = named("a", "b"), named("a", "new", "b")
    for model in (few, more):
        kx.initialize(model, "he_normal", seed=2)
    for name in "ab":
        assert np.array_equal(
            few.get_layer(name).kernel, more.get_layer(name).kernel
        )
    part = named("a", "b")
    kx.initialize(part, "he_normal", seed=2, layers="b")
    assert np.array_equal(part.get_layer("b").kernel, few.get_layer("b").kernel)


@pytest.mark.slow
def test_no_two_weights_are_equal():
    model = keras.Sequential(
        [keras.Input((8,)), *(L.Dense(8) for _ in range(300))]
    )
    done = kx.initialize(model, kx.initializers.AlphaStable(1.5), seed=9)
    seeds = [row.seed for row in done.initialized if row.seed is not None]
    assert len(seeds) == len(set(seeds)) == 300
    sums = {float(w.sum()) for w in model.get_weights() if w.ndim == 2}
    assert len(sums) == 300


def test_equal_seeds_are_folded_again(monkeypatch):
    monkeypatch.setattr(
        sys.modules["keras_initx.initialization.plan"],
        "folded_seed",
        lambda seed, name, again=0: seed + again,
    )
    model = named("a", "b", "c")
    done = kx.initialize(model, "he_normal", seed=2)
    assert [row.seed for row in done.rows if row.role == "kernel"] == [2, 4, 6]


def test_values_of_each_role():
    model = keras.Sequential(
        [
            keras.Input((9, 6)),
            L.BatchNormalization(name="norm"),
            L.PReLU(name="slope", alpha_initializer="ones"),
            L.LSTM(5, name="lstm"),
        ]
    )
    model.set_weights([w + 3 for w in model.get_weights()])
    done = kx.initialize(model, "he_normal", seed=1, bias_initializer="zeros")
    assert not done.skipped
    norm = model.get_layer("norm")
    for weight, value in (
        (norm.gamma, 1),
        (norm.beta, 0),
        (norm.moving_mean, 0),
        (norm.moving_variance, 1),
        (model.get_layer("slope").alpha, 1),
    ):
        assert (np.asarray(weight) == value).all()
    bias = np.asarray(model.get_layer("lstm").cell.bias)
    assert bias.tolist() == [0] * 5 + [1] * 5 + [0] * 10


def test_bias_initializer():
    layer = L.Dense(4)
    layer.build((None, 3))
    layer.bias.assign([1, 2, 3, 4])
    done = kx.initialize(layer, "he_normal", seed=1, bias_initializer=None)
    assert np.array_equal(layer.bias, [1, 2, 3, 4])
    assert done.skipped == {"bias": "not asked for"}
    kx.initialize(layer, "he_normal", seed=1, bias_initializer="random_normal")
    assert np.std(layer.bias) > 0


def test_each_skipped_weight_has_a_name_of_its_own():
    class Pair(L.Layer):
        """Gives two weights one name, and holds two layers of one name."""

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.unbuilt = [L.Dense(2, name="rest") for _ in range(2)]

        def build(self, shape):
            self.parts = [
                self.add_weight(shape=(2,), name="part") for _ in range(2)
            ]

        def call(self, x):
            return x

    pairs = [Pair(name="pair"), Pair(name="other")]
    model = keras.Sequential([keras.Input((4,)), *pairs])
    done = kx.initialize(model, "he_normal", seed=1)
    unknown, unbuilt = "unknown: see inspection.register_layer", "not built"
    assert done.skipped == {
        f"{pair}/{name}": reason
        for pair in ("pair", "other")
        for name, reason in (
            ("part", unknown),
            ("part:2", unknown),
            ("rest", unbuilt),
            ("rest:2", unbuilt),
        )
    }
    assert repr(done).endswith("0 initialized, 8 skipped>")


def test_skipped_weights_are_listed():
    class Odd(L.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(2, 3), name="w")

        def call(self, x):
            return x

    frozen, lora = L.Dense(4, name="frozen"), L.Dense(4, name="lora")
    model = keras.Sequential(
        [keras.Input((4,)), Odd(name="odd"), frozen, lora, L.Dense(2)]
    )
    frozen.trainable = False
    lora.enable_lora(2)
    before = {w.path: np.asarray(w) for w in model.weights}
    done = kx.initialize(model, "he_normal", seed=1)
    assert done.skipped == {
        "odd/w": "unknown: see inspection.register_layer",
        "frozen/kernel": "frozen",
        "frozen/bias": "frozen",
        "lora/kernel": "LoRA adapter",
        "lora/bias": "LoRA adapter",
        "lora/lora_kernel_a": "LoRA adapter",
        "lora/lora_kernel_b": "LoRA adapter",
    }
    changed = {
        w.path.split("/")[-2]
        for w in model.weights
        if not np.array_equal(before[w.path], w)
    }
    assert changed == {"dense"}
    assert "unknown: see inspection.register_layer" in str(done)
    assert "<table>" in done._repr_html_()
    assert repr(done) == (
        "<Initialization of 9 weights: 2 initialized, 7 skipped>"
    )


def test_layers_pick_all_that_is_inside():
    model = transformer()
    before = [w.copy() for w in model.get_weights()]
    done = kx.initialize(
        model, "he_normal", seed=1, layers=[L.MultiHeadAttention, "head"]
    )
    drawn = {row.name.split("/")[0] for row in done.initialized}
    assert drawn == {"attend", "head"}
    for weight, old, row in zip(
        model.get_weights(), before, done.rows, strict=True
    ):
        if row.skipped:
            assert np.array_equal(weight, old)


def test_a_function_of_the_layer():
    process = kx.initializers.DepthProcess(3, "smooth", seed=4)
    model = named("a", "b", "c")

    def choose(layer):
        index = "abc".index(layer.name)
        return None if index == 1 else process.at(index)

    done = kx.initialize(model, choose, seed=1)
    assert list(done.skipped) == ["b/kernel"]
    for index, name in ((0, "a"), (2, "c")):
        expected = process.at(index)((8, 8))
        assert np.array_equal(model.get_layer(name).kernel, expected)


def test_one_layer_of_a_process_cannot_draw_two_weights():
    process = kx.initializers.DepthProcess(3, "smooth", seed=4)
    model = named("a", "b")
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"stream.*'b/kernel'"):
        kx.initialize(model, process.at(0), seed=1)
    for old, new in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(old, new)


def test_scaled_multiplies_the_weights_of_its_initializer():
    layer, plain = L.DepthwiseConv2D(3), L.DepthwiseConv2D(3)
    for each in (layer, plain):
        each.build((None, 8, 8, 16))
    half = kx.initializers.Scaled("orthogonal", 0.5)
    kx.initialize(layer, half, seed=1)
    kx.initialize(plain, "orthogonal", seed=1)
    assert np.allclose(layer.kernel, 0.5 * np.asarray(plain.kernel))


def test_other_initializers_are_called_with_the_shape_of_each_map():
    seen = []

    class Shapes(keras.initializers.Initializer):
        def __call__(self, shape, dtype=None):
            seen.append(tuple(shape))
            return keras.ops.ones(shape, dtype)

    for make, shape in (
        (lambda: L.Conv2DTranspose(6, 3), (8, 8, 4)),
        (lambda: L.Conv2D(6, 3, groups=2), (8, 8, 4)),
        (lambda: L.LSTMCell(5), (4,)),
    ):
        layer = make()
        layer.build((None, *shape))
        kx.initialize(layer, Shapes(), seed=1)
    assert seen == (
        [(3, 3, 4, 6)] + [(3, 3, 2, 3)] * 2 + [(4, 5)] * 4 + [(5, 5)] * 4
    )


def test_initializers_that_construct_their_weights():
    layer = L.Conv2DTranspose(6, 3, name="up")
    layer.build((None, 8, 8, 4))
    kx.initialize(layer, kx.initializers.DiracAverage(), seed=1)
    kernel = np.asarray(layer.kernel)
    # The center passes on the mean of 4 inputs, though the axes are turned.
    assert (kernel[1, 1] == 0.25).all()
    assert np.count_nonzero(kernel) == 24

    built = kx.models.triangle_wave_network(4, peaks=[0.3, 0.4, 0.5, 0.6, 0.5])
    again = kx.models.triangle_wave_network(4, seed=7)
    dense = [la for la in again.layers if isinstance(la, L.Dense)]

    def choose(layer):
        return kx.initializers.TriangleWaveKernel(
            4, dense.index(layer), peaks=[0.3, 0.4, 0.5, 0.6, 0.5]
        )

    kx.initialize(again, choose, seed=1, bias_initializer=None)
    for a, b in zip(built.get_weights(), again.get_weights(), strict=True):
        if a.ndim == 2:
            assert np.array_equal(a, b)


FANS = {
    "depthwise": (
        lambda: L.DepthwiseConv2D(3, strides=2, depth_multiplier=4),
        (9, 9, 600),
        (9, 9),
    ),
    "groups": (lambda: L.Conv2D(512, 3, groups=8), (9, 9, 64), (72, 576)),
    "gru": (lambda: L.GRU(256), (5, 128), (128, 256)),
}


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("name", FANS)
def test_modes_of_variance_scaling(name, mode):
    """The largest of 20,000 uniform weights is within 0.1% of the limit.

    The probability of a false alarm is exp(-20) for each case.
    """
    make, shape, (fan_in, fan_out) = FANS[name]
    layer = make()
    layer.build((None, *shape))
    scaling = keras.initializers.VarianceScaling(3.0, mode, "uniform", seed=0)
    kx.initialize(layer, scaling, seed=1)
    kernel = layer.cell.kernel if name == "gru" else layer.kernel
    fans = {"fan_in": fan_in, "fan_out": fan_out}
    fan = fans.get(mode, (fan_in + fan_out) / 2)
    assert np.abs(kernel).max() == pytest.approx((9 / fan) ** 0.5, rel=1e-3)


def test_the_gain_of_orthogonal_weights():
    layer = L.Dense(32)
    layer.build((None, 32))
    kx.initialize(layer, keras.initializers.Orthogonal(gain=3.0), seed=1)
    values = np.linalg.svd(layer.kernel, compute_uv=False)
    assert np.allclose(values, 3, rtol=1e-5)
    # They are uniform over rotations; a QR alone has a diagonal of one sign.
    signs = []
    for seed in range(40):
        kx.initialize(layer, "orthogonal", seed=seed)
        signs.append(float(layer.kernel[0, 0]) > 0)
    # The probability of a false alarm is 2^-39.
    assert len(set(signs)) == 2


def test_other_initializers_draw_each_map_from_another_seed():
    class Drawn(keras.initializers.RandomNormal):
        pass

    layer = L.DepthwiseConv2D(3)
    layer.build((None, 8, 8, 16))
    kx.initialize(layer, Drawn(), seed=1)
    kernel = np.asarray(layer.kernel)
    assert len({kernel[:, :, i].tobytes() for i in range(16)}) == 16


def test_scaled_layers_of_a_process_count_as_one():
    process = kx.initializers.DepthProcess(3, "smooth", seed=4)
    half = kx.initializers.Scaled(process.at(0), 0.5)
    with pytest.raises(ValueError, match="stream"):
        kx.initialize(named("a", "b"), half, seed=1)


def test_paths_of_private_classes_and_of_equal_names():
    class _Block(L.Dense):
        pass

    def build():
        return keras.Sequential([keras.Input((8,)), _Block(8), _Block(8)])

    first, second = build(), build()
    for model in (first, second):
        kx.initialize(model, "he_normal", seed=1)
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        assert np.array_equal(a, b)

    class Same(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [L.Dense(8, name=n) for n in ("a", "a", "a:1")]

        def build(self, shape):
            for part in self.parts:
                part.build(shape)

        def call(self, inputs):
            return inputs

    model = Same()
    model.build((None, 8))
    assert len(kx.inspection.kernel_geometry(model)) == 6


def test_assign_all_restores_values_after_an_error():
    from keras_initx.inspection.assign import assign_all

    a, b = keras.Variable(np.zeros(3)), keras.Variable(np.zeros(3))
    with pytest.raises(ValueError, match="shape"):
        assign_all([(a, np.ones(3)), (b, np.ones(4))])
    assert (np.asarray(a) == 0).all()


def test_trained_models_need_overwrite():
    model = named("a")
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 8)), np.ones((4, 8)), verbose=0)
    before = model.get_weights()[0]
    with pytest.raises(ValueError, match="would be changed: pass overwrite=T"):
        kx.initialize(model, "he_normal", seed=1)
    assert np.array_equal(model.get_weights()[0], before)
    kx.initialize(model, "he_normal", seed=1, overwrite=True)
    assert not np.array_equal(model.get_weights()[0], before)


def test_trained_models_inside_need_overwrite():
    inner = named("a")
    inner.compile("sgd", "mse")
    inner.fit(np.ones((4, 8)), np.ones((4, 8)), verbose=0)
    outer = keras.Sequential([keras.Input((8,)), inner, L.Dense(2)])
    with pytest.raises(ValueError, match="overwrite=True"):
        kx.initialize(outer, "he_normal", seed=1)


def test_all_weights_of_a_quantized_layer_are_skipped():
    model = named("a", "b")
    model.get_layer("a").bias.assign(np.ones(8))
    model.get_layer("a").quantize("int8")
    done = kx.initialize(model, "he_normal", seed=1)
    assert set(done.skipped.values()) == {"quantized"}
    assert {name.split("/")[0] for name in done.skipped} == {"a"}
    assert (np.asarray(model.get_layer("a").bias) == 1).all()


def test_a_dict_of_initializers_by_role():
    layer = L.LSTM(16)
    layer.build((None, 5, 8))
    kx.initialize(
        layer,
        {"kernel": "glorot_uniform", "recurrent kernel": "orthogonal"},
        seed=1,
    )
    geometry = kx.inspection.kernel_geometry(layer)
    kinds = [g for g in geometry.values() if g.role == "recurrent kernel"]
    values = singular_values(layer.cell.recurrent_kernel, kinds[0])
    assert np.allclose(values, 1, atol=1e-5)
    done = kx.initialize(layer, lambda _: {"kernel": "zeros"}, seed=1)
    assert list(done.skipped.values()) == ["not asked for"]


def test_equal_weights_of_an_initializer_without_a_seed_warn():
    class Mine(keras.initializers.Initializer):
        def __call__(self, shape, dtype=None):
            return keras.random.normal(shape, seed=1)

    with pytest.warns(UserWarning, match="'b/kernel' the weights of 'a/k"):
        kx.initialize(named("a", "b"), Mine(), seed=1)


def test_weights_that_are_meant_to_be_equal_do_not_warn(recwarn):
    process = kx.initializers.DepthProcess(2, "fractional", hurst=1, seed=4)
    kx.initialize(
        named("a", "b"), lambda la: process.at("ab".index(la.name)), seed=1
    )
    model = named("a", "b")
    kx.initialize(model, "identity", seed=1)
    assert np.array_equal(model.get_layer("b").kernel, np.eye(8))
    assert not [w for w in recwarn if "has no seed" in str(w.message)]


def test_statistics_of_a_frozen_normalization_are_skipped():
    norm = L.BatchNormalization()
    norm.build((None, 4))
    norm.moving_mean.assign(np.ones(4))
    norm.trainable = False
    done = kx.initialize(norm, "he_normal", seed=1)
    assert {row.skipped for row in done.rows} == {"frozen"}
    assert (np.asarray(norm.moving_mean) == 1).all()


def test_layers_that_are_not_built_are_listed():
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = L.Dense(3), L.Dense(3, name="later")

        def build(self, shape):
            self.first.build(shape)

        def call(self, x, training=False):
            return self.second(self.first(x)) if training else self.first(x)

    model = Two()
    model(np.ones((2, 3)))
    done = kx.initialize(model, "he_normal", seed=1)
    assert list(done.skipped.items()) == [("later", "not built")]


def test_layers_takes_the_model_and_names_of_the_table():
    model = keras.Sequential([keras.Input((8,)), L.Dense(8), L.Dense(8)])
    assert not kx.initialize(model, "zeros", seed=1, layers=model).skipped
    name = model.layers[1].name
    done = kx.initialize(model, "zeros", seed=1, layers=name)
    assert [row.name for row in done.initialized] == [
        f"{name}/kernel",
        f"{name}/bias",
    ]


class TwoOfOneName(keras.Model):
    """Two layers of one name, and two blocks of one name."""

    def __init__(self):
        super().__init__()
        self.parts = [
            L.Dense(8, name="a"),
            L.Dense(8, name="a"),
            keras.Sequential([L.Dense(8, name="a")], name="block"),
            keras.Sequential([L.Dense(8, name="a")], name="block"),
        ]

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


def nested_model():
    inner = keras.Sequential(
        [keras.Input((8,)), L.Dense(8), L.Dense(8, name="a")], name="inner"
    )
    shared = L.Dense(8, name="shared")
    x = inputs = keras.Input((8,))
    x = shared(inner(shared(x)))
    return keras.Model(inputs, L.Dense(8)(x))


def wrappers():
    return keras.Sequential(
        [
            keras.Input((4, 8)),
            L.Bidirectional(L.LSTM(4, return_sequences=True)),
            L.TimeDistributed(L.Dense(8)),
            L.SpectralNormalization(L.Dense(8)),
            L.RNN(L.StackedRNNCells([L.GRUCell(8), L.GRUCell(8)])),
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize("make", [TwoOfOneName, nested_model, wrappers])
def test_layers_have_the_names_that_measure_gives(make):
    model = make()
    x = np.random.default_rng(0).normal(size=(4, *model_shape(make)))
    profile = kx.measure(model, x)
    done = kx.initialize(model, "he_normal", seed=1)
    kernels = [row.name for row in done.rows if row.role == "kernel"]
    layers = {name.rpartition("/")[0] for name in kernels}
    # A second call of a shared layer is a row of its own.
    assert layers == set(profile.layers) - {"shared:2"}
    for name in sorted(layers):
        again = kx.initialize(model, "zeros", seed=1, layers=name)
        found = {row.name.rpartition("/")[0] for row in again.initialized}
        assert name in found


def model_shape(make):
    return (4, 8) if make is wrappers else (8,)


def test_weights_under_a_strategy_are_the_same():
    def build():
        model = named("a", "b")
        model.compile("adam", "mse")
        return model

    alone = build()
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        spread = build()
    for model in (alone, spread):
        kx.initialize(model, "he_normal", seed=1)
    for a, b in zip(alone.get_weights(), spread.get_weights(), strict=True):
        assert np.array_equal(a, b)


def test_shared_layers_are_drawn_once():
    shared = L.Dense(8, name="shared")
    model = keras.Sequential([keras.Input((8,)), shared, L.ReLU(), shared])
    done = kx.initialize(model, "he_normal", seed=1)
    assert [row.name for row in done.rows] == ["shared/kernel", "shared/bias"]


@pytest.mark.parametrize(
    "name", ["FractionalMoment", "fractional_moment", "fractionalMoment"]
)
def test_names_of_this_package(name):
    first, second = named("a", "b"), named("a", "b")
    kx.initialize(first, name, seed=1)
    kx.initialize(second, kx.initializers.FractionalMoment(), seed=1)
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        assert np.array_equal(a, b)
    scaled = kx.initializers.Scaled(name, 2)
    assert type(scaled.initializer) is kx.initializers.FractionalMoment
    kx.initialize(first, {"kernel": name}, seed=2)
    kx.initialize(first, "he_normal", bias_initializer="dirac_average", seed=2)


BAD = {
    "near": (dict(initializer="he_norml", seed=1), "mean 'he_normal'"),
    "capitals": (
        dict(initializer="He_Normal", seed=1),
        "'FractionalMoment'.* Did you mean 'he_normal'.* Received: init",
    ),
    "ours": (
        dict(initializer="FractionMoment", seed=1),
        "mean 'FractionalMoment'",
    ),
    "needs arguments": (
        dict(initializer="AlphaStable", seed=1),
        "instance of AlphaStable, which needs stability",
    ),
    "process": (
        dict(initializer=kx.initializers.DepthProcess(2), seed=1),
        r"index k is process.at\(k\)",
    ),
    "near role": (
        dict(initializer={"kernl": "zeros"}, seed=1),
        "Did you mean 'kernel'",
    ),
    "near layer": (
        dict(initializer="zeros", seed=1, layers="A1"),
        r"Its layers are \['a', 'b', .*\]",
    ),
    "seed": (dict(initializer="he_normal", seed=1.5), "seed must be an int"),
    "huge seed": (dict(initializer="he_normal", seed=2**63), "64 bits"),
    "name": (dict(initializer="nothing", seed=1), "initializer must be"),
    "type": (dict(initializer=3, seed=1), "initializer must be"),
    "function of a shape": (
        dict(initializer=lambda shape, dtype: 3, seed=1),
        "is called with a layer",
    ),
    "answer": (
        dict(initializer=lambda layer: 3, seed=1),
        "initializer must .*Received: initializer=3 for layer 'a'",
    ),
    "name in an answer": (
        dict(initializer=lambda layer: {"kernel": "he"}, seed=1),
        "initializer must .* for layer 'a'",
    ),
    "role": (dict(initializer={"kernels": "zeros"}, seed=1), "have roles"),
    "role of a bias": (
        dict(initializer={"kernel": "zeros", "bias": "zeros"}, seed=1),
        "are drawn from bias_initializer",
    ),
    "bias_initializer": (
        dict(initializer="zeros", seed=1, bias_initializer=3),
        "bias_initializer must be",
    ),
    "layer": (dict(initializer="zeros", seed=1, layers="z"), "must pick"),
    "overwrite": (
        dict(initializer="zeros", seed=1, overwrite="yes"),
        "overwrite must be True or False",
    ),
    "refusal": (
        dict(initializer=keras.initializers.STFT(), seed=1),
        "a/kernel",
    ),
    "nan": (
        dict(initializer=keras.initializers.Constant(np.nan), seed=1),
        "NaN or inf",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_change_nothing(case):
    arguments, message = BAD[case]
    model = named("a", "b")
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        kx.initialize(model, **arguments)
    for old, new in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(old, new)


def bad_rule(layer):
    return "kernel"


def test_a_rule_that_returns_no_layer_rule_is_named():
    class Odd(L.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(2, 3), name="w")

    kx.inspection.register_layer(Odd)(bad_rule)
    layer = Odd(name="odd_one")
    layer.build((None, 2))
    with pytest.raises(
        ValueError,
        match=r"rule of Odd .*'odd_one' with the weights 'w' of shape \(2, 3\)",
    ):
        kx.inspection.kernel_geometry(layer)


class Pair(keras.Model):
    """Two models that are trained together, and no call, as a GAN."""

    def __init__(self, hold, **kwargs):
        super().__init__(**kwargs)
        first = keras.Sequential([keras.Input((8,)), L.Dense(4)], name="one")
        second = keras.Sequential([keras.Input((4,)), L.Dense(8)], name="two")
        self.hold = str(hold)
        if hold is None:
            self.first, self.second = first, second
        elif hold is list:
            self.parts = [first, {"second": second}]
        else:
            self.inner = Pair(None, name="inner")

    def both(self):
        if self.hold == "None":
            return self.first, self.second
        if hasattr(self, "inner"):
            return self.inner.both()
        return self.parts[0], self.parts[1]["second"]

    def train_step(self, x):
        parts = self.both()
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((parts[1](parts[0](x)) - x) ** 2)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply(gradients, self.trainable_weights)
        return {"loss": loss}


@pytest.mark.parametrize("hold", [None, list, keras.Model])
def test_a_model_without_a_call_before_and_after_its_first_fit(hold):
    model = Pair(hold)
    assert not model.built
    done = kx.initialize(model, "he_normal", seed=1)
    assert not done.skipped
    assert [row.shape for row in done.rows] == [(8, 4), (4,), (4, 8), (8,)]
    before = [w.copy() for w in model.get_weights()]
    assert all(w.any() for w in before[::2])
    model.compile("sgd")
    model.fit(np.ones((4, 8)), verbose=0, batch_size=4)
    with pytest.raises(ValueError, match="overwrite=True"):
        kx.initialize(model, "he_normal", seed=1)
    again = kx.initialize(model, "he_normal", seed=1, overwrite=True)
    assert again == done
    for old, new in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(old, new)


@pytest.mark.parametrize("held", ["attribute", "list", "dict"])
def test_an_optimizer_under_any_attribute_says_that_a_model_is_trained(held):
    model = Pair(None)
    optimizer = keras.optimizers.Adam()
    if held == "attribute":
        model.first_optimizer = optimizer
    else:
        model.optimizers = [optimizer] if held == "list" else {"a": optimizer}
    kx.initialize(model, "he_normal", seed=1)
    weights = model.trainable_weights
    optimizer.apply([keras.ops.ones_like(w) for w in weights], weights)
    with pytest.raises(ValueError, match=r"'pair.*' after 1 steps"):
        kx.initialize(model, "he_normal", seed=1)


def test_parts_of_a_model_without_a_call_that_are_not_built_are_listed():
    class Parts(keras.Model):
        def __init__(self):
            super().__init__()
            self.built_part = L.Dense(3, name="ready")
            self.built_part.build((None, 2))
            self.other = L.Dense(3, name="later")

    done = kx.initialize(Parts(), "he_normal", seed=1)
    assert list(done.skipped.items()) == [("later", "not built")]

    class Empty(keras.Model):
        pass

    class Called(Parts):
        def call(self, x):
            return self.other(self.built_part(x))

    # Its call may make more weights.
    for model in (Empty(), Called()):
        with pytest.raises(ValueError, match="no weights before it is built"):
            kx.initialize(model, "he_normal", seed=1)


def test_unbuilt_models_and_other_objects_are_refused():
    with pytest.raises(ValueError, match="built"):
        kx.initialize(keras.Sequential([L.Dense(3)]), "zeros", seed=1)
    with pytest.raises(TypeError, match="Keras layer or model"):
        kx.initialize("model", "zeros", seed=1)


APPLICATIONS = {
    "ResNet50": (64, 64, 3),
    "InceptionV3": (75, 75, 3),
    "MobileNetV3Small": (64, 64, 3),
    "ConvNeXtTiny": (64, 64, 3),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_applications_have_no_unknown_weights(name, application):
    model = application(name, input_shape=APPLICATIONS[name], classes=10)
    # Uniform numbers, which are drawn faster than normal ones.
    done = kx.initialize(model, "he_uniform", seed=1)
    assert set(done.skipped.values()) <= {"not drawn"}
    image = np.random.default_rng(0).random((1, *APPLICATIONS[name]))
    # Probabilities are numbers only if all signals are.
    assert np.isfinite(model(image)).all()
