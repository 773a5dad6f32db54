"""Tests of optimizers with a learning rate for each weight."""

import inspect
import pickle
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx

L = keras.layers
with_multipliers = kx.optimizers.with_multipliers

# The factor of each of three weights of different ranks.
FACTORS = {"matrix": 0.25, "vector": 4.0, "block": 1.0}
SHAPES = {"matrix": (3, 5), "vector": (5,), "block": (2, 4, 3)}
# Learning rates at which a step is about as large as the weights.
FAMILIES = {
    "Adadelta": {"learning_rate": 300.0},
    "Adafactor": {"learning_rate": 0.05},
    "Adagrad": {"learning_rate": 0.1},
    "Adam": {"learning_rate": 0.1, "amsgrad": True},
    "AdamW": {"learning_rate": 0.1, "weight_decay": 0.2},
    "Adamax": {"learning_rate": 0.1},
    "Ftrl": {"learning_rate": 0.1, "l1_regularization_strength": 0.01},
    "Lamb": {"learning_rate": 0.1},
    "Lion": {"learning_rate": 0.1},
    "Muon": {
        "learning_rate": 0.1,
        "weight_decay": 0.2,
        "adam_weight_decay": 0.1,
    },
    "Nadam": {"learning_rate": 0.1},
    "RMSprop": {"learning_rate": 0.1, "momentum": 0.5, "centered": True},
    "SGD": {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True},
    "ScheduleFreeAdamW": {"learning_rate": 0.1, "warmup_steps": 3},
}


def variables(dtype="float32"):
    rng = np.random.default_rng(0)
    return [
        keras.Variable(rng.normal(size=shape), dtype=dtype, name=name)
        for name, shape in SHAPES.items()
    ]


def after_steps(optimizer, steps=3):
    """Returns the weights after a few steps with fixed gradients."""
    # Muon computes in float32.
    muon = isinstance(optimizer, keras.optimizers.Muon)
    weights = variables("float32" if muon else "float64")
    rng = np.random.default_rng(1)
    for _ in range(steps):
        gradients = [
            tf.constant(rng.normal(size=w.shape), w.dtype) for w in weights
        ]
        optimizer.apply(gradients, weights)
    return [w.numpy() for w in weights]


