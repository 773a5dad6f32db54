"""Corrects the layers of a model as data pass through it."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_initx import backend
from keras_initx.backend.passes import Tensor, passes
from keras_initx.calibration.correction import (
    Correction,
    UnitMoments,
    corrected_moments,
    corrected_values,
    correction,
    correction_notes,
    distance,
    merged,
    rounded_otherwise,
    unit_moments,
)
from keras_initx.calibration.pausing import Pausing
from keras_initx.calibration.record import ROUNDING, Calibration
from keras_initx.hooks.forward_hooks import forward_hooks
from keras_initx.hooks.recorder import Rerun
from keras_initx.inspection.scalable import why_not_scalable
from keras_initx.inspection.selection import (
    LayerCall,
    Selector,
    check_all_matched,
    matches_any,
    selectors,
)
from keras_initx.inspection.traversal import ModelView
from keras_initx.measurement.data import taken_as_inputs
from keras_initx.measurement.nonfinite import naming_nonfinite, refuse_nonfinite
from keras_initx.measurement.refusals import (
    explained,
    no_signal,
    too_large,
)

# How far rounding moves the moments of a layer is estimated by one run with
# other rounding errors. The estimate is rarely ten times too small.
_MARGIN = 10
# Each batch has a thread, and containers may allow a few thousand of them.
_BATCHES = 1000


class Calibrator:
    """One calibration of one model.

    A forward pass stops at each layer that is to be corrected: the layer has
    run as it was, its moments are known, and its output is not needed. Once
    the passes of all batches wait there, their moments are merged, the layer
    is corrected, and it runs once more in each of them.

    Args:
        view: ModelView. The model.
        chosen: The selectors of the layers to calibrate.
        by_unit: bool. Whether each unit has a correction of its own.
        center: bool. Whether to subtract means.
        target_variance: float. The variance to reach.
        training: bool. Whether to run the model in training mode.
        excluded: dict. The reason of each layer that is skipped for what it
            is, or where it stands, by the id of the layer.
        on_layer: Called after each layer that is done.
    """

    def __init__(
        self,
        view: ModelView,
        chosen: Sequence[Selector],
        by_unit: bool,
        center: bool,
        target_variance: float,
        training: bool,
        excluded: Mapping[int, str],
        on_layer: Callable[[], None] = lambda: None,
    ):
        self._view = view
        self._chosen = chosen
        self._is_default = chosen == selectors(None)
        self._by_unit = by_unit
        self._center = center
        self._target_variance = target_variance
        self._training = training
        self._excluded = excluded
        self._on_layer = on_layer
        self._units = {
            id(layer): units
            for layer in view.layers
            if (units := view.rule(layer).units) is not None
        }
        # Read here, for within the call of a layer they may be cast.
        self._values = {
            id(weight): backend.to_tensor(weight.value)
            for units in self._units.values()
            for weight in units.weights
        }
        # The new value of each corrected variable, by the id of the variable.
        # The keys of the other dicts here are ids of layers.
        self._new: dict[int, tuple[Any, Tensor]] = {}
        # The first call of each layer, and its moments before the correction.
        self._moments: dict[int, tuple[LayerCall, UnitMoments]] = {}
        # None for a layer whose new values its dtype does not hold.
        self._changes: dict[int, Correction | None] = {}
        # The layers whose moments have been compared with the promised ones.
        self._checked: set[int] = set()
        # All calls, in their order.
        self._ran: dict[LayerCall, None] = {}
        self._calls: Counter[int] = Counter()
        # One for each pass: in it the layers have their new values.
        self._scopes: list[keras.StatelessScope] = []
        # Why each layer is skipped, "" if it is not.
        self._reasons: dict[int, str] = {}
        # Raised in the place of what Keras makes of it within a layer's call.
        self._refusal: ValueError | None = None
        # The first layer with a signal that is not finite.
        self._too_large_at: str | None = None

    def run(self, batches: Iterable[Any]) -> None:
        """Finds the new values of all layers.

        Args:
            batches: The batches, which are run through once.

        Raises:
            ValueError: If a signal is not finite, the rule of a layer does not
                hold, a selector picks no layer, or there are too many batches.
        """
        remaining = iter(batches)
        first = list(itertools.islice(remaining, 2))
        if len(first) == 1:
            self._forward(first[0], self._correct)
        else:
            self._run_together(itertools.chain(first, remaining))
        check_all_matched(self._chosen, self._ran)

    def _run_together(self, batches: Iterable[Any]) -> None:
        """Runs a pass for each batch, in which layers wait for one another."""
        order = {id(la): i for i, la in enumerate(self._view.layers)}
        # The layer at which each pass waits, None if it has ended.
        waits: dict[Pausing, keras.layers.Layer | None] = {}
        try:
            for batch in batches:
                if len(waits) == _BATCHES:
                    raise ValueError(
                        "The batches of a calibration wait for one another, so "
                        f"there may be {_BATCHES}: take larger batches, or "
                        "fewer of them through `steps`. "
                        f"Received: more than {_BATCHES} batches"
                    )
                one_pass = Pausing(functools.partial(self._forward, batch))
                waits[one_pass] = None
                waits[one_pass] = one_pass.resume()
            while layers := [la for la in waits.values() if la is not None]:
                # Batches may take several ways through the model; those that
                # wait at a later layer need not come to this one.
                layer = min(layers, key=lambda la: order[id(la)])
                self._correct(layer)
                for one_pass, waits_at in waits.items():
                    if waits_at is layer:
                        waits[one_pass] = one_pass.resume()
        finally:
            for one_pass in waits:
                one_pass.close()

    def new_values(self) -> list[tuple[Any, Tensor]]:
        """Pairs of a variable and its new value."""
        return list(self._new.values())

    def result(self) -> Calibration:
        """The record of the calibration.

        Raises:
            ValueError: If no pre-activation was recorded.
        """
        if not self._moments:
            raise no_signal(self._ran)
        skipped: dict[str, str] = {}
        notes: list[str] = []
        rows: list[UnitMoments] = []
        for key, (call, moments) in self._moments.items():
            change = self._changes.get(key)
            if change is None:
                why = self._why_skipped(call.layer) or "too large for its dtype"
                skipped[call.name] = why
                notes.append("")
                rows.append(moments)
            else:
                said = self._notes(call.layer, moments, change)
                notes.append(", ".join(said))
                rows.append(corrected_moments(moments, change))
        if self._is_default:
            skipped |= self._unrecorded()
        calls = [call for call, _ in self._moments.values()]
        (dtype, _), *_ = Counter(
            call.layer.compute_dtype for call in calls
        ).most_common()
        return Calibration(
            tuple(call.name for call in calls),
            np.array([np.mean(row.variance) for row in rows]),
            np.array([np.mean(row.mean**2) for row in rows]),
            np.array([row.mean.size for row in rows]),
            skipped,
            dtype,
            "unit" if self._by_unit else "layer",
            notes=notes,
        )

    def _notes(
        self,
        layer: keras.layers.Layer,
        moments: UnitMoments,
        change: Correction,
    ) -> Iterable[str]:
        has_bias = any(
            weight.layer is layer and weight.role == "bias"
            for weight in self._view.weights
        )
        yield from correction_notes(
            self._units[id(layer)], moments, change, self._center, has_bias
        )
        calls = self._calls[id(layer)]
        if calls > 1:
            yield f"the first of {calls} calls"

    def _correct(self, layer: keras.layers.Layer) -> None:
        """Corrects a layer at which all passes wait that come to it."""
        units = self._units[id(layer)]
        _, moments = self._moments[id(layer)]
        center = self._center and units.bias is not None
        change = correction(
            moments, self._target_variance, self._by_unit, center
        )
        values = corrected_values(units, change, self._values)
        self._changes[id(layer)] = None if values is None else change
        for variable, value in values or ():
            self._new[id(variable)] = (variable, value)
            for scope in self._scopes:
                scope.add_update((variable, value))
        self._on_layer()

    def _forward(
        self, batch: Any, wait: Callable[[keras.layers.Layer], None]
    ) -> None:
        """Runs the model on a batch.

        Args:
            batch: The batch.
            wait: Called with each layer that is to be corrected, when its
                moments in this batch are known. It returns when the layer has
                been corrected.

        Raises:
            ValueError: If a signal is not finite, or a rule does not hold.
            Exception: Whatever else the model raises.
        """
        calls: Counter[int] = Counter()
        # Moments in this batch of the layers that are to be corrected.
        before: dict[int, UnitMoments] = {}
        scope = keras.StatelessScope()
        self._scopes.append(scope)

        def select(call: LayerCall) -> bool:
            self._ran[call] = None
            if self._is_default:
                return self._view.measured_by_default(call.layer)
            return matches_any(self._chosen, call)

        def record(call: LayerCall, signal: Tensor) -> Tensor:
            key = id(call.layer)
            calls[key] += 1
            # Further calls must be finite too.
            moments = self._moments_of(call, signal)
            if calls[key] == 1 and key not in self._changes:
                if not self._why_skipped(call.layer):
                    before[key] = moments
                self._add(call, moments)
            return signal

        def correct(call: LayerCall, rerun: Rerun, output: Any) -> Any:
            key = id(call.layer)
            moments = before.pop(key, None)
            if moments is None:
                return output
            # No other pass needs memory for it while this one waits.
            del output
            wait(call.layer)
            signals: list[Tensor] = []
            # The signal before, corrected, would not do: it differs by a
            # rounding error, which later layers would amplify.
            output = rerun(signals.append)
            change = self._changes[key]
            if change is not None and key not in self._checked:
                self._checked.add(key)
                promised = corrected_moments(moments, change)
                self._check(call, rerun, promised, signals[0], scope)
            return output

        failure: Exception | None = None
        try:
            # What the pass itself would write, as statistics, is dropped.
            with (
                scope,
                passes().without_gradients(),
                forward_hooks(
                    on_pre_activation=record,
                    select=select,
                    after_call=correct,
                    measured=self._view.measured_by_default,
                ),
                taken_as_inputs(self._view.model, batch),
            ):
                self._view.model(batch, training=self._training)
        except Exception as error:
            failure = explained(error) or error
        self._calls |= calls
        # Keras adds the arguments of the layer to an error in its call.
        if self._refusal is not None:
            raise self._refusal from None
        model, values = self._view.model, self.new_values()
        if self._too_large_at is not None:
            refuse_nonfinite(
                model, [batch], self._training, self._too_large_at, values
            )
        if failure is not None:
            with naming_nonfinite(model, batch, self._training, values):
                raise failure

    def _moments_of(self, call: LayerCall, signal: Tensor) -> UnitMoments:
        """The moments of the signal of a layer.

        Raises:
            ValueError: If they are not finite, or the rule of the layer does
                not fit. What is raised at the end says more.
        """
        try:
            moments = unit_moments(signal, self._units.get(id(call.layer)))
        except ValueError as error:
            self._refusal = ValueError(
                f"The rule of {type(call.layer).__name__} does not fit "
                f"{call.name!r}: {error}"
            )
            raise self._refusal from error
        if not np.isfinite(moments.mean + moments.variance).all():
            self._too_large_at = call.name
            raise too_large(call.name)
        return moments

    def _add(self, call: LayerCall, moments: UnitMoments) -> None:
        """Adds the moments of a layer in one batch."""
        key = id(call.layer)
        if key in self._moments:
            first, others = self._moments[key]
            self._moments[key] = first, merged(others, moments)
        else:
            self._moments[key] = call, moments
            if self._why_skipped(call.layer):
                self._on_layer()

    def _check(
        self,
        call: LayerCall,
        rerun: Rerun,
        promised: UnitMoments,
        signal: Tensor,
        scope: keras.StatelessScope,
    ) -> None:
        """Checks that a corrected layer has the promised moments.

        Args:
            call: The call of the layer.
            rerun: Runs the layer again.
            promised: The moments that the correction should give.
            signal: The pre-activation with the new values.
            scope: The scope in which the layer runs.

        Raises:
            ValueError: If it has not, since its rule does not hold.
        """
        moments = self._moments_of(call, signal)
        units = self._units[id(call.layer)]
        # The input, the kernel, the bias and the sum are rounded once each.
        # The moments of many numbers are not known to more than 1e-3.
        rounding = ROUNDING.get(
            keras.backend.standardize_dtype(signal.dtype), 2.0**-53
        )
        limit = max(1e-3, 4 * rounding)
        if distance(promised, moments) <= limit:
            return
        signals: list[Tensor] = []
        rerun(signals.append)
        if distance(self._moments_of(call, signals[0]), moments) > limit:
            # A layer with dropout inside gives other numbers at each run.
            return
        # A small difference of large terms has a large rounding error.
        trial = rounded_otherwise(units, self._new, rounding)
        scope.add_update((units.kernel, trial))
        rerun(signals.append)
        scope.add_update(self._new[id(units.kernel)])
        otherwise = unit_moments(signals[1], units)
        if distance(promised, moments) <= limit + _MARGIN * distance(
            otherwise, moments
        ):
            return
        name = type(call.layer).__name__
        self._refusal = ValueError(
            f"The rule of {name} says that its pre-activation is linear in "
            f"{units.kernel.name!r}, and has no bias but that of its "
            f"LinearUnits, but that of {call.name!r} is otherwise. A layer "
            "that applies an activation does so through its attribute "
            "`activation`. A layer is left out through `layers`, or through "
            "skip_calibration in its rule. Received: a pre-activation that "
            f"was scaled to a {_text(promised)}, and has a {_text(moments)}"
        )
        raise self._refusal

    def _why_skipped(self, layer: keras.layers.Layer) -> str:
        reason = self._reasons.get(id(layer))
        if reason is None:
            reason = self._excluded.get(id(layer)) or why_not_scalable(
                self._view, layer, by_unit=self._by_unit
            )
            self._reasons[id(layer)] = reason
        return reason

    def _unrecorded(self) -> dict[str, str]:
        """The reason of each layer that may be linear and has no row."""
        ran = {id(call.layer) for call in self._ran}
        reasons = {}
        for weight in self._view.weights:
            layer = weight.layer
            linear = weight.geometry.is_linear or weight.role == "unknown"
            if id(layer) in self._moments or not linear:
                continue
            reason = self._why_skipped(layer) or "no pre-activation"
            reasons[self._view.name(layer)] = (
                reason if id(layer) in ran else "did not run"
            )
        return reasons


def _text(moments: UnitMoments) -> str:
    variance = float(np.mean(moments.variance))
    square = float(np.mean(moments.mean**2))
    return f"variance of {variance:.3g} and a squared mean of {square:.3g}"
