"""Conversion of distributions to plain configs and back.

The config of a distribution is its class and its parameters,

    {"distribution": "tfp.distributions.StudentT",
     "parameters": {"df": 3.0, "loc": 0.0, "scale": 1.0}}

where parameters may be configs of distributions in turn. Only the
distributions of TensorFlow Probability and the public ones of this package are
read back, by name: a file cannot make Python import or call anything else.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import tensorflow as tf

from keras_initx.distributions.probability import load_probability
from keras_initx.validation import refuse


def _tfp() -> Any:
    return load_probability().distributions


def _keras_initx() -> Any:
    return importlib.import_module("keras_initx.distributions")


# The modules of the allowed classes, which are imported on first use.
_MODULES = {
    "tfp.distributions": _tfp,
    "keras_initx.distributions": _keras_initx,
}
# Parameters that do not change the distribution.
_IGNORED = ("validate_args", "allow_nan_stats", "name")


def to_config(distribution: Any) -> dict[str, Any]:
    """Returns the class and the present parameters of a distribution.

    Args:
        distribution: An instance of a class of `tfp.distributions` or
            `kx.distributions`.

    Raises:
        ValueError: If it is not one, or if a parameter is not made of numbers,
            names and such distributions.
    """
    return {
        "distribution": _class_name(distribution),
        "parameters": {
            key: _to_plain(value, f"{key} of {type(distribution).__name__}")
            for key, value in distribution.parameters.items()
            if key not in _IGNORED
        },
    }


def from_config(config: dict[str, Any], validate_args: bool = False) -> Any:
    """Returns the distribution of a config, in float32.

    Args:
        config: dict. A config as returned by `to_config`.
        validate_args: bool. Passed to the distribution and to all distributions
            among its parameters. Defaults to False.

    Raises:
        ValueError: If the config has another form or names another class.
    """
    if set(config) != {"distribution", "parameters"} or not isinstance(
        config["parameters"], dict
    ):
        refuse(
            "A distribution's config must have the keys 'distribution' and "
            "'parameters'.",
            config=config,
        )
    parameters = {
        key: _from_plain(value, validate_args)
        for key, value in config["parameters"].items()
    }
    cls = _find_class(config["distribution"])
    try:
        return cls(**parameters, validate_args=validate_args)
    except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(
            "A distribution's parameters must be valid. "
            f"Received: distribution={config!r}"
        ) from error


def class_names(config: Any) -> set[str]:
    """Returns the names of all classes in a config, at any depth."""
    if isinstance(config, list):
        return set().union(*map(class_names, config))
    if not isinstance(config, dict) or "distribution" not in config:
        return set()
    inner = class_names(list(config["parameters"].values()))
    return inner | {config["distribution"].rpartition(".")[2]}


def _is_distribution(value: Any) -> bool:
    return isinstance(value, _tfp().Distribution)


def _class_name(distribution: Any) -> str:
    cls = type(distribution)
    if _is_distribution(distribution):
        for name, module in _MODULES.items():
            if getattr(module(), cls.__name__, None) is cls:
                return f"{name}.{cls.__name__}"
    refuse(
        "distribution must be an instance of a class of tfp.distributions or "
        "keras_initx.distributions, so that a saved model can be loaded.",
        distribution=distribution,
    )


def _find_class(name: Any) -> type:
    module, _, class_name = str(name).rpartition(".")
    if module in _MODULES and not class_name.startswith("_"):
        cls = getattr(_MODULES[module](), class_name, None)
        if isinstance(cls, type) and issubclass(cls, _tfp().Distribution):
            return cls
    refuse(
        "A distribution's config must name a class of "
        f"{' or '.join(_MODULES)}.",
        distribution=name,
    )


def _to_plain(value: Any, name: str) -> Any:
    """Returns a parameter as JSON can hold it."""
    if isinstance(value, np.generic):
        # A NumPy float would make the distribution one of float64.
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tf.DType):
        return {"dtype": value.name}
    if _is_distribution(value):
        return to_config(value)
    if isinstance(value, list | tuple):
        return [_to_plain(item, name) for item in value]
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


def _from_plain(value: Any, validate_args: bool) -> Any:
    """Returns the parameter that `_to_plain` was called with."""
    if isinstance(value, list):
        return [_from_plain(item, validate_args) for item in value]
    if isinstance(value, dict) and set(value) == {"dtype"}:
        return tf.as_dtype(value["dtype"])
    if isinstance(value, dict):
        return from_config(value, validate_args)
    return value
