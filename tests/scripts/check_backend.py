"""Checks what runs on every backend of Keras, without TensorFlow.

    KERAS_BACKEND=jax python tests/scripts/check_backend.py

TensorFlow cannot be imported here unless it is the backend. A row of
docs/compatibility.md is printed for each room.

    --load model.keras    loads a model that another backend has saved, and
                          compares its output with that in model.npz
    --save model.keras    saves a model for another one
    --profiles some.npz   compares what `measure` returns with what
                          `backend_models.profiles` returned elsewhere
    --predictions some.npz   the same for `predict` and `predictions`
    --calibrations some.npz  the same for `calibrate` and `calibrations`
    --jacobians some.npz     the same for `measure_jacobian` and `jacobians`
"""

import argparse
import ast
import concurrent.futures
import contextlib
import doctest
import importlib.util
import io
import os
import sys
import tempfile
import types
import warnings
from pathlib import Path
from unittest import mock

BACKEND = os.environ["KERAS_BACKEND"]
DEVICES = 4
if BACKEND == "jax":
    os.environ["XLA_FLAGS"] = (
        f"--xla_force_host_platform_device_count={DEVICES}"
    )
if BACKEND != "tensorflow":
    for name in ("tensorflow", "tensorflow_probability", "tf_keras"):
        sys.modules[name] = None
sys.path.insert(0, str(Path(__file__).parents[2]))

import keras  # noqa: E402
import numpy as np  # noqa: E402

import keras_initx as kx  # noqa: E402
from keras_initx.backend import float64  # noqa: E402
from keras_initx.backend.passes import passes  # noqa: E402
from keras_initx.initializers.base import LARGEST  # noqa: E402
from keras_initx.measurement.meter import _CompiledForward  # noqa: E402
from tests.helpers import backend_models, initializer_rows, layer_rows  # noqa: E402

# What runs on TensorFlow alone says so.
REFUSED = ("distribute",)
MEASURED = {
    *("Calibration", "CoordinateCheck", "Finding", "Findings"),
    *("JacobianProfile", "Meter", "Prediction", "calibrate", "callbacks"),
    *("coordinate_check", "measure", "measure_jacobian", "predict"),
    *("prediction", "recommend", "testing"),
}
# All other public objects run their examples. Those of these use TensorFlow.
USE_TENSORFLOW = {
    *("FromDistribution", "SampleVarianceDecay", "register_propagation"),
}
X = np.linspace(-1, 1, 32, dtype="float32").reshape(8, 4)


def check_names():
    """Every public name is here, or is named as one of TensorFlow."""
    module = ast.parse(Path(kx.__file__).read_text(encoding="utf-8"))
    (names, *_) = (
        ast.literal_eval(node.value)
        for node in module.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    )
    refused = () if BACKEND == "tensorflow" else REFUSED
    assert {*kx.__all__, *refused} == set(names)
    assert set(kx.__all__).isdisjoint(refused)
    rooms = [getattr(kx, name) for name in kx.__all__]
    known = {name for room in [kx, *rooms] for name in dir(room)}
    assert known >= USE_TENSORFLOW
    return len(names)


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def check_refusals():
    """What needs TensorFlow is refused with a sentence."""
    if BACKEND == "tensorflow":
        return 0
    for name in REFUSED:
        assert name not in kx.__all__
        message = message_of(RuntimeError, lambda name=name: getattr(kx, name))
        assert f"keras_initx's {name} runs on" in message, message
    make = kx.initializers.FromDistribution
    message = message_of(RuntimeError, lambda: make({}))
    assert "FromDistribution runs on Keras's TensorFlow" in message, message
    message = message_of(ImportError, lambda: kx.distributions.AlphaStable)
    assert "keras-initx[stable]" in message, message
    return len(REFUSED) + 2


def message_of(kind, call):
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


def check_examples(room):
    """The examples of all public objects of a room."""
    finder = doctest.DocTestFinder(recurse=False)
    count = 0
    for name in room.__all__:
        if BACKEND != "tensorflow" and (
            name in USE_TENSORFLOW or room is kx.distributions
        ):
            continue
        thing = getattr(room, name)
        if isinstance(thing, types.ModuleType):
            continue
        module = sys.modules[thing.__module__]
        (test,) = finder.find(thing, name, module, vars(module))
        keras.utils.set_random_seed(1)
        printed = []
        failed, _ = doctest.DocTestRunner().run(test, out=printed.append)
        assert not failed, "".join(printed)
        count += 1
    return count


