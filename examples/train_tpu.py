"""Trains a deep residual network on CPUs, GPUs or TPUs, on several devices.

    python examples/train_tpu.py --strategy mirrored --replicas 2 --epochs 2
    KERAS_BACKEND=jax python examples/train_tpu.py --strategy jax --replicas 2

The strategy "jax" trains under `keras.distribution`, the others under
`tf.distribute`.

The network has no batch normalization. Its residual branches are scaled by
depth^-1/2, so that the signal keeps its size, and the `SampleVarianceDecay`
callback measures the signal while it trains. Started again with the same
--checkpoint-dir, the script continues after the last finished epoch, also with
more --epochs; data are then shuffled anew. examples/README.md lists what has
been tested.
"""

import argparse
import os

import keras
import numpy as np

import keras_initx as kx

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

# Each layer gets an initializer of its own: layers that share one would start
# with equal weights.
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
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    kinds = ["auto", "tpu", "mirrored", "multiworker", "default", "jax"]
    add("--strategy", choices=kinds, default="auto")
    add("--tpu", metavar="NAME", help="name of the TPU, or 'local'")
    add("--replicas", type=positive, help="logical CPUs used as devices")
    add("--initializer", choices=INITIALIZERS, default="he_normal")
    add("--steps-per-execution", type=positive, default=1)
    policies = ["float32", "mixed_bfloat16", "bfloat16", "mixed_float16"]
    add("--precision", choices=policies, default="float32")
    add("--data", default="digits", help="digits, cifar10 or tfrecord:PATTERN")
    add(
        "--image-size",
        type=positive,
        default=32,
        help="side of tfrecord images, pixels",
    )
    add("--steps-per-epoch", type=positive, help="needed for tfrecord")
    add("--classes", type=positive, default=10)
    add("--log-dir", help="folder for TensorBoard and log.csv")
    add("--checkpoint-dir", help="folder to continue from, and for the model")
    add("--depth", type=positive, default=16, help="residual blocks")
    add("--width", type=positive, default=32, help="channels")
    add(
        "--batch-size",
        type=positive,
        default=64,
        help="samples in a step, over all replicas",
    )
    add("--epochs", type=positive, default=5)
    add("--learning-rate", type=float, default=0.05)
    add("--seed", type=int, default=0)
    return parser


def in_memory(name):
    """Returns images and labels to train on, and to validate on."""
    if name == "cifar10":
        (x, y), test = keras.datasets.cifar10.load_data()
        images, labels = np.concatenate([x, test[0]]), np.ravel([*y, *test[1]])
        kept = len(test[0])
    else:
        from sklearn.datasets import load_digits

        digits = load_digits()
        # Shuffled, because the file has the digits of each writer together.
        order = np.random.default_rng(0).permutation(len(digits.target))
        images, labels = digits.images[order, :, :, None], digits.target[order]
        kept = 360
    images = images.astype(np.float32)
    images = (images - images.mean()) / images.std()
    labels = labels.astype(np.int32)
    return (images[:-kept], labels[:-kept]), (images[-kept:], labels[-kept:])


def from_records(pattern, size):
    """Returns a dataset of single images and labels from TFRecord files.

    A record is a `tf.train.Example` with the usual features "image/encoded" and
    "image/class/label".
    """
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    }

    def parse(record):
        example = tf.io.parse_single_example(record, features)
        image = tf.io.decode_image(
            example["image/encoded"], channels=3, expand_animations=False
        )
        image = tf.image.resize(image, [size, size]) / 127.5 - 1
        return image, tf.cast(example["image/class/label"], tf.int32)

    # Not shuffled: all workers must see the same files in the same order.
    files = tf.data.Dataset.list_files(pattern, shuffle=False)
    return files.interleave(tf.data.TFRecordDataset).map(
        parse, num_parallel_calls=tf.data.AUTOTUNE
    )


def load(args):
    """Returns the data that `--data` names.

    Returns:
        Three values: a dataset of batches to train on; a dataset of batches to
        validate on, or None; and an array of images to measure the signal on.
    """
    kind, _, pattern = args.data.partition(":")
    if kind == "tfrecord":
        if not args.steps_per_epoch:
            raise SystemExit("--data tfrecord needs --steps-per-epoch")
        if not tf.io.gfile.glob(pattern):
            raise SystemExit(f"--data {args.data}: no such files")
        data, validation = from_records(pattern, args.image_size), None
        samples = np.stack([x for x, _ in data.take(128).as_numpy_iterator()])
        data = data.shuffle(4096, seed=args.seed).repeat()
    elif kind in ("digits", "cifar10"):
        train, test = in_memory(kind)
        samples = test[0][:128]
        if args.batch_size > len(test[0]):
            raise SystemExit(
                f"--batch-size {args.batch_size}: {args.data} keeps "
                f"{len(test[0])} images to validate on"
            )
        data = tf.data.Dataset.from_tensor_slices(train)
        data = data.shuffle(len(train[0]), seed=args.seed)
        validation = tf.data.Dataset.from_tensor_slices(test)
        validation = validation.batch(args.batch_size, drop_remainder=True)
    else:
        raise SystemExit(
            "--data must be digits, cifar10 or tfrecord:PATTERN. "
            f"Received: {args.data}"
        )
    # All batches have one size, because a TPU compiles for one shape.
    data = data.batch(args.batch_size, drop_remainder=True)
    return data.prefetch(tf.data.AUTOTUNE), validation, samples


