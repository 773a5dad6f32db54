"""Corrects the layers of a model as data pass through it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_initx.calibration.correction import (
    UnitMoments,
    corrected_values,
    correction,
    merged,
    notes,
    unit_moments,
)
from keras_initx.calibration.exclusions import (
    normalized,
    skipped_by_kind,
    unrecorded,
    why_skipped,
)
from keras_initx.calibration.record import Calibration
from keras_initx.hooks.forward_hooks import forward_hooks
from keras_initx.hooks.recorder import Rerun
from keras_initx.inspection.selection import (
    LayerCall,
    Selector,
    check_all_matched,
    matches_any,
    selectors,
)
from keras_initx.inspection.traversal import ModelView
from keras_initx.measurement.data import taken_as_inputs


@dataclass
class _Row:
    """What became of one layer.

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


class _Pass:
    """The moments that one pass over all batches gives.

    Args:
        moments: Returns the moments of a layer's signal.
        why_skipped: Returns why a layer is skipped, "" if it is corrected.
        done: The ids of the layers that are done.

    Attributes:
        too_early: The ids of the layers that are not done, and that in some
            batch ran after a layer which is still to be corrected.
    """

    def __init__(
        self,
        moments: Callable[[LayerCall, tf.Tensor], UnitMoments | None],
        why_skipped: Callable[[keras.layers.Layer], str],
        done: set[int],
    ):
        self._moments = moments
        self._why_skipped = why_skipped
        self._done = done
        self._target: keras.layers.Layer | None = None
        self._moments_of: dict[int, tuple[LayerCall, UnitMoments]] = {}
        self.too_early: set[int] = set()
        self.start_batch()

    def start_batch(self) -> None:
        """Starts the next batch."""
        self._met: set[int] = set()
        self._final = True

    def record(self, call: LayerCall, signal: tf.Tensor) -> None:
        """Records the signal of a layer if nothing will change it any more."""
        layer = call.layer
        if id(layer) in self._done or id(layer) in self._met:
            return
        self._met.add(id(layer))
        corrected = not self._why_skipped(layer)
        if corrected and self._target is None:
            self._target = layer
        # Another batch may take another way through the model, on which the
        # layer to correct comes later.
        if layer is self._target or (self._final and not corrected):
            self._merge(call, signal)
        else:
            self.too_early.add(id(layer))
        self._final = self._final and not corrected

    def _merge(self, call: LayerCall, signal: tf.Tensor) -> None:
        moments = self._moments(call, signal)
        if moments is None:
            return
        first, before = self._moments_of.get(id(call.layer), (call, None))
        moments = merged(before, moments) if before else moments
        self._moments_of[id(call.layer)] = (first, moments)

    def complete(self) -> list[tuple[LayerCall, UnitMoments]]:
        """The first call and the moments of each layer that is now done."""
        return [
            one
            for layer, one in self._moments_of.items()
            if layer not in self.too_early
        ]


class Calibrator:
    """One calibration of one model.

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
        self._corrected_in_call: set[int] = set()
        self._error = ""
        self._scope = keras.StatelessScope()

    def run(self, batches: Iterable[Any]) -> None:
        """Finds the new values of all layers.

        Args:
            batches: A list of one batch, for one pass; or batches that can be
                run through several times.

        Raises:
            ValueError: If a signal is not finite, or a selector picks no
                layer.
        """
        first = next(iter(batches))
        if self._is_default:
            # A user who names such a layer wants it calibrated.
            self._excluded |= normalized(self._view, first, self._training)
        if isinstance(batches, list):
            self._forward(first, self._correct_at_once)
        else:
            while self._correct_next(batches):
                self._ran.clear()
        check_all_matched(self._chosen, self._ran)

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
            raise ValueError(
                "A picked layer must have a floating-point signal. "
                f"Received: {sorted({call.name for call in self._ran})}"
            )
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
            {row.name: ", ".join(row.notes) for row in rows if row.notes},
            dtype,
            "unit" if self._by_unit else "layer",
        )

    def _forward(
        self, batch: Any, record: Callable[[LayerCall, tf.Tensor], None]
    ) -> None:
        """Runs the model on a batch with the new values that there are.

        Args:
            batch: The batch.
            record: Called with each picked layer's call and pre-activation.
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
                    after_call=self._run_again_if_corrected,
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
        self._error = (
            "The signal must stay finite, and small enough to be squared "
            f"in float32. Received: NaN or inf at layer {call.name!r}"
        )
        return None

    def _correct_at_once(self, call: LayerCall, signal: tf.Tensor) -> None:
        """Corrects a layer by the moments of the only batch."""
        if id(call.layer) in self._rows:
            return
        moments = self._moments(call, signal)
        if moments is not None and self._finish(call, moments):
            self._corrected_in_call.add(id(call.layer))

    def _run_again_if_corrected(
        self, call: LayerCall, rerun: Rerun, output: Any
    ) -> Any:
        """The output of a layer as it is after its correction.

        The signal that was recorded, corrected, would not do: it differs by a
        rounding error, which later layers would amplify.
        """
        if id(call.layer) not in self._corrected_in_call:
            return output
        self._corrected_in_call.remove(id(call.layer))
        return rerun()

    def _correct_next(self, batches: Iterable[Any]) -> bool:
        """Corrects, in a pass over all batches, one further layer.

        Layers that are skipped, and run before any layer that is still to be
        corrected, are done in the same pass.

        Returns:
            Whether layers are left.
        """
        one_pass = _Pass(self._moments, self._why_skipped, set(self._rows))
        for batch in batches:
            one_pass.start_batch()
            self._forward(batch, one_pass.record)
        for call, moments in one_pass.complete():
            self._finish(call, moments)
        return bool(one_pass.too_early)

    def _finish(self, call: LayerCall, moments: UnitMoments) -> bool:
        """Corrects a layer, or skips it, and adds its row.

        Returns:
            Whether it is corrected.
        """
        layer = call.layer
        units = self._units.get(id(layer))
        reason = self._why_skipped(layer)
        factor: Any = 1.0
        shift: Any = 0.0
        told: list[str] = []
        if not reason and units is not None:
            center = self._center and units.bias is not None
            change = correction(
                moments, self._target_variance, self._by_unit, center
            )
            values = corrected_values(units, change, self._values)
            if values is None:
                reason = "too large for its dtype"
            else:
                factor, shift = change.factor, change.shift
                told = list(notes(units, moments, change, self._center))
                self._set(values)
        self._rows[id(layer)] = _Row(
            layer,
            call.name,
            float(np.mean(moments.variance * factor**2)),
            float(np.mean(((moments.mean - shift) * factor) ** 2)),
            moments.mean.size,
            reason,
            told,
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
