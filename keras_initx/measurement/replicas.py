"""Forward passes of a model that runs on several devices or machines.

Each replica runs its part of a batch and keeps, for each unit of each layer,
what `moments.layer_moments` returns. The parts are merged on the host, by the
same exact formula as the batches are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from keras_initx.distribute.cluster import count_workers, strategy_of
from keras_initx.measurement.data import map_arrays, samples_of
from keras_initx.measurement.moments import Moments, merged, of_all_layers
from keras_initx.measurement.placed import Placed


@dataclass(frozen=True)
class Replicas(Placed):
    """A batch with one tensor for each replica.

    A batch of fewer samples than replicas is not split: each has all of it, and
    `are_pieces` is False.

    Args:
        strategy: tf.distribute.Strategy. What runs the replicas.
    """

    strategy: tf.distribute.Strategy = None

    def moments(self, forward: Callable) -> Callable:
        """Returns a function that runs `forward` on all replicas.

        Args:
            forward: As for `Placed`, on one replica.
        """

        def on_all(
            batch: Any, states: Any
        ) -> tuple[Moments, tf.Tensor, Any, tf.Tensor]:
            layers, finite, states, sums = self.strategy.run(
                forward, args=(batch, states)
            )
            unwrap = self.strategy.experimental_local_results
            by_replica = zip(*map(unwrap, tf.nest.flatten(layers)), strict=True)
            parts = [
                of_all_layers(*tf.nest.pack_sequence_as(layers, tensors))
                for tensors in by_replica
            ]
            finite = tf.reduce_all(unwrap(finite))
            if not self.are_pieces:
                return parts[0], finite, states, unwrap(sums)[0]
            sums = tf.add_n(unwrap(sums))
            moments = functools.reduce(merged, parts)
            if count_workers(self.strategy) > 1:
                moments, finite = _of_all_workers(
                    moments, finite, self.strategy
                )
                if sums.shape[0]:
                    sent = self.strategy.gather(sums[None], axis=0)
                    sums = tf.reduce_sum(sent, axis=0)
            return moments, finite, states, sums

        return on_all


def split(batch: Any, spec: Any, model: keras.Model) -> Placed:
    """Splits a batch by samples into one part for each replica of a model.

    The parts have equal size, or the first ones have one sample more. All
    workers must hold the same batch. `spec` is the type of a batch on one
    device.
    """
    strategy = strategy_of(model)
    if strategy.num_replicas_in_sync == 1:
        return Placed(batch, spec, samples_of(batch))
    replicas = strategy.num_replicas_in_sync
    samples = samples_of(batch)
    are_pieces = samples >= replicas
    size, larger = divmod(samples, replicas)

    def place(tensor: tf.Tensor) -> Any:
        def part(context: Any) -> tf.Tensor:
            i = int(context.replica_id_in_sync_group)
            start = i * size + min(i, larger)
            end = start + size + (i < larger)
            return tensor[start:end] if are_pieces else tensor

        return strategy.experimental_distribute_values_from_function(part)

    placed = map_arrays(place, batch)
    spec = map_arrays(tf.type_spec_from_value, placed)
    largest = size + (larger > 0) if are_pieces else samples
    return Replicas(placed, spec, largest, are_pieces, strategy)


def packed(moments: Moments, finite: tf.Tensor) -> tf.Tensor:
    """Packs what a worker sends to the others.

    It is about one number a unit, and one more where an activation follows.

    Returns:
        A vector of the widest dtype of units. In float32 it rounds a variance
        as the sum for it was rounded, and counts up to 2^24 samples are exact.
    """
    # All in one vector, since each message between workers takes its time.
    units = [*moments.means, *moments.constants]
    wide = max((x.dtype for x in units), key=lambda dtype: dtype.size)
    parts = [*tf.nest.flatten(moments), finite[None]]
    return tf.concat(
        [tf.reshape(tf.cast(part, wide), [-1]) for part in parts], axis=0
    )


def unpacked(vector: tf.Tensor, like: Moments) -> tuple[Moments, tf.Tensor]:
    """Unpacks what `packed` returned, in the shapes and dtypes of `like`."""
    parts = tf.nest.flatten(like)
    *pieces, finite = tf.split(vector, [*map(tf.size, parts), 1])
    moments = [
        tf.ensure_shape(
            tf.reshape(tf.cast(piece, part.dtype), tf.shape(part)), part.shape
        )
        for piece, part in zip(pieces, parts, strict=True)
    ]
    return tf.nest.pack_sequence_as(like, moments), finite[0] > 0


def _of_all_workers(
    moments: Moments, finite: tf.Tensor, strategy: tf.distribute.Strategy
) -> tuple[Moments, tf.Tensor]:
    """The moments of the samples of all workers, the same in each worker."""
    sent = strategy.gather(packed(moments, finite)[None], axis=0)
    vectors = tf.unstack(sent, count_workers(strategy))
    by_worker, all_finite = zip(
        *(unpacked(vector, moments) for vector in vectors), strict=True
    )
    return functools.reduce(merged, by_worker), tf.reduce_all(all_finite)
