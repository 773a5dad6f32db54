"""Layers whose kernels are equal since they share an initializer."""

from __future__ import annotations

import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

# Names in a message. A reader needs to see which layers are meant, not all.
_NAMES_SHOWN = 12


def warn_of_equal_kernels(
    named: Iterable[tuple[str, keras.layers.Layer]],
) -> None:
    """Warns, once for all layers, of kernels that one initializer made equal.

    Since Keras 3 an instance of an initializer has one seed, also if the user
    gave none. Layers that share the instance, or the seed, start with equal
    kernels where their shapes are equal.

    Only trainable weights of two axes or more count, whose layers hold one
    random initializer in common: the same object, or objects of one config
    with a seed. Equal weights are no fault if they do not depend on a seed
    (`Zeros`, `Identity`, `Dirac` without noise), nor if they were assigned to
    layers that have initializers of their own.

    Args:
        named: Iterable of pairs of a name and a layer, outer layers before
            those inside them. The layers to compare.
    """
    for names, shape in _equal_kernels(list(named)):
        warnings.warn(
            f"{len(names)} layers share one initializer or one seed, and have "
            f"equal kernels of shape {shape}: {_listed(names)}. Give each "
            "layer an instance of its own, without a seed or with another "
            "one, or draw the kernels anew with `keras_initx.initialize`.",
            stacklevel=_levels_in_package(),
        )


def _levels_in_package() -> int:
    """The `stacklevel` of the user's call, seen from the caller."""
    level, frame = 0, sys._getframe(1)
    package = __name__.partition(".")[0]
    while frame.f_back and frame.f_globals["__name__"].startswith(package):
        level, frame = level + 1, frame.f_back
    return level + 1


def _equal_kernels(
    named: list[tuple[str, keras.layers.Layer]],
) -> Iterator[tuple[list[str], tuple[int, ...]]]:
    """The names of the layers of each group of equal kernels, and its shape."""
    sharing = defaultdict(list)
    layers: dict[int, tuple[str, keras.layers.Layer]] = {}
    for name, layer in named:
        if id(layer) not in layers:
            layers[id(layer)] = name, layer
            for initializer in _random_initializers(layer):
                sharing[_origin(initializer)].append((initializer, name, layer))
    reported: set[int] = set()
    for sharers in sharing.values():
        if len(sharers) < 2:
            continue
        initializer = sharers[0][0]
        # The innermost layer that holds a weight is the last one here.
        holders = {
            id(variable): (name, variable)
            for _, name, layer in sharers
            for variable in layer.trainable_weights
            if len(variable.shape) > 1
            and 0 not in variable.shape
            and id(variable) not in reported
        }
        for group in _equal(list(holders.values())):
            shape = tuple(group[0][1].shape)
            if _depends_on_seed(initializer, shape):
                reported |= {id(variable) for _, variable in group}
                yield [name for name, _ in group], shape


def _random_initializers(layer: keras.layers.Layer) -> Iterator[Any]:
    """The initializers with a seed that a layer holds as attributes."""
    for held in list(vars(layer).values()):
        # One inside of another, as in `Scaled`, is the one that draws.
        while isinstance(held, keras.initializers.Initializer):
            inner = getattr(held, "initializer", None)
            if not isinstance(inner, keras.initializers.Initializer):
                if "seed" in held.get_config():
                    yield held
                break
            held = inner


def _origin(initializer: Any) -> Any:
    """What two initializers have in common if they draw the same."""
    config = initializer.get_config()
    if isinstance(config["seed"], int):
        return type(initializer), repr(config)
    return id(initializer)


def _equal(
    named: list[tuple[str, Any]],
) -> list[list[tuple[str, Any]]]:
    """Groups of two or more variables of equal shapes and values."""
    by_start = defaultdict(list)
    for name, variable in named:
        # Few numbers tell almost all kernels apart.
        start = _values(variable.value[0])
        by_start[tuple(variable.shape), start.tobytes()].append(
            (name, variable)
        )
    groups: dict[Any, list[tuple[str, Any]]] = defaultdict(list)
    for key, alike in by_start.items():
        if len(alike) > 1:
            for name, variable in alike:
                values = _values(variable.value)
                if (values != values.flat[0]).any():
                    groups[key, values.tobytes()].append((name, variable))
    return [group for group in groups.values() if len(group) > 1]


def _values(tensor: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(tensor))


def _depends_on_seed(initializer: Any, shape: tuple[int, ...]) -> bool:
    config = initializer.get_config()
    try:
        one, other = (
            _values(
                type(initializer).from_config(config | {"seed": seed})(shape)
            )
            for seed in (1, 2)
        )
    except Exception:
        # It takes no such seed, or refuses this shape.
        return False
    return not np.array_equal(one, other)


def _listed(names: list[str]) -> str:
    """The names in quotes; of many names, some of them and their number."""
    shown = [
        repr(name) if n == 1 else f"{name!r} ({n} kernels)"
        for name, n in Counter(names).items()
    ]
    if len(shown) <= _NAMES_SHOWN:
        return ", ".join(shown)
    first = ", ".join(shown[: _NAMES_SHOWN - 1])
    return f"{first}, ... {shown[-1]}"