def load_arrays(args):
    """Returns images and labels to train on, and to validate on.

    All batches have one size, because a program is compiled for one shape.
    """
    if args.data not in ("digits", "cifar10"):
        raise SystemExit("--strategy jax takes --data digits or cifar10")
    size = args.batch_size
    train, test = (
        tuple(each[: len(each) // size * size] for each in arrays)
        for arrays in in_memory(args.data)
    )
    if not len(test[0]):
        raise SystemExit(f"--batch-size {size}: fewer images to validate on")
    return train, test


def residual_network(shape, classes, depth, width, initializer):
    """Returns a convolutional residual network with scaled branches."""

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
        # The loss is computed in float32 for every precision.
        keras.layers.Dense(classes, dtype="float32", name="logits"),
    ]
    return keras.Sequential(layers)


def callbacks(args, samples):
    """Returns the callbacks of the training, in the order they must run in."""
    result = [keras.callbacks.TerminateOnNaN()]
    if args.checkpoint_dir:
        # It comes first, so that the other callbacks see restored weights.
        result.insert(
            0,
            keras.callbacks.BackupAndRestore(
                f"{args.checkpoint_dir}/backup",
                double_checkpoint=True,
                # The backup is kept, so that a finished job can continue with
                # more epochs, and a worker that failed at the end can resume.
                delete_checkpoint=False,
            ),
        )
        result.append(
            keras.callbacks.ModelCheckpoint(
                # The last model and not the best: a job that is started
                # again does not know the best result so far.
                f"{args.checkpoint_dir}/model.keras"
            )
        )
    # Before the next callback, so that it does not show the logs that callback
    # adds for every layer.
    result.append(keras.callbacks.ProgbarLogger())
    result.append(
        kx.callbacks.SampleVarianceDecay(
            samples, log_dir=args.log_dir, verbose=1
        )
    )
    if args.log_dir:
        if keras.config.backend() == "tensorflow":
            # It knows gs:// as well.
            tf.io.gfile.makedirs(args.log_dir)
        else:
            os.makedirs(args.log_dir, exist_ok=True)
        result.append(
            keras.callbacks.CSVLogger(f"{args.log_dir}/log.csv", append=True)
        )
    return result


def compiled_network(args, shape):
    """Returns the network that the arguments describe."""
    model = residual_network(
        shape,
        args.classes,
        args.depth,
        args.width,
        INITIALIZERS[args.initializer],
    )
    model.compile(
        # Gradients are not clipped, because each replica would clip the
        # gradient of its own part of the batch.
        keras.optimizers.SGD(args.learning_rate, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=args.steps_per_execution,
    )
    return model


def print_last(history):
    """Prints the last values of the logs."""
    last = {name: values[-1] for name, values in history.items()}
    # Names with "/" are of single layers.
    names = [name for name in last if "/" not in name]
    print(", ".join(f"{name} {last[name]:.4f}" for name in names))


def train_on_jax(args):
    """Trains on all devices of JAX under `keras.distribution`."""
    if keras.config.backend() != "jax":
        raise SystemExit("--strategy jax needs KERAS_BACKEND=jax")
    import jax

    if args.replicas:
        jax.config.update("jax_num_cpu_devices", args.replicas)
    devices = keras.distribution.list_devices()
    if args.batch_size % len(devices):
        raise SystemExit(
            f"--batch-size {args.batch_size}: must be a multiple of the "
            f"{len(devices)} devices"
        )
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=devices)
    )
    keras.utils.set_random_seed(args.seed)
    keras.config.set_dtype_policy(args.precision)
    train, test = load_arrays(args)
    model = compiled_network(args, train[0].shape[1:])
    print(f"{len(devices)} devices, {args.precision}")
    history = model.fit(
        *train,
        batch_size=args.batch_size,
        epochs=args.epochs,
        steps_per_epoch=args.steps_per_epoch,
        validation_data=test,
        callbacks=callbacks(args, test[0][:128]),
        verbose=2,
    ).history
    if history:
        print_last(history)
    return model


def main(arguments=None):
    args = parser().parse_args(arguments)
    if args.strategy == "jax":
        return train_on_jax(args)
    if args.replicas:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * args.replicas,
        )
    # TPUs and workers must be set up before TensorFlow is used.
    strategy = kx.distribute.get_strategy(args.strategy, tpu=args.tpu)
    keras.utils.set_random_seed(args.seed)
    keras.config.set_dtype_policy(args.precision)
    data, validation, samples = load(args)
    with strategy.scope():
        model = compiled_network(args, samples.shape[1:])
    chief = kx.distribute.is_chief(strategy)
    if chief:
        print(f"{strategy.num_replicas_in_sync} replicas, {args.precision}")
    history = kx.distribute.fit(
        model,
        data,
        epochs=args.epochs,
        steps_per_epoch=args.steps_per_epoch,
        validation_data=validation,
        callbacks=callbacks(args, samples),
        verbose=2,
    ).history
    if chief and history:
        print_last(history)
    return model


if __name__ == "__main__":
    main()
