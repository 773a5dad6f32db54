"""Distributions that TensorFlow Probability lacks.

Imported when first asked for, because TensorFlow Probability takes a second.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_initx.distributions.alpha_stable import AlphaStable

__all__ = ["AlphaStable"]


def __getattr__(name: str) -> Any:
    if name == "AlphaStable":
        from keras_initx.distributions.alpha_stable import AlphaStable

        return AlphaStable
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
