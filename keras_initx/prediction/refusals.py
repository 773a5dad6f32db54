"""Errors of models that cannot be predicted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


class Unpredictable(ValueError):
    """There is no formula for a part of a model.

    The message is the reason; it completes "layer 'name' cannot be predicted:
    ...".

    Attributes:
        layer_call: LayerCall or None. The layer, where it is known.
    """

    layer_call: Any = None


@contextlib.contextmanager
def refusals_of(layer_call: Any) -> Iterator[None]:
    """The context in which a refusal that names no layer is one of a layer.

    Args:
        layer_call: LayerCall or None. The layer, where it is known.
    """
    try:
        yield
    except Unpredictable as error:
        if error.layer_call is None:
            error.layer_call = layer_call
        raise


class WrongDataError(ValueError):
    """Data that the model does not take, of which only a layer knows.

    The message is a sentence of its own.
    """


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