def check_initializers():
    rows = {
        name: row
        for name, row in initializer_rows.ROWS.items()
        if BACKEND == "tensorflow" or not name.startswith("drawn-")
    }
    for name, row in rows.items():
        weights = row.make(seed=5)((64, 4096))
        row.assert_drawn(weights, 64)
        fails = message_of_assertion(row, 1.05 * array(weights))
        assert fails, f"{name}: a scale that is wrong by 5% is not detected"
    for name in set(initializer_rows.BY_LAYER) & set(rows):
        axes = {"input_axes": [1], "output_axes": [0, 2]}
        weights = array(rows[name].make(seed=5, **axes)((16, 64, 64)))
        rows[name].assert_drawn(weights, 64)
    for name, row in {**rows, **initializer_rows.BUILT}.items():
        made = row.make(seed=5)
        check_calls(made, row.shape, name)
        check_layer(made, name)
    return len(rows) + len(initializer_rows.BUILT)


def message_of_assertion(row, weights):
    try:
        row.assert_drawn(weights, 64)
    except AssertionError as error:
        return str(error) or "assertion"
    return ""


def check_calls(made, shape, name):
    """Dtypes, purity, copies and compiled calls."""
    weights = array(made(shape))
    assert weights.shape == shape and np.isfinite(weights).all(), name
    assert weights.dtype == np.float32, name
    for dtype, digits in {"float16": 1e-3, "bfloat16": 8e-3}.items():
        low = made(shape, dtype=dtype)
        assert keras.backend.standardize_dtype(low.dtype) == dtype
        low = array(keras.ops.cast(low, "float32"))
        largest = LARGEST[dtype]
        np.testing.assert_allclose(
            low,
            np.clip(weights, -largest, largest),
            rtol=digits,
            # The smallest float16.
            atol=6e-8,
            err_msg=name,
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = keras.initializers.deserialize(
            keras.initializers.serialize(made)
        )
    np.testing.assert_array_equal(array(again(shape)), weights, name)
    if BACKEND == "jax":
        import jax

        # As Keras draws large weights under a distribution.
        compiled = jax.jit(lambda: made(shape))()
        np.testing.assert_allclose(
            array(compiled), weights, rtol=2e-4, atol=1e-6, err_msg=name
        )


def check_layer(made, name):
    if name.startswith("wave"):
        return
    layer = keras.layers.Dense(8, kernel_initializer=made)
    layer.build((None, 4))
    np.testing.assert_array_equal(array(layer.kernel), array(made((4, 8))))


def check_layers():
    for name, (make, expected) in layer_rows.ROWS.items():
        layer = make()
        output = array(layer(X))
        np.testing.assert_allclose(
            output, expected(X), rtol=1e-5, atol=1e-6, err_msg=name
        )
        assert layer.compute_output_shape((None, 4)) == (None, 4), name
        model = keras.Sequential(
            [keras.Input((4,)), make(), keras.layers.Dense(1)]
        )
        model.compile("sgd", "mse", jit_compile=False)
        model.fit(X, np.zeros((8, 1), "float32"), verbose=0)
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/model.keras"
            model.save(path)
            loaded = keras.models.load_model(path)
        np.testing.assert_allclose(
            array(loaded(X)), array(model(X)), rtol=1e-5, err_msg=name
        )
    return len(layer_rows.ROWS)


def sequence_model():
    x = inputs = keras.Input((6, 16))
    x = keras.layers.MultiHeadAttention(2, 8)(x, x)
    x = keras.layers.Add()([x, inputs])
    x = keras.layers.LSTM(8, return_sequences=True)(x)
    x = keras.layers.Conv1D(8, 3, activation="relu")(x)
    x = kx.layers.ShapedReLU(depth=16)(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def check_initialize():
    """The variance of each kernel is that of its fan-in."""
    model = sequence_model()
    for initializer in (
        *("he_normal", "lecun_uniform", "glorot_normal", "orthogonal"),
        *(kx.initializers.FractionalMoment(), kx.initializers.Dirac(0.5)),
    ):
        done = kx.initialize(model, initializer, seed=1)
        assert done.initialized and not done.skipped
        first = [array(w) for w in model.weights]
        kx.initialize(model, initializer, seed=1)
        for a, b in zip(first, model.weights, strict=True):
            np.testing.assert_array_equal(a, array(b))
    return 6


def check_assignment_is_undone():
    """Nothing is changed if a value cannot be assigned."""
    from keras_initx.inspection.assign import assign_all

    weights = [keras.Variable(np.ones(3, "float32")) for _ in range(2)]
    bad = np.ones((2, 2), "float32")
    message_of(
        ValueError,
        lambda: assign_all([(weights[0], 2 * weights[0]), (weights[1], bad)]),
    )
    for weight in weights:
        np.testing.assert_array_equal(array(weight), 1)
    return 1


def check_models():
    kx.models.ConstNet(7, 1)
    kx.models.LeakyNet(["dirac"] * 7, width_multiplier=1)
    x = np.linspace(-3, 2, 64)
    keras.utils.set_random_seed(2)
    fit = kx.models.fit_triangle_wave(
        x, np.exp(x), depth=4, epochs=40, batch_size=16, verbose=False
    )
    error = array(fit(x[:, None].astype("float32")))[:, 0] - np.exp(x)
    assert np.mean(error**2) < 0.1 * np.var(np.exp(x)), np.mean(error**2)
    return 3


def check_optimizers():
    """A wide network of copies trains in muP as its base does."""

    def build(width):
        hidden = keras.layers.Dense(width, "tanh")
        return keras.Sequential(
            [keras.Input((4,)), hidden, keras.layers.Dense(1)]
        )

    x, y = X, X[:, :1] ** 2
    makes = {
        "SGD": lambda: keras.optimizers.SGD(0.3, momentum=0.5),
        "AdamW": lambda: keras.optimizers.AdamW(0.1, epsilon=0.1),
    }
    for name, make in makes.items():
        base, wide = build(3), build(6)
        optimizer = kx.mup(wide, base).optimizer(make())
        for variable, other in zip(wide.weights, base.weights, strict=True):
            repeats = [
                a // b for a, b in zip(variable.shape, other.shape, strict=True)
            ]
            kernel = np.kron(array(other), np.ones(repeats))
            share = repeats[0] if len(repeats) == 2 else 1
            variable.assign(kernel / share)
        start = array(base(x))
        for model, each in ((base, make()), (wide, optimizer)):
            model.compile(each, "mse")
            for _ in range(3):
                model.train_on_batch(x, y)
        moved = array(base(x)) - start
        assert np.abs(moved).max() > 0.1
        np.testing.assert_allclose(
            array(wide(x)) - start, moved, rtol=1e-4, atol=1e-5, err_msg=name
        )

    class Own(keras.optimizers.SGD):
        pass

    with_multipliers = kx.optimizers.with_multipliers
    names = ("Adadelta", "Adagrad", "Adam", "Adamax", "Lion", "Nadam")
    for name in (*names, "RMSprop", "Ftrl", "Lamb", "Muon", "Adafactor"):
        cls = getattr(keras.optimizers, name)
        made = with_multipliers(cls(0.1), {"kernel": 0.5})
        made.build(build(3).trainable_variables)
        assert isinstance(made, cls)
        assert set(made.multipliers.values()) == {0.5, 1.0}
    message = message_of(
        ValueError, lambda: with_multipliers(Own(), {"kernel": 0.5})
    )
    assert "type Own" in message, message
    return len(makes) + len(names) + 5


def check_measure(path):
    """The profiles are those of TensorFlow, but for what is random."""
    theirs = np.load(path)
    ours = backend_models.profiles()
    assert set(theirs) == set(ours)
    for key, value in ours.items():
        if key.endswith("/notes"):
            np.testing.assert_array_equal(value, theirs[key], key)
            continue
        np.testing.assert_allclose(
            value, theirs[key], rtol=1e-5, atol=1e-6, err_msg=key
        )
    return len(backend_models.MODELS)


def check_predict(path):
    """The predictions are those of TensorFlow, to rounding."""
    theirs = np.load(path)
    ours = backend_models.predictions()
    assert set(theirs) == set(ours)
    for key, value in ours.items():
        if value.dtype.kind == "U":
            np.testing.assert_array_equal(value, theirs[key], key)
            continue
        np.testing.assert_allclose(
            value, theirs[key], rtol=1e-6, atol=1e-12, err_msg=key
        )
    return len({key.split("/")[0] for key in ours})


def check_columns(path, ours):
    """The numbers are those of TensorFlow, and so are the texts."""
    theirs = np.load(path)
    assert set(theirs) == set(ours)
    for key, value in ours.items():
        if value.dtype.kind == "U":
            np.testing.assert_array_equal(value, theirs[key], key)
            continue
        atol = 1e-5 * np.abs(value).max(initial=0)
        np.testing.assert_allclose(
            value, theirs[key], rtol=1e-5, atol=atol, err_msg=key
        )
    return len({key.split("/")[0] for key in ours})


def check_calibrate(path):
    return check_columns(path, backend_models.calibrations())


def check_jacobian(path):
    """Singular values, and a layer that does not depend on the input."""
    x = inputs = keras.Input((4,))
    stopped = keras.layers.Dense(3, name="stopped")(keras.ops.stop_gradient(x))
    model = keras.Model(inputs, [keras.layers.Dense(3)(x), stopped])
    message = message_of(ValueError, lambda: kx.measure_jacobian(model, X))
    assert "Received: layer 'stopped'" in message, message
    return check_columns(path, backend_models.jacobians())


def check_coordinates():
    """Sizes and changes are those of a training by hand."""

    def build(width):
        model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(width, "relu", name="first"),
                keras.layers.Dense(1, name="last"),
            ]
        )
        model.compile(keras.optimizers.Adam(0.1), "mse")
        return model

    def signals(model):
        first = X @ array(model.layers[0].kernel) + array(model.layers[0].bias)
        last = np.maximum(first, 0) @ array(model.layers[1].kernel)
        return first, last + array(model.layers[1].bias)

    data = X, X[:, :1] + 3.0
    keras.utils.set_random_seed(2)
    check = kx.coordinate_check(build, (3, 8), data, steps=2)
    assert check.layers == ("first", "last")
    keras.utils.set_random_seed(2)
    for i, width in enumerate((3, 8)):
        model = build(width)
        start = signals(model)
        for _ in range(2):
            model.train_on_batch(*data)
        for layer, (z0, z) in enumerate(
            zip(start, signals(model), strict=True)
        ):
            np.testing.assert_allclose(
                [check.size[i, -1, layer], check.change[i, -1, layer]],
                np.sqrt([np.mean(z**2), np.mean((z - z0) ** 2)]),
                rtol=1e-4,
            )
    return 2


