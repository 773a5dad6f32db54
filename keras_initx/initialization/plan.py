"""What each weight of a model is to become: its row and its new value."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_initx.initialization.choice import Choose
from keras_initx.initialization.draw import (
    draw,
    folded_seed,
    takes_seed,
    unscaled,
)
from keras_initx.initialization.record import InitializedWeight
from keras_initx.initializers import DepthWeights, Scaled
from keras_initx.initializers.base import cast_finite
from keras_initx.inspection.traversal import Place, all_layers

# Where a layer has no initializer of its own for what is no linear map.
_NEUTRAL = {
    "norm scale": "ones",
    "norm offset": "zeros",
    "attention scale": "ones",
}
# What they give is meant to be equal in layers that are alike.
_DETERMINISTIC = (
    keras.initializers.Identity,
    keras.initializers.Constant,
    keras.initializers.STFT,
)
_FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass
class Plan:
    """Says of each weight of a model in turn what it is to become.

    Args:
        seed: Of the whole model.
        choose: Of a layer and a role, the initializer of its linear maps.
        bias_initializer: The initializer of biases, or None to skip
            them.
    """

    seed: int
    choose: Choose
    bias_initializer: keras.initializers.Initializer | None
    seeds: set[int] = field(default_factory=set)
    shared_paths: set[str] = field(default_factory=set)
    unseeded: dict[bytes, str] = field(default_factory=dict)

    def of(self, place: Place, picked: bool) -> tuple[InitializedWeight, Any]:
        weight, geometry = place.weight, place.geometry
        shape = tuple(weight.shape)
        # Asked of every weight, so that what is picked changes no other's.
        seed = self._fresh_seed(place.name)
        known = {
            "name": place.name,
            "role": geometry.role,
            "shape": shape,
        }
        if geometry.split_shape is not None:
            known |= {"fan_in": geometry.fan_in, "fan_out": geometry.fan_out}
        reason = _untouchable(place) if picked else "not in layers"
        own = None if reason else self._initializer(place)
        if own is None:
            reason = reason or self._why_without(place)
            return InitializedWeight(**known, skipped=reason), None
        self._check_unshared(own, place)
        try:
            values = draw(own, geometry, shape, seed)
        except Exception as error:
            raise ValueError(
                f"The initializer must give finite weights of shape {shape} "
                f"for {place.name!r}. Received: {own!r}: {error}"
            ) from error
        if geometry.split_shape is not None and not _may_repeat(own):
            self._warn_of_equals(own, place, values)
        if geometry.role == "bias":
            values = _with_forget_gate(values, place.layers[-1])
        value = cast_finite(keras.ops.convert_to_tensor(values), weight.dtype)
        return (
            InitializedWeight(
                **known,
                initializer=_text(own),
                seed=seed if takes_seed(own) else None,
            ),
            value,
        )

    def _fresh_seed(self, name: str) -> int:
        seed, again = folded_seed(self.seed, name), 0
        while seed in self.seeds:
            again += 1
            seed = folded_seed(self.seed, name, again)
        self.seeds.add(seed)
        return seed

    def _initializer(self, place: Place) -> Any:
        layer, role = place.layers[-1], place.geometry.role
        if place.geometry.split_shape is not None:
            return self.choose(layer, role)
        if role == "bias":
            return self.bias_initializer
        return _own_initializer(layer, place.weight.name, role)

    def _why_without(self, place: Place) -> str:
        role = place.geometry.role
        if role == "bias" or place.geometry.split_shape is not None:
            return "not asked for"
        if role in ("statistic", "fixed transform"):
            return "not drawn"
        return "no initializer"

    def _warn_of_equals(
        self, own: Any, place: Place, values: np.ndarray
    ) -> None:
        """Of an initializer that cannot be told to draw another time."""
        if np.ptp(values) == 0:
            return
        first = self.unseeded.setdefault(values.tobytes(), place.name)
        if first != place.name:
            warnings.warn(
                f"{own!r} has no seed in its get_config, and gives "
                f"{place.name!r} the weights of {first!r}.",
                stacklevel=4,
            )

    def _check_unshared(self, own: Any, place: Place) -> None:
        own = unscaled(own)
        if not isinstance(own, DepthWeights):
            return
        path = repr((own.get_config(), tuple(place.weight.shape)))
        if path in self.shared_paths:
            raise ValueError(
                "Each weight must have a layer of its own in a DepthProcess, "
                "or a stream: give a function of the layer that returns "
                f"process.at(index, stream). Received: {own!r} once more, for "
                f"{place.name!r}"
            )
        self.shared_paths.add(path)


def _may_repeat(initializer: keras.initializers.Initializer) -> bool:
    """Whether equal weights are meant, or a seed keeps them from being so."""
    inner = unscaled(initializer)
    meant = isinstance(inner, _DETERMINISTIC)
    shares = getattr(inner, "shares_seed", False)
    return meant or shares or takes_seed(inner)


def _own_initializer(
    layer: keras.layers.Layer, name: str, role: str
) -> keras.initializers.Initializer | None:
    if role == "branch scale":
        # Keras's own LayerScale has the plural.
        start = getattr(layer, "initial_value", None)
        start = getattr(layer, "init_values", start)
        return None if start is None else keras.initializers.Constant(start)
    # Weights of built-in layers have the names of their initializers.
    own = getattr(layer, f"{name}_initializer", None)
    return keras.initializers.get(own or _NEUTRAL.get(role))


def _untouchable(place: Place) -> str:
    weight, role = place.weight, place.geometry.role
    layer = place.layers[-1]
    # Their weights make up one kernel, which another bias would not fit.
    if getattr(layer, "quantization_mode", None):
        return "quantized"
    if getattr(layer, "lora_enabled", False) or role == "lora":
        return "LoRA adapter"
    if role == "unknown":
        return "unknown: see register_geometry"
    if role == "statistic":
        return "" if layer.trainable else "frozen"
    if weight.dtype not in _FLOATS:
        return f"of dtype {weight.dtype}"
    return "" if weight.trainable else "frozen"


def unbuilt(model: keras.layers.Layer) -> list[InitializedWeight]:
    """A row for each layer that has no weights yet, and may come to have."""
    return [
        InitializedWeight(layer.name, "", (), skipped="not built")
        for layer in all_layers(model)
        if not layer.built
    ]


def _with_forget_gate(
    values: np.ndarray, layer: keras.layers.Layer
) -> np.ndarray:
    if getattr(layer, "unit_forget_bias", False):
        # Gates stand in the order input, forget, candidate, output.
        values = values.copy()
        values.reshape(4, -1)[1] = 1
    return values


def _text(initializer: keras.initializers.Initializer) -> str:
    if isinstance(initializer, Scaled):
        inner = _text(initializer.initializer)
        return f"Scaled({inner}, factor={initializer.factor!r})"
    told = {
        key: value
        for key, value in initializer.get_config().items()
        if value is not None
        and key not in ("seed", "fan_in", "input_axes", "output_axes")
        and not isinstance(value, dict)
    }
    inner = ", ".join(f"{key}={value!r}" for key, value in told.items())
    return f"{type(initializer).__name__}({inner})"
