"""Tests that calibrated layers have the variance that was asked for."""

import threading
import time
import weakref
from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx
from keras_initx.calibration import calibrator, preparation
from keras_initx.inspection.layer_rule import layer_rule
from tests.helpers.arranged_rows import (
    ROWS,
    STEPS,
    UNREACHED,
    WIDTH,
    model_of,
)

L = keras.layers


@pytest.fixture
def policy():
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def dense_net(depth, width, activation="relu"):
    return keras.Sequential(
        [keras.Input((width,))]
        + [
            L.Dense(width, activation, kernel_initializer="he_normal")
            for _ in range(depth)
        ]
    )


def pre_activations(model, x):
    """The signal of each dense layer, in float64, from the weights alone."""
    signals = []
    for layer in model.layers:
        kernel, bias = (np.asarray(w, np.float64) for w in layer.weights)
        signals.append(x @ kernel + bias)
        x = np.maximum(signals[-1], 0)
    return signals


@pytest.mark.slow
def test_fifty_layers(rng):
    model, x = dense_net(50, 128), rng.standard_normal((512, 128), np.float32)
    done = kx.calibrate(model, x)
    assert not done.skipped
    assert not any(done.notes)
    outputs = keras.Model(
        model.inputs[0], [layer.output for layer in model.layers]
    )
    inputs = [x, *outputs(x, training=False)[:-1]]
    signals = [
        np.asarray(before @ layer.kernel + layer.bias)
        for layer, before in zip(model.layers, inputs, strict=True)
    ]
    for signal in signals:
        assert np.abs(signal.var(axis=0) - 1).max() < 1e-3
        assert (signal.mean(axis=0) ** 2).max() < 1e-6
    # The same kernels ran in the same order, so no error is amplified.
    assert np.abs(signals[-1].var(axis=0) - 1).max() < 1e-5
    profile = kx.measure(model, x, batch_size=512)
    assert np.allclose(profile.sample_variance, 1, atol=1e-3)
    assert (profile.squared_mean < 1e-6).all()


def test_twelve_layers_against_float64(rng):
    """The weights alone give the variance, whatever TensorFlow computes."""
    model, x = dense_net(12, 64), rng.standard_normal((500, 64))
    kx.calibrate(model, x.astype(np.float32), target_variance=0.25)
    for signal in pre_activations(model, x):
        assert np.allclose(signal.var(axis=0), 0.25, rtol=1e-4)
        assert np.allclose(signal.mean(axis=0), 0, atol=1e-4)


@pytest.mark.parametrize("center", [True, False])
def test_per_layer(rng, center):
    model, x = dense_net(8, 64), rng.standard_normal((500, 64))
    before = pre_activations(model, x)
    kx.calibrate(model, x.astype(np.float32), per="layer", center=center)
    for old, signal in zip(before, pre_activations(model, x), strict=True):
        assert signal.var() == pytest.approx(1, rel=1e-4)
        assert (abs(signal.mean()) < 1e-5) == center
        # One factor for a whole layer leaves its units as unequal as before.
        assert signal.var(axis=0).std() > 1e-2
        if not center:
            factor = signal.std() / old.std()
            assert np.allclose(signal, factor * old, atol=1e-4)


def test_lsuv_keeps_orthogonal_kernels(rng):
    model, x = dense_net(6, 64), rng.standard_normal((500, 64), np.float32)
    kx.initialize(model, "orthogonal", seed=1)
    kx.calibrate(model, x, per="layer", center=False)
    for layer in model.layers:
        values = np.linalg.svd(layer.kernel, compute_uv=False)
        assert np.allclose(values, values[0], rtol=1e-4)


def signal_of(layer, x):
    """The pre-activation of a layer without activation, which is its output."""
    return np.asarray(layer(x), np.float64)


