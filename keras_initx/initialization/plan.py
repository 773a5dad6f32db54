"""Decides for each weight of a model its new value, and the row about it."""

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
    unwrapped,
)
from keras_initx.initialization.record import InitializedWeight
from keras_initx.initializers import DepthWeights
from keras_initx.initializers.base import cast_finite
from keras_initx.initializers.scaled import Wrapper
from keras_initx.inspection.traversal import (
    ModelView,
    ModelWeight,
    has_no_call,
)
from keras_initx.inspection.writable import why_not_writable

# For weights that are no linear map, where their layer has no initializer.
_NEUTRAL = {
    "norm scale": "ones",
    "norm offset": "zeros",
    "attention scale": "ones",
}
# These give equal values to layers that are alike on purpose.
_DETERMINISTIC = (
    keras.initializers.Identity,
    keras.initializers.Constant,
    keras.initializers.STFT,
)


@dataclass
class Plan:
    """Decides for each weight of a model in turn what becomes of it.

    Args:
        view: ModelView. The model.
        seed: int. The seed of the whole model.
        choose: Returns the initializer of linear maps for a layer and a role.
        bias_initializer: The initializer of biases, None to skip them.
    """

    view: ModelView
    seed: int
    choose: Choose
    bias_initializer: keras.initializers.Initializer | None
    _seeds: set[int] = field(default_factory=set)
    _process_layers: set[str] = field(default_factory=set)
    _unseeded: dict[bytes, str] = field(default_factory=dict)

    def decide(
        self, weight: ModelWeight, picked: bool
    ) -> tuple[InitializedWeight, Any]:
        """What becomes of the next weight.

        Args:
            weight: ModelWeight. The weight.
            picked: bool. Whether it is in a layer that the user picked.

        Returns:
            A row of the record, and the new value, None for a skipped weight.

        Raises:
            ValueError: If the initializer refuses, gives NaN or inf, or is of
                a layer of a process that another weight has drawn from.
        """
        # Drawn for every weight, so that a pick changes no other weight.
        seed = self._fresh_seed(weight.path)
        reason = self._why_skipped(weight) if picked else "not in layers"
        if reason:
            return _row(weight, skipped=reason), None
        initializer = self._initializer(weight)
        if initializer is None:
            return _row(weight, skipped=_why_without(weight)), None
        values = self._drawn(initializer, weight, seed)
        value = cast_finite(
            keras.ops.convert_to_tensor(values), weight.variable.dtype
        )
        row = _row(
            weight,
            initializer=_text(initializer),
            seed=seed if takes_seed(initializer) else None,
        )
        return row, value

    def _fresh_seed(self, path: str) -> int:
        seed, again = folded_seed(self.seed, path), 0
        while seed in self._seeds:
            again += 1
            seed = folded_seed(self.seed, path, again)
        self._seeds.add(seed)
        return seed

    def _why_skipped(self, weight: ModelWeight) -> str:
        reason = why_not_writable(self.view, weight.layer)
        if not reason and weight.role == "unknown":
            reason = "unknown: see inspection.register_layer"
        return reason or why_not_writable(
            self.view, weight.layer, weight.variable
        )

    def _initializer(self, weight: ModelWeight) -> Any:
        if weight.geometry.is_linear:
            return self.choose(weight.layer, weight.role)
        if weight.role == "bias":
            return self.bias_initializer
        return _layers_initializer(weight)

    def _drawn(
        self,
        initializer: keras.initializers.Initializer,
        weight: ModelWeight,
        seed: int,
    ) -> np.ndarray:
        shape = tuple(weight.variable.shape)
        self._check_process(initializer, weight)
        try:
            values = draw(initializer, weight.geometry, shape, seed)
        except Exception as error:
            raise ValueError(
                f"The initializer must give finite weights of shape {shape} "
                f"for {weight.path!r}. Received: {initializer!r}: {error}"
            ) from error
        if weight.geometry.is_linear and not _may_repeat(initializer):
            self._warn_of_equals(initializer, weight, values)
        if weight.geometry.ones is not None:
            start, stop = weight.geometry.ones
            values = values.copy()
            values.reshape(-1)[start:stop] = 1
        return values

    def _warn_of_equals(
        self, initializer: Any, weight: ModelWeight, values: np.ndarray
    ) -> None:
        """Warns if an initializer without a seed gives two equal weights."""
        if np.ptp(values) == 0:
            return
        first = self._unseeded.setdefault(values.tobytes(), weight.path)
        if first != weight.path:
            warnings.warn(
                f"{initializer!r} has no seed in its get_config, and gives "
                f"{weight.path!r} the weights of {first!r}.",
                stacklevel=5,
            )

    def _check_process(self, initializer: Any, weight: ModelWeight) -> None:
        """Refuses to draw two weights from one layer of a `DepthProcess`."""
        initializer = unwrapped(initializer)
        if not isinstance(initializer, DepthWeights):
            return
        layer = repr((initializer.get_config(), tuple(weight.variable.shape)))
        if layer in self._process_layers:
            raise ValueError(
                "Each weight must have a layer of its own in a DepthProcess, "
                "or a stream: give a function of the layer that returns "
                f"process.at(index, stream). Received: {initializer!r} once "
                f"more, for {weight.path!r}"
            )
        self._process_layers.add(layer)


def unbuilt(view: ModelView) -> list[InitializedWeight]:
    """A row for each layer that has no weights yet, and may come to have."""
    return [
        InitializedWeight(view.name(layer), "", (), skipped="not built")
        for layer in view.layers
        if not layer.built and not has_no_call(layer)
    ]


def _row(
    weight: ModelWeight,
    initializer: str = "",
    seed: int | None = None,
    skipped: str = "",
) -> InitializedWeight:
    return InitializedWeight(
        weight.name,
        weight.role,
        tuple(weight.variable.shape),
        weight.geometry.fan_in,
        weight.geometry.fan_out,
        initializer,
        seed,
        skipped,
    )


def _why_without(weight: ModelWeight) -> str:
    """Why there is no initializer for a weight."""
    if weight.role == "bias" or weight.geometry.is_linear:
        return "not asked for"
    if weight.role in ("statistic", "fixed transform"):
        return "not drawn"
    return "no initializer"


def _may_repeat(initializer: keras.initializers.Initializer) -> bool:
    """Whether equal weights are meant, or a seed keeps them from being so."""
    inner = unwrapped(initializer)
    meant = isinstance(inner, _DETERMINISTIC)
    shares = getattr(inner, "shares_seed", False)
    return meant or shares or takes_seed(inner)


def _layers_initializer(
    weight: ModelWeight,
) -> keras.initializers.Initializer | None:
    """The initializer that a layer has for one of its weights."""
    name = f"{weight.variable.name}_initializer"
    return keras.initializers.get(
        weight.geometry.initializer
        # Weights of built-in layers have the names of their initializers.
        or getattr(weight.layer, name, None)
        or _NEUTRAL.get(weight.role)
    )


def _text(initializer: keras.initializers.Initializer) -> str:
    """An initializer as text, without seeds and what the layer decides."""
    shown = [
        f"{key}={value!r}"
        for key, value in initializer.get_config().items()
        if value is not None
        and key not in ("seed", "fan_in", "input_axes", "output_axes")
        and not isinstance(value, dict)
    ]
    if isinstance(initializer, Wrapper):
        shown.insert(0, _text(initializer.initializer))
    return f"{type(initializer).__name__}({', '.join(shown)})"
