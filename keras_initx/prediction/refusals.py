"""Errors of models of which nothing true could be said."""

from __future__ import annotations

from typing import Any


class Unpredictable(ValueError):
    """A part of a model that the theory does not reach, and why.

    Attributes:
        layer_call: LayerCall or None. The layer, where it is known.
    """

    layer_call: Any = None


class TooManyPointsError(Exception):
    """There are more positions and samples than the matrices may have.

    Args:
        points: int. How many there are.
        limit: int. How many there may be.
    """

    def __init__(self, points: int, limit: int):
        super().__init__(points, limit)
        self.points = points
        self.limit = limit
