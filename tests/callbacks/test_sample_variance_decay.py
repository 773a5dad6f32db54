"""SampleVarianceDecay: it reports what measure returns, when it is asked to."""

import csv
import functools
import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx
from keras_initx.measurement.meter import Meter

KEY, TOTAL = "sample_variance_decay", "signal_total"
DEAD, GRADIENT = "dead_fraction", "gradient_ratio"


def new_model():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, "relu", name="first"),
            keras.layers.Dense(8, "relu", name="second"),
            keras.layers.Dense(1, name="last"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


@functools.cache
def shared_model():
    model = new_model()
    return model, model.get_weights()


def small_model():
    """The model of `new_model` as new, whose training step is traced once.

    All calls return the same one, for tests that change no more of it than its
    variables.
    """
    model, weights = shared_model()
    model.set_weights(weights)
    model.optimizer.iterations.assign(0)
    model.optimizer.learning_rate = 0.01
    return model


@pytest.fixture
def xy():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


def fit(model, xy, *callbacks, **options):
    options = {"epochs": 2, "batch_size": 16, "verbose": 0} | options
    return model.fit(*xy, callbacks=list(callbacks), **options)


@pytest.mark.slow
def test_the_profiles_are_those_of_measure_before_and_after_training(xy):
    model = small_model()
    before = kx.measure(model, xy[0])
    callback = kx.callbacks.SampleVarianceDecay(
        xy[0], per_layer=True, verbose=0
    )
    history = fit(model, xy, callback).history
    after = kx.measure(model, xy[0])
    assert callback.profiles[0] == before
    assert callback.profiles[-1] == after
    assert before != after
    assert callback.measured_at == [(0, 0), (1, 4), (2, 8)]
    assert history[KEY] == [p.decay[-1] for p in callback.profiles[1:]]
    for i, name in enumerate(("first", "second", "last")):
        rows = [p.decay[i] for p in callback.profiles[1:]]
        assert history[f"{KEY}/{name}"] == rows
        rows = [p.signal_total[i] for p in callback.profiles[1:]]
        assert history[f"{TOTAL}/{name}"] == rows
    assert history[TOTAL] == history[f"{TOTAL}/last"]
    rows = [p.dead_fraction[1] for p in callback.profiles[1:]]
    assert history[f"{DEAD}/second"] == rows
    assert f"{DEAD}/last" not in history


def test_the_key_of_dead_units_is_that_of_the_worst_layer(xy):
    model = small_model()
    model.layers[0].bias.assign(np.r_[np.zeros(5), [-99] * 3])
    model.layers[1].bias.assign(np.full(8, -99))
    callback = kx.callbacks.SampleVarianceDecay(xy[0], verbose=0)
    history = fit(model, xy, callback).history
    profile = callback.profiles[0]
    assert profile.dead_fraction[0] >= 3 / 8
    assert profile.dead_fraction[1] == 1
    assert history[DEAD] == [1, 1]


def test_a_model_without_activations_has_no_key_of_dead_units(xy):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callback = kx.callbacks.SampleVarianceDecay(xy[0], verbose=0)
    assert DEAD not in fit(model, xy, callback).history


@pytest.mark.slow
@pytest.mark.parametrize(
    ("update_freq", "options", "steps"),
    [
        ("epoch", {}, [(0, 0), (1, 4), (2, 8)]),
        ("epoch", {"initial_epoch": 1}, [(1, 0), (2, 4)]),
        (1, {"epochs": 1}, [(0, k) for k in range(5)]),
        (3, {}, [(0, 0), (0, 3), (1, 6)]),
        (8, {}, [(0, 0), (1, 8)]),
        (100, {}, [(0, 0)]),
    ],
)
def test_measures_after_epochs_or_batches(xy, update_freq, options, steps):
    callback = kx.callbacks.SampleVarianceDecay(
        xy[0], update_freq=update_freq, verbose=0
    )
    history = fit(small_model(), xy, callback, **options).history
    assert callback.measured_at == steps
    assert len(callback.profiles) == len(steps)
    start, end = options.get("initial_epoch", 0), options.get("epochs", 2)
    last = dict.fromkeys(range(start, end), np.nan)
    for (epoch, _), profile in zip(
        steps[1:], callback.profiles[1:], strict=True
    ):
        last[epoch - (update_freq == "epoch")] = profile.decay[-1]
    # An epoch without a measurement does not repeat an earlier one.
    np.testing.assert_array_equal(history[KEY], list(last.values()))


@pytest.mark.slow
def test_several_steps_in_an_execution_are_all_counted(xy):
    model = new_model()
    model.compile("sgd", "mse", steps_per_execution=2)
    callback = kx.callbacks.SampleVarianceDecay(xy[0], update_freq=2, verbose=0)
    fit(model, xy, callback, epochs=1)
    assert callback.measured_at == [(0, 0), (0, 2), (0, 4)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize(
    ("kind", "accumulated", "batches"),
    [("arrays", None, 4), ("arrays", 2, 4), ("filtered", None, 4),
     ("endless", None, 6)],
)  # fmt: skip
def test_steps_are_batches_not_executions(xy, kind, accumulated, batches):
    # Keras reports whole executions, here of 3 batches where there are 4. With
    # endless data it trains on 6 batches when asked for 4.
    data = tf.data.Dataset.from_tensor_slices(xy).batch(16)
    x, options = {
        "arrays": (xy, {}),
        "filtered": ([data.filter(lambda x, y: True)], {"shuffle": False}),
        "endless": ([data.repeat()], {"shuffle": False, "steps_per_epoch": 4}),
    }[kind]
    if kind != "arrays":
        options["batch_size"] = None
    sgd = keras.optimizers.SGD(1e-3, gradient_accumulation_steps=accumulated)
    model = new_model()
    model.compile(sgd, "mse", steps_per_execution=3)
    callback = kx.callbacks.SampleVarianceDecay(xy[0], verbose=0)
    for before in (0, 2 * batches):
        fit(model, x, callback, **options)
        assert callback.measured_at == [
            (epoch, before + epoch * batches) for epoch in range(3)
        ]


@pytest.mark.slow
def test_training_is_the_same_with_and_without(xy):
    weights = []
    for with_callback in (False, True):
        keras.utils.set_random_seed(3)
        model = small_model()
        callback = kx.callbacks.SampleVarianceDecay(
            xy[0], update_freq=1, verbose=0
        )
        fit(model, xy, *([callback] if with_callback else []))
        weights.append(model.get_weights())
    for without, with_ in zip(*weights, strict=True):
        np.testing.assert_array_equal(without, with_)


@pytest.mark.slow
def test_other_callbacks_see_the_logs(xy, tmp_path):
    callback = kx.callbacks.SampleVarianceDecay(
        xy[0], per_layer=True, verbose=0
    )
    log, checkpoint = tmp_path / "log.csv", tmp_path / "best.keras"
    stop = keras.callbacks.EarlyStopping(
        monitor=KEY, mode="max", min_delta=1e9, patience=2
    )
    history = fit(
        small_model(),
        xy,
        callback,
        keras.callbacks.CSVLogger(str(log)),
        keras.callbacks.ModelCheckpoint(
            str(checkpoint),
            monitor=f"{KEY}/last",
            mode="max",
            save_best_only=True,
        ),
        stop,
        epochs=20,
    ).history
    assert len(history["loss"]) == 3, "patience counts epochs of the decay"
    assert checkpoint.exists()
    with log.open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row[KEY]) for row in rows] == history[KEY]


