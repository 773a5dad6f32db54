"""Who measures what, where a model runs on several devices or machines."""

from __future__ import annotations

import tensorflow as tf


def workers(strategy: tf.distribute.Strategy) -> int:
    """How many processes train together under `strategy`."""
    cluster = _cluster(strategy)
    return max(
        1, len(cluster.get("chief", [])) + len(cluster.get("worker", []))
    )


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one of all workers that prints and writes."""
    if workers(strategy) == 1:
        return True
    resolver = strategy.cluster_resolver
    if "chief" in _cluster(strategy):
        return resolver.task_type == "chief"
    return resolver.task_type == "worker" and resolver.task_id == 0


def _cluster(strategy: tf.distribute.Strategy) -> dict[str, list[str]]:
    # One process commands all hosts of a TPU.
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return {}
    return strategy.cluster_resolver.cluster_spec().as_dict()
