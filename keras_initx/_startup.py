"""Start TensorFlow for the command line, and without its notices.

TensorFlow writes them to the process's standard error while it is imported,
whatever its log level. A library must not hide them; a command of ours, whose
standard error holds one line or nothing, may.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


def is_our_command() -> bool:
    """Whether this process was started as `keras-initx` or by `-m`."""
    if sys.argv[0] != "-m":
        return Path(sys.argv[0]).stem == "keras-initx"
    # So it is while Python looks for the module, whose name stands before its
    # arguments and behind any number of Python's own.
    module = sys.orig_argv[-len(sys.argv)]
    return module.endswith(("keras_initx", "keras_initx.cli.main"))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within, what native code writes to standard error is dropped."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    # A .keras file does not mind which backend it was saved under.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
