"""One forward pass of a model, and the moments of its signals."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_initx.backend import is_floating_tensor, is_tensorflow
from keras_initx.backend.passes import Observe, Tensor, passes
from keras_initx.hooks.forward_hooks import forward_hooks
from keras_initx.inspection.activations import (
    activation_of,
    is_keras_function,
    is_nonlinear,
    saturation_bounds,
)
from keras_initx.inspection.selection import (
    ACTIVATION,
    LayerCall,
    Selector,
    check_all_matched,
    matches_any,
)
from keras_initx.measurement.activations import ActivationSearch
from keras_initx.measurement.data import samples_of
from keras_initx.measurement.moments import (
    ActivationOutputs,
    LayerMoments,
    activation_outputs,
    all_finite,
    constant_moments,
    layer_moments,
)
from keras_initx.measurement.refusals import no_signal
from keras_initx.measurement.sample_axis import (
    FIRST,
    NONE,
    Place,
    PlacesInGraph,
    Sizes,
    by_sample,
)
from keras_initx.measurement.stacks import Stacks

Probe = Callable[[Tensor], Tensor]
Target = Callable[[Any, Tensor | None, Place], Tensor]


class ForwardResult(NamedTuple):
    """Result of one forward pass.

    Args:
        names: tuple of str. The names of the selected layers' calls.
        moments: tuple of LayerMoments. One for each number of units.
        order: tuple of int. The index of the call of each row of these.
        outputs: tuple of ActivationOutputs. One for each number of units.
        activation_of: tuple. For each call the index of its activation among
            the rows of `outputs`, None if no activation follows.
        places: tuple of str or SampleAxis. Where the samples are in the signal
            of each call.
        doubtful: tuple of str. The names of the calls whose place was not
            given, and whose first axis has a fixed size although the signal
            depends on the samples.
        finite: tensor. Whether all numbers of the batch are finite.
        written: tuple of keras.Variable. The variables that the pass would
            have assigned.
        states: tuple of tensors. The values that it would have assigned.
        ran: tuple of LayerCall. The calls of all layers, outer ones first.
        target: Tensor. The number whose gradient is measured, or None.
        slots: tuple of int. The index of the call of each slot of `probes`.
        sizes: Sizes. The sizes of the first axes of the signals.
    """

    names: tuple[str, ...]
    moments: tuple[LayerMoments, ...]
    order: tuple[int, ...]
    outputs: tuple[ActivationOutputs, ...]
    activation_of: tuple[int | None, ...]
    places: tuple[Place, ...]
    doubtful: tuple[str, ...]
    finite: Tensor
    written: tuple[keras.Variable, ...]
    states: tuple[Tensor, ...]
    ran: tuple[LayerCall, ...]
    target: Tensor | None
    slots: tuple[int, ...]
    sizes: Sizes


def forward_pass(
    model: keras.Model,
    batch: Any,
    selectors: Sequence[Selector],
    training: bool = False,
    states: Iterable[tuple[keras.Variable, Tensor]] = (),
    places: Mapping[str, Place] | None = None,
    few: bool = False,
    probe: Probe | None = None,
    target: Target | None = None,
    elsewhere: Sizes | None = None,
) -> ForwardResult:
    """Runs a model without writing its variables.

    Args:
        model: keras.Model. A built model.
        batch: A batch of inputs.
        selectors: Sequence of selectors. A layer is reported if one of them
            selects it.
        training: bool. Whether to run the model in training mode. Defaults to
            False.
        states: Iterable of pairs of a variable and the value that it has in
            this pass. Defaults to the values that the variables hold.
        places: Mapping. Where the samples are in the signals of some calls, by
            the name of the call. Defaults to none. Other signals that depend
            on no sample are found where the model is traced, and all others
            have the samples along the first axis.
        few: bool. Whether the batch has at most `FEW_SAMPLES` samples, which
            are reduced in a way that is faster to compile. Defaults to False.
        probe: Called with each pre-activation, inside of loops that of each
            time step; returns the tensor that goes on. Defaults to none.
        target: Called as `target(outputs, signal, place)` with what the model
            returned, the pre-activation of the last row that samples reach
            (None if there is no such row), and where its samples are. Returns
            the number whose gradient is measured. Defaults to none.
        elsewhere: Sizes. The sizes of first axes in a run of the model on
            another number of samples. Defaults to none.

    Raises:
        ValueError: If a selector selects no layer, or no selected layer has a
            floating-point signal.
    """
    ran: list[LayerCall] = []

    def select(layer_call: LayerCall) -> bool:
        ran.append(layer_call)
        return matches_any(selectors, layer_call)

    rows = _Rows(
        batch,
        places or {},
        lambda part: matches_any(selectors, part),
        few,
        elsewhere,
        probe,
    )
    # Their outputs are asked for by name.
    parts = any(isinstance(s, str) and ACTIVATION in s for s in selectors)
    written: list[keras.Variable] = []

    def run(observe: Observe, batch: Any) -> tuple[Tensor, ...]:
        scope = passes().stateless_scope(states)
        hooks = forward_hooks(
            on_pre_activation=functools.partial(
                observe, rows.on_pre_activation
            ),
            select=select,
            after_call=lambda call, rerun, output: observe(
                rows.after_call, call, (rerun.args, rerun.kwargs), output
            ),
            on_activation=functools.partial(observe, rows.on_activation),
            select_activation=select if parts else None,
            through=None if probe is None else rows.through,
        )
        with scope, hooks:
            observe(rows.finish, model(batch, training=training))
        written[:] = scope.written.values()
        return tuple(scope.get_current_value(variable) for variable in written)

    new_states = passes().observe(run, batch)
    check_all_matched(selectors, ran)
    if not rows.names:
        raise no_signal(ran)
    moments, outputs = rows.moments.finish(), rows.outputs.finish()
    row_of_output = {index: i for i, index in enumerate(outputs.order)}
    return ForwardResult(
        tuple(rows.names),
        moments.stacks,
        moments.order,
        outputs.stacks,
        tuple(
            None if index is None else row_of_output[index]
            for index in rows.activation_of
        ),
        tuple(rows.places),
        tuple(rows.place_of.doubtful),
        all_finite(batch, few),
        tuple(written),
        new_states,
        tuple(ran),
        None if target is None else target(rows.returned, *rows.last),
        rows.slots(),
        Sizes(samples_of(batch), rows.sizes),
    )


class _Rows:
    """Keeps the moments of signals, and their activations, as a model runs.

    The activations are found in a graph only.

    Args:
        batch: The batch of inputs.
        known: Mapping. Where the samples are in the signals of some calls.
        selects: Returns whether the output of an activation is a row.
        few: bool. Whether there are at most `FEW_SAMPLES` samples.
        elsewhere: Sizes of first axes in another run, or None.
        probe: What a pre-activation passes before it goes on, or None.
    """

    def __init__(
        self,
        batch: Any,
        known: Mapping[str, Place],
        selects: Callable[[LayerCall], bool],
        few: bool,
        elsewhere: Sizes | None,
        probe: Probe | None = None,
    ):
        self.names: list[str] = []
        self.moments = Stacks(layer_moments, few)
        self.outputs = Stacks(activation_outputs, few)
        self.activation_of: list[int | None] = []
        self.places: list[Place] = []
        self.place_of = PlacesInGraph(batch, known, elsewhere)
        self.sizes: dict[str, int | None] = {}
        self._shapes: list[tuple[int | None, ...]] = []
        self._selects = selects
        self._probe = probe
        self.returned: Any = None
        # The last row that samples reach.
        self.last: tuple[Tensor | None, Place] = (None, FIRST)
        # The row of each call of `on_pre_activation`, and what each probe is
        # for: such a call, or a row that is the output of an activation.
        self._row_of_call: list[int] = []
        self._probed: list[tuple[bool, int]] = []
        # Only a graph knows what a tensor was computed from.
        self._search = (
            ActivationSearch(self._keep) if passes().knows_graph() else None
        )

    def on_pre_activation(
        self, layer_call: LayerCall, signal: Tensor
    ) -> Tensor:
        """Adds a row."""
        self._row_of_call.append(len(self.names))
        if self._search is not None:
            # What stands before a row may hold the activation of another.
            self._search.rows(signal)
        return self._add(layer_call.name, signal)

    def through(self, call: int, signal: Tensor) -> Tensor:
        """Probes the pre-activation of a call, or one of its time steps."""
        self._probed.append((True, call))
        return self._probe(signal) if self._probe else signal

    def slots(self) -> tuple[int, ...]:
        """Returns the row of each probe, in the order of the probes."""
        return tuple(
            self._row_of_call[index] if is_call else index
            for is_call, index in self._probed
        )

    def on_activation(
        self,
        layer_call: LayerCall,
        activation: Callable,
        signal: Any,
        output: Tensor,
    ) -> Tensor:
        """Keeps what the activation of a layer returned."""
        if self._search is None:
            return output
        rows: set[int] = set()
        if is_nonlinear(activation):
            rows |= self._search.rows(*_tensors(signal))
        part = layer_call.activation
        if self._selects(part):
            count = 1 + sum(_without_number(n) == part.name for n in self.names)
            name = f"{part.name}:{count}" if count > 1 else part.name
            if self._probe is not None:
                if not is_tensorflow():
                    # There the probe would stand beside the model.
                    raise ValueError(
                        "gradient=True takes rows of activations on the "
                        "TensorFlow backend only. "
                        f"Received: layers that select {name!r}"
                    )
                self._probed.append((False, len(self.names)))
                output = self._probe(output)
            output = self._add(name, output)
            if is_nonlinear(activation):
                rows |= {len(self.names) - 1}
        bounds = saturation_bounds(activation)
        # A function of Keras leaves the first axis as it is.
        alone = not is_keras_function(activation)
        return self._ended(rows, bounds, output, alone)

    def after_call(
        self, layer_call: LayerCall, arguments: Any, output: Any
    ) -> Any:
        """Keeps what a layer returned that is an activation."""
        if self._search is None or not passes().is_in_graph(output):
            return output
        layer = layer_call.layer
        rows = self._search.rows(*_tensors(arguments))
        inside = f"{layer_call.name}/"
        if isinstance(layer, keras.layers.TimeDistributed):
            # The signals of its steps were put together beside its output.
            for row, name in enumerate(self.names):
                if name.startswith(inside) and self._search.is_open(row):
                    self._search.start(row, output)
        if not rows and not self._search.rows(output):
            return output
        activation = activation_of(layer)
        if activation is None:
            return output
        self._search.end(rows)
        # The layer itself may be a row.
        rows |= self._search.rows(output)
        return self._ended(rows, saturation_bounds(activation), output)

    def finish(self, outputs: Any) -> None:
        """Looks for activations behind the last row."""
        self.returned = outputs
        if self._search is not None:
            self._search.rows(*_tensors(outputs))

    def _add(self, name: str, signal: Tensor) -> Tensor:
        place = self.place_of(name, signal)
        kept = self._kept(signal)
        moments = (
            self.moments.add_reduced(
                constant_moments(kept, self.place_of.varies(name, signal))
            )
            if place == NONE
            else self.moments.add(by_sample(kept, place))
        )
        self.names.append(name)
        self.places.append(place)
        self.activation_of.append(None)
        self._shapes.append(tuple(signal.shape))
        self.sizes[name] = signal.shape[0]
        # Only then may a large signal go on: an activation can then overwrite
        # it in place, and none is kept until its moments are computed.
        if moments or self._search is None or self._search.is_start(signal):
            signal = passes().after(moments, signal)
        if place != NONE:
            self.last = signal, place
            if self._search is not None:
                self._search.start(len(self.names) - 1, signal)
        return signal

    def _kept(self, signal: Tensor) -> Tensor:
        """A signal for its moments, which are no part of a backward pass."""
        return signal if self._probe is None else ops.stop_gradient(signal)

    def _ended(
        self,
        rows: Collection[int],
        bounds: tuple[float, float] | None,
        output: Tensor,
        alone: bool = True,
    ) -> Tensor:
        """Ends rows with an activation, whose output goes on."""
        if self._search is None or not rows:
            return output
        kept = self._keep(rows, output, bounds, alone)
        going = passes().after(kept, output) if kept else output
        self._search.end(rows, output, going)
        return going

    def _keep(
        self,
        rows: Collection[int],
        output: Tensor,
        bounds: tuple[float, float] | None = None,
        alone: bool = True,
    ) -> Sequence[Tensor]:
        """Keeps what an activation returned, and returns what is kept.

        It is reduced alone where a layer between the rows and the activation
        may have changed the first axis, as a reshape does.
        """
        row = min(rows)
        place, shape = self.places[row], self._shapes[row]
        if not passes().is_here(output) or not len(output.shape):
            return ()
        if place != FIRST and tuple(output.shape) != shape:
            return ()
        for row in rows:
            self.activation_of[row] = len(self.outputs)
        samples = by_sample(self._kept(output), place)
        return self.outputs.add(samples, bounds, alone=alone)


def _tensors(values: Any) -> list[Tensor]:
    """The floating-point tensors of a structure that are in a graph."""
    return [
        x
        for x in keras.tree.flatten(values)
        if is_floating_tensor(x) and passes().is_in_graph(x)
    ]


def _without_number(name: str) -> str:
    return re.sub(r":\d+$", "", name)
