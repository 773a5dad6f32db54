"""A bias of one number for the whole signal."""

from __future__ import annotations

from typing import Any

import keras

from keras_initx.inspection.geometry import Geometry
from keras_initx.inspection.layer_rule import LayerRule, register_layer
from keras_initx.validation import check_real


@keras.saving.register_keras_serializable(package="keras_initx")
class ScalarBias(keras.layers.Layer):
    """Adds one trainable number, the same at every position and channel.

        x + b

    Unlike a bias of one number for each channel, it does not distinguish
    channels: identical features of a network stay identical.

    Args:
        initial_value: float. The initial value of b. Defaults to 0.
        **kwargs: Arguments of `keras.layers.Layer`.

    Returns:
        When called with a tensor: a tensor of the same shape, in the layer's
        compute dtype. Masks are passed on.

    Raises:
        ValueError: If `initial_value` is not a finite number.

    Example:

    >>> keras.ops.convert_to_numpy(ScalarBias(0.5)(keras.ops.ones((1, 2))))
    array([[1.5, 1.5]], dtype=float32)

    Reference: Zhang, Dauphin & Ma, ICLR (2019), arXiv:1901.09321 (Fixup);
    Blumenfeld, Gilboa & Soudry, ICML (2020), arXiv:2007.01038 (LeakyNet).
    """

    def __init__(self, initial_value: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.initial_value = check_real("initial_value", initial_value)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Adds the bias."""
        self.bias = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(self.initial_value),
            name="bias",
        )
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Returns the inputs plus the bias."""
        return keras.ops.add(
            keras.ops.cast(inputs, self.compute_dtype), self.bias
        )

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Returns the input shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON can hold them."""
        return super().get_config() | {"initial_value": self.initial_value}


@register_layer(ScalarBias)
def _rule(layer: ScalarBias) -> LayerRule:
    return LayerRule({"bias": Geometry("bias")})