def events(folder):
    """The records for TensorBoard: (plugin, tag, step) -> tensor."""
    (file,) = folder.iterdir()
    found = {}
    for record in tf.data.TFRecordDataset(str(file)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            plugin = value.metadata.plugin_data.plugin_name
            found[plugin, value.tag, event.step] = tf.make_ndarray(value.tensor)
    return found


@pytest.mark.slow
def test_tensorboard_reads_every_layer_by_step(xy, tmp_path):
    callback = kx.callbacks.SampleVarianceDecay(
        xy[0], update_freq=4, log_dir=tmp_path, verbose=0, gradient=True
    )
    fit(small_model(), xy, callback)
    found = events(tmp_path)
    layers = ("first", "second", "last")
    tags = {KEY, TOTAL, GRADIENT} | {
        f"{what}/{layer}"
        for what in (
            *(KEY, TOTAL, "total", "sample_fraction", GRADIENT),
            *("sample_variance", "squared_mean", "gradient"),
        )
        for layer in layers
    }
    # No activation follows the last layer.
    tags |= {DEAD, f"{DEAD}/first", f"{DEAD}/second"}
    steps = (0, 4, 8)
    assert set(found) == {
        (plugin, tag, step)
        for plugin, plugin_tags in (
            ("scalars", tags),
            ("images", {f"profile/{KEY}"}),
        )
        for tag in plugin_tags
        for step in steps
    }
    for profile, (_, step) in zip(
        callback.profiles, callback.measured_at, strict=True
    ):
        for i, layer in enumerate(layers):
            assert found["scalars", f"{KEY}/{layer}", step] == pytest.approx(
                profile.decay[i], rel=1e-6
            )
            ratio = found["scalars", f"{GRADIENT}/{layer}", step]
            assert ratio == pytest.approx(profile.gradient_ratio[i], rel=1e-6)
            variance = found["scalars", f"squared_mean/{layer}", step]
            assert variance == pytest.approx(profile.squared_mean[i], rel=1e-6)
        width, height, png = found["images", f"profile/{KEY}", step]
        shape = tf.io.decode_png(png).shape
        assert shape[0] > shape[1], "there is a panel of gradients"
        assert (int(height), int(width)) == tuple(shape[:2])
    figures = {found["images", f"profile/{KEY}", step][2] for step in steps}
    assert len(figures) == 3, "each shows another profile"


@pytest.mark.slow
@pytest.mark.usefixtures("no_matplotlib")
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.01),
        lambda: keras.optimizers.SGD(0.01, gradient_accumulation_steps=2),
        lambda: keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.01, gradient_accumulation_steps=4)
        ),
    ],
    ids=["plain", "accumulating", "scaled"],
)
def test_tensorboard_steps_continue_in_a_second_fit(xy, tmp_path, optimizer):
    callback = kx.callbacks.SampleVarianceDecay(
        xy[0], update_freq=2, log_dir=tmp_path, verbose=0
    )
    model = new_model()
    model.compile(optimizer(), "mse")
    fit(model, xy, epochs=2)
    fit(model, xy, callback, initial_epoch=2, epochs=3)
    assert {step for _, _, step in events(tmp_path)} == {8, 10, 12}


