"""Processes that run scripts, forked from one that has imported Keras."""

import atexit
import contextlib
import functools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "tests" / "scripts" / "fork_server.py"
FORKED_PYTHON = SERVER.with_name("forked_python.py")
# The name of the environment variable with the address of the server.
ADDRESS = "KERAS_INITX_FORK_SERVER"
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


def start_server():
    """Starts fork_server.py, which ends with this process.

    Returns:
        The address of the server, which the processes that this one starts find
        in their environment.
    """
    folder = tempfile.mkdtemp()
    address = str(Path(folder) / "server")
    incoming = socket.create_server(address, family=socket.AF_UNIX)
    # A process is forked safely only while it has no other threads.
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, str(SERVER), str(incoming.fileno())],
        env={**os.environ, **one_thread, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        pass_fds=[incoming.fileno()],
    )
    incoming.close()
    atexit.register(shutil.rmtree, folder)
    atexit.register(server.communicate)
    os.environ[ADDRESS] = address
    return address


@functools.cache
def _address():
    """The address of the server of all processes of pytest-xdist, or of one."""
    return os.environ.get(ADDRESS) or start_server()


def forked_python():
    """Returns the words of a command that runs `-c CODE` as Python does.

    Keras is imported already.
    """
    # Options that let an interpreter start in an instant.
    return [sys.executable, "-I", "-S", str(FORKED_PYTHON), _address()]


def cpu_seconds():
    """Returns the CPU time of all processes that have ended."""
    return sum(_cpu_seconds)


class Process:
    """A process that runs a script, in a `with` block that ends it."""

    def __init__(self, script, *arguments, **environment):
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        self._paths = [folder / "output", folder / "errors"]
        for path in self._paths:
            path.touch()
        self._code = None
        request = [
            str(ROOT / script),
            [str(each) for each in arguments],
            {**os.environ, **environment},
            os.getcwd(),
        ]
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(_address())
        message = json.dumps(request).encode() + b"\n"
        with contextlib.ExitStack() as stack:
            streams = [
                stack.enter_context(open(path, mode)).fileno()
                for path, mode in zip(
                    [os.devnull, *self._paths], "rww", strict=True
                )
            ]
            sent = socket.send_fds(self._server, [message], streams)
        self._server.sendall(message[sent:])
        self._answers = self._server.makefile()
        self._number = json.loads(self._answers.readline())

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.kill()
        self._answers.close()
        self._server.close()
        self._folder.cleanup()

    def poll(self):
        """Returns the exit code, or None while the process runs."""
        if self._code is None and select.select([self._server], [], [], 0)[0]:
            self._code, seconds = json.loads(self._answers.readline())
            _cpu_seconds.append(seconds)
        return self._code

    def kill(self):
        # The number of an ended process is free, and may be another one's.
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
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
