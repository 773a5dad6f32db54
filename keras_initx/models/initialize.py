"""One initializer and one seed for a whole model, at the fans of its layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import keras

from keras_initx.initializers.base import is_int
from keras_initx.models.assign import assign_all
from keras_initx.models.initialization import Initialization
from keras_initx.models.plan import Plan
from keras_initx.models.walk import Place, all_layers, places
from keras_initx.signal.heard import Heard
from keras_initx.signal.selection import (
    Layers,
    check_all_matched,
    matches,
    selectors,
)

Initializer = str | dict[str, Any] | keras.initializers.Initializer
Chosen = Initializer | Callable[[keras.layers.Layer], Initializer | None]


def initialize(
    model: keras.layers.Layer,
    initializer: Chosen,
    *,
    seed: int,
    layers: Layers = None,
    biases: Initializer | None = "zeros",
    overwrite: bool = False,
) -> Initialization:
    """Draw all weights of a model anew, each at the fans of its layer.

    A Keras initializer sees a shape only, and so takes the wrong fans in
    depthwise, transposed, gated and attention layers. Here the fans, and the
    linear maps that a weight holds (gates, heads, groups), are those of the
    layer, as `kernel_geometry` tells them. By role,

        kernels, embeddings     `initializer`, for each of its maps
        biases                  `biases`; the forget gate of an LSTM with
                                `unit_forget_bias` then has ones
        norm scales, offsets,   the layer's own initializer, as if it were new
        branch scales, slopes,
        statistics

    Left alone, and listed with the reason: weights that are frozen
    (`trainable=False`), quantized, LoRA adapters, unknown (see
    `register_geometry`), or without initializer. A weight that layers share is
    drawn once, for the layer that holds it first.

    Seeds. Each weight has its own, folded from `seed` and the weight's path in
    the model: the same seed gives the same model bit for bit, in any process,
    whatever was built before, and no two weights are equal, query, key and
    value of attention included. Layers with a name of their own keep their
    weights when others are added. Those that Keras named are counted among
    their like within the same model, so that those keep theirs before which no
    layer of their class was put. (Of two seeds that happen to be equal, once in
    2^31 pairs of weights, the later in the model is folded again.)

    Nothing is changed unless all of it can be. The optimizer is not touched:
    compile again for a fresh one.

    Args:
        model: A built `keras.Model` or layer.
        initializer: A Keras initializer, its name or config; or a function of
            the layer that holds a weight (in attention a projection, in an
            LSTM its cell), which returns one, or None to leave the layer alone.
            Its own seed is not used, but for those of a `DepthProcess`, whose
            layers share it.
        seed: An int of 64 bits.
        layers: Which layers, and all that is inside them: a layer, name, class,
            function `layer -> bool`, or a list of these. Default: all.
        biases: An initializer, its name or config, or None to leave biases
            alone.
        overwrite: Whether to draw over a model that has been trained.

    Returns:
        A table with a row for each weight.

    Raises:
        ValueError: The model is not built, or has been trained and `overwrite`
            is False; there is no such initializer or layer; an initializer
            refuses a shape, or gives NaN, inf or the same weights twice.
        TypeError: `model` is no Keras layer.

    Example:

    >>> import keras, keras_initx as kx
    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 64)),
    ...     keras.layers.DepthwiseConv2D(3, activation="relu"),
    ...     keras.layers.Conv2D(32, 1),
    ... ])
    >>> print(kx.initialize(model, kx.initializers.FractionalMoment(), seed=7))
    ... # doctest: +ELLIPSIS
    weight ...

    Reference: derived here. Fans: Glorot & Bengio, AISTATS (2010).
    """
    if not is_int(seed) or not -(2**63) <= seed < 2**63:
        raise ValueError(
            f"seed must be an int of 64 bits. Received: seed={seed!r}"
        )
    choose = _chooser(initializer)
    bias_initializer = None if biases is None else _get("biases", biases)
    all_places = places(model)
    _check_untrained(model, overwrite)
    picked = _picked(model, all_places, layers)
    plan = Plan(int(seed), choose, bias_initializer)
    rows, values = [], []
    for place, is_picked in zip(all_places, picked, strict=True):
        row, value = plan.of(place, is_picked)
        rows.append(row)
        values.append(value)
    assign_all(
        [
            (place.weight, value)
            for place, value in zip(all_places, values, strict=True)
            if value is not None
        ]
    )
    return Initialization(tuple(rows))


def _chooser(initializer: Chosen) -> Callable[[keras.layers.Layer], Any]:
    is_function = callable(initializer) and not isinstance(
        initializer, keras.initializers.Initializer | type
    )
    if not is_function:
        found = _get("initializer", initializer)
        return lambda layer: found

    def choose(layer: keras.layers.Layer) -> Any:
        answer = initializer(layer)
        return None if answer is None else _get("initializer", answer)

    return choose


def _get(name: str, given: Any) -> keras.initializers.Initializer:
    try:
        found = keras.initializers.get(given)
    except (ValueError, TypeError):
        found = None
    if not isinstance(found, keras.initializers.Initializer):
        raise ValueError(
            f"{name} must be a Keras initializer, its name or config"
            + (
                ", or a function of a layer that returns one"
                if name == "initializer"
                else ", or None"
            )
            + f". Received: {name}={given!r}"
        )
    return found


def _check_untrained(model: keras.layers.Layer, overwrite: bool) -> None:
    optimizer = getattr(model, "optimizer", None)
    steps = 0 if optimizer is None else int(optimizer.iterations.numpy())
    if steps and not overwrite:
        raise ValueError(
            "The model has been trained, and its weights would be lost: say "
            "overwrite=True if they may be. Received: overwrite=False, a model "
            f"after {steps} steps"
        )


def _picked(
    model: keras.layers.Layer, all_places: list[Place], layers: Layers
) -> list[bool]:
    if layers is None:
        return [True] * len(all_places)
    wanted = selectors(layers)
    chains = [_heard(place) for place in all_places]
    # A layer without weights may be picked, to no effect.
    present = [Heard(layer.name, layer) for layer in all_layers(model)]
    check_all_matched(wanted, itertools.chain(present, *chains))
    return [
        any(matches(selector, heard) for heard in chain for selector in wanted)
        for chain in chains
    ]


def _heard(place: Place) -> list[Heard]:
    """The layers that a weight is in, as they are selected."""
    inside = place.layers[1:] or place.layers
    names = [layer.name for layer in inside]
    return [
        Heard("/".join(names[: i + 1]), layer) for i, layer in enumerate(inside)
    ]