def assert_each_has_its_rate(cls, options):
    """Compares each weight with an optimizer whose whole rate is multiplied.

    Weight decay takes the learning rate without the factor, so that the twin
    has the decay divided by it.
    """
    made = with_multipliers(cls(**options), FACTORS)
    assert isinstance(made, cls)
    actual = after_steps(made)
    for i, factor in enumerate(FACTORS.values()):
        rate = options["learning_rate"] * factor
        twin_options = {**options, "learning_rate": rate}
        for name in ("weight_decay", "adam_weight_decay"):
            if name in options:
                twin_options[name] = options[name] / factor
        twin = after_steps(cls(**twin_options))
        np.testing.assert_allclose(actual[i], twin[i], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_has_the_rate_of_each_weight(name):
    cls = getattr(keras.optimizers, name)
    assert_each_has_its_rate(cls, FAMILIES[name])


@pytest.mark.parametrize(
    "options",
    [
        {"clipnorm": 0.5},
        {"global_clipnorm": 0.5},
        {"clipvalue": 0.3},
        {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2},
        {"gradient_accumulation_steps": 2},
        {"loss_scale_factor": 8.0},
        {"weight_decay": 0.3},
        {"weight_decay": 0.3, "global_clipnorm": 0.5, "use_ema": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_all_else_is_as_in_the_optimizer(name, options):
    cls = getattr(keras.optimizers, name)
    assert_each_has_its_rate(cls, FAMILIES[name] | options)


def test_every_optimizer_of_keras_is_known_or_refused():
    others = {"LossScaleOptimizer", "MultiOptimizer", "Optimizer"}
    public = {
        name
        for name, value in vars(keras.optimizers).items()
        if isinstance(value, type)
        and issubclass(value, keras.optimizers.Optimizer)
    }
    assert public - others == set(FAMILIES)


class Own(keras.optimizers.SGD):
    """An optimizer that is not one of Keras's."""


def multi_optimizer():
    sgd = keras.optimizers.SGD()
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(sgd, {"a": keras.optimizers.Adam()})
    )


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (Own, "one of Keras's .*SGD.* Received: .*type Own"),
        (multi_optimizer, "of type MultiOptimizer"),
        (
            lambda: keras.optimizers.LossScaleOptimizer(Own()),
            "of type Own",
        ),
        (lambda: with_multipliers("sgd", {"a": 1}), "no multipliers yet"),
        (lambda: 3, "identifier"),
    ],
)
def test_unknown_optimizers_are_refused_by_name(optimizer, message):
    with pytest.raises(ValueError, match=message):
        with_multipliers(optimizer(), {"kernel": 2.0})


def test_an_optimizer_with_a_state_is_refused():
    for make in (lambda o: o, keras.optimizers.LossScaleOptimizer):
        optimizer = make(keras.optimizers.Adam())
        optimizer.build(variables())
        with pytest.raises(ValueError, match="must not be built"):
            with_multipliers(optimizer, {"matrix": 2.0})


@pytest.mark.parametrize(
    ("multipliers", "message"),
    [
        ({"matrix": 0.0}, r"'matrix' must be a finite number > 0.*=0.0"),
        ({"matrix": -1}, "> 0"),
        ({"matrix": float("nan")}, "> 0"),
        ({"matrix": True}, "> 0"),
        ({"matrix": "2"}, "> 0"),
        ({"(": 2.0}, "regular expression or a layer .*Received: key='\\('"),
        ({3: 2.0}, "Received: key=3"),
        ([("matrix", 2.0)], "multipliers must be a dict"),
        ({}, "must have a factor"),
        ({keras.layers.Dense(3): 2.0}, "must be built"),
        ({keras.layers.ReLU(): 2.0}, "must be built"),
    ],
)
def test_bad_multipliers(multipliers, message):
    with pytest.raises(ValueError, match=message):
        with_multipliers("adam", multipliers)


def named_model():
    """Layers and blocks with names that begin alike."""
    inputs = x = keras.Input((3,))
    for name in ("dense", "dense_1", "block_1", "block_10"):
        x = keras.layers.Dense(3, name=name)(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("dense", {"dense/kernel", "dense/bias"}),
        ("dense/kernel", {"dense/kernel"}),
        (r"dense(_\d+)?/bias", {"dense/bias", "dense_1/bias"}),
        ("block_1", {"block_1/kernel", "block_1/bias"}),
        (r"block_\d+/kernel", {"block_1/kernel", "block_10/kernel"}),
        ("^block.*kernel$", {"block_1/kernel", "block_10/kernel"}),
        (".*1.*/bias", {"dense_1/bias", "block_1/bias", "block_10/bias"}),
    ],
)
def test_patterns_match_whole_parts_of_paths(pattern, paths):
    model = named_model()
    optimizer = with_multipliers("sgd", {pattern: 0.5})
    assert optimizer.multipliers == {}
    optimizer.build(model.trainable_variables)
    halved = {p for p, f in optimizer.multipliers.items() if f == 0.5}
    assert halved == paths
    assert set(optimizer.multipliers.values()) == {0.5, 1.0}


@pytest.mark.parametrize(
    ("multipliers", "message"),
    [
        ({"dens": 0.5}, r"must match .* Did you mean 'dense'.*'dens', among"),
        ({"dense": 0.5, "kernels": 2}, "Received: 'kernels'"),
        ({"dense": 0.5, "bias": 2}, "'dense/bias' matches 'dense' and 'bias'"),
    ],
)
def test_keys_that_match_nothing_or_too_much_are_refused(multipliers, message):
    model = named_model()
    optimizer = with_multipliers("adam", multipliers)
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            optimizer.build(model.trainable_variables)
        # Nothing is half made.
        assert len(optimizer.variables) == 2


def test_a_frozen_weight_matches_nothing():
    model = named_model()
    model.get_layer("dense").trainable = False
    optimizer = with_multipliers("adam", {"dense": 0.5})
    with pytest.raises(ValueError, match="trainable weight"):
        optimizer.build(model.trainable_variables)


def test_one_weight_may_match_two_keys_of_one_factor():
    optimizer = with_multipliers("adam", {"dense": 0.5, "kernel": 0.5})
    optimizer.build(named_model().trainable_variables)
    assert optimizer.multipliers["dense/kernel"] == 0.5