@pytest.mark.slow
@pytest.mark.usefixtures("no_matplotlib")
def test_without_matplotlib_tensorboard_has_no_figure(xy, tmp_path):
    callback = kx.callbacks.SampleVarianceDecay(
        xy[0], log_dir=tmp_path, verbose=0
    )
    fit(small_model(), xy, callback, epochs=1)
    assert {plugin for plugin, _, _ in events(tmp_path)} == {"scalars"}


@pytest.mark.slow
@pytest.mark.usefixtures("no_matplotlib")
@pytest.mark.parametrize("step", ["train_on_batch", "gradient tape"])
def test_works_in_a_training_loop_of_the_user(xy, tmp_path, step):
    model = small_model()
    optimizer = keras.optimizers.SGD(0.01)

    def train():
        if step == "train_on_batch":
            return model.train_on_batch(*xy)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(xy[0]) - xy[1]) ** 2)
        weights = model.trainable_weights
        optimizer.apply(tape.gradient(loss, weights), weights)

    callback = kx.callbacks.SampleVarianceDecay(
        xy[0], update_freq=2, log_dir=tmp_path, verbose=0
    )
    callbacks = keras.callbacks.CallbackList([callback], model=model)
    callbacks.on_train_begin()
    for epoch in range(2):
        callbacks.on_epoch_begin(epoch)
        for batch in range(4):
            train()
            callbacks.on_train_batch_end(batch)
        callbacks.on_epoch_end(epoch)
    callbacks.on_train_end()
    assert {when for _, _, when in events(tmp_path)} == {0, 2, 4, 6, 8}
    assert callback.measured_at == [(0, 0), (0, 2), (0, 4), (1, 6), (1, 8)]
    assert callback.profiles[-1] == kx.measure(model, xy[0])


