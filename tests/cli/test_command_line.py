"""Tests of the command line: its files, its output and its errors."""

import contextlib
import csv
import inspect
import io
import os
import re
import subprocess
import sys
import types
import warnings

import keras
import numpy as np
import pytest

import keras_initx as kx
from keras_initx import _startup
from keras_initx._startup import arguments
from keras_initx._startup.errors import one_line
from keras_initx.cli import plain_network, report
from keras_initx.cli.main import main

SMALL = ["--depth", "4", "--width", "16"]


def run(capsys, *words):
    """Returns exit code, standard output and standard error of a command."""
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def conv_model(path):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, activation="relu", name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(3, name="head"),
        ]
    )
    model.save(path)
    return model


@pytest.mark.slow
def test_report_of_the_plain_network_on_the_digits(tmp_path, capsys):
    code, out, err = run(capsys, "report", *SMALL, "--out", tmp_path / "a/b")
    assert (code, err) == (0, "")
    assert {p.name for p in (tmp_path / "a/b").iterdir()} == {
        "profile.json",
        "profile.csv",
        "profile.png",
    }
    profile = kx.VarianceProfile.load(tmp_path / "a/b/profile.json")
    keras.utils.set_random_seed(0)
    digits = report.digits()
    assert digits.shape == (1797, 64)
    np.testing.assert_allclose([digits.mean(), digits.var()], [0, 1], atol=1e-5)
    model = plain_network.plain_network(64, 4, 16, "relu", None)
    assert profile == kx.measure(model, digits)
    expected = kx.theory.sample_variance_decay(
        4, initial_correlation=1 - profile.sample_fraction[0]
    )
    for line in profile.table(expected).splitlines():
        assert line in out
    with (tmp_path / "a/b/profile.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == list(profile.layers)
    for column, values in {
        "units": profile.units,
        "sample_variance": profile.sample_variance,
        "squared_mean": profile.squared_mean,
        "total": profile.total,
        "sample_fraction": profile.sample_fraction,
        "decay": profile.decay,
        "expected": expected.sample_fraction,
    }.items():
        assert [float(row[column]) for row in rows] == list(values)
    assert str(profile.verdict) in out
    png = (tmp_path / "a/b/profile.png").read_bytes()
    assert png.startswith(b"\x89PNG") and len(png) > 5000


def test_activations_of_the_plain_network():
    assert set(plain_network.SCALE_FREE) == {"linear", "relu", "leaky_relu"}
    both = {
        name
        for name in kx.theory.mean_field.activations.DETERMINISTIC
        if hasattr(keras.activations, name)
    }
    # Theory has no map of the correlation for a function that jumps.
    assert both - set(arguments.ACTIVATIONS) == {"hard_shrink"}
    assert len(set(arguments.ACTIVATIONS)) == len(arguments.ACTIVATIONS)
    assert set(arguments.ACTIVATIONS) <= both


@pytest.mark.parametrize(
    "activation", ["relu", "leaky_relu", "tanh", "gelu", "mish", "hard_tanh"]
)
def test_plain_network_keeps_the_variance_as_in_theory(activation):
    model = plain_network.plain_network(64, 3, 1000, activation, None)
    x = np.random.default_rng(1).normal(size=(500, 64))
    total = kx.measure(model, x).total
    # The mean square of 1000 units varies by 5% between seeds. A scale of
    # 1 instead of the critical one changes it by a factor of 1.4 or more.
    np.testing.assert_allclose(total, 1, rtol=0.3, err_msg=activation)
    kernels = [layer.kernel.numpy() for layer in model.layers[1:]]
    assert not np.array_equal(*kernels)


@pytest.fixture
def written(monkeypatch):
    """Returns the profiles that reports write, which takes time, in a list."""
    profiles = []

    def write(folder, profile, *others):
        profiles.append(profile)
        return []

    monkeypatch.setattr(report, "write_files", write)
    return profiles


@pytest.mark.slow
def test_the_same_seed_gives_the_same_report(written, tmp_path, capsys):
    for seed in (5, 5, 6):
        run(capsys, "report", *SMALL, "--seed", seed, "--out", tmp_path)
    assert written[0] == written[1] != written[2]


@pytest.mark.slow
def test_report_of_a_saved_model_on_digits_and_files(tmp_path, capsys):
    path = tmp_path / "model.keras"
    model = conv_model(path)
    images = report.digits().reshape(-1, 8, 8, 1)
    np.save(tmp_path / "x.npy", images[:50])
    np.savez(tmp_path / "x.npz", images[:50])
    for data, samples in (
        ("digits", images),
        (tmp_path / "x.npy", images[:50]),
        (tmp_path / "x.npz", images[:50]),
    ):
        words = ["--model", path, "--data", data, "--out", tmp_path]
        code, out, err = run(capsys, "report", *words)
        assert (code, err) == (0, "")
        assert "expected" not in out and "theory" not in out
        profile = kx.VarianceProfile.load(tmp_path / "profile.json")
        assert profile == kx.measure(model, samples)
        assert profile.layers == ("conv", "head")


@pytest.mark.slow
def test_arrays_by_name_for_a_model_of_several_inputs(tmp_path, capsys):
    inputs = {name: keras.Input((2,), name=name) for name in ("a", "b")}
    joined = keras.layers.Concatenate()(list(inputs.values()))
    model = keras.Model(inputs, keras.layers.Dense(3)(joined))
    model.save(tmp_path / "model.keras")
    rng = np.random.default_rng(0)
    data = {name: rng.normal(size=(20, 2)) for name in inputs}
    np.savez(tmp_path / "x.npz", **data)
    words = ["--model", tmp_path / "model.keras", "--data", tmp_path / "x.npz"]
    code, _, err = run(capsys, "report", *words, "--out", tmp_path)
    assert (code, err) == (0, "")
    profile = kx.VarianceProfile.load(tmp_path / "profile.json")
    assert profile == kx.measure(model, data)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "theory"),
    [
        ([], True),
        (["--initializer", "glorot_uniform"], True),
        (["--initializer", "orthogonal"], True),
        (["--initializer", "FractionalMoment"], True),
        (["--initializer", "kx.initializers.FractionalMoment"], True),
        (["--initializer", "keras_initx>FractionalMoment"], True),
        (["--initializer", "identity"], False),
        (["--activation", "tanh"], True),
        (["--activation", "tanh", "--initializer", "he_normal"], False),
        (["--activation", "leaky_relu", "--initializer", "he_normal"], True),
        (["--activation", "gelu", "--depth", "31"], False),
        (["--activation", "gelu", "--initializer", "he_normal"], False),
    ],
)
def test_report_shows_theory_where_it_holds(
    words, theory, written, tmp_path, capsys
):
    words = [*SMALL, *words, "--out", tmp_path]
    code, out, err = run(capsys, "report", *words)
    assert (code, err) == (0, "")
    assert ("expected" in out) == theory
    assert ("No theory is shown: " in out) != theory
    unstable = "gelu" in words and "--initializer" not in words
    assert ("by a factor of 1.144 in each layer" in out) == unstable


