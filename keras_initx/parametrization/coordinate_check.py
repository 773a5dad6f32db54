"""Trains a network of several widths for a few steps, and compares them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_initx import backend
from keras_initx.backend.passes import Tensor, passes
from keras_initx.hooks.forward_hooks import forward_hooks
from keras_initx.inspection.checks import check_eager
from keras_initx.inspection.selection import (
    LayerCall,
    Layers,
    check_all_matched,
    matches_any,
    selectors,
)
from keras_initx.inspection.traversal import inspect_model
from keras_initx.parametrization.attention import head_size
from keras_initx.parametrization.width_record import CoordinateCheck
from keras_initx.validation import check_int, check_real, refuse


def coordinate_check(
    build: Callable[[int], keras.Model],
    widths: Iterable[int],
    data: Any,
    steps: int = 3,
    *,
    layers: Layers = None,
    repeats: int = 1,
    tolerance: float = 0.2,
) -> CoordinateCheck:
    """Checks whether a training step moves a network as far at every width.

    For each width it builds the network, trains it for a few steps, and
    compares the pre-activations z of every layer on the first batch with what
    they were before, by the root mean squares

        size_t   = rms(z_t)              after t steps
        change_t = rms(z_t - z_0)

    over samples and units. If a learning rate is to suit all widths, no change
    may grow or fall with the width n: the slope of log(change) on log(n) is
    near 0. With Keras's own initializers and Adam it was 0.7 to 1 at the logits
    in our runs. The slopes are taken after the last step.

    The pre-activation of the query of a `MultiHeadAttention` or
    `GroupQueryAttention` is multiplied by the root of the head size here. Keras
    divides the products of queries and keys by this root, and muP by the head
    size itself, so that the query of muP is smaller by the root.

    It shows most at a large learning rate, near the best one of the smallest
    width, and with widths that differ by a factor of 8 or more. A readout may
    grow in the first steps although all is right, and then settles: compare
    with more steps. A readout that starts at zero has no size at the start,
    and layers before it do not change in the first step.

    Args:
        build: Callable. A function of a width that returns a compiled model.
            The widths must have different sizes of layers, and may have no
            other difference.
        widths: Iterable of int. At least two widths, in rising order.
        data: A tuple `(inputs, targets)` or `(inputs, targets, weights)` of
            arrays, which are the batch of every step, or a `tf.data.Dataset`
            or another iterable of such batches, one for each step.
        steps: int. The number of training steps, >= 1. Defaults to 3.
        layers: Which layers to compare, as in `measure`. Defaults to every
            layer that holds a kernel.
        repeats: int. How often each width is built and trained, >= 1. Mean
            squares are averaged over them. Defaults to 1.
        tolerance: float. The largest slope that passes, > 0. Defaults to 0.2.

    Returns:
        A `CoordinateCheck`: a table with a row for each layer, with
        `verdict` and `plot`.

    Raises:
        ValueError: If `build` does not return a compiled model, if the models
            do not have the same layers, if there are too few batches, or if an
            argument is out of range.
        RuntimeError: If it is called inside a `tf.function`.

    Example:

    >>> import keras, numpy as np, keras_initx as kx
    >>> def build(width):
    ...     def network(n):
    ...         return keras.Sequential([
    ...             keras.Input((8,)),
    ...             keras.layers.Dense(n, "relu", name="first"),
    ...             keras.layers.Dense(1, name="last"),
    ...         ])
    ...     model = network(width)
    ...     done = kx.mup(model, network, base_width=32)
    ...     model.compile(done.optimizer(keras.optimizers.Adam(1e-2)), "mse")
    ...     return model
    >>> x = np.random.default_rng(0).normal(size=(32, 8))
    >>> check = kx.coordinate_check(build, (32, 256), (x, x[:, :1]))
    >>> check.layers
    ('first', 'last')
    >>> check.change.shape
    (2, 4, 2)

    Reference: Yang et al., arXiv:2203.03466, Appendix D.1, with the change
    since the start in place of the size.
    """
    check_eager("coordinate_check")
    widths = _widths(widths)
    steps = check_int("steps", steps, 1)
    repeats = check_int("repeats", repeats, 1)
    tolerance = check_real("tolerance", tolerance, "(0, inf)")
    chosen = selectors(layers)
    batches = _batches(data, steps)
    names: tuple[str, ...] = ()
    squares = []
    for width in widths:
        total: Any = 0.0
        for _ in range(repeats):
            found, each = _train(build, width, batches, chosen)
            names = names or found
            if len(found) != len(names):
                raise ValueError(
                    "The models of all widths must have the same layers. "
                    f"Received: {len(names)} layers at width {widths[0]}, and "
                    f"{len(found)} at width {width}"
                )
            total = total + each
        squares.append(total / repeats)
    size, change = np.moveaxis(np.sqrt(np.array(squares)), 1, 0)
    return CoordinateCheck(widths, names, size, change, tolerance)


def _widths(widths: Any) -> tuple[int, ...]:
    """The widths as a tuple.

    Raises:
        ValueError: If they are not two or more, in rising order.
    """
    several = tuple(widths) if isinstance(widths, Iterable) else ()
    checked = tuple(check_int("a width", width, 1) for width in several)
    if len(checked) < 2 or any(np.diff(checked) <= 0):
        refuse("widths must be two or more, in rising order.", widths=widths)
    return checked


def _batches(data: Any, steps: int) -> list[tuple[Any, ...]]:
    """The batch of each step.

    Raises:
        ValueError: If there are too few, or one has no targets.
    """
    if isinstance(data, tuple):
        batches = [data] * steps
    else:
        batches = []
        for batch in _several(data):
            batches.append(batch)
            if len(batches) == steps:
                break
    if len(batches) < steps:
        raise ValueError(
            "data must have a batch for each step. Received: "
            f"{len(batches)} batches, and steps={steps}"
        )
    for batch in batches:
        if not isinstance(batch, tuple) or len(batch) not in (2, 3):
            raise ValueError(
                "data must be a tuple (inputs, targets), or an iterable of "
                f"such batches. Received: a {type(batch).__name__}"
            )
    return batches


def _several(data: Any) -> Iterator[Any]:
    if isinstance(data, keras.utils.PyDataset):
        return (data[i] for i in range(data.num_batches or 0))
    if not isinstance(data, Iterable) or hasattr(data, "shape"):
        raise ValueError(
            "data must be a tuple (inputs, targets), or an iterable of such "
            f"batches. Received: a {type(data).__name__}"
        )
    return iter(data)


def _train(
    build: Callable[[int], keras.Model],
    width: int,
    batches: Sequence[tuple[Any, ...]],
    chosen: tuple[Any, ...],
) -> tuple[tuple[str, ...], np.ndarray]:
    """Trains one model.

    Returns:
        The names of its layers, and an array of shape `(2, steps + 1, layers)`
        with the mean squares of the signals and of their changes.
    """
    model = build(width)
    if not isinstance(model, keras.Model) or not model.compiled:
        raise ValueError(
            "build must return a compiled model. Received: "
            f"{model!r} of type {type(model).__name__} at width {width}"
        )
    inputs = batches[0][0]
    names, start = _signals(model, inputs, chosen)
    after = [start]
    for batch in batches:
        model.train_on_batch(*batch)
        after.append(_signals(model, inputs, chosen)[1])
    return names, np.array(
        [
            [[_mean_square(z) for z in each] for each in after],
            [
                [
                    _mean_square(z - z0)
                    for z, z0 in zip(each, start, strict=True)
                ]
                for each in after
            ],
        ]
    )


def _signals(
    model: keras.Model, inputs: Any, chosen: tuple[Any, ...]
) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """The names of the layers that run, and their pre-activations."""
    heads = {
        id(weight.layer): head_size(weight)
        for weight in inspect_model(model).weights
    }
    names: list[str] = []
    signals: list[np.ndarray] = []
    ran: list[LayerCall] = []

    def select(call: LayerCall) -> bool:
        ran.append(call)
        return matches_any(chosen, call)

    def keep(call: LayerCall, signal: Tensor) -> Tensor:
        names.append(call.name)
        # Tensors of JAX are not float64, and NumPy has no bfloat16.
        wide = keras.ops.cast(signal, backend.widest_float())
        value = passes().to_numpy(wide).astype(np.float64)
        signals.append(value * np.sqrt(heads.get(id(call.layer)) or 1))
        return signal

    hooks = forward_hooks(on_pre_activation=keep, select=select)
    with passes().without_gradients(), hooks:
        model(keras.tree.map_structure(backend.to_tensor, inputs))
    check_all_matched(chosen, ran)
    return tuple(names), signals


def _mean_square(signal: np.ndarray) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.mean(np.square(signal))) if signal.size else 0.0