# For each layer the shape of a sample, and the axes of its output along which
# units differ.
LAYERS = {
    "dense": (lambda **k: L.Dense(5, **k), (4,), (1,)),
    "dense on sequences": (lambda **k: L.Dense(5, **k), (7, 4), (2,)),
    "conv1d": (lambda **k: L.Conv1D(5, 3, **k), (9, 4), (2,)),
    "conv2d": (
        lambda **k: L.Conv2D(5, 3, strides=2, **k),
        (9, 9, 4),
        (3,),
    ),
    "conv3d": (lambda **k: L.Conv3D(5, 2, **k), (4, 4, 4, 3), (4,)),
    "groups": (lambda **k: L.Conv2D(6, 3, groups=2, **k), (9, 9, 4), (3,)),
    "transposed": (
        lambda **k: L.Conv2DTranspose(5, 3, strides=2, **k),
        (6, 6, 4),
        (3,),
    ),
    "depthwise": (
        lambda **k: L.DepthwiseConv2D(3, depth_multiplier=2, **k),
        (9, 9, 4),
        (3,),
    ),
    "depthwise 1d": (lambda **k: L.DepthwiseConv1D(3, **k), (9, 4), (2,)),
    "separable": (lambda **k: L.SeparableConv2D(5, 3, **k), (9, 9, 4), (3,)),
    "einsum": (
        lambda **k: L.EinsumDense(
            "abc,cde->abde",
            (None, 2, 3),
            bias_axes="de" if k.get("use_bias", True) else None,
        ),
        (6, 4),
        (2, 3),
    ),
    "einsum, kernel turned": (
        lambda **k: L.EinsumDense(
            "abc,edc->abde",
            (None, 2, 3),
            bias_axes="de" if k.get("use_bias", True) else None,
        ),
        (6, 4),
        (2, 3),
    ),
    "ellipsis on the right": (
        lambda **k: L.EinsumDense("ab...,bc->ac...", (5, None)),
        (4, 5),
        (1,),
    ),
    "ellipsis on the left": (
        lambda **k: L.EinsumDense(
            "...b,bc->...c",
            5,
            bias_axes="c" if k.get("use_bias", True) else None,
        ),
        (6, 4),
        (2,),
    ),
    "batched": (
        lambda **k: L.EinsumDense(
            "bgi,gio->bgo",
            (3, 5),
            bias_axes="go" if k.get("use_bias", True) else None,
        ),
        (3, 4),
        (1, 2),
    ),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_every_unit_of_every_kind_of_layer(name, batches, bias, rng):
    make, shape, units = LAYERS[name]
    layer = make() if bias else make(use_bias=False)
    model = keras.Sequential([keras.Input(shape), layer])
    x = (2 + rng.standard_normal((60, *shape))).astype(np.float32)
    before = signal_of(layer, x)
    done = kx.calibrate(
        model, x, batch_size=None if batches == 1 else 60 // batches
    )
    after = signal_of(layer, x)
    over = tuple(i for i in range(after.ndim) if i not in units)
    assert np.allclose(after.var(axis=over), 1, atol=1e-4)
    mean = after.mean(axis=over)
    if layer.bias is not None:
        assert not any(done.notes)
        assert np.allclose(mean, 0, atol=1e-4)
    else:
        assert done[layer.name].note == "no bias, so scaled only"
        expected = before.mean(axis=over) / before.std(axis=over)
        assert np.allclose(mean, expected, atol=1e-3)
    assert done.units.tolist() == [mean.size]
    assert np.allclose(done.sample_variance, 1)
    assert np.allclose(done.squared_mean, np.mean(mean**2), atol=1e-3)


def test_channels_first():
    """A CPU may not run such a layer, so only the axis is tested."""
    for cls in (L.Conv2D, L.Conv2DTranspose, L.SeparableConv2D):
        layer = cls(5, 3, data_format="channels_first")
        layer.build((None, 4, 9, 9))
        assert layer_rule(layer).units.signal_axes == (1,)


def test_several_batches_give_the_weights_of_one(rng):
    x = rng.standard_normal((300, 32), np.float32)
    one, several, dataset = (dense_net(6, 32) for _ in range(3))
    for model in (several, dataset):
        model.set_weights(one.get_weights())
    kx.calibrate(one, x)
    kx.calibrate(several, x, batch_size=70)
    with_labels = tf.data.Dataset.from_tensor_slices((x, x)).batch(70)
    kx.calibrate(dataset, with_labels)
    for a, b, c in zip(
        *(m.get_weights() for m in (one, several, dataset)), strict=True
    ):
        assert np.allclose(a, b, atol=1e-4)
        assert np.array_equal(b, c)


def test_a_shared_layer_is_calibrated_at_its_first_call(rng):
    shared = L.Dense(16, "relu", name="shared")
    model = keras.Sequential([keras.Input((16,)), shared, shared])
    x = rng.standard_normal((200, 16), np.float32)
    done = kx.calibrate(model, x)
    assert done.layers == ("shared",)
    first, second = pre_activations(model, x.astype(np.float64))
    assert np.allclose(first.var(axis=0), 1, atol=1e-4)
    assert not np.allclose(second.var(axis=0), 1, atol=0.05)


@pytest.mark.parametrize(
    "normalization",
    [
        L.BatchNormalization,
        L.LayerNormalization,
        lambda: L.GroupNormalization(2),
        L.RMSNormalization,
        L.UnitNormalization,
    ],
    ids=["batch", "layer", "group", "rms", "unit"],
)
def test_layers_before_a_normalization_are_skipped(normalization, rng):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            L.Dense(8, name="normalized"),
            normalization(),
            L.Dense(8, "relu", name="not"),
            normalization(),
            L.Dense(8, name="last"),
        ]
    )
    x = rng.standard_normal((100, 8), np.float32)
    kernel = np.asarray(model.get_layer("normalized").kernel)
    done = kx.calibrate(model, x, training=True)
    assert dict(done.skipped) == {"normalized": "followed by a normalization"}
    assert np.array_equal(model.get_layer("normalized").kernel, kernel)
    assert "Skipped: normalized: followed by a norm" in str(done)