@pytest.mark.parametrize(
    ("activation", "initializer", "total", "reason"),
    [
        ("gelu", None, [1, 1.9, 0.6], None),
        ("gelu", None, [1, 1.9, 331], "which here is 331 at c"),
        ("gelu", None, [1, 0.49, 1.9], "which here is 0.49 at b"),
        ("silu", None, [1, 1, 0], "which here is 0 at c"),
        ("tanh", None, [9, 1, 1], "here starts at 9; scale the data"),
        ("tanh", "he_normal", [1, 1, 1], "he_normal has not"),
        ("relu", None, [9, 331, 0.001], None),
        ("relu", "random_normal", [1, 0.1, 0.01], None),
        ("relu", None, [0, 0, 0], "the signal is zero from a on"),
        ("relu", "zeros", [0, 0, 0], "zeros is not known to"),
        ("relu", "FractionalMoment", [1, 2, 3], None),
    ],
)
def test_reason_why_there_is_no_theory(activation, initializer, total, reason):
    half = np.divide(total, 2)
    profile = kx.VarianceProfile(["a", "b", "c"], half, half, [4, 4, 4])
    found = plain_network.why_no_theory(profile, activation, initializer)
    assert found is None if reason is None else reason in found


def test_report_notes_that_a_network_is_narrow(written, tmp_path, capsys):
    out = run(capsys, "report", *SMALL, "--out", tmp_path)[1]
    assert "A width of 16 is small for 4 layers" in out
    wide = ["--depth", "2", "--width", "100"]
    out = run(capsys, "report", *wide, "--out", tmp_path)[1]
    assert "A width of" not in out


@pytest.mark.slow
def test_report_of_a_network_without_a_signal_prints_no_nan(tmp_path, capsys):
    zeros = ["--initializer", "zeros"]
    out = run(capsys, "report", *SMALL, *zeros, "--out", tmp_path)[1]
    assert "The signal vanishes: in every layer it is zero, or too" in out
    # Weights with variance 0.0025 divide the mean square by 50 in each layer.
    small = ["--initializer", "random_normal", "--depth", "41"]
    out = run(capsys, "report", *SMALL, *small, "--out", tmp_path)[1]
    assert "on it is zero, or too small" in out
    assert "nan%" not in out


@pytest.mark.slow
def test_report_takes_an_initializer_by_its_registered_name(tmp_path, capsys):
    @keras.saving.register_keras_serializable("keras_initx")
    class Half(keras.initializers.Initializer):
        def __call__(self, shape, dtype=None):
            return keras.ops.full(shape, 0.5, dtype)

        def get_config(self):
            return {}

    for name in ("keras_initx>Half", "Half"):
        words = ["--initializer", name, "--out", tmp_path]
        code, out, err = run(capsys, "report", *SMALL, *words)
        assert (code, err) == (0, "")
        assert f"{name} is not known to draw" in out
        profile = kx.VarianceProfile.load(tmp_path / "profile.json")
        mean = report.digits().sum(axis=1).mean() * 0.5
        assert profile.squared_mean[0] == pytest.approx(mean**2, rel=1e-4)


