"""Which layers a user wants to hear: by name, object, class or predicate."""

from __future__ import annotations

import difflib
import types
import weakref
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

import keras

from keras_initx.inspection.linear_units import holds_kernel


@dataclass(frozen=True)
class LayerCall:
    """One call of one layer in a forward pass.

    Args:
        name: The names of the layers that were running, outermost first,
            without the model's own, joined by "/". Further calls of the same
            layer are numbered: "dense", "dense:2".
        layer: The layer.
    """

    name: str
    layer: keras.layers.Layer


Selector = (
    str | keras.layers.Layer | type | Callable[[keras.layers.Layer], bool]
)
Layers = Selector | Iterable[Selector] | None


def selectors(layers: Layers) -> tuple[Selector, ...]:
    """`layers` as a tuple, of which a layer need match one.

    Args:
        layers: A layer; a layer's name, or its whole name as a profile shows
            it; a layer class; a function of a layer that returns whether to
            hear it; or several of these. None: every layer that holds a
            kernel.

    Raises:
        ValueError: `layers` is or holds something else.
    """
    if layers is None:
        return (holds_kernel,)
    several = (
        (layers,) if isinstance(layers, str) or callable(layers) else layers
    )
    wanted = tuple(several) if isinstance(several, Iterable) else ()
    if not wanted or not all(isinstance(s, str) or callable(s) for s in wanted):
        raise ValueError(
            "layers must be a layer, its name, a layer class, a function of "
            "a layer, or a list of these. "
            f"Received: layers={layers!r}"
        )
    return wanted


def matches(selector: Selector, heard: LayerCall) -> bool:
    """Whether one selector picks a layer."""
    if isinstance(selector, str):
        return selector in (heard.layer.name, heard.name)
    if isinstance(selector, keras.layers.Layer):
        return heard.layer is selector
    if isinstance(selector, type):
        return isinstance(heard.layer, selector)
    return bool(selector(heard.layer))


def check_all_matched(
    wanted: Iterable[Selector], ran: Iterable[LayerCall]
) -> None:
    """Refuse a selector that picks no layer of the model.

    Raises:
        ValueError: Naming it, and the layers there are.
    """
    ran = list(ran)
    names = sorted({heard.name for heard in ran})
    for selector in wanted:
        if any(matches(selector, heard) for heard in ran):
            continue
        if selector is holds_kernel:
            raise ValueError(
                "No layer that holds a kernel ran in this model; name the "
                f"layers to measure. Received: layers=None, among {names}"
            )
        close = difflib.get_close_matches(str(selector), names, n=3)
        raise ValueError(
            "Each of layers must pick a layer that the model runs, out of "
            f"{close or names}. Received: layers={selector!r}"
        )


def identity(selector: Selector) -> Hashable:
    """A key for a selector that does not keep a function, or what it holds."""
    if isinstance(selector, (str, type)):
        return selector
    if isinstance(selector, types.MethodType):
        # It is made anew each time that one asks the object for it.
        return _Reference(selector.__self__), _Reference(selector.__func__)
    return _Reference(selector)


class _Reference:
    """Equal to another to the same object, which need not be hashable."""

    def __init__(self, value: object):
        self._value = weakref.ref(value)
        self._hash = id(value)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Reference):
            return NotImplemented
        value = self._value()
        return value is not None and value is other._value()