def encoder(tokens=20):
    inputs = keras.Input((6,), dtype="int32")
    x = L.Embedding(tokens, 16, name="embed")(inputs)
    y = L.MultiHeadAttention(2, 8, name="attend")(x, x)
    x = L.LayerNormalization()(x + y)
    y = L.Dense(16, name="down")(L.Dense(32, "gelu", name="up")(x))
    x = L.TimeDistributed(L.Dense(8), name="each")(x + y)
    x = L.LSTM(8, name="lstm")(x)
    return keras.Model(inputs, L.Dense(3, name="head")(x))


def test_skipped_layers_have_a_reason(rng):
    model = encoder()
    x = rng.integers(0, 20, (64, 6))
    before = {w.path: np.asarray(w) for w in model.weights}
    done = kx.calibrate(model, x)
    assert dict(done.skipped) == {
        "embed": "embedding",
        "attend/query": "attention",
        "attend/key": "attention",
        "attend/value": "attention",
        "attend/attention_output": "attention",
        "each/dense": "runs once a time step",
        "lstm": "recurrent",
    }
    changed = {
        w.path.split("/")[0]
        for w in model.weights
        if not np.array_equal(before[w.path], w)
    }
    assert changed == {"up", "down", "head"}


def test_subclasses_frozen_layers_and_partial_biases_are_skipped(rng):
    class Own(L.Dense):
        def call(self, inputs):
            return super().call(inputs) ** 3

    frozen, own = L.Dense(8, name="frozen"), Own(8, name="own")
    lora = L.Dense(8, name="lora")
    frozen.trainable = False
    part = L.EinsumDense(
        "abc,cde->abde", (None, 2, 3), bias_axes="e", name="part"
    )
    model = keras.Sequential(
        [keras.Input((5, 8)), frozen, own, lora, L.Dense(8), part]
    )
    lora.enable_lora(2)
    x = rng.standard_normal((40, 5, 8), np.float32)
    done = kx.calibrate(model, x)
    assert dict(done.skipped) == {
        "frozen": "frozen",
        "own": "not known to be linear in one kernel",
        "lora": "LoRA adapter",
        "part": "its bias is not one for each unit",
    }
    # One shift for the whole layer can be added to any bias.
    done = kx.calibrate(model, x, per="layer", layers="part")
    assert not done.skipped
    below = keras.Sequential(model.layers[:-1])
    y = np.asarray(part(below(x)))
    assert y.var() == pytest.approx(1, rel=1e-4)
    assert abs(y.mean()) < 1e-4


def test_a_kernel_that_two_layers_share_is_skipped(rng):
    first = L.Dense(8, name="first")

    class Tied(L.Dense):
        def build(self, shape):
            super().build(shape)
            self._kernel = first._kernel

    model = keras.Sequential([keras.Input((8,)), first, Tied(8, name="second")])
    done = kx.calibrate(model, rng.standard_normal((40, 8), np.float32))
    assert dict(done.skipped) == {
        name: "shares its weights with another layer"
        for name in ("first", "second")
    }


def test_a_bias_along_other_axes_than_units_is_not_used(rng):
    # The bias has as many numbers as there are units, by chance.
    layer = L.EinsumDense("abc,cde->abde", (3, 2, 3), bias_axes="bd")
    model = keras.Sequential([keras.Input((3, 4)), layer])
    done = kx.calibrate(model, rng.standard_normal((60, 3, 4), np.float32))
    assert dict(done.skipped) == {
        layer.name: "its bias is not one for each unit"
    }


