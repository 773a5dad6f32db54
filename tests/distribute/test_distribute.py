"""Tests that several devices and several machines compute what one does.

Logical CPUs stand for devices, and processes on this machine for machines. The
scripts compare_replicas.py, train_two_devices.py and train_worker.py run in
processes of their own.
"""

import contextlib
import csv
import importlib.util
import json
import socket
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx
from keras_initx.distribute import training
from keras_initx.distribute.worker_callbacks import without_writing
from tests.helpers import processes, tables
from tests.scripts import train_worker


def run(script, *arguments):
    """Runs a script of the repository and returns what it printed."""
    ended = processes.run(script, *arguments, **processes.QUICK_XLA)
    assert ended.code == 0, ended.errors
    return ended.output


# ---- Several devices -------------------------------------------------------


@pytest.fixture(scope="module", params=[2, 3])
def relative_errors(request):
    """Returns the largest relative error of each comparison of replicas."""
    output = run("tests/scripts/compare_replicas.py", request.param)
    errors = json.loads(output.splitlines()[-1])
    kinds = {name.split()[0] for name in errors}
    two = {"initializer", "layer", "callbacks"} if request.param == 2 else set()
    assert kinds == {"measure", "weights"} | two
    return errors


@pytest.mark.slow
@pytest.mark.isolated
def test_replicas_compute_what_one_device_does(relative_errors):
    for name, error in relative_errors.items():
        # An initializer runs once, and its weights are copied.
        assert error <= (0 if name.startswith("initializer") else 1e-5), name


def test_every_public_object_is_in_the_tables():
    assert not tables.missing()


# ---- Several machines ------------------------------------------------------


TRAIN_WORKER = "tests/scripts/train_worker.py"


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def start_workers(script, count, *arguments, chief=False):
    """Starts several workers of one cluster, the first as chief if asked."""
    hosts = [f"127.0.0.1:{port}" for port in free_ports(count)]
    cluster = {"worker": hosts}
    if chief:
        cluster = {"chief": hosts[:1], "worker": hosts[1:]}
    tasks = [
        {"type": job, "index": i}
        for job, hosts in cluster.items()
        for i in range(len(hosts))
    ]
    return [
        processes.Process(
            script,
            *arguments,
            **processes.QUICK_XLA,
            TF_CONFIG=json.dumps({"cluster": cluster, "task": task}),
            WORKER=str(i),
            WORKERS=str(count),
        )
        for i, task in enumerate(tasks)
    ]


@pytest.fixture(scope="module")
def single_device(tmp_path_factory):
    """Returns the results of train_worker.py on one device."""
    folder = tmp_path_factory.mktemp("single_device")
    strategy = kx.distribute.get_strategy("default")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)  # Figures take a second.
        results = train_worker.train(strategy, folder)
        results["custom step"] = train_worker.train_custom_step(
            strategy, folder
        )
    return results


def assert_close_weights(weights, expected):
    for weight, value in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, value, rtol=1e-5, atol=1e-6)


def assert_same_training(results, expected, epochs=slice(None)):
    assert results["epochs"] == expected["epochs"][epochs]
    assert results["history"].keys() == expected["history"].keys()
    for name, values in expected["history"].items():
        np.testing.assert_allclose(
            results["history"][name], values[epochs], rtol=1e-5, err_msg=name
        )
    assert_close_weights(results["weights"], expected["weights"])
    for profile, reference in zip(
        results["profiles"][1:],
        expected["profiles"][epochs.start or 0 :][1:],
        strict=True,
    ):
        for name in ("sample_variance", "squared_mean", "gradient"):
            np.testing.assert_allclose(
                profile[name], reference[name], rtol=1e-5
            )
        # A file has no column for what was measured in no row.
        assert profile.keys() == reference.keys()
        assert "dead_fraction" in profile
        for name in profile.keys() & {"dead_fraction", "saturated_fraction"}:
            np.testing.assert_array_equal(
                np.float64(profile[name]), np.float64(reference[name])
            )


def read_results(folder, count):
    return [
        json.loads((folder / f"worker-{i}.json").read_text(encoding="utf-8"))
        for i in range(count)
    ]


