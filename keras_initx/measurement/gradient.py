"""The gradient at the pre-activation of each row, in one backward pass.

A probe stands where a pre-activation is recorded. It returns the tensor that it
is given, and in the backward pass it adds to a slot

    (sum of the squares, number of entries)

of the gradient that passes through it. A slot is a vector of zeros that the
probe takes as an argument, and what the probe adds is the gradient at the slot.
So the slot collects what passes in all time steps of a loop, no gradient is
kept, and a row whose slot has counted nothing is not reached.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
from keras import ops

from keras_initx.backend.passes import NewSlot, Tensor, passes
from keras_initx.inspection.traversal import inspect_model
from keras_initx.measurement.data import Example, arrays_of
from keras_initx.measurement.forward import ForwardResult
from keras_initx.measurement.sample_axis import Place, by_sample
from keras_initx.validation import check_bool, refuse

Loss: TypeAlias = (
    str | keras.losses.Loss | Callable[[Any, Any], Any] | dict | list | tuple
)

NOT_REACHED = "no gradient arrives here from where it starts"
NOT_FINITE = "its gradient is not finite"
TOO_SMALL = "its gradient is zero, or too small for float16"


class Scales(NamedTuple):
    """Factors of the gradient where it starts, and what can be trusted.

    Args:
        factors: tuple of float. In the order in which they are tried.
        smallest: float. The smallest mean square of a scaled gradient that can
            be trusted.
        largest: float. The largest one.
    """

    factors: tuple[float, ...]
    smallest: float
    largest: float


# The squares of numbers beyond 1e19 are infinite in float32, and those of
# numbers below 1e-19 are zero.
_OF_FLOAT32 = Scales((1.0, 2.0**40, 2.0**-40), 1e-30, 1e30)
# Beyond 65504 is infinity, and below 6e-8 is zero. The squares are of float32.
_OF_FLOAT16 = Scales((2.0**10, 1.0, 2.0**-8), 2.0**-32, 2.0**32)
_SEED = 0x2545F491


@ops.custom_gradient
def probe(signal: Tensor, slot: Tensor) -> Any:
    """Returns a signal, and collects the squares of its gradient in a slot.

    Args:
        signal: Tensor. A floating-point tensor of any shape.
        slot: Tensor. Two numbers of float32, whose values do not matter.

    Returns:
        Tensor. `signal`. The gradient at `slot` is the sum of the squares of
        the gradient at the signal, and the number of its entries.
    """

    def backward(*arguments: Tensor, upstream: Any = None) -> Any:
        # TensorFlow passes the gradient alone, other backends by its name.
        gradient = arguments[0] if upstream is None else upstream
        gradient = passes().dense(gradient)
        values = ops.cast(gradient, "float32")
        count = ops.cast(ops.size(values), "float32")
        return gradient, ops.stack([ops.sum(ops.square(values)), count])

    return signal, backward


def with_gradients(
    forward: Callable[[Callable[[Tensor], Tensor]], ForwardResult],
) -> tuple[ForwardResult, Tensor]:
    """Runs a forward pass, and a backward pass from its target.

    Args:
        forward: Called with the probe for each pre-activation; returns what
            `forward_pass` returns.

    Returns:
        The result, and for each row the sum of the squares of its gradient and
        their number, shape `(rows, 2)`, zeros where no gradient arrives.
    """
    results: list[ForwardResult] = []

    def run(new_slot: NewSlot) -> tuple[Tensor, Any]:
        result = forward(lambda signal: probe(signal, new_slot()))
        results.append(result)
        tensors = result.moments, result.outputs, result.finite, result.states
        return result.target, tensors

    found, tensors = passes().gradients(run, size=2)
    moments, outputs, finite, states = tensors
    result = results[-1]._replace(
        moments=moments, outputs=outputs, finite=finite, states=states
    )
    rows = ops.convert_to_tensor(result.slots, "int32")
    sums = ops.segment_sum(ops.stack(found), rows, len(result.names))
    return result, sums


class GradientTask:
    """What a measurement of gradients starts from.

    Args:
        model: keras.Model. The model.
        loss: As in `measure`. None starts at the last row.

    Raises:
        ValueError: If `loss` is something else.
    """

    def __init__(self, model: keras.Model, loss: Loss | None):
        self._model = model
        self._losses = None if loss is None else _losses(loss)

    @property
    def needs_labels(self) -> bool:
        """Whether there is a loss."""
        return self._losses is not None

    def scales(self) -> Scales:
        """Returns the factors to try, and which results can be trusted."""
        in_float16 = any(
            getattr(layer, "compute_dtype", "") == "float16"
            for layer in inspect_model(self._model).layers
        )
        return _OF_FLOAT16 if in_float16 else _OF_FLOAT32

    def feed(
        self, example: Example, first: int, scale: float | None = None
    ) -> Any:
        """Returns the arguments of a pass: the inputs and where it starts.

        Args:
            example: Example. A batch.
            first: int. The number of samples before this batch.
            scale: float. The factor of the gradient. Defaults to the first one
                to try.
        """
        if scale is None:
            scale = self.scales().factors[0]
        samples = len(arrays_of(example.inputs)[0])
        index = np.arange(first, first + samples, dtype=np.int32)
        feed = {
            "inputs": example.inputs,
            "index": ops.convert_to_tensor(index),
            "scale": ops.convert_to_tensor(np.full(samples, scale, np.float32)),
        }
        if self.needs_labels:
            feed |= {"labels": example.labels, "weights": example.weights}
        return feed

    def target(
        self, feed: Any
    ) -> Callable[[Any, Tensor | None, Place], Tensor]:
        """Returns the `target` of `forward_pass` for what `feed` returned."""

        def of_pass(
            outputs: Any, signal: Tensor | None, place: Place
        ) -> Tensor:
            scale = feed["scale"][0]
            if self._losses is not None:
                return scale * self._loss(outputs, feed)
            if signal is None:
                return ops.zeros(())
            matrix = ops.cast(by_sample(signal, place), "float32")
            rows, units = ops.shape(matrix)
            cotangent = standard_normal(feed["index"][0], rows, units)
            return ops.sum(matrix * (scale * cotangent))

        return of_pass

    def _loss(self, outputs: Any, feed: Any) -> Tensor:
        """The sum over samples of the mean loss of a sample."""
        names = getattr(self._model, "output_names", ())
        values = keras.tree.flatten(outputs)
        losses, labels = (
            _in_order(each, outputs, names)
            for each in (self._losses, feed["labels"])
        )
        if len(losses) == 1:
            losses = losses * len(values)
        weights = [None] * len(values)
        if feed["weights"] is not None:
            weights = _in_order(feed["weights"], outputs, names)
            weights = weights * (len(values) if len(weights) == 1 else 1)
        if not len(values) == len(losses) == len(labels) == len(weights):
            raise ValueError(
                "There must be labels and a loss for each output of the model, "
                f"which has {len(values)}. Received: {len(labels)} arrays of "
                f"labels, {len(losses)} losses"
            )
        total = ops.zeros(())
        samples = ops.cast(ops.shape(feed["index"])[0], "float32")
        for loss, label, value, weight in zip(
            losses, labels, values, weights, strict=True
        ):
            try:
                result = ops.cast(loss(label, value, weight), "float32")
            except Exception as error:
                shapes = tuple(label.shape), tuple(value.shape)
                raise ValueError(
                    "The loss must take the labels and the output of the "
                    f"model. Received: labels of shape {shapes[0]}, an output "
                    f"of shape {shapes[1]}, for which the loss raised: "
                    f"{str(error).partition(chr(10))[0]}"
                ) from error
            if loss.reduction != "sum":
                result = samples * ops.mean(result)
            total = total + result
        return total


def check_gradient(gradient: bool, loss: Loss | None, labels: Any) -> None:
    """Refuses arguments of a gradient that do not go together.

    Raises:
        ValueError: If `gradient` is no bool, `loss` no loss, there is a loss
            without a gradient, or labels without a loss.
    """
    if loss is not None:
        if not check_bool("gradient", gradient):
            refuse("A loss needs gradient=True.", loss=loss)
        _losses(loss)
    check_bool("gradient", gradient)
    if labels is not None and loss is None:
        refuse(
            "labels need a loss, and gradient=True.",
            labels=type(labels).__name__,
        )


class _FunctionLoss(keras.losses.Loss):
    """The loss of a function of labels and outputs."""

    def __init__(self, function: Callable[[Any, Any], Any]):
        super().__init__(name="loss")
        self._function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self._function(y_true, y_pred)


def _losses(loss: Any) -> Any:
    """Losses of Keras in the place of names and functions."""

    def one(leaf: Any) -> keras.losses.Loss:
        try:
            found = keras.losses.get(leaf)
        except (TypeError, ValueError):
            found = None
        if isinstance(found, keras.losses.Loss):
            return found
        if not callable(found):
            refuse(
                "loss must be a loss of Keras, its name, a function of labels "
                "and outputs, or a structure of these.",
                loss=leaf,
            )
        return _FunctionLoss(found)

    if not keras.tree.flatten(loss):
        refuse("loss must hold at least one loss.", loss=loss)
    return keras.tree.map_structure(one, loss)


def _in_order(each: Any, outputs: Any, names: Sequence[str]) -> list[Any]:
    """The leaves of a structure in the order of the outputs of a model."""
    if not isinstance(each, dict):
        return keras.tree.flatten(each)
    # The leaves of a dict come in the order of its sorted keys.
    names = sorted(outputs) if isinstance(outputs, dict) else names
    if not names:
        raise ValueError(
            "Labels and losses must be given without names, since the outputs "
            f"of the model have none. Received: a dict of {list(each)}"
        )
    if set(each) != set(names):
        raise ValueError(
            "A dict of labels or losses must have the names of the model's "
            f"outputs, {list(names)}. Received: {list(each)}"
        )
    return keras.tree.flatten([each[name] for name in names])


def standard_normal(first: Tensor, rows: Any, units: Any) -> Tensor:
    """Returns standard normal vectors, each scaled to a mean square of 1.

    A vector is uniform on the sphere, so that the mean of its squared product
    with any matrix is that of independent standard normal numbers. It depends
    on the index of its row alone, and so neither on the batch nor on the device
    in which the row stands.

    Args:
        first: Tensor. The index of the first row.
        rows: int or tensor. The number of vectors.
        units: int or tensor. The size of each.

    Returns:
        Tensor of shape `(rows, units)`, float32.

    Reference: Box & Muller, Annals of Mathematical Statistics 29 (1958), of the
    16 higher and the 16 lower bits of a hash of the indices, whose multipliers
    are those of C. Wellons's "lowbias32" (2018).
    """
    pairs = (units + 1) // 2
    index = ops.arange(rows, dtype="int32") + first
    row = _hashed(ops.bitwise_xor(index, _SEED))
    column = ops.arange(pairs, dtype="int32") * -1640531527
    bits = _hashed(row[:, None] + column[None])
    parts = [_shifted(bits, 16), ops.bitwise_and(bits, 0xFFFF)]
    uniform, angle = (
        (ops.cast(part, "float32") + 0.5) / 65536 for part in parts
    )
    size = ops.sqrt(-2 * ops.log(uniform))
    angle = 2 * math.pi * angle
    z = ops.concatenate([size * ops.cos(angle), size * ops.sin(angle)], axis=1)
    z = z[:, :units]
    return z * ops.rsqrt(ops.mean(ops.square(z), axis=1, keepdims=True))


def _hashed(x: Tensor) -> Tensor:
    """Mixes the bits of 32-bit numbers."""
    x = ops.bitwise_xor(x, _shifted(x, 16)) * 0x7FEB352D
    # 0x846CA68B as a signed number.
    x = ops.bitwise_xor(x, _shifted(x, 15)) * -2073254261
    return ops.bitwise_xor(x, _shifted(x, 16))


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shifts 32-bit numbers to the right, as if they had no sign."""
    return ops.bitwise_and(ops.right_shift(x, bits), (1 << (32 - bits)) - 1)