def check_command():
    """The command prints what the functions return."""
    from keras_initx.cli import main

    def run(*words):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            code = main.main([*map(str, words)])
        return code, printed.getvalue()

    code, printed = run("list")
    assert code == 0
    for name in kx.__all__:
        assert not callable(getattr(kx, name)) or f"\nkx.{name} " in printed
    model = keras.Sequential([keras.Input((4,))])
    for _ in range(3):
        small = keras.initializers.RandomNormal(stddev=1e-4)
        model.add(keras.layers.Dense(4, "relu", kernel_initializer=small))
    with tempfile.TemporaryDirectory() as folder:
        data, file = f"{folder}/x.npy", f"{folder}/model.keras"
        np.save(data, X)
        model.save(file)
        if importlib.util.find_spec("matplotlib"):
            words = ("report", "--data", data, "--out", f"{folder}/out")
            code, printed = run(*words, "--model", file)
            assert code == 0
            assert str(kx.measure(model, X).table()) in printed
            code, printed = run(*words, "--depth", 3, "--width", 8)
            assert code == 0 and "3 dense layers, width 8" in printed
        code, printed = run("check", "--model", file, "--data", data)
        assert code == 1 and "kx.initialize(model" in printed, printed
    return 3


class Bent(keras.layers.Layer):
    """It is not linear in its kernel, although its rule says so."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 4), name="w")

    def call(self, x):
        return keras.ops.tanh(x @ self.w)


def check_calibration():
    """Moments are exact; what fails changes nothing."""
    for shape, axes in (
        *(((5000, 3), [0]), ((5000,), [0]), ((2, 3, 7), [0, 2])),
        ((2, 3, 5, 7), [0, 1]),
    ):
        values = 3 + np.random.default_rng(0).normal(size=shape)
        found = passes().mean_and_variance(
            keras.ops.convert_to_tensor(values.astype("float32")), axes
        )
        for moment, expected in zip(
            found,
            (values.mean(tuple(axes)), values.var(tuple(axes))),
            strict=True,
        ):
            np.testing.assert_allclose(array(moment), expected, rtol=1e-5)

    class Own(keras.Model):
        def __init__(self, second):
            super().__init__()
            self.first = keras.layers.Dense(4, dtype="mixed_float16")
            self.second = second

        def call(self, x):
            return self.second(self.first(x))

    # It is built here.
    model = Own(keras.layers.Dense(3))
    done = kx.calibrate(model, X, batch_size=4)
    assert not done.skipped
    total = kx.measure(model, X).total
    np.testing.assert_allclose(total, 1, rtol=1e-2)
    before = [array(weight) for weight in model.weights]
    message = message_of(ValueError, lambda: kx.calibrate(model, X + np.nan))
    assert "data must be finite" in message, message
    message = message_of(
        ValueError, lambda: kx.calibrate(model, np.float32(1e30) * X)
    )
    assert "must stay finite" in message, message
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(array(weight), value)

    @kx.inspection.register_layer(Bent)
    def bent(layer):
        geometry = kx.inspection.Geometry("kernel", (4, 4), (), (0,), (1,))
        units = kx.inspection.LinearUnits(layer.w, kernel_axes=(1,))
        return kx.inspection.LayerRule({"w": geometry}, units)

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), Bent()])
    before = [array(weight) for weight in model.weights]
    message = message_of(ValueError, lambda: kx.calibrate(model, X))
    assert "The rule of Bent says" in message, message
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(array(weight), value)
    return 4


def check_passed_on():
    """A backend knows which arguments a gradient arrives at."""
    ops = keras.ops
    functions = {
        ops.tanh: [True],
        ops.stop_gradient: [False],
        ops.floor: [BACKEND == "torch"],
        (lambda x: ops.cast(x > 0, "float32")): [False],
        (lambda x: ops.ones_like(x)): [False],
        (lambda x: x + ops.stop_gradient(ops.tanh(x) - x)): [True],
        (lambda x, y: x * ops.stop_gradient(y)): [True, False],
        (lambda x, y: ops.where(x > 0, y, 0.0)): [False, True],
    }
    for function, expected in functions.items():
        count = len(expected)
        assert float64.passed_on(function, count) == tuple(expected)
        points = np.linspace(-1, 1, 5)
        found = float64.at_float64(
            lambda *t, function=function: float64.gradients(function, t),
            *[points] * count,
        )
        for gradient, is_passed in zip(found, expected, strict=True):
            assert gradient.dtype == np.float64
            assert is_passed or not gradient.any()
    (second,) = float64.at_float64(
        lambda x: float64.gradients(
            lambda y: float64.gradients(lambda z: z**3, [y])[0], [x]
        ),
        points,
    )
    np.testing.assert_allclose(second, 6 * points, rtol=1e-15)
    return len(functions)


def check_recommend():
    """Findings by prediction and by measurement, each with its line."""
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((4,)), *(layers.Dense(128, "relu") for _ in range(16))]
    )
    ignored = ["sample fraction", "width", "inputs", "dead units"]
    (finding,) = kx.recommend(model, ignore=ignored)
    assert finding.rule == "scale"
    assert finding.call == 'kx.initialize(model, "he_normal", seed=0)'
    assert finding.predicted < 1e-2 and 0.1 < finding.after < 10
    message = message_of(
        AssertionError,
        lambda: kx.testing.assert_healthy(model, X, ignore=ignored),
    )
    assert finding.call in message, message
    return 2


def check_large_signals():
    """The moments of signals that are reduced a few rows at a time."""
    units, dead = 4096, 512
    random = np.random.default_rng(3)
    kernel = random.standard_normal((4, units)).astype("float32")
    kernel[:, :dead] = 0
    dense = keras.layers.Dense(units, "tanh", bias_initializer="ones")
    model = keras.Sequential([keras.Input((4,)), dense])
    dense.kernel.assign(kernel)
    meter = kx.Meter(model)
    # The few that are left, and none.
    counts = (35, 36)
    for count in counts:
        x = random.standard_normal((count, 4)).astype("float32")
        y = x.astype(float) @ kernel + 1
        profile = meter(x, batch_size=count)
        expected = {
            "sample_variance": y.var(axis=0).mean(),
            "squared_mean": (y.mean(axis=0) ** 2).mean(),
            "dead_fraction": dead / units,
            "saturated_fraction": (abs(np.tanh(y)) > 0.97).mean(),
        }
        for column, value in expected.items():
            np.testing.assert_allclose(
                getattr(profile, column), value, rtol=1e-5, err_msg=column
            )
    return len(counts)


def check_meter():
    """A `Meter` reads weights anew, compiles once and writes nothing."""
    traced = []

    class Counted(keras.layers.Dense):
        def call(self, x):
            traced.append(x.shape)
            return super().call(x)

    model = keras.Sequential(
        [
            *(keras.Input((4,)), Counted(8), keras.layers.Dropout(0.5)),
            *(keras.layers.BatchNormalization(), keras.layers.Dense(2)),
        ]
    )
    meter = kx.Meter(model, training=True)
    before = [array(variable) for variable in model.variables]
    traced.clear()
    first = meter(X)
    count = len(traced)
    second = meter(X)
    # PyTorch runs the layers themselves each time.
    count += (BACKEND == "torch") * 1
    assert len(traced) == count, traced
    np.testing.assert_array_equal(first.total, second.total)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(array(variable), value)
    kernel = model.layers[0].kernel
    kernel.assign(2 * kernel)
    third = meter(X)
    assert len(traced) == count + (BACKEND == "torch")
    np.testing.assert_allclose(third.total[0], 4 * first.total[0], rtol=1e-5)
    # What has a step and an epoch of its own is no constant of the pass.
    if BACKEND == "torch":
        # A layer without a seed draws from PyTorch's own generator.
        import torch

        torch.manual_seed(8)
        state = torch.get_rng_state()
    else:
        seed = next(v for v in model.variables if "seed" in v.path)
        seed.assign(seed + 1)
    assert meter(X).total[1] != third.total[1]
    if BACKEND == "torch":
        assert torch.equal(torch.get_rng_state(), state)
        # A run that begins again, since samples are elsewhere, draws the same.
        once = meter(X).total
        answers = iter([[model.layers[0].name]])
        with mock.patch.object(
            _CompiledForward, "not_by_sample", lambda *_: next(answers, [])
        ):
            np.testing.assert_array_equal(meter(X).total, once)
        assert next(answers, None) is None
    loop = RunsInALoop()
    loop(X)
    if BACKEND == "torch":
        name = loop.dense.name
        assert [*kx.measure(loop, X).layers] == [name, f"{name}:2"]
    else:
        message = message_of(RuntimeError, lambda: kx.measure(loop, X))
        assert "not inside a loop" in message, message
    message = message_of(ValueError, lambda: kx.measure(model, X + np.nan))
    assert "data must be finite" in message, message
    kernel.assign(np.inf + kernel)
    message = message_of(ValueError, lambda: kx.measure(model, X))
    assert "at layer 'counted'" in message, message
    message = message_of(ValueError, lambda: kx.measure(model, [["a"]] * 2))
    assert "data must be an array" in message, message
    message = message_of(
        ValueError, lambda: kx.measure(model, np.array([["a"], ["b"]]))
    )
    assert BACKEND == "tensorflow" or "tensors of text" in message, message
    return 1


def check_table():
    """A larger integer than an embedding has rows is refused."""
    layers = [keras.layers.Embedding(5, 4), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((3,), dtype="int32"), *layers])
    data = np.array([[0, 1, 2], [3, 4, 5]])
    message = message_of(ValueError, lambda: kx.measure(model, data))
    if BACKEND == "jax":
        assert f"NaN or inf at layer {layers[0].name!r}" in message, message
    else:
        assert "indices of the table" in message, message
    return 1


class RunsInALoop(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(4)

    def call(self, x):
        if not self.dense.built:
            self.dense.build(x.shape)
        return keras.ops.scan(
            lambda carry, _: (self.dense(carry), keras.ops.zeros(())),
            x,
            keras.ops.zeros((2,)),
        )[0]


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, i):
        return X[4 * i : 4 * i + 4], np.zeros(4)


def check_data():
    """Kinds of data with the same profile."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    expected = kx.measure(model, X)
    others = {
        "tensor": keras.ops.convert_to_tensor(X),
        "float64": X.astype("float64"),
        "PyDataset": Batches(),
        "dict": {model.inputs[0].name: X},
    }
    if importlib.util.find_spec("torch"):
        import torch

        others["DataLoader"] = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(torch.tensor(X), torch.zeros(8)), 4
        )
    for name, data in others.items():
        np.testing.assert_allclose(
            kx.measure(model, data).total,
            expected.total,
            rtol=1e-5,
            err_msg=name,
        )
    return len(others)


