"""Train a deep residual network wherever tf.distribute reaches: a job script.

    python examples/train_tpu.py --strategy mirrored --replicas 2 --epochs 2

A network without batch normalization, whose residual branches are scaled by
depth^-1/2 so that the signal keeps its size; `SampleVarianceDecay` listens as
it trains. Started again with the same --checkpoint-dir, it goes on where the
last epoch ended, also with more --epochs; data are then shuffled anew.
examples/README.md tells what has been tested.
"""

import argparse

import keras
import numpy as np
import tensorflow as tf

import keras_initx as kx

# A new one for each layer: layers that share one would start equal.
INITIALIZERS = {
    "he_normal": keras.initializers.HeNormal,
    "lecun_normal": keras.initializers.LecunNormal,
    "fractional": lambda: kx.initializers.FractionalMoment(order=1.0),
    "stable": lambda: kx.initializers.AlphaStable(stability=1.8),
}


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1: {text}")
    return number


def parser():
    made = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = made.add_argument
    kinds = ["auto", "tpu", "mirrored", "multiworker", "default"]
    add("--strategy", choices=kinds, default="auto")
    add("--tpu", metavar="NAME", help="name of the TPU, or local")
    add("--replicas", type=positive, help="logical CPUs that stand for devices")
    add("--initializer", choices=INITIALIZERS, default="he_normal")
    add("--steps-per-execution", type=positive, default=1)
    policies = ["float32", "mixed_bfloat16", "bfloat16", "mixed_float16"]
    add("--precision", choices=policies, default="float32")
    add("--data", default="digits", help="digits, cifar10 or tfrecord:PATTERN")
    add("--image-size", type=positive, default=32, help="of tfrecord images")
    add("--steps-per-epoch", type=positive, help="needed for tfrecord")
    add("--classes", type=positive, default=10)
    add("--log-dir", help="for TensorBoard, and log.csv")
    add("--checkpoint-dir", help="where to go on from, and the model")
    add("--depth", type=positive, default=16, help="residual blocks")
    add("--width", type=positive, default=32, help="channels")
    add(
        "--batch-size",
        type=positive,
        default=64,
        help="of all replicas together",
    )
    add("--epochs", type=positive, default=5)
    add("--learning-rate", type=float, default=0.05)
    add("--seed", type=int, default=0)
    return made


def in_memory(name):
    """Images, labels, and those kept for validation."""
    if name == "cifar10":
        (x, y), test = keras.datasets.cifar10.load_data()
        images, labels = np.concatenate([x, test[0]]), np.ravel([*y, *test[1]])
        kept = len(test[0])
    else:
        from sklearn.datasets import load_digits

        digits = load_digits()
        # In the file's order writers are together; the order is drawn anew.
        order = np.random.default_rng(0).permutation(len(digits.target))
        images, labels = digits.images[order, :, :, None], digits.target[order]
        kept = 360
    images = images.astype(np.float32)
    images = (images - images.mean()) / images.std()
    labels = labels.astype(np.int32)
    return (images[:-kept], labels[:-kept]), (images[-kept:], labels[-kept:])


def from_records(pattern, size):
    """Examples of tf.train.Example with the usual names, image by image."""
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    }

    def parse(record):
        found = tf.io.parse_single_example(record, features)
        image = tf.io.decode_image(
            found["image/encoded"], channels=3, expand_animations=False
        )
        image = tf.image.resize(image, [size, size]) / 127.5 - 1
        return image, tf.cast(found["image/class/label"], tf.int32)

    # Not shuffled: all workers must see the same files in the same order.
    files = tf.data.Dataset.list_files(pattern, shuffle=False)
    return files.interleave(tf.data.TFRecordDataset).map(
        parse, num_parallel_calls=tf.data.AUTOTUNE
    )


