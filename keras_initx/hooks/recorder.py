"""The stack of running layers, and the calls of the hooks for each of them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass, field
from typing import Any, Protocol

import keras

from keras_initx.backend import is_floating_tensor
from keras_initx.backend.passes import Tensor, passes
from keras_initx.hooks import patched_call
from keras_initx.hooks.functional import releasing_signals
from keras_initx.hooks.patching import replaced
from keras_initx.inspection.activations import is_keras_function
from keras_initx.inspection.selection import LayerCall, names_inside


class Rerun:
    """Runs a layer's `call` again on the same arguments, without hooks.

    Args:
        layer: keras.layers.Layer. The layer.
        call: The layer's `call`.
        args: tuple. Its positional arguments.
        kwargs: dict. Its keyword arguments.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        call: Callable,
        args: tuple,
        kwargs: dict[str, Any],
    ):
        self._layer = layer
        self._call = call
        self.args = args
        self.kwargs = kwargs

    def __call__(self, record: Callable[[Tensor], None] | None = None) -> Any:
        """Returns the output of a further run.

        Args:
            record: Called with the pre-activation of this run, if there is
                one. Defaults to no record.
        """
        with patched_call.plain_layer_calls():
            if record is None:
                return self._call(*self.args, **self.kwargs)
            recorded: list[Tensor] = []

            def keep(signal: Tensor) -> Tensor:
                recorded.append(signal)
                return signal

            with _around_activation(self._layer, keep):
                output = self._call(*self.args, **self.kwargs)
            if not recorded:
                _on_first_tensor(keep, output)
            for signal in recorded[:1]:
                record(signal)
            return output


Select = Callable[[LayerCall], bool]
OnPreActivation = Callable[[LayerCall, Tensor], Tensor]
AfterCall = Callable[[LayerCall, Rerun, Any], Any]
OnActivation = Callable[[LayerCall, Callable, Any, Tensor], Tensor]
Through = Callable[[int, Tensor], Tensor]


class SequenceRecorder(Protocol):
    """Records in the place of the hook while a sequence runs step by step.

    Attributes:
        first_row: int. The index of the row that its first signal will be,
            which `Recorder` sets.
    """

    first_row: int | None

    @property
    def current(self) -> Sized:
        """What was recorded in the present time step."""

    def record(self, layer_call: LayerCall, signal: Tensor) -> Tensor:
        """Records the pre-activation of the present time step."""

    def step_output(self, layer: keras.layers.Layer, output: Any) -> Any:
        """Returns what `layer` shall return in the place of `output`."""


@dataclass
class _Frame:
    """A layer's call in progress."""

    layer_call: LayerCall
    # The names of the running layers without the model's own, outermost first.
    path: tuple[str, ...]
    selected: bool
    # A selected layer inside which every layer with a kernel is selected too.
    stands_for_inner: bool
    activation_selected: bool
    # Whether the pre-activation has been recorded, the hook of the activation
    # has been called, and a layer inside has been recorded.
    recorded: bool = False
    activated: bool = False
    recorded_inner: bool = False


