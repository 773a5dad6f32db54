"""Peaks of triangle waves: their checks, and their random values."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_initx.validation import check_array, refuse

FORMS = ("ramp", "v")
# Range of random peaks. Near 0 and 1 a wave is close to a line, and its peak
# trains slowly.
PEAK_RANGE = (0.05, 0.95)


def random_peaks(
    depth: int, count: int, seed: int | np.random.SeedSequence | None
) -> np.ndarray:
    """Returns independent uniform peaks of several curves.

    Args:
        depth: int. Number of waves in a curve.
        count: int. Number of curves.
        seed: int, SeedSequence or None. Seed of the random numbers.

    Returns:
        A float64 array of shape (count, depth + 1).
    """
    rng = np.random.default_rng(seed)
    return rng.uniform(*PEAK_RANGE, (count, depth + 1))


def peaks_of(
    peaks: list[float] | list[list[float]] | None,
    depth: int,
    count: int,
    seed: int | None,
) -> np.ndarray:
    """Returns the peaks of each of several curves.

    Args:
        peaks: list of floats, or list of such lists, as `plain_peaks` returns
            them; or None for random ones.
        depth: int. Number of waves in a curve.
        count: int. Number of curves.
        seed: int. Seed of random peaks.

    Returns:
        A float64 array of shape (count, depth + 1).

    Raises:
        ValueError: If `peaks` is a list of lists for another number of curves.
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
    """Returns checked peaks of one curve or of several as lists of floats.

    Args:
        peaks: array-like of shape (depth + 1,) or (curves, depth + 1).
        depth: int. Number of waves in a curve.

    Raises:
        ValueError: If `peaks` is no such array, or an entry is not in (0, 1).
    """
    rows = check_array("peaks", peaks, "(0, 1)")
    if rows.ndim not in (1, 2) or not len(rows) or rows.shape[-1] != depth + 1:
        refuse(
            f"peaks must be depth + 1 = {depth + 1} numbers, or lists of as "
            "many.",
            peaks=peaks,
        )
    return rows.tolist()


def check_peaks(peaks: Any) -> np.ndarray:
    """Returns checked peaks of one curve.

    Args:
        peaks: array-like of shape (d + 1,) with d >= 1.

    Returns:
        A float64 array of shape (d + 1,).

    Raises:
        ValueError: If `peaks` is no such array, or an entry is not in (0, 1).
    """
    a = check_array("peaks", peaks, "(0, 1)")
    if a.ndim != 1 or len(a) < 2:
        refuse(
            "peaks must be 2 or more numbers, one more than the depth.",
            peaks=peaks,
        )
    return a