def load(args):
    """Batches to train on, to validate on (or None), and images to measure."""
    kind, _, pattern = args.data.partition(":")
    if kind == "tfrecord":
        if not args.steps_per_epoch:
            raise SystemExit("--data tfrecord needs --steps-per-epoch")
        if not tf.io.gfile.glob(pattern):
            raise SystemExit(f"--data {args.data}: no such files")
        data, kept = from_records(pattern, args.image_size), None
        probe = np.stack([x for x, _ in data.take(128).as_numpy_iterator()])
        data = data.shuffle(4096, seed=args.seed).repeat()
    elif kind in ("digits", "cifar10"):
        train, test = in_memory(kind)
        probe = test[0][:128]
        if args.batch_size > len(test[0]):
            raise SystemExit(
                f"--batch-size {args.batch_size}: {args.data} keeps "
                f"{len(test[0])} images to validate on"
            )
        data = tf.data.Dataset.from_tensor_slices(train)
        data = data.shuffle(len(train[0]), seed=args.seed)
        kept = tf.data.Dataset.from_tensor_slices(test)
        kept = kept.batch(args.batch_size, drop_remainder=True)
    else:
        raise SystemExit(f"--data {args.data}: no such data")
    # A TPU compiles for one shape: each batch is whole.
    data = data.batch(args.batch_size, drop_remainder=True)
    return data.prefetch(tf.data.AUTOTUNE), kept, probe


def residual_network(shape, classes, depth, width, initializer):
    def conv():
        return keras.layers.Conv2D(
            width, 3, padding="same", kernel_initializer=initializer()
        )

    layers = [keras.Input(shape), conv()]
    for i in range(depth):
        branch = [
            keras.layers.ReLU(),
            conv(),
            keras.layers.ReLU(),
            conv(),
        ]
        scale = kx.layers.BranchScale(depth=depth)
        layers.append(kx.layers.Residual(branch, scale, name=f"block_{i}"))
    layers += [
        keras.layers.ReLU(),
        keras.layers.GlobalAveragePooling2D(),
        # The loss is taken in float32, whatever the precision.
        keras.layers.Dense(classes, dtype="float32", name="logits"),
    ]
    return keras.Sequential(layers)


def callbacks(args, probe):
    made = [keras.callbacks.TerminateOnNaN()]
    if args.checkpoint_dir:
        # First: what stands behind sees the weights it has restored.
        made.insert(
            0,
            keras.callbacks.BackupAndRestore(
                f"{args.checkpoint_dir}/backup",
                double_checkpoint=True,
                # A job that has ended can go on, and a worker that died at
                # the end finds the others' epoch.
                delete_checkpoint=False,
            ),
        )
        made.append(
            keras.callbacks.ModelCheckpoint(
                # The last, not the best: what was best until now Keras
                # forgets when a job is started again.
                f"{args.checkpoint_dir}/model.keras"
            )
        )
    # The bar before the measurement, or else it shows each layer's number.
    made.append(keras.callbacks.ProgbarLogger())
    made.append(
        kx.callbacks.SampleVarianceDecay(probe, log_dir=args.log_dir, verbose=1)
    )
    if args.log_dir:
        tf.io.gfile.makedirs(args.log_dir)
        made.append(
            keras.callbacks.CSVLogger(f"{args.log_dir}/log.csv", append=True)
        )
    return made


def main(arguments=None):
    args = parser().parse_args(arguments)
    if args.replicas:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * args.replicas,
        )
    # Before all else of TensorFlow, as TPUs and several workers need.
    strategy = kx.distribute.get_strategy(args.strategy, tpu=args.tpu)
    keras.utils.set_random_seed(args.seed)
    keras.config.set_dtype_policy(args.precision)
    data, kept, probe = load(args)
    with strategy.scope():
        model = residual_network(
            probe.shape[1:],
            args.classes,
            args.depth,
            args.width,
            INITIALIZERS[args.initializer],
        )
        model.compile(
            # Not clipped: each replica would clip its own piece's gradient.
            keras.optimizers.SGD(args.learning_rate, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            steps_per_execution=args.steps_per_execution,
        )
    chief = kx.distribute.is_chief(strategy)
    if chief:
        print(f"{strategy.num_replicas_in_sync} replicas, {args.precision}")
    history = kx.distribute.fit(
        model,
        data,
        epochs=args.epochs,
        steps_per_epoch=args.steps_per_epoch,
        validation_data=kept,
        callbacks=callbacks(args, probe),
        verbose=2,
    ).history
    if chief and history:
        last = {name: values[-1] for name, values in history.items()}
        shown = [name for name in last if "/" not in name]
        print(", ".join(f"{name} {last[name]:.4f}" for name in shown))


if __name__ == "__main__":
    main()
