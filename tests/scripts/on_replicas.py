"""On as many logical CPUs as are asked for: what each replica holds and finds.

Run by test_distribute.py in a process of its own, since logical devices must
be asked for before TensorFlow starts. The tables of the other tests are read:
a new initializer or layer is a row there. Prints a line of JSON: for each
claim the largest relative error, which is 0 where it must be exact.
"""

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

# A table of layers says what they do to 4 channels.
X = np.random.default_rng(0).normal(size=(48, 4)).astype(np.float32)


def on_all(strategy, values):
    return [np.asarray(v) for v in strategy.experimental_local_results(values)]


def pieces(strategy, x):
    size = len(x) // REPLICAS
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(
            x[context.replica_id_in_sync_group * size :][:size]
        )
    )


def difference(a, b):
    """The largest, in parts of the largest number; 0 only if equal."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        return np.inf
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))


def initializer(strategy, make, shape):
    alone = make(seed=7)(shape)
    with strategy.scope():
        weight = keras.layers.Layer().add_weight(
            shape, initializer=make(seed=7)
        )
    copies = on_all(strategy, weight.value)
    assert len(copies) == REPLICAS
    return max(difference(copy, alone) for copy in copies)


def layer(strategy, make, expected):
    """Outputs, and the gradient of their squares summed over replicas."""
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

    y, of_pieces = run(pieces(strategy, X))
    _, of_all = gradients(tf.constant(X))
    errors = [difference(np.concatenate(on_all(strategy, y)), expected(X))]
    for piece, whole in zip(of_pieces, of_all, strict=True):
        errors.append(difference(sum(on_all(strategy, piece)), whole))
    return max(errors)


def dense():
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(16, "relu"),
            keras.layers.BatchNormalization(),
            kx.layers.Residual(keras.layers.Dense(16), scale=0.5),
            keras.layers.Dense(3),
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


class Centered(keras.layers.Dense):
    """Takes off the mean of all samples, for which replicas take turns."""

    breaks_at = None

    def call(self, x):
        replica = tf.distribute.get_replica_context()
        x -= replica.all_reduce("mean", tf.reduce_mean(x, axis=0))
        here = tf.get_static_value(replica.replica_id_in_sync_group)
        if here == self.breaks_at:
            raise RuntimeError("broken")
        return super().call(x)


def waiting():
    """Of layers within which a replica waits for the others."""
    return keras.Sequential(
        [
            keras.Input((4,)),
            Centered(16, "relu", bias_initializer="ones"),
            keras.layers.BatchNormalization(synchronized=True),
            Centered(8, "tanh", bias_initializer="ones"),
            keras.layers.BatchNormalization(synchronized=True),
            keras.layers.Dense(3, bias_initializer="ones"),
        ]
    )


def pair(strategy, build):
    """The same model alone and under the strategy."""
    keras.utils.set_random_seed(3)
    alone = build()
    with strategy.scope():
        model = build()
        model.compile(keras.optimizers.SGD(0.01), "mse")
    model.set_weights(alone.get_weights())
    alone.compile(keras.optimizers.SGD(0.01), "mse")
    return alone, model


def profiles(a, b):
    assert (a.units == b.units).all()
    return max(
        difference(a.sample_variance, b.sample_variance),
        difference(a.squared_mean, b.squared_mean),
    )


def measurement(strategy, build, samples, **options):
    alone, model = pair(strategy, build)
    # A mean far from zero, so that a merge about the wrong one would show.
    x = np.concatenate([X, X[::-1] + 1])[:samples] + 5
    return profiles(kx.measure(model, x, **options), kx.measure(alone, x))


def waits(strategy):
    """A measurement, and one that breaks off, leave no trace in the layers."""
    alone, model = pair(strategy, waiting)
    options = {"training": True, "batch_size": 24}
    expected = kx.measure(alone, X, **options)
    _, _, breaks, *_ = model.layers
    before = [dict(vars(layer)) for layer in model.layers]

    def check():
        for layer, attributes in zip(model.layers, before, strict=True):
            assert vars(layer).keys() == attributes.keys(), layer.name
            for name, value in vars(layer).items():
                assert value is attributes[name], f"{layer.name}.{name}"

    error = profiles(kx.measure(model, X, **options), expected)
    check()
    first, last = 0, REPLICAS - 1
    for replica in (first, last):
        breaks.breaks_at = replica
        try:
            kx.measure(model, X[:24], **options)
            error = np.inf
        except RuntimeError as broken:
            assert "broken" in str(broken)
        finally:
            del breaks.breaks_at
        check()
    return max(error, profiles(kx.measure(model, X, **options), expected))


def refusal(strategy):
    """0 if a NaN that one replica meets is known to be one of the data's."""
    _, model = pair(strategy, dense)
    x = X.copy()
    x[-1, -1] = np.nan
    try:
        kx.measure(model, x)
    except ValueError as error:
        return 0.0 if "data must be finite" in str(error) else np.inf
    return np.inf