@pytest.mark.slow
@pytest.mark.isolated
def test_three_machines_train_as_one_device(tmp_path, single_device):
    workers = start_workers(TRAIN_WORKER, 3, tmp_path, chief=True)
    with processes.running(workers):
        ended = [worker.wait() for worker in workers]
    for code, _, errors in ended:
        assert code == 0, errors
    (_, chief_output, _), *others = ended
    assert "Epoch 4/4" in chief_output and "Step 20: total" in chief_output
    assert [output for _, output, _ in others] == ["", ""]
    results = read_results(tmp_path, 3)
    assert [each["chief"] for each in results] == [True, False, False]
    for each in results:
        assert each["replicas"] == 3
        assert each["steps"] == [[0, 0], [1, 5], [2, 10], [3, 15], [4, 20]]
        assert_same_training(each, single_device)
        # All workers hold the same numbers, to the last bit.
        assert each["history"] == results[0]["history"]
        assert each["profiles"] == results[0]["profiles"]
    with (tmp_path / "log.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == list("0123")
    saved = keras.models.load_model(tmp_path / "model.keras")
    for weight, expected in zip(
        saved.get_weights(), results[0]["weights"], strict=True
    ):
        np.testing.assert_array_equal(weight, np.float32(expected))
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    assert not (tmp_path / "backup").exists()


def lose_worker(folder, how):
    """Runs two workers, of which the last is killed, or stopped at the end.

    Returns:
        The code, output and errors of both.
    """
    workers = start_workers(TRAIN_WORKER, 2, folder, how)
    with processes.running(workers):
        chief = workers[0].wait()
        outlived = time.time() - (folder / how).stat().st_mtime
        if how == "freeze":
            # The chief ends while the other has neither ended nor continued.
            assert workers[1].poll() is None
            workers[1].kill()
        lost = workers[1].wait()
    assert chief.code != 0 and lost.code < 0, chief.errors
    explanation = (
        "All workers must train together, and it is likely that another one"
    )
    assert explanation in chief.errors
    assert "RuntimeError: UnavailableError: " in chief.errors
    assert "BackupAndRestore" in chief.errors
    # TensorFlow knows after 10 s. A machine may be busy, but the limit of each
    # wait is not reached.
    assert outlived < train_worker.TIMEOUT
    return chief, lost


# One test for both, because the second continues what the first has begun.
@pytest.mark.slow
@pytest.mark.isolated
def test_lost_worker_ends_the_others_and_a_restart_continues(
    tmp_path, single_device
):
    lose_worker(tmp_path, "kill")
    assert not list(tmp_path.glob("worker-*.json"))
    ended = lose_worker(tmp_path, "freeze")
    for each in read_results(tmp_path, 2):
        assert each["chief"] == (each["worker"] == 0)
        assert each["steps"] == [[2, 10], [3, 15], [4, 20]]
        assert_same_training(each, single_device, slice(2, None))
        assert_same_custom_step(
            each["custom step"], single_device["custom step"]
        )
        # A late worker finds the same state of the backup as the chief.
        assert each["resumed"] == [[0], []]
        weights_error, epochs_error = each["errors"]
        assert "same weights" in weights_error
        assert "epochs [0, 1]" in epochs_error
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == list("0123")
    np.testing.assert_allclose(
        [float(row["loss"]) for row in rows],
        single_device["history"]["loss"],
        rtol=1e-5,
    )
    # FeatureSymmetry of the chief, before and after each of two epochs.
    printed = [output.count("spread of features") for _, output, _ in ended]
    assert printed == [4, 0]
    assert len(list((tmp_path / "symmetry").iterdir())) == 2


def assert_same_custom_step(results, expected):
    assert_close_weights(results["calibrated"], expected["calibrated"])
    np.testing.assert_allclose(results["losses"], expected["losses"], rtol=1e-5)
    # `fit` has restored the steps of the model.
    assert results["kept"] and expected["kept"]


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.InternalError,
        tf.errors.UnavailableError,
    ],
)
def test_explanation_starts_with_the_error_of_tensorflow(error):
    message = (
        rf"^{error.__name__}: a bug\nAll workers .* likely .*BackupAndRest"
    )
    with (
        pytest.raises(RuntimeError, match=message),
        training._explain_lost_worker(),
    ):
        raise error(None, None, "a bug")


@pytest.mark.parametrize(
    ("size", "known"), [(16, True), (15, False), (None, False), ((), False)]
)
def test_equal_shares_of_a_batch_are_recognized(size, known):
    class Two:
        num_replicas_in_sync = 2

    class Data:
        shape = () if size == () else (size, 4)
        element_spec = ({"a": tf.TensorSpec(shape)}, tf.TensorSpec(()))

    assert training._has_equal_shares(Data, Two) == known