@dataclass
class Recorder:
    """Calls the hooks of one forward pass; `forward_hooks` describes them.

    Each layer is called within `attached`, which puts `run` in the place of its
    `call`. `run` adds a frame to the stack, and runs the `call` with the
    attribute `activation` replaced by a function that records what it is given.
    A layer whose activation was not called is recorded at its output.

    Args:
        on_pre_activation: The hook for pre-activations.
        select: Which layers it is called for.
        after_call: The hook that runs after a layer, or None.
        around_steps: Called as `around_steps(layer, recorder)`; returns the
            context in which a layer runs that itself runs others once a time
            step.
        measured: Returns whether a layer is measured by default.
        on_activation: The hook for outputs of activations, or None.
        select_activation: Which activations it is called for beside those of
            selected layers, or None.
        through: The hook for what goes on in the place of a pre-activation,
            or None.
    """

    on_pre_activation: OnPreActivation
    select: Select
    after_call: AfterCall | None
    around_steps: Callable[
        [keras.layers.Layer, Recorder], contextlib.AbstractContextManager[None]
    ]
    measured: Callable[[keras.layers.Layer], bool]
    on_activation: OnActivation | None = None
    select_activation: Select | None = None
    through: Through | None = None
    rows: int = 0
    frames: list[_Frame] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    sequence: SequenceRecorder | None = None
    graph: Any = field(default_factory=lambda: passes().graph())

    @contextlib.contextmanager
    def attached(self, layer: keras.layers.Layer) -> Iterator[None]:
        """Returns a context in which `run` runs each call of `layer.call`."""

        def through_run(call: Callable) -> Callable:
            # A tf.function has its own graph, perhaps traced long ago, in
            # which no hook is called; what it wraps runs in the present one.
            call = getattr(call, "python_function", call)
            return functools.partial(self.run, layer, call)

        with contextlib.ExitStack() as stack:
            for name in ("call", "quantized_call"):
                if getattr(layer, name, None) is not None:
                    stack.enter_context(replaced(layer, name, through_run))
            yield

    def run(
        self,
        layer: keras.layers.Layer,
        call: Callable,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Runs a layer's `call` and the hooks."""
        if not patched_call.is_current(self):
            return call(*args, **kwargs)
        frame = self._frame(layer)
        record = functools.partial(self._record_once, frame)
        self.frames.append(frame)
        try:
            with (
                _around_activation(
                    layer, record, functools.partial(self._activated, frame)
                )
                if frame.selected or frame.activation_selected
                else contextlib.nullcontext(),
                releasing_signals(layer),
                self.around_steps(layer, self),
            ):
                output = call(*args, **kwargs)
            if frame.selected and (
                not frame.recorded_inner or self.measured(layer)
            ):
                output = _on_first_tensor(record, output)
        finally:
            self.frames.pop()
        if self.frames and (frame.recorded or frame.recorded_inner):
            self.frames[-1].recorded_inner = True
        if self.sequence is not None:
            return self.sequence.step_output(layer, output)
        if self.after_call is not None:
            rerun = Rerun(layer, call, args, kwargs)
            # The hook may wait for long, and then be the only one that holds
            # the output.
            outputs = [output]
            del output
            return self.after_call(frame.layer_call, rerun, outputs.pop())
        return output

    @contextlib.contextmanager
    def recording_in(self, sequence: SequenceRecorder | None) -> Iterator[None]:
        """Returns a context in which signals go to `sequence`.

        With None they go to the hook.
        """
        if sequence is not None and sequence.first_row is None:
            sequence.first_row = self._next_row()
        outer, self.sequence = self.sequence, sequence
        try:
            yield
        finally:
            self.sequence = outer

    def record(self, layer_call: LayerCall, signal: Tensor) -> Tensor:
        """Calls the hook, or records in the sequence in progress.

        Returns:
            The tensor to go on with.
        """
        if self.through is not None:
            signal = self.through(self._next_row(), signal)
        return self._record(layer_call, signal)

    def _record(self, layer_call: LayerCall, signal: Tensor) -> Tensor:
        if self.sequence is not None:
            return self.sequence.record(layer_call, signal)
        check_reachable(layer_call, self.graph)
        self.rows += 1
        return self.on_pre_activation(self._numbered(layer_call), signal)

    def _next_row(self) -> int:
        """The index of the row that the next signal will be."""
        if self.sequence is None:
            return self.rows
        # The signals of a step become rows in their order.
        return (self.sequence.first_row or 0) + len(self.sequence.current)

    def record_steps(self, layer_call: LayerCall, signal: Tensor) -> None:
        """Records a sequence of pre-activations, and of activations.

        The activations are computed here once more, if the function is one of
        Keras's.
        """
        signal = self._record(layer_call, signal)
        activation = getattr(layer_call.layer, "activation", None)
        if (
            activation is not None
            and is_keras_function(activation)
            and self.sequence is None
            and self.on_activation is not None
        ):
            output = activation(signal)
            self.on_activation(layer_call, activation, signal, output)

    def _numbered(self, layer_call: LayerCall) -> LayerCall:
        """The call of the name that counts the calls of a layer."""
        name = layer_call.name
        count = self.calls[name] = self.calls.get(name, 0) + 1
        if count == 1:
            return layer_call
        return dataclasses.replace(layer_call, name=f"{name}:{count}")

    def _frame(self, layer: keras.layers.Layer) -> _Frame:
        outer = self.frames[-1] if self.frames else None
        path: tuple[str, ...] = ()
        if outer:
            path = names_inside(outer.path, outer.layer_call.layer, layer)
        layer_call = LayerCall("/".join(path) or layer.name, layer)
        selected = self.select(layer_call)
        activation_selected = (
            self.select_activation is not None
            and callable(getattr(layer, "activation", None))
            and self.select_activation(layer_call.activation)
        )
        if activation_selected and self.sequence is not None:
            # What leaves the loop over time is the pre-activation.
            selected = True
        stands_for_inner = selected or bool(outer and outer.stands_for_inner)
        return _Frame(
            layer_call,
            path,
            selected or (stands_for_inner and self.measured(layer)),
            stands_for_inner,
            activation_selected,
        )

    def _record_once(self, frame: _Frame, signal: Tensor) -> Tensor:
        if frame.recorded or not patched_call.is_current(self):
            return signal
        frame.recorded = True
        if not frame.selected:
            return signal
        return self.record(frame.layer_call, signal)

    def _activated(
        self, frame: _Frame, activation: Callable, signal: Any, output: Any
    ) -> Any:
        """Calls the hook for the first use of a layer's activation."""
        if (
            self.on_activation is None
            or frame.activated
            or self.sequence is not None
            or not patched_call.is_current(self)
        ):
            return output
        frame.activated = True
        call = frame.layer_call
        check_reachable(call, self.graph)
        hook = self.on_activation
        output = _on_first_tensor(
            lambda tensor: hook(call, activation, signal, tensor), output
        )
        return output


def check_reachable(layer_call: LayerCall, graph: Any) -> None:
    """Refuses a tensor that lives in the graph of a loop, not in `graph`.

    Raises:
        RuntimeError: If the present graph is not `graph`.
    """
    if passes().graph() != graph:
        raise RuntimeError(
            "The pre-activation of a layer is within reach where the model "
            "itself runs the layer, but not inside a loop, a branch or a "
            "tf.function of another layer, nor in a TimeDistributed layer "
            "whose number of time steps is unknown. Leave it out through "
            f"`layers`. Received: layer {layer_call.name!r}"
        )


def _around_activation(
    layer: keras.layers.Layer,
    record: Callable[[Tensor], Tensor],
    activated: Callable[[Callable, Any, Any], Any] | None = None,
) -> contextlib.AbstractContextManager[None]:
    """The context in which `layer.activation` records what it is given.

    Args:
        layer: keras.layers.Layer. The layer.
        record: Called with what enters the activation; returns the tensor that
            enters it in its place.
        activated: Called as `activated(activation, signal, output)` when the
            activation has run; returns the output that goes on. Defaults to
            None, which leaves the output as it is.
    """
    in_class = inspect.getattr_static(type(layer), "activation", None)
    # A property returns its own value, whatever the instance holds.
    if isinstance(in_class, property) or not callable(
        getattr(layer, "activation", None)
    ):
        return contextlib.nullcontext()

    def recorded(activation: Callable) -> Callable:
        def recording(x: Any, *args: Any, **kwargs: Any) -> Any:
            x = _on_first_tensor(record, x)
            output = activation(x, *args, **kwargs)
            if activated is None:
                return output
            return activated(activation, x, output)

        return recording

    return replaced(layer, "activation", recorded)


def _on_first_tensor(record: Callable[[Tensor], Tensor], output: Any) -> Any:
    leaves = keras.tree.flatten(output)
    for i, leaf in enumerate(leaves):
        if is_floating_tensor(leaf):
            leaves[i] = record(leaf)
            return keras.tree.pack_sequence_as(output, leaves)
    return output