@pytest.mark.slow
def test_a_fit_traces_the_model_once(xy):
    traces = []

    @keras.saving.register_keras_serializable("tests")
    class Counted(keras.layers.Layer):
        def call(self, x):
            traces.append(type(x))
            return x

    model = keras.Sequential(
        [keras.Input((4,)), Counted(), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    callbacks = [
        kx.callbacks.SampleVarianceDecay(
            xy[0], update_freq=1, verbose=0, layers=layers
        )
        for layers in (None, lambda layer: "dense" in layer.name)
    ]
    counts = []
    for used in ([], callbacks[:1], callbacks[1:], callbacks):
        traces.clear()
        fit(model, xy, *used, validation_data=xy)
        counts.append(len(traces))
    # Keras has traced its own steps in the first fit.
    assert counts[1:] == [1, 1, 2]


@pytest.mark.slow
def test_a_change_between_two_fits_is_seen(xy):
    model = new_model()
    callback = kx.callbacks.SampleVarianceDecay(xy[0], verbose=0)
    fit(model, xy, callback, epochs=1)
    model.layers[0].activation = keras.activations.linear
    fit(model, xy, callback, epochs=1)
    assert callback.profiles[-1] == kx.measure(model, xy[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"training": True},
        {"steps": 1},
        {"steps": 1, "batch_size": 10},
        {"layers": "second", "training": True, "steps": 3, "batch_size": 10},
        {"gradient": True, "loss": "mae", "labels": np.ones((64, 1))},
    ],
)
def test_options_are_those_of_measure(xy, options):
    drop = keras.layers.Dropout(0.5, seed=1, name="drop")
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, "relu", name="first"),
            drop,
            keras.layers.Dense(1, name="second"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.0), "mse")
    expected = kx.measure(model, xy[0], **options)
    assert expected != kx.measure(model, xy[0])
    callback = kx.callbacks.SampleVarianceDecay(xy[0], verbose=0, **options)
    fit(model, xy, callback, epochs=0)
    assert callback.profiles == [expected]
    if "gradient" in options:
        ratio = expected.gradient_ratio[0]
        assert callback._logs[GRADIENT] == ratio
        assert f"gradient {ratio:.3g} of the last" in callback._message(
            expected
        )
        callback.on_epoch_begin(1)
        assert np.isnan(callback._logs[GRADIENT])


@pytest.mark.slow
def test_a_second_fit_starts_a_new_record(xy):
    model = small_model()
    callback = kx.callbacks.SampleVarianceDecay(xy[0], verbose=0)
    fit(model, xy, callback)
    last = callback.profiles[-1]
    fit(model, xy, callback)
    assert callback.profiles[0] == last
    assert callback.measured_at == [(0, 8), (1, 12), (2, 16)]


class Poison(keras.callbacks.Callback):
    """Makes the first layer infinite after the first epoch."""

    def on_epoch_end(self, epoch, logs=None):
        kernel = self.model.get_layer("first").kernel
        kernel.assign(np.full(kernel.shape, np.inf))


