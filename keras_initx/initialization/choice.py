"""The user's choice: initializers by layer and role, and which layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import keras

from keras_initx.initializers.names import get
from keras_initx.inspection.selection import (
    LayerCall,
    Layers,
    check_all_matched,
    matches_any,
    names_inside,
    selectors,
)
from keras_initx.inspection.traversal import ModelView, ModelWeight
from keras_initx.validation import did_you_mean

Initializer: TypeAlias = str | dict[str, Any] | keras.initializers.Initializer
ByRole: TypeAlias = Initializer | Mapping[str, Initializer]
Choice: TypeAlias = ByRole | Callable[[keras.layers.Layer], ByRole | None]
# Returns the initializer for a layer and a role, None to skip the weight.
Choose: TypeAlias = Callable[
    [keras.layers.Layer, str], keras.initializers.Initializer | None
]


def chooser(initializer: Choice) -> Choose:
    """The choice as a function of layer and role.

    Args:
        initializer: The argument of `initialize`.

    Raises:
        ValueError: If it is no such choice, or, once the returned function is
            called, if the user's function returns none.
    """
    if not callable(initializer) or isinstance(
        initializer, keras.initializers.Initializer | type
    ):
        by_role = _by_role(initializer)
        return lambda layer, role: by_role(role)

    def choose(layer: keras.layers.Layer, role: str) -> Any:
        try:
            answer = initializer(layer)
        except Exception as error:
            raise ValueError(
                "A function given as initializer is called with a layer, and "
                "returns an initializer for it. Received: "
                f"initializer={initializer!r}, which raises: {error}"
            ) from error
        try:
            return None if answer is None else _by_role(answer)(role)
        except ValueError as error:
            raise ValueError(f"{error} for layer {layer.name!r}") from error

    return choose


def _is_dict_of_roles(value: Any) -> bool:
    return isinstance(value, Mapping) and "class_name" not in value


def _by_role(value: Any) -> Callable[[str], Any]:
    if _is_dict_of_roles(value):
        by_role = {role: _initializer(one) for role, one in value.items()}
        return by_role.get
    initializer = _initializer(value)
    return lambda role: initializer


def _initializer(value: Any) -> keras.initializers.Initializer:
    return get(
        value,
        alternatives="a dict of these by role, or a function of a layer",
    )


def check_roles(initializer: Any, view: ModelView) -> None:
    """Refuses a dict with a role that no linear weight of the model has.

    Raises:
        ValueError: If there is one; the roles of the model are named.
    """
    if not _is_dict_of_roles(initializer):
        return
    roles = {w.role for w in view.weights if w.geometry.is_linear}
    unknown = sorted(set(initializer) - roles)
    if unknown:
        hint = did_you_mean(unknown[0], roles)
        if "bias" in unknown:
            hint += " Biases are drawn from bias_initializer."
        raise ValueError(
            f"A dict must have roles of the model, {sorted(roles)}.{hint} "
            f"Received: initializer with {unknown}"
        )


def are_picked(view: ModelView, layers: Layers) -> list[bool]:
    """Whether a picked layer holds a weight, however deep inside, for each.

    Args:
        view: ModelView. The model.
        layers: The argument of `initialize`.

    Raises:
        ValueError: If one of `layers` picks no layer of the model.
    """
    if layers is None:
        return [True] * len(view.weights)
    chosen = selectors(layers)
    chains = [_calls(weight) for weight in view.weights]
    # A layer without weights may be picked, to no effect.
    present = [LayerCall(layer.name, layer) for layer in view.layers]
    check_all_matched(chosen, itertools.chain(present, *chains))
    return [
        any(matches_any(chosen, call) for call in chain) for chain in chains
    ]


def _calls(weight: ModelWeight) -> list[LayerCall]:
    """The layers that a weight is in, with their full names."""
    model, *inside = weight.layers
    calls = [LayerCall(model.name, model)]
    outer: keras.layers.Layer = model
    names: tuple[str, ...] = ()
    for layer in inside:
        names = names_inside(names, outer, layer)
        calls.append(LayerCall("/".join(names), layer))
        outer = layer
    # The name in the record has a number if another layer has the same name.
    return [*calls, LayerCall(weight.layer_name or model.name, weight.layer)]