@pytest.mark.parametrize("batch_size", [None, 100])
def test_kernels_keep_their_precision_beside_bfloat16(policy, rng, batch_size):
    policy("mixed_bfloat16")
    model = dense_net(2, 16)
    before = [np.asarray(layer.kernel) for layer in model.layers]
    x = rng.standard_normal((200, 16), np.float32)
    kx.calibrate(model, x, batch_size=batch_size)
    for old, layer in zip(before, model.layers, strict=True):
        ratio = np.asarray(layer.kernel) / old
        assert np.allclose(ratio, ratio[:1], rtol=1e-6)


def test_a_layer_beyond_the_range_of_float16_is_skipped(policy, rng):
    policy("float16")
    model = dense_net(1, 16)
    x = 1e-3 * rng.standard_normal((200, 16)).astype(np.float16)
    done = kx.calibrate(model, x, target_variance=1e12)
    assert set(done.skipped.values()) == {"too large for its dtype"}
    assert np.isfinite(np.asarray(model.layers[0].kernel, np.float32)).all()


def test_all_layers_of_a_subclassed_functional_model(rng):
    class More(keras.Model):
        def __init__(self, inputs, outputs):
            super().__init__(inputs, outputs)
            self.extra = L.Dense(4, name="extra")

        def call(self, inputs):
            return self.extra(super().call(inputs))

    inputs = keras.Input((8,))
    model = More(inputs, L.Dense(8, "relu", name="body")(inputs))
    x = rng.standard_normal((60, 8), np.float32)
    model(x)
    done = kx.calibrate(model, x)
    if len(model.weights) == 2:
        # In Keras 3.10 and 3.13 such a model does not know the layer.
        assert done.skipped == {"extra": "not tracked by the model"}
        return
    assert not done.skipped
    assert np.allclose(np.var(model(x), axis=0), 1, atol=1e-4)
    drawn = kx.initialize(model, "he_normal", seed=1).initialized
    assert "extra/kernel" in {row.name for row in drawn}


def test_batches_that_run_different_layers(rng):
    class Ways(keras.Model):
        def __init__(self):
            super().__init__()
            self.a, self.b = L.Dense(4, name="a"), L.Dense(4, name="b")

        def call(self, inputs):
            return self.b(inputs) if inputs[0, 0] > 0 else self.a(inputs)

    x = rng.standard_normal((200, 8), np.float32)
    x[:, 0] = np.repeat([1.0, -1.0], 100)
    model = Ways()
    model(x[:1])
    model(x[-1:])
    kx.calibrate(model, x, batch_size=100)
    for layer, part in ((model.b, x[:100]), (model.a, x[100:])):
        assert np.allclose(np.var(layer(part), axis=0), 1, atol=1e-4)


def test_batches_of_different_lengths(rng):
    tokens = keras.Input((None,), dtype="int32")
    x = L.Embedding(9, 8, name="embed")(tokens)
    model = keras.Model(tokens, L.Dense(4, name="head")(x))
    parts = [rng.integers(0, 9, (30, length)) for length in (5, 7)]
    data = tf.data.Dataset.from_generator(
        lambda: iter(parts),
        output_signature=tf.TensorSpec((None, None), "int64"),
    )
    kx.calibrate(model, data)
    y = np.concatenate([np.reshape(model(part), (-1, 4)) for part in parts])
    assert np.allclose(y.var(axis=0), 1, atol=1e-4)


class Recorded(L.Layer):
    """Records which thread runs it, and waits for the other one."""

    def __init__(self, record, **kwargs):
        super().__init__(**kwargs)
        self.record = record

    def call(self, inputs):
        self.record(threading.get_ident())
        time.sleep(0.01)
        return inputs


@pytest.mark.parametrize("count", [1, 2])
def test_threads_take_turns(count, rng):
    """All weights of a model come from one calibration, that of one thread."""
    runs = []
    models = [
        keras.Sequential(
            [keras.Input((16,))]
            + [
                layer
                for _ in range(4)
                for layer in (L.Dense(16, "relu"), Recorded(runs.append))
            ]
        )
        for _ in range(count)
    ]
    data = [
        scale * rng.standard_normal((30, 16), np.float32) for scale in (1, 30)
    ]
    pairs = list(zip([models[0], models[-1]], data, strict=True))
    threads = [
        threading.Thread(target=kx.calibrate, args=pair) for pair in pairs
    ]
    runs.clear()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == 8
    assert runs == runs[:1] * 4 + runs[-1:] * 4
    variances = [kx.measure(*pair).sample_variance for pair in pairs]
    done = [np.allclose(variance, 1, atol=1e-3) for variance in variances]
    assert sum(done) == count
    for layer in (layer for model in models for layer in model.layers):
        assert "call" not in vars(layer)


