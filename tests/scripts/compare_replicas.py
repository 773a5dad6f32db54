"""Compares replicas on several logical CPUs with a single device.

The argument is the number of replicas. test_distribute.py runs this script in
a process of its own, because logical devices must be configured before
TensorFlow starts. Initializers and layers are those of tests/helpers/tables.py.
The last printed line is JSON: the largest relative error of each comparison.
"""

import contextlib
import json
import sys

import keras
import numpy as np
import tensorflow as tf

REPLICAS = int(sys.argv[1])
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * REPLICAS,
)
import keras_initx as kx  # noqa: E402
from tests.helpers import tables  # noqa: E402

# The table of layers describes what they do to 4 channels.
X = np.random.default_rng(0).normal(size=(48, 4)).astype(np.float32)


def on_each_replica(strategy, values):
    return [np.asarray(v) for v in strategy.experimental_local_results(values)]


def pieces(strategy, x):
    size = len(x) // REPLICAS
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(
            x[context.replica_id_in_sync_group * size :][:size]
        )
    )


def difference(a, b):
    """Returns the largest difference, relative to the largest number of b."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        return np.inf
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))


def compare_initializer(strategy, make, shape):
    """Compares the copies of a weight with a weight without a strategy."""
    alone = make(seed=7)(shape)
    with strategy.scope():
        weight = keras.layers.Layer().add_weight(
            shape, initializer=make(seed=7)
        )
    copies = on_each_replica(strategy, weight.value)
    assert len(copies) == REPLICAS
    return max(difference(copy, alone) for copy in copies)


def compare_layer(strategy, make, expected):
    """Compares outputs, and the gradient of their squares over all replicas."""
    with strategy.scope():
        made = make()
        made.build(X.shape)

    def gradients(x):
        with tf.GradientTape() as tape:
            y = made(x)
            loss = tf.reduce_sum(y**2)
        weights = [w.value for w in made.trainable_weights]
        return y, tape.gradient(loss, weights)

    @tf.function(autograph=False)
    def run(x):
        return strategy.run(gradients, args=(x,))

    y, piece_gradients = run(pieces(strategy, X))
    _, batch_gradients = gradients(tf.constant(X))
    outputs = np.concatenate(on_each_replica(strategy, y))
    errors = [difference(outputs, expected(X))]
    for piece, whole in zip(piece_gradients, batch_gradients, strict=True):
        errors.append(difference(sum(on_each_replica(strategy, piece)), whole))
    return max(errors)


# Widths and pieces of batches recur, since XLA compiles anew for each.


def dense(width=16):
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(width, "relu"),
            keras.layers.BatchNormalization(),
            kx.layers.Residual(keras.layers.Dense(width), scale=0.5),
            keras.layers.Dense(16),
        ]
    )


def convolution():
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Reshape((4, 1)),
            keras.layers.Conv1D(6, 3, padding="same", activation="tanh"),
            keras.layers.SimpleRNN(5),
        ]
    )


class Arranged(keras.layers.Layer):
    """Maps of signals whose first axis is not the samples."""

    def __init__(self):
        super().__init__()
        self.maps = [keras.layers.Dense(5, name=name) for name in "abcd"]

    def build(self, shape):
        for each in self.maps:
            each.build((None, 2))
        self.free = self.add_weight(shape=(3, 2), name="free")

    def call(self, x):
        ops = keras.ops
        free, windows, views, steps = self.maps
        pairs = ops.reshape(x, (-1, 2, 2))
        folded = windows(ops.reshape(pairs, (-1, 2)))
        both = views(ops.concatenate([pairs, -pairs + 1], axis=0))
        first = steps(ops.swapaxes(pairs, 0, 1))
        return (
            ops.sum(free(self.free))
            + ops.reshape(folded, (-1, 2, 5))
            + ops.split(both, 2)[1]
            + ops.swapaxes(first, 0, 1)
        )


def arranged():
    return keras.Sequential([keras.Input((4,)), Arranged()])


class Centered(keras.layers.Dense):
    """Subtracts the mean over all replicas, so that each waits for the others.

    The replica number `fails_at`, if not None, raises an error.
    """

    fails_at = None

    def call(self, x):
        replica = tf.distribute.get_replica_context()
        x -= replica.all_reduce("mean", tf.reduce_mean(x, axis=0))
        number = tf.get_static_value(replica.replica_id_in_sync_group)
        if number == self.fails_at:
            raise RuntimeError("failed on purpose")
        return super().call(x)


def synchronized():
    """Returns a model in which a replica waits for the others in each layer."""
    return keras.Sequential(
        [
            keras.Input((4,)),
            Centered(16, "relu", bias_initializer="ones"),
            keras.layers.BatchNormalization(synchronized=True),
            Centered(16, "tanh", bias_initializer="ones"),
            keras.layers.BatchNormalization(synchronized=True),
            keras.layers.Dense(16, bias_initializer="ones"),
        ]
    )


def model_pair(strategy, build):
    """Returns the same model without the strategy and under it."""
    keras.utils.set_random_seed(3)
    alone = build()
    with strategy.scope():
        model = build()
        model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=False)
    model.set_weights(alone.get_weights())
    alone.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=False)
    return alone, model


def profile_difference(a, b):
    """Returns the largest difference, infinite if shares of units differ."""
    assert (a.units == b.units).all()
    for share in ("dead_fraction", "saturated_fraction"):
        one, other = getattr(a, share), getattr(b, share)
        if not np.allclose(one, other, rtol=0, atol=1e-6, equal_nan=True):
            return np.inf
    known = ~np.isnan(b.gradient)
    assert (known == ~np.isnan(a.gradient)).all()
    return max(
        difference(a.sample_variance, b.sample_variance),
        difference(a.squared_mean, b.squared_mean),
        difference(
            np.where(known, a.gradient, 0), np.where(known, b.gradient, 0)
        ),
    )


def activated():
    """Returns a model with units that are dead, and outputs near a bound."""
    layers = [
        keras.layers.Dense(16, "relu", name="dead"),
        keras.layers.Dense(16, "tanh", name="near", kernel_initializer="ones"),
        keras.layers.Dense(16),
    ]
    model = keras.Sequential([keras.Input((4,)), *layers])
    layers[0].bias.assign(np.resize([-99, 0, 0.5, 99], 16))
    layers[1].kernel.assign(layers[1].kernel * 0.01)
    return model


def compare_shares(strategy):
    """Compares profiles of a model some of whose units are dead or saturated.

    Then each replica gets samples that are equal, and others than the next
    replica, so that all units are constant there, but not in all.
    """
    errors = []
    alone, model = model_pair(strategy, activated)
    size = len(X) // REPLICAS
    equal = np.repeat(X[::size], size, axis=0)
    for x in (X, equal):
        expected = kx.measure(alone, x, batch_size=len(x))
        dead, saturated = expected.dead_fraction, expected.saturated_fraction
        assert 0 < dead[0] < 1 and 0 < saturated[1] < 1
        for batch_size in (len(x), len(x) // 3):
            profile = kx.measure(model, x, batch_size=batch_size)
            errors.append(profile_difference(profile, expected))
    return max(errors)


def compare_measurement(strategy, build, samples, **options):
    """Compares the profiles of `measure`."""
    alone, model = model_pair(strategy, build)
    # The mean is far from zero, so that merging about a wrong mean would show.
    x = np.concatenate([X, X[::-1] + 1])[:samples] + 5
    gradient = options.get("gradient", False)
    return profile_difference(
        kx.measure(model, x, **options),
        kx.measure(alone, x, batch_size=samples, gradient=gradient),
    )


def compare_synchronized(strategy):
    """Compares profiles where replicas wait for each other inside layers.

    Also asserts that measuring leaves no attribute in the layers, even if one
    replica raises an error.
    """
    alone, model = model_pair(strategy, synchronized)
    options = {"training": True, "batch_size": 24, "gradient": True}
    expected = kx.measure(alone, X, **options)
    centered = model.layers[2]
    assert isinstance(centered, Centered)
    before = [dict(vars(layer)) for layer in model.layers]

    def assert_unchanged():
        for layer, attributes in zip(model.layers, before, strict=True):
            assert vars(layer).keys() == attributes.keys(), layer.name
            for name, value in vars(layer).items():
                assert value is attributes[name], f"{layer.name}.{name}"

    error = profile_difference(kx.measure(model, X, **options), expected)
    assert_unchanged()
    first, last = 0, REPLICAS - 1
    for replica in (first, last):
        centered.fails_at = replica
        try:
            kx.measure(model, X[:24], **options)
            error = np.inf
        except RuntimeError as failure:
            assert "failed on purpose" in str(failure)
        finally:
            del centered.fails_at
        assert_unchanged()
    again = kx.measure(model, X, **options)
    return max(error, profile_difference(again, expected))


def nan_error(strategy):
    """Returns 0 if a NaN in one replica's data is reported as one in data."""
    _, model = model_pair(strategy, dense)
    x = X.copy()
    x[-1, -1] = np.nan
    try:
        kx.measure(model, x, batch_size=48)
    except ValueError as error:
        return 0.0 if "data must be finite" in str(error) else np.inf
    return np.inf


