"""The record of a calibration: a profile, and which layers were skipped."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from keras_initx.profile import VarianceProfile

# The rounding error of each dtype. Amplified by 1.21 a layer, it reaches half a
# percent in float32 after about 60 layers.
ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24}


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(VarianceProfile):
    """The profile of a model on the data it was calibrated on.

    It has a row for each layer whose pre-activation was recorded, skipped
    layers included. The moments are the recorded ones after the correction in
    exact arithmetic; `measure` shows what rounding makes of it.

    Args:
        layers: tuple of str. Names, as in `VarianceProfile`.
        sample_variance: array of shape `(layers,)`. The variance between
            samples, averaged over units.
        squared_mean: array of shape `(layers,)`. The squared mean over
            samples, averaged over units.
        units: array of shape `(layers,)`. The number of units, which are the
            channels of a convolution: its positions count as samples here.
        skipped: dict. The reason for each layer that was not calibrated.
        dtype: str. The dtype in which most layers compute.
        per: str. "unit" or "layer", as in `calibrate`.
        notes: tuple of str. What a user should know of each layer, such as
            that it has no bias; "" where there is nothing to say.

    Raises:
        ValueError: As `VarianceProfile` does.

    Example:

    >>> import keras, numpy as np, keras_initx as kx
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> done = kx.calibrate(model, np.random.normal(size=(64, 4)))
    >>> done.skipped, done.notes
    ({}, ('',))

    Reference: derived here.
    """

    skipped: Mapping[str, str] = field(default_factory=dict)
    dtype: str = "float32"
    per: str = "unit"

    def _lines(self) -> Iterator[str]:
        yield from super()._lines()
        names_by_reason: dict[str, list[str]] = {}
        for name, reason in self.skipped.items():
            names_by_reason.setdefault(reason, []).append(name)
        for reason, names in names_by_reason.items():
            yield f"Skipped: {', '.join(names)}: {reason}"
        done = sum(name not in self.skipped for name in self.layers)
        if self.per != "unit" or done < 2:
            return
        yield (
            "The cost: from relu layer to relu layer squared gradients and "
            "differences grow by pi/(pi-1) = 1.47, as with Batch Normalization."
        )
        rounding = ROUNDING.get(self.dtype, 2.0**-53)
        if done > math.log(0.005 / rounding) / math.log(1.21):
            yield (
                f"Rounding included: of {done} layers in {self.dtype} the "
                "later ones may not repeat this on other hardware, compiled "
                "otherwise or in other batches."
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns the calibration as plain lists and dicts, fit for JSON."""
        return super().to_dict() | {
            "skipped": dict(self.skipped),
            "dtype": self.dtype,
            "per": self.per,
        }

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        """Returns the calibration that `to_dict` wrote.

        Args:
            config: dict. What `to_dict` returned.

        Raises:
            ValueError: If `config` is no such dict.
        """
        config = dict(config) if isinstance(config, Mapping) else {}
        if "left_alone" in config:
            # The key of `skipped` in files of versions before 0.1.0.
            config["skipped"] = config.pop("left_alone")
        keys = ("skipped", "dtype", "per")
        missing = [key for key in keys if key not in config]
        if missing:
            raise ValueError(
                f"A Calibration is read from a dict with {keys}. "
                f"Received: config without {missing}"
            )
        notes = config.get("notes")
        if isinstance(notes, Mapping):
            # Notes by name, in files of versions before 0.1.0.
            names = config.get("layers", ())
            config["notes"] = [notes.get(name, "") for name in names]
        return super().from_dict(config)
