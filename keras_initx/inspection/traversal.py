"""One walk over a model: its layers, and every weight in it once."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_initx.inspection.geometry import Geometry
from keras_initx.inspection.layer_rule import (
    LayerRule,
    geometries,
    layer_rule,
    measured_by_default,
)
from keras_initx.inspection.selection import names_inside

# What Keras tracks are these, or subclasses of them.
_CONTAINERS = (keras.layers.Layer, dict, list, tuple, set)
_NUMBER = re.compile(r"_\d+$")


@dataclass(frozen=True)
class ModelWeight:
    """One weight of a model, with the layer that holds it.

    Attributes:
        path: Its path from the model, the same in every build of the model.
        variable: The Keras variable.
        layers: The layers from the model to the one that holds the weight.
        geometry: What the weight is.
        layer_name: The full name of that layer, as `measure` names layers;
            "" if it is the model.
        name: The name of its layer and its own, with a number if another
            weight of the model has it.
    """

    path: str
    variable: Any
    layers: tuple[keras.layers.Layer, ...]
    geometry: Geometry
    layer_name: str
    name: str

    @property
    def layer(self) -> keras.layers.Layer:
        """The layer that holds the weight."""
        return self.layers[-1]

    @property
    def role(self) -> str:
        """The role of the weight."""
        return self.geometry.role


@dataclass
class ModelView:
    """The layers and weights of a model, and the rules of its layers.

    Attributes:
        model: The model or layer.
        layers: The model and all layers in it, each once, outer ones first.
        weights: Every weight once, with the layer that holds it first.
    """

    model: keras.layers.Layer
    layers: list[keras.layers.Layer] = field(default_factory=list)
    weights: list[ModelWeight] = field(default_factory=list)
    _rules: dict[int, LayerRule] = field(default_factory=dict)
    _inner: dict[int, list[keras.layers.Layer]] = field(default_factory=dict)
    _linear: dict[int, list[keras.layers.Layer]] = field(default_factory=dict)
    _roles: dict[int, str] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)

    def name(self, layer: keras.layers.Layer) -> str:
        """The full name of a layer, as `measure` names it.

        The model itself, which is in no layer, has its own name.
        """
        return self._names[id(layer)] or layer.name

    def tracks(self, layer: keras.layers.Layer) -> bool:
        """Whether a layer is the model or one of the layers in it."""
        return id(layer) in self._rules

    def rule(self, layer: keras.layers.Layer) -> LayerRule:
        """The rule of a layer, empty if the model does not track it."""
        return self._rules.get(id(layer), LayerRule())

    def measured_by_default(self, layer: keras.layers.Layer) -> bool:
        """Whether a layer is a row of `measure` by default."""
        return measured_by_default(layer, self._rules.get(id(layer)))

    def inside(self, layer: keras.layers.Layer) -> list[keras.layers.Layer]:
        """A layer and all layers in it, each once, outer ones first."""
        found: dict[int, keras.layers.Layer] = {}

        def add(one: keras.layers.Layer) -> None:
            if id(one) not in found:
                found[id(one)] = one
                for inner in self._inner[id(one)]:
                    add(inner)

        add(layer)
        return list(found.values())

    def linear_in(self, variable: Any) -> list[keras.layers.Layer]:
        """The layers whose `units` have this kernel or bias."""
        return self._linear.get(id(variable), [])

    def role(self, variable: Any) -> str:
        """The role of a weight of the model."""
        return self._roles.get(id(variable), "unknown")

    def add(
        self,
        layer: keras.layers.Layer,
        name: str,
        inner: list[keras.layers.Layer],
        weights: list[ModelWeight],
    ) -> None:
        """Adds a layer with its name, inner layers and the weights it holds."""
        rule = layer_rule(layer)
        self.layers.append(layer)
        self._names[id(layer)] = name
        self._inner[id(layer)] = inner
        self._rules[id(layer)] = rule
        for variable in rule.units.weights if rule.units else ():
            self._linear.setdefault(id(variable), []).append(layer)
        for weight in weights:
            if id(weight.variable) not in self._roles:
                self._roles[id(weight.variable)] = weight.role
                self.weights.append(weight)


def kernel_geometry(layer: keras.layers.Layer) -> dict[str, Geometry]:
    """What each weight of a layer or model is.

    Args:
        layer: keras.layers.Layer. A built layer or model.

    Returns:
        Dict of the `Geometry` of each weight by its path from `layer`, weights
        of inner layers included. A weight that no rule knows has the role
        "unknown". A weight that several layers share is there once.

    Raises:
        ValueError: If the layer is not built.
        TypeError: If `layer` is no layer.

    Example:

    >>> layer = keras.layers.DepthwiseConv2D(3)
    >>> layer.build((None, 8, 8, 64))
    >>> kernel_geometry(layer)["kernel"].fan_in
    9

    Reference: derived here, from what the layers of Keras 3 compute.
    """
    return {
        weight.path: weight.geometry for weight in inspect_model(layer).weights
    }


def inspect_model(model: keras.layers.Layer) -> ModelView:
    """Walks a built model once.

    Raises:
        ValueError: If the model is not built, or the rule of a layer fails.
        TypeError: If it is no layer.
    """
    if not isinstance(model, keras.layers.Layer):
        hint = ""
        if isinstance(model, str | os.PathLike):
            hint = " keras.saving.load_model loads one from a file."
        raise TypeError(
            f"Expected a Keras layer or model.{hint} Received: {model!r}"
        )
    if not model.built and not (has_no_call(model) and model.weights):
        if isinstance(model, keras.Sequential) and not model.layers:
            raise ValueError(
                f"The model must have layers. Received: {model!r}, which has "
                "none"
            )
        raise ValueError(
            "The model has no weights before it is built. Call the model on "
            f"data, or call model.build(input_shape). Received: {model!r}"
        )
    view = ModelView(model)
    _walk(model, (), "", (), "", view, Counter())
    return view


def has_no_call(layer: keras.layers.Layer) -> bool:
    """Whether a layer is a model that only holds others, without a `call`.

    Such a model, as a GAN with a `train_step` of its own, is never built
    before it is trained, and has weights if the models in it are built.
    """
    return type(layer).call in (keras.Model.call, keras.layers.Layer.call)


def _walk(
    layer: keras.layers.Layer,
    above: tuple[keras.layers.Layer, ...],
    prefix: str,
    names: tuple[str, ...],
    name: str,
    view: ModelView,
    count: Counter[str],
) -> None:
    """Adds a layer, its weights and all layers in it to the view.

    Args:
        layer: The layer.
        above: The layers from the model to the one that holds `layer`.
        prefix: The path of `layer`, with its slash.
        names: The names from the model to `layer`, without the model's own.
        name: The full name of `layer`.
        view: The view that is filled.
        count: How many layers and weights have a name, filled too.
    """
    chain = (*above, layer)
    inner = _inner_layers(layer)
    inner_weights = {id(w) for child in inner for w in child.weights}
    held = [w for w in layer.weights if id(w) not in inner_weights]
    labels = _labels([(w.name, "variable") for w in held])
    start = f"{name}/" if name else ""
    weights = [
        ModelWeight(
            prefix + label,
            variable,
            chain,
            geometry,
            name,
            _numbered(start + variable.name, count, "/"),
        )
        for variable, label, geometry in zip(
            held, labels, geometries(layer, held), strict=True
        )
    ]
    view.add(layer, name, inner, weights)
    labels = _labels([(c.name, type(c).__name__) for c in inner])
    for child, label in zip(inner, labels, strict=True):
        if not view.tracks(child):
            inside = names_inside(names, layer, child)
            full = (
                name if inside == names else _numbered("/".join(inside), count)
            )
            _walk(child, chain, f"{prefix}{label}/", inside, full, view, count)


def _numbered(name: str, count: Counter[str], kind: str = "") -> str:
    """The name, with a number if another of its kind has it."""
    count[name + kind] += 1
    number = count[name + kind]
    return name if number == 1 else f"{name}:{number}"


def _inner_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that a layer holds, each once, as it came to hold them."""
    found: dict[int, keras.layers.Layer] = {}
    if isinstance(layer, keras.Model):
        found = {id(child): child for child in layer.layers}
    seen = {id(layer)}

    def look(values: Iterable[Any]) -> None:
        for value in list(values):
            if not isinstance(value, _CONTAINERS) or id(value) in seen:
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
    outer = {id(layer) for layer in model.layers}
    inner = {id(layer) for layer in child.layers}
    return id(child) not in outer and outer >= inner


def _labels(named: list[tuple[str, str]]) -> list[str]:
    """Names among siblings, the same however many layers Keras has made.

    Keras numbers the layers without a name through the process. Here they are
    numbered among the siblings of their kind.

    Args:
        named: The name of each sibling, and the name of its kind.
    """
    count: Counter[str] = Counter()
    labels: list[str] = []
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
