"""Triangle waves as the weights of relu nets, one or several side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import linalg

from keras_initx.theory.triangle_waves.curve import check_curve

# What a seed is used for, each with random numbers of its own.
_PROJECTION, _HEAD = 1, 2


def triangle_wave_weights(
    peaks: Sequence[float],
    sign: int = 1,
    form: str = "ramp",
    scales: Sequence[float] | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Kernels and biases of the relu net that is the curve.

    It is as long as no partial sum of the waves falls below 0: always with the
    scales of the rule; with others, relu may cut one.

    d hidden layers of 4 units and a linear output. Of the units the first is
    the sum so far; two carry the wave, scaled: they are its two summands from
    the peak on ("ramp") or its two arms ("v"); the fourth is the scale, for
    the thresholds of the others. All biases but the first are 0.

    Args:
        peaks: As in `triangle_wave_scales`.
        sign: 1 or -1.
        form: "ramp" or "v". Outside of its interval the first goes on as x
            and one line, and is 0 below 0; the second goes on in its last
            pieces on both sides.
        scales: As in `triangle_wave`.

    Returns:
        d + 1 pairs, float64: kernels of the shapes (1, 4), (4, 4), ...,
        (4, 1), as Keras has them, and biases of (4,), ..., (1,).

    Raises:
        ValueError: An argument is none of these.

    Example:

    >>> weights = triangle_wave_weights([0.4, 0.5, 0.6])
    >>> [kernel.shape for kernel, bias in weights]
    [(1, 4), (4, 4), (4, 1)]

    Reference: Milkert, Hyde & Laine, ICML (2025), arXiv:2311.18022, sections
    4.1 and 5, with indices derived here: as printed each hidden layer has one
    too large, and the curve misses (1, 1).
    """
    a, s = check_curve(peaks, sign, form, scales)
    ratios = s / np.concatenate([[1.0], s[:-1]])
    layers = _ramp_layers if form == "ramp" else _v_layers
    # Keras has the transposes of the matrices, which are as formulas are.
    return [
        (np.array(matrix, float).T, np.array(bias, float))
        for matrix, bias in layers(a, ratios, sign)
    ]


_NO_BIAS = [0, 0, 0, 0]


def _ramp_layers(a: np.ndarray, ratios: np.ndarray, sign: int) -> Iterator:
    yield [[1], [1], [1], [0]], [0, 0, -a[0], 1]
    last = len(ratios) - 1
    for k, ratio in enumerate(ratios):
        # The wave, from the one before and its part beyond the peak.
        up, bend = ratio / a[k], -ratio / (a[k] * (1 - a[k]))
        total = [1, sign * up, sign * bend, 0]
        if k == last:
            yield [total], [0]
            return
        yield (
            [
                total,
                [0, up, bend, 0],
                [0, up, bend, -ratio * a[k + 1]],
                [0, 0, 0, ratio],
            ],
            _NO_BIAS,
        )


def _v_layers(a: np.ndarray, ratios: np.ndarray, sign: int) -> Iterator:
    s = ratios[0]
    left, right = s / (2 * a[0]), s / (2 * (1 - a[0]))
    base = (1 - sign) / 2
    yield [[0], [-left], [right], [0]], [base, s - left, s - right, s]
    # The arms are what the wave lacks of its scale.
    total = [1, -sign, -sign, sign]
    for peak, ratio in zip(a[1:-1], ratios[1:], strict=True):
        left, right = -ratio / (1 - peak), ratio / peak
        yield (
            [
                total,
                [0, left, left, ratio],
                [0, right, right, ratio - right],
                [0, 0, 0, ratio],
            ],
            _NO_BIAS,
        )
    yield [total], [0]


def side_by_side(
    nets: Sequence[list[tuple[np.ndarray, np.ndarray]]],
    projection: np.ndarray,
    head: np.ndarray,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """One net of several: sums of inputs into each, sums of them out.

    Args:
        nets: The weights of each, of one depth, with one input and output.
        projection: (inputs, nets).
        head: (nets, outputs).

    Returns:
        As `triangle_wave_weights`, the nets in blocks along the diagonal.
    """
    last = len(nets[0]) - 1
    return [
        join(
            layers,
            projection if k == 0 else None,
            head if k == last else None,
        )
        for k, layers in enumerate(zip(*nets, strict=True))
    ]


def join(
    layers: Sequence[tuple[np.ndarray, np.ndarray]],
    before: np.ndarray | None = None,
    after: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of one layer of some nets, in blocks.

    Args:
        layers: Kernel and bias of each net.
        before: A matrix that comes before the layer.
        after: One that comes after it.
    """
    kernels, biases = zip(*layers, strict=True)
    kernel, bias = linalg.block_diag(*kernels), np.concatenate(biases)
    if before is not None:
        kernel = before @ kernel
    if after is not None:
        kernel, bias = kernel @ after, bias @ after
    return kernel, bias


def random_projection(
    inputs: int, blocks: int, form: str, seed: int
) -> np.ndarray:
    """Directions whose range is that of the inputs: (inputs, blocks).

    Each has weights whose magnitudes sum to 1, so that from the box [-1, 1]^n,
    or [0, 1]^n, no block leaves its interval; for "ramp" they are >= 0. One
    input is passed on as it is. Derived here.
    """
    if inputs == 1:
        return np.ones((1, blocks))
    rng = _generator(seed, _PROJECTION)
    weights = rng.standard_normal((inputs, blocks))
    if form == "ramp":
        weights = np.abs(weights)
    return weights / np.abs(weights).sum(axis=0)


def random_head(blocks: int, outputs: int, seed: int) -> np.ndarray:
    """Weights of sums of the blocks, of variance 1 / blocks: (blocks, outputs).

    One block is passed on as it is. Derived here.
    """
    if blocks == 1:
        return np.ones((1, outputs))
    rng = _generator(seed, _HEAD)
    return rng.standard_normal((blocks, outputs)) / np.sqrt(blocks)


def _generator(seed: int, use: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(use,)))
