"""Triangle waves: curves that a relu net of width 4 draws in 2^depth pieces.

A triangle has its peak at a, and is 0 at the ends of [0, 1],

    T_a(w) = min(w / a, (1 - w) / (1 - a)).

A wave W_i is a triangle of the wave before, and a curve F of depth d is a
weighted sum of waves:

    W_0 = T_(a_0)(u),    W_i = T_(a_i)(W_(i-1)),
    F = base + sign (s_0 W_0 + ... + s_(d-1) W_(d-1))

with sign = 1 for a concave curve and -1 for a convex one:

    form                on         u            base    s_0
    "ramp", concave     [0, 1]     x            x       (1 - a_0) a_1
    "ramp", convex      [0, 1]     x            x       a_0 a_1
    "v", concave        [-1, 1]    (x + 1) / 2  0       1
    "v", convex         [-1, 1]    (x + 1) / 2  1       1

Each wave doubles the pieces of the one before. With s_i / s_(i-1) =
(1 - a_i) a_(i+1) for i >= 1 the slope of F is continuous in the limit of
infinitely many waves, if all peaks stay in some [c, 1 - c], c > 0. There are
d + 1 peaks; the last one appears in a scale only.

Milkert, Hyde & Laine, ICML (2025), arXiv:2311.18022, section 4 for the ramp
and section 5 for the v, whose peaks from a_1 on are there 1 minus ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize

from keras_initx.theory.triangle_waves.peaks import (
    FORMS,
    check_peaks,
    random_peaks,
)
from keras_initx.validation import (
    check_array,
    check_bool,
    check_choice,
    check_int,
    refuse,
)

# Fitted peaks keep this distance from 0 and 1, where a wave is a line.
_MARGIN = 1e-6


class FittedPeaks(NamedTuple):
    """Peaks of a fitted triangle wave curve, and the error of the fit.

    Attributes:
        peaks: float64 array of shape (depth + 1,). The peaks of the curve.
        mse: float. Mean square of the error.
    """

    peaks: np.ndarray
    mse: float


def triangle_wave_scales(
    peaks: Sequence[float] | np.ndarray,
    concave: bool = True,
    form: str = "ramp",
) -> np.ndarray:
    """Returns the scales of the waves that make the limit curve smooth.

        s_i = s_(i-1) (1 - a_i) a_(i+1),    i >= 1

    with s_0 as in the table of `theory.triangle_waves.curve`:
    (1 - a_0) a_1 for a concave ramp, a_0 a_1 for a convex one, and 1 for a
    "v". A ramp goes through (0, 0) and (1, 1). With infinitely many waves,
    whose peaks are all in some [c, 1 - c], c > 0, it has a slope everywhere:
    at its ends 1 / a_0 and 0 if concave, 0 and 1 / (1 - a_0) if convex. With d
    waves it has 2^d - 1 kinks.

    Args:
        peaks: sequence of floats. a_0, ..., a_d: d + 1 >= 2 numbers in (0, 1).
        concave: bool. Whether the waves are added, which makes the curve
            concave, or subtracted, which makes it convex. Defaults to True.
        form: str. "ramp", a curve from (0, 0) to (1, 1), or "v", a curve over
            [-1, 1] with equal ends. Defaults to "ramp".

    Returns:
        s_0, ..., s_(d-1), a float64 array.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> triangle_wave_scales([0.5, 0.5, 0.5, 0.5])
    array([0.25    , 0.0625  , 0.015625])

    Reference: Milkert, Hyde & Laine, ICML (2025), arXiv:2311.18022, theorem
    3.1. That s_0 sets the slopes at the ends is derived here.
    """
    a = check_peaks(peaks)
    concave, form = check_family(concave, form)
    ratios = (1 - a[:-1]) * a[1:]
    if form == "v":
        ratios[0] = 1.0
    elif not concave:
        ratios[0] = a[0] * a[1]
    return np.cumprod(ratios)


def triangle_wave(
    x: Any,
    peaks: Sequence[float] | np.ndarray,
    concave: bool = True,
    form: str = "ramp",
    scales: Sequence[float] | np.ndarray | None = None,
) -> np.ndarray:
    """Returns the values of a triangle wave curve, from its formula.

        F = base + sign (s_0 W_0 + ... + s_(d-1) W_(d-1))
        W_0 = T_(a_0)(u),    W_i = T_(a_i)(W_(i-1))
        T_a(w) = min(w / a, (1 - w) / (1 - a))

    with u = x and base = x for "ramp"; u = (x + 1) / 2 and base = 0 if
    concave, 1 if convex, for "v"; sign = 1 if concave, -1 if convex.

    Args:
        x: array-like of any shape. In [0, 1] for "ramp", in [-1, 1] for "v".
        peaks: sequence of floats. a_0, ..., a_d: d + 1 >= 2 numbers in (0, 1).
        concave: bool. As in `triangle_wave_scales`. Defaults to True.
        form: str. "ramp" or "v". Defaults to "ramp".
        scales: sequence of floats. s_0, ..., s_(d-1), each > 0. Defaults to
            None, which means those of `triangle_wave_scales`.

    Returns:
        F, a float64 array of the shape of `x`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> x = np.linspace(0, 1, 5)
    >>> triangle_wave(x, [0.5] * 4, concave=False)  # x^2 at these points
    array([0.    , 0.0625, 0.25  , 0.5625, 1.    ])

    Reference: Milkert, Hyde & Laine, ICML (2025), arXiv:2311.18022, sections
    3 to 5.
    """
    a, s = check_curve(peaks, concave, form, scales)
    x = _check_x(x, form)
    sign = 1 if concave else -1
    wave = x if form == "ramp" else (x + 1) / 2
    total = x if form == "ramp" else np.full_like(x, (1 - sign) / 2)
    for peak, scale in zip(a[:-1], s, strict=True):
        wave = np.minimum(wave / peak, (1 - wave) / (1 - peak))
        total = total + sign * scale * wave
    return total


def fit_peaks(
    x: Any,
    y: Any,
    depth: int,
    concave: bool = True,
    form: str = "ramp",
    starts: int = 20,
    seed: int = 0,
) -> FittedPeaks:
    """Returns the peaks whose curve is nearest to a target by least squares.

    Args:
        x: array-like of shape (n,). In [0, 1] for "ramp", in [-1, 1] for "v".
        y: array-like of shape (n,). The target, finite.
        depth: int. d, the number of waves, >= 1.
        concave: bool. As in `triangle_wave_scales`. Defaults to True.
        form: str. "ramp" or "v". Defaults to "ramp".
        starts: int. Number of random starts, of which the best result is
            taken, >= 1. Defaults to 20.
        seed: int. Seed of the starts, >= 0. Defaults to 0.

    Returns:
        (peaks, mse). Training the peaks can come to this mse and not below, if
        the best start found the global minimum.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> x = np.linspace(0, 1, 500)
    >>> f"{fit_peaks(x, x**3, depth=5, concave=False).mse:.1e}"
    '3.4e-05'

    Reference: derived here, for the curves of Milkert, Hyde & Laine, ICML
    (2025), arXiv:2311.18022.
    """
    depth = check_int("depth", depth, 1)
    concave, form = check_family(concave, form)
    starts = check_int("starts", starts, 1)
    seed = check_int("seed", seed)
    x = _check_x(x, form)
    target = check_array("y", y)
    if x.ndim != 1 or target.shape != x.shape or not x.size:
        raise ValueError(
            "x and y must be of one shape (n,), n >= 1. "
            f"Received: shapes {x.shape} and {target.shape}"
        )

    def error(peaks: np.ndarray) -> np.ndarray:
        return triangle_wave(x, peaks, concave, form) - target

    results = [
        optimize.least_squares(
            error, start, bounds=(_MARGIN, 1 - _MARGIN), xtol=1e-12, ftol=1e-12
        )
        for start in random_peaks(depth, starts, seed)
    ]
    best = min(results, key=lambda result: result.cost)
    return FittedPeaks(best.x, 2 * float(best.cost) / len(x))


def check_family(concave: Any, form: Any) -> tuple[bool, str]:
    """Returns the direction and the form of a curve, both checked."""
    return check_bool("concave", concave), check_choice("form", form, FORMS)


def check_curve(
    peaks: Any, concave: Any, form: Any, scales: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the peaks and the scales of a curve, both checked."""
    a = check_peaks(peaks)
    s = triangle_wave_scales(a, concave, form)
    if scales is None:
        return a, s
    values = check_array("scales", scales, "(0, inf)")
    if values.shape != s.shape:
        refuse(
            f"scales must be as many as the waves, {len(s)}: one fewer than "
            "the peaks.",
            scales=scales,
        )
    return a, values


def _check_x(x: Any, form: str) -> np.ndarray:
    """Returns x in the interval of the form, checked."""
    return check_array("x", x, "[-1, 1]" if form == "v" else "[0, 1]")
