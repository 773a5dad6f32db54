"""Trains as one of several workers, which TF_CONFIG lists.

test_distribute.py runs this script and also trains the same on one device. The
first argument is a folder. The second is "kill" if the last worker is to be
killed in the third epoch, or "freeze" if it is to be stopped at the end. A file
of that name in the folder says when it was. The environment variables WORKER
and WORKERS hold the number of this process and of all processes.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_initx as kx

EPOCHS, STEPS, BATCH = 4, 5, 24
KILLED_AT = 13
# Seconds that a worker waits for another one.
TIMEOUT = 120
rng = np.random.default_rng(0)
X = rng.normal(size=(STEPS * BATCH, 4)).astype(np.float32) + 1
Y = np.sin(X.sum(axis=1, keepdims=True))
WEIGHTS = np.linspace(0.5, 1.5, len(X), dtype=np.float32)


def quick():
    """Leaves out what takes longer than the trainings of a script.

    These are the figures of the callbacks, which tests/callbacks looks at, and
    the optimizer of graphs.
    """
    sys.modules["matplotlib"] = None
    tf.config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": True}
    )


class SendSignal(keras.callbacks.Callback):
    """Sends a signal to its own process after a training step.

    Before that it creates a file.
    """

    def __init__(self, signal_number, step, file):
        super().__init__()
        self.signal_number, self.step, self.file = signal_number, step, file

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations.numpy()) == self.step:
            self.file.touch()
            os.kill(os.getpid(), self.signal_number)


class StartLate(keras.callbacks.Callback):
    """Delays the start of the training."""

    def on_train_begin(self, logs=None):
        time.sleep(1.5)


def train(strategy, folder, *callbacks):
    """Trains for twenty steps and returns all results, for JSON."""
    keras.utils.set_random_seed(5)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(
                    8,
                    "relu",
                    name="first",
                    kernel_initializer=kx.initializers.AlphaStable(1.8),
                ),
                keras.layers.BatchNormalization(synchronized=True),
                kx.layers.Residual(
                    keras.layers.Dense(8, name="branch"),
                    scale=0.5,
                    name="block",
                ),
                keras.layers.Dense(1, name="last"),
            ]
        )
        model.compile(
            kx.optimizers.with_multipliers(
                keras.optimizers.Adam(0.01), {"first": 0.5, "last": 2.0}
            ),
            "mse",
            metrics=["mae"],
            weighted_metrics=["mse"],
        )
    data = tf.data.Dataset.from_tensor_slices((X, Y, WEIGHTS)).batch(BATCH)
    decay = kx.callbacks.SampleVarianceDecay(
        X[:50], log_dir=folder / "tensorboard", gradient=True
    )
    history = kx.distribute.fit(
        model,
        data,
        epochs=EPOCHS,
        validation_data=data.take(2),
        verbose=2,
        callbacks=[
            keras.callbacks.BackupAndRestore(folder / "backup"),
            decay,
            keras.callbacks.CSVLogger(folder / "log.csv", append=True),
            keras.callbacks.ModelCheckpoint(folder / "model.keras"),
            *callbacks,
        ],
    )
    return {
        "epochs": history.epoch,
        "history": history.history,
        "weights": [w.tolist() for w in model.get_weights()],
        "steps": decay.measured_at,
        "profiles": [profile.to_dict() for profile in decay.profiles],
    }


def small_model(strategy, **options):
    """Returns a compiled model of two layers."""
    keras.utils.set_random_seed(5)
    with strategy.scope():
        layers = [keras.layers.Dense(8, "relu"), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((4,)), *layers])
        model.compile(keras.optimizers.SGD(0.1), "mse", **options)
    return model


def small_batches():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH)


def train_custom_step(strategy, folder):
    """Initializes, calibrates and trains twice with a custom train step."""
    model = small_model(strategy)
    kx.initialize(model, "he_normal", seed=3)
    kx.calibrate(model, X)
    calibrated = [w.tolist() for w in model.get_weights()]
    keras_step = model.train_step

    def step(data):
        return keras_step(data)

    model.train_step = step
    symmetry = kx.callbacks.FeatureSymmetry(
        log_dir=folder / "symmetry", verbose=1
    )
    losses = [
        kx.distribute.fit(
            model, small_batches(), verbose=0, callbacks=symmetry
        ).history["loss"]
        for _ in range(2)
    ]
    kept = vars(model)["train_step"] is step and "test_step" not in vars(model)
    return {"calibrated": calibrated, "losses": losses, "kept": kept}


def resume_finished(strategy, folder, late):
    """Trains, and again from the backup that the finished training left.

    If `late` is true, this worker starts the second training late. The epochs
    of both trainings are returned.
    """
    epochs = []
    for keep in (True, False):
        backup = keras.callbacks.BackupAndRestore(
            folder / "ended", delete_checkpoint=not keep
        )
        history = kx.distribute.fit(
            small_model(strategy),
            small_batches(),
            verbose=0,
            callbacks=[*[StartLate()] * (late and not keep), backup],
        )
        epochs.append(history.epoch)
    return epochs


def fit_error(strategy, seed=0, **options):
    """Returns the error of `fit` for workers that start differently."""
    model = small_model(strategy)
    kx.initialize(model, "he_normal", seed=seed)
    try:
        kx.distribute.fit(
            model, small_batches(), epochs=2, verbose=0, **options
        )
    except ValueError as error:
        return str(error)


def main():
    folder, end = Path(sys.argv[1]), sys.argv[2:]
    quick()
    strategy = kx.distribute.get_strategy("auto", timeout=TIMEOUT)
    worker = int(os.environ["WORKER"])
    is_last = worker == int(os.environ["WORKERS"]) - 1
    callbacks = []
    if end == ["kill"] and is_last:
        callbacks = [SendSignal(signal.SIGKILL, KILLED_AT, folder / "kill")]
    results = train(strategy, folder, *callbacks)
    results["replicas"] = strategy.num_replicas_in_sync
    results["worker"] = worker
    results["chief"] = kx.distribute.is_chief(strategy)
    if end == ["freeze"]:
        results["custom step"] = train_custom_step(strategy, folder)
        results["resumed"] = resume_finished(strategy, folder, late=worker > 0)
        results["errors"] = [
            fit_error(strategy, seed=worker),
            fit_error(strategy, initial_epoch=int(worker == 0)),
        ]
    path = folder / f"worker-{worker}.json"
    path.write_text(json.dumps(results), encoding="utf-8")
    if end == ["freeze"]:
        kx.distribute.fit(
            small_model(strategy),
            small_batches(),
            verbose=0,
            callbacks=[SendSignal(signal.SIGSTOP, 2, folder / "freeze")]
            * is_last,
        )


if __name__ == "__main__":
    main()
