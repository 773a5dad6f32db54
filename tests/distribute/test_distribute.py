"""Several devices and several machines find and train what one does.

Logical CPUs stand for devices, processes on this machine for machines. Both
run in processes of their own: on_replicas.py, one_machine.py, one_worker.py.
"""

import contextlib
import csv
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx
from keras_initx.distribute import training
from keras_initx.distribute.worker_callbacks import without_writing
from tests.helpers import tables
from tests.scripts import one_worker

TESTS = Path(__file__).parents[1]


def started(script, *arguments, **environment):
    """A process that runs a script of this folder."""
    return subprocess.Popen(
        [sys.executable, str(TESTS / "scripts" / script), *map(str, arguments)],
        env={
            **os.environ,
            "PYTHONPATH": str(TESTS.parent),
            "TF_NUM_INTRAOP_THREADS": "1",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def running(processes):
    """Within; afterwards none is."""
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def ended(processes, timeout=180):
    """Waits for all, and says of each its code, output and errors."""
    texts = [process.communicate(timeout=timeout) for process in processes]
    codes = [process.returncode for process in processes]
    return [(code, *text) for code, text in zip(codes, texts, strict=True)]


# ---- Several devices -------------------------------------------------------


@pytest.fixture(scope="module", params=[2, 4])
def claims(request):
    """For each claim of on_replicas.py its largest relative error."""
    process = started("on_replicas.py", request.param)
    with running([process]):
        code, out, errors = ended([process], timeout=300)[0]
    assert code == 0, errors
    return json.loads(out.splitlines()[-1])


def test_replicas_draw_and_find_what_one_device_does(claims):
    kinds = {name.split()[0] for name in claims}
    assert kinds == {
        "initializer",
        "layer",
        "measure",
        "whole",
        "callback",
        "own",
    }
    # An initializer runs once, and its weights are copied.
    exact = {n: e for n, e in claims.items() if n.startswith("initializer")}
    assert set(exact.values()) == {0.0}
    assert not {n: e for n, e in claims.items() if not e <= 1e-5}


def test_every_public_object_is_in_the_tables():
    assert not tables.missing()


# ---- Several machines ------------------------------------------------------


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def world(script, count, *arguments, chief=False):
    """Several workers that know of each other, maybe one by name the chief."""
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
        started(
            script,
            *arguments,
            TF_CONFIG=json.dumps({"cluster": cluster, "task": task}),
            WORKER=str(i),
            WORKERS=str(count),
        )
        for i, task in enumerate(tasks)
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one device makes of the training of one_worker.py."""
    folder = tmp_path_factory.mktemp("alone")
    strategy = kx.distribute.get_strategy("default")
    found = one_worker.train(strategy, folder)
    found["whole model"] = one_worker.whole_model(strategy, folder)
    return found


def assert_same_training(found, alone, epochs=slice(None)):
    assert found["epochs"] == alone["epochs"][epochs]
    assert found["history"].keys() == alone["history"].keys()
    for name, values in alone["history"].items():
        np.testing.assert_allclose(
            found["history"][name], values[epochs], rtol=1e-5, err_msg=name
        )
    for mine, its in zip(found["weights"], alone["weights"], strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-6)
    for mine, its in zip(
        found["profiles"][1:],
        alone["profiles"][epochs.start or 0 :][1:],
        strict=True,
    ):
        for name in ("sample_variance", "squared_mean"):
            np.testing.assert_allclose(mine[name], its[name], rtol=1e-5)


def results(folder, count):
    return [
        json.loads((folder / f"worker-{i}.json").read_text(encoding="utf-8"))
        for i in range(count)
    ]


def test_three_machines_train_as_one_device(tmp_path, alone):
    workers = world("one_worker.py", 3, tmp_path, chief=True)
    with running(workers):
        said = ended(workers)
    for code, _, errors in said:
        assert code == 0, errors
    assert "Epoch 4/4" in said[0][1] and "Step 20: sample" in said[0][1]
    assert [out for _, out, _ in said[1:]] == ["", ""], "only the chief"
    found = results(tmp_path, 3)
    assert [each["chief"] for each in found] == [True, False, False]
    for each in found:
        assert each["replicas"] == 3
        assert each["steps"] == [[0, 0], [1, 5], [2, 10], [3, 15], [4, 20]]
        assert_same_training(each, alone)
        # All workers decide by the same numbers, to the last bit.
        assert each["history"] == found[0]["history"]
        assert each["profiles"] == found[0]["profiles"]
    with (tmp_path / "log.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == list("0123")
    saved = keras.models.load_model(tmp_path / "model.keras")
    for mine, its in zip(saved.get_weights(), found[0]["weights"], strict=True):
        np.testing.assert_array_equal(mine, np.float32(its))
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    assert not (tmp_path / "backup").exists()


def killed(folder):
    """Two machines, of which one is killed."""
    workers = world("one_worker.py", 2, folder, "die")
    with running(workers):
        last = ended(workers[1:])
        died = time.time()
        first = ended(workers[:1])
        assert_gone(first + last, time.time() - died)
    assert not list(folder.glob("worker-*.json"))


def frozen(folder):
    """Two machines, of which one freezes in the end: what both said."""
    workers = world("one_worker.py", 2, folder, "freeze")
    with running(workers):
        first = ended(workers[:1])
        now = time.time()
        assert workers[1].poll() is None
        workers[1].kill()
        said = first + ended(workers[1:])
        froze = (folder / "worker-1.json").stat().st_mtime
        assert_gone(said, now - froze)
    return said


def assert_gone(said, outlived):
    """The chief has found that the other is gone, and says so."""
    code, _, errors = said[0]
    assert code != 0 and said[1][0] < 0, errors
    last = "All workers must train together, and it is likely that another one"
    assert last in errors
    assert "RuntimeError: UnavailableError: " in errors
    assert "BackupAndRestore" in errors
    # TensorFlow takes 10 s to be sure; the rest is a busy machine's.
    assert outlived < 60


# One test, since each process that runs tests would run both worlds.
def test_lost_workers_end_the_others_and_a_restart_goes_on(tmp_path, alone):
    killed(tmp_path)
    said = frozen(tmp_path)
    for each in results(tmp_path, 2):
        assert each["chief"] == (each["worker"] == 0)
        assert each["steps"] == [[2, 10], [3, 15], [4, 20]]
        assert_same_training(each, alone, slice(2, None))
        assert_same_whole_model(each["whole model"], alone["whole model"])
        # A late worker finds of a backup what the chief finds.
        assert each["left"] == [[0], []]
        weights, epochs = each["refused"]
        assert "same weights" in weights
        assert "epochs [0, 1]" in epochs
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == list("0123")
    np.testing.assert_allclose(
        [float(row["loss"]) for row in rows],
        alone["history"]["loss"],
        rtol=1e-5,
    )
    # FeatureSymmetry before and after each of two epochs, by the chief.
    assert [out.count("spread of features") for _, out, _ in said] == [4, 0]
    assert len(list((tmp_path / "symmetry").iterdir())) == 2


def assert_same_whole_model(found, alone):
    for mine, its in zip(found["calibrated"], alone["calibrated"], strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["losses"], alone["losses"], rtol=1e-5)
    # The steps of the model are again what they were.
    assert found["kept"] and alone["kept"]


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
def test_an_error_that_a_lost_worker_may_cause_comes_first(error):
    said = rf"^{error.__name__}: a bug\nAll workers .* likely .*BackupAndRest"
    with (
        pytest.raises(RuntimeError, match=said),
        training._explain_lost_worker(),
    ):
        raise error(None, None, "a bug")


@pytest.mark.parametrize(
    ("size", "known"), [(16, True), (15, False), (None, False), ((), False)]
)
def test_batches_that_are_known_to_be_of_equal_shares(size, known):
    class Two:
        num_replicas_in_sync = 2

    class Data:
        shape = () if size == () else (size, 4)
        element_spec = ({"a": tf.TensorSpec(shape)}, tf.TensorSpec(()))

    assert training._has_equal_shares(Data, Two) == known


def test_a_worker_restores_and_writes_nothing(tmp_path):
    keep = [keras.callbacks.EarlyStopping("loss"), keras.callbacks.Callback()]
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    writes = [
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.ModelCheckpoint(tmp_path / "model.keras"),
        keras.callbacks.ProgbarLogger(),
        keras.callbacks.RemoteMonitor(),
        keras.callbacks.TensorBoard(tmp_path / "tensorboard"),
    ]
    *kept, restore = without_writing([*keep, *writes, backup])
    assert kept == keep
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
            x, x[:, :1], epochs=3, verbose=0, callbacks=[backup, Stops(3)]
        )
    assert fit(restore) == [2]
    assert (tmp_path / "backup").exists(), "the chief's to remove"


# ---- Saved in the middle ----------------------------------------------------


class Stops(keras.callbacks.Callback):
    """Raises in the middle of an epoch."""

    def __init__(self, update):
        super().__init__()
        self.update = update

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations.numpy()) == self.update:
            raise KeyboardInterrupt


def summaries(folder):
    """Of each step that TensorBoard finds, the decay of the last layer."""
    found = {}
    for file in sorted(folder.iterdir(), key=lambda f: f.stat().st_mtime_ns):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.tag == "sample_variance_decay/last":
                    found[event.step] = float(tf.make_ndarray(value.tensor))
    return found


def interrupted(folder, stop):
    """Four epochs of five steps, from where `folder` is."""
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
    x, y = one_worker.X, one_worker.Y
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(24)
    probe = kx.callbacks.SampleVarianceDecay(
        x[:50], update_freq=3, log_dir=folder / "log", verbose=0
    )
    kx.distribute.fit(
        model,
        data,
        epochs=4,
        verbose=0,
        callbacks=[
            # First, so that what is measured has been restored.
            keras.callbacks.BackupAndRestore(folder / "backup"),
            probe,
            *([Stops(stop)] if stop else []),
        ],
    )
    return model


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path):
    model = interrupted(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "parts", 13)
    again = interrupted(tmp_path / "parts", None)
    for mine, its in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, its)
    whole = summaries(tmp_path / "whole" / "log")
    parts = summaries(tmp_path / "parts" / "log")
    assert list(whole) == [0, 3, 6, 9, 12, 15, 18]
    # The steps of the training, not of the process; one more where it was
    # restored.
    assert sorted(parts) == [0, 3, 6, 9, 10, 12, 15, 18]
    for step in {*whole} & {*parts}:
        assert parts[step] == pytest.approx(whole[step], rel=1e-6)


def test_what_was_listened_to_is_saved_and_exported_as_it_is(tmp_path):
    model = interrupted(tmp_path, None)
    x = one_worker.X[:8]
    expected = model(x)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        keras.models.load_model(tmp_path / "model.keras")(x), expected
    )
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(served.serve(x), expected, rtol=1e-6)


# ---- The job script --------------------------------------------------------

JOB = "../examples/train_tpu.py"
SMALL = ["--depth=1", "--width=4"]


def machine(folder, rng):
    """What one_machine.py said and found, of images in a folder."""
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
    process = started(
        "one_machine.py",
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
    with running([process]):
        code, out, errors = ended([process])[0]
    assert code == 0, errors
    out, _, found = out.rstrip().rpartition("\n")
    return out, json.loads(found)


def test_two_devices_run_the_job_go_on_and_fit_as_keras(tmp_path, rng):
    out, found = machine(tmp_path, rng)
    before, _, after = out.partition("Stopped.")
    assert "2 replicas, mixed_bfloat16" in before
    assert "Step 4: sample fraction" in before
    assert "Epoch 2/2" in before
    assert "Epoch 1/2" not in after and "Epoch 2/2" in after
    kinds = {file.suffix for file in (tmp_path / "log").iterdir()}
    assert kinds == {".csv", ".v2"}
    with (tmp_path / "log" / "log.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1"]
    model = keras.models.load_model(tmp_path / "checkpoint" / "model.keras")
    assert model.input_shape == (None, 8, 8, 3)
    assert found["ours"] == found["Keras's"]
    assert "steps_per_execution=2" in found["refused"]
    # Keras's own fit ends in an error where replicas do not divide the first
    # batch. A replica's mean counts as another's: each sample of a share of 8
    # counts 7/8 of one of a share of 7.
    for mine, its in zip(found["uneven"], found["weighed"], strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-6)
    # The model is again what it was, and runs under Keras.
    assert found["left over"] == []
    assert np.isfinite(found["mine"]).all()
    assert found["predicted"] == 16


def test_job_tells_its_options(capsys):
    spec = importlib.util.spec_from_file_location("train_tpu", TESTS / JOB)
    job = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(job)
    with pytest.raises(SystemExit, match=r"^0$"):
        job.main(["--help"])
    assert "--checkpoint-dir" in capsys.readouterr().out


def test_job_on_two_machines(tmp_path):
    arguments = [*SMALL, "--epochs=1", "--batch-size=240"]
    workers = world(JOB, 2, *arguments, f"--log-dir={tmp_path}")
    with running(workers):
        said = ended(workers)
    for code, _, errors in said:
        assert code == 0, errors
    assert "val_accuracy" in said[0][1].splitlines()[-1]
    assert said[1][1] == ""


# ---- Mistakes --------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ({"kind": "gpu"}, {}, "kind='gpu'"),
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
def test_strategies_that_are_refused(
    arguments, environment, message, monkeypatch
):
    for name in ("TF_CONFIG", "TPU_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=rf"(?s)Received: .*{message}"):
        kx.distribute.get_strategy(**arguments)


def test_no_tpu_is_an_error_that_says_so(monkeypatch):
    monkeypatch.delenv("TPU_NAME", raising=False)
    with pytest.raises(RuntimeError, match=r"must answer .* tpu=None"):
        kx.distribute.get_strategy("tpu")


@pytest.mark.parametrize("how", ["named", "in the environment"])
def test_a_tpu_is_connected_to_and_initialised_first(how, monkeypatch):
    """With TensorFlow's own steps replaced: no TPU is at hand."""
    done = []

    def step(name):
        def note(*args, **keywords):
            done.append((name, *args, *keywords.values()))
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
        found = kx.distribute.get_strategy("auto", tpu="pod")
    else:
        monkeypatch.setenv("TPU_NAME", "pod")
        found = kx.distribute.get_strategy()
    assert found == "TPUStrategy"
    resolver = "TPUClusterResolver"
    assert done == [
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
    # A script for several machines runs on one as well.
    one = kx.distribute.get_strategy("auto", timeout=60)
    assert one is tf.distribute.get_strategy()
    mirrored = kx.distribute.get_strategy("mirrored", devices=["CPU:0"])
    assert mirrored.num_replicas_in_sync == 1
    assert kx.distribute.is_chief(mirrored)


@pytest.mark.parametrize(("gpus", "is_mirrored"), [(1, False), (2, True)])
def test_auto_counts_the_gpus(gpus, is_mirrored, monkeypatch):
    for name in ("TF_CONFIG", "TPU_NAME"):
        monkeypatch.delenv(name, raising=False)
    found = {"GPU": ["GPU"] * gpus, "CPU": ["CPU"]}
    monkeypatch.setattr(tf.config, "list_physical_devices", found.get)
    chosen = kx.distribute.get_strategy()
    assert isinstance(chosen, tf.distribute.MirroredStrategy) == is_mirrored


@pytest.mark.parametrize("timeout", [None, 5])
def test_the_timeout_is_that_of_what_workers_say_to_each_other(
    timeout, monkeypatch
):
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
def test_data_must_be_data_sets(name):
    x = np.ones((8, 4), np.float32)
    good = tf.data.Dataset.from_tensors((x, x[:, :1]))
    given = {"dataset": good, name: (x, x[:, :1])}
    with pytest.raises(ValueError, match=rf"{name} must be .*type tuple"):
        kx.distribute.fit(compiled_model(), **given)


def test_one_device_takes_what_keras_takes():
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
