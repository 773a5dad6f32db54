"""Hooks that run at every layer in one forward pass of any model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import keras

from keras_initx.backend.passes import Tensor
from keras_initx.hooks.patched_call import around_layer_calls
from keras_initx.hooks.recorder import (
    AfterCall,
    OnActivation,
    OnPreActivation,
    Recorder,
    Select,
    Through,
)
from keras_initx.hooks.sequences import around_steps
from keras_initx.inspection.layer_rule import measured_by_default
from keras_initx.inspection.selection import LayerCall


@contextlib.contextmanager
def forward_hooks(
    *,
    on_pre_activation: OnPreActivation | None = None,
    select: Select | None = None,
    after_call: AfterCall | None = None,
    measured: Callable[[keras.layers.Layer], bool] = measured_by_default,
    on_activation: OnActivation | None = None,
    select_activation: Select | None = None,
    through: Through | None = None,
) -> Iterator[None]:
    """Calls hooks for the layers that run within, in the order they run.

    The pre-activation of a layer is what first enters `layer.activation`, an
    attribute of the layer or of its class; of a layer without that attribute,
    or that does not use it, it is the output (the first floating-point tensor
    of several). For an LSTM or GRU it is therefore
    the candidate, which has the shape of the output. A selected layer that
    holds no kernel stands for the layers inside it that do, or for itself if
    there are none.

    Inside a `TimeDistributed` or recurrent layer, `on_pre_activation` is called
    once, when the whole sequence has run, with a tensor that has time along the
    second axis. What it returns there is dropped.

    Hooks run for calls in the same thread and `contextvars` context only. The
    layers are left as they were, also after an exception. Inside a
    `tf.function`, enter it within the function that is traced.

    Args:
        on_pre_activation: Called as `on_pre_activation(layer_call, signal)`
            with the pre-activation, samples along the first axis. Returns the
            tensor that goes on in its place. Further calls of a layer have the
            names "dense:2", "dense:3". Defaults to no hook.
        select: Called as `select(layer_call)` for every layer that runs;
            returns whether `on_pre_activation` is called for it. Defaults to
            the layers that hold a kernel.
        after_call: Called as `after_call(layer_call, rerun, output)` when any
            layer has run, inner layers before outer ones, but not for layers
            that a `TimeDistributed` or recurrent layer runs. `rerun()` runs
            the layer's `call` again on the same arguments, `rerun.args` and
            `rerun.kwargs`, without hooks; `rerun(record)` also calls
            `record(signal)` with the pre-activation of that run. Returns the
            output that goes on. Defaults to no hook.
        measured: Called with a layer; returns whether it is measured by
            default, that is, holds a kernel. Defaults to asking the rule of
            its class, once for each call of the layer.
        on_activation: Called as `on_activation(layer_call, activation, signal,
            output)` when the attribute `activation` of a selected layer has
            been called for the first time, with what entered it and what it
            returned. Returns the output that goes on. For the layers that a
            `TimeDistributed` or recurrent layer runs, `activation` is applied
            once more to the whole sequence, if it is a function of Keras, and
            what the hook returns is dropped. Defaults to no hook.
        select_activation: Called as `select_activation(layer_call)` with the
            `activation` part of the call of every layer that has one; returns
            whether `on_activation` is called for it, also where the layer is
            not selected. Defaults to none.
        through: Called as `through(row, signal)` with the pre-activation of a
            selected layer before `on_pre_activation`, and inside a
            `TimeDistributed` or recurrent layer with that of each time step.
            Returns the tensor that goes on in its place, there too. `row` is
            the number of calls of `on_pre_activation` before the one that the
            signal belongs to. Defaults to no hook.

    Raises:
        RuntimeError: If a selected layer runs inside a loop, a branch or a
            `tf.function` of another layer, out of which no tensor comes.
    """
    if on_pre_activation is None:
        on_pre_activation, select = _go_on, select or _none
    recorder = Recorder(
        on_pre_activation,
        select or (lambda layer_call: measured(layer_call.layer)),
        after_call,
        around_steps,
        measured,
        on_activation,
        select_activation,
        through,
    )
    with around_layer_calls(recorder):
        yield


def _go_on(layer_call: LayerCall, signal: Tensor) -> Tensor:
    return signal


def _none(layer_call: LayerCall) -> bool:
    return False
