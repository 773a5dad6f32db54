"""Initializers by name: those of Keras, and those of this package."""

from __future__ import annotations

import inspect
from typing import Any

import keras

from keras_initx.validation import did_you_mean, refuse

_PACKAGE = "keras_initx>"


def get(
    identifier: Any, name: str = "initializer", alternatives: str = ""
) -> keras.initializers.Initializer:
    """Returns the initializer that an instance, a name or a config stands for.

    Besides the names that `keras.initializers.get` knows, those of the classes
    of this package are names too, as "FractionalMoment" or
    "fractional_moment".

    Args:
        identifier: The argument.
        name: str. The name of the argument. Defaults to "initializer".
        alternatives: str. What else it may be, for the message. Defaults to
            nothing else.

    Raises:
        ValueError: If there is no such initializer, or if it cannot be made
            without arguments.
    """
    try:
        # Keras makes an initializer of None too.
        initializer = keras.initializers.get(identifier)
    except (ValueError, TypeError):
        initializer = None
    if initializer is None and isinstance(identifier, str):
        initializer = _of_this_package(identifier, name)
    # Keras also returns functions, which have no config.
    if isinstance(initializer, keras.initializers.Initializer):
        return initializer
    expected = f"{name} must be a Keras initializer, its name or config"
    expected += f", {alternatives}." if alternatives else "."
    if isinstance(identifier, str):
        names = [*_names_in_keras(), *_classes()]
        expected += f" The names are {', '.join(map(repr, names))}."
        expected += did_you_mean(identifier, names)
    refuse(expected, **{name: identifier})


def _of_this_package(
    identifier: str, name: str
) -> keras.initializers.Initializer | None:
    by_name = {_plain(key): cls for key, cls in _classes().items()}
    cls = by_name.get(_plain(identifier))
    if cls is None:
        return None
    needed = [
        parameter.name
        for parameter in inspect.signature(cls).parameters.values()
        if parameter.default is parameter.empty
    ]
    if needed:
        received: dict[str, Any] = {name: identifier}
        refuse(
            f"{name} must be an instance of {cls.__name__}, which needs "
            f"{' and '.join(needed)}.",
            **received,
        )
    return cls()


def _classes() -> dict[str, type]:
    """The initializers of this package that are registered with Keras."""
    registered = keras.saving.get_custom_objects()
    return {
        key.removeprefix(_PACKAGE): cls
        for key, cls in sorted(registered.items())
        if key.startswith(_PACKAGE)
        and issubclass(cls, keras.initializers.Initializer)
    }


def _names_in_keras() -> list[str]:
    return [
        name
        for name, value in sorted(vars(keras.initializers).items())
        if name.islower() and isinstance(value, type)
    ]


def _plain(name: str) -> str:
    return name.replace("_", "").lower()