class Gradients(NamedTuple):
    """The mean square of the gradient at each row.

    Args:
        values: Array of shape `(rows,)`, NaN where it is not known.
        notes: tuple of str. Why it is not known, mostly "".
    """

    values: np.ndarray
    notes: tuple[str, ...]


def measured_gradients(
    run: Callable[[float], np.ndarray], scales: Scales
) -> Gradients:
    """Returns the mean square of the gradient at each row.

    Where squares leave the range of the floating-point numbers, the backward
    pass is repeated with another factor.

    Args:
        run: Called with a factor of the gradient where it starts; returns the
            sums and the counts of all rows, shape `(rows, 2)`.
        scales: Scales. The factors.

    Raises:
        ValueError: If no gradient arrives at any row.
    """
    first, *further = scales.factors
    low, high = scales.smallest, scales.largest

    def at(scale: float) -> tuple[np.ndarray, np.ndarray]:
        sums, count = np.asarray(run(scale), np.float64).T
        with np.errstate(divide="ignore", invalid="ignore"):
            return sums / count, count > 0

    scaled, reached = at(first)
    if not reached.any():
        raise ValueError(
            "What the gradient is of must depend on a layer that is measured, "
            "by operations that have a derivative. Received: a loss or last "
            "row of which no gradient reaches a layer"
        )
    values = scaled / first**2
    small = reached & (scaled < low)
    large = reached & ~(scaled <= high)
    for scale in further:
        open_rows = small if scale > first else large
        if not open_rows.any():
            continue
        scaled, _ = at(scale)
        # A number that cannot be trusted is better than none.
        good = (scaled >= low) & (scaled <= high)
        none = ~np.isfinite(values) | (values == 0)
        better = good | (none & np.isfinite(scaled))
        values = np.where(open_rows & better, scaled / scale**2, values)
        open_rows &= ~good
    finite = np.isfinite(values)
    reasons = [
        NOT_REACHED if not is_reached
        else NOT_FINITE if not is_finite
        else TOO_SMALL if scales is _OF_FLOAT16 and is_small
        else ""
        for is_reached, is_finite, is_small in zip(
            reached, finite, small, strict=True
        )
    ]  # fmt: skip
    return Gradients(np.where(finite, values, np.nan), tuple(reasons))
