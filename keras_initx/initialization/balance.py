"""Rescales the units of a model so that its weights are smallest."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from scipy import sparse

from keras_initx.initialization.factors import multiplied
from keras_initx.initialization.homogeneous_units import (
    RescaledWeight,
    UnitFinder,
)
from keras_initx.initialization.record import Balance, BalancedLayer
from keras_initx.inspection.assign import assign_all
from keras_initx.inspection.checks import check_eager
from keras_initx.inspection.graph import has_graph, read_graph
from keras_initx.inspection.traversal import inspect_model
from keras_initx.theory.trained_weights.balance import balanced_gains
from keras_initx.validation import refuse


def balance(model: keras.Model) -> Balance:
    """Makes the weights of a relu network smallest, and keeps its function.

    With relu, leaky relu or no activation a hidden unit may be rescaled: its
    incoming weights and its bias are multiplied by a gain g > 0, its outgoing
    weights by 1/g, and the network computes the same. A weight from unit i to
    unit j becomes

        w_ij g_j / g_i,   g = 1 for inputs and outputs of the model.

    The gains minimize the sum of squares of all these weights. It is convex in
    log g, so the minimum is unique; there the squares of the weights into each
    unit, its bias included, add up to those out of it: `theory.imbalance` is
    0. This helps before weight decay, quantization or pruning, which look at
    the size of weights.

    Each entry of the output changes by rounding alone, that of the precision
    the model computes in. To balance again changes nothing more. Units that
    nothing reaches, or that reach nothing, since all their weights are 0, keep
    their scale. The state of an optimizer is not rescaled.

    Channels of a convolution are units, and so are those between the two
    kernels of a separable convolution. Dense layers and all convolutions of
    Keras, and layers of your own with `LinearUnits`, are balanced. Between
    them may be whatever passes positive factors on: activations such as relu,
    `PReLU`, pooling, dropout, `Flatten`, padding, concatenation. Where tensors
    are added, as by a residual connection, their channels have one gain.

    What comes after the last kernel is free, and so is what comes before the
    first, such as an `Embedding` or a normalization of the inputs. All else is
    refused, by the name of the layer: other activations, normalization,
    attention and recurrent layers behind a kernel; layers that are called
    twice, share weights, are frozen, quantized or have a LoRA adapter; and
    constraints that would undo the gains.

    Args:
        model: keras.Model. A built `Sequential` or functional model.

    Returns:
        A `Balance`, with a row for each layer with a kernel.

    Raises:
        ValueError: If the model is not built, has a `call` of its own, has no
            layer to balance, or has one that does not pass factors on, which
            is named. Then all weights are as they were.
        TypeError: If `model` is no Keras layer.
        RuntimeError: If it is called inside a `tf.function`.

    Example:

    >>> import keras, keras_initx as kx
    >>> layers = [keras.layers.Dense(16, "relu"), keras.layers.Dense(1)]
    >>> model = keras.Sequential([keras.Input((4,)), *layers])
    >>> _ = layers[1].kernel.assign(100 * layers[1].kernel)
    >>> done = kx.balance(model)
    >>> done
    <Balance of 2 layers: 2 balanced, 0 skipped>
    >>> first, last = model.layers
    >>> weights = [first.kernel, last.kernel, first.bias]
    >>> gaps = kx.theory.imbalance(*map(keras.ops.convert_to_numpy, weights))
    >>> bool(abs(gaps).max() < 1e-5 * done.after)
    True

    Reference: Stock et al., ICLR (2019), arXiv:1902.10416; Nagel et al., ICCV
    (2019), arXiv:1906.04721, balance largest weights. Sums of tensors,
    separable convolutions and biases are derived here.
    """
    check_eager("balance")
    view = inspect_model(model)
    if not has_graph(model):
        refuse(
            "balance reads the graph of a Sequential or functional model, and "
            "model must be one.",
            model=model,
        )
    found = UnitFinder(read_graph(model, view), view)
    weights = [weight for _, some in found.layers for weight in some]
    if not weights:
        refuse("model must have a dense layer or convolution.", model=model)
    i, j, squares = np.concatenate([w.squares() for w in weights], axis=1)
    gains = balanced_gains(
        sparse.coo_array(
            (squares, (i.astype(int), j.astype(int))), shape=(found.count,) * 2
        )
    )
    names = {id(weight.variable): weight.name for weight in view.weights}
    values = [
        multiplied(
            weight.variable,
            weight.factors(gains),
            names[id(weight.variable)],
            "Weights that are balanced",
        )
        for weight in weights
    ]
    before = [_sum_of_squares(some) for _, some in found.layers]
    variables = [weight.variable for weight in weights]
    assign_all(list(zip(variables, values, strict=True)))
    return Balance(
        tuple(
            _row(name, some, gains, squares_before)
            if some
            else BalancedLayer(name, skipped=found.skipped[name])
            for (name, some), squares_before in zip(
                found.layers, before, strict=True
            )
        )
    )


def _row(
    name: str, weights: list[RescaledWeight], gains: np.ndarray, before: float
) -> BalancedLayer:
    of_outputs = gains[weights[-1].targets]
    return BalancedLayer(
        name,
        of_outputs.size,
        float(of_outputs.min(initial=np.inf)),
        float(of_outputs.max(initial=0)),
        before,
        _sum_of_squares(weights),
    )


def _sum_of_squares(weights: list[RescaledWeight]) -> float:
    return float(
        sum(np.square(_values(weight.variable)).sum() for weight in weights)
    )


def _values(variable: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype(np.float64)
