"""What runs in a training step can run on a TPU, tested without one.

It has static shapes and float32 at most, does not call Python, and XLA compiles
it. Values of initializers and layers are tested in their own tests, those of
the measuring pass here.
"""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx
from keras_initx.backend import tensorflow_passes
from keras_initx.inspection.selection import selectors
from keras_initx.measurement.forward import forward_pass
from tests.helpers import tables

X = tf.constant(np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4))
WIDE = {tf.float64.as_datatype_enum, tf.complex128.as_datatype_enum}


def traced(function, *arguments, wide=False):
    """A function that XLA compiles, without operations that a TPU lacks."""
    jitted = tf.function(function, jit_compile=True, autograph=False)
    concrete = jitted.get_concrete_function(*arguments)
    graph = concrete.graph.as_graph_def()
    nodes = list(graph.node)
    for inner in graph.library.function:
        nodes += inner.node_def
    for node in nodes:
        # PyFunc, EagerPyFunc, PyFuncStateless.
        assert "PyFunc" not in node.op, node.name
        for attribute in node.attr.values():
            types = {attribute.type, *attribute.list.type}
            assert wide or not types & WIDE, f"{node.name} in float64"
    for output in concrete.outputs:
        assert output.shape.is_fully_defined(), output.name
    return jitted


def compiled(function, *arguments):
    """Runs a function compiled by XLA, without operations a TPU lacks."""
    return traced(function, *arguments)(*arguments)


COMPILED = set()


def check_compiles(function, *arguments, wide=False, run=True):
    """Compiles a function by XLA, without operations that a TPU lacks.

    It is only lowered to operations of XLA if `run` is False, or if the same
    program has been compiled before, but for the values of constants.
    """
    jitted = traced(function, *arguments, wide=wide)
    program = lowered(jitted, *arguments)
    if run and program not in COMPILED:
        jitted(*arguments)
        COMPILED.add(program)


def lowered(jitted, *arguments):
    """The program for XLA, without names and values of constants."""
    text = jitted.experimental_get_compiler_ir(*arguments)(stage="hlo")
    text = re.sub(r", metadata={[^}]*}|HloModule [^,]*|ENTRY %\S+", "", text)
    return re.sub(r"constant\(.*\)", "constant", text)


@pytest.mark.parametrize("run", [compiled, check_compiles])
def test_an_operation_that_xla_cannot_compile_fails(run):
    def through_text(x):
        return tf.strings.to_number(tf.strings.as_string(x))

    # A ValueError where it is lowered.
    with pytest.raises(
        (tf.errors.InvalidArgumentError, ValueError), match="AsString"
    ):
        run(through_text, X)


def test_programs_that_differ_in_constants_alone_are_equal():
    def drawn(scale, shape=(4,)):
        return lambda: scale * tf.random.stateless_uniform(shape, (1, 2))

    programs = {
        lowered(traced(each))
        for each in (drawn(2.0), drawn(3.0), drawn(2.0, (5,)))
    }
    assert len(programs) == 2


@pytest.mark.parametrize(
    "row", tables.INITIALIZER_ROWS.values(), ids=tables.INITIALIZER_ROWS
)
def test_initializers(row, seed):
    made = row.make(seed=seed)
    check_compiles(lambda: made(row.shape), wide=row.wide)


RUN_IN_MIXED = tables.LAYERS["triangle-v"][0]


@pytest.mark.parametrize(
    "make",
    [make for make, _ in tables.LAYERS.values()],
    ids=list(tables.LAYERS),
)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "bfloat16"])
def test_layers_forward_and_back(make, policy):
    keras.config.set_dtype_policy(policy)
    try:
        layer = make()
        layer.build((8, 4))
    finally:
        keras.config.set_dtype_policy("float32")

    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.cast(layer(x), tf.float32) ** 2)
        weights = [w.value for w in layer.trainable_weights]
        found = tape.gradient(loss, [x, *weights])
        assert all(gradient is not None for gradient in found)
        return found

    # One layer is compiled and run in mixed precision, the others are lowered
    # only: they differ from the two other policies by casts.
    run = policy != "mixed_bfloat16" or make is RUN_IN_MIXED
    check_compiles(gradients, tf.cast(X, layer.compute_dtype), run=run)


def model_of(policy):
    keras.config.set_dtype_policy(policy)
    try:
        return keras.Sequential(
            [
                keras.Input((8, 8, 2)),
                keras.layers.Conv2D(4, 3, activation="relu"),
                keras.layers.BatchNormalization(),
                keras.layers.Flatten(),
                keras.layers.Dropout(0.5),
                kx.layers.Residual(keras.layers.Dense(144), scale=0.5),
                keras.layers.Dense(3),
            ]
        )
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("on", ["a CPU", "an accelerator"])
def test_the_measuring_pass_is_compiled_whole(training, on, rng, monkeypatch):
    if on == "an accelerator":
        # It reduces a signal at once, not in parts.
        monkeypatch.setattr(tensorflow_passes, "_rows_at_once", lambda: None)
    model = model_of("float32")
    x = tf.constant(rng.normal(size=(16, 8, 8, 2)).astype(np.float32))

    def forward(batch):
        return forward_pass(model, batch, selectors(None), training).moments

    order = forward_pass(model, x, selectors(None), training).order

    def by_call(stacks):
        rows = [row for each in stacks for row in zip(*each, strict=True)]
        return [rows[order.index(call)] for call in range(len(order))]

    rows = by_call(compiled(forward, x))
    if training:
        # XLA's dropout draws other numbers.
        rows = rows[:1]
    for row, expected in zip(rows, by_call(forward(x)), strict=False):
        samples, mean, half_squares = row
        assert int(samples) == int(expected[0]) == 16
        np.testing.assert_allclose(mean, expected[1], atol=1e-6)
        np.testing.assert_allclose(half_squares, expected[2], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_the_measuring_pass_of_half_precision_reduces_in_float32(policy):
    model = model_of(policy)
    rows = compiled(
        lambda batch: forward_pass(model, batch, selectors(None)).moments,
        tf.zeros((16, 8, 8, 2)),
    )
    for row in rows:
        assert row.mean.dtype == row.half_squares.dtype == tf.float32
