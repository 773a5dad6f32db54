"""Triangle waves as the weights of relu nets, one or several side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import linalg

from keras_initx.theory.triangle_waves.curve import check_curve

# Uses of a seed, each with random numbers of its own.
_PROJECTION, _HEAD = 1, 2


def triangle_wave_weights(
    peaks: Sequence[float] | np.ndarray,
    concave: bool = True,
    form: str = "ramp",
    scales: Sequence[float] | np.ndarray | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the kernels and biases of the relu net that is the curve.

    The net has d hidden layers of 4 units and a linear output. The first unit
    of a layer is the sum so far; two units carry the wave, scaled: they are
    its two summands from the peak on ("ramp") or its two arms ("v"); the
    fourth is the scale, for the thresholds of the others. All biases except
    the first are 0.

    The net computes the curve as long as no partial sum of the waves falls
    below 0: always with the scales of `triangle_wave_scales`; with others,
    relu may cut a sum off at 0.

    Args:
        peaks: sequence of floats. a_0, ..., a_d: d + 1 >= 2 numbers in (0, 1).
        concave: bool. As in `triangle_wave_scales`. Defaults to True.
        form: str. "ramp" or "v". Outside its interval a ramp continues as x
            and one line, and is 0 below 0; a "v" continues in its last pieces
            on both sides. Defaults to "ramp".
        scales: sequence of floats. s_0, ..., s_(d-1), each > 0. Defaults to
            None, which means those of `triangle_wave_scales`.

    Returns:
        d + 1 pairs of float64 arrays: kernels of the shapes (1, 4), (4, 4),
        ..., (4, 1), in the layout of Keras, and biases of the shapes (4,),
        ..., (1,).

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> weights = triangle_wave_weights([0.4, 0.5, 0.6])
    >>> [kernel.shape for kernel, bias in weights]
    [(1, 4), (4, 4), (4, 1)]

    Reference: Milkert, Hyde & Laine, ICML (2025), arXiv:2311.18022, sections
    4.1 and 5, with indices derived here: as printed, the index in each hidden
    layer is too large by one, and the curve misses (1, 1).
    """
    a, s = check_curve(peaks, concave, form, scales)
    ratios = s / np.concatenate([[1.0], s[:-1]])
    layers = _ramp_layers if form == "ramp" else _v_layers
    # The formulas are matrices that multiply columns; Keras has the transposes.
    return [
        (np.array(matrix, float).T, np.array(bias, float))
        for matrix, bias in layers(a, ratios, 1 if concave else -1)
    ]


# Matrix and bias of one layer.
_Layer = tuple[list[list[Any]], list[Any]]
_NO_BIAS: list[Any] = [0, 0, 0, 0]


def _ramp_layers(
    a: np.ndarray, ratios: np.ndarray, sign: int
) -> Iterator[_Layer]:
    """Yields the layers of a ramp, section 4.1 of the paper."""
    yield [[1], [1], [1], [0]], [0, 0, -a[0], 1]
    last = len(ratios) - 1
    for k, ratio in enumerate(ratios):
        # The wave is made of the one before and of its part beyond the peak.
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


def _v_layers(a: np.ndarray, ratios: np.ndarray, sign: int) -> Iterator[_Layer]:
    """Yields the layers of a "v", section 5 of the paper."""
    s = ratios[0]
    left, right = s / (2 * a[0]), s / (2 * (1 - a[0]))
    base = (1 - sign) / 2
    yield [[0], [-left], [right], [0]], [base, s - left, s - right, s]
    # The two arms sum to the scale minus the wave.
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
    """Returns one net that runs several, between two linear maps.

    Args:
        nets: sequence of lists of pairs. Kernels and biases of each net, all of
            one depth, with one input and one output.
        projection: float64 array of shape (inputs, nets). The weights of the
            inputs in the input of each net.
        head: float64 array of shape (nets, outputs). The weights of the nets
            in each output.

    Returns:
        Kernels and biases as `triangle_wave_weights` returns them, with the
        nets in blocks along the diagonal.
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
    """Returns kernel and bias of one layer of several nets, in blocks.

    Args:
        layers: sequence of pairs. Kernel and bias of the layer in each net.
        before: array. A matrix that is applied before the layer. Defaults to
            None.
        after: array. A matrix that is applied after it. Defaults to None.
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
    """Returns random directions that keep the range of the inputs.

    The magnitudes of the weights of each direction sum to 1, so that inputs
    from the box [-1, 1]^n, or [0, 1]^n, stay in the interval of every curve;
    for "ramp" the weights are >= 0. A single input is passed on unchanged.
    Derived here.

    Args:
        inputs: int. n, the number of inputs.
        blocks: int. Number of curves.
        form: str. "ramp" or "v".
        seed: int. Seed of the weights.

    Returns:
        A float64 array of shape (inputs, blocks).
    """
    if inputs == 1:
        return np.ones((1, blocks))
    rng = _generator(seed, _PROJECTION)
    weights = rng.standard_normal((inputs, blocks))
    if form == "ramp":
        weights = np.abs(weights)
    return weights / np.abs(weights).sum(axis=0)


def random_head(blocks: int, outputs: int, seed: int) -> np.ndarray:
    """Returns random weights of sums of curves, of variance 1 / blocks.

    A single curve is passed on unchanged. Derived here.

    Args:
        blocks: int. Number of curves.
        outputs: int. Number of sums.
        seed: int. Seed of the weights.

    Returns:
        A float64 array of shape (blocks, outputs).
    """
    if blocks == 1:
        return np.ones((1, outputs))
    rng = _generator(seed, _HEAD)
    return rng.standard_normal((blocks, outputs)) / np.sqrt(blocks)


def _generator(seed: int, use: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(use,)))
