"""Gives a wide model the start and the learning rates of a narrow one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn

import keras

from keras_initx.initialization.factors import factor_of, mark, multiplied
from keras_initx.initialization.trained import trained_layers
from keras_initx.inspection.assign import assign_all
from keras_initx.inspection.checks import check_eager
from keras_initx.inspection.graph import has_graph, read_graph
from keras_initx.inspection.traversal import (
    ModelView,
    ModelWeight,
    has_no_call,
    inspect_model,
)
from keras_initx.inspection.writable import why_not_writable
from keras_initx.parametrization.attention import head_size
from keras_initx.parametrization.mup_weight import MupWeight
from keras_initx.parametrization.record import FUNCTION, Mup
from keras_initx.parametrization.start import is_known, start_factor
from keras_initx.theory.parametrization import mup_factors
from keras_initx.validation import check_int, refuse

# Roles of weights that no optimizer trains.
_NOT_TRAINED = ("statistic", "fixed transform")


def mup(
    model: keras.Model,
    base: keras.Model | Callable[[int], keras.Model],
    *,
    base_width: int | None = None,
) -> Mup:
    """Sets up a model to train at the learning rate of a narrower one.

    In the maximal update parametrization (muP) the best learning rate does not
    depend on the width of a network: find it with a small model, and train a
    large one with it. A readout is a layer whose outputs do not grow with the
    width. `mup` compares the model with the small one, weight by weight. The
    ratios of the fans say by which factor a weight is multiplied at the start,
    and its learning rate in training:

                              size at the start   Adam      SGD
        input, hidden kernel  r_in^(-1/2)         1 / r_in  r_out / r_in
        readout (r_out = 1)   r_in^(-1)           1 / r_in  1 / r_in
        bias, norm            1                   1         r
        embedding             1                   1         r_out

    relative to the base model, which is not changed. The size is the root mean
    square of a weight, r_in the ratio of the fan-ins, r_out that of the numbers
    of outputs, and r that of the sizes of a vector. A model with the sizes of
    its base is not changed either. The column "start" of the table is the
    factor by which the weight was multiplied to have that size. It is 1 for a
    hidden kernel of a `LecunNormal`, and r_in^(-1/2) for one of a
    `RandomNormal`, whose size does not depend on the fan. In
    `MultiHeadAttention` and `GroupQueryAttention`, whose scores Keras divides
    by the root of the head size, the query takes (ratio of the head
    sizes)^(-1/2) more, and its learning rate too, which is the 1/d of muP.

    The weights are multiplied once, here. The learning rates are those of the
    optimizer that `optimizer` of the result returns. Call it after
    `initialize` and before training; `calibrate` would undo it. Then look at a
    `coordinate_check`.

    Args:
        model: keras.Model. A built model that has not been trained.
        base: keras.Model. A built model of the same architecture, at most as
            wide, with which the learning rate was found; its weights may be
            trained. Or a function of a width that returns it.
        base_width: int. The width that the function is called with, >= 1.
            Needed if `base` is a function. Defaults to None.

    Returns:
        A `Mup`, with a row for each weight.

    Raises:
        ValueError: If the models do not match, or one is not built; if the
            model has been trained or is in muP already; if it has weights that
            no rule knows, an embedding that is also the readout (tied), an
            `Attention` without projections, whose scores are not scaled, a
            `SpectralNormalization`, LoRA adapters or quantized weights; if a
            constraint would undo a factor; or if an argument is out of range.
            Nothing is changed then.
        TypeError: If `model` or `base` is no Keras layer.
        RuntimeError: If it is called inside a `tf.function`.

    Example:

    >>> import keras, keras_initx as kx
    >>> def build(width):
    ...     return keras.Sequential([
    ...         keras.Input((8,)),
    ...         keras.layers.Dense(width, "relu", name="first"),
    ...         keras.layers.Dense(width, "relu", name="second"),
    ...         keras.layers.Dense(2, name="last"),
    ...     ])
    >>> model = build(128)
    >>> done = kx.mup(model, build, base_width=32)
    >>> model.compile(done.optimizer(keras.optimizers.Adam(1e-2)), "mse")
    >>> [row.adam for row in done.rows if row.role == "kernel"]
    [1.0, 0.25, 0.25]

    Reference: Yang & Hu, arXiv:2011.14522; Yang et al., arXiv:2203.03466;
    Hajjar, Chizat & Giraud, arXiv:2110.15596. The form in ratios is derived
    here.
    """
    check_eager("mup")
    view = inspect_model(model)
    base_view = inspect_model(_built_base(base, base_width))
    _check_fresh(view)
    _check_known(view)
    pairs = _pairs(view, base_view)
    is_trained = any(True for _ in trained_layers(base_view))
    rows = [_row(view, weight, other, is_trained) for weight, other in pairs]
    values = [
        (
            weight.variable,
            multiplied(weight.variable, row.start, row.name, "A kernel in muP"),
        )
        for (weight, _), row in zip(pairs, rows, strict=True)
        if row.start != 1
    ]
    assign_all(values)
    for (weight, _), row in zip(pairs, rows, strict=True):
        if not row.skipped:
            mark(weight.variable, FUNCTION, row.start)
    return Mup(
        tuple(rows), model, tuple(weight.variable for weight, _ in pairs)
    )


def _built_base(base: Any, base_width: int | None) -> keras.Model:
    if isinstance(base, keras.layers.Layer) or not callable(base):
        if base_width is not None:
            refuse(
                "base_width is the argument of a function, and base is none.",
                base_width=base_width,
            )
        return base
    if base_width is None:
        refuse(
            "base_width must be the width that the function is called with.",
            base=base,
            base_width=None,
        )
    return base(check_int("base_width", base_width, 1))


def _check_fresh(view: ModelView) -> None:
    """Refuses a model that has been trained, or that is in muP already.

    Raises:
        ValueError: If it has been or is.
    """
    for layer, steps in trained_layers(view):
        raise ValueError(
            "The model must not be trained yet, since its weights are "
            f"multiplied. Received: {layer.name!r} after {steps} steps"
        )
    for weight in view.weights:
        if factor_of(weight.variable, FUNCTION) is not None:
            raise ValueError(
                "The model is in muP already, and a second call would multiply "
                "its weights twice. Draw them anew with `initialize` first. "
                f"Received: {weight.name!r}"
            )


def _check_known(view: ModelView) -> None:
    """Refuses layers for which muP has no rule here.

    Raises:
        ValueError: If there is one.
    """
    for layer in view.layers:
        name = view.name(layer)
        if isinstance(layer, keras.layers.Attention) and not isinstance(
            layer, keras.layers.AdditiveAttention
        ):
            _refuse_layer(
                name,
                "Attention without projections, whose scores are not divided "
                "by a size: use MultiHeadAttention",
            )
        if isinstance(layer, keras.layers.SpectralNormalization):
            _refuse_layer(name, "SpectralNormalization, which undoes a factor")
        if not layer.built and not has_no_call(layer):
            _refuse_layer(name, "not built: call the model on data first")
        reason = why_not_writable(view, layer)
        if reason:
            _refuse_layer(name, reason)
    for weight in view.weights:
        if weight.role == "lora":
            _refuse_layer(weight.name, "LoRA adapter")
        if weight.role == "unknown" and weight.variable.trainable:
            _refuse_layer(
                weight.name, "a weight that no rule knows: see register_layer"
            )
    _check_untied(view)


def _refuse_layer(name: str, reason: str) -> NoReturn:
    raise ValueError(
        "muP must know what every layer does with its weights. Received: "
        f"{name!r}, {reason}"
    )


def _check_untied(view: ModelView) -> None:
    """Refuses an embedding that is the readout too.

    Raises:
        ValueError: If there is one.
    """
    advice = (
        "a tied embedding, whose size at the start cannot suit an embedding "
        "and a readout: give the readout weights of its own"
    )
    ties = {
        id(layer): layer
        for layer in view.layers
        if isinstance(layer, keras.layers.Embedding)
        and getattr(layer, "tie_weights", False)
    }
    if ties and has_graph(view.model):
        steps = read_graph(view.model, view).steps
        reverse = {id(s.operation) for s in steps if s.kwargs.get("reverse")}
        ties = {key: layer for key, layer in ties.items() if key in reverse}
    for layer in ties.values():
        _refuse_layer(view.name(layer), advice)
    for weight in view.weights:
        if weight.role != "embedding":
            continue
        above = {id(layer) for layer in weight.layers}
        for layer in view.layers:
            # A functional model only runs the layers that it holds.
            if id(layer) in above or has_graph(layer):
                continue
            if any(held is weight.variable for held in layer.weights):
                _refuse_layer(weight.name, f"{advice}, not {layer.name!r}")


def _pairs(
    view: ModelView, base: ModelView
) -> list[tuple[ModelWeight, ModelWeight]]:
    """Each weight with that of the base model.

    Raises:
        ValueError: If the models do not match.
    """
    weights, others = (
        [w for w in each.weights if w.role not in _NOT_TRAINED]
        for each in (view, base)
    )
    for weight, other in zip(weights, others, strict=False):
        if _kind(weight) != _kind(other):
            _refuse_pair(weight, other)
    if len(weights) != len(others):
        raise ValueError(
            "The base model must have the architecture of the model. Received: "
            f"{len(weights)} weights, and {len(others)} of the base"
        )
    return list(zip(weights, others, strict=True))


def _kind(weight: ModelWeight) -> tuple[Any, ...]:
    """What must be equal in the weights of two models of one architecture."""
    return (
        type(weight.layer).__name__,
        weight.variable.name,
        weight.role,
        len(weight.variable.shape),
        len(weight.layers),
    )


def _refuse_pair(weight: ModelWeight, other: ModelWeight) -> NoReturn:
    raise ValueError(
        "The base model must have the architecture of the model, and be at "
        f"most as wide. Received: {weight.name!r} of shape "
        f"{tuple(weight.variable.shape)}, and {other.name!r} of shape "
        f"{tuple(other.variable.shape)} of the base"
    )


def _row(
    view: ModelView, weight: ModelWeight, base: ModelWeight, is_trained: bool
) -> MupWeight:
    reason = why_not_writable(view, weight.layer, weight.variable)
    if reason:
        return MupWeight(weight.name, weight.role, skipped=reason)
    input_ratio, output_ratio, head_ratio = _ratios(weight, base)
    factors = mup_factors(input_ratio, output_ratio, head_ratio)
    start = factors.size
    if weight.geometry.is_linear:
        if is_trained and not is_known(weight):
            raise ValueError(
                "The base model must have a fresh start if the model has not "
                "the one of its initializers. Received: a base that has been "
                f"trained, and {weight.name!r}, which was drawn by another "
                "initializer than that of its layer"
            )
        found = start_factor(weight, base, factors.size)
        if found is None:
            raise ValueError(
                "A weight must start at zero in both models, or in none. "
                f"Received: {weight.name!r}, which is zero in one of them"
            )
        start = found
    return MupWeight(
        weight.name,
        weight.role,
        input_ratio,
        output_ratio,
        # Rounding must not multiply what needs no factor.
        1.0 if math.isclose(start, 1, rel_tol=1e-9) else start,
        factors.adam,
        factors.sgd,
        factors.relative,
        factors.orthogonal,
        _longer_side(weight) / _longer_side(base),
    )


def _longer_side(weight: ModelWeight) -> int:
    return max(weight.variable.shape, default=1) or 1


def _ratios(
    weight: ModelWeight, base: ModelWeight
) -> tuple[float, float, float]:
    """The ratios that `mup_factors` takes.

    Raises:
        ValueError: If the weight is smaller than that of the base.
    """
    (inputs, outputs), (base_inputs, base_outputs) = map(_sizes, (weight, base))
    head, base_head = head_size(weight), head_size(base)
    ratios = (
        inputs / base_inputs,
        outputs / base_outputs,
        head / base_head if head and base_head else 1.0,
    )
    if min(ratios) < 1:
        _refuse_pair(weight, base)
    return ratios


def _sizes(weight: ModelWeight) -> tuple[float, float]:
    """The numbers of inputs and of outputs, those of all maps of a weight."""
    geometry = weight.geometry
    if not geometry.is_linear:
        return 1, max(1, math.prod(weight.variable.shape))
    fan_in, fan_out = geometry.fans
    return fan_in, fan_out * geometry.matrices[0]
