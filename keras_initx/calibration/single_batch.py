"""Calibration to a single batch, in one forward pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from keras_initx.calibration.calibrator import Calibrator
from keras_initx.calibration.correction import UnitMoments, corrected_moments
from keras_initx.hooks.recorder import Rerun
from keras_initx.inspection.selection import LayerCall


class SingleBatch(Calibrator):
    """Calibrates each layer within its call, and then runs it once more."""

    def _correct_all(self, batches: Iterable[Any]) -> None:
        self._promised: dict[int, UnitMoments] = {}
        for batch in batches:
            self._forward(batch, self._correct, self._run_again_if_corrected)

    def _correct(self, call: LayerCall, signal: tf.Tensor) -> None:
        """Corrects a layer by the moments of the batch."""
        layer = id(call.layer)
        if layer in self._rows:
            return
        moments = self._moments(call, signal)
        if moments is not None and self._finish(call, moments):
            change = self._changes[layer]
            self._promised[layer] = corrected_moments(moments, change)

    def _run_again_if_corrected(
        self, call: LayerCall, rerun: Rerun, output: Any
    ) -> Any:
        """The output of a layer as it is after its correction.

        The signal that was recorded, corrected, would not do: it differs by a
        rounding error, which later layers would amplify.
        """
        promised = self._promised.pop(id(call.layer), None)
        if promised is None:
            return output
        signals: list[tf.Tensor] = []
        output = rerun(signals.append)
        self._check(call, rerun, promised, signals[0])
        return output
