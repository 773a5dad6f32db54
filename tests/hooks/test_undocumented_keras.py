"""What the hooks need of Keras that Keras does not document.

These tests use none of this package. One that fails says that Keras has
changed, and which module of `keras_initx/hooks` has to follow.
"""

import keras
import numpy as np
import pytest

X = np.linspace(-1, 1, 24, dtype="float32").reshape(2, 4, 3)


class Nested(keras.layers.Layer):
    """Runs one of its two layers, twice."""

    def __init__(self):
        super().__init__(name="nested")
        self.runs = keras.layers.Dense(3, name="runs")
        self.rests = keras.layers.Dense(3, name="rests")

    def build(self, shape):
        self.runs.build(shape)
        self.rests.build(shape)

    def call(self, x):
        return self.runs(self.runs(x))


def test_every_layer_runs_through_the_class_attribute_call(monkeypatch):
    """keras_initx/hooks/patched_call.py."""
    model = keras.Sequential([keras.Input((4, 3)), Nested()], name="model")
    ran, original = [], keras.layers.Layer.__call__

    def call(layer, *args, **kwargs):
        ran.append(layer.name)
        return original(layer, *args, **kwargs)

    model(X)
    monkeypatch.setattr(keras.layers.Layer, "__call__", call)
    model(X)
    assert ran == ["model", "nested", "runs", "runs"]


def test_an_operation_on_a_symbolic_tensor_runs_the_class_attribute(
    monkeypatch,
):
    """keras_initx/hooks/patched_call.py."""

    class Symbolic(keras.KerasTensor):
        pass

    x = Symbolic((2, 3))
    monkeypatch.setattr(
        keras.Operation,
        "symbolic_call",
        lambda operation, *args, **kwargs: (type(operation).__name__, args),
    )
    assert keras.ops.relu(x) == ("Relu", (x,))
    assert x + 1.0 == ("Add", (x, 1.0))
    assert keras.ops.concatenate([x, x])[0] == "Concatenate"


def test_a_layer_runs_the_call_of_the_instance():
    """keras_initx/hooks/patched_call.py."""
    layer = keras.layers.Dense(3)
    layer(X)
    vars(layer)["call"] = lambda inputs: 2 * inputs
    np.testing.assert_array_equal(layer(X), 2 * X)


def test_a_quantized_layer_runs_the_quantized_call_of_the_instance():
    """keras_initx/hooks/patched_call.py."""
    layer = keras.layers.Dense(3)
    layer(X)
    layer.quantize("int8")
    vars(layer)["quantized_call"] = lambda inputs: 2 * inputs
    np.testing.assert_array_equal(layer(X), 2 * X)


@pytest.mark.parametrize(
    "kind", [keras.layers.SimpleRNN, keras.layers.LSTM, keras.layers.GRU]
)
@pytest.mark.parametrize("return_sequences", [True, False])
def test_a_recurrent_layer_runs_the_inner_loop_of_the_instance(
    kind, return_sequences
):
    """keras_initx/hooks/recurrent.py."""
    layer = kind(5, return_sequences=return_sequences)
    expected = layer(X)
    returned, cell_runs = [], []

    def inner_loop(*args, **kwargs):
        returned.append(keras.layers.RNN.inner_loop(layer, *args, **kwargs))
        return returned[-1]

    def cell_call(*args, **kwargs):
        cell_runs.append(True)
        return type(layer.cell).call(layer.cell, *args, **kwargs)

    vars(layer)["inner_loop"] = inner_loop
    vars(layer.cell)["call"] = cell_call
    np.testing.assert_allclose(layer(X), expected, atol=1e-6)
    ((last, outputs, states),) = returned
    assert cell_runs
    assert tuple(last.shape) == (2, 5)
    assert tuple(outputs.shape)[::2] == (2, 5)
    assert len(states) == (2 if kind is keras.layers.LSTM else 1)
    np.testing.assert_allclose(
        outputs if return_sequences else last, expected, atol=1e-6
    )


def test_time_distributed_runs_the_call_of_the_instance_once_a_time_step():
    """keras_initx/hooks/time_distributed.py."""
    inner = keras.layers.Dense(5)
    layer = keras.layers.TimeDistributed(inner)
    expected = layer(X)
    given = []

    def call(inputs, training=None):
        given.append(np.asarray(inputs))
        return keras.layers.Dense.call(inner, inputs)

    vars(inner)["call"] = call
    np.testing.assert_allclose(layer(X), expected, atol=1e-6)
    np.testing.assert_array_equal(np.stack(given, axis=1), X)


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_a_functional_model_fills_in_the_arguments_of_each_node(kind):
    """keras_initx/hooks/functional.py."""
    layers = [keras.layers.ReLU(name=name) for name in ("a", "b", "c")]
    if kind == "sequential":
        model = keras.Sequential([keras.Input((4, 3)), *layers])
        function = model._functional
    else:
        a, b, c = layers
        inputs = keras.Input((4, 3))
        model = function = keras.Model(inputs, c(b(a(inputs))))
    assert isinstance(function, keras.Function)
    events = []
    by_depth = sorted(function._nodes_by_depth.items(), reverse=True)
    for _, nodes in by_depth:
        for node in nodes:

            def fill_in(signals, node=node):
                filled = type(node.arguments).fill_in(node.arguments, signals)
                # Later nodes need none of these.
                for tensor in node.input_tensors:
                    del signals[id(tensor)]
                events.append((node.operation.name, "arguments"))
                return filled

            vars(node.arguments)["fill_in"] = fill_in
            name = node.operation.name
            if name in "abc":
                original = node.operation.call

                def call(x, name=name, original=original):
                    events.append((name, "call"))
                    return original(x)

                vars(node.operation)["call"] = call
    np.testing.assert_array_equal(model(X), np.maximum(X, 0))
    assert events == [
        (name, what) for name in "abc" for what in ("arguments", "call")
    ]
