"""Functions of tensors at float64 arrays of NumPy, and their derivatives."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_initx import backend


def at_float64(function: Callable[..., Any], *arrays: Any) -> Any:
    """Runs a function of tensors at float64 arrays.

    Args:
        function: Takes tensors, and returns a structure of tensors.
        *arrays: Arrays of NumPy.

    Returns:
        The same structure of arrays of NumPy.
    """
    with _allowed():
        tensors = [
            keras.ops.convert_to_tensor(np.array(array, np.float64), "float64")
            for array in arrays
        ]
        return keras.tree.map_structure(
            keras.ops.convert_to_numpy, function(*tensors)
        )


def entries_at_float64(function: Callable[..., Any], *arrays: Any) -> Any:
    """Runs a function that acts on each entry alone, as `at_float64` does.

    JAX compiles each operation for each shape of its arguments. So arrays of
    one shape are made longer there, to one of few sizes.
    """
    shapes = {np.shape(array) for array in arrays}
    size = np.size(arrays[0])
    if keras.config.backend() != "jax" or len(shapes) > 1 or not size:
        return at_float64(function, *arrays)
    (shape,) = shapes
    longer = 256
    while longer < size:
        longer *= 4
    padded = [
        np.pad(np.ravel(array), (0, longer - size), mode="edge")
        for array in arrays
    ]
    return keras.tree.map_structure(
        lambda result: np.broadcast_to(result, longer)[:size].reshape(shape),
        at_float64(function, *padded),
    )


def is_exact() -> bool:
    """Whether all functions of `keras.ops` keep the precision of float64.

    On JAX and PyTorch some of them, such as `tanh`, cast to float32 first, by
    the rules of `keras.backend.result_type`.
    """
    return backend.is_tensorflow()


def gradients(
    function: Callable[..., Any], tensors: Sequence[Any], outer: Any = None
) -> list[Any]:
    """Returns gradients of a function, within a function of `at_float64`.

    Args:
        function: Takes tensors, and returns one.
        tensors: Sequence of tensors. The arguments, which are cast to float64.
        outer: float64 tensor. The gradient of what the function returns.
            Defaults to ones, for the gradient of its sum.

    Returns:
        List of tensors. The gradient of each argument, zeros where none is
        passed on, as `passed_on` says.
    """
    # The argument may be a bool, such as the condition of `where`.
    tensors = [keras.ops.cast(tensor, "float64") for tensor in tensors]
    if backend.is_tensorflow():
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensors)
            result = _as_float64(function)(*tensors)
        found = tape.gradient(
            result, tensors, outer, unconnected_gradients="zero"
        )
        return [tf.convert_to_tensor(gradient) for gradient in found]
    if keras.config.backend() == "jax":
        from jax import vjp
    else:
        from torch.func import vjp
    result, pull = vjp(_as_float64(function), *tensors)
    return list(pull(keras.ops.ones_like(result) if outer is None else outer))


def passed_on(function: Callable[..., Any], count: int) -> tuple[bool, ...]:
    """Returns whether a function passes a gradient on to each argument.

    It does not where the result is computed without the argument, or by an
    operation that has no derivative or stops it. On JAX a derivative that is 0
    everywhere, such as that of `sign`, is none.

    Args:
        function: Takes tensors, and returns one.
        count: int. The number of arguments.
    """
    function = _as_float64(function)
    with _allowed():
        tensors = [
            keras.ops.convert_to_tensor(np.full(1, 0.5), "float64")
            for _ in range(count)
        ]
        if backend.is_tensorflow():
            import tensorflow as tf

            with tf.GradientTape() as tape:
                tape.watch(tensors)
                result = function(*tensors)
            found = tape.gradient(result, tensors)
            return tuple(gradient is not None for gradient in found)
        if keras.config.backend() == "jax":
            return tuple(_in_jax(function, tensors))
        import torch

        for tensor in tensors:
            tensor.requires_grad_()
        with torch.enable_grad():
            result = function(*tensors)
        if not result.requires_grad:
            return (False,) * count
        found = torch.autograd.grad(result.sum(), tensors, allow_unused=True)
        return tuple(gradient is not None for gradient in found)


def _in_jax(function: Callable[..., Any], tensors: Sequence[Any]) -> Any:
    """Yields what `passed_on` returns.

    JAX computes a derivative without the tangents that it knows to be 0, so
    that the derivative depends on the other ones alone.
    """
    import jax

    for i, tensor in enumerate(tensors):
        before, after = tensors[:i], tensors[i + 1 :]

        def derivative(
            tangent: Any,
            before: Any = before,
            x: Any = tensor,
            after: Any = after,
        ) -> Any:
            return jax.jvp(
                lambda x: function(*before, x, *after), (x,), (tangent,)
            )[1]

        (reached,) = reached_results(jax.make_jaxpr(derivative)(tensor).jaxpr)
        yield reached


def reached_results(jaxpr: Any) -> list[bool]:
    """Tells which results of a jaxpr are computed from an argument."""
    reached = set(map(id, jaxpr.invars))
    for equation in jaxpr.eqns:
        if not reached.isdisjoint(map(id, equation.invars)):
            reached.update(map(id, equation.outvars))
    return [id(variable) in reached for variable in jaxpr.outvars]


def _as_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *tensors: keras.ops.cast(function(*tensors), "float64")


def _allowed() -> contextlib.AbstractContextManager[Any]:
    """The context in which tensors can be float64, as on JAX by default not."""
    if keras.config.backend() != "jax":
        return contextlib.nullcontext()
    try:
        from jax import enable_x64
    except ImportError:
        # Before JAX 0.8.
        from jax.experimental import enable_x64
    return enable_x64(True)
