r"""Trains ConstNet as its authors did, and measures its features' symmetry.

    python examples/train_constnet.py
    python examples/train_constnet.py --data digits --width-multiplier 1 \
        --epochs 30

The first command runs the set-up of Blumenfeld, Gilboa & Soudry (ICML 2020,
arXiv:2007.01038), as read from their code: ConstNet 16-10 on CIFAR-10, which
Keras downloads; 300 epochs of SGD with momentum and an L2 penalty; batches of
128; a learning rate of 0.03 that is multiplied by 0.2 from epochs 160, 220 and
260 on; and images cropped and mirrored at random. It needs a GPU. The second
command trains a narrow net on scikit-learn's handwritten digits, on a CPU.

With `--deterministic` TensorFlow's results are the same to the last bit in
every run. The features then stay identical without `--dropout` and `--noise`.
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
# The mean and standard deviation of CIFAR-10's channels.
MEAN = (125.3, 123.0, 113.9)
DEVIATION = (63.0, 62.1, 66.7)
# The shares of all epochs after which the learning rate falls.
DROPS = (160 / 300, 220 / 300, 260 / 300)


class SGD(keras.optimizers.SGD):
    """SGD with momentum and an L2 penalty that is added to the gradient.

    This is what PyTorch does. The `weight_decay` of Keras is not part of the
    momentum, and is therefore ten times weaker.

    Args:
        learning_rate: float. The learning rate.
        penalty: float. The factor of the weights in the gradient.
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
    """Returns images and labels to train on, and to test on.

    Args:
        data: str. "cifar10" or "digits".
        limit: int. The number of images to keep of each. Defaults to all.
        enlarge: int. The factor by which digits of 8 by 8 pixels are enlarged.
            Defaults to 4.
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
    """Returns images moved by up to 4 pixels and, if asked, mirrored."""
    padded = tf.pad(images, [[0, 0], [4, 4], [4, 4], [0, 0]], "REFLECT")
    shape = images.shape[1:]
    cropped = tf.map_fn(lambda x: tf.image.random_crop(x, shape), padded)
    return tf.image.random_flip_left_right(cropped) if mirror else cropped


def batches(
    train: Split, size: int, seed: int, augment: bool, mirror: bool
) -> tf.data.Dataset:
    """Returns shuffled batches of images, augmented if asked."""
    dataset = tf.data.Dataset.from_tensor_slices(train)
    dataset = dataset.shuffle(len(train[0]), seed=seed).batch(size)
    if augment:
        dataset = dataset.map(lambda x, y: (augmented(x, mirror), y))
    return dataset.prefetch(2)


def rate_at(epoch: int, epochs: int, rate: float) -> float:
    """Returns the learning rate of an epoch, counted from 0."""
    return rate * 0.2 ** sum(epoch >= round(drop * epochs) for drop in DROPS)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--data", choices=["cifar10", "digits"], default="cifar10")
    add(
        "--enlarge",
        type=int,
        default=4,
        help="factor by which digits of 8 by 8 pixels are enlarged",
    )
    add("--depth", type=int, default=16)
    add("--width-multiplier", type=int, default=10)
    add(
        "--dropout",
        type=float,
        default=0.0,
        help="dropout rate; it breaks the symmetry of features",
    )
    add(
        "--noise",
        type=float,
        default=0.0,
        help="noise in the first weights; it breaks the symmetry at once",
    )
    add(
        "--random-init",
        action="store_true",
        help="random weights instead of identical features",
    )
    add("--epochs", type=int, default=300)
    add("--batch-size", type=int, default=128)
    add("--rate", type=float, default=0.03, help="learning rate")
    add("--penalty", type=float, default=5e-4, help="factor of the L2 penalty")
    add("--no-augment", action="store_true", help="neither crop nor mirror")
    add("--deterministic", action="store_true")
    add("--limit", type=int, help="number of images to train and to test on")
    add("--seed", type=int, default=0)
    add("--log-dir", help="folder for TensorBoard scalars")
    add("--verbose", type=int, default=1, help="0 prints nothing")
    return parser


def train(
    options: argparse.Namespace,
) -> tuple[dict[str, list[float]], kx.callbacks.FeatureSymmetry]:
    """Trains the network.

    Returns:
        The history of `fit`, and the callback that measured the symmetry.
    """
    keras.utils.set_random_seed(options.seed)
    training, unseen = load(options.data, options.limit, options.enlarge)
    model = kx.models.ConstNet(
        options.depth,
        options.width_multiplier,
        classes=10,
        input_shape=training[0].shape[1:],
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
        # Before the next callback, so that it does not show the logs that
        # callback adds for every layer.
        *([keras.callbacks.ProgbarLogger()] if options.verbose else []),
        symmetry,
    ]
    history = model.fit(
        batches(
            training,
            options.batch_size,
            options.seed,
            not options.no_augment,
            mirror=options.data == "cifar10",
        ),
        validation_data=tf.data.Dataset.from_tensor_slices(unseen).batch(500),
        epochs=options.epochs,
        # The dataset itself has another order in each epoch.
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
