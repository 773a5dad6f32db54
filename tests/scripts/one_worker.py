"""One of several workers that train together, as TF_CONFIG tells it.

Run by test_distribute.py, which also trains the same on one device. Arguments:
a folder, and "die" if the last worker shall be killed in the third epoch, or
"freeze" if it shall be stopped after all else. WORKER and WORKERS in the
environment number the processes.
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
DIES_AT = 13
rng = np.random.default_rng(0)
X = rng.normal(size=(STEPS * BATCH, 4)).astype(np.float32) + 1
Y = np.sin(X.sum(axis=1, keepdims=True))
WEIGHTS = np.linspace(0.5, 1.5, len(X), dtype=np.float32)


class Dies(keras.callbacks.Callback):
    """As a machine does whose time is up: without a word."""

    def __init__(self, how=signal.SIGKILL, at=DIES_AT):
        super().__init__()
        self.how, self.at = how, at

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations.numpy()) == self.at:
            os.kill(os.getpid(), self.how)


class Late(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        time.sleep(1.5)


def train(strategy, folder, *callbacks):
    """Twenty steps with all that a training has; what came of it."""
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
            keras.optimizers.Adam(0.01),
            "mse",
            metrics=["mae"],
            weighted_metrics=["mse"],
        )
    data = tf.data.Dataset.from_tensor_slices((X, Y, WEIGHTS)).batch(BATCH)
    probe = kx.callbacks.SampleVarianceDecay(
        X[:50], log_dir=folder / "tensorboard"
    )
    history = kx.distribute.fit(
        model,
        data,
        epochs=EPOCHS,
        validation_data=data.take(2),
        verbose=2,
        callbacks=[
            keras.callbacks.BackupAndRestore(folder / "backup"),
            probe,
            keras.callbacks.CSVLogger(folder / "log.csv", append=True),
            keras.callbacks.ModelCheckpoint(folder / "model.keras"),
            *callbacks,
        ],
    )
    return {
        "epochs": history.epoch,
        "history": history.history,
        "weights": [w.tolist() for w in model.get_weights()],
        "steps": probe.measured_at,
        "profiles": [profile.to_dict() for profile in probe.profiles],
    }


def small(strategy, **options):
    """A model that is soon made."""
    keras.utils.set_random_seed(5)
    with strategy.scope():
        layers = [keras.layers.Dense(8, "relu"), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((4,)), *layers])
        model.compile(keras.optimizers.SGD(0.1), "mse", **options)
    return model


def slices():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH)


def whole_model(strategy, folder):
    """Drawn, calibrated and trained twice with a step of its own."""
    model = small(strategy)
    kx.initialize(model, "he_normal", seed=3)
    kx.calibrate(model, X)
    calibrated = [w.tolist() for w in model.get_weights()]
    keras_step = model.train_step

    def step(data):
        return keras_step(data)

    model.train_step = step
    symmetry = kx.callbacks.FeatureSymmetry(log_dir=folder / "symmetry")
    losses = [
        kx.distribute.fit(
            model, slices(), verbose=0, callbacks=symmetry
        ).history["loss"]
        for _ in range(2)
    ]
    kept = vars(model)["train_step"] is step and "test_step" not in vars(model)
    return {"calibrated": calibrated, "losses": losses, "kept": kept}


def epochs_left(strategy, folder, late):
    """After a training that ended between its last backup and its end."""
    left = []
    for keep in (True, False):
        backup = keras.callbacks.BackupAndRestore(
            folder / "ended", delete_checkpoint=not keep
        )
        history = kx.distribute.fit(
            small(strategy),
            slices(),
            verbose=0,
            callbacks=[*[Late()] * (late and not keep), backup],
        )
        left.append(history.epoch)
    return left


def refused(strategy, seed=0, **options):
    """What is said to workers that do not start alike."""
    model = small(strategy)
    kx.initialize(model, "he_normal", seed=seed)
    try:
        kx.distribute.fit(model, slices(), epochs=2, verbose=0, **options)
    except ValueError as error:
        return str(error)


def main():
    folder, how = Path(sys.argv[1]), sys.argv[2:]
    strategy = kx.distribute.get_strategy("auto")
    worker = int(os.environ["WORKER"])
    is_last = worker == int(os.environ["WORKERS"]) - 1
    found = train(strategy, folder, *[Dies()] * (how == ["die"] and is_last))
    found["replicas"] = strategy.num_replicas_in_sync
    found["worker"] = worker
    found["chief"] = kx.distribute.is_chief(strategy)
    if how == ["freeze"]:
        found["whole model"] = whole_model(strategy, folder)
        found["left"] = epochs_left(strategy, folder, late=worker > 0)
        found["refused"] = [
            refused(strategy, seed=worker),
            refused(strategy, initial_epoch=int(worker == 0)),
        ]
    path = folder / f"worker-{worker}.json"
    path.write_text(json.dumps(found), encoding="utf-8")
    if how == ["freeze"]:
        kx.distribute.fit(
            small(strategy),
            slices(),
            verbose=0,
            callbacks=[Dies(signal.SIGSTOP, at=2)] * is_last,
        )


if __name__ == "__main__":
    main()
