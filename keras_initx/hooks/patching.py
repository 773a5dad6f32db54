"""Replaces a callable attribute of an object for a while, thread by thread."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def replaced(
    owner: object, name: str, wrap: Callable[[Callable], Callable]
) -> Iterator[None]:
    """Replaces `owner.name` by `wrap(owner.name)` within, in this thread.

    Replicas of a model are threads that may take turns in the middle of a
    layer's call. Several of them may then have replaced one attribute, and
    they restore it in any order.

    Args:
        owner: The object whose instance attribute is set.
        name: str. The name of a callable attribute.
        wrap: Called as `wrap(callable)`; returns the callable that takes its
            place.
    """
    # Not through setattr: a Keras layer tracks, and may lock, what is set.
    attributes = vars(owner)
    thread = threading.get_ident()
    with _lock:
        shared = attributes.get(name)
        if not isinstance(shared, _ByThread):
            shared = _ByThread(getattr(owner, name), name in attributes)
            attributes[name] = shared
        outer = shared.of_thread.get(thread)
        shared.of_thread[thread] = wrap(shared.current())
    try:
        yield
    finally:
        with _lock:
            if outer is not None:
                shared.of_thread[thread] = outer
            else:
                del shared.of_thread[thread]
            if not shared.of_thread:
                if shared.was_set:
                    attributes[name] = shared.original
                else:
                    del attributes[name]


_lock = threading.Lock()


class _ByThread:
    """Stands in for a callable and forwards to the calling thread's own."""

    def __init__(self, original: Callable, was_set: bool):
        # Keras reads the signatures of calls.
        functools.update_wrapper(self, original, updated=())
        self.original = original
        self.was_set = was_set
        self.of_thread: dict[int, Callable] = {}

    def current(self) -> Callable:
        return self.of_thread.get(threading.get_ident(), self.original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.current()(*args, **kwargs)
