"""Processes that run scripts, forked from one that has imported Keras."""

import atexit
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "tests" / "scripts" / "fork_server.py"
# Seconds after which a process is taken to hang, also on a busy machine.
HANGS = 3600
# Where XLA's kernels run once, optimizing their code does not pay. This changes
# the rounding, so that accuracy is tested without it.
QUICK_XLA = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}


_cpu_seconds = []


class Ended(NamedTuple):
    """The exit code of a process, negative for a signal, and what it wrote."""

    code: int
    output: str
    errors: str


@functools.cache
def _server():
    """Starts fork_server.py, which ends with this process."""
    # A process is forked safely only while it has no other threads.
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, str(SERVER)],
        env={**os.environ, **one_thread, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)
    return server


def cpu_seconds():
    """Returns the CPU time of all processes that have ended."""
    return sum(_cpu_seconds)


def _ask(command, argument):
    server = _server()
    print(json.dumps([command, argument]), file=server.stdin, flush=True)
    return json.loads(server.stdout.readline())


class Process:
    """A process that runs a script, in a `with` block that ends it."""

    def __init__(self, script, *arguments, **environment):
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        self._paths = [folder / "output", folder / "errors"]
        for path in self._paths:
            path.touch()
        self._code = None
        self._number = _ask(
            "start",
            {
                "arguments": [str(ROOT / script), *map(str, arguments)],
                "environment": {**os.environ, **environment},
                "streams": [str(path) for path in self._paths],
            },
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.kill()
        self._folder.cleanup()

    def poll(self):
        """Returns the exit code, or None while the process runs."""
        if self._code is None and (answer := _ask("poll", self._number)):
            self._code, seconds = answer
            _cpu_seconds.append(seconds)
        return self._code

    def kill(self):
        # The number of an ended process is free only after a poll.
        if self.poll() is None:
            os.kill(self._number, signal.SIGKILL)
            self.wait()

    def wait(self):
        """Waits for the end and returns an `Ended`."""
        end = time.monotonic() + HANGS
        while self.poll() is None:
            assert time.monotonic() < end, "the process hangs"
            time.sleep(0.02)
        texts = [path.read_text(encoding="utf-8") for path in self._paths]
        return Ended(self._code, *texts)


@contextlib.contextmanager
def running(processes):
    """Ends the processes at the end, also after an exception."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(process) for process in processes]


def run(script, *arguments, **environment):
    """Runs a script to its end and returns an `Ended`."""
    with Process(script, *arguments, **environment) as process:
        return process.wait()


def run_code(code, *arguments):
    """Runs code as a script to its end and returns an `Ended`."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "script.py"
        script.write_text(code, encoding="utf-8")
        return run(script, *arguments)
