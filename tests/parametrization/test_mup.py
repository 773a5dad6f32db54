"""Tests of muP: starts and learning rates by width."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx

L = keras.layers
R = 4


def rows_of(build, width=8, **options):
    """The rows of a model that is R times as wide as its base."""
    return kx.mup(build(R * width), build(width), **options).rows


INPUT, HIDDEN, READOUT = (1, R, 1, R), (R, R, 1 / R, 1), (R, 1, 1 / R, 1 / R)
VECTOR, FIXED = (1, R, 1, R), (1, 1, 1, 1)


def sequential(shape, *layers, dtype=None):
    model = keras.Sequential([keras.Input(shape, dtype=dtype), *layers])
    return model


def attention(heads, size, width):
    x = keras.Input((3, width))
    layer = L.MultiHeadAttention(heads, size)
    return keras.Model(x, layer(x, x))


def grouped_attention(size, width):
    x = keras.Input((3, width))
    return keras.Model(x, L.GroupQueryAttention(size, 4, 2)(x, x))


QUERY = (R, R, 1 / R / 2, 1 / R)
QUERY_BIAS = (1, R, 1 / 2, R / R)
# name: (function of a width, the ratios and the factors for Adam and SGD of
# each weight)
LAYERS = {
    "dense": (
        lambda n: sequential((3,), L.Dense(n), L.Dense(n), L.Dense(2)),
        [INPUT, VECTOR, HIDDEN, VECTOR, READOUT, FIXED],
    ),
    "convolutions": (
        lambda n: sequential(
            (6, 6, 2), L.Conv2D(n, 3), L.Conv2D(n, 2, strides=2), L.Conv2D(2, 1)
        ),
        [INPUT, VECTOR, HIDDEN, VECTOR, READOUT, FIXED],
    ),
    "groups of one size": (
        lambda n: sequential((6, n), L.Conv1D(n, 3, groups=n // 4)),
        [(1, R, 1, R), VECTOR],
    ),
    "one number of groups": (
        lambda n: sequential((6, n), L.Conv1D(n, 3, groups=2)),
        [HIDDEN, VECTOR],
    ),
    "transposed": (
        lambda n: sequential((4, 4, n), L.Conv2DTranspose(n, 3, strides=2)),
        [HIDDEN, VECTOR],
    ),
    "depthwise": (
        lambda n: sequential((6, 6, n), L.DepthwiseConv2D(3)),
        [VECTOR, VECTOR],
    ),
    "separable": (
        lambda n: sequential((6, 6, n), L.SeparableConv2D(n, 3)),
        [VECTOR, HIDDEN, VECTOR],
    ),
    "recurrent": (
        lambda n: sequential(
            (5, 3), L.LSTM(n, return_sequences=True), L.GRU(n)
        ),
        [INPUT, HIDDEN, VECTOR, HIDDEN, HIDDEN, VECTOR],
    ),
    "embedding": (
        lambda n: sequential((5,), L.Embedding(7, n), L.Dense(7)),
        [(1, R, 1, R), READOUT, FIXED],
    ),
    "norms": (
        lambda n: sequential(
            (4, n), L.LayerNormalization(), L.BatchNormalization(), L.PReLU()
        ),
        [VECTOR] * 5,
    ),
    "einsum": (
        lambda n: sequential(
            (3, n), L.EinsumDense("abc,cde->abde", (3, 2, n), bias_axes="de")
        ),
        [HIDDEN, VECTOR],
    ),
    "more heads": (
        lambda n: attention(n // 4, 4, n),
        [HIDDEN, VECTOR] * 4,
    ),
    "larger heads": (
        lambda n: attention(2, n, n),
        [QUERY, QUERY_BIAS, *[HIDDEN, VECTOR] * 3],
    ),
    "larger heads of groups": (
        lambda n: grouped_attention(n, n),
        [QUERY, QUERY_BIAS, *[HIDDEN, VECTOR] * 3],
    ),
    "residual branch": (
        lambda n: sequential((n,), kx.layers.Residual(L.Dense(n))),
        [HIDDEN, VECTOR],
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_ratios_and_learning_rates_of_layers(name):
    build, expected = LAYERS[name]
    actual = [
        (row.input_ratio, row.output_ratio, row.adam, row.sgd)
        for row in rows_of(build)
    ]
    assert actual == expected


# ---- The start --------------------------------------------------------------

RANDOM = [
    "glorot_uniform",
    "he_normal",
    "lecun_uniform",
    "random_normal",
    "random_uniform",
    "truncated_normal",
    "orthogonal",
    keras.initializers.VarianceScaling(2, "fan_out", "untruncated_normal"),
    kx.initializers.Scaled("glorot_normal", 0.5),
    # Its size is measured.
    kx.initializers.FractionalMoment(),
]


def network(width, initializer="lecun_normal"):
    def make(units, **options):
        drawn = keras.initializers.get(initializer)
        # One instance would give several layers one seed.
        drawn = type(drawn).from_config(drawn.get_config())
        return L.Dense(units, "relu", kernel_initializer=drawn, **options)

    layers = [make(width, name="a"), make(width, name="b"), make(10, name="c")]
    return keras.Sequential([keras.Input((48,)), *layers])


def sizes(model):
    kernels = [w.numpy() for w in model.weights if len(w.shape) > 1]
    return np.array([np.sqrt(np.mean(k.astype(float) ** 2)) for k in kernels])


@pytest.mark.parametrize(
    "initializer", RANDOM, ids=lambda each: type(each).__name__
)
def test_sizes_follow_from_those_of_the_base(initializer, seed):
    """A relative error of 6 deviations of the smallest kernel's mean square.

    By Chebyshev's exponential inequality that fails less than once in 10^6
    runs, for normal and for bounded numbers.
    """
    keras.utils.set_random_seed(seed)
    base, model = network(32, initializer), network(512, initializer)
    done = kx.mup(model, base)
    ratios = sizes(model) / sizes(base)
    expected = np.array([1, 1 / 4, 1 / 16])
    tolerance = 6 * math.sqrt(2 / (32 * 10)) / 2 * 1.5
    np.testing.assert_allclose(ratios / expected, 1, atol=tolerance)
    if not isinstance(initializer, kx.initializers.FractionalMoment):
        again = kx.mup(network(512, initializer), network(32, initializer))
        starts = [[row.start for row in each.rows] for each in (done, again)]
        assert starts[0] == starts[1]


@pytest.mark.parametrize(
    ("initializer", "starts"),
    [
        ("lecun_normal", [1, 1, 1 / 2]),
        ("he_uniform", [1, 1, 1 / 2]),
        ("random_normal", [1, 1 / 2, 1 / 4]),
        ("orthogonal", [math.sqrt(128 / 48), 1, 1 / 2]),
        (
            "glorot_uniform",
            [
                math.sqrt((48 + 128) / (48 + 32)),
                1,
                math.sqrt((10 + 128) / (10 + 32)) / 4,
            ],
        ),
        ("zeros", [1, 1, 1]),
    ],
)
def test_factors_at_the_start(initializer, starts):
    model = network(128, initializer)
    before = model.get_weights()
    rows = kx.mup(model, network(32, initializer)).rows
    assert [r.start for r in rows if r.role == "bias"] == [1, 1, 1]
    actual = [row.start for row in rows if row.role == "kernel"]
    np.testing.assert_allclose(actual, starts, rtol=1e-6)
    for value, old, row in zip(model.get_weights(), before, rows, strict=True):
        np.testing.assert_allclose(value, row.start * old, rtol=1e-6)


def test_embeddings_and_attention_keep_or_lose_size():
    def build(width):
        tokens = keras.Input((5,))
        x = L.Embedding(50, width)(tokens)
        x = L.MultiHeadAttention(2, width // 2)(x, x)
        return keras.Model(tokens, L.Dense(50)(x))

    base, model = build(16), build(256)
    rows = kx.mup(model, base).rows
    by_name = {row.name.split("/", 1)[-1]: row for row in rows}
    assert rows[0].start == 1
    # Glorot with the axes of EinsumDense: width to width.
    assert by_name["query/kernel"].start == pytest.approx(1 / 4)
    assert by_name["key/kernel"].start == pytest.approx(1)
    assert by_name["attention_output/kernel"].start == pytest.approx(1)


def test_a_start_of_another_initializer_is_measured():
    base, model = network(64), network(256)
    for each in (base, model):
        kx.initialize(each, "random_normal", seed=3)
    rows = kx.mup(model, base).rows
    starts = [row.start for row in rows if row.role == "kernel"]
    np.testing.assert_allclose(starts, [1, 1 / 2, 1 / 4], rtol=0.2)
    ratios = sizes(model) / sizes(base)
    np.testing.assert_allclose(ratios, [1, 1 / 2, 1 / 4], rtol=1e-5)


def test_a_model_of_the_size_of_its_base_is_not_changed():
    model = network(16, "glorot_normal")
    before = model.get_weights()
    for row in kx.mup(model, network(16, "glorot_normal")).rows:
        assert (row.start, row.adam, row.sgd) == (1, 1, 1)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_base_may_be_trained_or_a_function():
    base = network(32)
    base.compile("sgd", "mse")
    base.train_on_batch(np.ones((4, 48)), np.ones((4, 10)))
    a = kx.mup(network(64), base)
    b = kx.mup(network(64), network, base_width=32)
    assert a.rows == b.rows
    assert [row.start for row in a.rows if row.role == "kernel"] == [
        1,
        1,
        pytest.approx(math.sqrt(1 / 2)),
    ]
    model = network(64)
    kx.initialize(model, "random_normal")
    with pytest.raises(ValueError, match="base that has been trained"):
        kx.mup(model, base)


def test_frozen_weights_and_types():
    def build(width):
        model = network(width, "random_normal")
        model.layers[1].trainable = False
        return model

    keras.config.set_dtype_policy("mixed_float16")
    try:
        model, base = build(64), build(16)
    finally:
        keras.config.set_dtype_policy("float32")
    before = model.get_weights()
    done = kx.mup(model, base)
    assert [row.skipped for row in done.rows[2:4]] == ["frozen", "frozen"]
    np.testing.assert_array_equal(model.get_weights()[2], before[2])
    np.testing.assert_allclose(model.get_weights()[4], before[4] / 4, rtol=1e-6)
    optimizer = done.optimizer("adam")
    optimizer.build(model.trainable_variables)
    assert len(optimizer.multipliers) == 4


def test_statistics_have_no_row():
    def build(width):
        layers = L.Dense(width), L.BatchNormalization(), L.Dropout(0.1)
        return keras.Sequential([keras.Input((3,)), *layers])

    names = [row.name.split("/")[-1] for row in rows_of(build)]
    assert names == ["kernel", "bias", "gamma", "beta"]


# ---- What is refused --------------------------------------------------------


class Unknown(L.Layer):
    """A layer that no rule knows."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1],), name="w")

    def call(self, x):
        return x * self.w


