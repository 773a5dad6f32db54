"""The record of a calibration: a profile, and what was left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from keras_initx.profile import VarianceProfile

# Where rounding, amplified by 1.21 a layer, reaches a tenth of a percent.
FLOAT32_DEPTH = 60


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(VarianceProfile):
    """The profile of a model on the data it was calibrated on.

    Its rows are the layers that were heard, those left alone included, with
    the moments of what each handed on.

    Args:
        layers: As in `VarianceProfile`, as are the next three.
        sample_variance: Averaged over units.
        squared_mean: Averaged over units.
        units: Channels of a convolution: positions are samples here.
        left_alone: For each layer that was not calibrated, the reason.
        notes: For each that was so in part only, what was left out.

    Raises:
        ValueError: As `VarianceProfile` does.

    Example:

    >>> import keras, numpy as np, keras_initx as kx
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> done = kx.calibrate(model, np.random.normal(size=(64, 4)))
    >>> done.left_alone, done.notes
    ({}, {})

    Reference: derived here.
    """

    left_alone: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    def table(self, expected: VarianceProfile | None = None) -> str:
        """The profile as text, and under it what was left alone and why.

        Args:
            expected: As in `VarianceProfile.table`.
        """
        lines = [super().table(expected)]
        for head, told in (
            ("Left alone", self.left_alone),
            ("In part", self.notes),
        ):
            lines += [f"{head}: {name}: {why}" for name, why in told.items()]
        done = len(self) - len(self.left_alone)
        if done > FLOAT32_DEPTH:
            lines.append(
                f"Of {done} layers the later ones may not repeat this on "
                "other hardware or in other batches: differences, rounding "
                "included, grow by 1.21 a relu layer."
            )
        return "\n".join(lines)
