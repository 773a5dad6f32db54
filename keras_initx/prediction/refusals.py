"""Errors of models that cannot be predicted."""

from __future__ import annotations

from typing import Any


class Unpredictable(ValueError):
    """There is no formula for a part of a model.

    The message is the reason; it completes "layer 'name' cannot be predicted:
    ...".

    Attributes:
        layer_call: LayerCall or None. The layer, where it is known.
    """

    layer_call: Any = None


class TooManyPointsError(Exception):
    """A tensor has more points than the matrices of second moments may have.

    `predict` then tries again with fewer samples.

    Args:
        points: int. The number of points, positions times samples.
        limit: int. The largest number of points.
    """

    def __init__(self, points: int, limit: int):
        super().__init__(points, limit)
        self.points = points
        self.limit = limit
