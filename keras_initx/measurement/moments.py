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
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

# XLA on a CPU stores the terms of more rows before it adds them up, which takes
# memory of the signal's size and most of the time. (It also does so for any
# number of differences that are multiplied with nothing.)
FEW_SAMPLES = 32
# The squares of up to so many units are added up in one go.
_SMALL = 2048
# An output is saturated if it is nearer to a bound, as a share of the distance
# between both bounds.
_NEAR_A_BOUND = 0.015


class LayerMoments(NamedTuple):
    """Moments of a stack of layers with equally many units in one batch.

    Args:
        samples: tf.Tensor. The number of samples of each, shape `(layers,)`.
        mean: tf.Tensor. The mean of each unit, shape `(layers, units)`.
        half_squares: tf.Tensor. Half the sum of the units' variances, shape
            `(layers,)`.
    """

    samples: tf.Tensor
    mean: tf.Tensor
    half_squares: tf.Tensor


class ActivationOutputs(NamedTuple):
    """What a stack of activations of equally many units returned for a batch.

    Args:
        samples: tf.Tensor. The number of samples, shape `(activations,)`.
        constants: tf.Tensor. The value of each unit that is the same for all
            samples, NaN for other units, shape `(activations, units)`.
        saturated: tf.Tensor. The share of units and samples that are
            saturated, NaN for an activation without bounds, shape
            `(activations,)`.
    """

    samples: tf.Tensor
    constants: tf.Tensor
    saturated: tf.Tensor


class Moments(NamedTuple):
    """Moments of the signals of all layers over the samples seen so far.

    Layers and activations are in the order of their stacks.

    Args:
        count: tf.Tensor. The number of samples, float64, shape `(layers,)`.
        means: tuple of tf.Tensor. The mean of each unit, a float32 or float64
            matrix of shape `(layers, units)` for each number of units.
        variance: tf.Tensor. The average of the units' variances, float64,
            shape `(layers,)`.
        outputs: tf.Tensor. The number of samples of each activation, float64,
            shape `(activations,)`.
        constants: tuple of tf.Tensor. The value of each unit that is the same
            for all samples behind an activation, and NaN for other units, a
            float32 or float64 matrix of shape `(activations, units)` for each
            number of units.
        saturated: tf.Tensor. The share of the outputs of each activation that
            are saturated, NaN for those without bounds, float64, shape
            `(activations,)`.
    """

    count: tf.Tensor
    means: tuple[tf.Tensor, ...]
    variance: tf.Tensor
    outputs: tf.Tensor
    constants: tuple[tf.Tensor, ...]
    saturated: tf.Tensor


