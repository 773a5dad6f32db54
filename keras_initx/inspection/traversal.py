"""Every weight of a model once, with the layer that holds it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras

from keras_initx.inspection.geometry import Geometry, own_geometry

# What Keras tracks are these, or subclasses of them.
_MAY_HOLD = (keras.layers.Layer, dict, list, tuple, set)
_NUMBER = re.compile(r"_\d+$")


@dataclass(frozen=True)
class Place:
    """One weight where it is.

    Attributes:
        name: Its path from the model, the same in every build of the model.
        weight: The Keras variable.
        layers: From the model to the layer that holds the weight.
        geometry: What the weight is.
    """

    name: str
    weight: Any
    layers: tuple[keras.layers.Layer, ...]
    geometry: Geometry


def kernel_geometry(layer: keras.layers.Layer) -> dict[str, Geometry]:
    """What each weight of a layer or model is.

    Args:
        layer: A built layer or model, with what layers it holds inside.

    Returns:
        For each weight's path from `layer` its `Geometry`; of a weight that
        no rule knows, one whose role is "unknown". Shared weights are there
        once.

    Raises:
        ValueError: The layer is not built.
        TypeError: It is no layer.

    Example:

    >>> layer = keras.layers.DepthwiseConv2D(3)
    >>> layer.build((None, 8, 8, 64))
    >>> kernel_geometry(layer)["kernel"].fan_in
    9

    Reference: derived here, from what the layers of Keras 3 compute.
    """
    return {place.name: place.geometry for place in places(layer)}


def places(model: keras.layers.Layer) -> list[Place]:
    """Every weight of a built model once, in the order of its layers.

    Raises:
        ValueError: The model is not built.
        TypeError: It is no layer.
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(f"Expected a Keras layer or model. Received: {model!r}")
    if not model.built:
        raise ValueError(
            "The model has no weights before it is built: call it on data, or "
            f"its build method. Received: {model!r}"
        )
    return list(_walk(model, (), "", set()))


def all_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The model and every layer in it, once, outer ones first."""
    found = {id(model): model}
    for child in _inside(model):
        for layer in all_layers(child):
            found.setdefault(id(layer), layer)
    return list(found.values())


def _walk(
    layer: keras.layers.Layer,
    above: tuple[keras.layers.Layer, ...],
    prefix: str,
    seen: set[int],
) -> Iterator[Place]:
    seen.add(id(layer))
    chain = (*above, layer)
    inside = _inside(layer)
    foreign = {id(w) for child in inside for w in child.weights}
    own = [w for w in layer.weights if id(w) not in foreign]
    labels = _labels([(w.name, "variable") for w in own])
    for weight, label in zip(own, labels, strict=True):
        if id(weight) not in seen:
            seen.add(id(weight))
            yield Place(
                prefix + label, weight, chain, own_geometry(layer, weight)
            )
    labels = _labels([(c.name, type(c).__name__) for c in inside])
    for child, label in zip(inside, labels, strict=True):
        if id(child) not in seen:
            yield from _walk(child, chain, f"{prefix}{label}/", seen)


def _inside(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that a layer holds, each once, as it came to hold them."""
    found: dict[int, keras.layers.Layer] = {}
    if isinstance(layer, keras.Model):
        found = {id(child): child for child in layer.layers}
    seen = {id(layer)}

    def look(values: Iterable[Any]) -> None:
        for value in list(values):
            if not isinstance(value, _MAY_HOLD) or id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, keras.layers.Layer):
                found[id(value)] = value
            else:
                look(value.values() if isinstance(value, dict) else value)

    look(vars(layer).values())
    # A layer that is only pointed at has its weights elsewhere.
    held = {id(w) for w in layer.weights}
    return [
        child
        for child in found.values()
        if all(id(w) in held for w in child.weights)
        and not _is_another_view(child, layer)
    ]


def _is_another_view(
    child: keras.layers.Layer, model: keras.layers.Layer
) -> bool:
    """Whether a model in a model, such as Keras makes, has the same layers."""
    if not (isinstance(child, keras.Model) and isinstance(model, keras.Model)):
        return False
    own = {id(layer) for layer in model.layers}
    return id(child) not in own and own >= {id(la) for la in child.layers}


def _labels(named: list[tuple[str, str]]) -> list[str]:
    """Names among siblings, the same however many layers Keras has made.

    Keras numbers the layers without a name through the process. Here they are
    numbered among the siblings of their kind.
    """
    count: Counter[str] = Counter()
    labels = []
    for name, kind in named:
        stem = _NUMBER.sub("", name)
        bare = stem.removeprefix("forward_").removeprefix("backward_")
        automatic = bare.replace("_", "") == kind.lower().replace("_", "")
        label = stem if automatic else name
        plain = not automatic and label not in labels
        while not plain and f"{label}:{count[label]}" in labels:
            count[label] += 1
        labels.append(label if plain else f"{label}:{count[label]}")
        count[label] += 1
    return labels
