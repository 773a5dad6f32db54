"""Which functions a factor passes: those with f(c x) = c f(x)."""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import numpy as np

from keras_initx.inspection.graph import Step

# A power of 2, which floating-point numbers multiply by exactly.
_FACTOR = 0.25
# What stands for a size that is not known.
_SIZE = 8


def is_homogeneous(function: Callable | None) -> bool:
    """Whether an activation passes positive factors on, as relu does.

    It is computed at numbers of both signs, from 0.01 to 100. None is the
    identity.
    """
    x = _numbers((16, 64))
    return function is None or _passes(function, x, _FACTOR)


def is_linear(function: Callable | None) -> bool:
    """Whether an activation passes factors of both signs on."""
    x = _numbers((16, 64))
    return function is None or (
        _passes(function, x, _FACTOR) and _passes(function, x, -1.0)
    )


def factor_of(step: Step) -> float | None:
    """The constant that a step of one tensor multiplies by.

    Args:
        step: Step. A call that takes one tensor.

    Returns:
        The constant if the step multiplies by one, 1 if it passes positive
        factors on in another way, as relu, pooling and `Dropout` do, and None
        if it does not.
    """
    outputs = _run(step)
    if outputs is None:
        return None
    x, y, scaled = outputs
    if not _equal(scaled, _FACTOR * y):
        return None
    if x.shape == y.shape and x.size:
        ratio = float(np.median(y / x))
        if _equal(y, ratio * x, rtol=0.01):
            # Rounding to 16 bits is no factor.
            return 1.0 if math.isclose(ratio, 1, rel_tol=0.01) else ratio
    return 1.0


def is_linear_step(step: Step) -> bool:
    """Whether a step of one tensor passes factors of both signs on."""
    outputs = _run(step, -1.0)
    if outputs is None or factor_of(step) is None:
        return False
    _, y, negative = outputs
    return _equal(negative, -y)


def _passes(function: Callable, x: np.ndarray, factor: float) -> bool:
    try:
        y, scaled = (
            keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(v)))
            for v in (x, np.float32(factor) * x)
        )
    except Exception:
        return False
    return _equal(scaled, factor * y)


def _run(
    step: Step, factor: float = _FACTOR
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Numbers x, and the outputs of a step on x and on a multiple of x.

    None if the step does not run on such numbers.
    """
    tensors = {
        id(tensor): tensor
        for tensor in keras.tree.flatten((step.args, dict(step.kwargs)))
        if isinstance(tensor, keras.KerasTensor)
    }
    if len(tensors) != 1:
        return None
    (tensor,) = tensors.values()
    samples, *sizes = tensor.shape or (None,)
    x = _numbers((samples or 2, *(size or _SIZE for size in sizes)))

    def output(values: np.ndarray) -> np.ndarray:
        value = keras.ops.convert_to_tensor(values, dtype=tensor.dtype)
        args, kwargs = keras.tree.map_structure(
            lambda one: value if one is tensor else one,
            (step.args, dict(step.kwargs)),
        )
        made = step.operation(*args, **kwargs)
        if len(keras.tree.flatten(made)) != 1:
            raise ValueError("more than one output")
        (made,) = keras.tree.flatten(made)
        return keras.ops.convert_to_numpy(keras.ops.cast(made, "float32"))

    try:
        return x, output(x), output(np.float32(factor) * x)
    except Exception:
        return None


def _numbers(shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of both signs and of many sizes."""
    random = np.random.default_rng(0)
    size = 10.0 ** random.uniform(-2, 2, shape)
    return (size * random.choice([-1.0, 1.0], shape)).astype(np.float32)


def _equal(a: np.ndarray, b: np.ndarray, rtol: float = 1e-5) -> bool:
    # The smallest numbers of float16 are rounded.
    tiny = 1e-6 * np.abs(b).max(initial=0)
    return np.allclose(a, b, rtol=rtol, atol=tiny)
