"""A strategy of `tf.distribute` by its name, and who speaks for all workers."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Literal

import tensorflow as tf

from keras_initx.measurement import replicas
from keras_initx.measurement.measure import require_tensorflow

Kind = Literal["auto", "tpu", "mirrored", "multiworker", "default"]
_KINDS = ("auto", "tpu", "mirrored", "multiworker", "default")


def get_strategy(
    kind: Kind = "auto",
    *,
    tpu: str | None = None,
    devices: Sequence[str] | None = None,
    timeout: float | None = None,
) -> tf.distribute.Strategy:
    """The `tf.distribute` strategy of that name, ready to use.

    Call it before any other work of TensorFlow; "multiworker" and "tpu" must
    find it unused. Then build and compile the model within its `scope()`.

    Args:
        kind: "default", one device; "mirrored", several devices of this
            machine; "multiworker", several machines, as the environment
            variable TF_CONFIG lists them; "tpu". "auto" takes "tpu" if `tpu`
            or the environment variable TPU_NAME is given, else "multiworker"
            if TF_CONFIG lists more than one worker, else "mirrored" if there
            is more than one GPU, else "default".
        tpu: Name or address of the TPU; "local" on a TPU virtual machine.
            Default: what TPU_NAME says.
        devices: For "mirrored", such as `["GPU:0", "GPU:1"]`. Default: all
            GPUs, or all logical CPUs where there is no GPU.
        timeout: For "multiworker", or "auto", seconds after which a worker that
            waits for another ends with an error, once all have started: one
            that never starts is waited for by this call itself. Default: until
            TensorFlow has found that the other has ended.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: No such kind; an argument that is of another kind; devices
            that are no list; no TF_CONFIG for "multiworker".
        RuntimeError: No such TPU, or Keras runs on another backend than
            TensorFlow.

    Example:

    >>> get_strategy("default").num_replicas_in_sync
    1

    Reference: TensorFlow's guide "Distributed training with TensorFlow".
    """
    require_tensorflow("distribute")
    if kind not in _KINDS:
        raise ValueError(
            f"kind must be one of {_KINDS}. Received: kind={kind!r}"
        )
    asked, address = kind, tpu or os.environ.get("TPU_NAME")
    if kind == "auto":
        kind = _found(address)
    for name, value, its in (
        ("tpu", tpu, ["tpu"]),
        ("devices", devices, ["mirrored"]),
        # A script for one machine and for several asks for "auto".
        ("timeout", timeout, ["multiworker", "auto"]),
    ):
        if value is not None and not {kind, asked} & {*its}:
            raise ValueError(
                f'{name} is for kind="{its[0]}". '
                f"Received: {name}={value!r} and kind={kind!r}"
            )
    if devices is not None and (isinstance(devices, str) or not devices):
        raise ValueError(
            'devices must be a list of names, such as ["GPU:0", "GPU:1"]. '
            f"Received: devices={devices!r}"
        )
    if timeout is not None and not timeout > 0:
        raise ValueError(
            f"timeout must be positive. Received: timeout={timeout!r}"
        )
    match kind:
        case "tpu":
            return _tpu(address)
        case "multiworker":
            return _multiworker(timeout)
        case "mirrored":
            kinds = (tf.config.list_logical_devices(k) for k in ("GPU", "CPU"))
            every = next(filter(None, kinds))
            return tf.distribute.MirroredStrategy(
                devices or [device.name for device in every]
            )
    return tf.distribute.get_strategy()


def is_chief(strategy: tf.distribute.Strategy | None = None) -> bool:
    """Whether this is the process that prints, and writes files.

    Of several workers it is the one that TF_CONFIG calls "chief", or else the
    first; without several, the process at hand.

    Args:
        strategy: Default: the one in whose scope this is called.

    Returns:
        A bool.

    Raises:
        RuntimeError: Keras runs on another backend than TensorFlow.

    Example:

    >>> is_chief()
    True

    Reference: TensorFlow's tutorial "Multi-worker training with Keras".
    """
    require_tensorflow("distribute")
    return replicas.is_chief(strategy or tf.distribute.get_strategy())


def _found(tpu: str | None) -> Kind:
    if tpu:
        return "tpu"
    if _workers_listed() > 1:
        return "multiworker"
    several = len(tf.config.list_physical_devices("GPU")) > 1
    return "mirrored" if several else "default"


def _workers_listed() -> int:
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        return replicas.listed(json.loads(text).get("cluster", {}))
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            "TF_CONFIG must be JSON that lists the workers and says which this "
            f"is. Received: TF_CONFIG={text!r}"
        ) from error


def _multiworker(timeout: float | None) -> tf.distribute.Strategy:
    if not _workers_listed():
        raise ValueError(
            'kind="multiworker" needs the environment variable TF_CONFIG, '
            "which lists the workers and says which this is. Received: "
            f"TF_CONFIG={os.environ.get('TF_CONFIG')!r}"
        )
    return tf.distribute.MultiWorkerMirroredStrategy(
        communication_options=tf.distribute.experimental.CommunicationOptions(
            timeout_seconds=timeout
        )
    )


def _tpu(name: str | None) -> tf.distribute.Strategy:
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