class TiedHead(L.Layer):
    """A readout by the transposed weights of an embedding."""

    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding

    def call(self, x):
        return x @ keras.ops.transpose(self.embedding.embeddings)


def tied(width, by_layer=True):
    tokens = keras.Input((5,))
    if by_layer:
        embedding = L.Embedding(7, width)
        return keras.Model(tokens, TiedHead(embedding)(embedding(tokens)))
    embedding = L.ReversibleEmbedding(7, width)
    x = L.Dense(width)(embedding(tokens))
    return keras.Model(tokens, embedding(x, reverse=True))


class Lazy(keras.Model):
    """A model whose layers have no weights before it is called."""

    def __init__(self, width):
        super().__init__()
        self.inner = L.Dense(width)

    def build(self, shape):
        self.built = True

    def call(self, x):
        return self.inner(x)


def lazy(width):
    model = Lazy(width)
    model.build((None, 3))
    return model


def with_attention(width):
    x = keras.Input((5, 3))
    y = L.Dense(width)(x)
    return keras.Model(x, L.Attention()([y, y]))


def with_lora(width):
    model = network(width)
    model.layers[1].enable_lora(2)
    return model


def with_constraint(width):
    layer = L.Dense(2, kernel_constraint=keras.constraints.UnitNorm())
    model = keras.Sequential([keras.Input((width,)), layer])
    layer.kernel.assign(layer.kernel_constraint(layer.kernel))
    return model