def homogeneous():
    """Returns a model that passes positive factors on."""
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(16, "relu"),
            kx.layers.Residual(keras.layers.Dense(16), scale=0.5),
            keras.layers.Dense(16),
        ]
    )


def compare_weights(strategy, run, build=dense):
    """Compares each replica's weights after `run(model)`."""
    alone, model = model_pair(strategy, build)
    for each in (alone, model):
        run(each)
    errors = [0.0]
    for weight, expected in zip(model.weights, alone.weights, strict=True):
        for copy in on_each_replica(strategy, weight.value):
            errors.append(difference(copy, expected))
    return max(errors)


def compare_multipliers(strategy):
    """Compares weights that are trained at learning rates of their own."""

    def build():
        layers = [keras.layers.Dense(16, "tanh"), keras.layers.Dense(1)]
        return keras.Sequential([keras.Input((4,)), *layers])

    alone, model = model_pair(strategy, build)
    for each, scope in (
        (alone, contextlib.nullcontext()),
        (model, strategy.scope()),
    ):
        with scope:
            sgd = keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01)
            each.compile(
                kx.optimizers.with_multipliers(
                    sgd, {each.layers[0]: 0.25, each.layers[1]: 4.0}
                ),
                "mse",
            )
        each.fit(X, X[:, :1], batch_size=24, shuffle=False, verbose=0)
        assert (
            sorted(each.optimizer.multipliers.values())
            == [0.25] * 2 + [4.0] * 2
        )
    errors = [0.0]
    for weight, expected in zip(model.weights, alone.weights, strict=True):
        for copy in on_each_replica(strategy, weight.value):
            errors.append(difference(copy, expected))
    return max(errors)


