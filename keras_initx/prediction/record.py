"""`Prediction`, the profile that `predict` returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from keras_initx.profile import VarianceProfile
from keras_initx.validation import refuse

EXACTNESS = (
    "exact",
    "wide",
    "sampled",
    "approximated",
    "positions averaged",
    "drawn",
)


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(VarianceProfile):
    """The signal and the gradient of a model, as `predict` expects them.

    It is a `VarianceProfile` with the rows and the names of `measure`, so that
    `profile.table(expected=prediction)` and `profile.plot(expected=prediction)`
    lay it beside a measurement. As in theory, `squared_mean` is the mean
    covariance of two different samples, so that `sample_fraction` is that of
    infinitely many samples: `measure` on n samples finds (n - 1) / n of it. The
    covariance may be negative, and the sample fraction above 1.

    `exactness` says how each row was computed, and `notes` give reasons:

        exact           mean over networks, at any width
        wide            limit of wide networks, by closed forms and quadrature
        sampled         the limit of wide networks, by draws of channels
        approximated    the limit of wide networks, where a distribution or a
                        statistic is simplified
        positions averaged
                        the same, and pairs of positions of a large image are
                        means over parts of it
        drawn           mean over drawn networks of the width of the model

    Args:
        layers: As in `VarianceProfile`.
        sample_variance: As in `VarianceProfile`. NaN where an error of 1% in an
            earlier layer would be more than 100%, so that no number is known,
            and where positions are averaged and it is less than 5% of the
            total, there or in an earlier row.
        squared_mean: As in `VarianceProfile`, NaN in the former rows. In the
            latter it is the total.
        units: As in `VarianceProfile`.
        dead_fraction: As in `VarianceProfile`. 1 in the last row that samples
            reach if nothing passes its activation, as where all relu units are
            off. NaN in all other rows.
        saturated_fraction: As in `VarianceProfile`. NaN: it is not predicted.
        gradient: As in `VarianceProfile`. NaN where the last row does not
            depend on the layer, and where an error of 1% of the total would be
            more than 100% at the last row.
        notes: As in `VarianceProfile`.
        remarks: As in `VarianceProfile`.
        roles: As in `VarianceProfile`.
        white_noise: As in `VarianceProfile`.
        exactness: Sequence of str. "exact", "wide", "sampled",
            "approximated", "positions averaged" or "drawn" for each row.
            Defaults to "wide" in every row.
        samples: int. The number of samples that it is for, which `remarks`
            explain if it is smaller than asked for. Defaults to not known.
        quartiles: dict. For "total", "sample_fraction" and "gradient" three
            lists: the lower quartile over networks, the median and the upper
            quartile of each row. Defaults to none.

    Raises:
        ValueError: As `VarianceProfile`, or if `exactness`, `quartiles` or
            `position_correlation` do not have a value for each row.

    Example:

    >>> prediction = Prediction(["a"], [1.0], [1.0], [64], exactness=["exact"])
    >>> prediction.exactness
    ('exact',)

    Reference: derived here.
    """

    _may_be_unknown: ClassVar[bool] = True
    exactness: Sequence[str] = ()
    quartiles: Mapping[str, Any] = field(default_factory=dict)
    position_correlation: np.ndarray = None  # type: ignore[assignment]
    samples: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        exactness = tuple(self.exactness) or ("wide",) * len(self)
        if len(exactness) != len(self) or not set(exactness) <= set(EXACTNESS):
            refuse(
                f"exactness must hold one of {EXACTNESS} for each of the "
                f"{len(self)} layers.",
                exactness=self.exactness,
            )
        object.__setattr__(self, "exactness", exactness)
        quartiles = {}
        for name, values in dict(self.quartiles).items():
            array = np.array(values, dtype=np.float64)
            if name not in ("total", "sample_fraction", "gradient") or (
                array.shape != (3, len(self))
            ):
                refuse(
                    "quartiles must hold three lists of a number for each "
                    "layer, for total, sample_fraction or gradient.",
                    quartiles=self.quartiles,
                )
            array.setflags(write=False)
            quartiles[name] = array
        object.__setattr__(self, "quartiles", quartiles)
        given = self.position_correlation
        correlation = np.full(len(self), np.nan)
        if given is not None:
            correlation = np.array(given, dtype=np.float64)
        if correlation.shape != (len(self),):
            refuse(
                "position_correlation must hold one number for each of the "
                f"{len(self)} layers.",
                position_correlation=given,
            )
        correlation.setflags(write=False)
        object.__setattr__(self, "position_correlation", correlation)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prediction):
            return NotImplemented
        return (
            bool(super().__eq__(other))
            and self.exactness == other.exactness
            and self.samples == other.samples
            and self.quartiles.keys() == other.quartiles.keys()
            and np.array_equal(
                self.position_correlation,
                other.position_correlation,
                equal_nan=True,
            )
            and all(
                np.array_equal(a, other.quartiles[name], equal_nan=True)
                for name, a in self.quartiles.items()
            )
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the prediction as lists for JSON, as `VarianceProfile`."""
        config = super().to_dict() | {"exactness": list(self.exactness)}
        if self.quartiles:
            config["quartiles"] = {
                name: [
                    [None if np.isnan(v) else v for v in row]
                    for row in values.tolist()
                ]
                for name, values in self.quartiles.items()
            }
        if not np.isnan(self.position_correlation).all():
            config["position_correlation"] = [
                None if np.isnan(value) else value
                for value in self.position_correlation.tolist()
            ]
        if self.samples is not None:
            config["samples"] = self.samples
        return config

    @property
    def total(self) -> np.ndarray:
        """Mean square of the pre-activations, shape `(layers,)`.

        It is m^2 + v^2, or m^2 alone where v^2 is not known.
        """
        unknown = np.isnan(self.sample_variance)
        return self.squared_mean + np.where(unknown, 0, self.sample_variance)

    @property
    def is_noise_of_positions(self) -> bool:
        """Whether it is for white noise of several positions, if known."""
        known = np.isfinite(self.position_correlation)
        return self.white_noise and bool(known.any())