@pytest.mark.slow
def test_other_workers_restore_backups_and_write_nothing(tmp_path):
    others = [
        keras.callbacks.EarlyStopping("loss"),
        keras.callbacks.Callback(),
    ]
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    writing = [
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.ModelCheckpoint(tmp_path / "model.keras"),
        keras.callbacks.ProgbarLogger(),
        keras.callbacks.RemoteMonitor(),
        keras.callbacks.TensorBoard(tmp_path / "tensorboard"),
    ]
    *kept, restore = without_writing([*others, *writing, backup])
    assert kept == others
    x = np.ones((8, 4), np.float32)

    def fit(callback):
        model = compiled_model()
        return model.fit(
            x, x[:, :1], epochs=3, verbose=0, callbacks=[callback]
        ).epoch

    assert fit(restore) == [0, 1, 2]
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        model = compiled_model()
        model.fit(
            x, x[:, :1], epochs=3, verbose=0, callbacks=[backup, Interrupt(3)]
        )
    assert fit(restore) == [2]
    # Only the chief removes the backup.
    assert (tmp_path / "backup").exists()


# ---- Saved in the middle ----------------------------------------------------


class Interrupt(keras.callbacks.Callback):
    """Interrupts the training after a number of updates."""

    def __init__(self, update):
        super().__init__()
        self.update = update

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations.numpy()) == self.update:
            raise KeyboardInterrupt


def read_summaries(folder):
    """Returns the decay of the last layer by step, as TensorBoard reads it."""
    decay = {}
    for file in sorted(folder.iterdir(), key=lambda f: f.stat().st_mtime_ns):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.tag == "sample_variance_decay/last":
                    decay[event.step] = float(tf.make_ndarray(value.tensor))
    return decay


