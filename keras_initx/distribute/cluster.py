"""Properties of the strategy and the workers that a model trains under."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from keras_initx.validation import check_backend


def strategy_of(model: keras.layers.Layer) -> tf.distribute.Strategy:
    """Returns the strategy in whose scope a model was created."""
    if isinstance(model, keras.Model):
        return model.distribute_strategy
    return tf.distribute.get_strategy()


def count_workers(strategy: tf.distribute.Strategy) -> int:
    """Returns the number of processes that train together, at least 1."""
    return max(1, count_listed_workers(_cluster_of(strategy)))


def count_listed_workers(cluster: Mapping[str, Sequence[str]]) -> int:
    """Returns the number of workers in a cluster, including the chief.

    Args:
        cluster: dict. The addresses of the processes by the name of their job,
            as in TF_CONFIG.
    """
    return sum(len(cluster.get(job, [])) for job in ("chief", "worker"))


def is_chief(strategy: tf.distribute.Strategy | None = None) -> bool:
    """Whether this process is the one that prints and writes files.

    If several workers train together, the chief is the worker that TF_CONFIG
    lists as "chief", or else worker 0. A single process is its own chief.

    Args:
        strategy: `tf.distribute.Strategy` or None. Defaults to the strategy in
            whose scope this function is called.

    Returns:
        bool.

    Raises:
        RuntimeError: If Keras does not run on TensorFlow.

    Example:

    >>> is_chief()
    True

    Reference: TensorFlow's tutorial "Multi-worker training with Keras".
    """
    check_backend("distribute")
    strategy = strategy or tf.distribute.get_strategy()
    if count_workers(strategy) == 1:
        return True
    resolver = strategy.cluster_resolver
    if "chief" in _cluster_of(strategy):
        return resolver.task_type == "chief"
    return resolver.task_type == "worker" and resolver.task_id == 0


def _cluster_of(strategy: tf.distribute.Strategy) -> dict[str, list[str]]:
    # A TPU has one process for all of its hosts.
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return {}
    return strategy.cluster_resolver.cluster_spec().as_dict()