def test_labels_are_refused_as_inputs(rng):
    x = rng.standard_normal((60, 8), np.float32)
    with pytest.raises(ValueError, match="pass x alone"):
        kx.calibrate(dense_net(2, 8), (x, x))


@pytest.mark.slow
def test_a_call_inside_a_function_is_refused():
    model = dense_net(1, 4)

    @tf.function
    def inside(x):
        kx.calibrate(model, x)

    with pytest.raises(RuntimeError, match=r"outside of a tf\.function"):
        inside(tf.ones((3, 4)))


def test_a_picked_layer_is_calibrated_before_a_normalization(rng):
    model = keras.Sequential(
        [keras.Input((8,)), L.Dense(8, name="d"), L.BatchNormalization()]
    )
    x = rng.standard_normal((60, 8), np.float32)
    done = kx.calibrate(model, x, layers="d")
    assert not done.skipped


def test_constant_units_keep_their_weights(rng):
    model = dense_net(1, 8)
    layer = model.layers[0]
    kernel = np.array(layer.kernel)
    kernel[:, [2, 5]] = 0
    layer.kernel.assign(kernel)
    layer.bias.assign(np.arange(8.0))
    done = kx.calibrate(model, rng.standard_normal((50, 8), np.float32))
    assert done[layer.name].note == "2 of 8 units constant"
    assert (np.asarray(layer.kernel)[:, [2, 5]] == 0).all()
    assert np.asarray(layer.bias)[[2, 5]].tolist() == [2, 5]
    assert "[1] 2 of 8 units constant" in str(done)


@pytest.mark.parametrize("name", ["mixed_bfloat16", "bfloat16", "float64"])
def test_other_dtypes(name, policy, rng):
    policy(name)
    model = dense_net(5, 64)
    # Keras casts what enters a model to float32, whatever its policy.
    x = rng.standard_normal((500, 64)).astype(np.float32).astype(np.float64)
    kx.calibrate(model, x)
    for signal in pre_activations(model, x):
        # Rounding to bfloat16 moves an entry of a kernel by up to 0.4%.
        tolerance = 1e-9 if name == "float64" else 0.1
        assert np.allclose(signal.var(axis=0), 1, rtol=0, atol=tolerance)


def test_statistics_of_the_model_do_not_change(rng):
    inputs = keras.Input((8,))
    x = L.Dense(8)(inputs)
    x = L.BatchNormalization(name="norm")(x)
    x = L.Dropout(0.5)(x)
    model = keras.Model(inputs, L.Dense(8)(x))
    data = 3 + rng.standard_normal((64, 8), np.float32)
    states = [np.asarray(v) for v in model.non_trainable_variables]
    kx.calibrate(model, data, training=True)
    for old, new in zip(states, model.non_trainable_variables, strict=True):
        assert np.array_equal(old, new)


class Counted(L.Layer):
    """Counts how often it runs, and on how many samples."""

    runs = 0
    samples: ClassVar[list[int]] = []

    def call(self, inputs):
        self.runs += 1
        self.samples.append(inputs.shape[0])
        return inputs


