"""What a user chose: initializers by layer and role, and which layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_initx.inspection.selection import (
    LayerCall,
    Layers,
    check_all_matched,
    matches,
    selectors,
)
from keras_initx.inspection.traversal import Place, all_layers

Initializer = str | dict[str, Any] | keras.initializers.Initializer
ByRole = Initializer | Mapping[str, Initializer]
Chosen = ByRole | Callable[[keras.layers.Layer], ByRole | None]
# Of a layer and a role, an initializer, or None to leave the weight alone.
Choose = Callable[
    [keras.layers.Layer, str], keras.initializers.Initializer | None
]


def chooser(initializer: Chosen) -> Choose:
    """The choice as a function of layer and role.

    Raises:
        ValueError: It is no such choice; or, when called, its answer is none.
    """
    is_function = callable(initializer) and not isinstance(
        initializer, keras.initializers.Initializer | type
    )
    if not is_function:
        found = _by_role(initializer)
        return lambda layer, role: found(role)

    def choose(layer: keras.layers.Layer, role: str) -> Any:
        try:
            answer = initializer(layer)
        except Exception as error:
            raise ValueError(
                "A function given as initializer is called with a layer, and "
                "returns an initializer for it. Received: "
                f"initializer={initializer!r}, which raises: {error}"
            ) from error
        return None if answer is None else _by_role(answer)(role)

    return choose


def initializer_of(
    given: Any,
    name: str = "initializer",
    other: str = "a dict of these by role, or a function of a layer",
) -> keras.initializers.Initializer:
    """The initializer that is meant by an instance, name or config.

    Raises:
        ValueError: There is none.
    """
    try:
        found = keras.initializers.get(given)
    except (ValueError, TypeError):
        found = None
    if not isinstance(found, keras.initializers.Initializer):
        raise ValueError(
            f"{name} must be a Keras initializer, its name or config, "
            f"{other}. Received: {name}={given!r}"
        )
    return found


def _by_role(given: Any) -> Callable[[str], Any]:
    if isinstance(given, Mapping) and "class_name" not in given:
        found = {role: initializer_of(one) for role, one in given.items()}
        return found.get
    one = initializer_of(given)
    return lambda role: one


def check_roles(initializer: Chosen, all_places: list[Place]) -> None:
    """Refuse a dict with a role that no weight of the model has.

    Raises:
        ValueError: Naming the role, and those there are.
    """
    if not isinstance(initializer, Mapping) or "class_name" in initializer:
        return
    roles = {p.geometry.role for p in all_places if p.geometry.split_shape}
    unknown = sorted(set(initializer) - roles)
    if unknown:
        raise ValueError(
            f"A dict must have roles of the model, {sorted(roles)}. "
            f"Received: initializer with {unknown}"
        )


def picked_places(
    model: keras.layers.Layer, all_places: list[Place], layers: Layers
) -> list[bool]:
    """Of each weight, whether a picked layer holds it, however deep inside.

    Raises:
        ValueError: One of `layers` picks no layer of the model.
    """
    if layers is None:
        return [True] * len(all_places)
    wanted = selectors(layers)
    chains = [list(_heard(place)) for place in all_places]
    # A layer without weights may be picked, to no effect.
    present = [LayerCall(layer.name, layer) for layer in all_layers(model)]
    check_all_matched(wanted, itertools.chain(present, *chains))
    return [
        any(matches(selector, heard) for heard in chain for selector in wanted)
        for chain in chains
    ]


def _heard(place: Place) -> list[LayerCall]:
    """The layers that a weight is in, under all their names."""
    model, *inside = place.layers
    names = [layer.name for layer in inside]
    labels = place.name.split("/")
    found = [LayerCall(model.name, model)]
    for i, layer in enumerate(inside):
        found.append(LayerCall("/".join(names[: i + 1]), layer))
        found.append(LayerCall("/".join(labels[: i + 1]), layer))
    return found