REFUSED = {
    "tied": (tied, "embeddings', a tied embedding"),
    "reversed": (lambda n: tied(n, False), "embedding', a tied embedding"),
    "attention": (with_attention, "'attention', Attention without"),
    "not built": (lazy, "'dense.*', not built"),
    "lora": (with_lora, "LoRA"),
    "unknown": (
        lambda n: sequential((n,), Unknown(name="odd")),
        "'odd/w', a weight that no rule knows",
    ),
    "spectral": (
        lambda n: sequential((3,), L.SpectralNormalization(L.Dense(n))),
        "SpectralNormalization, which undoes",
    ),
    "constraint": (with_constraint, "no constraint that undoes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_by_name(name):
    build, message = REFUSED[name]
    model = build(16)
    before = model.get_weights()
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            kx.mup(model, build(8))
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)


def test_a_reversible_embedding_that_is_not_reversed_is_none():
    def build(width):
        tokens = keras.Input((5,))
        return keras.Model(tokens, L.ReversibleEmbedding(7, width)(tokens))

    assert rows_of(build)[0].sgd == R


@pytest.mark.parametrize(
    ("base", "options", "message"),
    [
        (lambda: network(32), {}, "at most as wide"),
        (
            lambda: sequential((48,), L.Dense(8), L.Dense(10)),
            {},
            "6 weights, and 4 of the base",
        ),
        (
            lambda: sequential(
                (48,), L.Dense(8), L.LayerNormalization(), L.Dense(10)
            ),
            {},
            "'b/kernel' of shape",
        ),
        (lambda: network(8, "zeros"), {}, "zero in one of them"),
        (lambda: network, {}, "base_width must be"),
        (lambda: network, {"base_width": 0}, "base_width must be an int >= 1"),
        (lambda: network(8), {"base_width": 8}, "base_width is the argument"),
        (lambda: keras.Sequential([L.Dense(3)]), {}, "before it is built"),
    ],
)
def test_a_base_that_does_not_match_is_refused(base, options, message):
    model = network(16)
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        kx.mup(model, base(), **options)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_arguments_of_other_types():
    with pytest.raises(TypeError, match="Keras layer"):
        kx.mup(network(16), 3)
    with pytest.raises(RuntimeError, match=r"outside of a tf\.function"):
        tf.function(lambda: kx.mup(network(16), network(8)))()


def test_a_second_call_is_refused_until_the_weights_are_drawn_anew():
    model, base = network(16), network(8)
    done = kx.mup(model, base)
    before = model.get_weights()
    with pytest.raises(ValueError, match="in muP already"):
        kx.mup(model, base)
    np.testing.assert_array_equal(before[0], model.get_weights()[0])
    kx.initialize(model, "he_normal")
    with pytest.raises(ValueError, match="was drawn anew"):
        done.optimizer("adam")
    kx.initialize(base, "he_normal")
    kx.mup(model, base).optimizer("adam")


def test_the_optimizer_is_that_of_one_model():
    done = kx.mup(network(16), network(8))
    for weights in (
        network(32).trainable_variables,
        done.model.trainable_variables[1:],
    ):
        config = keras.optimizers.serialize(done.optimizer("sgd"))
        with pytest.raises(ValueError, match="belong to the trainable"):
            keras.optimizers.deserialize(config).build(weights)
    empty = sequential((3,), L.ReLU())
    optimizer = kx.mup(empty, empty).optimizer("sgd")
    with pytest.raises(ValueError, match="belong to the trainable"):
        optimizer.build(done.model.trainable_variables)


def test_a_trained_model_is_refused():
    model = network(16)
    model.compile("sgd", "mse")
    model.train_on_batch(np.ones((4, 48)), np.ones((4, 10)))
    with pytest.raises(ValueError, match="must not be trained yet"):
        kx.mup(model, network(8))


# ---- The optimizer ----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("SGD", "sgd"),
        *(
            (name, "adam")
            for name in (
                "Adadelta",
                "Adagrad",
                "Adam",
                "AdamW",
                "Adamax",
                "Lion",
                "Nadam",
                "RMSprop",
                "ScheduleFreeAdamW",
            )
        ),
    ],
)
def test_each_optimizer_takes_its_column(name, column):
    model = network(64)
    done = kx.mup(model, network(16))
    plain = getattr(keras.optimizers, name)(0.125)
    for scaled in (False, True):
        given = plain
        if scaled:
            given = keras.optimizers.LossScaleOptimizer(plain)
        optimizer = done.optimizer(given)
        optimizer.build(model.trainable_variables)
        inner = optimizer.inner_optimizer if scaled else optimizer
        assert isinstance(inner, type(plain))
        assert float(inner.learning_rate) == 0.125
        assert list(inner.multipliers.values()) == [
            getattr(row, column) for row in done.rows
        ]