# ---- Survival ---------------------------------------------------------------

X = np.random.default_rng(2).normal(size=(8, 3)).astype(np.float32)
Y = np.random.default_rng(3).normal(size=(8, 2)).astype(np.float32)


def twins(**options):
    """Returns a model whose two parts have layers of one name and one path.

    The first part has the factor 0.25.
    """
    keras.utils.set_random_seed(5)
    parts = []
    for name in ("first", "second"):
        inputs = keras.Input((3,))
        outputs = keras.layers.Dense(3, "tanh", name="same")(inputs)
        parts.append(keras.Model(inputs, outputs, name=name))
    model = keras.Sequential(
        [keras.Input((3,)), *parts, keras.layers.Dense(2, name="last")]
    )
    paths = [v.path for v in model.trainable_variables]
    assert len(set(paths)) < len(paths)
    return model


def factors_of(model):
    """The factors of `compiled`."""
    return [0.25, 0.25, 1.0, 1.0, 4.0, 4.0]


def compiled(model, optimizer, **options):
    optimizer = with_multipliers(
        optimizer, {model.layers[0]: 0.25, "last": 4.0}
    )
    model.compile(optimizer, "mse", **options)
    return model


def trained_by_hand(model, make, rates):
    """Trains a weight at a time, each with an optimizer of its own."""
    weights = model.trainable_variables
    optimizers = [make() for _ in weights]
    for rate in rates:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(X) - Y))
        gradients = tape.gradient(loss, [w.value for w in weights])
        for optimizer, weight, gradient, factor in zip(
            optimizers, weights, gradients, factors_of(model), strict=True
        ):
            optimizer.learning_rate = rate * factor
            optimizer.apply([gradient], [weight])
    return model.get_weights()


def assert_equal_weights(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def sgd(rate=0.1):
    return keras.optimizers.SGD(rate, momentum=0.9)


def adam(rate=0.01):
    return keras.optimizers.Adam(rate)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "options", "relative"),
    [
        (sgd, {"run_eagerly": True}, True),
        (sgd, {"jit_compile": True}, False),
        (adam, {"jit_compile": False}, False),
    ],
)
def test_fit_gives_each_weight_its_rate(make, options, relative):
    # A schedule sets the one learning rate of the optimizer.
    rates = [0.02, 0.1, 0.05]
    if relative:
        rates = [0.2, 0.4, 0.8]
    scheduler = keras.callbacks.LearningRateScheduler(
        (lambda epoch, rate: 2 * rate)
        if relative
        else (lambda epoch: rates[epoch])
    )
    model = compiled(twins(), make(), **options)
    model.fit(X, Y, epochs=3, verbose=0, callbacks=[scheduler])
    expected = trained_by_hand(twins(), make, rates)
    assert_equal_weights(model.get_weights(), expected)


