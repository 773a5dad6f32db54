"""Listens to a forward pass, and corrects each layer as it is heard."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_initx.calibration.correction import (
    correction,
    folded,
    told_of_layer,
    told_of_units,
)
from keras_initx.calibration.exclusions import excluded, normalized, unheard
from keras_initx.calibration.record import Calibration
from keras_initx.calibration.unit_moments import (
    UnitMoments,
    merged,
    unit_moments,
)
from keras_initx.hooks.forward_hooks import forward_hooks
from keras_initx.hooks.patching import replaced
from keras_initx.inspection.linear_units import Readout, readout
from keras_initx.inspection.selection import (
    LayerCall,
    Selector,
    check_all_matched,
    matches,
    selectors,
)
from keras_initx.inspection.traversal import all_layers
from keras_initx.measurement.data import taken_as_inputs


class Row(NamedTuple):
    """What became of one layer."""

    name: str
    sample_variance: float
    squared_mean: float
    units: int
    reason: str


class Calibrator:
    """One calibration of one model; `calibrate` says what its arguments are."""

    def __init__(
        self,
        model: keras.Model,
        wanted: Sequence[Selector],
        by_unit: bool,
        center: bool,
        target_variance: float,
        training: bool,
    ):
        self._model = model
        self._wanted = wanted
        self._by_unit = by_unit
        self._center = center
        self._target_variance = target_variance
        self._training = training
        self._layers = all_layers(model)
        self._excluded = excluded(self._layers)
        self._readouts = {
            id(layer): found
            for layer in self._layers
            if (found := readout(layer)) is not None
        }
        self._held = Counter(
            id(w) for found in self._readouts.values() for w in found.weights
        )
        # Read here, for within a layer's call they may be cast.
        self._values = {
            id(w): tf.convert_to_tensor(w.value)
            for found in self._readouts.values()
            for w in found.weights
        }
        self._new: dict[int, tuple[Any, tf.Tensor]] = {}
        self._done: dict[int, keras.layers.Layer] = {}
        self._rows: list[Row] = []
        self._notes: dict[int, list[str]] = {}
        self._calls: Counter[int] = Counter()
        self._ran: list[LayerCall] = []
        self._problem = ""
        self._scope = keras.StatelessScope()

    def run(
        self,
        batches: Iterable[Any],
        on_layer: Callable[[], None] = lambda: None,
    ) -> None:
        """Find the new values of all layers."""
        self._on_layer = on_layer
        first = next(iter(batches))
        if self._wanted == selectors(None):
            # Who picks such a layer wants it.
            self._excluded |= normalized(
                self._model, self._layers, first, self._training
            )
        if isinstance(batches, list):
            with self._corrected_layers_run_again():
                self._forward(first, self._correct_as_heard)
        else:
            while self._correct_next(batches):
                pass
        check_all_matched(self._wanted, self._ran)

    def new_values(self) -> list[tuple[Any, tf.Tensor]]:
        return list(self._new.values())

    def result(self) -> Calibration:
        """The profile.

        Raises:
            ValueError: No layer was heard.
        """
        if not self._rows:
            raise ValueError(
                "A picked layer must have a floating-point signal. "
                f"Received: {sorted({heard.name for heard in self._ran})}"
            )
        names, variance, square, units, reasons = zip(*self._rows, strict=True)
        skipped = {
            name: reason
            for name, reason in zip(names, reasons, strict=True)
            if reason
        }
        if self._wanted == selectors(None):
            ran = {id(heard.layer) for heard in self._ran}
            skipped |= unheard(self._model, set(self._done), ran)
        for layer, calls in self._calls.items():
            if calls > 1 and layer in self._notes:
                self._notes[layer].append(f"the first of {calls} calls")
        notes = {
            name: ", ".join(self._notes[layer])
            for name, layer in zip(names, self._done, strict=True)
            if self._notes.get(layer)
        }
        dtypes = Counter(layer.compute_dtype for layer in self._done.values())
        (dtype, _), *_ = dtypes.most_common()
        return Calibration(
            names,
            variance,
            square,
            units,
            skipped,
            notes,
            dtype,
            "unit" if self._by_unit else "layer",
        )

    def _forward(self, batch: Any, listener: Any) -> None:
        self._ran = []

        def picks(heard: LayerCall) -> bool:
            self._ran.append(heard)
            return any(matches(selector, heard) for selector in self._wanted)

        # What the pass itself would write, such as statistics, is dropped.
        with (
            contextlib.suppress(_EndOfPassError),
            keras.StatelessScope(self.new_values()) as self._scope,
            forward_hooks(on_pre_activation=listener, select=picks),
            taken_as_inputs(self._model, batch),
        ):
            self._model(batch, training=self._training)
        # Raised in the pass, Keras would dress it up.
        if self._problem:
            raise ValueError(self._problem)

    def _moments(self, heard: LayerCall, signal: tf.Tensor) -> UnitMoments:
        moments = unit_moments(signal, self._readouts.get(id(heard.layer)))
        if not np.isfinite(moments.mean + moments.variance).all():
            self._problem = (
                "The signal must stay finite, and small enough to be squared "
                f"in float32. Received: NaN or inf at layer {heard.name!r}"
            )
            raise _EndOfPassError
        return moments

    def _correct_as_heard(
        self, heard: LayerCall, signal: tf.Tensor
    ) -> tf.Tensor:
        self._calls[id(heard.layer)] += 1
        if id(heard.layer) not in self._done:
            before = len(self._new)
            self._correct(heard, self._moments(heard, signal))
            if len(self._new) > before:
                raise _RunAgainError
        return signal

    @contextlib.contextmanager
    def _corrected_layers_run_again(self) -> Iterator[None]:
        """Within, a layer hands on what it computes after its correction.

        Not what was heard, corrected: that differs by a rounding error, which
        layers to come would amplify.
        """

        def again(call: Any) -> Any:
            def corrected(*args: Any, **kwargs: Any) -> Any:
                try:
                    return call(*args, **kwargs)
                except _RunAgainError:
                    return call(*args, **kwargs)

            return corrected

        with contextlib.ExitStack() as stack:
            for layer in self._layers:
                if id(layer) in self._readouts:
                    stack.enter_context(replaced(layer, "call", again))
            yield

    def _correct_next(self, batches: Iterable[Any]) -> bool:
        """Correct the first layer that is not done; False if all are."""
        moments = reached = None

        def stop_there(heard: LayerCall, signal: tf.Tensor) -> tf.Tensor:
            nonlocal moments, reached
            if id(heard.layer) in self._done:
                return signal
            # Another batch may take another way through the model.
            if reached is None or heard.layer is reached.layer:
                reached = heard
                new = self._moments(heard, signal)
                moments = merged(moments, new) if moments else new
                raise _EndOfPassError
            return signal

        for batch in batches:
            self._forward(batch, stop_there)
        if moments is None:
            return False
        self._correct(reached, moments)
        return True

    def _correct(self, heard: LayerCall, moments: UnitMoments) -> None:
        """Note a layer's new values, and its row."""
        self._on_layer()
        self._done[id(heard.layer)] = heard.layer
        layer = heard.layer
        found = self._readouts.get(id(layer))
        reason = self._reason(layer, found)
        factor, shift = 1.0, 0.0
        if not reason:
            center = self._center and found.bias is not None
            factor, shift, constant = correction(
                moments, self._target_variance, self._by_unit, center
            )
            values = folded(found, factor, shift, self._values)
            if values is None:
                reason, factor, shift = "too large for its dtype", 1.0, 0.0
        if not reason:
            for variable, value in values:
                self._new[id(variable)] = (variable, value)
                # The pass in progress goes on with it.
                self._scope.add_update((variable, value))
            self._notes[id(layer)] = [
                *told_of_layer(layer, found, moments, self._center),
                *told_of_units(factor, constant),
            ]
        self._rows.append(
            Row(
                heard.name,
                np.mean(moments.variance * factor**2),
                np.mean(((moments.mean - shift) * factor) ** 2),
                moments.mean.size,
                reason,
            )
        )

    def _reason(self, layer: keras.layers.Layer, found: Readout | None) -> str:
        if id(layer) in self._excluded:
            return self._excluded[id(layer)]
        if found is None:
            return "not known to be linear in one kernel"
        if not all(weight.trainable for weight in found.weights):
            return "frozen"
        if any(self._held[id(weight)] > 1 for weight in found.weights):
            return "shares its weights with another layer"
        if self._by_unit and not found.bias_fits:
            return "its bias is not one for each unit"
        return ""


class _RunAgainError(BaseException):
    """Ends a layer's call once it has been heard and corrected."""


class _EndOfPassError(BaseException):
    """Ends a pass. Keras rewrites what it catches, which are Exceptions."""
