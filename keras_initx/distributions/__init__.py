"""Distributions that TensorFlow Probability lacks.

A distribution is imported when its name is first used, because importing
TensorFlow Probability takes a second.
"""

import importlib
from typing import TYPE_CHECKING, Any

from keras_initx.distributions.probability import load_probability

if TYPE_CHECKING:
    from keras_initx.distributions.alpha_stable.distribution import AlphaStable

# The module, relative to this package, that defines each public name.
_MODULES = {"AlphaStable": "alpha_stable.distribution"}

__all__ = ["AlphaStable"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        load_probability()
        module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
