"""Models that every backend measures, with the same weights and data."""

import keras
import numpy as np

import keras_initx as kx

SAMPLES = 16
COLUMNS = (
    *("sample_variance", "squared_mean", "dead_fraction"),
    *("saturated_fraction", "units"),
)
layers = keras.layers


def shared():
    x = inputs = keras.Input((12,))
    layer = layers.Dense(12, "tanh")
    return keras.Model(inputs, layers.Dense(5)(layer(layer(x))))


def nested():
    part = keras.Sequential([layers.Dense(6, "relu"), layers.Dense(12)])
    x = inputs = keras.Input((12,))
    x = layers.Add()([part(x), x])
    x = layers.Activation("sigmoid")(x)
    return keras.Model(inputs, [layers.Dense(3)(x), keras.ops.relu(part(x))])


class Positions(layers.Layer):
    """Adds what no sample reaches."""

    def build(self, shape):
        self.embedding = layers.Embedding(*shape[1:])
        self.embedding.build((None,))

    def call(self, x):
        return x + self.embedding(keras.ops.arange(x.shape[1]))


def attention():
    x = inputs = keras.Input((6, 8))
    x = Positions()(x)
    x = layers.MultiHeadAttention(2, 4)(x, x)
    x = layers.LayerNormalization()(x)
    x = layers.Dense(8, "gelu")(x)
    return keras.Model(inputs, layers.Dense(2)(x))


def recurrent():
    x = inputs = keras.Input((5, 4))
    x = layers.LSTM(6, return_sequences=True)(x)
    x = layers.Bidirectional(layers.GRU(3, return_sequences=True))(x)
    x = layers.TimeDistributed(layers.Dense(4, "relu"))(x)
    return keras.Model(inputs, layers.SimpleRNN(3)(x))


def convolutional():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Add()([x, layers.DepthwiseConv2D(3, padding="same")(x)])
    x = layers.AveragePooling2D(2)(layers.ReLU()(x))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


class Subclassed(keras.Model):
    """Folds windows into the first axis, and uses no layer for a relu.

    It has an output that repeats the same numbers for each sample.
    """

    def __init__(self):
        super().__init__()
        self.first = layers.Dense(6)
        self.second = layers.Dense(4)
        self.third = layers.Dense(2)
        self.repeated = layers.Dense(5)

    def call(self, x):
        repeated = self.repeated(keras.ops.ones_like(x))
        x = keras.ops.relu(self.first(x))
        windows = keras.ops.reshape(x, (-1, 2, 6))
        x = keras.ops.reshape(self.second(windows), (-1, 2, 8))
        return self.third(keras.ops.transpose(x, (1, 0, 2))), repeated


def wide():
    """More units than are summed in one go."""
    return keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(2500, "relu"),
            layers.Dense(8),
            kx.layers.BranchScale(constant=0.5),
        ]
    )


def elementwise():
    """Functions of each entry that quadrature and gradients run."""

    class Merged(layers.Layer):
        """Operations of `keras.ops`, by rules and without."""

        def call(self, x):
            ops = keras.ops
            x = ops.maximum(x, 0.2) - ops.stop_gradient(x)
            return ops.where(x > 0.5, ops.tanh(x), x) / 2.0

    x = inputs = keras.Input((12,))
    stopped = layers.Activation(keras.ops.stop_gradient)(layers.Dense(9)(x))
    x = kx.layers.ShapedReLU(depth=4)(layers.Dense(9)(x))
    x = layers.Minimum()([Merged()(layers.Dense(9)(x)), stopped])
    return keras.Model(inputs, layers.Dense(2)(x))


# name: (how to make it, shape of a sample)
MODELS = {
    "shared": (shared, (12,)),
    "nested": (nested, (12,)),
    "attention": (attention, (6, 8)),
    "recurrent": (recurrent, (5, 4)),
    "convolutional": (convolutional, (8, 8, 3)),
    "subclassed": (Subclassed, (4, 3)),
    "wide": (wide, (16,)),
    "elementwise": (elementwise, (12,)),
}


WITH_GRADIENTS = ("nested", "attention", "recurrent")


