"""Triangle waves: curves that a relu net of width 4 draws in 2^depth pieces.

A triangle has its peak at a, and is 0 at the ends of [0, 1],

    T_a(w) = min(w / a, (1 - w) / (1 - a)),

a wave W_i is a triangle of a wave, and a curve F a sum of waves:

    W_0 = T_(a_0)(u),    W_i = T_(a_i)(W_(i-1)),
    F = base + sign (s_0 W_0 + ... + s_(d-1) W_(d-1))

    form      on         u            base                  s_0
    "ramp"    [0, 1]     x            x                     (1 - a_0) a_1, +
                                                            a_0 a_1,       -
    "v"       [-1, 1]    (x + 1) / 2  0 for +, 1 for -      1

Each wave doubles the pieces of the one before. With s_i / s_(i-1) =
(1 - a_i) a_(i+1) for i >= 1 the slope of F is continuous in the limit of
infinitely many waves, if all peaks stay in some [c, 1 - c], c > 0. There are
d + 1 peaks; the last is only in a scale.

Milkert, Hyde & Laine, ICML (2025), arXiv:2311.18022, section 4 for the ramp
and section 5 for the v, whose peaks from a_1 on are there 1 minus ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize

from keras_initx.theory.triangle_waves.peaks import (
    check_family,
    check_peaks,
    numbers,
    random_peaks,
)
from keras_initx.validation import check_int

# Peaks that are fitted keep this distance from 0 and 1, where a wave dies.
_MARGIN = 1e-6


class FittedPeaks(NamedTuple):
    """The curve of one family that is nearest to a target.

    Attributes:
        peaks: float64, (depth + 1,).
        mse: Mean square of the error.
    """

    peaks: np.ndarray
    mse: float


def triangle_wave_scales(
    peaks: Sequence[float], sign: int = 1, form: str = "ramp"
) -> np.ndarray:
    """Scales of the waves with which the limit curve has a slope everywhere.

        s_i = s_(i-1) (1 - a_i) a_(i+1),    i >= 1

    and s_0 as at the top of this file. So a ramp goes through (0, 0) and
    (1, 1). Of infinitely many waves, with all peaks in some [c, 1 - c], it has
    a slope everywhere, 1 / a_0 and 0 at its ends for sign 1, 0 and
    1 / (1 - a_0) for sign -1; of d waves it has 2^d - 1 kinks.

    Args:
        peaks: a_0, ..., a_d: d + 1 >= 2 numbers in (0, 1).
        sign: 1 adds the waves, which makes F concave; -1 subtracts them,
            which makes it convex.
        form: "ramp" or "v".

    Returns:
        s_0, ..., s_(d-1), float64.

    Raises:
        ValueError: An argument is none of these.

    Example:

    >>> triangle_wave_scales([0.5, 0.5, 0.5, 0.5])
    array([0.25    , 0.0625  , 0.015625])

    Reference: Milkert, Hyde & Laine, ICML (2025), arXiv:2311.18022, theorem
    3.1. That s_0 sets the slopes at the ends is derived here.
    """
    a = check_peaks(peaks)
    check_family(sign, form)
    ratios = (1 - a[:-1]) * a[1:]
    if form == "v":
        ratios[0] = 1.0
    elif sign == -1:
        ratios[0] = a[0] * a[1]
    return np.cumprod(ratios)


def triangle_wave(
    x: np.ndarray,
    peaks: Sequence[float],
    sign: int = 1,
    form: str = "ramp",
    scales: Sequence[float] | None = None,
) -> np.ndarray:
    """The curve, from its formula.

    Args:
        x: Array-like, in [0, 1] for "ramp", in [-1, 1] for "v".
        peaks: As in `triangle_wave_scales`.
        sign: 1 or -1.
        form: "ramp" or "v".
        scales: s_0, ..., s_(d-1), each > 0; by default those of
            `triangle_wave_scales`.

    Returns:
        F, float64 of the shape of x.

    Raises:
        ValueError: An argument is none of these.

    Example:

    >>> x = np.linspace(0, 1, 5)
    >>> triangle_wave(x, [0.5] * 4, sign=-1)  # x^2 at all halves
    array([0.    , 0.0625, 0.25  , 0.5625, 1.    ])

    Reference: Milkert, Hyde & Laine, ICML (2025), arXiv:2311.18022, sections
    3 to 5.
    """
    a, s = check_curve(peaks, sign, form, scales)
    x = _check_x(x, form)
    wave = x if form == "ramp" else (x + 1) / 2
    total = x if form == "ramp" else np.full_like(x, (1 - sign) / 2)
    for peak, scale in zip(a[:-1], s, strict=True):
        wave = np.minimum(wave / peak, (1 - wave) / (1 - peak))
        total = total + sign * scale * wave
    return total


def fit_peaks(
    x: np.ndarray,
    y: np.ndarray,
    depth: int,
    sign: int = 1,
    form: str = "ramp",
    starts: int = 20,
    seed: int = 0,
) -> FittedPeaks:
    """Peaks whose curve is nearest to a target, by least squares.

    Args:
        x: Array-like, (n,), in [0, 1] for "ramp", in [-1, 1] for "v".
        y: Array-like, (n,), finite.
        depth: d, an int >= 1.
        sign: 1 or -1.
        form: "ramp" or "v".
        starts: How many random starts, an int >= 1; the best one is taken.
        seed: Of the starts, an int >= 0.

    Returns:
        (peaks, mse). No training of the peaks comes below that mse.

    Raises:
        ValueError: An argument is none of these.

    Example:

    >>> x = np.linspace(0, 1, 500)
    >>> f"{fit_peaks(x, x**3, depth=5, sign=-1).mse:.1e}"
    '3.4e-05'

    Reference: derived here, for the curves of Milkert, Hyde & Laine, ICML
    (2025), arXiv:2311.18022.
    """
    check_int("depth", depth, 1)
    check_family(sign, form)
    check_int("starts", starts, 1)
    x = _check_x(x, form)
    target = numbers(y)
    if np.isnan(target).any():
        raise ValueError(f"y must be finite. Received: y={y!s:.200}")
    if x.ndim != 1 or target.shape != x.shape or not x.size:
        raise ValueError(
            "x and y must be of one shape (n,), n >= 1. "
            f"Received: shapes {x.shape} and {target.shape}"
        )

    def error(peaks: np.ndarray) -> np.ndarray:
        return triangle_wave(x, peaks, sign, form) - target

    found = [
        optimize.least_squares(
            error, start, bounds=(_MARGIN, 1 - _MARGIN), xtol=1e-12, ftol=1e-12
        )
        for start in random_peaks(depth, starts, seed)
    ]
    best = min(found, key=lambda result: result.cost)
    return FittedPeaks(best.x, 2 * float(best.cost) / len(x))


def check_curve(
    peaks: Any, sign: Any, form: Any, scales: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Peaks and scales, both checked."""
    a = check_peaks(peaks)
    s = triangle_wave_scales(a, sign, form)
    if scales is None:
        return a, s
    given = numbers(scales)
    if given.shape != s.shape or not (given > 0).all():
        raise ValueError(
            f"scales must be {len(s)} numbers > 0, one fewer than the peaks. "
            f"Received: scales={scales!s:.200}"
        )
    return a, given


def _check_x(x: Any, form: str) -> np.ndarray:
    low = -1.0 if form == "v" else 0.0
    values = numbers(x)
    if not ((values >= low) & (values <= 1)).all():
        raise ValueError(
            f"x must be numbers in [{low:g}, 1], where form={form!r} has its "
            f"curve. Received: x={x!s:.200}"
        )
    return values