def layer_moments(
    signals: Sequence[tf.Tensor], fuse: bool = True, few: bool = False
) -> LayerMoments:
    """Returns the moments of some layers in one batch.

    There are two passes, the second one about the mean: a single pass over sums
    of squares would lose v^2 where m^2 is a thousand times larger, as in deep
    layers.

    Args:
        signals: Sequence of tf.Tensor. For each layer a floating-point tensor
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
    function = _mean_and_deviation(len(signals), not few)
    mean, deviation = (_fused(function) if fuse else function)(flat)
    return LayerMoments(_samples(signals), mean, half_squares(deviation))


def constant_moments(signal: tf.Tensor) -> LayerMoments:
    """Returns the moments of a layer that no sample reaches.

    A first axis of a size that the model fixes, such as positions, belongs to
    its units, and it counts as one sample. Along another first axis the signal
    is repeated for each sample, one or several rows for each, and the mean is
    the root mean square over it.

    Args:
        signal: tf.Tensor. A floating-point tensor.

    Returns:
        `LayerMoments` in float64 if `signal` is, else in float32.
    """
    wide = _wide(signal)
    if signal.shape[0] is None:
        units = signal.shape[1:].num_elements()
        rows = tf.reshape(
            wide, [tf.shape(wide)[0], -1 if units is None else units]
        )
        mean = tf.sqrt(tf.reduce_mean(rows**2, axis=0))
        samples = tf.shape(wide)[:1]
    else:
        mean = tf.reshape(wide, [-1])
        samples = tf.constant([1])
    return LayerMoments(samples, mean[None], tf.zeros([1], mean.dtype))


def activation_outputs(
    outputs: Sequence[tf.Tensor],
    bounds: tuple[float, float] | None = None,
    fuse: bool = True,
    few: bool = False,
) -> ActivationOutputs:
    """Returns what `measure` keeps of the outputs of some activations.

    An output is saturated if it is nearer to a bound than 1.5% of the distance
    between the bounds, as a tanh beyond 0.97. There tanh and the sigmoid have
    less than 6% of their greatest slope.

    Args:
        outputs: Sequence of tf.Tensor. As for `layer_moments`.
        bounds: tuple of two floats. The bounds of the activations. Defaults to
            none.
        fuse: bool. As for `layer_moments`. Defaults to True.
        few: bool. As for `layer_moments`. Defaults to False.

    Reference: Glorot & Bengio, AISTATS (2010), for the saturation of units.
    The threshold 0.97 of tanh is that of A. Karpathy's lectures (2022); for
    other bounds it is scaled here.
    """
    flat = _wide(_joined(outputs))
    function = _constants_and_saturated(len(outputs), bounds, not few)
    kept = (_fused(function) if fuse else function)(flat)
    return ActivationOutputs(_samples(outputs), *kept)


def _joined(signals: Sequence[tf.Tensor]) -> tf.Tensor:
    """The rows of all signals, one signal after the other."""
    return signals[0] if len(signals) == 1 else tf.concat(signals, axis=0)


def _samples(signals: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.stack([tf.shape(signal) for signal in signals])[:, 0]


@functools.cache
def _constants_and_saturated(
    layers: int, bounds: tuple[float, float] | None, in_parts: bool
) -> Callable:
    def function(joined: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        stack = _stacked(joined, layers)
        nan = tf.constant(float("nan"), stack.dtype)
        first = _first(stack)
        is_constant = _are_constant(stack, in_parts)
        constants = tf.where(is_constant, tf.squeeze(first, -2), nan)
        if bounds is None:
            saturated = nan
        else:
            saturated = _saturated(stack, bounds, in_parts)
        return (
            tf.reshape(constants, [layers, -1]),
            tf.broadcast_to(saturated, [layers]),
        )

    return function


def _saturated(
    stack: tf.Tensor, bounds: tuple[float, float], in_parts: bool
) -> tf.Tensor:
    """The share of outputs that are near a bound."""
    middle, half = (bounds[0] + bounds[1]) / 2, (bounds[1] - bounds[0]) / 2
    limit = half * (1 - 2 * _NEAR_A_BOUND)
    share = 1 / tf.cast(tf.shape(stack)[-2], stack.dtype)
    shares = _sum_of_rows(
        stack,
        lambda rows: (
            tf.cast(tf.abs(rows - middle) > limit, stack.dtype) * share
        ),
        in_parts,
    )
    # A share, also where its terms are rounded.
    return tf.minimum(tf.reduce_mean(shares, axis=-1), 1)


def _stacked(joined: tf.Tensor, layers: int) -> tf.Tensor:
    """The signals of some layers, shape `(layers, samples, units)`.

    That of one layer keeps the shape `(samples, units)`, since XLA would store
    more of it otherwise.
    """
    if layers == 1:
        return joined
    rows, units = tf.unstack(tf.shape(joined))
    samples = rows // layers
    stack = tf.reshape(joined[: layers * samples], [layers, samples, units])
    stack.set_shape([layers, None, joined.shape[1]])
    return stack


def _first(stack: tf.Tensor) -> tf.Tensor:
    """The first sample, with an axis of one sample."""
    return stack[..., :1, :]


def _wide(signal: tf.Tensor) -> tf.Tensor:
    if signal.dtype == tf.float64:
        return signal
    return tf.cast(signal, tf.float32)


def of_all_layers(
    layers: Sequence[LayerMoments], outputs: Sequence[ActivationOutputs] = ()
) -> Moments:
    """Returns the moments of all layers and activations in one batch."""
    samples, means, squares = zip(*layers, strict=True)
    counts, constants, saturated = (
        zip(*outputs, strict=True) if outputs else ((), (), ())
    )
    return Moments(
        _float64(samples),
        means,
        _mean_squares(squares, means),
        _float64(counts),
        tuple(constants),
        _float64(saturated),
    )


def _float64(vectors: Sequence[tf.Tensor]) -> tf.Tensor:
    """All numbers of some vectors in one, in float64."""
    if not vectors:
        return tf.zeros([0], tf.float64)
    return tf.concat([tf.cast(x, tf.float64) for x in vectors], axis=0)


def merged(a: Moments, b: Moments) -> Moments:
    """Returns the moments of the samples of `a` and of `b` together."""
    count = a.count + b.count
    share = b.count / count
    sizes = [mean.shape[0] for mean in a.means]
    shares = tf.split(share, sizes)
    shifts = [new - old for old, new in zip(a.means, b.means, strict=True)]
    means = tuple(
        old + tf.cast(each, old.dtype)[:, None] * shift
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
            tf.where(tf.equal(old, new), old, tf.cast(float("nan"), old.dtype))
            for old, new in zip(a.constants, b.constants, strict=True)
        ),
        a.saturated + b.outputs / outputs * (b.saturated - a.saturated),
    )


def dead_fractions(moments: Moments) -> tf.Tensor:
    """Returns the share of constant units of each activation, float64."""
    return _float64(
        [
            1 - tf.reduce_mean(tf.cast(tf.math.is_nan(x), tf.float64), axis=1)
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


def mean_squares(stacks: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the mean square of each row of some matrices, float64."""
    return _mean_squares([half_squares(x) for x in stacks], stacks)