def counted_net(before, after):
    counted = Counted()
    layers = [keras.Input((8,)), *before, counted, *after]
    model = keras.Sequential(layers)
    counted.runs = 0
    return model, counted


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("trainable", [True, False])
def test_each_batch_is_run_through_once(batches, trainable, rng):
    """Each layer runs twice a batch, and each signal is handed on once."""
    x = rng.standard_normal((60, 8), np.float32)
    before, after = (
        [L.Dense(8, "relu", trainable=trainable) for _ in range(3)]
        for _ in range(2)
    )
    model, counted = counted_net(before, after)
    kx.calibrate(model, x, batch_size=60 // batches)
    assert counted.runs == batches


def test_a_data_set_is_iterated_once(rng):
    """What changes from one iteration to the next does not matter."""
    x = rng.standard_normal((60, 8), np.float32)
    iterations = []

    def generate():
        iterations.append(True)
        yield from np.split(x * len(iterations), 3)

    data = tf.data.Dataset.from_generator(
        generate, output_signature=tf.TensorSpec((20, 8), tf.float32)
    )
    model = keras.Sequential([L.Dense(8, "relu"), L.Dense(4)])
    kx.calibrate(model, data)
    assert len(iterations) == 1
    first, second = pre_activations(model, x.astype(np.float64))
    for signal in (first, second):
        assert np.allclose(signal.var(axis=0), 1, rtol=1e-4)


class Counting:
    """An activation that counts how many of its results are in memory."""

    def __init__(self):
        self.results = []
        self.most = 0

    def __call__(self, x):
        result = keras.ops.abs(x)
        if tf.executing_eagerly():
            self.results.append(weakref.ref(result))
            alive = sum(one() is not None for one in self.results)
            self.most = max(self.most, alive)
        return result


def chain(activation):
    layers = [L.Dense(8, activation) for _ in range(6)]
    return keras.Sequential([keras.Input((8,)), *layers])


def nested(activation):
    def three():
        return [L.Dense(8, activation) for _ in range(3)]

    inner = keras.Sequential([keras.Input((8,)), *three()])
    inputs = keras.Input((8,))
    return keras.Model(inputs, keras.Sequential(three())(inner(inputs)))


def residual(activation):
    x = inputs = keras.Input((8,))
    for _ in range(6):
        x = x + L.Dense(8, activation)(x)
    return keras.Model(inputs, x)


def subclassed(activation):
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [L.Dense(8, activation) for _ in range(6)]

        def call(self, inputs):
            for part in self.parts:
                inputs = part(inputs)
            return inputs

    return Model()


@pytest.mark.parametrize("batches", [1, 4])
@pytest.mark.parametrize("make", [chain, nested, residual, subclassed])
def test_signals_that_no_layer_needs_are_released(make, batches, rng):
    """At most one signal of each batch is held, and one is being computed.

    Beside that, Keras holds the input of a model inside another one.
    """
    counting = Counting()
    model = make(counting)
    x = rng.standard_normal((40, 8), np.float32)
    kx.calibrate(model, x, batch_size=40 // batches)
    # Each layer runs twice on each batch, and a check runs none again.
    assert len(counting.results) == 2 * 6 * batches
    held = 2 if make is nested else 1
    assert counting.most <= held * batches + 1


# Arguments, and the number of batches of 40 samples for which a layer has 8
# numbers each, where a batch may have 96 numbers in a layer.
DEFAULT_SIZES = {
    "any": ({}, {}, 4),
    "as in measure": ({}, {"steps": 5}, 2),
    "statistics of the batch": ({}, {"training": True}, 1),
    "fixed": ({"batch_size": 20}, {}, 2),
    "fixed, with statistics": ({"batch_size": 20}, {"training": True}, 2),
}


@pytest.mark.parametrize("name", DEFAULT_SIZES)
def test_arrays_are_divided_into_batches(name, rng, monkeypatch):
    shape, arguments, batches = DEFAULT_SIZES[name]
    monkeypatch.setattr(preparation, "_NUMBERS", 96)
    x = rng.standard_normal((40, 4), np.float32)
    counted = Counted()
    model = keras.Sequential(
        [keras.Input((4,), **shape), L.Dense(8, "relu"), L.Dense(2), counted]
    )
    start = model.get_weights()
    counted.samples = []
    kx.calibrate(model, x, **arguments)
    # Two samples ran before, unless the size was known.
    run = counted.samples[1:] if name == "any" else counted.samples
    assert len(run) == batches
    assert sum(run) == 40
    several = model.get_weights()
    model.set_weights(start)
    if "fixed" not in name:
        kx.calibrate(model, x, batch_size=40)
        for a, b in zip(several, model.get_weights(), strict=True):
            assert np.allclose(a, b, atol=1e-5)


def test_few_samples_and_small_layers_are_one_batch(rng):
    model, counted = counted_net([L.Dense(2**12, "relu")], [L.Dense(2)])
    for samples, runs in ((32, 1), (1000, 2), (1200, 3)):
        counted.runs = 0
        kx.calibrate(model, rng.standard_normal((samples, 8), np.float32))
        assert counted.runs == runs


def test_states_of_a_fixed_size(rng):
    """They take one batch size, with which an unbuilt model is built."""
    lstm = L.LSTM(4, stateful=True)
    model = keras.Sequential([lstm, L.Dense(8, name="head")])
    x = rng.standard_normal((40, 3, 2), np.float32)
    done = kx.calibrate(model, x)
    assert dict(done.skipped) == {"lstm": "recurrent"}
    assert np.allclose(np.var(model(x), axis=0), 1, atol=1e-4)


@pytest.mark.parametrize("first", [0, 30])
def test_a_batch_that_fails_changes_nothing(first, rng):
    """Passes that wait are ended, and so are their threads."""

    class Particular(L.Layer):
        def call(self, inputs):
            if tf.executing_eagerly() and tf.reduce_max(inputs) > 50:
                raise RuntimeError("too much")
            return inputs

    x = rng.standard_normal((60, 8), np.float32)
    x[first, 0] = 1e6
    layers = [L.Dense(8), Particular(), L.Dense(8)]
    model = keras.Sequential([keras.Input((8,)), *layers])
    before = model.get_weights()
    threads = threading.active_count()
    with pytest.raises(RuntimeError, match="too much"):
        kx.calibrate(model, x, batch_size=15, per="layer", target_variance=1e3)
    assert threading.active_count() == threads
    for old, new in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(old, new)


def test_more_batches_than_threads_are_refused(rng, monkeypatch):
    """1000 batches of one sample took 9.6 s, and 120 MiB more than 100."""
    assert calibrator._BATCHES == 1000
    monkeypatch.setattr(calibrator, "_BATCHES", 3)
    x = rng.standard_normal((31, 8), np.float32)
    model = keras.Sequential([keras.Input((8,)), L.Dense(8), L.Dense(4)])
    kx.calibrate(model, x[:30], batch_size=10)
    before = model.get_weights()
    threads = threading.active_count()
    endless = tf.data.Dataset.from_tensor_slices(x).batch(10).repeat()
    for data, options in (
        (x, {"batch_size": 10}),
        (endless, {"steps": 4}),
    ):
        with pytest.raises(ValueError, match=r"steps.*more than 3 batches"):
            kx.calibrate(model, data, **options)
    assert threading.active_count() == threads
    for old, new in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(old, new)
    kx.calibrate(model, endless, steps=3)


@pytest.mark.parametrize("batch_size", [None, 20])
def test_a_corrected_layer_runs_as_it_will(batch_size, rng):
    """What a layer hands on is bit for bit what it gives with new weights."""

    class Kept(L.Layer):
        def call(self, inputs):
            self.inputs = inputs
            return inputs

    kept = Kept()
    model = keras.Sequential([keras.Input((8,)), L.Dense(8, "tanh"), kept])
    x = rng.standard_normal((20, 8), np.float32)
    kx.calibrate(model, x, batch_size=batch_size)
    passed_on = np.asarray(kept.inputs)
    assert np.array_equal(passed_on, model.layers[0](x))


def test_rows_of_skipped_layers_are_those_of_their_final_signal(rng):
    frozen = [L.Dense(8, "relu", trainable=False) for _ in range(3)]
    model = keras.Sequential(
        [
            keras.Input((8,)),
            frozen[0],
            L.Dense(8, "relu"),
            frozen[1],
            L.Dense(8, "relu"),
            frozen[2],
        ]
    )
    x = rng.standard_normal((60, 8), np.float32)
    done = kx.calibrate(model, x, batch_size=20)
    assert done.layers == tuple(layer.name for layer in model.layers)
    measured = kx.measure(model, x)
    assert np.allclose(done.sample_variance, measured.sample_variance)
    assert np.allclose(done.squared_mean, measured.squared_mean, atol=1e-5)


class Failing(L.Layer):
    fails = False

    def call(self, inputs):
        if self.fails:
            raise RuntimeError("no more")
        return inputs


NOTHING_CHANGES = {
    "nan in data": (lambda x: np.where(x > 2, np.nan, x), ValueError, "finite"),
    "one sample": (lambda x: x[:1], ValueError, "at least two"),
    "overflow": (lambda x: x * 1e30, ValueError, "at layer 'dense'"),
    "wrong shape": (lambda x: x[:, :3], Exception, "."),
}


@pytest.mark.parametrize("batch_size", [None, 20])
@pytest.mark.parametrize("case", NOTHING_CHANGES)
def test_bad_data_are_refused_and_change_nothing(case, batch_size, rng):
    spoil, error, message = NOTHING_CHANGES[case]
    model = dense_net(3, 8)
    before = model.get_weights()
    data = spoil(rng.standard_normal((50, 8), np.float32))
    with pytest.raises(error, match=message):
        kx.calibrate(model, data, batch_size=batch_size)
    for old, new in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(old, new)


def test_an_exception_in_the_pass_changes_nothing(rng):
    model = dense_net(2, 8)
    model.add(Failing())
    model.layers[-1].fails = True
    before = model.get_weights()
    with pytest.raises(RuntimeError, match="no more"):
        kx.calibrate(model, rng.standard_normal((50, 8), np.float32))
    for old, new in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(old, new)


BAD = {
    "per": (dict(per="channel"), "per must be 'unit' or 'layer'"),
    "target_variance": (
        dict(target_variance=0),
        "target_variance must be a finite number > 0",
    ),
    "layers": (dict(layers="none"), "must pick"),
    "center": (dict(center="yes"), "center must be True or False"),
    "training": (dict(training=2), "training must be True or False"),
    "verbose": (dict(verbose=2), "verbose must be 0 or 1"),
    "batch_size": (dict(batch_size=0), "batch_size must be"),
}


def test_progress(capsys, rng):
    x = rng.standard_normal((50, 8), np.float32)
    kx.calibrate(dense_net(3, 8), x, verbose=1)
    assert "3/3" in capsys.readouterr().out
    kx.calibrate(dense_net(3, 8), x)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case, rng):
    arguments, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        kx.calibrate(
            dense_net(2, 8),
            rng.standard_normal((50, 8), np.float32),
            **arguments,
        )


def test_a_model_is_required():
    with pytest.raises(ValueError, match="must be a keras"):
        kx.calibrate("model", np.ones((4, 2)))


def test_layers_picks_the_layer_to_calibrate(rng):
    model = dense_net(3, 8)
    name = model.layers[1].name
    done = kx.calibrate(
        model, rng.standard_normal((50, 8), np.float32), layers=name
    )
    assert done.layers == (name,)


def test_layers_without_a_rule_are_listed(rng):
    class Mix(L.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], 8), name="w")

        def call(self, inputs):
            return inputs @ self.w

    model = keras.Sequential([keras.Input((8,)), Mix(name="mix"), L.Dense(4)])
    done = kx.calibrate(model, rng.standard_normal((60, 8), np.float32))
    assert dict(done.skipped) == {"mix": "not known to be linear in one kernel"}


