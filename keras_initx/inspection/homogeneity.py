"""Which functions pass a factor on: those with f(c x) = c f(x)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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
    outputs = _outputs(step, [(1.0,), (_FACTOR,)])
    if outputs is None:
        return None
    (x,), (y, scaled) = outputs
    if not _equal(scaled, _FACTOR * y):
        return None
    ratio = _ratio(y, x)
    # Rounding to 16 bits is no factor.
    return (
        1.0 if ratio is None or math.isclose(ratio, 1, rel_tol=0.01) else ratio
    )


def is_linear_step(step: Step) -> bool:
    """Whether a step of one tensor passes factors of both signs on."""
    outputs = _outputs(step, [(1.0,), (-1.0,)])
    if outputs is None or factor_of(step) is None:
        return False
    _, (y, negative) = outputs
    return _equal(negative, -y)


def sum_factors(step: Step) -> tuple[float, ...] | None:
    """The constants of a step that adds multiples of its tensors.

    Returns:
        The constant of each tensor, in the order of the arguments, or None if
        the step computes something else.
    """
    n = len(set(step.inputs))
    if n < 2 or n < len(step.inputs):
        return None
    alone = [tuple(float(i == j) for j in range(n)) for i in range(n)]
    outputs = _outputs(step, [(1.0,) * n, *alone])
    if outputs is None:
        return None
    given, (together, *parts) = outputs
    ratios = [_ratio(y, x) for y, x in zip(parts, given, strict=True)]
    if None in ratios or not _equal(together, np.sum(parts, axis=0), rtol=0.01):
        return None
    return tuple(ratio for ratio in ratios if ratio is not None)


def _passes(function: Callable, x: np.ndarray, factor: float) -> bool:
    try:
        y, scaled = (
            keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(v)))
            for v in (x, np.float32(factor) * x)
        )
    except Exception:
        return False
    return _equal(scaled, factor * y)


def random_inputs(step: Step) -> list[np.ndarray]:
    """Numbers of both signs in the shape of each tensor that a step takes."""
    return [
        _numbers((t.shape[0] or 2, *(size or _SIZE for size in t.shape[1:])), i)
        for i, t in enumerate(_tensors(step).values())
    ]


def run_step(step: Step, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
    """The output of a step, None if it does not run or has several.

    Args:
        step: Step. The step.
        inputs: A float32 array for each tensor that it takes, in the order of
            `random_inputs`.
    """
    values = {
        key: keras.ops.convert_to_tensor(x, dtype=t.dtype)
        for (key, t), x in zip(_tensors(step).items(), inputs, strict=True)
    }
    try:
        args, kwargs = keras.tree.map_structure(
            lambda one: values.get(id(one), one),
            (step.args, dict(step.kwargs)),
        )
        (made,) = keras.tree.flatten(step.operation(*args, **kwargs))
        return keras.ops.convert_to_numpy(keras.ops.cast(made, "float32"))
    except Exception:
        return None


def _tensors(step: Step) -> dict[int, keras.KerasTensor]:
    """The tensors among the arguments of a step, each once, by their ids."""
    return {
        id(tensor): tensor
        for tensor in keras.tree.flatten((step.args, dict(step.kwargs)))
        if isinstance(tensor, keras.KerasTensor)
    }


def _outputs(
    step: Step, factors: Sequence[tuple[float, ...]]
) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
    """Numbers for each tensor of a step, and its outputs on multiples of them.

    Args:
        step: Step. The step.
        factors: For each output the factor of each tensor.

    Returns:
        The numbers, and the outputs; None if the step does not run on them, or
        has several outputs.
    """
    given = random_inputs(step)
    outputs = []
    for multiples in factors:
        scaled = [
            np.float32(m) * x for x, m in zip(given, multiples, strict=True)
        ]
        output = run_step(step, scaled)
        if output is None:
            return None
        outputs.append(output)
    return given, outputs


def _ratio(y: np.ndarray, x: np.ndarray) -> float | None:
    """The number that y is x multiplied by, if there is one."""
    if x.shape != y.shape or not x.size:
        return None
    ratio = float(np.median(y / x))
    return ratio if _equal(y, ratio * x, rtol=0.01) else None


def _numbers(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Numbers of both signs and of many sizes."""
    random = np.random.default_rng(seed)
    size = 10.0 ** random.uniform(-2, 2, shape)
    return (size * random.choice([-1.0, 1.0], shape)).astype(np.float32)


def _equal(a: np.ndarray, b: np.ndarray, rtol: float = 1e-5) -> bool:
    # The smallest numbers of float16 are rounded.
    tiny = 1e-6 * np.abs(b).max(initial=0)
    return np.allclose(a, b, rtol=rtol, atol=tiny)