def made(name):
    """Returns a model whose weights are the same on each backend, and data."""
    make, shape = MODELS[name]
    random = np.random.default_rng([len(name), *map(ord, name)])
    x = random.normal(size=(SAMPLES, *shape)).astype("float32")
    model = make()
    model(keras.ops.convert_to_tensor(x[:2]))
    for weight in model.weights:
        value = random.normal(size=weight.shape) / np.sqrt(weight.shape[0] + 1)
        if weight.path.endswith(("gamma", "variance")):
            value = 1 + abs(value)
        weight.assign(value)
    return model, x


def profiles():
    """Returns the columns of all profiles, by name."""
    columns = {}
    for name in MODELS:
        model, x = made(name)
        # Where the mode makes a difference.
        modes = (False, True) if name == "convolutional" else (False,)
        for training in modes:
            gradient = name in WITH_GRADIENTS
            profile = kx.measure(
                *(model, x),
                **{"training": training, "gradient": gradient},
                batch_size=8,
            )
            key = f"{name}/{training}"
            for column in (*COLUMNS, *["gradient"] * gradient):
                columns[f"{key}/{column}"] = getattr(profile, column)
            columns[f"{key}/notes"] = np.array(profile.notes)
    return columns


# name: options of `calibrate` for a model, each set a calibration.
CALIBRATED = {
    "shared": ({"per": "layer", "batch_size": 8},),
    "nested": ({"batch_size": 8},),
    "attention": ({"batch_size": 8},),
    "convolutional": (
        {"target_variance": 2.0, "batch_size": 8},
        {"training": True, "per": "layer", "center": False},
    ),
    "subclassed": ({"batch_size": 8},),
}


def calibrations():
    """Returns records and weights of all calibrations, by name."""
    columns = {}
    for name, calls in CALIBRATED.items():
        for i, options in enumerate(calls):
            model, x = made(name)
            done = kx.calibrate(model, x, **options)
            key = f"{name}/{i}"
            columns[f"{key}/notes"] = np.array(done.notes)
            columns[f"{key}/why"] = np.array(list(done.skipped.values()))
            for column in ("sample_variance", "squared_mean", "units"):
                columns[f"{key}/{column}"] = getattr(done, column)
            for j, weight in enumerate(model.trainable_weights):
                columns[f"{key}/{j}"] = keras.ops.convert_to_numpy(weight)
    return columns


JACOBIANS = ("shared", "attention", "convolutional")
JACOBIAN_COLUMNS = ("mean_square", "largest", "smallest", "units")


def jacobians():
    """Returns the columns of Jacobians, exact and estimated, by name."""
    columns = {}
    for name in JACOBIANS:
        model, x = made(name)
        # It depends on all other layers.
        profile = kx.measure_jacobian(model, x[:1], layers=model.layers[-1])
        for column in JACOBIAN_COLUMNS:
            columns[f"{name}/{column}"] = getattr(profile, column)
    # Too many inputs for all entries.
    model = keras.Sequential([keras.Input((1025,)), layers.Dense(4, "tanh")])
    random = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(random.normal(size=weight.shape))
    x = random.normal(size=(1, 1025))
    profile = kx.measure_jacobian(model, x, iterations=2, probes=2)
    for column in (*JACOBIAN_COLUMNS, "mean_square_error", "largest_error"):
        columns[f"estimated/{column}"] = getattr(profile, column)
    return columns


# name: options of `predict` for a model, each set a prediction.
PREDICTED = {
    "shared": ({}, {"width": "actual"}),
    "nested": ({}, {"width": "actual"}),
    "elementwise": ({}, {"width": "actual"}),
}
PREDICTED_COLUMNS = (
    *("sample_variance", "squared_mean", "gradient", "position_correlation"),
    *("exactness", "notes"),
)


def predictions():
    """Returns the columns of all predictions, by name."""
    columns = {}
    for name, calls in PREDICTED.items():
        model, x = made(name)
        for i, options in enumerate(calls):
            options = {"samples": 2, "networks": 8, **options}
            prediction = kx.predict(model, x, **options)
            for column in PREDICTED_COLUMNS:
                key = f"{name}/{i}/{column}"
                columns[key] = np.array(getattr(prediction, column))
    return columns
