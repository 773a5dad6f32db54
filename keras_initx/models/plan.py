"""What each weight of a model is to become: its row and its new value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_initx.initializers import DepthWeights
from keras_initx.initializers.base import cast_finite
from keras_initx.models.draw import draw, folded_seed
from keras_initx.models.initialization import InitializedWeight
from keras_initx.models.walk import Place

# Where a layer has no initializer of its own for what is no linear map.
_NEUTRAL = {"norm scale": "ones", "norm offset": "zeros"}
_FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass
class Plan:
    """Says of each weight of a model in turn what it is to become.

    Args:
        seed: Of the whole model.
        choose: Of a layer, the initializer of its linear maps, or None.
        biases: The initializer of biases, or None to leave them alone.
    """

    seed: int
    choose: Callable[[keras.layers.Layer], Any]
    biases: keras.initializers.Initializer | None
    seeds: set[int] = field(default_factory=set)
    shared_paths: set[str] = field(default_factory=set)

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
        if geometry.factored is not None:
            known |= {"fan_in": geometry.fan_in, "fan_out": geometry.fan_out}
        reason = _untouchable(place) if picked else "not in layers"
        own = None if reason else self._initializer(place)
        if own is None:
            reason = reason or _no_initializer(geometry.role)
            return InitializedWeight(**known, left=reason), None
        self._check_unshared(own, place)
        try:
            values = draw(own, geometry, shape, seed)
        except Exception as error:
            raise ValueError(
                f"The initializer must give weights for {place.name!r}, of "
                f"shape {shape}. Received: {own!r}, which raises: {error}"
            ) from error
        if geometry.role == "bias" and self.biases is not None:
            values = _with_forget_gate(values, place.layers[-1])
        value = cast_finite(keras.ops.convert_to_tensor(values), weight.dtype)
        return (
            InitializedWeight(
                **known,
                initializer=_text(own),
                seed=seed if _draws(own) else None,
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
        if place.geometry.factored is not None:
            return self.choose(layer)
        if role == "bias":
            return self.biases
        return _own_initializer(layer, place.weight.name, role)

    def _check_unshared(self, own: Any, place: Place) -> None:
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
    if role == "unknown":
        return "unknown: see register_geometry"
    if weight.dtype not in _FLOATS:
        return f"quantized: {weight.dtype}"
    if role == "lora":
        return "adapter"
    frozen = (
        not place.layers[-1].trainable
        if role == "statistic"
        else not weight.trainable
    )
    return "frozen" if frozen else ""


def _no_initializer(role: str) -> str:
    if role in ("statistic", "fixed transform"):
        return "not drawn"
    return "no initializer"


def _with_forget_gate(
    values: np.ndarray, layer: keras.layers.Layer
) -> np.ndarray:
    if getattr(layer, "unit_forget_bias", False):
        # Gates stand in the order input, forget, candidate, output.
        values = values.copy()
        values.reshape(4, -1)[1] = 1
    return values


def _draws(initializer: keras.initializers.Initializer) -> bool:
    return "seed" in initializer.get_config() and not isinstance(
        initializer, DepthWeights
    )


def _text(initializer: keras.initializers.Initializer) -> str:
    told = {
        key: value
        for key, value in initializer.get_config().items()
        if value is not None
        and key not in ("seed", "fan_in", "input_axes", "output_axes")
        and not isinstance(value, dict)
    }
    inner = ", ".join(f"{key}={value!r}" for key, value in told.items())
    return f"{type(initializer).__name__}({inner})"
