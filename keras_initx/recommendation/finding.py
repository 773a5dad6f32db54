"""What `recommend` returns: findings, and what it could not look at."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One fault of a model, with its evidence and a line of code against it.

    The line has been carried out on a copy of the model before it is given,
    and the fault was then gone. It runs as it stands, where `model` is the
    model, `kx` is `keras_initx`, and `data` are the data that `recommend` was
    given.

    Args:
        rule: str. The name of the rule, as in `recommend`.
        where: str. The layers that it concerns, or "the whole model".
        quantity: str. What the numbers below are, with the range that is good.
        predicted: float. The number by `predict`, None if it is not known.
        measured: float. The number on the data, None if it is not known.
        why: str. Why that is a fault, with the source.
        call: str. A line of code that removes the fault, "" if none is known.
        after: float. The number after the line, None if it is not known.
        after_by: str. "predicted" or "measured", for `after`; "" without it.
        also: tuple of str. The rules whose findings the line removes too.
        note: str. What else a reader should know. Defaults to "".

    Example:

    >>> finding = Finding(
    ...     "scale", "the whole model", "last total over the first",
    ...     1e-9, None, "relu halves it (He et al., arXiv:1502.01852).",
    ...     'kx.initialize(model, "he_normal", seed=0)', 1.0, "predicted",
    ... )
    >>> print(finding)
    scale, in the whole model
      last total over the first: 1e-09 (predicted)
      why:   relu halves it (He et al., arXiv:1502.01852).
      call:  kx.initialize(model, "he_normal", seed=0)
      after: 1 (predicted)

    Reference: derived here.
    """

    rule: str
    where: str
    quantity: str
    predicted: float | None
    measured: float | None
    why: str
    call: str = ""
    after: float | None = None
    after_by: str = ""
    also: tuple[str, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        lines = [f"{self.rule}, in {self.where}"]
        numbers = [
            f"{value:.2g} ({how})"
            for value, how in (
                (self.predicted, "predicted"),
                (self.measured, "measured"),
            )
            if value is not None
        ]
        lines.append(f"{self.quantity}: {', '.join(numbers) or 'not known'}")
        lines.append(f"why:   {self.why}")
        lines.append(f"call:  {self.call or 'no line of code is known'}")
        if self.after is not None:
            lines.append(f"after: {self.after:.2g} ({self.after_by})")
        if self.also:
            lines.append(f"also removes: {', '.join(self.also)}")
        if self.note:
            lines.append(f"note:  {self.note}")
        return "\n  ".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Returns the finding as a dict for JSON; infinity and NaN are text."""
        return {
            name: _plain(value)
            for name, value in dataclasses.asdict(self).items()
        }


class Findings(list[Finding]):
    """The list of findings that `recommend` returns.

    It is empty, and false, where no rule found anything. Its `str` says so in
    words.

    Args:
        findings: Iterable of `Finding`. Defaults to none.
        not_seen: Iterable of str. Sentences about what no rule could look at,
            which may be a fault all the same. Defaults to none.

    Example:

    >>> found = Findings([], ["Dead units were not looked for: give data."])
    >>> bool(found)
    False
    >>> print(found)
    Nothing was found.
    Dead units were not looked for: give data.

    Reference: derived here.
    """

    def __init__(
        self, findings: Iterable[Finding] = (), not_seen: Iterable[str] = ()
    ):
        super().__init__(findings)
        self.not_seen = tuple(not_seen)

    def __str__(self) -> str:
        parts = [f"{i}. {finding}" for i, finding in enumerate(self, 1)]
        parts = parts or ["Nothing was found."]
        return "\n".join([*parts, *self.not_seen])

    def __repr__(self) -> str:
        rules = ", ".join(finding.rule for finding in self)
        return f"<{len(self)} findings: {rules or 'none'}>"

    def to_dict(self) -> dict[str, Any]:
        """Returns the findings as lists and dicts for JSON."""
        return {
            "findings": [finding.to_dict() for finding in self],
            "not_seen": list(self.not_seen),
        }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value
