"""Lines of code that may remove a fault, for `trial` to try."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from keras_initx import theory


def gain_of(activation: Any) -> float | None:
    """Returns the gain of weights that keeps a signal of variance 1.

    None for an activation that theory does not take.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return theory.critical_scale(activation) ** 0.5
    except ValueError:
        return None


def initialize(weights: str, layers: Sequence[str] = ()) -> str:
    """Returns a line that draws weights anew.

    Args:
        weights: str. The initializer, as code.
        layers: Sequence of str. The layers. Defaults to all.
    """
    which = f"layers={list(layers)!r}, " if layers else ""
    return f"kx.initialize(model, {weights}, {which}seed=0)"


def normal(gain: float) -> str:
    """Returns the code of normal weights of standard deviation gain/sqrt(n)."""
    for value, name in ((1.0, '"lecun_normal"'), (2**0.5, '"he_normal"')):
        if abs(gain - value) < 1e-6:
            return name
    return f'kx.initializers.Scaled("lecun_normal", {gain:.4g})'


def critical(activations: Sequence[Any]) -> list[str]:
    """Returns the initializers that keep a signal behind these activations.

    Args:
        activations: Sequence of callables, the most frequent one first. None
            of them means a linear network.
    """
    gains = [gain_of(function) for function in activations] or [1.0]
    return list(dict.fromkeys(normal(g) for g in gains if g is not None))


def draws(activations: Sequence[Any], layers: Sequence[str] = ()) -> list[str]:
    """Returns lines that draw weights of these gains."""
    return [initialize(code, layers) for code in critical(activations)]


PAIRED = "kx.initialize(model, kx.paired(model), seed=0)"
SCALE_BRANCHES = "kx.scale_branches(model)"


def then(first: str, second: str) -> str:
    """Returns two calls as one line."""
    return f"{first}; {second}"