def half_squares(stack: tf.Tensor) -> tf.Tensor:
    """Returns half the sum of squares of each row of a matrix."""
    layers, units = stack.shape
    if units is not None and units <= _SMALL:
        return tf.reduce_sum(stack**2, axis=1) / 2
    # On a CPU this kernel sums in a tree over several threads; reduce_mean is
    # ten times slower for a large layer and not more exact.
    return tf.stack([tf.nn.l2_loss(row) for row in tf.unstack(stack, layers)])


def _mean_squares(
    squares: Sequence[tf.Tensor], stacks: Sequence[tf.Tensor]
) -> tf.Tensor:
    units = [
        tf.cast(
            tf.shape(x)[1] if x.shape[1] is None else x.shape[1], tf.float64
        )
        for x in stacks
    ]
    return tf.concat(
        [
            2 * tf.cast(square, tf.float64) / size
            for square, size in zip(squares, units, strict=True)
        ],
        axis=0,
    )


def all_finite(tensors: Any) -> tf.Tensor:
    """Returns whether no floating-point number is NaN or infinite.

    Args:
        tensors: Structure of tensors. Those of other dtypes are finite, and so
            is None.
    """
    floats = [
        x
        for x in keras.tree.flatten(tensors)
        if x is not None and x.dtype.is_floating
    ]
    return tf.reduce_all([_finite(x) for x in floats] or [True])


def _finite(x: tf.Tensor) -> tf.Tensor:
    # For almost all data the fast sum of squares is finite, and so are they. It
    # overflows before its elements do; only then each of them is examined.
    return tf.cond(
        tf.math.is_finite(tf.nn.l2_loss(x)),
        lambda: tf.constant(True),
        lambda: tf.reduce_all(tf.math.is_finite(x)),
    )


@functools.cache
def _mean_and_deviation(layers: int, in_parts: bool) -> Callable:
    def function(joined: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        stack = _stacked(joined, layers)
        share = 1 / tf.cast(tf.shape(stack)[-2], stack.dtype)
        first = _first(stack)
        # Sums are about the first sample: a sum of a part that all samples
        # share would round it, and a constant signal would have a variance.
        shift = _sum_of_rows(
            stack, lambda rows: (rows - first) * share, in_parts
        )
        mean = first + tf.expand_dims(shift, -2)
        square = _sum_of_rows(
            stack, lambda rows: (rows - mean) ** 2 * share, in_parts
        )
        return (
            tf.reshape(mean, [layers, -1]),
            tf.reshape(tf.sqrt(square), [layers, -1]),
        )

    return function


def _are_constant(stack: tf.Tensor, in_parts: bool) -> tf.Tensor:
    """Whether each unit is the same for all samples.

    The samples are looked at until no unit is left that may be, which is soon
    where none is.
    """
    first = _first(stack)
    return _over_rows(
        stack,
        lambda rows: tf.reduce_all(tf.equal(rows, first), axis=-2),
        in_parts,
        tf.logical_and,
        tf.reduce_any,
    )


def _sum_of_rows(
    stack: tf.Tensor,
    function: Callable[[tf.Tensor], tf.Tensor],
    in_parts: bool,
) -> tf.Tensor:
    return _over_rows(
        stack,
        lambda rows: tf.reduce_sum(function(rows), axis=-2),
        in_parts,
        tf.add,
    )


def _over_rows(
    stack: tf.Tensor,
    reduce: Callable[[tf.Tensor], tf.Tensor],
    in_parts: bool,
    merge: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    goes_on: Callable[[tf.Tensor], tf.Tensor] | None = None,
) -> tf.Tensor:
    """Reduces all samples at once, or some after others."""
    if not in_parts:
        return reduce(stack)
    *layers, samples, units = tf.unstack(tf.shape(stack))
    step = tf.minimum(samples, _rows_at_once() or samples)
    steps = samples // step

    def add(i: tf.Tensor, so_far: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        begin = [0] * len(layers)
        rows = tf.slice(stack, [*begin, i * step, 0], [*layers, step, units])
        rows.set_shape([*stack.shape[:-2], None, stack.shape[-1]])
        return i + 1, merge(so_far, reduce(rows))

    def is_next(i: tf.Tensor, so_far: tf.Tensor) -> tf.Tensor:
        is_left = i < steps
        return is_left if goes_on is None else is_left & goes_on(so_far)

    rest = reduce(stack[..., steps * step :, :])
    return tf.while_loop(is_next, add, (0, rest))[1]


def _rows_at_once() -> int | None:
    """The number of rows that are summed at once; None for all of them."""
    devices = tf.config.list_logical_devices()
    return FEW_SAMPLES if all(d.device_type == "CPU" for d in devices) else None


@functools.cache
def _fused(function: Callable) -> Callable:
    """Compiles a function to one kernel that stores no intermediate result.

    This saves the memory, and half of the time. Where XLA does not run (a GPU
    installation may lack parts of it), the same operations run one by one.
    """
    if _can_fuse():
        return tf.function(function, autograph=False, jit_compile=True)
    return function


@functools.cache
def _can_fuse() -> bool:
    try:
        with tf.init_scope():
            tf.function(tf.sqrt, jit_compile=True)(tf.ones(1))
    except (tf.errors.OpError, ValueError):
        return False
    return True
