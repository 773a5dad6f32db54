"""A wide network in muP whose units are copies trains exactly as its base.

Let each unit of the base become R equal units, and divide by R every weight
that adds them up. The wide network is then the same function as its base, and
its gradients are those of the base, divided by R where units are copied. It
remains the same function after any number of steps if, and only if, each step
of a weight is that of the base, divided as the weight is. That is what muP asks
of its learning rates, so that one exact test covers every optimizer and layer.
"""

import keras
import numpy as np
import pytest

import keras_initx as kx

L = keras.layers
R = 3
X = np.random.default_rng(0).normal(size=(8, 5))
Y = np.random.default_rng(1).normal(size=(8, 3))
TOKENS = np.random.default_rng(2).integers(0, 7, (8, 4))

# The learning rates are large, and so are the constants that an optimizer
# compares gradients with: both must show.
OPTIMIZERS = {
    "Adadelta": {"learning_rate": 30.0, "epsilon": 1e-3},
    "Adafactor": {"learning_rate": 0.3},
    "Adagrad": {"learning_rate": 0.1},
    "Adam": {"learning_rate": 0.1, "amsgrad": True, "epsilon": 0.1},
    "AdamW": {"learning_rate": 0.1, "weight_decay": 0.5, "epsilon": 0.1},
    "Adamax": {"learning_rate": 0.1, "epsilon": 0.1},
    "Lamb": {"learning_rate": 0.3, "epsilon": 0.1},
    "Lion": {"learning_rate": 0.05},
    "Muon": {"learning_rate": 0.3, "epsilon": 0.1},
    "Nadam": {"learning_rate": 0.1, "epsilon": 0.1},
    "RMSprop": {"learning_rate": 0.1, "epsilon": 0.1, "momentum": 0.5},
    "SGD": {"learning_rate": 0.3, "momentum": 0.9},
    "ScheduleFreeAdamW": {"learning_rate": 0.1, "epsilon": 0.1},
}


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


def dense(width, depth=2):
    hidden = [L.Dense(width, "tanh") for _ in range(depth)]
    return keras.Sequential([keras.Input((5,)), *hidden, L.Dense(3)])


def layers_of_many_kinds(width):
    """Embedding, attention with larger heads, norm, recurrence, convolution."""
    tokens = keras.Input((4,), dtype="int32")
    x = L.Embedding(7, width, embeddings_initializer="normal")(tokens)
    x = L.Add()([x, L.MultiHeadAttention(2, width // 2)(x, x)])
    x = L.LayerNormalization()(x)
    x = L.GRU(width, return_sequences=True)(x)
    x = L.Conv1D(width, 2, activation="gelu", padding="same")(x)
    x = L.SeparableConv1D(width, 2)(x)
    return keras.Model(tokens, L.Dense(3)(L.Flatten()(x)))


def more_heads(width):
    """Attention with more heads of one size."""
    tokens = keras.Input((4,), dtype="int32")
    x = L.Embedding(7, width, embeddings_initializer="normal")(tokens)
    x = L.MultiHeadAttention(width // 2, 2)(x, x)
    return keras.Model(tokens, L.Dense(3)(L.Flatten()(x)))


def copied(build, optimizer, width=4):
    """The base, and a wide model of copies with its optimizer in muP."""
    keras.utils.set_random_seed(4)
    base, wide = build(width), build(R * width)
    done = kx.mup(wide, base)
    made = done.optimizer(optimizer)
    wanted = {
        id(variable): row
        for variable, row in zip(done.variables, done.rows, strict=True)
    }
    for variable, other in zip(wide.weights, base.weights, strict=True):
        # Biases and scales of the base must not be 0 and 1.
        value = np.asarray(other) + 0.1 * np.random.normal(size=other.shape)
        other.assign(value)
        for axis, (size, old) in enumerate(
            zip(variable.shape, other.shape, strict=True)
        ):
            value = np.repeat(value, size // old, axis=axis)
        # 1 / (ratio of the fan-ins), and less for queries.
        row = wanted.get(id(variable))
        variable.assign(value * (row.adam if row else 1))
    return base, wide, made


def assert_same_after_training(build, make, x, y, rtol, steps=4):
    base, wide, made = copied(build, make())
    start = base(x).numpy()
    np.testing.assert_allclose(wide(x), start, rtol=rtol, atol=rtol)
    for model, optimizer in ((base, make()), (wide, made)):
        model.compile(optimizer, "mse", run_eagerly=True)
        for _ in range(steps):
            model.train_on_batch(x, y)
    moved = base(x).numpy() - start
    assert np.abs(moved).max() > 0.1
    np.testing.assert_allclose(wide(x) - start, moved, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_copies_as_the_base(name, float64):
    def make():
        return getattr(keras.optimizers, name)(**OPTIMIZERS[name])

    # The hidden kernel of copies is not of the size that muP draws it with.
    depth = 1 if name in ("Lamb", "Adafactor") else 2
    # Muon adds 1e-7 to a norm.
    rtol = 1e-5 if name == "Muon" else 1e-9
    assert_same_after_training(lambda n: dense(n, depth), make, X, Y, rtol)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.parametrize("build", [layers_of_many_kinds, more_heads])
def test_every_layer_trains_copies_as_the_base(build, name, float64):
    def make():
        return getattr(keras.optimizers, name)(**OPTIMIZERS[name])

    assert_same_after_training(build, make, TOKENS, Y, 1e-9, steps=3)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_a_scaled_loss_trains_copies_as_the_base(name, float64):
    def make():
        inner = getattr(keras.optimizers, name)(**OPTIMIZERS[name])
        return keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)

    assert_same_after_training(dense, make, X, Y, 1e-9)


def test_muon_without_its_factor_of_the_longer_side():
    def make():
        return keras.optimizers.Muon(0.3, rms_rate=None)

    assert_same_after_training(dense, make, X, Y, 1e-4)


@pytest.mark.slow
def test_copies_survive_fit_and_a_file(tmp_path, float64):
    """XLA, a schedule, accumulation, averages, decay, a scaled loss."""

    def make():
        return keras.optimizers.AdamW(
            0.1,
            epsilon=0.1,
            weight_decay=0.3,
            gradient_accumulation_steps=2,
            use_ema=True,
            ema_momentum=0.5,
            loss_scale_factor=8.0,
        )

    base, wide, made = copied(dense, make())
    start = base(X).numpy()
    for model, optimizer in ((base, make()), (wide, made)):
        model.compile(optimizer, "mse", jit_compile=True)
    base.run_eagerly = True
    models = [base, wide]
    for part in range(2):
        for model in models:
            model.fit(
                *(X, Y),
                batch_size=4,
                epochs=2,
                shuffle=False,
                verbose=0,
                callbacks=[
                    keras.callbacks.LearningRateScheduler(
                        lambda epoch: [0.1, 0.05][epoch]
                    )
                ],
            )
        if part == 0:
            wide.save(tmp_path / "wide.keras")
            models[1] = keras.models.load_model(tmp_path / "wide.keras")
            models[1].run_eagerly = True
    moved = base(X).numpy() - start
    assert np.abs(moved).max() > 0.1
    np.testing.assert_allclose(models[1](X) - start, moved, atol=1e-9)
