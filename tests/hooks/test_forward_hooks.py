"""Hooks: which calls they meet, and that what they return goes on."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_initx.hooks.forward_hooks import forward_hooks

X = np.linspace(-1, 1, 24, dtype="float32").reshape(8, 3)


def net():
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(3, "relu", name="first"),
            keras.layers.Dropout(0.5, name="drop"),
            keras.layers.Dense(2, name="last"),
        ],
        name="net",
    )


def test_after_call_meets_all_layers_inner_before_outer():
    model, names = net(), []

    def after_call(layer_call, rerun, output):
        names.append(layer_call.name)
        return output

    with forward_hooks(after_call=after_call):
        output = model(X)
    assert names == [
        "first",
        "drop",
        "last",
        "net",
    ]
    np.testing.assert_array_equal(output, model(X))


def test_the_output_that_after_call_returns_goes_on():
    model = net()

    def doubled(layer_call, rerun, output):
        return 2 * output if layer_call.name == "first" else output

    with forward_hooks(after_call=doubled):
        output = model(X)
    first, _, last = model.layers
    np.testing.assert_array_equal(output, last(2 * first(X)))


def test_rerun_takes_the_arguments_the_layer_was_given():
    model, given = net(), {}

    def after_call(layer_call, rerun, output):
        given[layer_call.name] = rerun.args, rerun.kwargs
        return output

    with forward_hooks(after_call=after_call):
        model(X, training=False)
    assert given["drop"][1]["training"] is False
    (inputs,), _ = given["last"]
    np.testing.assert_array_equal(inputs, model.layers[0](X))


@pytest.mark.parametrize("compiled", [False, True])
def test_rerun_runs_with_changed_variables_and_without_hooks(compiled):
    model = net()
    first, _, last = model.layers
    calls = []

    def on_pre_activation(layer_call, signal):
        calls.append(layer_call.name)
        return signal

    def forward(x):
        def after_call(layer_call, rerun, output):
            if layer_call.layer is not first:
                return output
            scope.add_update((first.kernel, 3 * first.kernel.value))
            return rerun()

        with (
            keras.StatelessScope() as scope,
            forward_hooks(
                on_pre_activation=on_pre_activation, after_call=after_call
            ),
        ):
            return model(x)

    kernel = first.kernel.numpy()
    output = (tf.function(forward) if compiled else forward)(X)
    # Each is met once, not a second time in the rerun.
    assert calls == ["first", "last"]
    np.testing.assert_array_equal(first.kernel, kernel)
    expected = np.maximum(X @ (3 * kernel), 0) @ last.kernel.numpy()
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


def test_rerun_records_its_pre_activation():
    model, signals = net(), {}

    def after_call(layer_call, rerun, output):
        rerun(lambda signal: signals.update({layer_call.name: signal}))
        return output

    with forward_hooks(after_call=after_call):
        model(X)
    first, _, last = model.layers
    expected = X @ first.kernel.numpy()
    np.testing.assert_allclose(signals["first"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(signals["last"], last(first(X)))


class ActivationOfTheClass(keras.layers.Layer):
    activation = staticmethod(keras.ops.relu)

    def call(self, x):
        return self.activation(x - 1)


class ActivationAsAProperty(ActivationOfTheClass):
    @property
    def activation(self):
        return keras.ops.relu


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (ActivationOfTheClass, X - 1),
        # A property cannot be replaced, so this is the output.
        (ActivationAsAProperty, np.maximum(X - 1, 0)),
    ],
)
def test_the_pre_activation_enters_an_activation_of_the_class(cls, expected):
    signals = []

    def on_pre_activation(layer_call, signal):
        signals.append(signal)
        return signal

    layer = cls()
    with forward_hooks(
        on_pre_activation=on_pre_activation, select=lambda call: True
    ):
        output = layer(X)
    (signal,) = signals
    np.testing.assert_array_equal(signal, expected)
    np.testing.assert_array_equal(output, np.maximum(X - 1, 0))
    assert "activation" not in vars(layer)


class Block(keras.layers.Layer):
    """Two layers with kernels in a layer of their own."""

    def __init__(self, **options):
        super().__init__(**options)
        self.one = keras.layers.Dense(3, name="one")
        self.two = keras.layers.Dense(3, name="two")

    def call(self, x):
        return self.two(self.one(x))


def test_rerun_of_a_layer_with_inner_layers_runs_these_without_hooks():
    block, names = Block(name="block"), []
    block(X)

    def after_call(layer_call, rerun, output):
        names.append(layer_call.name)
        return rerun() if layer_call.layer is block else output

    with forward_hooks(after_call=after_call):
        output = block(X)
    assert names == ["one", "two", "block"]
    np.testing.assert_array_equal(output, block(X))


def test_after_call_is_not_called_for_the_steps_of_a_sequence():
    model = keras.Sequential(
        [
            keras.Input((4, 3)),
            keras.layers.TimeDistributed(keras.layers.Dense(2), name="td"),
            keras.layers.SimpleRNN(2, name="rnn"),
        ],
        name="net",
    )
    names = []

    def after_call(layer_call, rerun, output):
        names.append(layer_call.name)
        return output

    with forward_hooks(after_call=after_call):
        model(np.ones((2, 4, 3), "float32"))
    assert names == ["td", "rnn", "net"]


def test_without_a_selection_layers_with_a_kernel_are_met():
    names = []

    def on_pre_activation(layer_call, signal):
        names.append(layer_call.name)
        return signal

    with forward_hooks(on_pre_activation=on_pre_activation):
        net()(X)
    assert names == ["first", "last"]


def test_an_exception_in_a_hook_restores_keras_and_the_layers():
    model = net()
    model(X)
    call = keras.layers.Layer.__call__
    held = [dict(vars(layer)) for layer in model.layers]

    def after_call(layer_call, rerun, output):
        raise KeyError("of the hook")

    with (
        pytest.raises(KeyError, match="of the hook"),
        forward_hooks(after_call=after_call),
    ):
        model(X)
    assert keras.layers.Layer.__call__ is call
    assert [dict(vars(layer)) for layer in model.layers] == held


def dense(x):
    return keras.layers.Dense(3, "tanh")(x)


def diamond(x):
    a, b = dense(x), dense(x)
    return dense(a + b) + a


def several_outputs(x):
    first = dense(x)
    return [dense(first), first, x, dense(dense(x))]


def a_model_inside(x):
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    return dense(inner(dense(inner(x))) + x)


def shared_layer(x):
    twice = keras.layers.Dense(3)
    return twice(dense(twice(twice(x))))


def several_arguments(x):
    y = keras.layers.RepeatVector(2)(dense(x))
    return keras.layers.Attention()([y, dense(y)]) + y


def shared_nodes(x):
    """A layer runs a model of which the nodes are those of the outer one."""
    first = dense(x)
    second = dense(first)
    inner = keras.Model(x, [first, second])

    class Runs(keras.layers.Layer):
        def call(self, inputs):
            one, two = inner(inputs)
            return one * two

    return Runs()(x) + second


@pytest.mark.parametrize(
    "make",
    [
        diamond,
        several_outputs,
        a_model_inside,
        shared_layer,
        several_arguments,
        shared_nodes,
    ],
)
def test_a_functional_model_releases_only_what_it_does_not_need(make):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, make(inputs))
    expected = keras.tree.flatten(model(X))
    with forward_hooks():
        actual = keras.tree.flatten(model(X))
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    for node in itertools.chain(*model._nodes_by_depth.values()):
        assert "fill_in" not in vars(node.arguments)