def whole_model(strategy, run):
    """Weights that a function of models gives, on each replica."""
    alone, model = pair(strategy, dense)
    for each in (alone, model):
        run(each)
    errors = [0.0]
    for mine, its in zip(model.weights, alone.weights, strict=True):
        for copy in on_all(strategy, mine.value):
            errors.append(difference(copy, its))
    return max(errors)


def training(strategy):
    """Profiles along a fit under the strategy and alone."""
    found = []
    for model in pair(strategy, convolution):
        probe = kx.callbacks.SampleVarianceDecay(
            X[:30], update_freq=2, verbose=0
        )
        symmetry = kx.callbacks.FeatureSymmetry(update_freq=2, verbose=0)
        model.fit(
            X,
            X[:, :1],
            batch_size=16,
            epochs=2,
            shuffle=False,
            verbose=0,
            callbacks=[probe, symmetry],
        )
        found.append((probe.profiles, symmetry.spread))
    (alone, spread), (mirrored, same_spread) = found
    assert len(alone) == len(mirrored) == 4
    assert alone[0] != alone[-1]
    return max(*map(profiles, mirrored, alone), difference(same_spread, spread))


def own_loop(strategy):
    """CallbackList around a step of one's own, and a bare measurement."""
    alone, model = pair(strategy, dense)
    probe = kx.callbacks.SampleVarianceDecay(X, update_freq=1, verbose=0)
    callbacks = keras.callbacks.CallbackList([probe], model=model)

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
    assert probe.measured_at == [(0, 0), (0, 1), (0, 2)]
    alone.set_weights(model.get_weights())
    return profiles(probe.profiles[-1], kx.measure(alone, X))


def main():
    strategy = kx.distribute.get_strategy("mirrored")
    assert strategy.num_replicas_in_sync == REPLICAS
    claims = {}
    for name, (make, shape) in tables.INITIALIZERS.items():
        claims[f"initializer {name}"] = initializer(strategy, make, shape)
    for name, (make, expected) in tables.LAYERS.items():
        claims[f"layer {name}"] = layer(strategy, make, expected)
    for name, build, samples, options in [
        ("dense", dense, 48, {}),
        ("uneven pieces and batches", dense, 61, {"batch_size": 25}),
        ("fewer samples than replicas", dense, 48 + 1, {"batch_size": 48}),
        # Of as many samples as replicas, and of one: pieces of one shape.
        ("a sample each", dense, REPLICAS + 1, {"batch_size": REPLICAS}),
        ("convolution", convolution, 48, {"batch_size": 24}),
    ]:
        claims[f"measure {name}"] = measurement(
            strategy, build, samples, **options
        )
    claims["measure waiting"] = waits(strategy)
    claims["measure NaN"] = refusal(strategy)
    for name, run in [
        ("initialize", lambda m: kx.initialize(m, "he_normal", seed=3)),
        ("calibrate", lambda m: kx.calibrate(m, X)),
    ]:
        claims[f"whole {name}"] = whole_model(strategy, run)
    claims["callback"] = training(strategy)
    claims["own loop"] = own_loop(strategy)
    print(json.dumps(claims))


main()
