"""One of several workers that train together, as TF_CONFIG tells it.

Run by test_distribute.py, which also trains the same on one device. Arguments:
a folder, and "die" if the worker that is not the chief shall be killed in the
third epoch.
"""

import json
import os
import signal
import sys
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

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations.numpy()) == DIES_AT:
            os.kill(os.getpid(), signal.SIGKILL)


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
        "steps": probe.steps,
        "profiles": [profile.to_dict() for profile in probe.profiles],
    }


def main():
    folder, dies = Path(sys.argv[1]), sys.argv[2:] == ["die"]
    strategy = kx.distribute.strategy("auto")
    worker = strategy.cluster_resolver.task_id
    found = train(strategy, folder, *[Dies()] * (dies and worker == 1))
    found["replicas"] = strategy.num_replicas_in_sync
    path = folder / f"worker-{worker}.json"
    path.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