def check_torch():
    """What the functions of PyTorch cannot tell, and what it writes."""
    if BACKEND != "torch":
        return 0
    import torch

    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

    def through_numpy(x):
        return keras.ops.convert_to_tensor(2 * array(x))

    def in_a_thread(x):
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: 2 * x).result()

    def in_place(x):
        y = torch.zeros_like(x)
        y[:] = x
        return y.mul_(2)

    def doubled(function):
        x = inputs = keras.Input((4,))
        x = keras.layers.Dense(4, "relu", kernel_initializer="identity")(x)
        x = keras.layers.Lambda(
            function, output_shape=lambda shape: tuple(shape)
        )(x)
        x = keras.layers.Dense(4, kernel_initializer="identity")(x)
        return keras.Model(inputs, keras.layers.ReLU()(x))

    expected = kx.measure(doubled(lambda x: 2 * x), X)
    assert expected.sample_variance[1] > 0.1
    functions = (Own.apply, through_numpy, in_a_thread, in_place)
    for function in functions:
        profile = kx.measure(doubled(function), X)
        for column in backend_models.COLUMNS:
            np.testing.assert_allclose(
                getattr(profile, column), getattr(expected, column), rtol=1e-6
            )
        assert profile.notes == expected.notes, profile.notes
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    model = keras.Sequential(
        [
            *(
                keras.Input((4,)),
                keras.layers.TorchModuleWrapper(module, output_shape=(None, 4)),
            ),
            keras.layers.Dense(2),
        ]
    )
    before = [buffer.clone() for buffer in module.buffers()]
    kx.measure(model, X, training=True)
    kx.calibrate(model, X, training=True)
    for buffer, value in zip(module.buffers(), before, strict=True):
        assert torch.equal(buffer, value)
    assert all(weight.value.grad is None for weight in model.weights)
    return len(functions) + 1


