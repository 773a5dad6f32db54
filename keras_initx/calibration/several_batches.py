"""Calibration to several batches, one layer in each pass over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from keras_initx.calibration.calibrator import Calibrator
from keras_initx.calibration.correction import (
    UnitMoments,
    corrected_moments,
    merged,
)
from keras_initx.hooks.recorder import Rerun
from keras_initx.inspection.selection import LayerCall


class SeveralBatches(Calibrator):
    """Calibrates in each pass over all batches the next layer."""

    def _correct_all(self, batches: Iterable[Any]) -> None:
        while self._correct_next(batches):
            self._ran.clear()
        calls = self._calls.copy()
        self._check_all(batches)
        self._calls = calls

    def _correct_next(self, batches: Iterable[Any]) -> bool:
        """Corrects, in a pass over all batches, one further layer.

        Layers that are skipped, and run before any layer that is still to be
        corrected, are done in the same pass.

        Returns:
            Whether layers are left.
        """
        one_pass = _MomentsOfPass(
            self._moments, self._why_skipped, set(self._rows)
        )
        for batch in batches:
            one_pass.start_batch()
            self._forward(batch, one_pass.record)
        for call, moments in one_pass.complete():
            self._finish(call, moments)
        return bool(one_pass.too_early)

    def _check_all(self, batches: Iterable[Any]) -> None:
        """Checks each corrected layer on the first batch in which it runs.

        There it runs with its new values and with its old ones, on the same
        inputs: batches may differ from pass to pass, and rounding with them.
        """
        waiting = set(self._changes)
        signals: dict[int, tf.Tensor] = {}

        def record(call: LayerCall, signal: tf.Tensor) -> None:
            if id(call.layer) in waiting:
                waiting.remove(id(call.layer))
                signals[id(call.layer)] = signal

        def check(call: LayerCall, rerun: Rerun, output: Any) -> Any:
            signal = signals.pop(id(call.layer), None)
            units = self._units.get(id(call.layer))
            if signal is not None and units is not None:
                old = [(w, self._values[id(w)]) for w in units.weights]
                before = self._run_with(old, call, rerun)
                if before is not None:
                    change = self._changes[id(call.layer)]
                    promised = corrected_moments(before, change)
                    self._check(call, rerun, promised, signal)
            return output

        for batch in batches if waiting else ():
            self._forward(batch, record, check)
            if not waiting:
                return


class _MomentsOfPass:
    """Moments of signals over one pass over all batches.

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
