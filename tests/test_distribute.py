"""Several devices and several machines find and train what one does.

Logical CPUs stand for devices, processes on this machine for machines. Both
run in processes of their own: on_replicas.py, one_worker.py.
"""

import contextlib
import csv
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import one_worker
import pytest

import keras_initx as kx

TESTS = Path(__file__).parent


def started(script, *arguments, **environment):
    """A process that runs a script of this folder."""
    return subprocess.Popen(
        [sys.executable, str(TESTS / script), *map(str, arguments)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
            "TF_NUM_INTRAOP_THREADS": "1",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# ---- Several devices -------------------------------------------------------


@pytest.fixture(scope="module", params=[2, 4])
def claims(request):
    """For each claim of on_replicas.py its largest relative error."""
    process = started("on_replicas.py", request.param)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return json.loads(out.splitlines()[-1])


def test_replicas_draw_and_find_what_one_device_does(claims):
    kinds = {name.split()[0] for name in claims}
    assert {"initializer", "layer", "measure", "callback", "own"} == kinds
    # An initializer runs once, and its weights are copied.
    exact = {n: e for n, e in claims.items() if n.startswith("initializer")}
    assert set(exact.values()) == {0.0}
    assert not {n: e for n, e in claims.items() if not e <= 1e-5}


def public(module, base):
    """Names of the public classes of a kind."""
    found = {name: getattr(module, name) for name in module.__all__}
    return {
        name
        for name, thing in found.items()
        if isinstance(thing, type) and issubclass(thing, base)
    }


def test_every_public_object_is_in_the_tables():
    import test_initializers
    import test_layers

    drawn = {
        type(row.make()).__name__ for row in test_initializers.ROWS.values()
    }
    assert public(kx.initializers, keras.Initializer) <= drawn
    layers = {type(make()).__name__ for make, _ in test_layers.ROWS.values()}
    assert public(kx.layers, keras.layers.Layer) <= layers


# ---- Several machines ------------------------------------------------------


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def world(script, count, *arguments):
    """Several workers that know of each other."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(count)]
    return [
        started(
            script,
            *arguments,
            TF_CONFIG=json.dumps(
                {
                    "cluster": {"worker": workers},
                    "task": {"type": "worker", "index": i},
                }
            ),
        )
        for i in range(count)
    ]


@contextlib.contextmanager
def ended(processes, timeout=180):
    """Within, all have ended; yields for each its code, output and errors."""
    try:
        said = [process.communicate(timeout=timeout) for process in processes]
        yield [
            (process.returncode, *texts)
            for process, texts in zip(processes, said, strict=True)
        ]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one device makes of the training of one_worker.py."""
    folder = tmp_path_factory.mktemp("alone")
    return one_worker.train(kx.distribute.strategy("default"), folder)


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
    with ended(world("one_worker.py", 3, tmp_path)) as said:
        for code, _, errors in said:
            assert code == 0, errors
        assert "Epoch 4/4" in said[0][1] and "Step 20: sample" in said[0][1]
        assert [out for _, out, _ in said[1:]] == ["", ""], "only the chief"
    found = results(tmp_path, 3)
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


def test_a_killed_worker_ends_the_others_and_a_restart_goes_on(tmp_path, alone):
    workers = world("one_worker.py", 2, tmp_path, "die")
    with ended(workers[1:]) as said:
        assert said[0][0] < 0, said
        died = time.monotonic()
        with ended(workers[:1]) as said:
            # TensorFlow takes 10 s to be sure; the rest is a busy machine's.
            assert time.monotonic() - died < 60
            code, _, errors = said[0]
    assert code != 0
    last = "RuntimeError: All workers must go on together, and another one"
    assert last in errors
    assert "BackupAndRestore" in errors
    assert not list(tmp_path.glob("worker-*.json"))
    with ended(world("one_worker.py", 2, tmp_path)) as said:
        for code, _, errors in said:
            assert code == 0, errors
    for each in results(tmp_path, 2):
        assert each["steps"] == [[2, 0], [3, 5], [4, 10]]
        assert_same_training(each, alone, slice(2, None))
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == list("0123")
    np.testing.assert_allclose(
        [float(row["loss"]) for row in rows],
        alone["history"]["loss"],
        rtol=1e-5,
    )