def test_a_failing_measurement_raises_by_default_and_names_the_layer(xy):
    callback = kx.callbacks.SampleVarianceDecay(xy[0], verbose=0)
    with pytest.raises(ValueError, match="at layer 'first'"):
        fit(small_model(), xy, Poison(), callback)
    assert callback.measured_at == [(0, 0)]


@pytest.mark.slow
def test_a_failing_measurement_only_warns_if_asked_to(xy):
    callback = kx.callbacks.SampleVarianceDecay(
        xy[0], verbose=0, per_layer=True, on_error="warn"
    )
    with pytest.warns(UserWarning, match=r"at epoch [123], step .*'first'"):
        history = fit(small_model(), xy, Poison(), callback, epochs=3).history
    assert len(history["loss"]) == 3, "the training continued"
    assert callback.measured_at == [(0, 0)]
    for key in (KEY, TOTAL, f"{KEY}/last", f"{TOTAL}/last"):
        assert np.isnan(history[key]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "frist"}, r"mean 'first'\? Received: layers='frist'"),
        ({"expected": kx.theory.sample_variance_decay(6)}, "of 6 layers"),
        ({"data": np.full((4, 4), np.nan)}, "NaN or inf in data"),
    ],
)
def test_a_wrong_argument_raises_before_training_and_never_warns(
    xy, options, message
):
    options = {"data": xy[0], "on_error": "warn", "verbose": 0} | options
    model = small_model()
    with pytest.raises(ValueError, match=message):
        fit(model, xy, kx.callbacks.SampleVarianceDecay(**options))
    assert int(model.optimizer.iterations) == 0


@pytest.mark.slow
def test_prints_a_line_a_table_or_nothing(xy, capsys):
    expected = kx.theory.sample_variance_decay(3)
    printed, verdicts = {}, {}
    for verbose in (0, 1, 2):
        callback = kx.callbacks.SampleVarianceDecay(
            xy[0], verbose=verbose, expected=expected
        )
        fit(small_model(), xy, callback, epochs=1)
        printed[verbose] = capsys.readouterr().out.strip().splitlines()
        verdicts[verbose] = [str(p.verdict) for p in callback.profiles]
    assert printed[0] == []
    lines = [line for line in printed[1] if line]
    assert [line.split(":")[0] for line in lines[::2]] == ["Step 0", "Step 4"]
    assert lines[1::2] == verdicts[1]
    assert [line for line in printed[2] if line in verdicts[2]] == verdicts[2]
    profile = callback.profiles[0]
    first, last = profile.sample_fraction[[0, -1]]
    line = next(line for line in printed[2] if line.startswith("Step 0"))
    assert f"total {profile.signal_total[-1]:.3g} of the first layer's" in line
    assert f"{first:.3g} at first, {last:.3g} at last" in line
    rows = [line.split()[0] for line in printed[2] if line.split()]
    assert rows.count("second") == 2
    assert any("expected" in line for line in printed[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update_freq": 0}, 'update_freq must be "epoch" or .* update_freq=0'),
        ({"update_freq": "batch"}, "update_freq='batch'"),
        ({"update_freq": True}, "update_freq=True"),
        ({"update_freq": 2.0}, r"update_freq=2\.0"),
        ({"verbose": 3}, "verbose=3"),
        ({"verbose": "none"}, "'auto', 0, 1 or 2.*verbose='none'"),
        ({"per_layer": 1}, "per_layer=1"),
        ({"model": 3}, "a function of the model that returns one.*model=3"),
        ({"on_error": "ignore"}, "on_error='ignore'"),
        ({"expected": [1.0]}, r"expected=\[1\.0\]"),
        ({"layers": 3}, "layers=3"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"steps": 0}, "steps=0"),
        ({"training": 1.5}, r"training=1\.5"),
        ({"gradient": 1}, "gradient=1"),
        ({"loss": "mse"}, "needs gradient=True.*loss='mse'"),
        ({"labels": np.ones(64), "gradient": True}, "labels need a loss"),
        (
            {"labels": np.ones(3), "gradient": True, "loss": "mse"},
            "one label for each sample. Received: 3 labels of 64 samples",
        ),
        ({"data": [1.0]}, "data must be an array"),
    ],
)
def test_wrong_arguments_are_refused_at_once(xy, options, message):
    with pytest.raises(ValueError, match=message):
        kx.callbacks.SampleVarianceDecay(**{"data": xy[0]} | options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(None, [32, 32]), (48, [48, 16])]
)
def test_arrays_are_measured_in_batches_of_batch_size(
    xy, batch_size, sizes, monkeypatch
):
    seen, run = [], Meter._run

    def spy(self, batches, *args, **kwargs):
        seen.append([len(batch) for batch in batches])
        return run(self, batches, *args, **kwargs)

    monkeypatch.setattr(Meter, "_run", spy)
    callback = kx.callbacks.SampleVarianceDecay(
        xy[0], batch_size=batch_size, verbose=0
    )
    fit(small_model(), xy, callback, epochs=1)
    assert seen == [sizes, sizes]


