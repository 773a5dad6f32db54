r"""Train ConstNet as its authors did, and watch the symmetry of its features.

    python examples/train_constnet.py
    python examples/train_constnet.py --data digits --width-multiplier 1 \
        --epochs 30

The first is the set-up of Blumenfeld, Gilboa & Soudry (ICML 2020,
arXiv:2007.01038) as read from their code: ConstNet 16-10 on CIFAR-10, which
Keras downloads, 300 epochs of SGD with momentum and an L2 penalty, batches of
128, a learning rate of 0.03 that is multiplied by 0.2 from epochs 160, 220
and 260 on, and images cropped and mirrored at random. It asks for a GPU. The
second is a narrow net on scikit-learn's handwritten digits, for a CPU.

`--deterministic` makes TensorFlow repeat itself to the last bit: without
`--dropout` and `--noise` the features then stay identical for ever.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import keras_initx as kx

Split = tuple[np.ndarray, np.ndarray]
# Of CIFAR-10, by channel.
MEAN = (125.3, 123.0, 113.9)
DEVIATION = (63.0, 62.1, 66.7)
# Of all epochs, the share after which the learning rate falls.
DROPS = (160 / 300, 220 / 300, 260 / 300)


class SGD(keras.optimizers.SGD):
    """With the penalty in the gradient, as PyTorch has it.

    That of Keras is beside the momentum, and so weaker by a factor of ten.
    """

    def __init__(self, learning_rate: float, penalty: float):
        super().__init__(learning_rate, momentum=0.9)
        self.penalty = penalty

    def update_step(self, gradient, variable, learning_rate):
        gradient = keras.ops.add(
            gradient, keras.ops.multiply(variable, self.penalty)
        )
        super().update_step(gradient, variable, learning_rate)


def load(
    data: str, limit: int | None = None, enlarge: int = 4
) -> tuple[Split, Split]:
    """Images (n, 32, 32, channels) and labels, to train on and to test on.

    Digits, of 8 by 8 pixels, are enlarged by a whole number.
    """
    if data == "cifar10":
        train, test = keras.datasets.cifar10.load_data()
        splits = [((x - MEAN) / DEVIATION, y.ravel()) for x, y in (train, test)]
    else:
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        x = (x - x.mean()) / x.std()
        x = np.kron(x.reshape(-1, 8, 8), np.ones((enlarge, enlarge)))[..., None]
        order = np.random.default_rng(0).permutation(len(x))
        splits = [(x[part], y[part]) for part in np.split(order, [1437])]
    return tuple(
        (x[:limit].astype(np.float32), y[:limit].astype(np.int32))
        for x, y in splits
    )


def augmented(images: tf.Tensor, mirror: bool) -> tf.Tensor:
    """Each image moved by up to 4 pixels, and mirrored by chance."""
    padded = tf.pad(images, [[0, 0], [4, 4], [4, 4], [0, 0]], "REFLECT")
    shape = images.shape[1:]
    cropped = tf.map_fn(lambda x: tf.image.random_crop(x, shape), padded)
    return tf.image.random_flip_left_right(cropped) if mirror else cropped


def batches(
    train: Split, size: int, seed: int, augment: bool, mirror: bool
) -> tf.data.Dataset:
    dataset = tf.data.Dataset.from_tensor_slices(train)
    dataset = dataset.shuffle(len(train[0]), seed=seed).batch(size)
    if augment:
        dataset = dataset.map(lambda x, y: (augmented(x, mirror), y))
    return dataset.prefetch(2)


def rate_at(epoch: int, epochs: int, rate: float) -> float:
    """Learning rate of an epoch, counted from 0."""
    return rate * 0.2 ** sum(epoch >= round(drop * epochs) for drop in DROPS)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = found.add_argument
    add("--data", choices=["cifar10", "digits"], default="cifar10")
    add("--enlarge", type=int, default=4, help="digits of 8 by 8 pixels")
    add("--depth", type=int, default=16)
    add("--width-multiplier", type=int, default=10)
    add("--dropout", type=float, default=0.0, help="breaks the symmetry")
    add("--noise", type=float, default=0.0, help="breaks it from the start")
    add("--random-init", action="store_true", help="a random start, as usual")
    add("--epochs", type=int, default=300)
    add("--batch-size", type=int, default=128)
    add("--rate", type=float, default=0.03, help="learning rate")
    add("--penalty", type=float, default=5e-4, help="of the squared weights")
    add("--no-augment", action="store_true", help="images as they are")
    add("--deterministic", action="store_true")
    add("--limit", type=int, help="of images to train and to test on")
    add("--seed", type=int, default=0)
    add("--log-dir", help="where to write scalars for TensorBoard")
    add("--verbose", type=int, default=1, help="0 is silent")
    return found


def train(
    options: argparse.Namespace,
) -> tuple[dict[str, list[float]], kx.callbacks.FeatureSymmetry]:
    """The history of a fit, and the symmetry along it."""
    keras.utils.set_random_seed(options.seed)
    known, unseen = load(options.data, options.limit, options.enlarge)
    model = kx.models.ConstNet(
        options.depth,
        options.width_multiplier,
        classes=10,
        input_shape=known[0].shape[1:],
        dropout=options.dropout,
        noise=options.noise,
        random_init=options.random_init,
    )
    model.compile(
        SGD(options.rate, options.penalty),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    symmetry = kx.callbacks.FeatureSymmetry(
        log_dir=options.log_dir, verbose=min(1, options.verbose)
    )
    callbacks = [
        keras.callbacks.LearningRateScheduler(
            lambda epoch: rate_at(epoch, options.epochs, options.rate)
        ),
        # Before the other, so that it does not print every layer.
        *([keras.callbacks.ProgbarLogger()] if options.verbose else []),
        symmetry,
    ]
    history = model.fit(
        batches(
            known,
            options.batch_size,
            options.seed,
            not options.no_augment,
            mirror=options.data == "cifar10",
        ),
        validation_data=tf.data.Dataset.from_tensor_slices(unseen).batch(500),
        epochs=options.epochs,
        # The data are in another order each epoch by themselves.
        shuffle=False,
        verbose=options.verbose,
        callbacks=callbacks,
    )
    return history.history, symmetry


def main(argv: list[str] | None = None) -> None:
    options = parser().parse_args(argv)
    if options.deterministic:
        tf.config.experimental.enable_op_determinism()
    history, symmetry = train(options)
    print(symmetry.table())
    print(f"symmetry broken at (epoch, step): {symmetry.broken_at}")
    print(f"accuracy on unseen images: {history['val_accuracy'][-1]:.4f}")


if __name__ == "__main__":
    main()
