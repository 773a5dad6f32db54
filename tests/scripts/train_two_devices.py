"""Trains on two devices of one machine with train_tpu.py and with `fit`.

train_tpu.py is interrupted and started again. test_distribute.py runs this
script in a process of its own, because logical devices must be configured
before TensorFlow starts. The arguments are those of train_tpu.py. The last
printed line is JSON.
"""

import functools
import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_initx as kx
from tests.scripts import train_worker

sys.path.append(str(Path(__file__).parents[2] / "examples"))
import train_tpu

X, Y = train_worker.X, train_worker.Y


# All trainings share one strategy: on CPUs, TensorFlow confuses the messages of
# replicas under two strategies in one process.
mirrored = functools.cache(
    functools.partial(kx.distribute.get_strategy, "mirrored")
)
kx.distribute.get_strategy = lambda *args, **options: mirrored()


class Interrupt(keras.callbacks.Callback):
    """Interrupts the training in the second epoch, of four batches each."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations.numpy()) == 6:
            raise KeyboardInterrupt


def run_train_tpu(arguments):
    """Runs train_tpu.py twice, the first time with an interruption."""
    callbacks = train_tpu.callbacks
    train_tpu.callbacks = lambda *args: [*callbacks(*args), Interrupt()]
    try:
        train_tpu.main([*arguments, "--replicas=2", "--epochs=2"])
    except KeyboardInterrupt:
        print("Stopped.")
    train_tpu.callbacks = callbacks
    train_tpu.main([*arguments, "--epochs=2"])
    keras.config.set_dtype_policy("float32")


def batches(samples, size, *weights):
    arrays = (X[:samples], Y[:samples], *(w[:samples] for w in weights))
    return tf.data.Dataset.from_tensor_slices(arrays).batch(size)


def train(strategy, data, fit=kx.distribute.fit, **options):
    """Returns a model, and its history and weights after two epochs."""
    model = train_worker.small_model(strategy)
    history = fit(model, data, epochs=2, verbose=0, **options)
    weights = [w.tolist() for w in model.get_weights()]
    return model, [history.history, weights]


class Evaluate(keras.callbacks.Callback):
    """Adds an evaluation of the model to the logs of each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        logs["evaluated"] = self.model.evaluate(X[:16], Y[:16], verbose=0)


def steps_error(strategy):
    """Returns the error of `fit` for several steps in one execution."""
    model = train_worker.small_model(strategy, steps_per_execution=2)
    try:
        kx.distribute.fit(model, batches(32, 16), verbose=0)
    except ValueError as error:
        return str(error)


def main():
    train_worker.quick()
    run_train_tpu(sys.argv[1:])
    one, two = tf.distribute.get_strategy(), mirrored()
    results = {"steps error": steps_error(two)}
    # The last batch has two samples.
    data = batches(34, 16)
    options = {"validation_data": data}
    results["fit"] = train(two, data, **options)[1]
    model, results["Keras fit"] = train(two, data, keras.Model.fit, **options)
    # One device has eight samples of each batch, the other seven.
    data = batches(45, 15)
    functions = model.train_function, model.test_function
    results["evaluated"] = kx.distribute.fit(
        model, data, verbose=0, callbacks=[Evaluate()]
    ).history["evaluated"]
    assert functions == (model.train_function, model.test_function)
    model, (_, results["uneven"]) = train(two, data)
    results["attributes"] = [
        name for name in ("train_step", "test_step") if name in vars(model)
    ]
    model.fit(batches(32, 16), verbose=0)
    results["predicted"] = len(model.predict(X[:16], verbose=0))
    shares = np.tile(np.repeat([15 / 16, 15 / 14], [8, 7]), 3)
    data = batches(45, 15, shares.astype(np.float32))
    results["weighted"] = train(one, data)[1][1]
    print(json.dumps(results))


if __name__ == "__main__":
    main()
