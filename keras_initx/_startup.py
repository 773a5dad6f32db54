"""Hides TensorFlow's import notices when the `keras-initx` command starts.

TensorFlow writes them to the standard error of the process while it is being
imported, at any log level. A library must not hide them. The command does, so
that its standard error holds only its own messages. This module stands beside
the package's `__init__.py`, because Python imports the package, and with it
TensorFlow, before the command.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

# The module's name, alone or at the end of Python's option, as in "-Bmname".
_OUR_MODULE = re.compile(r"(-\w*m)?keras_initx(\.__main__|\.cli\.main)?")


def is_our_command() -> bool:
    """Whether this process was started as `keras-initx` or with `python -m`."""
    if sys.argv[0] != "-m":
        return Path(sys.argv[0]).stem == "keras-initx"
    # While Python searches for the module of `-m`, sys.argv is "-m" and the
    # module's arguments. In sys.orig_argv the name stands before those.
    module = sys.orig_argv[-len(sys.argv)]
    return _OUR_MODULE.fullmatch(module) is not None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops what native code writes to standard error inside the context."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    # A .keras file can be loaded with any backend, and measuring needs this.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as devnull:
            os.dup2(devnull.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