def compare_training(strategy):
    """Compares what the callbacks record during `fit`."""
    records = []
    for model in model_pair(strategy, convolution):
        decay = kx.callbacks.SampleVarianceDecay(
            X[:24], update_freq=2, verbose=0
        )
        symmetry = kx.callbacks.FeatureSymmetry(update_freq=2, verbose=0)
        model.fit(
            X,
            X[:, :1],
            batch_size=16,
            epochs=2,
            shuffle=False,
            verbose=0,
            callbacks=[decay, symmetry],
        )
        records.append((decay.profiles, symmetry.spread))
    (alone, spread), (mirrored, mirrored_spread) = records
    assert len(alone) == len(mirrored) == 4
    assert alone[0] != alone[-1]
    return max(
        *map(profile_difference, mirrored, alone),
        difference(mirrored_spread, spread),
    )


def compare_custom_loop(strategy):
    """Compares the last profile of a custom training loop with `measure`.

    A second callback measures a part of the model before the first step.
    """
    alone, model = model_pair(strategy, dense)
    x = X[:24]
    decay = kx.callbacks.SampleVarianceDecay(x, update_freq=1, verbose=0)
    part = kx.callbacks.SampleVarianceDecay(
        x, model=lambda whole: whole.layers[0], verbose=0
    )
    part_alone = kx.measure(alone.layers[0], x)
    callbacks = keras.callbacks.CallbackList([decay, part], model=model)

    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x) ** 2) / len(X)
        weights = model.trainable_variables
        grads = tape.gradient(loss, [w.value for w in weights])
        model.optimizer.apply(grads, weights)

    run = tf.function(lambda x: strategy.run(step, args=(x,)), autograph=False)
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    for batch in range(2):
        run(pieces(strategy, X))
        callbacks.on_train_batch_end(batch)
    callbacks.on_train_end()
    assert decay.measured_at == [(0, 0), (0, 1), (0, 2)]
    alone.set_weights(model.get_weights())
    return max(
        profile_difference(decay.profiles[-1], kx.measure(alone, x)),
        profile_difference(part.profiles[0], part_alone),
    )


