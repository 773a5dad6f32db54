"""Distributions that TensorFlow Probability lacks.

Imported when first asked for, because TensorFlow Probability takes a second.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_initx.distributions.alpha_stable.distribution import AlphaStable

_HOMES = {"AlphaStable": "alpha_stable.distribution"}

__all__ = ["AlphaStable"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
        return getattr(home, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
