"""Which layers a user names: by name, object, class or predicate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import keras

from keras_initx.inspection.layer_rule import measured_by_default
from keras_initx.validation import did_you_mean, refuse

ACTIVATION = "activation"


@dataclass(frozen=True)
class LayerCall:
    """One call of one layer in a forward pass.

    Args:
        name: str. The names of the layers that were running, outermost first,
            without the model's own, joined by "/". Further calls of the same
            layer are numbered: "dense", "dense:2".
        layer: keras.layers.Layer. The layer.
        part: str. "activation" for the output of the layer's attribute
            `activation`, whose name ends in "/activation"; "" for the layer.
    """

    name: str
    layer: keras.layers.Layer
    part: str = ""

    @property
    def activation(self) -> LayerCall:
        """The output of the layer's attribute `activation`."""
        return LayerCall(f"{self.name}/{ACTIVATION}", self.layer, ACTIVATION)


def names_inside(
    names: tuple[str, ...],
    outer: keras.layers.Layer,
    layer: keras.layers.Layer,
) -> tuple[str, ...]:
    """The names of a layer inside another one, outermost first.

    Args:
        names: The names of the outer layer, without the model's own.
        outer: keras.layers.Layer. The outer layer.
        layer: keras.layers.Layer. The layer.
    """
    if layer is getattr(outer, "cell", None):
        # "lstm", not "lstm/lstm_cell": the cell is how Keras builds it.
        return names
    return (*names, layer.name)


Selector: TypeAlias = (
    str | keras.layers.Layer | type | Callable[[keras.layers.Layer], bool]
)
Layers: TypeAlias = Selector | Iterable[Selector] | None


# Parts of the message about a model in which no layer is chosen by default.
NO_KERNEL = "No layer that is known to hold a kernel"
NAME_THE_LAYERS = "Name the layers in layers=, or register"


def selectors(layers: Layers) -> tuple[Selector, ...]:
    """The argument `layers` as a tuple of selectors, one of which must match.

    Args:
        layers: A layer; the name of a layer, or its full name as a profile
            shows it; a layer class; a function that is called with a layer
            and returns whether it is meant; or a list of these. None means
            every layer that is measured by default.

    Raises:
        ValueError: If `layers` is or holds something else.
    """
    if layers is None:
        return (measured_by_default,)
    several: object = (
        (layers,) if isinstance(layers, str) or callable(layers) else layers
    )
    chosen = tuple(several) if isinstance(several, Iterable) else ()
    if not chosen or not all(isinstance(s, str) or callable(s) for s in chosen):
        refuse(
            "layers must be a layer, its name, a layer class, a function of "
            "a layer, or a list of one or more of these.",
            layers=layers,
        )
    return chosen


def matches(selector: Selector, call: LayerCall) -> bool:
    """Whether a selector means the layer of a call, or the part of it."""
    if call.part:
        short = f"{call.layer.name}/{call.part}"
        return isinstance(selector, str) and selector in (short, call.name)
    if isinstance(selector, str):
        return selector in (call.layer.name, call.name)
    if isinstance(selector, keras.layers.Layer):
        return call.layer is selector
    if isinstance(selector, type):
        return isinstance(call.layer, selector)
    return bool(selector(call.layer))


def matches_any(selectors: Iterable[Selector], call: LayerCall) -> bool:
    """Whether one of several selectors means the layer of a call."""
    return any(matches(selector, call) for selector in selectors)


def check_all_matched(
    selectors: Iterable[Selector],
    calls: Iterable[LayerCall],
    what: str = "a layer",
) -> None:
    """Refuses a selector that means none of the layers that ran.

    Args:
        selectors: The selectors.
        calls: The calls of the layers.
        what: str. What a selector is to pick. Defaults to "a layer".

    Raises:
        ValueError: If there is one; it is named, and the layers that ran.
    """
    calls = list(calls)
    for selector in selectors:
        if any(matches(selector, call) for call in calls):
            continue
        if selector is measured_by_default:
            if not any(call.layer.weights for call in calls):
                raise ValueError(
                    "The model has no weights, and so no layer that is chosen "
                    "by default. Name the layers in layers=. Received: "
                    f"layers=None, among {_names(calls)}"
                )
            raise ValueError(
                f"{NO_KERNEL} ran in this model. {NAME_THE_LAYERS} a rule for "
                "your own class (inspection.register_layer). Received: "
                f"layers=None, among {_names(calls)}"
            )
        raise ValueError(
            f"Each of layers must pick {what} that the model runs. "
            f"{_advice(selector, calls)} Received: layers={selector!r}"
        )


def _advice(selector: Selector, calls: list[LayerCall]) -> str:
    """A sentence that tells what would have picked a layer."""
    if isinstance(selector, keras.layers.Layer):
        return (
            f"This {type(selector).__name__} is none of its layers: it may "
            "belong to another model, or does not run."
        )
    names = _names(calls)
    hint = ""
    if isinstance(selector, str):
        hint = did_you_mean(selector, names)
        if selector in {type(call.layer).__name__ for call in calls}:
            hint = " Pass a class itself, and not its name."
    return f"Its layers are {names}.{hint}"


def _names(calls: list[LayerCall]) -> list[str]:
    return sorted({call.name for call in calls})
