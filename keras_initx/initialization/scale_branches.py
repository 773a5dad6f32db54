"""Scales the residual branches of a model through their last weights."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import keras

from keras_initx.initialization.branches import (
    Branch,
    BranchFinder,
    hidden_layers,
    is_sum,
    sum_name,
)
from keras_initx.initialization.factors import factor_of, mark, multiplied
from keras_initx.initialization.record import BranchScaling, ScaledBranch
from keras_initx.initialization.trained import check_untrained
from keras_initx.inspection.assign import assign_all
from keras_initx.inspection.checks import check_eager
from keras_initx.inspection.graph import Graph, Step, has_graph, read_graph
from keras_initx.inspection.selection import (
    Layers,
    check_all_matched,
    matches_any,
    selectors,
)
from keras_initx.inspection.traversal import ModelView, inspect_model
from keras_initx.validation import check_bool, check_int, check_real

_FUNCTION = "scale_branches"


def scale_branches(
    model: keras.Model,
    exponent: float = 0.5,
    *,
    depth: int | None = None,
    layers: Layers = None,
    overwrite: bool = False,
) -> BranchScaling:
    """Scales all residual branches of a model that exists.

    A residual branch f of a model with L branches, in x + f(x), becomes

        x + L^(-exponent) f(x)

    since the weights that end the branch are multiplied by this factor: the
    kernel and bias of a dense or convolutional layer, the output projection of
    an attention layer, the scale and offset of a normalization. So the model
    computes what it would compute with `layers.BranchScale(depth=L,
    exponent=exponent)` at the end of each branch, to rounding, and has no more
    layers than before. The factor stands in the weights, and training changes
    it with them.

    What is seen as a residual branch is an input of `Add`, `Subtract`,
    `Average`, `+`, `-`, or a `Lambda` or layer without weights that does the
    same, if another input is the skip. The skip reaches the
    sum from where the branch starts without weights, or through one linear map
    and normalizations, as the projections of ResNets do. Activations,
    `Dropout`, pooling and reshapes after the last weights are no obstacle if a
    positive factor passes them, as it passes relu. Models inside the model,
    `TimeDistributed` and `layers.Residual` are looked into.

    A branch that has a factor already is skipped, and counted in L: one that
    ends in `BranchScale`, in a LayerScale of `keras.applications` or in a
    multiplication by a constant. An ambiguous sum is refused by name, and no
    weight is changed: two networks that are added; a branch that ends in tanh,
    in a normalization without a scale or in a layer that is not known; a last
    layer that is frozen, quantized, called twice, that shares its weights, has
    a LoRA adapter or a constraint which undoes the factor, or whose output
    goes elsewhere too. So are layers that run layers in a `call` of their own,
    which is not read (see `symbolic` in `inspection.LayerRule`). `layers` names
    the sums that are meant, and nothing else is then looked at.

    Call it once, and after `initialize`, which draws weights without the
    factor. A second call is refused, as long as the model is in this process:
    a model from a file does not know that it has been scaled.

    Args:
        model: keras.Model. A functional or sequential model. Build a subclass
            with `layers.Residual` or `layers.BranchScale` instead.
        exponent: float. The exponent, at least 0, 1/2 for white weights and 1
            for weights that are smooth over the depth. Defaults to 1/2.
        depth: int. The number L of branches, at least 1. Defaults to the
            number of branches found, among `layers` if these are given. A sum
            counts as one, and a model that is called twice counts twice.
        layers: Which sums to scale: their name or full name, the `Add` layer,
            its class, a model that holds them, a function `layer -> bool`, or
            a list of these. Defaults to every sum that has a skip.
        overwrite: bool. Whether a model that has been trained, or scaled
            before, may be scaled. Defaults to False.

    Returns:
        A `BranchScaling`, with a row for each branch.

    Raises:
        ValueError: If the model is not built or no functional or sequential
            one, if it has no residual branch or an ambiguous one, if it has
            been trained or scaled and `overwrite` is False, or if an argument
            is out of range.
        TypeError: If `model` is no Keras layer.
        RuntimeError: If it is called inside a `tf.function`.

    Example:

    >>> import keras, keras_initx as kx
    >>> x = inputs = keras.Input((8,))
    >>> for _ in range(4):
    ...     branch = keras.layers.Dense(8, "relu")(x)
    ...     x = keras.layers.Add()([x, keras.layers.Dense(8)(branch)])
    >>> kx.scale_branches(keras.Model(inputs, x))
    <BranchScaling of 4 branches by 0.5: 4 scaled, 0 skipped>

    Reference: Marion, Fermanian, Biau & Vert, JMLR 26(56), 2025,
    arXiv:2206.06929, for the factor. That it may stand in the last weights is
    derived here.
    """
    exponent = check_real("exponent", exponent, "[0, inf)")
    depth = check_int("depth", depth, 1, optional=True)
    overwrite = check_bool("overwrite", overwrite)
    check_eager("scale_branches")
    view = inspect_model(model)
    if not has_graph(model):
        raise ValueError(
            "scale_branches reads the graph of a functional or sequential "
            "model. Build the branches of a model with a call of its own with "
            "layers.Residual or layers.BranchScale, or give a functional model "
            f"inside it. Received: model={model.name!r}, a "
            f"{type(model).__name__}"
        )
    if not overwrite:
        check_untrained(view)
    graph = read_graph(model, view)
    sums = _picked([step for step in graph.steps if is_sum(step)], layers)
    if layers is None:
        _check_all_seen(graph, view)
    branches = BranchFinder(graph, view).branches(sums)
    if not branches:
        raise ValueError(
            "A model must have a residual branch: a sum of a skip and of "
            "layers with weights, which a concatenation is not. Received: "
            f"model={model.name!r} with {len(sums)} sums, none of which has one"
        )
    factor = float(depth or len(branches)) ** -exponent
    weights = _weights(branches)
    if not overwrite:
        _check_unscaled(weights, view)
    names = {id(weight.variable): weight.name for weight in view.weights}
    values = [
        multiplied(
            weight, factor, names[id(weight)], "The weights that end a branch"
        )
        for weight in weights
    ]
    assign_all(list(zip(weights, values, strict=True)))
    for weight in weights:
        mark(weight, _FUNCTION, factor)
    return BranchScaling(
        _rows(branches, factor, view),
        depth or len(branches),
        exponent,
    )


def _picked(sums: list[Step], layers: Layers) -> list[Step]:
    """The sums that the user means, all of them by default.

    Raises:
        ValueError: If one of `layers` means none.
    """
    if layers is None:
        return sums
    chosen = selectors(layers)
    check_all_matched(
        chosen, itertools.chain(*(step.chain for step in sums)), "a sum"
    )
    return [
        step
        for step in sums
        if any(matches_any(chosen, call) for call in step.chain)
    ]


def _check_all_seen(graph: Graph, view: ModelView) -> None:
    """Refuses layers in which there may be residual branches.

    Raises:
        ValueError: If there are such layers.
    """
    hidden = hidden_layers(graph, view)
    if hidden:
        raise ValueError(
            "A layer that runs layers in a call of its own, or has several "
            "inputs and weights that no rule knows, may have residual branches "
            "that are not seen. Name the sums to scale in layers=, or register "
            "a rule for its class (inspection.register_layer), with "
            "symbolic=True if its call takes symbolic tensors. "
            f"Received: {', '.join(map(repr, hidden))}"
        )


def _weights(branches: list[Branch]) -> list[Any]:
    """The weights that end the branches, each once."""
    by_id = {
        id(weight): weight
        for branch in branches
        for _, weights in branch.ends
        for weight in weights
    }
    return list(by_id.values())


def _check_unscaled(weights: list[Any], view: ModelView) -> None:
    """Refuses weights that this function has scaled before.

    Raises:
        ValueError: If there is one.
    """
    asked = {id(weight) for weight in weights}
    for weight in view.weights:
        before = factor_of(weight.variable, _FUNCTION)
        if before is not None and id(weight.variable) in asked:
            raise ValueError(
                "The residual branches have been scaled before, and would be "
                "scaled twice: say overwrite=True if they may be. Received: "
                f"overwrite=False, {weight.name!r} scaled by {before:.4g}"
            )


def _rows(
    branches: list[Branch], factor: float, view: ModelView
) -> tuple[ScaledBranch, ...]:
    names = {id(weight.variable): weight.name for weight in view.weights}
    rows = []
    count: Counter[str] = Counter()
    for branch in branches:
        # Several sums stand in the `call` of one layer, or are of one layer.
        name = sum_name(branch.step, view)
        count[name] += 1
        number = f":{count[name]}" if count[name] > 1 else ""
        rows.append(
            ScaledBranch(
                name + number,
                tuple(layer for layer, _ in branch.ends),
                tuple(
                    names[id(w)] for _, weights in branch.ends for w in weights
                ),
                1.0 if branch.skipped else factor,
                branch.skipped,
            )
        )
    return tuple(rows)
