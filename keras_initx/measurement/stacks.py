"""Reduces the signals of small layers together.

A reduction computes the moments of a signal over its samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from keras import ops

from keras_initx.backend.passes import Tensor

# Signals of one shape are reduced when they have this number of units together.
_UNITS = 2048
# The same for at most `FEW_SAMPLES` samples, which are 4 MiB in float32.
_UNITS_OF_FEW = 32768


class Stacks:
    """Collects signals of one shape, and reduces several at once.

    A reduction is a call of a compiled function, which takes longer to trace
    and to start than small signals take to reduce. They wait for one another
    until they have a few thousand units in all; a signal of more than a quarter
    of these is reduced as it comes, so that no large one is kept.

    Args:
        reduce: Called as `reduce(signals, *how, fuse=..., few=...)` with
            signals that are reduced alike. Returns a named tuple of tensors
            with a row for each signal.
        few: bool. Whether there are at most `FEW_SAMPLES` samples. Small
            signals of so few samples are not fused, since to compile a
            reduction by XLA takes longer than to trace a whole layer.
    """

    def __init__(self, reduce: Callable[..., Any], few: bool):
        self._reduce = reduce
        self._few = few
        self._units = _UNITS_OF_FEW if few else _UNITS
        self._waiting: dict[tuple, list[tuple[int, Tensor]]] = {}
        self._done: list[tuple[list[int], Any]] = []
        self._count = 0

    def __len__(self) -> int:
        """The number of signals that were added."""
        return self._count

    def add(
        self, signal: Tensor, *how: Any, alone: bool = False
    ) -> Sequence[Tensor]:
        """Adds a signal of shape `(samples, units)`.

        Args:
            signal: tensor. The signal.
            *how: Further arguments of `reduce`.
            alone: bool. Whether to reduce it by itself, since its first axis
                may have another size than that of other signals of its shape,
                where a graph knows neither. Defaults to False.

        Returns:
            The tensors to wait for before the signal goes on; none if it is
            small.
        """
        units = signal.shape[1]
        large = units is None or not 0 < 4 * units <= self._units
        if large or alone:
            return self.add_reduced(self._reduced([signal], how, large))
        key = (*signal.shape, signal.dtype, how)
        waiting = self._waiting.setdefault(key, [])
        waiting.append((self._count, signal))
        self._count += 1
        if len(waiting) * units >= self._units:
            self._reduce_waiting(key)
        return ()

    def add_reduced(self, reduced: Any) -> Sequence[Tensor]:
        """Adds a signal that has been reduced, a named tuple of one row."""
        self._done.append(([self._count], reduced))
        self._count += 1
        return reduced

    def finish(self) -> Stacked:
        """Returns everything, joined by the number of units."""
        for key in list(self._waiting):
            self._reduce_waiting(key)
        alike: dict[Any, list[tuple[list[int], Any]]] = {}
        for i, (indices, reduced) in enumerate(self._done):
            dtype, shape = reduced[1].dtype, reduced[1].shape
            # Unknown numbers of units may differ.
            key = (shape[1], dtype, i if shape[1] is None else 0)
            alike.setdefault(key, []).append((indices, reduced))
        order: list[int] = []
        stacks = []
        for parts in alike.values():
            order += [index for indices, _ in parts for index in indices]
            fields = zip(*(reduced for _, reduced in parts), strict=True)
            stacks.append(
                type(parts[0][1])(
                    *(
                        x[0] if len(x) == 1 else ops.concatenate(x, axis=0)
                        for x in fields
                    )
                )
            )
        return Stacked(tuple(order), tuple(stacks))

    def _reduce_waiting(self, key: tuple) -> None:
        indices, signals = zip(*self._waiting.pop(key), strict=True)
        reduced = self._reduced(signals, key[-1])
        self._done.append((list(indices), reduced))

    def _reduced(
        self, signals: Sequence[Tensor], how: tuple, large: bool = False
    ) -> Any:
        fuse = large or not self._few
        return self._reduce(signals, *how, fuse=fuse, few=self._few)


class Stacked(NamedTuple):
    """What signals were reduced to.

    Args:
        order: tuple of int. The index of each signal, in the order in which
            the stacks have them.
        stacks: tuple of named tuples of tensors, with a row for each signal.
    """

    order: tuple[int, ...]
    stacks: tuple[Any, ...]
