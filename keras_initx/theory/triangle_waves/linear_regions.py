"""Linear regions of relu nets with one input."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_initx.validation import check_real

# A change of slope below this share of the terms it sums is rounding.
_FLATTEST = 1e-12


def count_linear_regions(
    weights: Sequence[tuple[Any, Any]],
    low: float = 0.0,
    high: float = 1.0,
    tolerance: float | None = None,
) -> int:
    """Returns the number of linear pieces of a relu net on an interval.

    The net has one input. No grid is used: every piece of the signal is
    followed from layer to layer and cut where a unit crosses 0. Neighbors with
    equal slopes in all outputs count as one piece. Time and memory grow with
    the number of pieces, which may double in each layer.

    Pieces that float64 cannot resolve are not counted correctly. For triangle
    waves with peaks in (0.05, 0.95) that begins at some 14 layers, and earlier
    with peaks near 0 or 1, at 11 layers with 0.01.

    Args:
        weights: sequence of pairs. The kernel (inputs, units) and bias
            (units,) of each dense layer, array-like and finite; the first
            layer has one input, the last one no relu.
        low: float. Start of the interval, finite. Defaults to 0.
        high: float. End of the interval, finite and > low. Defaults to 1.
        tolerance: float. A piece is taken for rounding of the weights if it is
            narrower than this share of the piece that it is cut from, in
            [0, 1). Defaults to None, which means 1e-8 for weights in float64
            and 1e-4 if some are in a narrower dtype.

    Returns:
        The number of pieces, an int >= 1.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> zigzag = ([[2.0, 4.0]], [0.0, -2.0]), ([[1.0], [-1.0]], [0.0])
    >>> count_linear_regions(zigzag)
    2

    Reference: derived here.
    """
    layers = _check_layers(weights)
    low = check_real("low", low)
    high = check_real("high", high)
    if not low < high:
        raise ValueError(
            f"low must be below high. Received: low={low!r}, high={high!r}"
        )
    if tolerance is None:
        tolerance = 1e-4 if _is_narrow(weights) else 1e-8
    tolerance = check_real("tolerance", tolerance, "[0, 1)")
    # Values of the units at the ends of every piece, and their slopes in it.
    start, end = np.array([[low]]), np.array([[high]])
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
    """Whether a weight has a floating point dtype narrower than float64."""
    dtypes = [getattr(w, "dtype", None) for pair in weights for w in pair]
    return any(
        np.issubdtype(d, np.floating) and np.finfo(d).eps > 1e-15
        for d in dtypes
        if isinstance(d, np.dtype)
    )


def _relu(
    start: np.ndarray, end: np.ndarray, slope: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the pieces after relu, cut where a unit crosses 0.

    The slopes are carried along rather than computed from the values at the
    ends, so that they are as exact in the narrowest piece as in the widest.

    Args:
        start: float64 array of shape (pieces, units). The values of the units
            at the start of each piece.
        end: float64 array of shape (pieces, units). The values at its end.
        slope: float64 array of shape (pieces, units). The slopes in it.
        tolerance: float. As in `count_linear_regions`.

    Returns:
        Starts, ends and slopes of the new pieces.
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
    starts, stops, slopes = zip(*pieces, strict=True)
    return np.array(starts), np.array(stops), np.array(slopes)


def _check_layers(weights: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the kernel and the bias of each layer in float64, checked."""
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
