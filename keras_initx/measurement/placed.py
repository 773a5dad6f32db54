"""A batch on the devices where it is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_initx.measurement.moments import of_all_layers


@dataclass(frozen=True)
class Placed:
    """A batch on one device, or on those that `keras.distribution` sets.

    Args:
        batch: A structure of tensors.
        spec: The same structure of type specifications.
        samples: int. The largest number of samples on a device.
        are_pieces: bool. Whether each replica has samples of its own. Defaults
            to False.
    """

    batch: Any
    spec: Any
    samples: int
    are_pieces: bool = False

    def moments(self, forward: Callable) -> Callable:
        """Returns a function that runs `forward` on all samples.

        Args:
            forward: Called as `forward(batch, states)`. Returns the arguments
                of `of_all_layers`, whether the batch is finite, the new states,
                and sums over samples.

        Returns:
            `(batch, states) -> (moments, finite, states, sums)`, with the
            moments of all samples.
        """

        def run(batch: Any, states: Any) -> tuple:
            layers, finite, states, sums = forward(batch, states)
            return of_all_layers(*layers), finite, states, sums

        return run
