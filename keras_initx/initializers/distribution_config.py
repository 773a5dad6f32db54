"""Distributions as plain numbers, and back.

A distribution is written as

    {"distribution": "tfp.distributions.StudentT",
     "parameters": {"df": 3.0, "loc": 0.0, "scale": 1.0}}

whose parameters may hold distributions in turn. Read back are classes of
TensorFlow Probability's and our own public distributions, by name, and nothing
else: a file cannot make us import or call another thing.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import tensorflow as tf


def _tfp() -> Any:
    import tensorflow_probability

    return tensorflow_probability.distributions


def _ours() -> Any:
    return importlib.import_module("keras_initx.distributions")


# Where classes may come from; imported when one does.
_HOMES = {"tfp.distributions": _tfp, "keras_initx.distributions": _ours}
# How to behave, not what to draw.
_MANNERS = ("validate_args", "allow_nan_stats", "name")


def to_config(distribution: Any) -> dict[str, Any]:
    """A distribution's class and parameters, the numbers they are now.

    Args:
        distribution: An instance of a class of `tfp.distributions` or
            `kx.distributions`.

    Raises:
        ValueError: It is none, or a parameter is not made of numbers, names
            and such distributions.
    """
    return {
        "distribution": _name(distribution),
        "parameters": {
            key: _plain(value, f"{key} of {type(distribution).__name__}")
            for key, value in distribution.parameters.items()
            if key not in _MANNERS
        },
    }


def from_config(config: dict[str, Any], validate_args: bool = False) -> Any:
    """The distribution that a config describes, in float32.

    Args:
        config: As `to_config` gives it.
        validate_args: As distributions take it, for all inside too.

    Raises:
        ValueError: The config is of another form or names another class.
    """
    if set(config) != {"distribution", "parameters"} or not isinstance(
        config["parameters"], dict
    ):
        raise ValueError(
            "A distribution's config must have the keys 'distribution' and "
            f"'parameters'. Received: config={config!r}"
        )
    parameters = {
        key: _read(value, validate_args)
        for key, value in config["parameters"].items()
    }
    kind = _find(config["distribution"])
    try:
        return kind(**parameters, validate_args=validate_args)
    except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(
            "A distribution's parameters must be valid. "
            f"Received: distribution={config!r}"
        ) from error


def names_in(config: Any) -> set[str]:
    """The classes that a config names, however deep."""
    if isinstance(config, list):
        return set().union(*map(names_in, config))
    if not isinstance(config, dict) or "distribution" not in config:
        return set()
    inner = names_in(list(config["parameters"].values()))
    return inner | {config["distribution"].rpartition(".")[2]}


def _is_distribution(thing: Any) -> bool:
    return isinstance(thing, _tfp().Distribution)


def _name(distribution: Any) -> str:
    kind = type(distribution)
    if _is_distribution(distribution):
        for name, home in _HOMES.items():
            if getattr(home(), kind.__name__, None) is kind:
                return f"{name}.{kind.__name__}"
    raise ValueError(
        "distribution must be an instance of a class of tfp.distributions or "
        "keras_initx.distributions, so that a saved model can be loaded. "
        f"Received: distribution={distribution!r}"
    )


def _find(name: Any) -> type:
    home, _, kind = str(name).rpartition(".")
    if home in _HOMES and not kind.startswith("_"):
        found = getattr(_HOMES[home](), kind, None)
        if isinstance(found, type) and issubclass(found, _tfp().Distribution):
            return found
    raise ValueError(
        f"A distribution's config must name a class of {' or '.join(_HOMES)}. "
        f"Received: distribution={name!r}"
    )


def _plain(value: Any, name: str) -> Any:
    if isinstance(value, np.generic):
        # A float of NumPy's would make the distribution one of float64.
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tf.DType):
        return {"dtype": value.name}
    if _is_distribution(value):
        return to_config(value)
    if isinstance(value, list | tuple):
        return [_plain(item, name) for item in value]
    try:
        tensor = tf.convert_to_tensor(value)
        if tensor.dtype == tf.bfloat16:
            tensor = tf.cast(tensor, tf.float32)
        array = np.asarray(tensor.numpy())
    except (TypeError, ValueError, AttributeError, NotImplementedError):
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            "The parameters of a distribution of weights must be numbers, or "
            "distributions in turn, so that a model can be saved. "
            f"Received: {name}, {value!r}"
        )
    return array.tolist()


def _read(value: Any, validate_args: bool) -> Any:
    if isinstance(value, list):
        return [_read(item, validate_args) for item in value]
    if isinstance(value, dict) and set(value) == {"dtype"}:
        return tf.as_dtype(value["dtype"])
    if isinstance(value, dict):
        return from_config(value, validate_args)
    return value