def test_expected_of_another_length_is_refused_before_training(xy):
    model = small_model()
    before = model.get_weights()
    callback = kx.callbacks.SampleVarianceDecay(
        xy[0], expected=kx.theory.sample_variance_decay(6), verbose=0
    )
    with pytest.raises(ValueError, match=r"3.* Received: expected of 6 layers"):
        fit(model, xy, callback)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_progress_bar_stays_short(xy, capsys):
    callback = kx.callbacks.SampleVarianceDecay(xy[0], verbose=0)
    history = fit(small_model(), xy, callback, verbose=2).history
    assert set(history) == {"loss", KEY, TOTAL, DEAD}
    assert not re.search("first|second", capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verbose", "in_fit", "lines"),
    [
        # What fit shows, the callback shows.
        ("auto", 0, 0), ("auto", False, 0), ("auto", 1, 2), ("auto", 2, 2),
        ("auto", "auto", 2),
        # A number is an order.
        (0, 1, 0), (1, 0, 2),
    ],
)  # fmt: skip
def test_verbose_is_that_of_the_fit_unless_it_is_given(
    xy, capsys, verbose, in_fit, lines
):
    made = {} if verbose == "auto" else {"verbose": verbose}
    callback = kx.callbacks.SampleVarianceDecay(xy[0], **made)
    fit(small_model(), xy, callback, epochs=1, verbose=in_fit)
    assert capsys.readouterr().out.count("Step ") == lines


def monitors(key):
    """Callbacks of Keras that read a key."""
    return [
        keras.callbacks.EarlyStopping(key, mode="max"),
        keras.callbacks.ReduceLROnPlateau(key, mode="max"),
        keras.callbacks.ModelCheckpoint(
            "none.keras", key, mode="max", save_best_only=True
        ),
    ]


@pytest.mark.parametrize("i", range(3))
@pytest.mark.parametrize(
    ("key", "options", "in_front", "problems"),
    [
        (KEY, {}, True, ["put it behind SampleVarianceDecay"]),
        (TOTAL, {}, True, ["put it behind SampleVarianceDecay"]),
        (f"{KEY}/last", {}, False, ["with per_layer=True"]),
        (
            f"{TOTAL}/last",
            {},
            True,
            ["put it behind", "with per_layer=True"],
        ),
        (f"{KEY}/last", {"per_layer": True}, False, []),
        (KEY, {}, False, []),
        ("loss", {}, True, []),
    ],
)
def test_a_callback_that_cannot_read_our_logs_is_warned_of(
    xy, i, key, options, in_front, problems, monkeypatch
):
    monkeypatch.setattr(
        kx.callbacks.SampleVarianceDecay, "_measure", lambda self: None
    )
    ours = kx.callbacks.SampleVarianceDecay(xy[0], verbose=0, **options)
    other = monitors(key)[i]
    callbacks = [other, ours] if in_front else [ours, other]
    # As fit does, without the time to compile a model.
    around = keras.callbacks.CallbackList(callbacks, model=small_model())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        around.on_train_begin()
    texts = [str(w.message) for w in caught if w.category is UserWarning]
    assert len(texts) == len(problems)
    for text, problem in zip(texts, problems, strict=True):
        assert text.startswith(f"{type(other).__name__}(monitor={key!r})")
        assert problem in text


