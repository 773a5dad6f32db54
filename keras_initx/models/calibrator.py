"""Listens to a forward pass, and corrects each layer as it is heard."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_initx.models.calibration import Calibration
from keras_initx.models.correction import FEW, correction, told_of_units
from keras_initx.models.readout import Readout, readout
from keras_initx.models.unit_moments import (
    UnitMoments,
    merged,
    unit_moments,
)
from keras_initx.models.untouched import excluded, normalized
from keras_initx.models.walk import all_layers, places
from keras_initx.signal.heard import Heard, swapped
from keras_initx.signal.selection import (
    Selector,
    check_all_matched,
    matches,
    selectors,
)
from keras_initx.signal.tap import listening

_KERNELS = ("kernel", "depthwise", "pointwise")


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
        target: float,
        training: bool,
    ):
        self._model = model
        self._wanted = wanted
        self._by_unit = by_unit
        self._center = center
        self._target = target
        self._training = training
        self._layers = all_layers(model)
        self._excluded = excluded(self._layers)
        self._new: dict[int, tuple[Any, tf.Tensor]] = {}
        self._done: dict[int, keras.layers.Layer] = {}
        self._rows: list[Row] = []
        self._notes: dict[int, list[str]] = {}
        self._calls: Counter[int] = Counter()
        self._ran: list[Heard] = []
        self._problem = ""
        self._scope = keras.StatelessScope()

    def run(self, batches: Iterable[Any]) -> None:
        """Find the new values of all layers."""
        self._check_data(batches)
        first = next(iter(batches), None)
        if first is None:
            raise ValueError(
                "Several batches are run through once for each layer, so data "
                "must give them anew each time. Received: data that give "
                "nothing the second time"
            )
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
        left_alone = {
            name: reason
            for name, reason in zip(names, reasons, strict=True)
            if reason
        } | self._unheard()
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
            names, variance, square, units, left_alone, notes, dtype
        )

    def _unheard(self) -> dict[str, str]:
        """Layers with weights that may be linear, which were not heard."""
        if self._wanted != selectors(None):
            return {}
        ran = {id(heard.layer) for heard in self._ran}
        reasons = {}
        for place in places(self._model):
            layer, geometry = place.layers[-1], place.geometry
            linear = geometry.factored is not None
            if (linear or geometry.role == "unknown") and (
                id(layer) not in self._done
            ):
                name = "/".join(each.name for each in place.layers[1:])
                told = "not known to be linear in one kernel"
                reasons[name] = told if id(layer) in ran else "did not run"
        return reasons

    def _check_data(self, batches: Iterable[Any]) -> None:
        for batch in batches:
            for x in keras.tree.flatten(batch):
                if x.dtype.is_floating and not bool(
                    tf.reduce_all(tf.math.is_finite(x))
                ):
                    raise ValueError(
                        "data must be finite. Received: NaN or inf in data"
                    )

    def _forward(self, batch: Any, listener: Any) -> None:
        self._ran = []

        def picks(heard: Heard) -> bool:
            self._ran.append(heard)
            return any(matches(selector, heard) for selector in self._wanted)

        # What the pass itself would write, such as statistics, is dropped.
        with (
            contextlib.suppress(_EndOfPassError),
            keras.StatelessScope(self.new_values()) as self._scope,
            listening(listener, picks),
        ):
            self._model(batch, training=self._training)
        # Raised in the pass, Keras would dress it up.
        if self._problem:
            raise ValueError(self._problem)

    def _moments(self, heard: Heard, signal: tf.Tensor) -> UnitMoments:
        moments = unit_moments(signal, readout(heard.layer))
        if not np.isfinite(moments.mean + moments.variance).all():
            self._problem = (
                "The signal must stay finite, and small enough to be squared "
                f"in float32. Received: NaN or inf at layer {heard.name!r}"
            )
            raise _EndOfPassError
        return moments

    def _correct_as_heard(self, heard: Heard, signal: tf.Tensor) -> tf.Tensor:
        self._calls[id(heard.layer)] += 1
        if id(heard.layer) not in self._done:
            self._correct(heard, self._moments(heard, signal))
        return signal

    @contextlib.contextmanager
    def _corrected_layers_run_again(self) -> Iterator[None]:
        """Within, a layer hands on what it computes after its correction.

        Not what was heard, corrected: that differs by a rounding error, which
        layers to come would amplify.
        """

        def again(call: Any) -> Any:
            def corrected(*args: Any, **kwargs: Any) -> Any:
                before = len(self._new)
                output = call(*args, **kwargs)
                changed = len(self._new) > before
                return call(*args, **kwargs) if changed else output

            return functools.update_wrapper(corrected, call)

        with contextlib.ExitStack() as stack:
            for layer in self._layers:
                if readout(layer) is not None:
                    stack.enter_context(
                        swapped(layer, "call", again(layer.call))
                    )
            yield

    def _correct_next(self, batches: Iterable[Any]) -> bool:
        """Correct the first layer that is not done; False if all are."""
        moments = reached = None

        def stop_there(heard: Heard, signal: tf.Tensor) -> tf.Tensor:
            nonlocal moments, reached
            if id(heard.layer) in self._done:
                return signal
            reached = heard
            new = self._moments(heard, signal)
            moments = merged(moments, new) if moments else new
            raise _EndOfPassError

        for batch in batches:
            self._forward(batch, stop_there)
        if moments is None:
            return False
        self._correct(reached, moments)
        if self._problem:
            raise ValueError(self._problem)
        return True

    def _correct(self, heard: Heard, moments: UnitMoments) -> None:
        """Note a layer's new values, and its row."""
        self._done[id(heard.layer)] = heard.layer
        if moments.count < 2:
            self._problem = (
                "Variance between samples needs at least two of them. "
                "Received: data of one sample"
            )
            return
        found = readout(heard.layer)
        reason = self._reason(heard.layer, found)
        factor, shift = 1.0, 0.0
        if not reason:
            center = self._center and found.bias is not None
            factor, shift, constant = correction(
                moments, self._target, self._by_unit, center
            )
            for variable, value in found.folded(factor, shift):
                self._new[id(variable)] = (variable, value)
                # The pass in progress goes on with it.
                self._scope.add_update((variable, value))
            self._notes[id(heard.layer)] = [
                *self._told_of(heard.layer, found, moments.count),
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

    def _told_of(
        self, layer: keras.layers.Layer, found: Readout, count: int
    ) -> Iterator[str]:
        if self._center and found.bias is None:
            yield "no bias, so scaled only"
        if count < FEW:
            yield f"from {count} numbers a unit only"
        if any(getattr(layer, f"{name}_constraint", None) for name in _KERNELS):
            yield "the constraint of its kernel may undo it"

    def _reason(self, layer: keras.layers.Layer, found: Readout | None) -> str:
        if id(layer) in self._excluded:
            return self._excluded[id(layer)]
        if found is None:
            return "not known to be linear in one kernel"
        weights = [w for w in (found.kernel, found.bias) if w is not None]
        if not all(weight.trainable for weight in weights):
            return "frozen"
        if any(id(weight) in self._new for weight in weights):
            return "shares its kernel"
        if self._by_unit and not found.bias_fits:
            return "its bias is not one for each unit"
        return ""


class _EndOfPassError(BaseException):
    """Ends a pass. Keras rewrites what it catches, which are Exceptions."""