def trained(distribution=None):
    """The logs of callbacks in a fit, and the profile at the end."""
    if distribution is not None:
        keras.distribution.set_distribution(distribution)
    try:
        keras.utils.set_random_seed(4)
        model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(6, "tanh"),
                keras.layers.Dense(6, "tanh"),
            ]
        )
        model.compile("sgd", "mse")
        decay = kx.callbacks.SampleVarianceDecay(
            X, update_freq=1, per_layer=True, verbose=0
        )
        symmetry = kx.callbacks.FeatureSymmetry(update_freq=1, verbose=0)
        model.fit(
            *(X, np.ones((8, 6), "float32")),
            **{"batch_size": 4, "epochs": 2, "verbose": 0, "shuffle": False},
            callbacks=[decay, symmetry],
        )
        last = kx.measure(model, X)
        np.testing.assert_allclose(
            decay.profiles[-1].total, last.total, rtol=1e-6
        )
        assert len({p.total[0] for p in decay.profiles}) == 5
        assert decay.measured_at == symmetry.measured_at
        return np.array(
            [
                np.array([profile.total for profile in decay.profiles]),
                symmetry.spread * np.ones((1, 2)),
            ]
        )
    finally:
        if distribution is not None:
            keras.distribution.set_distribution(None)


def check_callbacks():
    """Callbacks read the weights of each step, on one device or several."""
    one = trained()
    if BACKEND != "jax":
        return 1
    devices = keras.distribution.list_devices()
    assert len(devices) == DEVICES
    for count in (2, DEVICES):
        several = trained(
            keras.distribution.DataParallel(devices=devices[:count])
        )
        np.testing.assert_allclose(several, one, rtol=1e-5, atol=1e-6)
    return 3


