"""Any initializer, times a constant."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_initx.initializers.base import FanInInitializer
from keras_initx.validation import is_real

# Beyond, float32 has no weights left.
_LARGEST_FACTOR = 1e30


@keras.saving.register_keras_serializable(package="keras_initx")
class Scaled(FanInInitializer):
    """The weights of any initializer, times a factor.

        w = factor v,    v of the initializer

    It applies the rules for residual networks and transformers whose factors
    are in theory: `fixup_factor`, `tfixup_factor`, `deepnorm_scale`. (Of a
    standard deviation, such as `gpt2_residual_std`, Keras has `RandomNormal`.)

    What `EinsumDense` and attention layers say of a kernel's axes is handed on
    to an initializer that has asked for it: Keras' own that follow the fans,
    and all of ours.

    Args:
        initializer: An instance, name or config of a Keras initializer.
        factor: A number, from -1e30 to 1e30.
        input_axes: Axes of the kernel that the layer sums over, and
        output_axes: axes that its output has: ints, both or neither. Those of
            the initializer, if it has any, come first.
        seed: None leaves the initializer its own; an int or a
            `keras.random.SeedGenerator` takes its place.

    Returns:
        When called with a shape and dtype, weights in float16, bfloat16,
        float32 or float64: those in float32 of the initializer, scaled, and
        clipped to the range of the dtype.

    Raises:
        ValueError: An argument is none of these.

    Example:

    >>> import keras_initx as kx
    >>> factor = kx.theory.fixup_factor(branches=16)
    >>> layer = keras.layers.Dense(
    ...     512, kernel_initializer=Scaled("he_normal", factor)
    ... )
    >>> layer.build((None, 512))
    >>> f"{keras.ops.std(layer.kernel):.3f}"  # sqrt(2 / 512) / 4 = 0.0156
    '0.016'

    Reference: Zhang, Dauphin & Ma, ICLR (2019), arXiv:1901.09321, for the
    factor of the example.
    """

    def __init__(
        self,
        initializer: keras.initializers.Initializer | str | dict[str, Any],
        factor: float,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
        seed: int | keras.random.SeedGenerator | None = None,
    ):
        # With None the base would draw one that nothing uses.
        super().__init__(
            None, input_axes, output_axes, 0 if seed is None else seed
        )
        self.initializer = _initializer(initializer, seed)
        # EinsumDense reads it, and hands it to its copy.
        self.seed = getattr(self.initializer, "seed", None)
        if not (is_real(factor) and abs(factor) <= _LARGEST_FACTOR):
            raise ValueError(
                f"factor must be a number from {-_LARGEST_FACTOR} to "
                f"{_LARGEST_FACTOR}. Received: factor={factor!r}"
            )
        self.factor = float(factor)

    def draw(self, shape: tuple[int, ...], fan_in: int) -> tf.Tensor:
        weights = self._with_axes()(shape, dtype="float32")
        scaled = tf.convert_to_tensor(weights) * self.factor
        return tf.clip_by_value(scaled, tf.float32.min, tf.float32.max)

    def _with_axes(self) -> keras.initializers.Initializer:
        ours = self.initializer
        follows = isinstance(ours, keras.initializers.VarianceScaling)
        if not follows or None not in (ours.input_axes, ours.output_axes):
            return ours
        # A copy by config would draw a seed of its own.
        twin = copy.copy(ours)
        twin.input_axes = self.input_axes
        twin.output_axes = self.output_axes
        return twin

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, fit for JSON."""
        config = super().get_config()
        return {
            "initializer": keras.initializers.serialize(self.initializer),
            "factor": self.factor,
            # The initializer's config has it.
            "seed": None,
        } | {key: config[key] for key in ("input_axes", "output_axes")}


def _initializer(given: Any, seed: Any) -> keras.initializers.Initializer:
    try:
        found = keras.initializers.get(given)
    except (ValueError, TypeError) as error:
        raise ValueError(_expected(given)) from error
    # A function could not be saved.
    if not isinstance(found, keras.initializers.Initializer):
        raise ValueError(_expected(given))
    if seed is None:
        return found
    config = found.get_config()
    if "seed" not in config:
        raise ValueError(
            "seed must be None where the initializer draws nothing. "
            f"Received: seed={seed!r}, initializer={given!r}"
        )
    return type(found).from_config(config | {"seed": seed})


def _expected(given: Any) -> str:
    return (
        "initializer must be an instance, name or config of a Keras "
        f"initializer. Received: initializer={given!r}"
    )
