"""A call leaves no trace in names, in Keras, in random numbers, in memory."""

import gc
import threading
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx

pytestmark = pytest.mark.usefixtures("frozen_objects")

X = np.linspace(-1, 1, 160, dtype="float32").reshape(40, 4)


def net(built=True, norm=True):
    layers = [
        *([keras.Input((4,))] if built else []),
        keras.layers.Dense(4, "relu"),
        *([keras.layers.BatchNormalization()] if norm else []),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(3),
    ]
    return keras.Sequential(layers)


def sequence_net():
    return keras.Sequential(
        [
            keras.Input((2, 2)),
            keras.layers.LSTM(3, return_sequences=True),
            keras.layers.TimeDistributed(keras.layers.Dense(2)),
        ]
    )


def measure(model):
    kx.measure(model, data_of(model))


def measure_in_training_mode(model):
    kx.measure(model, data_of(model), training=True, batch_size=9)


def meter(model):
    instance = kx.Meter(model)
    instance(data_of(model))
    instance(data_of(model), batch_size=9)


def calibrate(model):
    kx.calibrate(model, data_of(model))


def calibrate_in_batches(model):
    kx.calibrate(model, data_of(model), batch_size=20)


def initialize(model):
    # An initializer without a seed draws one when it is made.
    initializer = kx.initializers.FractionalMoment(seed=1)
    kx.initialize(model, initializer, seed=1)


def fail(model):
    """Finds the layer where a signal is not finite."""
    kernel = model.layers[0].weights[0]
    value = kernel.numpy()
    kernel.assign(value * np.inf)
    with pytest.raises(ValueError, match="must stay finite"):
        kx.measure(model, data_of(model))
    kernel.assign(value)


def data_of(model):
    return X.reshape(40, 2, 2) if len(model.input_shape) == 3 else X


CALLS = [
    measure,
    measure_in_training_mode,
    meter,
    calibrate,
    calibrate_in_batches,
    initialize,
    fail,
]
MODELS = [net, sequence_net]


def new_names():
    """Automatic names of layers, models, variables and tensors made now."""
    inputs = keras.Input((4,))
    layers = [
        keras.layers.Dense(2),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5),
        keras.layers.LSTM(2),
        keras.layers.TimeDistributed(keras.layers.Dense(2)),
        keras.layers.Layer(),
        keras.layers.InputLayer((3,)),
        keras.Model(inputs, keras.layers.Identity()(inputs)),
        keras.Sequential([keras.layers.Dense(2)]),
        keras.random.SeedGenerator(1),
        keras.Variable(1.0),
        keras.metrics.Mean(),
        keras.optimizers.SGD(),
    ]
    return [
        inputs.name,
        layers[0](inputs).name,
        *(layer.name for layer in layers),
    ]


def random_numbers():
    """Numbers from every generator that Keras and TensorFlow draw from."""
    return [
        np.random.random(),
        float(keras.random.normal(())),
        float(keras.layers.Dense(1).kernel_initializer((1, 1))[0, 0]),
        float(tf.random.normal(())),
        float(tf.random.get_global_generator().normal(())),
        np.asarray(keras.layers.Dropout(0.5)(np.ones(64), training=True)).sum(),
    ]


FuncGraph = type(tf.function(lambda: 1).get_concrete_function().graph)


def graphs():
    """All graphs of compiled functions that are alive, by their id."""
    gc.collect()
    alive = [o for o in gc.get_objects() if isinstance(o, FuncGraph)]
    return {id(graph) for graph in alive}


def keras_itself():
    return (
        keras.layers.Layer.__call__,
        dict(vars(keras.layers.Layer)),
        dict(vars(keras.layers.RNN)),
        keras.config.dtype_policy(),
        keras.config.floatx(),
        tf.config.functions_run_eagerly(),
        threading.active_count(),
    )


@pytest.fixture(
    scope="module",
    params=[(make, call) for make in MODELS for call in CALLS],
    ids=lambda each: f"{each[1].__name__}-{each[0].__name__}",
)
def traces(request):
    """What is there without a call, and after two; one test looks at each.

    The first call is also that of which TensorFlow and Keras keep what they
    create at their first use.
    """
    make, call = request.param
    found = {"names": [], "numbers": [], "keras": []}
    for called in (False, True):
        # In Keras 3.10 a new seed leaves the generator of all layers as it is.
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(7)
        tf.random.get_global_generator().reset_from_seed(7)
        model = make()
        if called:
            call(model)
        found["names"].append(new_names())
        found["numbers"].append(random_numbers())
        found["keras"].append(keras_itself())
        del model
    before = graphs()
    model = make()
    references = [weakref.ref(each) for each in (model, *model.layers)]
    call(model)
    del model
    gc.collect()
    alive = [reference() for reference in references]
    found["memory"] = alive, graphs() - before
    return found


@pytest.mark.slow
def test_names_made_later_are_what_they_would_have_been(traces):
    without, after = traces["names"]
    assert without == after


def test_building_a_model_takes_no_names_of_layers():
    names = []
    for called in (False, True):
        keras.utils.clear_session(free_memory=False)
        model = net(built=False)
        if called:
            kx.measure(model, X)
        else:
            model.build((None, 4))
        names.append(new_names()[2:])
    assert names[0] == names[1]


@pytest.mark.slow
def test_random_numbers_drawn_later_are_what_they_would_have_been(traces):
    without, after = traces["numbers"]
    assert without == after


def test_keras_itself_is_unchanged(traces):
    without, after = traces["keras"]
    assert without == after


@pytest.mark.slow
def test_the_model_and_the_compiled_pass_are_freed(traces):
    alive, left = traces["memory"]
    assert alive == [None] * len(alive)
    assert not left


def test_a_function_that_selects_layers_is_freed():
    model = net()

    def select(layer, model=model):
        return layer in model.layers

    kx.measure(model, X, layers=select)
    references = [weakref.ref(each) for each in (model, select)]
    del model, select
    gc.collect()
    assert [reference() for reference in references] == [None, None]


@pytest.mark.slow
def test_a_meter_that_was_dropped_frees_its_pass_but_not_the_model():
    model = net()
    kx.measure(model, X)
    before = graphs()
    instance = kx.Meter(model)
    instance(X)
    assert len(graphs()) > len(before)
    del instance
    assert graphs() <= before


@pytest.mark.slow
def test_the_callback_drops_its_meter_at_the_end_of_training():
    model = net()
    model.compile("sgd", "mse")
    callback = kx.callbacks.SampleVarianceDecay(X, verbose=0)
    model.fit(X, X[:, :3], verbose=0, callbacks=[callback])
    before = graphs()
    model.fit(X, X[:, :3], verbose=0, callbacks=[callback])
    assert len(callback.profiles) == 2
    assert graphs() <= before