class Own(keras.optimizers.Adam):
    """An optimizer that is not one of Keras's."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (keras.optimizers.Ftrl, "start is lost.*type Ftrl"),
        (Own, "type Own"),
    ],
)
def test_other_optimizers_are_refused_by_name(optimizer, message):
    done = kx.mup(network(16), network(8))
    with pytest.raises(ValueError, match=message):
        done.optimizer(optimizer())


def test_weights_that_start_too_small_for_steps_of_their_size():
    def zeros(width):
        hidden = L.Dense(width, kernel_initializer="zeros", name="first")
        last = L.Dense(2, kernel_initializer="zeros", name="last")
        return keras.Sequential([keras.Input((3,)), hidden, last])

    done = kx.mup(zeros(16), zeros(8))
    for cls, size in (
        (keras.optimizers.Lamb, "above zero"),
        (keras.optimizers.Adafactor, "above epsilon_2=0.001"),
    ):
        # The first kernel has as many inputs in both models.
        with pytest.raises(ValueError, match=f"{size}.*'last/kernel' with.* 0"):
            done.optimizer(cls())


def test_steps_of_lamb_are_as_large_as_the_weight():
    x = np.random.default_rng(0).normal(size=(16, 48)).astype(np.float32)
    model = network(64)
    done = kx.mup(model, network(16))
    before = model.get_weights()
    model.compile(
        done.optimizer(keras.optimizers.Lamb(0.5)), "mse", run_eagerly=True
    )
    model.train_on_batch(x, x[:, :10])
    norm = np.linalg.norm
    for i, factor in ((0, 1.0), (2, 0.5), (4, 1.0)):
        step = norm(model.get_weights()[i] - before[i])
        np.testing.assert_allclose(
            step, 0.5 * factor * norm(before[i]), rtol=1e-5
        )


def test_muon_needs_no_embedding_of_its_own():
    def build(width):
        table = L.Embedding(5, width, name="table")
        return keras.Sequential([keras.Input((3,)), table, L.Dense(2)])

    done = kx.mup(build(16), build(8))
    muon = keras.optimizers.Muon
    done.optimizer(muon())
    with pytest.raises(ValueError, match=r"exclude_layers.*table/embeddings"):
        done.optimizer(muon(exclude_embeddings=False))
    done.optimizer(muon(exclude_embeddings=False, exclude_layers=["table"]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_the_first_step_has_the_factors(name):
    x = np.random.default_rng(0).normal(size=(16, 48)).astype(np.float32)
    y = np.random.default_rng(1).normal(size=(16, 10)).astype(np.float32)
    model = network(64)
    done = kx.mup(model, network(16))
    weights = model.trainable_variables
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x) - y))
    gradients = tape.gradient(loss, [w.value for w in weights])
    before = model.get_weights()
    cls = getattr(keras.optimizers, name)
    options = {"epsilon": 1e-20} if name == "Adam" else {}
    model.compile(done.optimizer(cls(0.5, **options)), "mse")
    model.train_on_batch(x, y)
    for old, new, gradient, row in zip(
        before, model.get_weights(), gradients, done.rows, strict=True
    ):
        g = np.asarray(gradient, float)
        step = g * row.sgd if name == "SGD" else np.sign(g) * row.adam
        far = np.abs(g) > 1e-6
        np.testing.assert_allclose(
            (new - old)[far], -0.5 * step[far], rtol=1e-4, atol=1e-6
        )


def test_table():
    done = kx.mup(network(16), network(8))
    lines = str(done).splitlines()
    assert lines[0].split() == [
        *("weight", "role", "r_in", "r_out", "start", "Adam", "SGD", "skipped")
    ]
    assert lines[-2].split()[1:] == [
        *("kernel", "2", "1", "0.7071", "0.5", "0.5")
    ]
    assert "<td>kernel</td>" in done._repr_html_()
    assert repr(done) == "<Mup of 6 weights: 1 multiplied>"
    assert len(done) == 6
