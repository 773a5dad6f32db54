"""The record of a calibration: a profile, and what was left alone."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from keras_initx.profile import VarianceProfile

# Where rounding errors of one in that many, amplified by 1.21 a layer, reach
# half a percent: about 60 layers in float32.
_ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24}


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(VarianceProfile):
    """The profile of a model on the data it was calibrated on.

    Its rows are the layers that were heard, those left alone included. The
    moments are those heard, after the correction as it is in exact arithmetic;
    `measure` has what rounding makes of it.

    Args:
        layers: As in `VarianceProfile`, as are the next three.
        sample_variance: Averaged over units.
        squared_mean: Averaged over units.
        units: Channels of a convolution: positions are samples here.
        skipped: For each layer that was not calibrated, the reason.
        notes: For each that was so in part only, what was left out.
        dtype: In which most layers compute.
        per: "unit" or "layer", as `calibrate` was told.

    Raises:
        ValueError: As `VarianceProfile` does.

    Example:

    >>> import keras, numpy as np, keras_initx as kx
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> done = kx.calibrate(model, np.random.normal(size=(64, 4)))
    >>> done.skipped, done.notes
    ({}, {})

    Reference: derived here.
    """

    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    dtype: str = "float32"
    per: str = "unit"

    def table(self, expected: VarianceProfile | None = None) -> str:
        """The profile as text, and under it what was left alone and why.

        Args:
            expected: As in `VarianceProfile.table`.
        """
        return "\n".join([super().table(expected), *self._told()])

    def _repr_html_(self) -> str:
        told = "".join(f"<p>{html.escape(line)}</p>" for line in self._told())
        return super()._repr_html_() + told

    def _told(self) -> Iterator[str]:
        for head, by_name in (
            ("Skipped", self.skipped),
            ("In part", self.notes),
        ):
            together: dict[str, list[str]] = {}
            for name, why in by_name.items():
                together.setdefault(why, []).append(name)
            for why, names in together.items():
                yield f"{head}: {', '.join(names)}: {why}"
        done = sum(name not in self.skipped for name in self.layers)
        if self.per != "unit" or done < 2:
            return
        yield (
            "The price: squared gradients and differences grow by "
            "pi/(pi-1) = 1.47 in each relu layer, as with Batch Normalization."
        )
        rounding = _ROUNDING.get(self.dtype, 2.0**-53)
        if done > math.log(0.005 / rounding) / math.log(1.21):
            yield (
                f"Rounding included: of {done} layers in {self.dtype} the "
                "later ones may not repeat this on other hardware, compiled "
                "otherwise or in other batches."
            )

    def to_dict(self) -> dict[str, Any]:
        """The calibration as plain lists and dicts, fit for JSON."""
        return super().to_dict() | {
            "skipped": dict(self.skipped),
            "notes": dict(self.notes),
            "dtype": self.dtype,
            "per": self.per,
        }

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Calibration:
        """The calibration that `to_dict` wrote.

        Raises:
            ValueError: `config` is no such thing.
        """
        if "left_alone" in config:
            # The key of `skipped` in files of versions before 0.1.0.
            config = {
                "skipped" if key == "left_alone" else key: value
                for key, value in config.items()
            }
        own = ("skipped", "notes", "dtype", "per")
        missing = [key for key in own if key not in config]
        if missing:
            raise ValueError(
                f"A Calibration is read from a dict with {own}. "
                f"Received: config without {missing}"
            )
        profile = VarianceProfile.from_dict(
            {key: value for key, value in config.items() if key not in own}
        )
        return cls(
            profile.layers,
            profile.sample_variance,
            profile.squared_mean,
            profile.units,
            **{key: config[key] for key in own},
        )