def test_notes_of_calls_samples_constraints_and_large_factors(rng):
    twice = L.Dense(8, name="twice")
    model = keras.Sequential(
        [
            keras.Input((8,)),
            twice,
            twice,
            L.Dense(8, kernel_constraint="unit_norm", name="bound"),
        ]
    )
    x = rng.standard_normal((40, 8), np.float32)
    x[:, 1:] = 0
    x[1:, 0] = 1e-6 * x[1:, 0]
    done = kx.calibrate(model, x)
    assert "the first of 2 calls" in done["twice"].note
    assert "from 40 numbers a unit only" in done["twice"].note
    assert "constraint" in done["bound"].note
    kx.initialize(model, "he_normal", seed=1)
    done = kx.calibrate(model, x * 1e-6)
    assert "units scaled by up to" in done["twice"].note


def test_a_calibration_is_saved_and_loaded(rng, tmp_path):
    model = encoder()
    done = kx.calibrate(model, rng.integers(0, 20, (64, 6)))
    done.save(tmp_path / "done.json")
    again = kx.Calibration.load(tmp_path / "done.json")
    assert again == done
    assert dict(again.skipped) == dict(done.skipped)
    assert again.notes == done.notes
    assert "<p>Skipped: embed: embedding</p>" in done._repr_html_()
    assert repr(done).startswith("<Calibration of ")
    with pytest.raises(ValueError, match="A Calibration is read"):
        kx.Calibration.from_dict({})


