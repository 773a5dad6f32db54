"""A warning of kernels that are equal since layers share an initializer."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx
from keras_initx.inspection.equal_kernels import warn_of_equal_kernels

L, K = keras.layers, keras.initializers
X = np.linspace(-1, 1, 64, dtype="float32").reshape(16, 4)


def dense(initializer, **kwargs):
    return L.Dense(4, "relu", kernel_initializer=initializer, **kwargs)


def chain(*layers, shape=(4,)):
    return keras.Sequential([keras.Input(shape), *layers])


class Own(L.Layer):
    """A layer of a user, which keeps its initializer as an attribute."""

    def __init__(self, start):
        super().__init__()
        self.start = start

    def build(self, shape):
        self.kernel = self.add_weight(
            shape=(shape[-1], 4), initializer=self.start
        )

    def call(self, x):
        return x @ self.kernel


def warned(run):
    """The warnings of equal kernels, by `run`, and the files they point to."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [
        (str(each.message), each.filename)
        for each in caught
        if "equal kernels" in str(each.message)
    ]


def shared(initializer):
    return chain(*(dense(initializer) for _ in range(3)))


def scaled(inner):
    return chain(*(dense(kx.initializers.Scaled(inner, 2)) for _ in range(3)))


def attention(initializer):
    x = keras.Input((5, 4))
    layer = L.MultiHeadAttention(2, 2, kernel_initializer=initializer)
    return keras.Model(x, layer(x, x))


def nested(initializer):
    blocks = [chain(dense(initializer), L.Dense(4)) for _ in range(2)]
    return chain(*blocks, dense(initializer))


EQUAL = {
    "one of Keras": (lambda: shared(K.HeNormal()), 3),
    "one of ours": (lambda: shared(kx.initializers.FractionalMoment()), 3),
    "one seed": (
        lambda: chain(*(dense(K.Orthogonal(seed=1)) for _ in range(3))),
        3,
    ),
    "inside of Scaled": (lambda: scaled(K.GlorotUniform()), 3),
    "one place of a process": (
        lambda: shared(kx.initializers.DepthProcess(9, kind="white").at(2)),
        3,
    ),
    "query, key and value": (lambda: attention(K.HeNormal(seed=2)), 3),
    "in models in a model": (lambda: nested(K.HeNormal()), 3),
    "kernels of one layer": (
        lambda: chain(
            *(
                L.SimpleRNN(
                    4, kernel_initializer=init, recurrent_initializer=init
                )
                for init in [K.HeNormal()]
            ),
            shape=(5, 4),
        ),
        2,
    ),
    "only where shapes are equal": (
        lambda: chain(
            *(
                L.Dense(units, kernel_initializer=init)
                for init in [K.HeNormal()]
                for units in (4, 4, 3, 2)
            )
        ),
        2,
    ),
}
DIFFERENT = {
    "an instance each": lambda: chain(*(dense(K.HeNormal()) for _ in range(3))),
    "by name": lambda: shared("he_normal"),
    "a generator of seeds": lambda: shared(
        K.HeNormal(seed=keras.random.SeedGenerator(1))
    ),
    "each with another seed": lambda: chain(
        *(dense(K.HeNormal(seed=i)) for i in range(3))
    ),
    "a shared layer": lambda: chain(*[dense(K.HeNormal())] * 2),
    "copies": lambda: copies(),
    "a process": lambda: chain(
        *(
            dense(kx.initializers.DepthProcess(3, kind="smooth", seed=1).at(i))
            for i in range(3)
        )
    ),
    "frozen": lambda: chain(
        *(
            dense(init, trainable=not i)
            for init in [K.HeNormal()]
            for i in range(2)
        )
    ),
} | {
    type(init).__name__: lambda init=init: shared(init)
    for init in (
        K.Zeros(),
        K.Ones(),
        K.Constant(0.1),
        K.Identity(),
        kx.initializers.Dirac(),
        kx.initializers.DiracAverage(),
    )
}


def copies():
    """Two layers that got the same weights on purpose."""
    model = chain(dense("he_normal"), dense("he_normal"))
    model.layers[1].set_weights(model.layers[0].get_weights())
    return model


def data_of(model):
    shape = (16, *model.input_shape[1:])
    return np.resize(X, shape) + np.arange(16).reshape(
        -1, *[1] * len(shape[1:])
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This FractionalMoment initializer")
@pytest.mark.parametrize(("build", "count"), EQUAL.values(), ids=EQUAL)
def test_measure_names_the_layers_once(build, count):
    model = build()
    meter = kx.Meter(model)
    x = data_of(model)
    ((message, filename),) = warned(lambda: [meter(x), meter(x, batch_size=8)])
    assert message.startswith(f"{count} layers") or "2 kernels" in message
    assert filename == __file__
    assert len(warned(lambda: kx.measure(model, x))) == 1
    # Drawn anew they differ, although the layers share what they shared.
    assert warned(lambda: kx.initialize(model, "he_normal")) == []
    assert warned(lambda: kx.measure(model, x)) == []


@pytest.mark.parametrize("build", DIFFERENT.values(), ids=DIFFERENT)
def test_there_is_no_false_alarm(build):
    model = build()
    view = [(layer.name, layer) for layer in model.layers]
    assert warned(lambda: warn_of_equal_kernels(view)) == []


def test_the_names_are_those_of_the_layers():
    init = K.HeNormal()
    model = chain(
        dense(init, name="a"), L.Dense(4, name="b"), dense(init, name="c")
    )
    (message, _), *_ = warned(lambda: kx.measure(model, X))
    assert "'a', 'c'." in message
    (message, _), *_ = warned(
        lambda: kx.initialize(model, "he_normal", layers="b")
    )
    assert "'a', 'c'." in message


def test_one_of_many_names_stands_for_those_between():
    init = K.HeNormal()
    model = chain(*(dense(init, name=f"layer_{i}") for i in range(30)))
    ((message, _),) = warned(lambda: kx.measure(model, X))
    assert message.startswith("30 layers")
    assert "'layer_0', 'layer_1'" in message
    assert "... 'layer_29'" in message
    assert "'layer_20'" not in message


def test_layers_of_a_user_that_keep_their_initializer():
    init = K.RandomNormal()
    model = chain(Own(init), Own(init))
    ((message, _),) = warned(lambda: kx.measure(model, X))
    assert message.startswith("2 layers")
    # No rule knows their weights, so that these are skipped.
    ((message, _),) = warned(lambda: kx.initialize(model, "he_normal"))
    assert message.startswith("2 layers")


def test_trained_kernels_differ():
    model = shared(K.HeNormal())
    model.compile("sgd", "mse")
    model.fit(X, X, verbose=0)
    assert warned(lambda: kx.measure(model, X)) == []


def test_on_replicas():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        model = shared(K.HeNormal())
    ((message, _),) = warned(lambda: kx.measure(model, X))
    assert message.startswith("3 layers")
