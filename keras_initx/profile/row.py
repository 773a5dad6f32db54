"""A row of the record, and how it is found."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
    """What a `VarianceProfile` says of one layer.

    Args:
        layer: The layer's name.
        units: Output elements that were averaged over.
        sample_variance: v^2.
        squared_mean: m^2.
        decay: v^2 / (m^2 + v^2).
        relative: `decay` over the first layer's.
    """

    layer: str
    units: float
    sample_variance: float
    squared_mean: float
    decay: float
    relative: float


def index_of(layer: str | int, names: Sequence[str]) -> int:
    """The index of a layer that is given by its name or its index.

    Raises:
        KeyError: No layer has that name, or several have.
        IndexError: There are not so many layers.
        TypeError: `layer` is neither name nor index.
    """
    if isinstance(layer, str):
        count = names.count(layer)
        if count > 1:
            raise KeyError(
                f"A name must be that of one layer; {count} are called so: "
                f"take the index. Received: {layer!r}"
            )
        if count == 0:
            close = difflib.get_close_matches(layer, names, n=3)
            raise KeyError(
                f"A layer must be out of {close or list(names)}. "
                f"Received: {layer!r}"
            )
        return names.index(layer)
    if isinstance(layer, (int, np.integer)) and not isinstance(layer, bool):
        if not -len(names) <= layer < len(names):
            raise IndexError(
                f"The profile has {len(names)} layers. Received: index {layer}"
            )
        return int(layer)
    raise TypeError(f"A layer is a name or index. Received: {layer!r}")
