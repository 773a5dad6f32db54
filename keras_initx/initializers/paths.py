"""Paths over depth, drawn once for all layers of a network that is built."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from keras_initx import theory
from keras_initx.theory.residual.depth_processes import DepthSpectrum


@dataclass(frozen=True)
class Paths:
    """One path for each entry of a kernel: what they follow from.

    Attributes:
        kind: "smooth" or "fractional".
        depth: Number of layers.
        parameter: length_scale or hurst.
        seed: An int from 0 to 2^64 - 1.
        stream: An int >= 0.
        entries: Number of paths.
    """

    kind: str
    depth: int
    parameter: float
    seed: int
    stream: int
    entries: int

    def draw(self, layers: slice) -> np.ndarray:
        """The paths over some layers: float32, (layers, entries)."""
        law = _spectrum(self.kind, self.depth, self.parameter)
        rng = generator(self.seed, self.stream, self.entries)
        return law.sample(self.entries, rng, layers)


def generator(seed: int, *key: int) -> np.random.Generator:
    """Of a seed from 0 to 2^64 - 1, another one for each key."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


@functools.lru_cache(maxsize=8)
def _spectrum(kind: str, depth: int, parameter: float) -> DepthSpectrum:
    laws = {
        "smooth": theory.smooth_process,
        "fractional": theory.fractional_process,
    }
    return laws[kind](depth, parameter)


@dataclass
class _Block:
    values: np.ndarray
    # The layers that have not yet asked for theirs.
    waiting: set[int]


class PathCache:
    """Keeps what was drawn of paths until each layer has had its part.

    Drawing any layer of a path costs as much as drawing them all. So as many
    layers are drawn at once as fit into a quarter of the memory allowed, which
    leaves room for four kernels a layer. They are forgotten when each has been
    asked for, or, the longest unused first, when memory runs out.

    Args:
        limit: Bytes that are kept at most; a single layer may be larger.
    """

    def __init__(self, limit: int = 2**30):
        self._limit = limit
        self._blocks: OrderedDict[tuple[Paths, int], _Block] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes that are kept now."""
        return sum(block.values.nbytes for block in self._blocks.values())

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._blocks.clear()

    def layer(self, paths: Paths, index: int) -> np.ndarray:
        """The paths at one layer: float32 of shape (entries,), a copy."""
        rows = max(1, self._limit // 4 // max(1, 4 * paths.entries))
        start = index // rows * rows
        key = paths, start
        with self._lock:
            block = self._blocks.pop(key, None)
            if block is None:
                layers = range(start, min(start + rows, paths.depth))
                values = paths.draw(slice(layers.start, layers.stop))
                block = _Block(values, set(layers))
            block.waiting.discard(index)
            if block.waiting:
                self._blocks[key] = block
                while self.size > self._limit:
                    self._blocks.popitem(last=False)
            return block.values[index - start].copy()
