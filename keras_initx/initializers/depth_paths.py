"""The paths of a depth process, drawn once for all layers of a network."""

from __future__ import annotations

import functools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_initx import theory
from keras_initx.theory.residual.depth_processes import DepthSpectrum

_PROCESSES: dict[str, Callable[..., DepthSpectrum]] = {
    "smooth": theory.smooth_process,
    "fractional": theory.fractional_process,
}


@dataclass
class _Block:
    """The values of some paths at consecutive layers.

    Attributes:
        values: float32 array of shape (layers, entries).
        layers: range. The indices of the layers.
        waiting: set of int. The layers that have not asked for their values.
    """

    values: np.ndarray
    layers: range
    waiting: set[int]


class DepthPaths:
    """The weights of all layers under one depth process, before scaling.

    A kernel has one path over the layers for each of its entries. Computing
    the values at one layer costs as much as computing the whole paths. So as
    many layers as fit into a quarter of the memory limit are computed at once,
    which leaves room for four kernels in each layer, and their values are kept
    until each of these layers has asked for its own.

    The values belong to this object and are freed with it. Use `shared_paths`,
    which gives one object to all initializers of one process.

    Args:
        kind: str. "white", "smooth" or "fractional".
        depth: int. The number of layers.
        parameter: float or None. The length scale of a smooth process, or the
            Hurst index of a fractional one.
        seed: int. The seed, from 0 to 2^64 - 1.
        limit: int. The number of bytes that are kept at most. Defaults to
            1 GiB.
    """

    def __init__(
        self,
        kind: str,
        depth: int,
        parameter: float | None,
        seed: int,
        limit: int = 2**30,
    ):
        self.kind = kind
        self.depth = depth
        self.parameter = parameter
        self.seed = seed
        self._limit = limit
        # By stream, entries and first layer; least recently used blocks first.
        self._blocks: OrderedDict[tuple[int, int, int], _Block] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Returns how to copy or unpickle: by sharing the paths."""
        key = self.kind, self.depth, self.parameter, self.seed
        return shared_paths, key

    @property
    def size(self) -> int:
        """The number of bytes that are kept now."""
        return sum(block.values.nbytes for block in self._blocks.values())

    def clear(self) -> None:
        """Frees all values that are kept."""
        with self._lock:
            self._blocks.clear()

    def at_layer(self, index: int, stream: int, entries: int) -> np.ndarray:
        """Returns the values of the paths at one layer.

        Args:
            index: int. The index of the layer.
            stream: int. The paths of different streams are independent.
            entries: int. The number of entries of the kernel.

        Returns:
            A new float32 array of shape (entries,), of unit variance.
        """
        if self.kind == "white":
            rng = _generator(self.seed, stream, entries, index)
            return rng.standard_normal(entries, dtype=np.float32)
        rows = max(1, self._limit // 4 // max(1, 4 * entries))
        start = index // rows * rows
        key = stream, entries, start
        with self._lock:
            block = self._blocks.pop(key, None)
            if block is None or index not in block.layers:
                layers = range(start, min(start + rows, self.depth))
                values = self._draw(layers, stream, entries)
                block = _Block(values, layers, set(layers))
            row = index - block.layers.start
            found = block.values[row].copy()
            block.waiting.discard(index)
            if not block.waiting and len(block.layers) > 1:
                # One layer may ask several times, as for its query, key and
                # value kernels. After the last layer only its own row is kept.
                kept = block.values[row : row + 1].copy()
                block = _Block(kept, range(index, index + 1), set())
            if rows > 1:
                self._blocks[key] = block
            while self.size > self._limit:
                self._blocks.popitem(last=False)
        return found

    def _draw(self, layers: range, stream: int, entries: int) -> np.ndarray:
        """Returns the paths over some layers: float32, (layers, entries)."""
        rng = _generator(self.seed, stream, entries)
        some = slice(layers.start, layers.stop)
        return self._spectrum.sample(entries, rng, some)

    @functools.cached_property
    def _spectrum(self) -> DepthSpectrum:
        return _PROCESSES[self.kind](self.depth, self.parameter)


# The paths that some process or initializer uses now. The values are weak
# references: this dictionary keeps no paths alive.
_SHARED: weakref.WeakValueDictionary[tuple[Any, ...], DepthPaths] = (
    weakref.WeakValueDictionary()
)
_SHARED_LOCK = threading.Lock()


def shared_paths(
    kind: str, depth: int, parameter: float | None, seed: int
) -> DepthPaths:
    """Returns the paths in use that have this config, or new ones.

    An initializer that was cloned, copied or loaded so shares the paths of the
    others, and the paths are freed with the last initializer and process that
    holds them.

    Args:
        kind: str. "white", "smooth" or "fractional".
        depth: int. The number of layers.
        parameter: float or None. The length scale or the Hurst index.
        seed: int. The seed, from 0 to 2^64 - 1.
    """
    key = kind, depth, parameter, seed
    with _SHARED_LOCK:
        paths = _SHARED.get(key)
        if paths is None:
            paths = _SHARED[key] = DepthPaths(*key)
        return paths


def _generator(seed: int, *key: int) -> np.random.Generator:
    """Returns a generator that is independent for each key."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