@pytest.mark.slow
def test_the_table_of_a_deep_net_warns_of_rounding(rng):
    done = kx.calibrate(
        dense_net(70, 16), rng.standard_normal((64, 16), np.float32)
    )
    assert "Rounding included" in str(done)
    assert "pi/(pi-1) = 1.47" in str(done)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ResNet50", "MobileNetV3Small"])
def test_applications(name, rng):
    make = getattr(keras.applications, name)
    model = make(weights=None, input_shape=(64, 64, 3), classes=10)
    images = rng.random((8, 64, 64, 3), np.float32)
    done = kx.calibrate(model, images, training=True)
    assert np.isfinite(done.total).all()
    assert set(done.skipped.values()) <= {"followed by a normalization"}
    assert len(done.skipped) < len(done)


@pytest.mark.parametrize("name", ROWS)
def test_samples_anywhere_in_the_signal_give_the_weights_of_each_unit(
    name, rng
):
    run, source = ROWS[name]
    model, inside = model_of(run)
    x = rng.normal(size=(STEPS, STEPS, WIDTH)).astype("float32")
    before = inside.map.get_weights()
    for batch_size in (None, 4):
        inside.map.set_weights(before)
        done = kx.calibrate(model, x, layers="map", batch_size=batch_size)
        if name in UNREACHED:
            assert done.skipped == {"inside/map": "no sample reaches it"}
            assert all(map(np.array_equal, before, inside.map.get_weights()))
            continue
        kernel, bias = inside.map.get_weights()
        y = source(x, inside.free.numpy()) @ kernel + bias
        y = y.reshape(-1, y.shape[-1])
        np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(y.var(axis=0), 1, 1e-4)