class Halving(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that has no config."""

    def __call__(self, step):
        return 0.2 * 0.5 ** keras.ops.cast(step, "float32")


@pytest.mark.parametrize(
    "rate", [Halving, lambda: lambda: tf.constant(0.05)], ids=["step", "call"]
)
def test_schedules_and_functions_go_on(rate):
    rate = rate()
    is_schedule = isinstance(rate, Halving)
    rates = [0.2, 0.1, 0.05] if is_schedule else [0.05] * 3
    optimizer = keras.optimizers.SGD(momentum=0.9)
    optimizer.learning_rate = rate
    model = twins()
    made = with_multipliers(optimizer, {model.layers[0]: 0.25, "last": 4.0})
    weights = model.trainable_variables
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(X) - Y))
        gradients = tape.gradient(loss, [w.value for w in weights])
        made.apply(gradients, weights)
    expected = trained_by_hand(twins(), sgd, rates)
    assert_equal_weights(model.get_weights(), expected)


def test_weights_that_are_excluded_from_decay_stay_so():
    optimizer = keras.optimizers.AdamW(0.0, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["vector"])
    made = with_multipliers(optimizer, {"matrix": 0.5})
    optimizer.learning_rate = made.learning_rate = 0.1
    zeros = [tf.zeros(w.shape) for w in variables()]
    weights = variables()
    made.apply(zeros, weights)
    before = variables()
    np.testing.assert_allclose(weights[0], 0.95 * before[0].numpy(), rtol=1e-6)
    np.testing.assert_array_equal(weights[1], before[1])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("name", ["SGD", "Lion"])
def test_weights_of_other_types(name, dtype):
    # At a gradient of 1, each step is the learning rate.
    weights, plain = variables(dtype), variables(dtype)
    before = [w.numpy().astype(float) for w in weights]
    cls = getattr(keras.optimizers, name)
    gradients = [tf.ones(w.shape, dtype) for w in weights]
    with_multipliers(cls(0.25), FACTORS).apply(gradients, weights)
    cls(0.25).apply(gradients, plain)
    # The rounding of weights up to 4.
    atol = {"bfloat16": 0.02, "float16": 0.005, "float64": 1e-6}[dtype]
    for i, factor in enumerate(FACTORS.values()):
        moved = weights[i].numpy().astype(float) - before[i]
        expected = plain[i].numpy().astype(float) - before[i]
        np.testing.assert_allclose(
            moved, factor * expected, atol=atol * max(factor, 1)
        )


@pytest.mark.slow
def test_mixed_precision_with_a_scaled_loss():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model, plain = twins(), twins()
    finally:
        keras.config.set_dtype_policy("float32")
    before = model.get_weights()
    compiled(model, keras.optimizers.SGD(0.5)).train_on_batch(X, Y)
    plain.compile(keras.optimizers.SGD(0.5), "mse")
    plain.train_on_batch(X, Y)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    for start, a, b, factor in zip(
        before,
        model.get_weights(),
        plain.get_weights(),
        factors_of(model),
        strict=True,
    ):
        assert np.abs(b - start).max() > 1e-3
        np.testing.assert_allclose(a - start, factor * (b - start), atol=1e-6)


def test_the_optimizer_inside_of_a_scaled_loss():
    outer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1), initial_scale=8.0
    )
    made = with_multipliers(outer, FACTORS)
    assert type(made) is keras.optimizers.LossScaleOptimizer
    assert made.initial_scale == 8
    weights, alone = variables(), variables()
    made.apply([8 * tf.ones(w.shape) for w in weights], weights)
    twin = with_multipliers(keras.optimizers.SGD(0.1), FACTORS)
    twin.apply([tf.ones(w.shape) for w in alone], alone)
    assert_equal_weights(
        [w.numpy() for w in weights], [w.numpy() for w in alone]
    )


@keras.saving.register_keras_serializable("test_with_multipliers")
class Subclassed(keras.Model):
    """A model whose layers Keras counts anew when it is loaded."""

    def __init__(self, **options):
        super().__init__(**options)
        self.body = keras.layers.Dense(3, "tanh")
        self.head = keras.layers.Dense(2)

    def call(self, x):
        return self.head(self.body(x))


def subclassed():
    keras.utils.set_random_seed(5)
    model = Subclassed()
    model(X)
    return model


def test_a_scaled_loss_survives_a_file(tmp_path):
    outer = keras.optimizers.LossScaleOptimizer(sgd(), initial_scale=8.0)
    model = compiled(twins(), outer, run_eagerly=True)
    model.train_on_batch(X, Y)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    factors = loaded.optimizer.inner_optimizer.multipliers
    assert list(factors.values()) == factors_of(model)
    for each in (model, loaded):
        each.train_on_batch(X, Y)
    assert_equal_weights(loaded.get_weights(), model.get_weights())


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("kind", ["twins", "subclassed"])
def test_factors_and_state_survive_a_file(kind, steps, tmp_path):
    path = tmp_path / "model.keras"

    def train(model, count):
        for _ in range(count):
            model.train_on_batch(X, Y)

    def make():
        model = {"twins": twins, "subclassed": subclassed}[kind]()
        if kind == "twins":
            return compiled(model, adam(), run_eagerly=True)
        optimizer = with_multipliers(adam(), {model.body: 0.25})
        model.compile(optimizer, "mse", run_eagerly=True)
        return model

    model = make()
    train(model, steps)
    if not steps:
        # Some weights share a path, or have another one in a loaded model.
        model.optimizer.build(model.trainable_variables)
    model.save(path)
    loaded = keras.models.load_model(path)
    assert type(loaded.optimizer) is type(model.optimizer)
    assert int(loaded.optimizer.iterations) == steps
    train(model, 2)
    train(loaded, 2)
    assert_equal_weights(loaded.get_weights(), model.get_weights())
    plain = {"twins": twins, "subclassed": subclassed}[kind]()
    plain.compile(adam(), "mse", run_eagerly=True)
    train(plain, steps + 2)
    assert not np.allclose(plain.get_weights()[0], model.get_weights()[0])


def test_a_model_that_has_not_been_trained_survives_a_file(tmp_path):
    layers = [L.Dense(3, name="a"), L.Dense(3, name="b"), L.Dense(2, name="aa")]
    model = keras.Sequential([keras.Input((3,)), *layers])
    optimizer = with_multipliers(adam(), {layers[0]: 0.5, "b": 2})
    model.compile(optimizer, "mse")
    model.save(tmp_path / "model.keras")
    assert not model.optimizer.built
    # Keras warns of any optimizer that was saved before it was built.
    with pytest.warns(UserWarning, match="Skipping variable loading"):
        loaded = keras.models.load_model(tmp_path / "model.keras")
    # Keras leaves out the name of the model.
    paths = [v.path for v in loaded.trainable_variables]
    assert paths[0] != model.trainable_variables[0].path
    factors = loaded.optimizer.multipliers
    assert factors == dict(zip(paths, [0.5, 0.5, 2, 2, 1, 1], strict=True))


def test_a_copy_refuses_weights_that_are_not_its_own():
    optimizer = with_multipliers("sgd", {"dense": 0.5})
    optimizer.build(named_model().trainable_variables)
    config = keras.optimizers.serialize(optimizer)
    model = named_model()
    for weights in (
        model.trainable_variables[:-1],
        model.trainable_variables[::-1],
        keras.Sequential(
            [keras.Input((2,)), *(keras.layers.Dense(2) for _ in range(4))]
        ).trainable_variables,
    ):
        copy = keras.optimizers.deserialize(config)
        with pytest.raises(ValueError, match="belong to the trainable weights"):
            copy.build(weights)
    copy = keras.optimizers.deserialize(config)
    copy.build(model.trainable_variables)
    assert copy.multipliers == optimizer.multipliers


@pytest.mark.parametrize("build", [False, True])
def test_a_config_makes_the_same_optimizer(build):
    model = named_model()
    optimizer = with_multipliers(
        adam(), {model.get_layer("dense"): 0.5, "block_1/bias": 3}
    )
    # Keras cannot read a built optimizer from a pickle.
    copies = [pickle.loads(pickle.dumps(optimizer))]
    if build:
        optimizer.build(model.trainable_variables)
    copies.append(type(optimizer).from_config(optimizer.get_config()))
    for copy in copies:
        copy.build(named_model().trainable_variables)
        assert copy.multipliers["dense/kernel"] == 0.5
        assert copy.multipliers["block_1/bias"] == 3
        assert sorted(copy.multipliers.values()) == [0.5, 0.5, *[1] * 5, 3]


def test_an_ambiguous_config_of_a_layer_is_refused():
    model = twins()
    optimizer = with_multipliers("sgd", {model.layers[0]: 0.25})
    copy = type(optimizer).from_config(optimizer.get_config())
    with pytest.raises(ValueError, match="2 weights with the path"):
        copy.build(model.trainable_variables)


# ---- What Keras documents ---------------------------------------------------


def test_keras_shows_how_an_optimizer_finds_the_state_of_a_variable():
    """keras_initx/optimizers/with_multipliers.py."""
    text = inspect.getdoc(keras.Optimizer)
    assert "self._get_variable_index(variable)" in text
    assert "def update_step(self, gradient, variable, learning_rate):" in text
    optimizer = keras.optimizers.SGD()
    weights = variables()
    optimizer.build(weights)
    for i, weight in enumerate(weights):
        assert optimizer._get_variable_index(weight) == i
        # `update_step` is given the variables of TensorFlow.
        assert optimizer._get_variable_index(weight.value) == i


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_updates_by_the_rate_that_it_is_given(name):
    method = getattr(keras.optimizers, name).update_step
    assert len(inspect.signature(method).parameters) == 4
    source = inspect.getsource(method)
    assert not re.search(r"self\.learning_rate\b", source)
