"""The peaks of triangle waves: what may be given, and what is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np

FORMS = ("ramp", "v")
# Where peaks are drawn: at 0 and 1 a wave is a line, and its training slow.
PEAK_RANGE = (0.05, 0.95)


def random_peaks(
    depth: int, count: int, seed: int | np.random.SeedSequence
) -> np.ndarray:
    """Independent peaks of some curves: (count, depth + 1), uniform."""
    rng = np.random.default_rng(seed)
    return rng.uniform(*PEAK_RANGE, (count, depth + 1))


def peaks_of(
    peaks: list[float] | list[list[float]] | None,
    depth: int,
    count: int,
    seed: int | None,
) -> np.ndarray:
    """The peaks of some curves, (count, depth + 1).

    Args:
        peaks: As `plain_peaks` has them, or None for random ones.
        depth: Number of waves.
        count: Number of curves.
        seed: Of random ones.
    """
    if peaks is None:
        return random_peaks(depth, count, seed)
    rows = np.array(peaks)
    if rows.ndim == 1:
        return np.tile(rows, (count, 1))
    if len(rows) != count:
        raise ValueError(
            f"peaks must be one list, or {count} of them, one for each curve. "
            f"Received: {len(rows)} lists"
        )
    return rows


def plain_peaks(peaks: Any, depth: int) -> list[float] | list[list[float]]:
    """Peaks of one curve, or of several, checked; as JSON has them."""
    rows = numbers(peaks)
    for row in rows if rows.ndim == 2 and len(rows) else [rows]:
        if len(check_peaks(row)) != depth + 1:
            raise ValueError(
                f"peaks must be depth + 1 = {depth + 1} numbers, or lists of "
                f"as many. Received: peaks={peaks!s:.200}"
            )
    return rows.tolist()


def check_peaks(peaks: Any) -> np.ndarray:
    """float64 of shape (d + 1,), each in (0, 1), or an error."""
    a = numbers(peaks)
    if a.ndim != 1 or len(a) < 2 or not ((a > 0) & (a < 1)).all():
        raise ValueError(
            "peaks must be 2 or more numbers, one more than the depth, each "
            f"between 0 and 1. Received: peaks={peaks!s:.200}"
        )
    return a


def check_family(sign: Any, form: Any) -> None:
    """Refuse what is no sign or no form."""
    if isinstance(sign, bool) or sign not in (1, -1):
        raise ValueError(
            "sign must be 1, which adds the waves, or -1, which subtracts "
            f"them. Received: sign={sign!r}"
        )
    if form not in FORMS:
        raise ValueError(
            f"form must be one of {', '.join(FORMS)}. Received: form={form!r}"
        )


def numbers(values: Any) -> np.ndarray:
    """float64, finite; of what is not, one NaN, which every range refuses."""
    try:
        array = np.array(values, float)
    except (TypeError, ValueError):
        return np.array(np.nan)
    return array if np.isfinite(array).all() else np.array(np.nan)