def check_job():
    """The job script trains on several devices as on one."""
    if BACKEND != "jax":
        return 0
    folder = Path(__file__).parents[2] / "examples"
    spec = importlib.util.spec_from_file_location(
        "train_tpu", folder / "train_tpu.py"
    )
    job = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(job)
    random = np.random.default_rng(1)
    images = random.normal(size=(48, 4, 4, 1)).astype("float32")
    labels = random.integers(0, 3, 48).astype("int32")
    job.in_memory = lambda name: ((images, labels), (images[:16], labels[:16]))
    devices = keras.distribution.list_devices()
    options = (
        *("--strategy", "jax", "--epochs", "1", "--batch-size", "16"),
        *("--depth", "2", "--width", "4"),
    )
    weights = []
    for used in (devices[:1], devices):
        with (
            mock.patch.object(
                keras.distribution, "list_devices", lambda used=used: used
            ),
            contextlib.redirect_stdout(io.StringIO()) as printed,
        ):
            model = job.main(options)
        keras.distribution.set_distribution(None)
        assert f"{len(used)} devices" in printed.getvalue()
        assert "sample_variance_decay" in printed.getvalue()
        weights.append([array(weight) for weight in model.weights])
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    return len(weights)


def check_gpu_script():
    """`make gpu-check`, which compares the CPU with itself here."""
    if BACKEND == "tensorflow":
        return 0
    from tests.scripts import check_gpu

    folder = str(Path(__file__).parents[2] / "benchmarks")
    with (
        mock.patch.object(sys, "path", [folder, *sys.path]),
        contextlib.redirect_stdout(io.StringIO()) as printed,
    ):
        assert not check_gpu.check("cpu", tiny=True), printed.getvalue()
        # Each run returns another number.
        count = iter((1.0, 1.01, 1.0, np.nan))
        differ = ("differ", lambda: {"number": next(count)}, check_gpu.TRAINED)
        fails = ("fails", lambda: {"number": next(count)}, check_gpu.NUMBERS)
        with (
            mock.patch.object(check_gpu, "nets", lambda tiny: ()),
            mock.patch.object(
                check_gpu, "comparisons", lambda tiny: (differ, fails)
            ),
        ):
            assert check_gpu.check("cpu") == 2
    assert "| differ | 1 | 9.1 | FAILED |" in printed.getvalue()
    return 2


