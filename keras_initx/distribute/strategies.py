"""Creates a `tf.distribute` strategy from a name and the environment."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Literal, get_args

import tensorflow as tf

from keras_initx.distribute.cluster import count_listed_workers
from keras_initx.validation import (
    check_backend,
    check_choice,
    check_real,
    refuse,
)

Kind = Literal["auto", "tpu", "mirrored", "multiworker", "default"]


def get_strategy(
    kind: Kind = "auto",
    *,
    tpu: str | None = None,
    devices: Sequence[str] | None = None,
    timeout: float | None = None,
) -> tf.distribute.Strategy:
    """Returns a `tf.distribute` strategy that is ready to use.

    Call it before TensorFlow does anything else: "multiworker" and "tpu" need a
    TensorFlow that has not created tensors yet. Then build and compile the
    model within the strategy's `scope()`.

    Args:
        kind: str. "default" is one device. "mirrored" is several devices of
            this machine. "multiworker" is several machines, as listed in the
            environment variable TF_CONFIG. "tpu" is a TPU. "auto" selects
            "tpu" if `tpu` or the environment variable TPU_NAME is given, else
            "multiworker" if TF_CONFIG lists more than one worker, else
            "mirrored" if there is more than one GPU, else "default". Defaults
            to "auto".
        tpu: str or None. The name or address of the TPU, or "local" on a TPU
            virtual machine. Defaults to the value of TPU_NAME.
        devices: List of str or None. The devices for "mirrored", such as
            `["GPU:0", "GPU:1"]`. Defaults to all GPUs, or to all logical CPUs
            if there is no GPU.
        timeout: float or None. For "multiworker" and "auto", the number of
            seconds after which a worker that waits for another one raises an
            error. It applies once all workers have started: this call itself
            waits without a limit for a worker that never starts. Defaults to
            None, which waits until TensorFlow finds that the other worker has
            ended.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: If `kind` is unknown, an argument belongs to another kind,
            `devices` is not a list, or "multiworker" has no TF_CONFIG.
        RuntimeError: If the TPU is not found, or Keras does not run on
            TensorFlow.

    Example:

    >>> get_strategy("default").num_replicas_in_sync
    1

    Reference: TensorFlow's guide "Distributed training with TensorFlow".
    """
    check_backend("distribute")
    if kind in ("gpu", "GPU"):
        # Else the message would ask: Did you mean 'tpu'?
        refuse(
            'kind must be "mirrored" for several GPUs of this machine, or '
            '"default" for one.',
            kind=kind,
        )
    kind = check_choice("kind", kind, get_args(Kind))
    requested, address = kind, tpu or os.environ.get("TPU_NAME")
    if kind == "auto":
        kind = _detect_kind(address)
    for name, value, owner in (
        ("tpu", tpu, "tpu"),
        ("devices", devices, "mirrored"),
        ("timeout", timeout, "multiworker"),
    ):
        # A script for one machine and for several passes "auto" and a timeout.
        fits = kind == owner or (name == "timeout" and requested == "auto")
        if value is not None and not fits:
            raise ValueError(
                f'{name} is for kind="{owner}". '
                f"Received: {name}={value!r}, kind={kind!r}"
            )
    if devices is not None and (isinstance(devices, str) or not devices):
        refuse(
            'devices must be a list of names, such as ["GPU:0", "GPU:1"].',
            devices=devices,
        )
    timeout = check_real("timeout", timeout, "(0, inf)", optional=True)
    match kind:
        case "tpu":
            return _tpu_strategy(address)
        case "multiworker":
            return _multiworker_strategy(timeout)
        case "mirrored":
            return tf.distribute.MirroredStrategy(devices or _local_devices())
    return tf.distribute.get_strategy()


def _detect_kind(tpu: str | None) -> Kind:
    if tpu:
        return "tpu"
    if _count_environment_workers() > 1:
        return "multiworker"
    gpus = tf.config.list_physical_devices("GPU")
    return "mirrored" if len(gpus) > 1 else "default"


def _local_devices() -> list[str]:
    devices = tf.config.list_logical_devices("GPU")
    devices = devices or tf.config.list_logical_devices("CPU")
    return [device.name for device in devices]


def _count_environment_workers() -> int:
    """Returns the number of workers in TF_CONFIG, 0 without TF_CONFIG."""
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        return count_listed_workers(json.loads(text).get("cluster", {}))
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            "TF_CONFIG must be JSON that lists the workers and says which one "
            f"this process is. Received: TF_CONFIG={text!r}"
        ) from error


def _multiworker_strategy(timeout: float | None) -> tf.distribute.Strategy:
    if not _count_environment_workers():
        refuse(
            'kind="multiworker" needs the environment variable TF_CONFIG, '
            "which lists the workers and says which one this process is.",
            TF_CONFIG=os.environ.get("TF_CONFIG"),
        )
    return tf.distribute.MultiWorkerMirroredStrategy(
        communication_options=tf.distribute.experimental.CommunicationOptions(
            timeout_seconds=timeout
        )
    )


def _tpu_strategy(name: str | None) -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except Exception as error:
        raise RuntimeError(
            'A TPU must answer under that name; "local" is the name on a TPU '
            f"virtual machine. Received: tpu={name!r}, and: {error}"
        ) from error
    return tf.distribute.TPUStrategy(resolver)