def train_with_backup(folder, interrupt_at=None):
    """Trains for four epochs of five steps, or continues from the backup."""
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(
                8, "relu", kernel_initializer=kx.initializers.AlphaStable(1.8)
            ),
            keras.layers.Dense(1, name="last"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    x, y = train_worker.X, train_worker.Y
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(24)
    decay = kx.callbacks.SampleVarianceDecay(
        x[:50], update_freq=3, log_dir=folder / "log", verbose=0
    )
    kx.distribute.fit(
        model,
        data,
        epochs=4,
        verbose=0,
        callbacks=[
            # It comes first, so that the restored weights are measured.
            keras.callbacks.BackupAndRestore(folder / "backup"),
            decay,
            *([Interrupt(interrupt_at)] if interrupt_at else []),
        ],
    )
    return model


@pytest.mark.slow
@pytest.mark.usefixtures("no_matplotlib")
def test_interrupted_training_continues_with_equal_results(tmp_path):
    model = train_with_backup(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_with_backup(tmp_path / "parts", interrupt_at=13)
    resumed = train_with_backup(tmp_path / "parts")
    for weight, expected in zip(
        resumed.get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(weight, expected)
    whole = read_summaries(tmp_path / "whole" / "log")
    parts = read_summaries(tmp_path / "parts" / "log")
    assert list(whole) == [0, 3, 6, 9, 12, 15, 18]
    # Steps are counted over the whole training. The profile at step 10 is that
    # of the restored weights.
    assert sorted(parts) == [0, 3, 6, 9, 10, 12, 15, 18]
    for step in {*whole} & {*parts}:
        assert parts[step] == pytest.approx(whole[step], rel=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("no_matplotlib")
def test_measured_model_is_saved_and_exported_unchanged(tmp_path):
    model = train_with_backup(tmp_path)
    x = train_worker.X[:8]
    expected = model(x)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        keras.models.load_model(tmp_path / "model.keras")(x), expected
    )
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(served.serve(x), expected, rtol=1e-6)


# ---- The example script ----------------------------------------------------

TRAIN_TPU = "examples/train_tpu.py"
SMALL = ["--depth=1", "--width=4"]


def run_two_devices(folder, rng):
    """Returns the output and results of train_two_devices.py on images."""
    with tf.io.TFRecordWriter(str(folder / "images-0.tfrecord")) as writer:
        for i in range(64):
            image = rng.integers(0, 256, (9, 7, 3), np.uint8)
            features = {
                "image/encoded": tf.train.Feature(
                    bytes_list=tf.train.BytesList(
                        value=[tf.io.encode_png(image).numpy()]
                    )
                ),
                "image/class/label": tf.train.Feature(
                    int64_list=tf.train.Int64List(value=[i % 10])
                ),
            }
            example = tf.train.Example(
                features=tf.train.Features(feature=features)
            )
            writer.write(example.SerializeToString())
    output = run(
        "tests/scripts/train_two_devices.py",
        *SMALL,
        "--strategy=mirrored",
        "--precision=mixed_bfloat16",
        "--initializer=stable",
        f"--data=tfrecord:{folder}/images-*",
        "--image-size=8",
        "--batch-size=16",
        "--steps-per-epoch=4",
        f"--log-dir={folder}/log",
        f"--checkpoint-dir={folder}/checkpoint",
    )
    out, _, results = output.rstrip().rpartition("\n")
    return out, json.loads(results)


@pytest.mark.slow
@pytest.mark.isolated
def test_two_devices_train_resume_and_fit_as_keras_does(tmp_path, rng):
    out, results = run_two_devices(tmp_path, rng)
    before, _, after = out.partition("Stopped.")
    assert "2 replicas, mixed_bfloat16" in before
    assert "Step 4: total" in before
    assert "Epoch 2/2" in before
    assert "Epoch 1/2" not in after and "Epoch 2/2" in after
    kinds = {file.suffix for file in (tmp_path / "log").iterdir()}
    assert kinds == {".csv", ".v2"}
    with (tmp_path / "log" / "log.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1"]
    model = keras.models.load_model(tmp_path / "checkpoint" / "model.keras")
    assert model.input_shape == (None, 8, 8, 3)
    assert results["fit"] == results["Keras fit"]
    assert "steps_per_execution=2" in results["steps error"]
    # Keras's own fit raises an error where replicas do not divide the first
    # batch. The means of both replicas count alike, so that each sample of a
    # share of 8 counts 7/8 of a sample of a share of 7.
    assert_close_weights(results["uneven"], results["weighted"])
    # `fit` leaves no attributes in the model, which then runs under Keras.
    assert results["attributes"] == []
    assert np.isfinite(results["evaluated"]).all()
    assert results["predicted"] == 16


def test_train_tpu_lists_its_options(capsys):
    spec = importlib.util.spec_from_file_location(
        "train_tpu", processes.ROOT / TRAIN_TPU
    )
    train_tpu = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train_tpu)
    with pytest.raises(SystemExit, match=r"^0$"):
        train_tpu.main(["--help"])
    assert "--checkpoint-dir" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.isolated
def test_train_tpu_on_two_machines(tmp_path):
    arguments = [*SMALL, "--epochs=1", "--batch-size=240"]
    workers = start_workers(TRAIN_TPU, 2, *arguments, f"--log-dir={tmp_path}")
    with processes.running(workers):
        ended = [worker.wait() for worker in workers]
    for code, _, errors in ended:
        assert code == 0, errors
    (_, chief_output, _), (_, other_output, _) = ended
    assert "val_accuracy" in chief_output.splitlines()[-1]
    assert other_output == ""


# ---- Strategies and arguments ---------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ({"kind": "gpu"}, {}, "kind='gpu'"),
        ({"kind": "gpus"}, {}, "kind='gpus'"),
        ({"kind": "multiworker"}, {}, "TF_CONFIG=None"),
        ({"kind": "auto"}, {"TF_CONFIG": "{nonsense"}, "TF_CONFIG='{nonsense'"),
        ({"kind": "auto"}, {"TF_CONFIG": "[1]"}, r"TF_CONFIG='\[1\]'"),
        ({"kind": "auto"}, {"TF_CONFIG": '{"cluster": {"worker": 2}}'}, "2}}'"),
        ({"kind": "default", "devices": ["CPU:0"]}, {}, "kind='default'"),
        ({"kind": "auto", "devices": ["CPU:0"]}, {}, "kind='default'"),
        ({"kind": "default", "timeout": 5}, {}, "timeout=5, kind='default'"),
        ({"kind": "mirrored", "tpu": "pod"}, {}, "tpu='pod', kind='mirr"),
        ({"kind": "auto", "timeout": 0}, {}, "timeout=0"),
        ({"kind": "mirrored", "devices": []}, {}, r"devices=\[\]"),
        ({"kind": "mirrored", "devices": "CPU:0"}, {}, "devices='CPU:0'"),
    ],
)
def test_wrong_arguments_of_get_strategy(
    arguments, environment, message, monkeypatch
):
    for name in ("TF_CONFIG", "TPU_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=rf"(?s)Received: .*{message}"):
        kx.distribute.get_strategy(**arguments)


def test_gpu_is_no_kind_and_the_message_says_which_is():
    with pytest.raises(ValueError, match='"mirrored" for several GPUs'):
        kx.distribute.get_strategy("gpu")


def test_error_without_a_tpu(monkeypatch):
    monkeypatch.delenv("TPU_NAME", raising=False)
    with pytest.raises(RuntimeError, match=r"must answer .* tpu=None"):
        kx.distribute.get_strategy("tpu")


@pytest.mark.parametrize("how", ["named", "in the environment"])
def test_tpu_is_connected_and_initialized_first(how, monkeypatch):
    """Replaces TensorFlow's functions for TPUs, since the test has none."""
    calls = []

    def step(name):
        def note(*args, **keywords):
            calls.append((name, *args, *keywords.values()))
            return name

        return note

    monkeypatch.delenv("TF_CONFIG", raising=False)
    for place, name in (
        (tf.distribute.cluster_resolver, "TPUClusterResolver"),
        (tf.config, "experimental_connect_to_cluster"),
        (tf.tpu.experimental, "initialize_tpu_system"),
        (tf.distribute, "TPUStrategy"),
    ):
        monkeypatch.setattr(place, name, step(name))
    if how == "named":
        monkeypatch.delenv("TPU_NAME", raising=False)
        strategy = kx.distribute.get_strategy("auto", tpu="pod")
    else:
        monkeypatch.setenv("TPU_NAME", "pod")
        strategy = kx.distribute.get_strategy()
    assert strategy == "TPUStrategy"
    resolver = "TPUClusterResolver"
    assert calls == [
        (resolver, "pod"),
        ("experimental_connect_to_cluster", resolver),
        ("initialize_tpu_system", resolver),
        ("TPUStrategy", resolver),
    ]


def test_strategies_of_one_machine(monkeypatch):
    for name in ("TF_CONFIG", "TPU_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert kx.distribute.get_strategy() is tf.distribute.get_strategy()
    one = json.dumps({"cluster": {"worker": ["localhost:1"]}})
    monkeypatch.setenv("TF_CONFIG", one)
    assert kx.distribute.get_strategy("auto") is tf.distribute.get_strategy()
    # A script for several machines also runs on one.
    one = kx.distribute.get_strategy("auto", timeout=60)
    assert one is tf.distribute.get_strategy()
    mirrored = kx.distribute.get_strategy("mirrored", devices=["CPU:0"])
    assert mirrored.num_replicas_in_sync == 1
    assert kx.distribute.is_chief(mirrored)


@pytest.mark.parametrize(("gpus", "is_mirrored"), [(1, False), (2, True)])
def test_auto_counts_the_gpus(gpus, is_mirrored, monkeypatch):
    for name in ("TF_CONFIG", "TPU_NAME"):
        monkeypatch.delenv(name, raising=False)
    devices = {"GPU": ["GPU"] * gpus, "CPU": ["CPU"]}
    monkeypatch.setattr(tf.config, "list_physical_devices", devices.get)
    chosen = kx.distribute.get_strategy()
    assert isinstance(chosen, tf.distribute.MirroredStrategy) == is_mirrored


@pytest.mark.parametrize("timeout", [None, 5])
def test_timeout_applies_to_the_messages_between_workers(timeout, monkeypatch):
    def note(communication_options):
        return communication_options.timeout_seconds

    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", note)
    cluster = {"cluster": {"chief": ["a:1"], "worker": ["b:1"]}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    monkeypatch.delenv("TPU_NAME", raising=False)
    assert kx.distribute.get_strategy("auto", timeout=timeout) == timeout


def compiled_model(**options):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", **options)
    return model


@pytest.mark.parametrize("name", ["dataset", "validation_data"])
def test_data_must_be_datasets(name):
    x = np.ones((8, 4), np.float32)
    good = tf.data.Dataset.from_tensors((x, x[:, :1]))
    data = {"dataset": good, name: (x, x[:, :1])}
    with pytest.raises(ValueError, match=rf"{name} must be .*type tuple"):
        kx.distribute.fit(compiled_model(), **data)


def test_one_device_accepts_all_arguments_of_keras_fit():
    x = np.ones((8, 4), np.float32)
    data = tf.data.Dataset.from_tensors((x, x[:, :1])).repeat(4)
    history = kx.distribute.fit(
        compiled_model(steps_per_execution=2),
        data,
        epochs=3,
        initial_epoch=1,
        validation_data=data,
        validation_freq=2,
        verbose=0,
    )
    assert history.epoch == [1, 2]
    assert len(history.history["val_loss"]) == 1
