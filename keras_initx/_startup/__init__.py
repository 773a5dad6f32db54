"""What the `keras-initx` command does before a backend is imported.

It answers errors in its arguments, and requests for help, without waiting for
TensorFlow, and runs on TensorFlow if that is installed and KERAS_BACKEND names
no other backend. It hides TensorFlow's import notices, which TensorFlow writes
to the standard error of the process at any log level: a library must not hide
them, but the standard error of the command holds only its own messages.

This room stands beside the package's `__init__.py`, because Python imports the
package, and with it TensorFlow, before the command.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from keras_initx._startup import arguments
from keras_initx._startup.errors import one_line

# The module's name, alone or at the end of Python's option, as in "-Bmname".
_OUR_MODULE = re.compile(r"(-\w*m)?keras_initx(\.__main__|\.cli\.main)?")
_BACKENDS = ("tensorflow", "jax", "torch", "openvino")


def is_our_command() -> bool:
    """Whether this process was started as `keras-initx` or with `python -m`."""
    if sys.argv[0] != "-m":
        return Path(sys.argv[0]).stem == "keras-initx"
    # While Python searches for the module of `-m`, sys.argv is "-m" and the
    # module's arguments. In sys.orig_argv the name stands before those.
    module = sys.orig_argv[-len(sys.argv)]
    return _OUR_MODULE.fullmatch(module) is not None


def answer_early(description: str | None, version: str) -> None:
    """Ends this process if its arguments are wrong, or ask for help alone.

    Args:
        description: str or None. As in `arguments.read`.
        version: str. As in `arguments.read`.
    """
    try:
        options = arguments.read(None, description, version)
    except Exception as error:
        sys.stderr.write(f"keras-initx: error: {one_line(error)}\n")
        raise SystemExit(2) from error
    if options.command is None:
        raise SystemExit(0)


def import_keras() -> None:
    """Imports Keras, and says what to install if its backend is missing.

    Raises:
        ImportError: If the backend that Keras is set to is not installed.
        SystemExit: If so, in the `keras-initx` command.
    """
    try:
        importlib.import_module("keras")
    except ModuleNotFoundError as error:
        backend = (error.name or "").partition(".")[0]
        if backend not in _BACKENDS:
            raise
        message = (
            "keras_initx needs a backend of Keras: install one, as by "
            '`pip install "keras-initx[tensorflow]"`, or set KERAS_BACKEND to '
            f"one that is installed. Received: KERAS_BACKEND={backend!r}, "
            "which is not installed"
        )
        if is_our_command():
            raise SystemExit(f"keras-initx: error: {message}") from None
        raise ImportError(message, name=backend) from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops what native code writes to standard error inside the context."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    # A .keras file can be loaded with any backend. Keras's own settings are
    # for the training.
    if importlib.util.find_spec("tensorflow") is not None:
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as devnull:
            os.dup2(devnull.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
