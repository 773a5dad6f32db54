"""The weights of any initializer times a factor."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import keras

from keras_initx.initializers.base import LARGEST, FanInInitializer
from keras_initx.initializers.names import get
from keras_initx.validation import check_real, refuse


class Wrapper(FanInInitializer):
    """Base class of initializers that change the weights of another one.

    The arguments are those of `Scaled`, without the factor.
    """

    def __init__(
        self,
        initializer: keras.initializers.Initializer | str | dict[str, Any],
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
        seed: int | keras.random.SeedGenerator | None = None,
    ):
        # With None the base class would draw a seed that nothing uses.
        super().__init__(
            None, input_axes, output_axes, 0 if seed is None else seed
        )
        self.initializer = _get(initializer, seed)
        # EinsumDense reads the seed and passes it to a copy.
        self.seed = getattr(self.initializer, "seed", None)

    @property
    def is_random(self) -> bool:
        """False, since the initializer inside it draws."""
        return False

    def inner_weights(self, shape: tuple[int, ...]) -> Any:
        """Returns the weights of the initializer inside, in float32."""
        weights = self._with_axes()(shape, dtype="float32")
        return keras.ops.convert_to_tensor(weights)

    def _with_axes(self) -> keras.initializers.Initializer:
        inner = self.initializer
        # Keras's own have axes from Keras 3.15 on.
        uses_axes = hasattr(inner, "input_axes")
        if not uses_axes or None not in (inner.input_axes, inner.output_axes):
            return inner
        # A copy from the config would draw a seed of its own.
        twin = copy.copy(inner)
        twin.input_axes = self.input_axes
        twin.output_axes = self.output_axes
        return twin

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON can hold them."""
        config = super().get_config()
        return {
            "initializer": keras.initializers.serialize(self.initializer),
            # The config of the initializer holds the seed.
            "seed": None,
        } | {key: config[key] for key in ("input_axes", "output_axes")}


@keras.saving.register_keras_serializable(package="keras_initx")
class Scaled(Wrapper):
    """The weights of any initializer times a factor.

        w = factor v,    v drawn by the initializer

    Use it for the initialization rules of residual networks and transformers
    that are factors in `theory`: `fixup_factor`, `tfixup_factor` and
    `deepnorm_scale`. (A rule that is a standard deviation, such as
    `gpt2_residual_std`, is an argument of `keras.initializers.RandomNormal`.)

    The axes that `EinsumDense` and attention layers set are passed on to
    initializers that use them: those of Keras that depend on the fans (from
    Keras 3.15 on), and all of this package.

    Args:
        initializer: An instance, name or config of a Keras initializer.
        factor: float. The factor, from -1e30 to 1e30.
        input_axes: list of int. The axes of the kernel that the layer sums
            over. They are not used if the initializer has axes itself.
        output_axes: list of int. The axes of the kernel that the layer's
            output has. Both lists of axes must be given, or neither.
        seed: None, int or `keras.random.SeedGenerator`. None keeps the seed of
            the initializer, anything else replaces it.

    Returns:
        When called with a shape and a dtype: weights in float16, bfloat16,
        float32 or float64. They are those that the initializer draws in
        float32, scaled and clipped to the range of the dtype.

    Raises:
        ValueError: If an argument has another type or is out of range, or if
            the initializer does not take a seed.

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

    uses_fan_in = False

    def __init__(
        self,
        initializer: keras.initializers.Initializer | str | dict[str, Any],
        factor: float,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
        seed: int | keras.random.SeedGenerator | None = None,
    ):
        super().__init__(initializer, input_axes, output_axes, seed)
        self.factor = check_real("factor", factor, "[-1e30, 1e30]")

    def draw(self, shape: tuple[int, ...], fan_in: int) -> Any:
        """Returns the weights of the initializer times the factor."""
        scaled = self.inner_weights(shape) * self.factor
        limit = LARGEST["float32"]
        return keras.ops.clip(scaled, -limit, limit)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON can hold them."""
        return super().get_config() | {"factor": self.factor}


def _get(initializer: Any, seed: Any) -> keras.initializers.Initializer:
    """Returns an instance of the initializer that has the seed, if any."""
    instance = get(initializer)
    if seed is None:
        return instance
    config = instance.get_config()
    if "seed" not in config:
        refuse(
            "seed must be None if the initializer does not take a seed.",
            seed=seed,
            initializer=initializer,
        )
    return type(instance).from_config(config | {"seed": seed})
