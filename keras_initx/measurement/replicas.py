"""Who measures what, where a model runs on several devices or machines.

Each replica takes its piece of a batch and keeps, for each unit of each layer,
what `moments.layer_moments` returns. The pieces are put together on the host,
by the same exact formula as the batches are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from keras_initx.distribute.cluster import count_workers
from keras_initx.measurement.moments import Moments, merged, of_all_layers


@dataclass(frozen=True)
class Placed:
    """A batch where it is run.

    Args:
        batch: A structure of tensors, or of one tensor for each replica.
        spec: The same of type specifications.
        strategy: None for one replica.
        are_pieces: Whether each replica has samples of its own. A batch of
            fewer samples than replicas is not cut: each has all of it.
    """

    batch: Any
    spec: Any
    strategy: tf.distribute.Strategy | None = None
    are_pieces: bool = False

    def moments(self, forward: Callable) -> Callable:
        """`forward` where the batch is, with the moments of all its samples.

        Args:
            forward: `(batch, states) -> (layers, finite, states)` of one
                replica; `layers` are what `layer_moments` says of each.

        Returns:
            `(batch, states) -> (moments, finite, states)`.
        """

        def on_all(batch: Any, states: Any) -> tuple[Moments, tf.Tensor, Any]:
            if self.strategy is None:
                layers, finite, states = forward(batch, states)
                return of_all_layers(layers), finite, states
            layers, finite, states = self.strategy.run(
                forward, args=(batch, states)
            )
            of = self.strategy.experimental_local_results
            each = zip(*map(of, tf.nest.flatten(layers)), strict=True)
            several = [
                of_all_layers(tf.nest.pack_sequence_as(layers, one))
                for one in each
            ]
            finite = tf.reduce_all(of(finite))
            if not self.are_pieces:
                return several[0], finite, states
            moments = functools.reduce(merged, several)
            if count_workers(self.strategy) > 1:
                moments, finite = _of_all_workers(
                    moments, finite, self.strategy
                )
            return moments, finite, states

        return on_all


def cut(batch: Any, strategy: tf.distribute.Strategy) -> Placed:
    """`batch` in pieces of its samples, one for each replica.

    Pieces are of equal size, or the first ones larger by one sample. All
    workers must hold the same batch.
    """
    replicas = strategy.num_replicas_in_sync
    samples = len(keras.tree.flatten(batch)[0])
    are_pieces = samples >= replicas
    size, larger = divmod(samples, replicas)

    def place(tensor: tf.Tensor) -> Any:
        def piece(context: Any) -> tf.Tensor:
            i = int(context.replica_id_in_sync_group)
            start = i * size + min(i, larger)
            end = start + size + (i < larger)
            return tensor[start:end] if are_pieces else tensor

        return strategy.experimental_distribute_values_from_function(piece)

    placed = keras.tree.map_structure(place, batch)
    spec = keras.tree.map_structure(tf.type_spec_from_value, placed)
    return Placed(placed, spec, strategy, are_pieces)


def packed(moments: Moments, finite: tf.Tensor) -> tf.Tensor:
    """What a worker tells the others of a batch: about one number a unit.

    Returns:
        A vector of the means' dtype. In float32 that rounds a variance as its
        sum was, and counts to 2^24 samples are exact.
    """
    # All in one, since each message between workers takes its time.
    parts = [moments.count, moments.variance, *moments.means, finite[None]]
    wide = max((x.dtype for x in moments.means), key=lambda dtype: dtype.size)
    return tf.concat([tf.cast(part, wide) for part in parts], axis=0)


def unpacked(vector: tf.Tensor, like: Moments) -> tuple[Moments, tf.Tensor]:
    """What was packed, in the shapes and dtypes of `like`."""
    parts = [like.count, like.variance, *like.means]
    *found, finite = tf.split(vector, [*map(tf.size, parts), 1])
    count, variance, *means = (
        tf.ensure_shape(tf.cast(one, part.dtype), part.shape)
        for one, part in zip(found, parts, strict=True)
    )
    return Moments(count, tuple(means), variance), finite[0] > 0


def _of_all_workers(
    moments: Moments, finite: tf.Tensor, strategy: tf.distribute.Strategy
) -> tuple[Moments, tf.Tensor]:
    """Those of the samples of all workers, the same for each worker."""
    sent = strategy.gather(packed(moments, finite)[None], axis=0)
    vectors = tf.unstack(sent, count_workers(strategy))
    several, all_finite = zip(
        *(unpacked(vector, moments) for vector in vectors), strict=True
    )
    return functools.reduce(merged, several), tf.reduce_all(all_finite)