def main():
    strategy = kx.distribute.get_strategy("mirrored")
    assert strategy.num_replicas_in_sync == REPLICAS
    errors = {}
    if REPLICAS == 2:
        # They are merged as those below, with any number of replicas.
        compare_other_measurements(strategy, errors)
    # An optimizer of graphs takes longer than most graphs run.
    tf.config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": True}
    )
    if REPLICAS == 2:
        # What each replica does on its own is the same for any number of them.
        compare_weights_and_training(strategy, errors)
    for name, build, samples, options in [
        # The last batch has fewer samples than there are replicas.
        (
            "unequal pieces and batches",
            dense,
            51,
            {"batch_size": 25, "gradient": True},
        ),
        # Batches of one sample for each replica, and of a single sample.
        ("a sample each", dense, REPLICAS + 1, {"batch_size": REPLICAS}),
    ]:
        errors[f"measure {name}"] = compare_measurement(
            strategy, build, samples, **options
        )
    errors["measure dead and saturated units"] = compare_shares(strategy)
    errors["measure synchronized layers"] = compare_synchronized(strategy)
    errors["measure NaN"] = nan_error(strategy)
    errors["weights calibrate in batches"] = compare_weights(
        strategy, lambda m: kx.calibrate(m, X, batch_size=11)
    )
    print(json.dumps(errors))


def compare_other_measurements(strategy, errors):
    """Compares profiles, and what callbacks record."""
    for name, build, samples, options in [
        ("dense", dense, 48, {"batch_size": 48}),
        ("arranged", arranged, 31, {"batch_size": 12, "gradient": True}),
        ("convolution", convolution, 48, {"batch_size": 24}),
    ]:
        errors[f"measure {name}"] = compare_measurement(
            strategy, build, samples, **options
        )
    errors["callbacks in a custom loop"] = compare_custom_loop(strategy)


def compare_weights_and_training(strategy, errors):
    """Compares initializers, layers, weights, and callbacks in `fit`."""
    for name, (make, shape) in tables.INITIALIZERS.items():
        errors[f"initializer {name}"] = compare_initializer(
            strategy, make, shape
        )
    for name, (make, expected) in tables.LAYERS.items():
        errors[f"layer {name}"] = compare_layer(strategy, make, expected)
    for name, run in [
        ("initialize", lambda m: kx.initialize(m, "he_normal", seed=3)),
        ("mup", lambda m: kx.mup(m, dense(width=8))),
        ("calibrate", lambda m: kx.calibrate(m, X)),
    ]:
        errors[f"weights {name}"] = compare_weights(strategy, run)
    errors["weights balance"] = compare_weights(
        strategy, kx.balance, homogeneous
    )
    errors["weights with_multipliers"] = compare_multipliers(strategy)
    errors["callbacks in fit"] = compare_training(strategy)


main()
