"""Hear every layer's pre-activation during one forward pass of any model.

Keras has no forward hook, and the walk over the layers inside layers is not
public. What is public is the name `keras.layers.Layer.__call__`, through which
every layer runs: wrapped for the length of one forward pass, it meets exactly
the layers that run, in their order. The pre-activation of a layer with a fused
activation is what enters `layer.activation`, so that attribute is wrapped for
the length of that layer's call.

Layers that run others once a time step are the business of `sequences.py`.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from keras_initx.hooks import sequences
from keras_initx.hooks.heard import (
    After,
    Heard,
    Listener,
    Picks,
    check_reachable,
    swapped,
)
from keras_initx.inspection.linear_units import holds_kernel


@contextlib.contextmanager
def listening(
    listener: Listener, picks: Picks, after: After | None = None
) -> Iterator[None]:
    """Tell `listener` every picked layer's pre-activation, in running order.

    The pre-activation is what first enters `layer.activation`; a layer without
    that attribute, or that does not use it, is heard at its output (at the
    first tensor of several). An LSTM or GRU is so heard at its candidate,
    which has the shape of its output. A picked layer that holds no kernel
    stands for the layers inside it that do, or for itself if there are none.

    What the listener returns goes on in the place of what it was told, except
    inside a `TimeDistributed` or recurrent layer: there it is told once, when
    the whole sequence has run, of a tensor with time along the second axis.

    Only calls made in the context and thread that opened it are heard. The
    layers are left as they were, also after an exception. Inside a
    `tf.function`, open it within the function that is traced.

    Args:
        listener: Called as `listener(heard, pre_activation)` with the samples
            along the first axis. Returns the tensor to go on with.
        picks: Called as `picks(heard)` for every layer that runs; returns
            whether to hear it.
        after: Called as `after(heard, arguments, output)` when any layer has
            run, the inner ones before the outer; not of those that a
            `TimeDistributed` or recurrent layer runs.

    Raises:
        RuntimeError: A picked layer runs inside a loop, a branch or a
            `tf.function` of another layer, out of which no tensor comes.
    """
    token = _active.set(_Tap(listener, picks, after))
    try:
        with _layer_call_wrapped():
            yield
    finally:
        _active.reset(token)


@dataclass
class _Frame:
    """A layer's call in progress."""

    heard: Heard
    path: tuple[str, ...]
    picked: bool
    # A picked layer inside which every layer with a kernel is picked too.
    stands_for_inner: bool
    told: bool = False
    told_inner: bool = False


@dataclass
class _Tap:
    listener: Listener
    picks: Picks
    after: After | None = None
    frames: list[_Frame] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    sequence: sequences.Sequence | None = None
    graph: tf.Graph = field(default_factory=tf.compat.v1.get_default_graph)

    @contextlib.contextmanager
    def attached(self, layer: keras.layers.Layer) -> Iterator[None]:
        """Within, `layer.call` goes through `run`."""

        def through_run(call: Callable) -> Callable:
            # A tf.function has its own graph, perhaps traced long ago, in
            # which nothing can be heard; what it wraps runs in ours.
            call = getattr(call, "python_function", call)
            return functools.partial(self.run, layer, call)

        with contextlib.ExitStack() as stack:
            for name in ("call", "quantized_call"):
                if getattr(layer, name, None) is not None:
                    stack.enter_context(swapped(layer, name, through_run))
            yield

    def run(self, layer: keras.layers.Layer, call: Callable, *args, **kwargs):
        if _active.get() is not self:
            return call(*args, **kwargs)
        frame = self._frame(layer)
        hear = functools.partial(self._hear, frame)
        self.frames.append(frame)
        try:
            with (
                _activation_wrapped(layer, hear)
                if frame.picked
                else contextlib.nullcontext(),
                sequences.opened(layer, self),
            ):
                output = call(*args, **kwargs)
            if frame.picked and (holds_kernel(layer) or not frame.told_inner):
                output = _on_first_tensor(hear, output)
        finally:
            self.frames.pop()
        if self.frames and (frame.told or frame.told_inner):
            self.frames[-1].told_inner = True
        if self.after is not None and self.sequence is None:
            self.after(frame.heard, (args, kwargs), output)
        if self.sequence is not None:
            output = self.sequence.step_output(layer, output)
        return output

    def tell(self, heard: Heard, signal: tf.Tensor) -> tf.Tensor:
        """Tell the sequence in progress, or else the listener."""
        if self.sequence is not None:
            return self.sequence.hear(heard, signal)
        check_reachable(heard, self.graph)
        count = self.calls[heard.name] = self.calls.get(heard.name, 0) + 1
        if count > 1:
            heard = Heard(f"{heard.name}:{count}", heard.layer)
        return self.listener(heard, signal)

    def _frame(self, layer: keras.layers.Layer) -> _Frame:
        outer = self.frames[-1] if self.frames else None
        path = (*outer.path, layer.name) if outer else ()
        if outer and layer is getattr(outer.heard.layer, "cell", None):
            # "lstm", not "lstm/lstm_cell": the cell is how Keras builds it.
            path = outer.path
        heard = Heard("/".join(path) or layer.name, layer)
        picked = self.picks(heard)
        stands_for_inner = picked or (outer and outer.stands_for_inner)
        return _Frame(
            heard,
            path,
            picked or (stands_for_inner and holds_kernel(layer)),
            stands_for_inner,
        )

    def _hear(self, frame: _Frame, signal: tf.Tensor) -> tf.Tensor:
        if frame.told or _active.get() is not self:
            return signal
        frame.told = True
        return self.tell(frame.heard, signal)


def _activation_wrapped(
    layer: keras.layers.Layer, hear: Callable[[tf.Tensor], tf.Tensor]
) -> contextlib.AbstractContextManager:
    if not callable(vars(layer).get("activation")):
        return contextlib.nullcontext()

    def hearing(activation: Callable) -> Callable:
        return lambda signal, *args, **kwargs: activation(
            hear(signal), *args, **kwargs
        )

    return swapped(layer, "activation", hearing)


def _on_first_tensor(hear: Callable, output: Any) -> Any:
    leaves = keras.tree.flatten(output)
    for i, leaf in enumerate(leaves):
        if tf.is_tensor(leaf) and leaf.dtype.is_floating:
            leaves[i] = hear(leaf)
            return keras.tree.pack_sequence_as(output, leaves)
    return output


_active: contextvars.ContextVar[_Tap | None] = contextvars.ContextVar(
    "keras_initx_tap", default=None
)
_lock = threading.Lock()
_listening_now = 0
_layer_call = keras.layers.Layer.__call__


@contextlib.contextmanager
def _layer_call_wrapped() -> Iterator[None]:
    global _listening_now, _layer_call
    with _lock:
        if _listening_now == 0:
            _layer_call = keras.layers.Layer.__call__
            keras.layers.Layer.__call__ = _heard_layer_call
        _listening_now += 1
    try:
        yield
    finally:
        with _lock:
            _listening_now -= 1
            if _listening_now == 0:
                keras.layers.Layer.__call__ = _layer_call


def _heard_layer_call(layer: keras.layers.Layer, *args, **kwargs):
    tap = _active.get()
    if tap is None:
        return _layer_call(layer, *args, **kwargs)
    with tap.attached(layer):
        return _layer_call(layer, *args, **kwargs)
