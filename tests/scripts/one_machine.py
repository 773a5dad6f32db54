"""Two devices of one machine: the job script, stopped and gone on; then fit.

Run by test_distribute.py in a process of its own, since logical devices must
be asked for before TensorFlow starts. Arguments are those of the job script.
Prints, last, a line of JSON.
"""

import functools
import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_initx as kx
from tests.scripts import one_worker

sys.path.append(str(Path(__file__).parents[2] / "examples"))
import train_tpu

X, Y = one_worker.X, one_worker.Y


# One for all: on CPUs, TensorFlow takes what replicas tell each other under
# one strategy for what was told under another.
mirrored = functools.cache(
    functools.partial(kx.distribute.get_strategy, "mirrored")
)
kx.distribute.get_strategy = lambda *args, **options: mirrored()


class Stops(keras.callbacks.Callback):
    """Raises in the middle of the second of epochs of four batches."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations.numpy()) == 6:
            raise KeyboardInterrupt


def job(arguments):
    callbacks = train_tpu.callbacks
    train_tpu.callbacks = lambda *args: [*callbacks(*args), Stops()]
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


def trained(strategy, data, fit=kx.distribute.fit, **options):
    """A model, and all that Keras says of its training."""
    model = one_worker.small(strategy)
    history = fit(model, data, epochs=2, verbose=0, **options)
    weights = [w.tolist() for w in model.get_weights()]
    return model, [history.history, weights]


class Evaluates(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs["mine"] = self.model.evaluate(X[:16], Y[:16], verbose=0)


def refused(strategy):
    """What is said of several steps an execution."""
    model = one_worker.small(strategy, steps_per_execution=2)
    try:
        kx.distribute.fit(model, batches(32, 16), verbose=0)
    except ValueError as error:
        return str(error)


def main():
    job(sys.argv[1:])
    one, two = tf.distribute.get_strategy(), mirrored()
    found = {"refused": refused(two)}
    # Two of the last batch, which is of two.
    data = batches(34, 16)
    options = {"validation_data": data}
    found["ours"] = trained(two, data, **options)[1]
    model, found["Keras's"] = trained(two, data, keras.Model.fit, **options)
    # Eight of each batch on one device, seven on the other.
    data = batches(45, 15)
    functions = model.train_function, model.test_function
    found["mine"] = kx.distribute.fit(
        model, data, verbose=0, callbacks=[Evaluates()]
    ).history["mine"]
    assert functions == (model.train_function, model.test_function)
    model, (_, found["uneven"]) = trained(two, data)
    found["left over"] = [
        name for name in ("train_step", "test_step") if name in vars(model)
    ]
    model.fit(batches(32, 16), verbose=0)
    found["predicted"] = len(model.predict(X[:16], verbose=0))
    shares = np.tile(np.repeat([15 / 16, 15 / 14], [8, 7]), 3)
    data = batches(45, 15, shares.astype(np.float32))
    found["weighed"] = trained(one, data)[1][1]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
