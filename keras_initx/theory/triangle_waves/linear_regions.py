"""Where a relu net of one input changes its slope."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_initx.validation import is_real

# A smaller change of slope, as a share of the terms it sums, is rounding.
_FLATTEST = 1e-12


def count_linear_regions(
    weights: Sequence[tuple[np.ndarray, np.ndarray]],
    low: float = 0.0,
    high: float = 1.0,
    tolerance: float | None = None,
) -> int:
    """Number of linear pieces of a relu net of one input, on an interval.

    No grid: every piece of the signal is followed from layer to layer and cut
    where a unit crosses 0. Neighbours with equal slopes in all outputs count
    as one. Time and memory grow with the pieces, which may double each layer.

    What float64 cannot tell apart is not counted rightly. Of triangle waves
    with peaks in (0.05, 0.95) that begins at some 14 layers; of peaks near 0
    or 1 earlier, at 0.01 with 11 layers.

    Args:
        weights: Kernel (in, out) and bias (out,) of each dense layer, finite;
            the first has one input, the last no relu.
        low: Start of the interval, finite.
        high: Its end, finite and > low.
        tolerance: A piece that is narrower, as a share of the piece it is cut
            from, is taken for rounding of the weights: in [0, 1). By default
            1e-8 for weights in float64, 1e-4 where some are in float32.

    Returns:
        The number, >= 1.

    Raises:
        ValueError: An argument is none of these.

    Example:

    >>> zigzag = ([[2.0, 4.0]], [0.0, -2.0]), ([[1.0], [-1.0]], [0.0])
    >>> count_linear_regions(zigzag)
    2

    Reference: derived here.
    """
    layers = _check_layers(weights)
    if not (is_real(low) and is_real(high) and low < high):
        raise ValueError(
            "low and high must be finite, low < high. "
            f"Received: low={low!r}, high={high!r}"
        )
    if tolerance is None:
        tolerance = 1e-4 if _is_narrow(weights) else 1e-8
    if not (is_real(tolerance) and 0 <= tolerance < 1):
        raise ValueError(
            f"tolerance must be in [0, 1). Received: tolerance={tolerance!r}"
        )
    # Values of the units at the ends of every piece, and their slopes in it.
    start, end = np.array([[float(low)]]), np.array([[float(high)]])
    slope = np.ones((1, 1))
    for index, (kernel, bias) in enumerate(layers):
        if index:
            start, end, slope = _relu(start, end, slope, tolerance)
        terms = np.abs(slope) @ np.abs(kernel)
        start, end = start @ kernel + bias, end @ kernel + bias
        slope = slope @ kernel
    change = np.abs(np.diff(slope, axis=0))
    different = change > _FLATTEST * (terms[1:] + terms[:-1])
    return 1 + int(np.count_nonzero(different.any(axis=1)))


def _is_narrow(weights: Any) -> bool:
    """Whether a weight is in a dtype of fewer digits than float64."""
    dtypes = [getattr(w, "dtype", None) for pair in weights for w in pair]
    return any(
        np.issubdtype(d, np.floating) and np.finfo(d).eps > 1e-15
        for d in dtypes
        if isinstance(d, np.dtype)
    )


def _relu(
    start: np.ndarray, end: np.ndarray, slope: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pieces after relu, cut where a unit crosses 0; all (pieces, units).

    A slope is carried on, not taken from the values at the ends, so that it
    is as exact in the narrowest piece as in the widest.
    """
    pieces = []
    for a, b, s in zip(start, end, slope, strict=True):
        crossing = a * b < 0
        where = np.sort(a[crossing] / (a[crossing] - b[crossing]))
        cuts = [0.0]
        for cut in where[where < 1 - tolerance]:
            if cut > cuts[-1] + tolerance:
                cuts.append(cut)
        for left, right in itertools.pairwise([*cuts, 1.0]):
            ends = [a + share * (b - a) for share in (left, right)]
            active = ends[0] + ends[1] > 0
            pieces.append([active * v for v in (*ends, s)])
    return tuple(np.array(part) for part in zip(*pieces, strict=True))


def _check_layers(weights: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    layers = []
    units = 1
    try:
        for kernel, bias in weights:
            kernel, bias = np.array(kernel, float), np.array(bias, float)
            if (
                kernel.ndim != 2
                or kernel.shape != (units, bias.size)
                or bias.ndim != 1
                or not bias.size
                or not np.isfinite(kernel).all()
                or not np.isfinite(bias).all()
            ):
                raise ValueError
            layers.append((kernel, bias))
            units = bias.size
        if not layers:
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            "weights must be (kernel, bias) of each layer, finite, of shapes "
            "(1, n), (n,), then (n, m), (m,) and so on. "
            f"Received: weights={weights!s:.200}"
        ) from None
    return layers
