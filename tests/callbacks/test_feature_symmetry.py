"""FeatureSymmetry: spreads and correlations of kernels, also in training."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx
from keras_initx.callbacks import FeatureSymmetry
from keras_initx.callbacks.kernel_symmetry import (
    kernel_symmetry,
    mean_correlation,
)
from tests.helpers import processes

KEYS = ("feature_spread", "forward_correlation", "backward_correlation")


def expected_symmetry(kernel):
    """Spread and correlations pair by pair in float64."""
    kernel = np.float64(kernel)
    channels, outputs = kernel.shape[1:]

    def mean(rows):
        values = []
        for i in range(len(rows)):
            for j in range(i):
                if np.ptp(rows[i]) == 0 or np.ptp(rows[j]) == 0:
                    values.append(1.0)
                else:
                    values.append(np.corrcoef(rows[i], rows[j])[0, 1])
        return np.mean(values) if values else np.nan

    return [
        np.sqrt(kernel.var(-1).mean()),
        mean(kernel.reshape(-1, outputs).T),
        mean(kernel.transpose(1, 0, 2).reshape(channels, -1)),
    ]


def some_constant(rng):
    kernel = rng.standard_normal((4, 3, 6))
    kernel[..., [1, 4]] = 0.1
    kernel[:, 2] = -0.7
    return kernel


KERNELS = {
    "random": lambda rng: rng.standard_normal((9, 4, 5)),
    "dense": lambda rng: rng.standard_normal((1, 7, 3)),
    "one channel": lambda rng: rng.standard_normal((9, 1, 3)),
    "one output": lambda rng: rng.standard_normal((9, 3, 1)),
    "nearly equal": lambda rng: 1 + 1e-3 * rng.standard_normal((3, 4, 5)),
    "alike": lambda rng: rng.standard_normal((9, 4, 1)) * [1, 1, 2, 0.5],
    "opposite": lambda rng: rng.standard_normal((9, 4, 1)) * [1, -1],
    "some constant": some_constant,
    "zero": lambda rng: np.zeros((9, 4, 5)),
    "tiny": lambda rng: 1e-30 * rng.standard_normal((9, 4, 5)),
    "huge": lambda rng: 1e30 * rng.standard_normal((9, 4, 5)),
}


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_the_numbers_equal_those_of_all_pairs(kernel, rng):
    kernel = np.float32(kernel(rng))
    np.testing.assert_allclose(
        kernel_symmetry(kernel),
        expected_symmetry(kernel),
        rtol=2e-4,
        atol=2e-6,
    )


@pytest.mark.slow
def test_xla_computes_the_same_numbers(rng):
    # The kernels have one shape, so that it is compiled once.
    compiled = tf.function(kernel_symmetry, jit_compile=True)
    for name in ("random", "some constant", "zero"):
        kernel = tf.constant(KERNELS[name](rng)[:4, :3, :5], "float32")
        np.testing.assert_allclose(
            compiled(kernel),
            kernel_symmetry(kernel),
            rtol=1e-4,
            atol=1e-6,
        )


@pytest.mark.parametrize("channels", [3, 7, 48, 160, 1000])
@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-12, -7.3])
def test_the_spread_is_0_if_and_only_if_all_outputs_are_equal(channels, value):
    # In float32 the mean of so many equal numbers differs from them.
    kernel = np.full((2, 3, channels), value, np.float32)
    np.testing.assert_array_equal(kernel_symmetry(kernel), [0, 1, 1])
    kernel[1, 2, -1] = np.nextafter(kernel[1, 2, -1], np.float32(1))
    assert kernel_symmetry(kernel)[0] > 0


def test_equal_rows_have_correlation_1(rng):
    for rows in (2, 3, 640):
        row = rng.standard_normal((1, 50)).astype(np.float32)
        correlation = float(mean_correlation(np.repeat(row, rows, 0)))
        assert correlation == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("noise", [1e-4, 1e-2, 0.3, 1, 3, 30])
def test_correlations_of_any_size_are_exact_to_1e_6(noise, rng):
    rows = rng.standard_normal((1, 50)) + noise * rng.standard_normal((640, 50))
    rows = rows.astype(np.float32)
    expected = (np.corrcoef(np.float64(rows)).sum() - 640) / (640 * 639)
    assert float(mean_correlation(rows)) == pytest.approx(expected, abs=1e-6)


def layers_of_all_kinds():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.Conv2D(6, (3, 2), groups=2, name="grouped"),
            layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise"),
            layers.Conv2DTranspose(5, 3, name="transposed"),
            layers.Reshape((-1, 5)),
            layers.Conv1D(4, 3, name="conv"),
            layers.EinsumDense("abc,cde->abde", (None, 2, 3), name="einsum"),
            layers.Reshape((-1, 6)),
            layers.LSTM(3, name="gates"),
            layers.Dense(7, name="hidden"),
            layers.Dense(2, name="last"),
        ]
    )


@pytest.mark.slow
def test_kernels_of_every_layer_are_split_into_taps_channels_and_outputs():
    model = layers_of_all_kinds()
    symmetry = FeatureSymmetry(verbose=0)
    symmetry.set_model(model)
    symmetry.on_train_begin()

    def kernel(name):
        return model.get_layer(name).kernel.numpy()

    recurrent = model.get_layer("gates").cell.recurrent_kernel.numpy()
    expected = {
        # (window..., channels of a group, outputs)
        "grouped": kernel("grouped").reshape(6, 2, 6),
        # (window..., channels, multiplier), each an output
        "depthwise": kernel("depthwise").reshape(9, 1, 12),
        # (window..., outputs, channels)
        "transposed": kernel("transposed").reshape(9, 5, 12).swapaxes(1, 2),
        "conv": kernel("conv"),
        "einsum": kernel("einsum").reshape(1, 4, 6),
        "gates/lstm_cell:0": model.get_layer("gates").cell.kernel.numpy()[None],
        "gates/lstm_cell:0/recurrent_kernel": recurrent[None],
        "hidden": kernel("hidden")[None],
    }
    assert symmetry.names == list(expected)
    for i, (name, kernel) in enumerate(expected.items()):
        columns = [symmetry.spread, symmetry.forward, symmetry.backward]
        np.testing.assert_allclose(
            [column[-1, i] for column in columns],
            expected_symmetry(kernel),
            rtol=1e-4,
            atol=1e-5,
            err_msg=name,
        )


# ---- In training -----------------------------------------------------------


def small(dropout=0.0, noise=0.0):
    """A model with two hidden layers, whose features are equal but for noise.

    The first step changes only the logits, as in a ConstNet.
    """

    def start():
        return kx.initializers.DiracAverage(noise, seed=1)

    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, "relu", kernel_initializer=start(), name="one"),
            layers.Dropout(dropout),
            layers.Dense(8, "relu", kernel_initializer=start(), name="two"),
            layers.Dropout(dropout),
            layers.Dense(3, kernel_initializer="zeros", name="logits"),
        ]
    )
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    return model


@pytest.fixture
def xy(rng):
    y = rng.integers(3, size=48)
    x = rng.standard_normal((48, 4)) + y[:, None]
    return x.astype(np.float32), y


def fit(model, xy, *callbacks, **options):
    options = {"epochs": 2, "batch_size": 16, "verbose": 0} | options
    return model.fit(*xy, callbacks=list(callbacks), **options).history


@pytest.mark.slow
def test_dropout_breaks_the_symmetry_at_the_second_step(xy, tmp_path):
    model = small(dropout=0.5)
    symmetry = FeatureSymmetry(
        update_freq=1, log_dir=tmp_path, per_layer=True, verbose=0
    )
    history = fit(model, xy, symmetry)
    assert symmetry.measured_at == [
        *[(0, n) for n in range(4)],
        *[(1, n) for n in range(4, 7)],
    ]
    assert symmetry.names == ["one", "two"]
    # At the first step only the logits have a gradient.
    np.testing.assert_array_equal(symmetry.spread[:2], 0)
    assert symmetry.broken_at == (0, 2)
    assert (symmetry.spread[-1] > 0).all()
    # Until then the entries of each kernel are equal.
    np.testing.assert_array_equal(symmetry.forward[:2], 1)
    assert (symmetry.forward[-1] < 1).all()
    columns = symmetry.spread, symmetry.forward, symmetry.backward
    for i, name in enumerate(symmetry.names):
        expected = expected_symmetry(model.get_layer(name).kernel.numpy()[None])
        for key, column, value in zip(KEYS, columns, expected, strict=True):
            # The last of each epoch's three batches.
            assert history[f"{key}/{name}"] == list(column[[3, 6], i])
            assert column[-1, i] == pytest.approx(value, rel=1e-3, abs=1e-6)
    assert history["feature_spread"] == list(symmetry.spread[[3, 6]].max(1))
    (file,) = tmp_path.iterdir()
    tags = {
        (value.tag, event.step): float(tf.make_ndarray(value.tensor))
        for record in tf.data.TFRecordDataset(str(file))
        for event in [tf.compat.v1.Event.FromString(record.numpy())]
        for value in event.summary.value
    }
    assert len(tags) == 7 * (1 + 2 * 3)
    assert tags["feature_spread/two", 6] == symmetry.spread[-1, 1]


@pytest.mark.slow
def test_noise_breaks_the_symmetry_before_the_first_step(xy):
    symmetry = FeatureSymmetry(verbose=0)
    fit(small(noise=0.01), xy, symmetry, initial_epoch=1)
    assert symmetry.measured_at == [(1, 0), (2, 3)]
    assert symmetry.broken_at == (1, 0)


@pytest.mark.slow
def test_a_second_fit_starts_a_new_record_of_its_model(xy):
    symmetry = FeatureSymmetry(verbose=0)
    fit(small(noise=0.01), xy, symmetry)
    fit(small(dropout=0.5), xy, symmetry, epochs=1)
    assert symmetry.measured_at == [(0, 0), (1, 3)]
    assert symmetry.broken_at == (1, 3)
    assert symmetry.spread.shape == (2, 2)


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (None, ["one", "two"]),
        ("logits", ["logits"]),
        (keras.layers.Dense, ["one", "two", "logits"]),
        (["two", "logits"], ["two", "logits"]),
        (lambda layer: "o" in layer.name, ["one", "two", "logits"]),
    ],
)
def test_layers_selects_kernels(layers, names):
    symmetry = FeatureSymmetry(layers=layers, verbose=0)
    symmetry.set_model(small())
    symmetry.on_train_begin()
    assert symmetry.names == names


def test_a_single_kernel_of_one_channel_has_no_backward_correlation(capsys):
    symmetry = FeatureSymmetry(verbose=1)
    symmetry.set_model(
        keras.Sequential([keras.Input((1,)), keras.layers.Dense(3)])
    )
    symmetry.on_train_begin()
    assert symmetry.names == ["dense:0"]
    assert "1 forward, nan backward" in capsys.readouterr().out


def test_the_message_names_equal_features(capsys):
    symmetry = FeatureSymmetry(verbose=1)
    symmetry.set_model(small())
    symmetry.on_train_begin()
    assert capsys.readouterr().out.strip() == (
        "Step 0: the filters of each kernel are equal, mean correlation of "
        "filters 1 forward, 1 backward"
    )


@pytest.mark.slow
def test_training_is_the_same_with_and_without(xy):
    weights = []
    for callbacks in ([], [FeatureSymmetry(update_freq=1, verbose=0)]):
        keras.utils.set_random_seed(3)
        model = small(dropout=0.5)
        fit(model, xy, *callbacks, epochs=1)
        weights.append(model.get_weights())
    for without, with_ in zip(*weights, strict=True):
        np.testing.assert_array_equal(without, with_)


@pytest.mark.slow
def test_prints_a_line_a_table_or_nothing(xy, capsys):
    printed = {}
    for verbose in (0, 1, 2):
        model = small(noise=0.01)
        symmetry = FeatureSymmetry(verbose=verbose)
        # Before a measurement the table has only its head.
        heads = symmetry.table().split()
        assert [h for h in heads if h.isalpha()][:2] == ["layer", "spread"]
        assert "two" not in heads
        fit(model, xy, symmetry, epochs=1)
        printed[verbose] = capsys.readouterr().out.split("\n")
    assert printed[0] == [""]
    lines = [line for line in printed[1] if line]
    assert [line.split(":")[0] for line in lines] == ["Step 0", "Step 3"]
    assert re.search(
        r"largest spread of features 0\.\d+ at \w+, mean", lines[0]
    )
    rows = [line.split()[0] for line in printed[2] if line]
    assert rows.count("two") == 2
    assert symmetry.table() in "\n".join(printed[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update_freq": 0}, 'update_freq must be "epoch" or .* update_freq=0'),
        ({"update_freq": "batch"}, "update_freq='batch'"),
        ({"update_freq": 1.0}, r"update_freq=1\.0"),
        ({"verbose": 3}, "verbose=3"),
        ({"verbose": None}, "verbose=None"),
        ({"layers": 3}, "layers=3"),
        ({"layers": []}, r"layers=\[\]"),
    ],
)
def test_wrong_arguments_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        FeatureSymmetry(**options)


@pytest.mark.parametrize("layers", ["tow", "dropout", keras.layers.LSTM])
def test_a_layer_without_a_kernel_is_refused_before_training(layers, xy):
    model = small()
    with pytest.raises(ValueError, match="Each of layers must pick a layer"):
        fit(model, xy, FeatureSymmetry(layers=layers))
    assert int(model.optimizer.iterations) == 0


# ---- In another process ----------------------------------------------------

DETERMINISTIC = """
import keras
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
tf.config.experimental.enable_op_determinism()
import keras_initx as kx

