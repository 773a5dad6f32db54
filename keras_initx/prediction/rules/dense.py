"""Random linear maps without windows: dense layers and embeddings.

With n inputs h, n' outputs u, weights of variance v, a bias of variance b, and
the gradients g of h and g' of u,

    E u_i u_j = n v E h_i h_j + b           forward
    E g_i g_j = n' v E g'_i g'_j            backward

and for an embedding, whose inputs are tokens, E u_i u_j = v where the tokens i
and j are equal, and else 0.

Reference: Poole et al., arXiv:1606.05340; Schoenholz et al., arXiv:1611.01232.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_initx.measurement.refusals import no_tokens
from keras_initx.prediction.engine import Weight
from keras_initx.prediction.moment_tensor import MomentTensor
from keras_initx.prediction.propagation import Propagation, numbers
from keras_initx.prediction.refusals import Unpredictable, WrongDataError
from keras_initx.prediction.registry import register_propagation

_L = keras.layers


def check_plain(layer: Any) -> None:
    """Refuses a kernel that is computed from several weights."""
    if getattr(layer, "lora_enabled", False) or getattr(
        layer, "quantization_mode", None
    ):
        raise Unpredictable("its kernel is computed from several weights")


@register_propagation(_L.Dense)
def _dense(steps: Propagation, layer: Any, x: MomentTensor) -> MomentTensor:
    check_plain(layer)
    if len(x.channels) != 1:
        raise Unpredictable(
            "it acts on the last axis of tensors whose channels have several"
        )
    u = steps.linear(x, layer.kernel, layer.bias, outputs=layer.units)
    return steps.activate(layer, u)


@register_propagation(_L.EinsumDense)
def _einsum_dense(
    steps: Propagation, layer: Any, x: MomentTensor
) -> MomentTensor:
    check_plain(layer)
    u = einsum(steps, x, layer.kernel, layer.equation, layer.bias)
    return steps.activate(layer, u)


def einsum(
    steps: Propagation,
    x: MomentTensor,
    kernel: Any,
    equation: str,
    bias: Any = None,
) -> MomentTensor:
    """Returns `einsum(x, kernel)`, which sums over all channels of x.

    Raises:
        Unpredictable: If it sums over something else.
    """
    left, right = equation.replace(" ", "").split("->")
    of_x, of_kernel = (side.replace("...", "") for side in left.split(","))
    right = right.replace("...", "")
    summed = [letter for letter in of_kernel if letter not in right]
    new = [letter for letter in right if letter not in of_x]
    rank = len(x.channels)
    same = [letter for letter in right if letter in of_x]
    if (
        sorted(of_x[-rank:]) != sorted(summed)
        or sorted([*summed, *new]) != sorted(of_kernel)
        or right != "".join([*of_x[:-rank], *new])
        or same != list(of_x[:-rank])
    ):
        raise Unpredictable(
            f"the equation {equation!r} does not sum over all channels of its "
            "input, and over them alone"
        )
    shape = tuple(kernel.shape)
    outputs = tuple(shape[of_kernel.index(letter)] for letter in new)
    return steps.linear(x, kernel, bias, outputs=outputs)


@register_propagation(_L.Embedding)
def _embedding(steps: Propagation, layer: Any, x: Any) -> MomentTensor:
    """An embedding: E u_i u_j = v where the tokens are equal, and else 0."""
    check_plain(layer)
    tokens = x.values if isinstance(x, MomentTensor) else numbers(x)
    if tokens is None:
        raise Unpredictable(
            "it needs the tokens themselves: pass data to predict"
        )
    given = np.asarray(tokens)
    tokens = given.astype(int)
    if (tokens != given).any():
        raise WrongDataError(str(no_tokens(given[tokens != given][0])))
    size = layer.input_dim
    outside = tokens[(tokens < -size) | (tokens >= size)]
    if outside.size:
        raise WrongDataError(
            "The integers in data must be indices of the table that a layer "
            f"looks them up in, from 0 to {size - 1}. Received: {outside[0]} "
            "in data"
        )
    moments = steps.weight(layer.embeddings, layer, "embeddings")
    steps.keep.append(layer)
    # A negative index counts from the end.
    one_hot = steps.engine.one_hot(tokens.ravel() % size)
    signal = steps.engine.linear(
        one_hot,
        Weight(id(layer.embeddings), moments.variance, 1, layer.output_dim),
        None,
        tokens.size,
        layer.output_dim,
    )
    if moments.mean:
        signal = steps.engine.shift(signal, moments.mean)
    samples = x.samples if isinstance(x, MomentTensor) else None
    places = tokens.shape[1:] if samples is not None else tokens.shape
    counts = tokens != 0
    masked = layer.mask_zero and samples is not None and not counts.all()
    return MomentTensor(
        signal,
        samples,
        tuple(places),
        (layer.output_dim,),
        layer.compute_dtype,
        mask=counts if masked else None,
    )
