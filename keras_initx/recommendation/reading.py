"""What a rule reads off a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

WHOLE = "the whole model"


@dataclass(frozen=True)
class Reading:
    """The number that a rule looks at, and what it thinks of it.

    Args:
        found: bool. Whether the number is a fault.
        quantity: str. As in `Finding`.
        predicted: float or None. As in `Finding`. Defaults to None.
        measured: float or None. As in `Finding`. Defaults to None.
        where: str. As in `Finding`. Defaults to "the whole model".
        why: str. As in `Finding`. Defaults to "".
        lines: Sequence of str. Lines of code that may remove the fault, the
            one to try first in front. Defaults to none.
        note: str. As in `Finding`. Defaults to "".
    """

    found: bool
    quantity: str
    predicted: float | None = None
    measured: float | None = None
    where: str = WHOLE
    why: str = ""
    lines: Sequence[str] = ()
    note: str = ""


# A rule of a `Case`: None where there is nothing that it could look at.
Rule = Callable[[Any], Reading | None]


def listed(names: Sequence[str]) -> str:
    """Returns names in quotes; of many, the first ones and their number."""
    shown = ", ".join(map(repr, names[:3]))
    return f"{len(names)} layers: {shown}, ..." if len(names) > 3 else shown


def outside(
    predicted: float | None, measured: float | None, low: float, high: float
) -> bool:
    """Whether a number is out of range; what is measured decides."""
    value = predicted if measured is None else measured
    return value is not None and not low <= value <= high
