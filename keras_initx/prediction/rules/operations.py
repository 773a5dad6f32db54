"""The functions of `keras.ops`, by the names of their operations.

They do what the layers of the same names do, and so have their formulas: sums
and products those of `rules.merging`, changes of shape those of `rules.shapes`,
matrix products with a weight those of `rules.dense`. Attention is in
`prediction.attention`. An operation that acts on each entry of one tensor alone
needs no rule here, see `Walk.operation_call`.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import keras
import numpy as np

from keras_initx.prediction.elementwise import Elementwise
from keras_initx.prediction.moment_tensor import MomentTensor
from keras_initx.prediction.propagation import Propagation, numbers
from keras_initx.prediction.refusals import Unpredictable
from keras_initx.prediction.registry import register_operation
from keras_initx.prediction.rules.dense import einsum
from keras_initx.prediction.rules.shapes import permuted, places


def _moves(x: Any) -> bool:
    """Whether an argument is a tensor of moments, and not an array."""
    return isinstance(x, MomentTensor)


@register_operation("Add")
def _add(steps: Propagation, op: Any, x1: Any, x2: Any) -> MomentTensor:
    return steps.add([x1, x2])


@register_operation("Subtract")
def _subtract(steps: Propagation, op: Any, x1: Any, x2: Any) -> MomentTensor:
    return steps.add([x1, x2], [1.0, -1.0])


@register_operation("Multiply")
def _multiply(steps: Propagation, op: Any, x1: Any, x2: Any) -> MomentTensor:
    return steps.multiply(x1, x2)


@register_operation("TrueDivide", "Divide")
def _divide(steps: Propagation, op: Any, x1: Any, x2: Any) -> MomentTensor:
    if not _moves(x2):
        return steps.multiply(x1, 1 / numbers(x2).astype(float))
    if not _moves(x1) and np.ndim(x1) == 0:
        number = float(x1)
        return steps.elementwise(lambda z: number / z, x2)
    values = _constant_values(steps, x2)
    if values is not None:
        return steps.multiply(x1, 1 / values)
    return steps.elementwise(lambda a, b: a / b, x1, x2)


def _constant_values(steps: Propagation, x: MomentTensor) -> np.ndarray | None:
    """Returns the numbers of a tensor of one channel that is not random."""
    if x.width != 1:
        return None
    values = steps.engine.constant_values(x.signal)
    return None if values is None else values.reshape(x.shape)


@register_operation("Negative")
def _negative(steps: Propagation, op: Any, x: Any) -> MomentTensor:
    return steps.add([x], [-1.0])


@register_operation("Maximum")
def _maximum(steps: Propagation, op: Any, x1: Any, x2: Any) -> MomentTensor:
    return _of_two(steps, keras.ops.maximum, x1, x2)


@register_operation("Minimum")
def _minimum(steps: Propagation, op: Any, x1: Any, x2: Any) -> MomentTensor:
    return _of_two(steps, keras.ops.minimum, x1, x2)


def _of_two(steps: Propagation, function: Any, x1: Any, x2: Any) -> Any:
    if _moves(x1) and _moves(x2):
        return steps.elementwise(function, x1, x2)
    x, other = (x1, x2) if _moves(x1) else (x2, x1)
    values = numbers(other)
    if values.size != 1:
        raise Unpredictable("it compares a tensor with an array")
    number = float(values.ravel()[0])
    return steps.elementwise(Elementwise(lambda z: function(z, number)), x)


@register_operation("Where")
def _where(
    steps: Propagation, op: Any, condition: Any, x1: Any, x2: Any
) -> MomentTensor:
    return steps.elementwise(
        lambda c, a, b: keras.ops.where(keras.ops.cast(c, "bool"), a, b),
        condition,
        x1,
        x2,
    )


@register_operation("Cast", "ConvertToTensor", "Copy", "Identity")
def _same(steps: Propagation, op: Any, x: Any, *args: Any, **kw: Any) -> Any:
    return x


@register_operation("StopGradient")
def _stop_gradient(steps: Propagation, op: Any, variable: Any) -> Any:
    return steps.stop_gradient(variable) if _moves(variable) else variable


@register_operation("Softmax", "LogSoftmax", "Sparsemax", "Glu")
def _mixes_units(steps: Propagation, op: Any, x: Any, *args: Any) -> Any:
    return steps.unknown(x.shape, "softmax and its like mix the units")


@register_operation("Concatenate")
def _concatenate(steps: Propagation, op: Any, xs: Any) -> MomentTensor:
    if not all(map(_moves, xs)):
        raise Unpredictable("it joins a tensor and an array")
    return steps.concatenate(xs, op.axis)


@register_operation("Reshape")
def _reshape(
    steps: Propagation, op: Any, x: MomentTensor, *args: Any
) -> MomentTensor:
    shape = tuple(op.newshape)
    if x.samples is None:
        return steps.reshape(x, shape)
    if shape[0] not in (-1, x.samples, None):
        raise Unpredictable("it reshapes the axis of samples")
    return steps.reshape(x, shape[1:])


@register_operation("Transpose")
def _transpose(steps: Propagation, op: Any, x: MomentTensor) -> MomentTensor:
    order = op.axes or tuple(reversed(range(len(x.shape))))
    return permuted(steps, x, list(order))


@register_operation("Flip")
def _flip(steps: Propagation, op: Any, x: MomentTensor) -> MomentTensor:
    rank, lead = len(x.shape), 0 if x.samples is None else 1
    axes = op.axis
    axes = axes if isinstance(axes, list | tuple) else [axes]
    if None in axes or any(
        not lead <= axis % rank < rank - len(x.channels) for axis in axes
    ):
        raise Unpredictable("it flips samples or channels")
    index = np.flip(places(x), tuple(axis % rank - lead for axis in axes))
    return steps.take(x, index, x.positions)


@register_operation("ExpandDims")
def _expand(steps: Propagation, op: Any, x: MomentTensor) -> MomentTensor:
    axes = op.axis if isinstance(op.axis, list | tuple) else [op.axis]
    shape = list(x.shape)
    for axis in axes:
        shape.insert(axis if axis >= 0 else len(shape) + 1 + axis, 1)
    if x.samples is None and shape[0] == 1:
        return x.like(x.signal, positions=tuple(shape[: -len(x.channels)]))
    return steps.reshape(x, shape[0 if x.samples is None else 1 :])


@register_operation("Squeeze")
def _squeeze(steps: Propagation, op: Any, x: MomentTensor) -> MomentTensor:
    axes = op.axis
    if axes is None:
        axes = [i for i, n in enumerate(x.shape) if n == 1 and i]
    axes = axes if isinstance(axes, list | tuple) else [axes]
    drop = {axis % len(x.shape) for axis in axes}
    shape = [n for i, n in enumerate(x.shape) if i not in drop]
    return steps.reshape(x, shape[0 if x.samples is None else 1 :])


@register_operation("GetItem")
def _get_item(
    steps: Propagation, op: Any, x: MomentTensor, key: Any
) -> MomentTensor:
    """A part of the positions, or of the channels."""
    keys = list(key) if isinstance(key, tuple) else [key]
    rank = len(x.shape)
    if any(k is Ellipsis for k in keys):
        at = next(i for i, k in enumerate(keys) if k is Ellipsis)
        extra = sum(k is None for k in keys)
        fill = [slice(None)] * (rank - (len(keys) - 1 - extra))
        keys = [*keys[:at], *fill, *keys[at + 1 :]]
    if not all(isinstance(k, int | slice) for k in keys):
        raise Unpredictable("it reads a tensor by other than ints and slices")
    keys += [slice(None)] * (rank - len(keys))
    lead = 0 if x.samples is None else 1
    if lead and keys[0] != slice(None):
        raise Unpredictable("it reads some of the samples")
    of_places = keys[lead : rank - len(x.channels)]
    of_channels = keys[rank - len(x.channels) :]
    for k in of_channels:
        if not isinstance(k, slice) or (k.step or 1) != 1:
            raise Unpredictable("it reads single channels")
    index = places(x)[tuple(of_places)]
    y = steps.take(x, index, index.shape)
    (*others, last) = of_channels
    if any(k != slice(None) for k in others):
        raise Unpredictable("it reads some of several axes of channels")
    if last == slice(None):
        return y
    start, stop, _ = last.indices(x.channels[-1])
    if others:
        raise Unpredictable("it reads some of several axes of channels")
    return steps.channels(y, start, stop)


@register_operation("Split")
def _split(steps: Propagation, op: Any, x: MomentTensor) -> list[MomentTensor]:
    axis = op.axis % len(x.shape)
    size = x.shape[axis]
    ends = op.indices_or_sections
    cuts = (
        [size * i // ends for i in range(1, ends)]
        if isinstance(ends, int)
        else list(ends)
    )
    bounds = [0, *cuts, size]
    parts = []
    for start, stop in itertools.pairwise(bounds):
        keys = [slice(None)] * axis + [slice(start, stop)]
        parts.append(_get_item(steps, op, x, tuple(keys)))
    return parts


@register_operation("Mean", "Sum")
def _reduce(steps: Propagation, op: Any, x: MomentTensor) -> MomentTensor:
    """A mean or sum over positions, or over channels.

    Over the channels of a wide layer the mean is E h, which is not random.
    """
    rank, lead = len(x.shape), 0 if x.samples is None else 1
    axes = op.axis
    if axes is None:
        raise Unpredictable("it takes the mean over samples")
    axes = axes if isinstance(axes, list | tuple) else [axes]
    axes = {axis % rank for axis in axes}
    if lead and 0 in axes:
        raise Unpredictable("it takes the mean over samples")
    is_sum = type(op).__name__ == "Sum"
    channels = set(range(rank - len(x.channels), rank))
    if axes & channels:
        if axes != channels or not op.keepdims:
            raise Unpredictable(
                "it reduces channels and does not keep the axis"
            )
        mean = steps.engine.means(x.signal)
        if mean is None:
            raise Unpredictable("it takes the mean over channels")
        if is_sum:
            mean = mean * x.width
        signal = steps.engine.constant(mean, 1)
        return x.like(signal, channels=(1,) * len(x.channels))
    own = [axis - lead for axis in sorted(axes)]
    sizes = [1 if i in own else n for i, n in enumerate(x.positions)]
    target = np.broadcast_to(
        np.arange(math.prod(sizes)).reshape(sizes), x.positions
    ).ravel()
    matrix = np.zeros((math.prod(sizes), x.places))
    matrix[target, np.arange(x.places)] = 1.0
    if not is_sum:
        matrix /= matrix.sum(axis=1, keepdims=True)
    kept = tuple(n for i, n in enumerate(sizes) if op.keepdims or i not in own)
    return steps.mix(x, matrix, kept)


@register_operation("Repeat")
def _repeat(
    steps: Propagation, op: Any, x: MomentTensor, *args: Any
) -> MomentTensor:
    """Copies of positions, or of all channels of a head."""
    rank, lead = len(x.shape), 0 if x.samples is None else 1
    if op.axis is None or not isinstance(op.repeats, int):
        raise Unpredictable("it repeats values by other than a number")
    axis = op.axis % rank
    if axis < lead or axis == rank - 1:
        raise Unpredictable("it repeats samples or single channels")
    if axis >= rank - len(x.channels):
        return steps.repeat_channels(x, op.repeats, axis - rank)
    index = np.repeat(places(x), op.repeats, axis=axis - lead)
    return steps.take(x, index, index.shape)


@register_operation("Matmul", "Dot")
def _matmul(steps: Propagation, op: Any, x1: Any, x2: Any) -> MomentTensor:
    is_kernel = not _moves(x2) and len(np.shape(x2)) == 2
    if is_kernel and len(x1.channels) == 1:
        return steps.linear(x1, x2, outputs=int(np.shape(x2)[1]))
    raise Unpredictable("it multiplies matrices of two signals")


@register_operation("DotProductAttention")
def _attention(
    steps: Propagation,
    op: Any,
    query: Any,
    key: Any,
    value: Any,
    bias: Any = None,
    mask: Any = None,
    scale: Any = None,
    is_causal: bool = False,
    **options: Any,
) -> MomentTensor:
    """Attention of heads, tensors of shape (samples, positions, heads, d)."""
    if bias is not None:
        raise Unpredictable("its attention has a bias")
    scale = getattr(op, "scale", None) if scale is None else scale
    causal = is_causal or getattr(op, "is_causal", False)
    return _attend(steps, query, key, value, mask, scale, causal)


def _attend(
    steps: Propagation,
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    scale: float | None,
    causal: bool = False,
) -> MomentTensor:
    """Returns what leaves heads of attention, whose scores are multiplied."""
    tensors = (query, key, value)
    if not all(map(_moves, tensors)):
        raise Unpredictable("its attention has constant inputs")
    for x in tensors:
        steps.check(x)
        if len(x.channels) != 2 or len(x.positions) != 1 or not x.samples:
            raise Unpredictable(
                "its attention is not over one axis of positions"
            )
    shape = (query.places, key.places)
    seen = np.tri(*shape, dtype=bool) if causal else None
    if mask is not None:
        values = mask.values if _moves(mask) else numbers(mask)
        if values is None:
            raise Unpredictable("its mask depends on the signal")
        values = values.astype(bool).reshape(-1, *values.shape[-2:])
        if len(values) not in (1, query.samples):
            raise Unpredictable("its mask differs from head to head")
        values = np.broadcast_to(values, (len(values), *shape))
        seen = values if seen is None else seen & values
        if not seen.any(axis=-1).all():
            raise Unpredictable("its mask lets a query see no key")
    heads, width = query.channels
    if scale is None:
        scale = 1 / math.sqrt(width)
    signal = steps.engine.attention(
        query.signal,
        key.signal,
        value.signal,
        query.samples,
        heads,
        float(scale),
        seen,
    )
    return query.like(signal, channels=value.channels)


@register_operation("Einsum")
def _einsum(steps: Propagation, op: Any, *operands: Any) -> MomentTensor:
    if len(operands) == 2 and _moves(operands[0]) and not _moves(operands[1]):
        return einsum(steps, *operands, op.subscripts)
    if len(operands) == 2 and all(map(_moves, operands)):
        found = _heads(steps, *operands, op.subscripts)
        if found is not None:
            return found
    raise Unpredictable("it multiplies matrices of two signals")


def _heads(
    steps: Propagation, x: MomentTensor, y: MomentTensor, equation: str
) -> MomentTensor | None:
    """Returns scores of attention, or what they make of values.

    With the axes a of samples, c of heads, q and k of queries and keys, and d
    of channels, scores are `akcd,aqcd->acqk` and heads `acqk,akcd->aqcd`, in
    any order of the two tensors and with any letters. None for other products.
    """
    sides, out = equation.replace(" ", "").split("->")
    of_x, of_y = sides.split(",")
    orders = [(x, y, of_x, of_y), (y, x, of_y, of_x)]
    for one, other, first, second in orders:
        if not len(first) == len(second) == len(out) == 4:
            continue
        if one.scores is not None:
            a, c, q, k = tuple(first)
            d = second[-1]
            if (second, out) == (a + k + c + d, a + q + c + d):
                query, key, mask = one.scores
                return _attend(steps, query, key, other, mask, 1.0)
        elif len(one.channels) == len(other.channels) == 2:
            a, k, c, d = tuple(first)
            q = second[1]
            if (second, out) == (a + q + c + d, a + c + q + k):
                shape = (one.samples, one.channels[0], other.places, one.places)
                scores = steps.unknown(shape, "scores of attention")
                scores.scores = (other, one, None)
                return scores
    return None