@pytest.mark.slow
def test_fit_warns_of_the_order_of_callbacks(xy):
    class Ours(kx.callbacks.SampleVarianceDecay):
        def on_train_begin(self, logs=None):
            super().on_train_begin(logs)

    # A list in a list is one list to Keras.
    callbacks = [[keras.callbacks.EarlyStopping(KEY, mode="max")]]
    callbacks.append(Ours(xy[0], verbose=0))
    with pytest.warns(UserWarning) as caught:
        small_model().fit(*xy, epochs=1, verbose=0, callbacks=callbacks)
    ours, keras_s = (w for w in caught if w.category is UserWarning)
    assert "put it behind Ours" in str(ours.message)
    assert "which is not available" in str(keras_s.message)


class WithoutCall(keras.Model):
    """A model that is trained in two parts."""

    def __init__(self):
        super().__init__(name="pair")
        self.encoder = keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(2)], name="encoder"
        )
        self.decoder = keras.Sequential(
            [keras.Input((2,)), keras.layers.Dense(4)], name="decoder"
        )

    def train_step(self, data):
        x = data[0] if isinstance(data, tuple) else data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.decoder(self.encoder(x)) - x) ** 2)
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["model", "function", "other data"])
def test_a_part_of_a_model_without_call_is_watched(xy, how):
    model = WithoutCall()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    part = model.decoder if how == "other data" else model.encoder
    data = xy[0][:, :2] if how == "other data" else xy[0]
    before = kx.measure(part, data)
    callback = kx.callbacks.SampleVarianceDecay(
        data,
        verbose=0,
        model=part if how == "model" else lambda m: getattr(m, part.name),
    )
    history = fit(model, xy[:1], callback).history
    assert callback.profiles[0] == before
    assert callback.profiles[-1] == kx.measure(part, data) != before
    assert callback.measured_at == [(0, 0), (1, 4), (2, 8)]
    assert len(history[KEY]) == 2


def test_a_model_without_call_is_refused_before_and_after_fit(xy):
    message = (
        r"must have a `call`.*measure\(vae.encoder, data\).*model=vae.encoder"
        ".*'pair' of type WithoutCall without `call`.*encoder, decoder"
    )
    model = WithoutCall()
    model.compile("sgd", "mse")
    for _ in range(2):
        for run in (
            lambda: kx.measure(model, xy[0]),
            lambda: kx.calibrate(model, xy[0]),
            lambda: fit(model, xy[:1], kx.callbacks.SampleVarianceDecay(xy[0])),
        ):
            with pytest.raises(ValueError, match=message):
                run()
        fit(model, xy[:1])
    callback = kx.callbacks.SampleVarianceDecay(xy[0], model=lambda m: None)
    with pytest.raises(ValueError, match=r"a function of the .*model=None"):
        fit(model, xy[:1], callback)


@pytest.mark.slow
def test_tensorboard_says_what_is_good(xy, tmp_path):
    callback = kx.callbacks.SampleVarianceDecay(
        xy[0], log_dir=tmp_path, verbose=0
    )
    fit(small_model(), xy, callback, epochs=0)
    (file,) = tmp_path.iterdir()
    texts = {
        value.tag: value.metadata.summary_description
        for record in tf.data.TFRecordDataset(str(file))
        for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value
    }
    assert "from 0.0001 to 10000" in texts[TOTAL]
    assert "from 0.2 on" in texts["sample_fraction/first"]
    assert "from 0.2 on" in texts[f"profile/{KEY}"]
    assert "no aim in itself" in texts[KEY]
