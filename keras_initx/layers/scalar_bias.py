"""One number that is added to the whole signal."""

from __future__ import annotations

from typing import Any

import keras

from keras_initx.inspection.geometry import Geometry
from keras_initx.inspection.layer_rule import LayerRule, register_layer
from keras_initx.validation import is_real


@keras.saving.register_keras_serializable(package="keras_initx")
class ScalarBias(keras.layers.Layer):
    """Adds one trainable number, the same at every place and channel.

        x + b

    It tells no channel from another, as a bias a channel would: in a network
    whose features are identical they stay so.

    Args:
        initial_value: Of b, a finite number.
        **kwargs: As in `keras.layers.Layer`.

    Returns:
        When called with a tensor, one of that shape in the layer's compute
        dtype; masks are passed on.

    Raises:
        ValueError: The argument is no finite number.

    Example:

    >>> ScalarBias(0.5)(keras.ops.ones((1, 2))).numpy()
    array([[1.5, 1.5]], dtype=float32)

    Reference: Zhang, Dauphin & Ma, ICLR (2019), arXiv:1901.09321 (Fixup);
    Blumenfeld, Gilboa & Soudry, ICML (2020), arXiv:2007.01038 (LeakyNet).
    """

    def __init__(self, initial_value: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True
        if not is_real(initial_value):
            raise ValueError(
                "initial_value must be a finite number. "
                f"Received: initial_value={initial_value!r}"
            )
        self.initial_value = float(initial_value)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.bias = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(self.initial_value),
            name="bias",
        )
        self.built = True

    def call(self, inputs: Any) -> Any:
        return keras.ops.add(
            keras.ops.cast(inputs, self.compute_dtype), self.bias
        )

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, fit for JSON."""
        return super().get_config() | {"initial_value": self.initial_value}


@register_layer(ScalarBias)
def _rule(layer: ScalarBias) -> LayerRule:
    return LayerRule({"bias": Geometry("bias")})
