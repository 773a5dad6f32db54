"""Corrects the layers of a model as data pass through it."""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_initx.calibration.correction import (
    Correction,
    UnitMoments,
    corrected_moments,
    corrected_values,
    correction,
    distance,
    notes,
    rounded_otherwise,
    unit_moments,
)
from keras_initx.calibration.exclusions import (
    normalized,
    skipped_by_kind,
    unrecorded,
    why_skipped,
)
from keras_initx.calibration.record import ROUNDING, Calibration
from keras_initx.hooks.forward_hooks import forward_hooks
from keras_initx.hooks.recorder import AfterCall, Rerun
from keras_initx.inspection.selection import (
    LayerCall,
    Selector,
    check_all_matched,
    matches_any,
    selectors,
)
from keras_initx.inspection.traversal import ModelView
from keras_initx.measurement.data import taken_as_inputs
from keras_initx.measurement.refusals import no_signal, too_large

# Rounding in another order moves moments by about as much as one trial run
# does; that estimate is rarely ten times too small.
_MARGIN = 10


@dataclass
class _Row:
    """The row of one layer in the record.

    Args:
        layer: The layer.
        name: Its name in the profile.
        sample_variance: The variance after the correction, over all units.
        squared_mean: The squared mean after it, over all units.
        units: The number of units.
        skipped: Why the layer was skipped, "" if it was corrected.
        notes: What a user should know of the correction.
    """

    layer: keras.layers.Layer
    name: str
    sample_variance: float
    squared_mean: float
    units: int
    skipped: str = ""
    notes: list[str] = field(default_factory=list)


