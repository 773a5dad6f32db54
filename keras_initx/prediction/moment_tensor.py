"""The tensor that a model computes with while it is predicted."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from keras_initx.prediction.engine import Signal


class MomentTensor(keras.KerasTensor):
    """A symbolic tensor of Keras that carries a signal.

    Its shape is `(samples, *positions, *channels)`. Layers and operations see
    the shape and the dtype. The engine sees the signal, in which samples and
    positions are one axis of points.

    Args:
        signal: Signal. What the engine knows of the tensor.
        samples: int or None. The number of samples; None for what has no axis
            of samples, such as the embedding of positions.
        positions: tuple of ints. The sizes of the axes of positions.
        channels: tuple of ints. The sizes of the axes of channels.
        dtype: str. The dtype that layers see. Defaults to "float32".
        values: Array or None. The values themselves, if they are given data.
            Defaults to None.
        reason: str or None. Why the tensor could not be predicted; a step that
            uses it is then refused. Defaults to None, for a tensor that is
            predicted.
        mask: Array of bool or None. Which positions of each sample count, as
            `Embedding(mask_zero=True)` gives it; None for all. Defaults to
            None.
        scores: tuple or None. For scores of attention the queries, the keys and
            the mask, of which nothing else is known. Defaults to None.
    """

    def __init__(
        self,
        signal: Signal,
        samples: int | None,
        positions: tuple[int, ...],
        channels: tuple[int, ...],
        dtype: str = "float32",
        values: np.ndarray | None = None,
        reason: str | None = None,
        mask: np.ndarray | None = None,
        scores: tuple | None = None,
    ):
        grid = (*(() if samples is None else (samples,)), *positions)
        super().__init__((*grid, *channels), dtype=dtype)
        self.grid = grid
        signal.place(tuple(positions))
        self.signal = signal
        self.samples = samples
        self.positions = tuple(positions)
        self.channels = tuple(channels)
        self.values = values
        self.reason = reason
        self.mask = mask
        self.scores = scores

    @property
    def places(self) -> int:
        """The number of positions."""
        return math.prod(self.positions)

    @property
    def width(self) -> int:
        """The number of channels."""
        return math.prod(self.channels)

    def like(self, signal: Signal, **changes: Any) -> MomentTensor:
        """Returns a tensor of the same shape with another signal."""
        shape: dict[str, Any] = {
            "samples": self.samples,
            "positions": self.positions,
            "channels": self.channels,
            "dtype": self.dtype,
        }
        return MomentTensor(signal, **shape | changes)
