"""The factors of one weight in muP."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MupWeight:
    """What `mup` did to one weight, and at which learning rate it is trained.

    Args:
        name: str. The full name of its layer, as `measure` names layers, and
            its own name.
        role: str. Its role, as in `inspection.Geometry`.
        input_ratio: float. Its fan-in over that of the base model, 1 for a
            bias or another vector.
        output_ratio: float. The number of its outputs over that of the base
            model; for a vector, its size over that of the base model.
        start: float. The factor by which it was multiplied.
        adam: float. The factor of its learning rate with Adam and its like.
        sgd: float. The factor of its learning rate with SGD.
        relative: float. The factor of its learning rate with Lamb and
            Adafactor, whose steps are as large as the weight.
        orthogonal: float. The factor of its learning rate with Muon, if steps
            have the spectral norm 1.
        longer_side: float. The largest side of its shape over that of the base
            model, whose root Muon multiplies a step by.
        skipped: str. Why it was skipped, "" if it was not.

    Example:

    >>> MupWeight("dense/kernel", "kernel", 4, 4, 1, 0.25, 1).adam
    0.25

    Reference: derived here.
    """

    name: str
    role: str
    input_ratio: float = 1.0
    output_ratio: float = 1.0
    start: float = 1.0
    adam: float = 1.0
    sgd: float = 1.0
    relative: float = 1.0
    orthogonal: float = 1.0
    longer_side: float = 1.0
    skipped: str = ""

    @property
    def gradient(self) -> float:
        """The size of its gradient over that in the base model."""
        return self.adam / self.sgd