class Calibrator(abc.ABC):
    """One calibration of one model; subclasses say how data pass through it.

    Args:
        view: ModelView. The model.
        chosen: The selectors of the layers to calibrate.
        by_unit: bool. Whether each unit has a correction of its own.
        center: bool. Whether to subtract means.
        target_variance: float. The variance to reach.
        training: bool. Whether to run the model in training mode.
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
        on_layer: Callable[[], None] = lambda: None,
    ):
        self._view = view
        self._chosen = chosen
        self._is_default = chosen == selectors(None)
        self._by_unit = by_unit
        self._center = center
        self._target_variance = target_variance
        self._training = training
        self._on_layer = on_layer
        self._excluded = skipped_by_kind(view)
        self._units = {id(la): view.rule(la).units for la in view.layers}
        # Read here, for within the call of a layer they may be cast.
        self._values = {
            id(weight): tf.convert_to_tensor(weight.value)
            for units in self._units.values()
            for weight in (units.weights if units else ())
        }
        self._new: dict[int, tuple[Any, tf.Tensor]] = {}
        self._rows: dict[int, _Row] = {}
        self._ran: list[LayerCall] = []
        self._calls: Counter[int] = Counter()
        self._changes: dict[int, Correction] = {}
        self._error = ""
        self._scope = keras.StatelessScope()

    def run(self, batches: Iterable[Any]) -> None:
        """Finds the new values of all layers.

        Args:
            batches: The batches, which can be run through several times.

        Raises:
            ValueError: If a signal is not finite, the rule of a layer does not
                hold, or a selector picks no layer.
        """
        if self._is_default:
            # A user who names such a layer wants it calibrated.
            first = next(iter(batches))
            self._excluded |= normalized(self._view, first, self._training)
        self._correct_all(batches)
        check_all_matched(self._chosen, self._ran)

    @abc.abstractmethod
    def _correct_all(self, batches: Iterable[Any]) -> None:
        """Corrects or skips every layer, and checks each correction."""

    def new_values(self) -> list[tuple[Any, tf.Tensor]]:
        """Pairs of a variable and its new value."""
        return list(self._new.values())

    def result(self) -> Calibration:
        """The record of the calibration.

        Raises:
            ValueError: If no pre-activation was recorded.
        """
        rows = list(self._rows.values())
        if not rows:
            raise no_signal(self._ran)
        skipped = {row.name: row.skipped for row in rows if row.skipped}
        if self._is_default:
            ran = {id(call.layer) for call in self._ran}
            skipped |= unrecorded(self._view, set(self._rows), ran)
        for row in rows:
            calls = self._calls[id(row.layer)]
            if calls > 1 and not row.skipped:
                row.notes.append(f"the first of {calls} calls")
        dtypes = Counter(row.layer.compute_dtype for row in rows)
        (dtype, _), *_ = dtypes.most_common()
        return Calibration(
            tuple(row.name for row in rows),
            np.array([row.sample_variance for row in rows]),
            np.array([row.squared_mean for row in rows]),
            np.array([row.units for row in rows]),
            skipped,
            dtype,
            "unit" if self._by_unit else "layer",
            notes=[", ".join(row.notes) for row in rows],
        )

    def _forward(
        self,
        batch: Any,
        record: Callable[[LayerCall, tf.Tensor], None],
        after_call: AfterCall | None = None,
    ) -> None:
        """Runs the model on a batch with the new values that there are.

        Args:
            batch: The batch.
            record: Called with each picked layer's call and pre-activation.
            after_call: The hook that runs after a layer. Defaults to none.
        """
        self._calls.clear()

        def select(call: LayerCall) -> bool:
            self._ran.append(call)
            if self._is_default:
                return self._view.measured_by_default(call.layer)
            return matches_any(self._chosen, call)

        def on_pre_activation(call: LayerCall, signal: tf.Tensor) -> tf.Tensor:
            self._calls[id(call.layer)] += 1
            if not self._error:
                record(call, signal)
            return signal

        try:
            # What the pass itself would write, as statistics, is dropped.
            with (
                keras.StatelessScope(self.new_values()) as self._scope,
                forward_hooks(
                    on_pre_activation=on_pre_activation,
                    select=select,
                    after_call=after_call,
                    measured=self._view.measured_by_default,
                ),
                taken_as_inputs(self._view.model, batch),
            ):
                self._view.model(batch, training=self._training)
        except Exception as error:
            # What is not finite may be the reason of any other error.
            if self._error:
                raise ValueError(self._error) from error
            raise
        # Keras would add the arguments of the layer to an error in the pass.
        if self._error:
            raise ValueError(self._error)

    def _moments(
        self, call: LayerCall, signal: tf.Tensor
    ) -> UnitMoments | None:
        """The moments of a signal; None, and an error kept, if it is bad."""
        try:
            moments = unit_moments(signal, self._units.get(id(call.layer)))
        except ValueError as error:
            self._error = (
                f"The rule of {type(call.layer).__name__} does not fit "
                f"{call.name!r}: {error}"
            )
            return None
        if np.isfinite(moments.mean + moments.variance).all():
            return moments
        self._error = str(too_large(call.name))
        return None

    def _check(
        self,
        call: LayerCall,
        rerun: Rerun,
        promised: UnitMoments,
        signal: tf.Tensor,
    ) -> None:
        """Keeps an error if a corrected layer has not the promised moments.

        Args:
            call: The call of the layer.
            rerun: Runs the layer again.
            promised: The moments that the correction should give.
            signal: The pre-activation with the new values.
        """
        moments = self._moments(call, signal)
        units = self._units.get(id(call.layer))
        if moments is None or units is None:
            return
        # The input, the kernel, the bias and the sum are rounded once each.
        # The moments of many numbers are not known to more than 1e-3.
        rounding = ROUNDING.get(signal.dtype.name, 2.0**-53)
        limit = max(1e-3, 4 * rounding)
        if distance(promised, moments) <= limit:
            return
        again = self._run_with([], call, rerun)
        if again is None or distance(again, moments) > limit:
            # A layer with dropout inside gives other numbers at each run.
            return
        # A small difference of large terms has a large rounding error.
        trial = [(units.kernel, rounded_otherwise(units, self._new, rounding))]
        otherwise = self._run_with(trial, call, rerun)
        if otherwise is None:
            return
        if distance(promised, moments) <= limit + _MARGIN * distance(
            otherwise, moments
        ):
            return
        name = type(call.layer).__name__
        self._error = (
            f"The rule of {name} says that its pre-activation is linear in "
            f"{units.kernel.name!r}, and has no bias but that of its "
            f"LinearUnits, but that of {call.name!r} is otherwise. A layer "
            "that applies an activation does so through its attribute "
            "`activation`. A layer is left out through `layers`, or through "
            "skip_calibration in its rule. Received: a pre-activation that "
            f"was scaled to a {_text(promised)}, and has a {_text(moments)}"
        )

    def _run_with(
        self,
        values: list[tuple[Any, tf.Tensor]],
        call: LayerCall,
        rerun: Rerun,
    ) -> UnitMoments | None:
        """The moments of a layer that runs again, with other values for once.

        Returns:
            The moments, None if they are not finite.
        """
        signals: list[tf.Tensor] = []
        for pair in values:
            self._scope.add_update(pair)
        rerun(signals.append)
        for variable, _ in values:
            self._scope.add_update(self._new[id(variable)])
        return self._moments(call, signals[0]) if signals else None

    def _finish(self, call: LayerCall, moments: UnitMoments) -> bool:
        """Corrects a layer, or skips it, and adds its row.

        Returns:
            Whether it is corrected.
        """
        layer = call.layer
        units = self._units.get(id(layer))
        reason = self._why_skipped(layer)
        remarks: list[str] = []
        if not reason and units is not None:
            center = self._center and units.bias is not None
            change = correction(
                moments, self._target_variance, self._by_unit, center
            )
            values = corrected_values(units, change, self._values)
            if values is None:
                reason = "too large for its dtype"
            else:
                remarks = list(
                    notes(
                        units,
                        moments,
                        change,
                        self._center,
                        self._has_bias(layer),
                    )
                )
                moments = corrected_moments(moments, change)
                self._changes[id(layer)] = change
                self._set(values)
        self._rows[id(layer)] = _Row(
            layer,
            call.name,
            float(np.mean(moments.variance)),
            float(np.mean(moments.mean**2)),
            moments.mean.size,
            reason,
            remarks,
        )
        self._on_layer()
        return not reason

    def _set(self, values: list[tuple[Any, tf.Tensor]]) -> None:
        """Sets new values, also for the pass in progress."""
        for variable, value in values:
            self._new[id(variable)] = (variable, value)
            self._scope.add_update((variable, value))

    def _why_skipped(self, layer: keras.layers.Layer) -> str:
        reason = self._excluded.get(id(layer)) or why_skipped(self._view, layer)
        if reason:
            return reason
        units = self._units[id(layer)]
        if self._by_unit and units is not None and not units.bias_per_unit:
            return "its bias is not one for each unit"
        return ""

    def _has_bias(self, layer: keras.layers.Layer) -> bool:
        weights = self._view.weights
        return any(w.layer is layer and w.role == "bias" for w in weights)


def _text(moments: UnitMoments) -> str:
    variance = float(np.mean(moments.variance))
    square = float(np.mean(moments.mean**2))
    return f"variance of {variance:.3g} and a squared mean of {square:.3g}"