def trained(**options):
    keras.utils.set_random_seed(3)
    model = kx.models.ConstNet(7, 2, 3, (8, 8, 3), **options)
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    rng = np.random.default_rng(3)
    y = rng.integers(3, size=64)
    x = rng.standard_normal((64, 8, 8, 3)) + y[:, None, None, None]
    symmetry = kx.callbacks.FeatureSymmetry(update_freq=1, verbose=0)
    history = model.fit(
        x.astype(np.float32), y, epochs=5, batch_size=16, shuffle=False,
        verbose=0, callbacks=[symmetry],
    )
    losses = history.history["loss"]
    assert min(losses) < 0.9 * losses[0], losses
    assert len(symmetry.measured_at) == 21
    return symmetry, model

symmetry, model = trained()
convs = [l for l in model.layers if l.name.endswith("_conv")]
assert all(np.any(l.kernel) for l in convs)
print("kept", symmetry.spread.max(), symmetry.broken_at)

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    broken, _ = trained(dropout=0.01)
assert strategy.num_replicas_in_sync == 2
# There is no dropout before the stem.
print("broken", broken.broken_at, *np.flatnonzero(broken.spread[-1] == 0))
"""


@pytest.mark.slow
@pytest.mark.isolated
def test_symmetry_lasts_without_dropout_and_ends_with_it_on_replicas():
    ran = processes.run_code(DETERMINISTIC)
    assert ran.output.splitlines() == [
        "kept 0.0 None",
        "broken (0, 2) 0",
    ], ran.errors
