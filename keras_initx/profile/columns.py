"""What a column of the record may hold."""

from __future__ import annotations

from typing import Any

import numpy as np


def column_of(name: str, given: Any, layers: int) -> np.ndarray:
    """`given` as a column of that name: an array of one number a layer.

    Float64, or int64 where `units` are finite.

    Raises:
        ValueError: `given` is of another shape, or no network has such values.
    """
    try:
        values = np.array(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must hold one number for each layer. "
            f"Received: {name}={given!r}"
        ) from error
    if values.shape != (layers,):
        raise ValueError(
            f"{name} must hold one number for each of the {layers} layers. "
            f"Received: {name} of shape {values.shape}"
        )
    if name == "units":
        whole = (values >= 0) & (values == np.floor(values))
        require(name, values, whole, "a whole number >= 0")
        return values.astype(np.int64) if np.isfinite(values).all() else values
    require(name, values, np.isfinite(values), "finite")
    if name == "sample_variance":
        require(name, values, values >= 0, "not negative")
    return values


def require(
    name: str, values: np.ndarray, holds: np.ndarray, wanted: str
) -> None:
    """Refuse values of which one is not as wanted, and say which."""
    if not holds.all():
        first = int(np.argmin(holds))
        raise ValueError(
            f"{name} must be {wanted} in every layer. "
            f"Received: {name}[{first}]={values[first]}"
        )