# Keras's conversion of tensors to NumPy, which Python hides by default.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
def test_check_exits_by_what_it_finds(tmp_path, capsys):
    layers = [keras.layers.Dense(8, "relu") for _ in range(15)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    kx.initialize(model, "glorot_normal", seed=0)
    path = tmp_path / "model.keras"
    model.save(path)
    code, out, err = run(capsys, "check", "--model", path)
    assert (code, err) == (1, "")
    assert out.startswith(f"{path}\n\n1. ")
    findings = kx.recommend(model)
    assert str(findings) in out
    for finding in findings:
        exec(finding.call, {"model": model, "kx": kx})
    model.save(path)
    code, out, err = run(capsys, "check", "--model", path)
    assert (code, err) == (0, "")
    assert "Nothing was found." in out
    data = tmp_path / "data.npy"
    np.save(data, 200 + np.arange(64.0).reshape(16, 2, 2))
    code, out, err = run(capsys, "check", "--model", path, "--data", data)
    assert (code, err) == (1, "")
    assert f"{path}, on {data}" in out and "1. inputs" in out
    assert "was reshaped to (16, 4)" in out
    np.save(data, np.zeros((16, 3)))
    code, out, err = run(capsys, "check", "--model", path, "--data", data)
    assert code == 2 and out == ""
    assert err.startswith("keras-initx: error: data must have the shape")


def custom_loss(y, z):
    return keras.ops.mean(z - y)


# The last loss cannot be loaded, and the optimizer with it.
@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
def test_check_refuses_a_model_that_was_saved_after_training(tmp_path, capsys):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    x = np.ones((4, 4))
    for name, loss, exits in (
        ("trained", "mse", 2),
        ("custom", custom_loss, 0),
    ):
        path = tmp_path / f"{name}.keras"
        model.compile("sgd", loss, run_eagerly=True)
        model.train_on_batch(x, np.zeros((4, 2)))
        model.save(path)
        code, out, err = run(capsys, "check", "--model", path)
        assert code == exits, err
        if code:
            assert "after 1 steps" in err
        else:
            assert "If the model has been trained" in out


def test_list_shows_all_that_is_public_with_its_paper(capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0
    lines = out.splitlines()
    listed = [line.split()[0] for line in lines if line.split()]
    modules = "initializers layers constraints models callbacks theory"
    for module in ["", *modules.split(), "distribute", "testing"]:
        holder = getattr(kx, module) if module else kx
        for name in holder.__all__:
            if not isinstance(getattr(holder, name), types.ModuleType):
                assert ".".join(filter(None, ["kx", module, name])) in listed
    for name, paper in (
        ("kx.callbacks.FeatureSymmetry", "arXiv:"),
        ("kx.initializers.FractionalMoment", "2021"),
        ("kx.theory.critical_scale", "arXiv:1502.01852"),
        ("kx.calibrate", "20"),
        ("kx.models.ConstNet", "20"),
    ):
        # The names that --initializer takes stand above.
        row = max(
            i
            for i, line in enumerate(lines)
            if f"{line} ".startswith(f"{name} ")
        )
        assert paper in lines[row + 1]
    quoted = re.findall(r'"(keras_initx>\w+)"', out)
    assert quoted
    for name in quoted:
        keras.initializers.get(name)


def test_list_says_what_the_option_initializer_takes(capsys):
    out = run(capsys, "list")[1]
    assert out.startswith("report --initializer takes one of the following")
    names = [
        line.split()[0]
        for line in out.partition("\nkeras_initx\n")[0].splitlines()[4:]
        if line
    ]
    assert {"he_normal", "orthogonal"} <= {*names}
    assert "kx.initializers.FractionalMoment" in names
    assert "kx.initializers.AlphaStable" not in names
    for name in names:
        assert plain_network.named_initializer(name)((2, 2)).shape == (2, 2)


def test_list_shows_summary_and_paper_of_each_public_member(
    monkeypatch, capsys
):
    module = types.SimpleNamespace(
        __name__="keras_initx.layers",
        __all__=["Branch", "Own", "undocumented", "CONSTANT"],
        Branch=type("Branch", (), {"__doc__": BRANCH_DOCSTRING}),
        Own=type("Own", (), {"__doc__": "Ours.\n\nReference: derived here."}),
        undocumented=lambda: None,
        CONSTANT=3,
    )
    monkeypatch.setattr(kx, "layers", module)
    code, out, _ = run(capsys, "list")
    assert code == 0
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    start = lines.index(["keras_initx.layers"])
    assert lines[start + 2] == ["kx.layers.Branch", "A branch."]
    assert lines[start + 3] == ["Some", "One, A Journal (2001), on two lines."]
    assert lines[start + 4] == ["kx.layers.Own", "Ours."]
    assert lines[start + 5] == ["kx.layers.undocumented"]
    assert not any("CONSTANT" in line for line in lines)


BRANCH_DOCSTRING = """A branch.

    Reference: Some One, A Journal (2001),
    on two lines.

    More.
    """


@keras.saving.register_keras_serializable("tests_of_commands")
class Unknown(keras.layers.Layer):
    def call(self, x):
        return x


def save_as_both(model, path):
    model.save(f"{path}.keras")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        model.save(f"{path}.h5")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Returns a folder with models, data files and paths that are refused."""
    folder = tmp_path_factory.mktemp("files")
    conv_model(folder / "conv.keras")
    layers = [keras.Input((64,)), keras.layers.Lambda(lambda x: x + 1)]
    save_as_both(keras.Sequential(layers), folder / "lambda")
    weights = keras.Sequential([layers[0], keras.layers.Dense(2)])
    weights.save_weights(folder / "only.weights.h5")
    layers = [keras.Input((64,)), Unknown()]
    layers += [keras.layers.Dense(4) for _ in range(20)]
    save_as_both(keras.Sequential(layers), folder / "unknown")
    del keras.saving.get_custom_objects()["tests_of_commands>Unknown"]
    rows = [keras.Input((3,), dtype="int32"), keras.layers.Embedding(10, 2)]
    keras.Sequential(rows).save(folder / "embedding.keras")
    joined = [keras.Input((2,), name=name) for name in ("a", "b")]
    head = keras.layers.Dense(1)(keras.layers.Concatenate()(joined))
    keras.Model(joined, head).save(folder / "joined.keras")
    (folder / "text.keras").write_text("text")
    (folder / "text.h5").write_text("text")
    (folder / "half.h5").write_bytes(arguments._HDF5_SIGNATURE + b"half")
    for name, text in {
        "words": "1,2\n3,b\n",
        "gap": "1,2\n3,\n",
        "ragged": "1,2\n3,4,5\n",
        "semicolons": "a;b\n1;2\n3;4\n",
        "empty": "\n",
        "header": "a,b\n",
    }.items():
        (folder / f"{name}.csv").write_text(text)
    whole = (folder / "conv.keras").read_bytes()
    (folder / "half.keras").write_bytes(whole[: len(whole) // 2])
    (folder / "text.npy").write_text("text")
    (folder / "text.npz").write_text("text")
    (folder / "empty.npy").write_bytes(b"")
    np.save(folder / "objects.npy", np.array([{}, None]), allow_pickle=True)
    np.save(folder / "names.npy", np.array(["a", "b"]))
    np.save(folder / "one.npy", np.ones((1, 64)))
    np.save(folder / "none.npy", np.ones((0, 64)))
    np.save(folder / "flat.npy", np.ones(9))
    np.save(folder / "nan.npy", np.full((4, 64), np.nan))
    np.save(folder / "wide.npy", np.ones((4, 65)))
    np.savez(folder / "two.npz", a=np.ones((4, 2)), b=np.ones((4, 2)))
    whole = (folder / "two.npz").read_bytes()
    (folder / "half.npz").write_bytes(whole[: len(whole) // 2])
    np.savez(folder / "nothing.npz")
    np.save(folder / "complex.npy", np.ones((4, 64)) * 1j)
    np.save(folder / "dates.npy", np.zeros((4, 64), "datetime64[D]"))
    np.save(folder / "number.npy", np.float64(3))
    np.save(folder / "huge.npy", np.full((4, 64), 1e300))
    np.save(folder / "hollow.npy", np.ones((4, 0)))
    np.save(folder / "ids.npy", np.full((4, 3), 10))
    np.save(folder / "channels_first.npy", np.ones((4, 8, 1, 4)))
    np.save(folder / "text64.npy", np.full((4, 64), "text"))
    (folder / "taken").write_text("a file")
    (folder / "room" / "profile.png").mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("measure", "invalid choice: 'measure'. It is report, check or list."),
        ("reprot", "invalid choice: 'reprot'. Did you mean 'report'?"),
        ("report --depht 3", "arguments: --depht 3. Did you mean '--depth'"),
        ("check", "the following arguments are required: --model"),
        ("check --model x.keras", "which is not a file"),
        ("check --model x.keras --depth 3", "unrecognized arguments: --depth"),
        ("report --horses=3", "unrecognized arguments: --horses=3. (see"),
        ("report --depth 0", "--depth: expected an int from 1 to 10000"),
        ("report --depth 1.5", "Received: 1.5"),
        ("report --width -3", "--width: expected an int from 1"),
        ("report --width 99999999", "to 65536"),
        ("report --depth 100 --width 65536", "may have 536,870,912 weights"),
        ("report --seed x", "--seed"),
        (
            "report --seed 99999999999999999999",
            "--seed: expected an int from 0",
        ),
        (
            "report --activation relo",
            "--activation: invalid choice: 'relo'. Did you mean 'relu'",
        ),
        ("report --activation x", "invalid choice: 'x'. It is linear, relu, "),
        ("report --activation", "expected one argument"),
        (
            "report --initializer he_norml",
            "initializer=he_norml. Did you mean 'he_normal'",
        ),
        (
            "report --initializer fractionalMoment",
            "Did you mean 'FractionalMoment'",
        ),
        ("report --initializer constant", "without further arguments"),
        ("report --initializer STFT", "without further arguments"),
        ("report --initializer AlphaStable", "argument: 'stability')"),
        ("report --initializer keras_initx>Nobody", "=keras_initx>Nobody"),
        ("report --model @nowhere.keras", "which is not a file"),
        ("report --model @cnov.keras", "file. Did you mean 'conv.keras'"),
        ("report --model @nowhere.h5", "which is not a file"),
        ("report --model @text.h5", "which is not an HDF5 file"),
        ("report --model @half.h5", "loads without stored code"),
        ("report --model @lambda.h5", "write the layer as a class"),
        ("check --model @only.weights.h5", "and not its weights alone"),
        ("report --model @unknown.h5", "custom classes. Received: model="),
        ("report --model @", "which has another suffix"),
        ("report --model @taken", "which has another suffix"),
        ("report --model @text.keras", "is not a complete zip archive"),
        ("report --model @half.keras", "is not a complete zip archive"),
        ("report --model @lambda.keras", "write the layer as a class"),
        ("report --model @unknown.keras", "(Could not locate class 'Unknown'"),
        ("report --import no_such.module", "where 'no_such' is not found"),
        ("report --import @taken", "must be the name of a Python module"),
        ("report --import keras.no_such", "No module named 'keras.no_such'"),
        (
            "report --model @conv.keras --depth 3",
            "--depth is an option of the plain",
        ),
        ("report --model @conv.keras --data @wide.npy", r"(4, 65)"),
        ("report --model @conv.keras --data @channels_first.npy", "(4, 8, 1"),
        ("report --model @conv.keras --data @text64.npy", "data of text"),
        ("report --model @conv.keras --data @two.npz", "Expected: input_"),
        ("report --model @joined.keras", "an array for each input"),
        ("report --model @embedding.keras", "data=digits of shape (1797, 64)"),
        (
            "report --model @embedding.keras --data @ids.npy",
            "from 0 to 9. Received: 10 in data",
        ),
        ("report --data @nowhere.npy", "must be a file"),
        ("report --data @wite.npy", "Did you mean 'wide.npy'"),
        ("report --data @", '"digits" or a .npy, .npz or .csv file'),
        ("report --data @taken", '"digits" or a .npy, .npz or .csv file'),
        ("report --data @words.csv", "could not convert string 'b' to float"),
        ("report --data @gap.csv", "could not convert string '' to float"),
        ("report --data @ragged.csv", "number of columns changed from 2 to 3"),
        ("report --data @semicolons.csv", "must be rows of numbers"),
        ("report --data @empty.csv", "must be rows of numbers"),
        ("report --data @header.csv", "no row holds numbers"),
        ("report --data @text.npy", "NumPy file of numbers"),
        ("report --data @text.npz", "NumPy file of numbers"),
        ("report --data @half.npz", "NumPy file of numbers"),
        ("report --data @empty.npy", "NumPy file of numbers"),
        ("report --data @objects.npy", "NumPy file of numbers"),
        ("report --data @nothing.npz", "must hold an array"),
        ("report --data @complex.npy", "where complex is complex128"),
        ("report --data @dates.npy", "where dates is datetime64[D]"),
        ("report --data @number.npy", "samples along the first axis"),
        ("report --data @names.npy", "of two or more axes"),
        ("report --data @text64.npy", "of two or more axes"),
        ("report --data @flat.npy", "of two or more axes"),
        ("report --data @two.npz", "Received: arrays a, b"),
        ("report --data @one.npy", "data of one sample"),
        ("report --data @none.npy", "empty data"),
        ("report --data @hollow.npy", "a batch of shape (4, 0)"),
        ("report --data @nan.npy", "NaN or inf in data"),
        ("report --data @huge.npy", "the input of layer 'layer_0'"),
        ("report --out @taken", "out must be a folder"),
        ("report --out @taken/inside/it", "where {}taken cannot"),
        ("report --out /proc/nowhere", "where /proc cannot"),
        ("report --out @room", "where profile.png is a folder"),
    ],
)
def test_bad_input_gives_one_line_and_exit_code_2(
    words, message, files, capsys
):
    line = [word.replace("@", f"{files}/") for word in words.split()]
    if line[:1] == ["report"]:
        line += ["--out", str(files / "never")] if "--out" not in line else []
        if not {"--model", "--depth", "--width"} & set(line):
            line += SMALL
    code, out, err = run(capsys, *line)
    assert code == 2
    assert out == ""
    assert err.startswith("keras-initx: error: ")
    assert err.count("\n") == 1 and err.endswith("\n")
    assert len(err) <= 300
    assert message.replace("{}", f"{files}/") in err
    assert not (files / "never").exists()


def test_output_folder_is_checked_before_the_measurement(
    files, monkeypatch, capsys
):
    monkeypatch.setattr(kx, "measure", lambda *args: pytest.fail("too late"))
    code, _, err = run(capsys, "report", "--out", files / "taken" / "inside")
    assert code == 2 and "out must be a folder" in err


def test_results_are_printed_if_the_disk_is_full(tmp_path, monkeypatch, capsys):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "write_whole", full)
    code, out, err = run(capsys, "report", *SMALL, "--out", tmp_path)
    assert code == 2 and err.count("\n") == 1 and "No space left" in err
    assert "layer_3 " in out and "The last sample fraction: good" in out


@pytest.mark.slow
def test_report_prints_in_ascii_where_the_terminal_has_no_more(
    tmp_path, monkeypatch
):
    title = tmp_path / "d\u00e9j\u00e0_\u5c64_$x^.npy"
    np.save(title, np.random.default_rng(0).normal(size=(20, 4)))
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    words = ["report", *SMALL, "--data", title, "--out", tmp_path]
    assert main([str(word) for word in words]) == 0
    stream.flush()
    out = stream.buffer.getvalue().decode("ascii")
    assert "d?j?_?_$x^.npy" in out
    profile = kx.VarianceProfile.load(tmp_path / "profile.json")
    for line in profile.table().splitlines():
        assert line.split()[0] in out
    assert out.count("?") == 3
    assert (tmp_path / "profile.png").exists()


@pytest.mark.parametrize(
    ("sample", "target"),
    [
        ((8, 8), (8, 8, 1)),
        ((64,), (8, 8, 1)),
        ((8, 8, 1), (8, 8)),
        ((8, 8, 1), (64,)),
        ((1, 8, 8), (8, 8, 1)),
        ((8, 8), (None, None, 1)),
        ((5, 3), (None, 3)),
        ((), (1,)),
    ],
)
def test_data_is_reshaped_to_the_input(sample, target, rng):
    model = keras.Sequential([keras.Input(target), keras.layers.Flatten()])
    data = rng.normal(size=(5, *sample))
    reshaped = report.reshape_to_input(data, model, "data.npy")
    assert reshaped.ndim == 1 + len(target)
    np.testing.assert_array_equal(reshaped.ravel(), data.ravel())


def test_data_of_ambiguous_shape_is_refused():
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    for shape in ((5, 3, 8, 8), (5, 8, 8), (5, 24, 8), (5, 0)):
        with pytest.raises(ValueError, match="have the shape of the model's"):
            report.reshape_to_input(np.ones(shape), model, "data.npy")


@pytest.mark.parametrize(
    "text",
    [
        "1.5,2\n-3,4e2\n",
        "a,b\n1.5,2\n-3,4e2",
        '\ufeff"a b","b"\r\n"1.5", 2\r\n-3,"4e2"\r\n\r\n',
    ],
    ids=["numbers", "header", "of a spreadsheet"],
)
def test_rows_of_a_csv_file_are_samples(text, tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(text.encode())
    data = report.load_data(str(path))
    assert data.dtype == np.float32
    np.testing.assert_array_equal(data, np.float32([[1.5, 2], [-3, 400]]))


def test_one_column_of_a_csv_file_is_one_feature(tmp_path):
    (tmp_path / "x.csv").write_text("feature\n1\n2\n3\n")
    assert report.load_data(str(tmp_path / "x.csv")).shape == (3, 1)


@pytest.mark.slow
def test_report_says_that_the_samples_were_reshaped(
    written, tmp_path, capsys, rng
):
    images = rng.normal(size=(50, 8, 8))
    np.save(tmp_path / "images.npy", images)
    layers = [keras.Input((64,)), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    model.save(tmp_path / "model.keras")
    words = ["report", "--data", tmp_path / "images.npy", "--out", tmp_path]
    sentence = "The data of shape (50, 8, 8) was reshaped to (50, 64), the in"
    out = run(capsys, *words, "--model", tmp_path / "model.keras")[1]
    assert sentence in out
    assert written[0] == kx.measure(model, images.reshape(50, 64))
    assert sentence in run(capsys, *words, *SMALL)[1]
    np.save(tmp_path / "images.npy", images.reshape(50, 64))
    out = run(capsys, *words, "--model", tmp_path / "model.keras")[1]
    assert "reshaped" not in out
    assert written[2] == written[0]


MODULE = """
import keras

class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x

@keras.saving.register_keras_serializable("of_a_user")
class Thrice(keras.layers.Layer):
    def call(self, x):
        return 3 * x

def shifted(x):
    return x + 1

@keras.saving.register_keras_serializable("of_a_user")
class Half(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None):
        return keras.ops.full(shape, 0.5, dtype)

    def get_config(self):
        return {}
"""


def unregister_classes_of_a_user():
    registered = keras.saving.get_custom_objects()
    for name in [name for name in registered if name.startswith("of_a_user>")]:
        del registered[name]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_models_of_custom_classes_are_loaded_with_their_module(
    suffix, written, tmp_path, monkeypatch, capsys, rng
):
    package = f"of_a_user_{suffix}"
    (tmp_path / package).mkdir()
    (tmp_path / package / "parts.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    parts = report.import_modules([])
    assert parts == {}
    arguments._check_module(f"{package}.parts")
    parts = report.import_modules([f"{package}.parts"])
    layers = [
        *(keras.Input((4,)), parts["Twice"](), parts["Thrice"]()),
        keras.layers.Dense(3, parts["shifted"], name="first"),
        keras.layers.Dense(3),
    ]
    model = keras.Sequential(layers)
    save_as_both(model, tmp_path / "model")
    data = rng.normal(size=(9, 4)).astype("float32")
    np.savetxt(tmp_path / "x.csv", data, delimiter=",")
    unregister_classes_of_a_user()
    del sys.modules[f"{package}.parts"]
    code, _, err = run(
        capsys,
        *("report", "--import", f"{package}.parts", "--data", "x.csv"),
        *("--model", f"model.{suffix}", "--out", tmp_path),
    )
    assert (code, err) == (0, "")
    expected = kx.measure(model, data)
    np.testing.assert_allclose(written[0].total, expected.total, rtol=1e-6)
    words = ["--import", f"{package}.parts", "--initializer", "of_a_user>Half"]
    out = run(capsys, "report", *SMALL, *words, "--out", tmp_path)[1]
    assert "of_a_user>Half is not known to draw" in out
    unregister_classes_of_a_user()


@contextlib.contextmanager
def recursion_limit(more):
    """Lowers the recursion limit, so that a hundred layers reach it.

    Args:
        more: int. Number of calls that remain.
    """
    limit, before = len(inspect.stack(0)) + more, sys.getrecursionlimit()
    sys.setrecursionlimit(limit)
    try:
        yield
        assert sys.getrecursionlimit() == limit
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.slow
def test_plain_network_is_not_bounded_by_the_recursion_limit(rng):
    data = rng.normal(size=(9, 4))
    with recursion_limit(130):
        with pytest.raises(RecursionError):
            keras.Sequential(
                [
                    keras.Input((4,)),
                    *(keras.layers.Dense(4) for _ in range(150)),
                ]
            )
        model = plain_network.plain_network(4, 151, 4, "relu", None)
        profile = kx.measure(model, data, layers="layer_150")
    assert profile.layers == ("layer_150",)


@pytest.mark.slow
def test_deep_saved_model_is_loaded(tmp_path, rng):
    path, data = tmp_path / "model.keras", rng.normal(size=(9, 4))
    layers = [keras.layers.Identity() for _ in range(100)]
    layers = [keras.Input((4,)), *layers, keras.layers.Dense(4)]
    model = keras.Sequential(layers)
    model.save(path)
    with recursion_limit(90):
        with pytest.raises(RecursionError):
            keras.saving.load_model(path)
        loaded = report.load_model(str(path))
        output = loaded(data)
    np.testing.assert_array_equal(output, model(data))


@pytest.mark.filterwarnings("default")
def test_warning_is_printed_in_one_line(tmp_path, capsys):
    inputs = keras.Input((2,), name="a")
    model = keras.Model({"a": inputs}, keras.layers.Dense(3)(inputs))
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", np.eye(2))
    words = ["--model", tmp_path / "model.keras", "--data", tmp_path / "x.npy"]
    code, out, err = run(capsys, "report", *words, "--out", tmp_path)
    assert code == 0 and "dense" in out
    assert err.startswith("keras-initx: warning: The structure of `inputs`")
    assert err.count("\n") == 1


def test_one_line_keeps_the_cause_of_an_error():
    assert one_line(ValueError()) == "ValueError"
    assert one_line(ValueError("a\n  b")) == "a b"
    assert one_line(ValueError("a" * 5000)).startswith("aaa")
    for text in ("word " * 1000, "a" * 5000):
        line = one_line(ValueError(text))
        assert len(line) <= 275 and line.endswith(" ...")
    graph = (
        "Graph execution error:\n\nDetected at node a/B defined at (most "
        'recent call last):\n  File "x.py", line 3, in f\n\n  File "y.py", '
        "line 4, in g\n\nindices[0] = 9 is not in [0, 9)\n\t "
        "[[{{node a/B}}]] [Op:__inference_forward_1]"
    )
    cause = "indices[0] = 9 is not in [0, 9) at a/B"
    assert one_line(RuntimeError(graph)) == cause


def test_without_a_command_it_prints_help(capsys):
    code, out, err = run(capsys)
    assert (code, err) == (0, "")
    assert out.startswith("usage: keras-initx") and "report" in out


def test_keyboard_interrupt_gives_exit_code_130(monkeypatch, capsys):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "load_data", interrupt)
    assert run(capsys, "report")[0] == 130


@pytest.mark.parametrize(
    ("started", "argv", "ours"),
    [
        # The values while Python searches for the module of -m.
        ("python -m keras_initx report", "-m report", True),
        ("python -B -X dev -m keras_initx x -m", "-m x -m", True),
        ("python -Bm keras_initx", "-m", True),
        ("python -mkeras_initx list", "-m list", True),
        ("python -m keras_initx.cli.main list", "-m list", True),
        ("python -m keras_initx.__main__ list", "-m list", True),
        ("python -m my_keras_initx list", "-m list", False),
        ("python -m keras_initx.theory", "-m", False),
        ("python -m pytest keras_initx", "-m keras_initx", False),
        ("python script.py -m keras_initx", "script.py -m keras_initx", False),
        ("python bin/keras-initx list", "bin/keras-initx list", True),
    ],
)
def test_process_of_the_command_is_recognized(started, argv, ours, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", started.split())
    monkeypatch.setattr(sys, "argv", argv.split())
    assert _startup.is_our_command() == ours


@pytest.mark.parametrize("command", [False, True])
@pytest.mark.parametrize("name", ["tensorflow", "jax", "torch.nn"])
def test_a_backend_that_is_not_installed(name, command, monkeypatch):
    def fail(module):
        assert module == "keras"
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(_startup.importlib, "import_module", fail)
    monkeypatch.setattr(_startup, "is_our_command", lambda: command)
    error = SystemExit if command else ImportError
    with pytest.raises(error, match="pip install") as caught:
        _startup.import_keras()
    backend = name.partition(".")[0]
    assert f"Received: KERAS_BACKEND={backend!r}, " in str(caught.value)


@pytest.mark.parametrize("name", ["keras", "h5py", None])
def test_another_package_that_is_not_installed(name, monkeypatch):
    def fail(module):
        raise ModuleNotFoundError("original", name=name)

    monkeypatch.setattr(_startup.importlib, "import_module", fail)
    with pytest.raises(ModuleNotFoundError, match="original"):
        _startup.import_keras()


# The script that pip writes for the entry point in the package's metadata. Then
# it runs the command a second time.
SCRIPT = """
import sys
from keras_initx.cli.main import main
code = main()
sys.stdout.flush()
print("second", file=sys.stderr)
sys.exit(main(["report", "--model", "{model}", "--data", "{data}"]))
"""


@pytest.mark.slow
@pytest.mark.isolated
def test_standard_error_of_the_process_is_empty_or_one_line(files, tmp_path):
    script = tmp_path / "keras-initx"
    # The error of the second run is raised by TensorFlow's native code.
    script.write_text(
        SCRIPT.format(model=files / "embedding.keras", data=files / "ids.npy")
    )
    # Without the variables that silence TensorFlow in the tests.
    env = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("TF_", "KERAS_BACKEND"))
    }
    done = subprocess.run(
        [sys.executable, "-B", script, "report", *SMALL, "--out", "here"],
        env=env,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    first, _, second = done.stderr.partition("second\n")
    assert first == "" and second.count("\n") == 1
    assert second.startswith("keras-initx: error: ")
    assert done.stdout.isascii() and "4 dense layers" in done.stdout
    assert (tmp_path / "here" / "profile.png").exists()


@pytest.mark.isolated
@pytest.mark.parametrize("start", ["package", "module", "script"])
def test_what_needs_no_tensorflow_is_answered_without_it(start, tmp_path):
    script = tmp_path / "keras-initx"
    script.write_text(
        "import sys\nfrom keras_initx.cli.main import main\nsys.exit(main())\n"
    )
    command = {
        "package": ["-m", "keras_initx"],
        "module": ["-m", "keras_initx.cli.main"],
        "script": [str(script)],
    }[start]
    # These stand before the installed packages.
    for package in ("keras", "tensorflow"):
        (tmp_path / f"{package}.py").write_text("raise SystemExit(77)\n")
    path = os.pathsep.join([str(tmp_path), str(kx.__path__[0] + "/..")])
    for words, code, out, err in [
        (["--version"], 0, kx.__version__ + "\n", ""),
        (["--help"], 0, "usage: keras-initx", ""),
        ([], 0, "usage: keras-initx", ""),
        (["report", "--help"], 0, "usage: keras-initx report", ""),
        (["report", "--model", "x.keras"], 2, "", "which is not a file"),
        (["report", "--model", "x.pt"], 2, "", "which has another suffix"),
        (["report", "--data", "x.txt"], 2, "", ".csv file. Received: data=x"),
        (["report", "--depht", "3"], 2, "", "Did you mean '--depth'"),
        (["report", "--import", "none"], 2, "", "'none' is not found"),
        # All else needs TensorFlow.
        (["list"], 77, "", ""),
    ][:: 1 if start == "package" else 4]:
        done = subprocess.run(
            [sys.executable, *command, *words],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == code, (words, done.stderr)
        assert done.stdout.startswith(out) and bool(done.stdout) == bool(out)
        if code == 2:
            assert err in done.stderr and done.stderr.count("\n") == 1
        else:
            assert done.stderr == ""


def test_closed_pipe_is_no_error(monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["list"]) == 0
    assert capsys.readouterr().err == ""


def test_closed_standard_output_is_no_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["list"]) == 0
    sys.stdout.close()
    assert capsys.readouterr().err == ""
