"""Mean over samples and variance between them, of every unit of each layer.

For `n` samples of `u` units each, a layer's moments are

    count     n
    mean      <y_j>, one for each unit j
    variance  (1/u) sum_j <(y_j - <y_j>)^2>, already averaged over units

from which the moments of all samples are computed exactly. The units of
activations that are the same for all samples are kept with their value, and
so is the share of saturated outputs. Quantities of one number a layer are kept
in one vector for all layers, and those of layers with equally many units in one
matrix, so that the graph of a model of a thousand layers has few operations a
layer, and Python few tensors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_initx import backend
from keras_initx.backend.passes import FEW_ROWS, Tensor, passes

FEW_SAMPLES = FEW_ROWS
# The squares of up to so many units are added up in one go.
_SMALL = 2048
# An output is saturated if it is nearer to a bound, as a share of the distance
# between both bounds.
_NEAR_A_BOUND = 0.015


class LayerMoments(NamedTuple):
    """Moments of a stack of layers with equally many units in one batch.

    Args:
        samples: tensor. The number of samples of each, shape `(layers,)`.
        mean: tensor. The mean of each unit, shape `(layers, units)`.
        half_squares: tensor. Half the sum of the units' variances, shape
            `(layers,)`.
    """

    samples: Tensor
    mean: Tensor
    half_squares: Tensor


class ActivationOutputs(NamedTuple):
    """What a stack of activations of equally many units returned for a batch.

    Args:
        samples: tensor. The number of samples, shape `(activations,)`.
        constants: tensor. The value of each unit that is the same for all
            samples, NaN for other units, shape `(activations, units)`.
        saturated: tensor. The share of units and samples that are
            saturated, NaN for an activation without bounds, shape
            `(activations,)`.
    """

    samples: Tensor
    constants: Tensor
    saturated: Tensor


class Moments(NamedTuple):
    """Moments of the signals of all layers over the samples seen so far.

    Layers and activations are in the order of their stacks.

    Args:
        count: tensor. The number of samples, float64, shape `(layers,)`.
        means: tuple of tensors. The mean of each unit, a float32 or float64
            matrix of shape `(layers, units)` for each number of units.
        variance: tensor. The average of the units' variances, float64,
            shape `(layers,)`.
        outputs: tensor. The number of samples of each activation, float64,
            shape `(activations,)`.
        constants: tuple of tensors. The value of each unit that is the same
            for all samples behind an activation, and NaN for other units, a
            float32 or float64 matrix of shape `(activations, units)` for each
            number of units.
        saturated: tensor. The share of the outputs of each activation that
            are saturated, NaN for those without bounds, float64, shape
            `(activations,)`.
    """

    count: Tensor
    means: tuple[Tensor, ...]
    variance: Tensor
    outputs: Tensor
    constants: tuple[Tensor, ...]
    saturated: Tensor


def layer_moments(
    signals: Sequence[Tensor], fuse: bool = True, few: bool = False
) -> LayerMoments:
    """Returns the moments of some layers in one batch.

    There are two passes, the second one about the mean: a single pass over sums
    of squares would lose v^2 where m^2 is a thousand times larger, as in deep
    layers.

    Args:
        signals: Sequence of tensors. For each layer a floating-point tensor
            of shape `(samples, units)`. All have the same dtype, and equally
            many units. Where they have not equally many samples, the moments
            are numbers without a meaning.
        fuse: bool. Whether to compile the reduction by XLA, for signals that
            are large enough to be worth the time. Defaults to True.
        few: bool. Whether there are at most `FEW_SAMPLES` samples, which are
            reduced at once. Defaults to False.

    Returns:
        `LayerMoments` in float64 if signals are, else in float32.
    """
    flat = _wide(_joined(signals))
    function = _mean_and_deviation(len(signals), few)
    mean, deviation = (passes().fused(function) if fuse else function)(flat)
    samples = passes().lengths(signals)
    return LayerMoments(samples, mean, half_squares(deviation))


def constant_moments(signal: Tensor, per_sample: bool) -> LayerMoments:
    """Returns the moments of a layer that no sample reaches.

    A first axis of a size that the model fixes, such as positions, belongs to
    its units, and it counts as one sample. Along another first axis the signal
    is repeated for each sample, one or several rows for each, and the mean is
    the root mean square over it.

    Args:
        signal: tensor. A floating-point tensor.
        per_sample: bool. Whether the signal is repeated for each sample.

    Returns:
        `LayerMoments` in float64 if `signal` is, else in float32.
    """
    wide = _wide(signal)
    if per_sample:
        units = units_of(signal)
        rows = ops.reshape(
            wide, (ops.shape(wide)[0], -1 if units is None else units)
        )
        mean = ops.sqrt(ops.mean(rows**2, axis=0))
        samples = passes().lengths([wide])
    else:
        mean = ops.reshape(wide, (-1,))
        samples = ops.ones((1,), "int32")
    return LayerMoments(samples, mean[None], ops.zeros((1,), mean.dtype))


def activation_outputs(
    outputs: Sequence[Tensor],
    bounds: tuple[float, float] | None = None,
    fuse: bool = True,
    few: bool = False,
) -> ActivationOutputs:
    """Returns what `measure` keeps of the outputs of some activations.

    An output is saturated if it is nearer to a bound than 1.5% of the distance
    between the bounds, as a tanh beyond 0.97. There tanh and the sigmoid have
    less than 6% of their greatest slope.

    Args:
        outputs: Sequence of tensors. As for `layer_moments`.
        bounds: tuple of two floats. The bounds of the activations. Defaults to
            none.
        fuse: bool. As for `layer_moments`. Defaults to True.
        few: bool. As for `layer_moments`. Defaults to False.

    Reference: Glorot & Bengio, AISTATS (2010), for the saturation of units.
    The threshold 0.97 of tanh is that of A. Karpathy's lectures (2022); for
    other bounds it is scaled here.
    """
    flat = _wide(_joined(outputs))
    function = _constants_and_saturated(len(outputs), bounds, few)
    kept = (passes().fused(function) if fuse else function)(flat)
    return ActivationOutputs(passes().lengths(outputs), *kept)


def _joined(signals: Sequence[Tensor]) -> Tensor:
    """The rows of all signals, one signal after the other."""
    return signals[0] if len(signals) == 1 else ops.concatenate(signals, axis=0)


def units_of(signal: Tensor) -> int | None:
    """Returns the number of numbers behind the first axis, if it is known."""
    sizes = tuple(signal.shape)[1:]
    return None if None in sizes else math.prod(sizes)


@functools.cache
def _constants_and_saturated(
    layers: int, bounds: tuple[float, float] | None, few: bool
) -> Callable:
    def function(joined: Tensor) -> tuple[Tensor, Tensor]:
        stack, samples = _stacked(joined, layers)
        first = passes().first_row(stack)
        is_constant = _are_constant(stack, first, few)
        nan = ops.cast(float("nan"), stack.dtype)
        constants = _matrix(ops.where(is_constant, first, nan), layers)
        if bounds is None:
            dtype = keras.backend.standardize_dtype(stack.dtype)
            saturated = np.full(layers, float("nan"), dtype)
            return constants, ops.convert_to_tensor(saturated)
        share = _share(samples, stack.dtype)
        shares = _matrix(_near_bounds(stack, share, bounds, few), layers)
        # A share, also where its terms are rounded.
        return constants, ops.minimum(ops.mean(shares, axis=-1), 1)

    return function


def _near_bounds(
    stack: Tensor, share: Tensor, bounds: tuple[float, float], few: bool
) -> Tensor:
    """The share of samples of each unit that are near a bound."""
    middle, half = (bounds[0] + bounds[1]) / 2, (bounds[1] - bounds[0]) / 2
    limit = half * (1 - 2 * _NEAR_A_BOUND)
    return _sum_of_rows(
        stack,
        lambda rows: (
            ops.cast(ops.abs(rows - middle) > limit, stack.dtype) * share
        ),
        few,
    )


def _stacked(joined: Tensor, layers: int) -> tuple[Tensor, Any]:
    """The signals of some layers, and the number of samples.

    The shape is `(layers, samples, units)`. That of one layer keeps the shape
    `(samples, units)`, since XLA would store more of it otherwise.
    """
    rows, units = ops.shape(joined)
    if layers == 1:
        return joined, rows
    samples = rows // layers
    kept = passes().first_rows(joined, layers * samples)
    return ops.reshape(kept, (layers, samples, units)), samples


def _matrix(reduced: Tensor, layers: int) -> Tensor:
    """What `_stacked` was reduced to, shape `(layers, units)`.

    Args:
        reduced: tensor. An axis of size 1 is left of the samples.
        layers: int. The number of layers.
    """
    return reduced if layers == 1 else ops.reshape(reduced, (layers, -1))


def _share(samples: Any, dtype: Any) -> Tensor:
    """What one sample adds to a mean over samples."""
    return 1 / ops.cast(samples, dtype)


def _wide(signal: Tensor) -> Tensor:
    if keras.backend.standardize_dtype(signal.dtype) == "float64":
        return signal
    return ops.cast(signal, "float32")


def of_all_layers(
    layers: Sequence[LayerMoments], outputs: Sequence[ActivationOutputs] = ()
) -> Moments:
    """Returns the moments of all layers and activations in one batch."""
    samples, means, squares = zip(*layers, strict=True)
    counts, constants, saturated = (
        zip(*outputs, strict=True) if outputs else ((), (), ())
    )
    return Moments(
        _widest(samples),
        means,
        _mean_squares(squares, means),
        _widest(counts),
        tuple(constants),
        _widest(saturated),
    )


def _widest(vectors: Sequence[Tensor]) -> Tensor:
    """All numbers of some vectors in one, in the widest dtype."""
    dtype = backend.widest_float()
    if not vectors:
        return ops.zeros((0,), dtype)
    wide = [ops.cast(x, dtype) for x in vectors]
    return wide[0] if len(wide) == 1 else ops.concatenate(wide, axis=0)


def merged(a: Moments, b: Moments) -> Moments:
    """Returns the moments of the samples of `a` and of `b` together."""
    count = a.count + b.count
    share = b.count / count
    # As a column each, beside the units.
    shares = passes().parts(
        ops.expand_dims(share, 1), [mean.shape[0] for mean in a.means]
    )
    shifts = [new - old for old, new in zip(a.means, b.means, strict=True)]
    means = tuple(
        old + ops.cast(each, old.dtype) * shift
        for old, each, shift in zip(a.means, shares, shifts, strict=True)
    )
    variance = merged_variance(
        a.variance, b.variance, mean_squares(shifts), share
    )
    outputs = a.outputs + b.outputs
    return Moments(
        count,
        means,
        variance,
        outputs,
        tuple(
            # NaN is equal to nothing.
            ops.where(
                ops.equal(old, new), old, ops.cast(float("nan"), old.dtype)
            )
            for old, new in zip(a.constants, b.constants, strict=True)
        ),
        a.saturated + b.outputs / outputs * (b.saturated - a.saturated),
    )


def dead_fractions(moments: Moments) -> Tensor:
    """Returns the share of constant units of each activation, float64."""
    dtype = backend.widest_float()
    return _widest(
        [
            1 - ops.mean(ops.cast(ops.isnan(x), dtype), axis=1)
            for x in moments.constants
        ]
    )


def merged_variance(a: Any, b: Any, squared_shift: Any, share: Any) -> Any:
    """Returns the variance of two groups of numbers together.

    It is that within the groups and that between them,

        a + share (b - a) + share (1 - share) shift^2

    Args:
        a: array or tensor. The variance of the first group.
        b: array or tensor. The variance of the second group.
        squared_shift: array or tensor. The squared difference of their means.
        share: array or tensor. The share of the second group in all numbers.

    Reference: Chan, Golub & LeVeque, "Updating formulae and a pairwise
    algorithm for computing sample variances", 1979, eq. 2.1.
    """
    return a + share * (b - a) + share * (1 - share) * squared_shift


def mean_squares(stacks: Sequence[Tensor]) -> Tensor:
    """Returns the mean square of each row of some matrices, float64."""
    return _mean_squares([half_squares(x) for x in stacks], stacks)


def half_squares(stack: Tensor) -> Tensor:
    """Returns half the sum of squares of each row of a matrix."""
    layers, units = stack.shape
    if units is not None and units <= _SMALL:
        return ops.sum(ops.square(stack), axis=1) / 2
    return ops.stack(
        [passes().half_sum_of_squares(x) for x in ops.unstack(stack, layers)]
    )


def _mean_squares(
    squares: Sequence[Tensor], stacks: Sequence[Tensor]
) -> Tensor:
    dtype = backend.widest_float()
    layers, units = zip(*(stack.shape for stack in stacks), strict=True)
    if None not in units:
        counts = np.repeat(units, layers).astype(dtype)
        return 2 * _widest(squares) / ops.convert_to_tensor(counts)
    return ops.concatenate(
        [
            2 * ops.cast(square, dtype) / ops.cast(ops.shape(stack)[1], dtype)
            for square, stack in zip(squares, stacks, strict=True)
        ],
        axis=0,
    )


def all_finite(tensors: Any, few: bool = False) -> Tensor:
    """Returns whether no floating-point number is NaN or infinite.

    Args:
        tensors: Structure of tensors. Those of other dtypes are finite, and so
            is None.
        few: bool. Whether there are at most `FEW_SAMPLES` samples, which are
            examined at once. Defaults to False.
    """
    floats = [
        x
        for x in keras.tree.flatten(tensors)
        if x is not None and backend.is_floating_tensor(x)
    ]
    if not floats:
        return ops.cast(True, "bool")
    return functools.reduce(ops.logical_and, [_finite(x, few) for x in floats])


def _finite(x: Tensor, few: bool) -> Tensor:
    if few:
        return ops.all(ops.isfinite(x))
    # For almost all data the fast sum of squares is finite, and so are they. It
    # overflows before its elements do; only then each of them is examined.
    return ops.cond(
        ops.isfinite(passes().half_sum_of_squares(x)),
        lambda: ops.cast(True, "bool"),
        lambda: ops.all(ops.isfinite(x)),
    )


@functools.cache
def _mean_and_deviation(layers: int, few: bool) -> Callable:
    def function(joined: Tensor) -> tuple[Tensor, Tensor]:
        stack, samples = _stacked(joined, layers)
        share = _share(samples, stack.dtype)
        first = passes().first_row(stack)
        # Sums are about the first sample: a sum of a part that all samples
        # share would round it, and a constant signal would have a variance.
        shift = _sum_of_rows(stack, lambda rows: (rows - first) * share, few)
        mean = first + shift
        square = _sum_of_rows(
            stack, lambda rows: ops.square(rows - mean) * share, few
        )
        return _matrix(mean, layers), _matrix(ops.sqrt(square), layers)

    return function


def _are_constant(stack: Tensor, first: Tensor, few: bool) -> Tensor:
    """Whether each unit is the same for all samples as for the first one.

    The samples are looked at until no unit is left that may be, which is soon
    where none is.
    """
    return passes().reduce_rows(
        stack,
        lambda rows: ops.all(ops.equal(rows, first), axis=-2, keepdims=True),
        ops.logical_and,
        few,
        goes_on=ops.any,
    )


def _sum_of_rows(
    stack: Tensor,
    function: Callable[[Tensor], Tensor],
    few: bool,
) -> Tensor:
    """The sum over samples, with an axis of size 1 in their place."""
    return passes().reduce_rows(
        stack,
        lambda rows: ops.sum(function(rows), axis=-2, keepdims=True),
        ops.add,
        few,
    )