def save(path):
    keras.utils.set_random_seed(3)
    model = sequence_model()
    kx.initialize(model, kx.initializers.AlphaStable(1.8), seed=1)
    model.save(path)
    x = np.random.default_rng(0).standard_normal((5, 6, 16), np.float32)
    np.savez(Path(path).with_suffix(".npz"), x=x, y=array(model(x)))


def load(path):
    """A file of another backend gives the same outputs."""
    model = keras.models.load_model(path)
    arrays = np.load(Path(path).with_suffix(".npz"))
    np.testing.assert_allclose(
        array(model(arrays["x"])), arrays["y"], rtol=1e-4, atol=1e-5
    )
    return 1


def main(options):
    rooms = {
        name: getattr(kx, name)
        for name in kx.__all__
        if isinstance(getattr(kx, name), types.ModuleType)
        and name not in REFUSED
    }
    checks = {
        "public names": check_names,
        "refused with a sentence": check_refusals,
        **{
            f"examples of `{name}`": lambda room=room: check_examples(room)
            for name, room in {"keras_initx": kx, **rooms}.items()
        },
        "`initializers`": check_initializers,
        "`layers`": check_layers,
        "`models`": check_models,
        "`initialize`": check_initialize,
        "`mup`, `with_multipliers`": check_optimizers,
        "all or no weights assigned": check_assignment_is_undone,
    }
    if not MEASURED & set(REFUSED):
        checks |= {
            "`Meter`": check_meter,
            "large signals": check_large_signals,
            "data of all kinds": check_data,
            "tables of embeddings": check_table,
            "functions and modules of PyTorch": check_torch,
            "`callbacks` in a fit": check_callbacks,
            "examples/train_tpu.py": check_job,
            "`calibrate`": check_calibration,
            "`make gpu-check`": check_gpu_script,
            "`coordinate_check`": check_coordinates,
            "the command `keras-initx`": check_command,
            "gradients of `predict`": check_passed_on,
            "`recommend`": check_recommend,
        }
        if options.profiles:
            checks["`measure`, as on TensorFlow"] = lambda: check_measure(
                options.profiles
            )
        if options.calibrations:
            checks["`calibrate`, as on TensorFlow"] = lambda: check_calibrate(
                options.calibrations
            )
        if options.jacobians:
            checks["`measure_jacobian`, as on TensorFlow"] = lambda: (
                check_jacobian(options.jacobians)
            )
        if options.predictions:
            checks["`predict`, as on TensorFlow"] = lambda: check_predict(
                options.predictions
            )
    if options.load:
        checks["a model saved by another backend"] = lambda: load(options.load)
    for name, check in checks.items():
        print(f"| {name} | {check()} |", flush=True)
    if options.save:
        save(options.save)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--load")
    parser.add_argument("--save")
    parser.add_argument("--profiles")
    parser.add_argument("--predictions")
    parser.add_argument("--calibrations")
    parser.add_argument("--jacobians")
    main(parser.parse_args())
