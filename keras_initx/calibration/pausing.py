"""Functions that pause within the calls of other functions."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any

import keras


class Pausing:
    """Runs a function in a thread of its own, which may pause anywhere.

    Either the thread or the caller of `resume` runs, never both, as with a
    generator. A generator pauses only in its own frame, and so not within the
    call of a layer in a model.

    Args:
        function: Called as `function(pause)`. A call of `pause(value)` returns
            at the next `resume`.
    """

    def __init__(self, function: Callable[[Callable[[Any], None]], object]):
        self._function = function
        self._resumed = threading.Semaphore(0)
        self._paused = threading.Semaphore(0)
        self._value: Any = None
        self._error: BaseException | None = None
        self._closed = False
        # Keras has a policy in each thread, for layers that a call makes.
        policy = keras.config.dtype_policy()
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run, policy), daemon=True
        )
        self._thread.start()

    def resume(self) -> Any:
        """Runs the function until it pauses or ends.

        Returns:
            What it pauses with, None at its end.

        Raises:
            BaseException: What the function raises.
        """
        self._resumed.release()
        self._paused.acquire()
        if self._error is not None:
            raise self._error
        return self._value

    def close(self) -> None:
        """Ends the function where it pauses, if it has not ended."""
        self._closed = True
        self._resumed.release()
        self._thread.join()

    def _pause(self, value: Any) -> None:
        self._value = value
        self._paused.release()
        self._resumed.acquire()
        if self._closed:
            raise _ClosedError

    def _run(self, policy: keras.DTypePolicy) -> None:
        keras.config.set_dtype_policy(policy)
        self._resumed.acquire()
        try:
            if not self._closed:
                self._function(self._pause)
        except BaseException as error:
            # Raised where the function is resumed.
            self._error = error
        self._value = None
        self._paused.release()


class _ClosedError(BaseException):
    """Ends a function. As with GeneratorExit, no `except Exception` stops it.

    It stays in the thread.
    """
