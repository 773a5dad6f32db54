"""Activations that Keras has no layer for."""

from __future__ import annotations

from typing import Any

import keras

from keras_initx.inspection.layer_rule import LayerRule, register_layer
from keras_initx.validation import check_real


class _Elementwise(keras.layers.Layer):
    """Base class: a function of each entry."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Returns the input shape."""
        return input_shape


@register_layer(_Elementwise)
def _rule(layer: _Elementwise) -> LayerRule:
    return LayerRule(activates=True)


@keras.saving.register_keras_serializable(package="keras_initx")
class HardTanh(_Elementwise):
    """Clips its inputs to a range around 0.

        min(max(x, -bound), bound)

    The activation is the identity on a linear region as large as you like;
    `keras.activations.hard_tanh` has the bound 1. The larger the bound is in
    comparison with the biases, the better a plain network keeps the signal
    and the gradients: `theory.edge_of_chaos` returns the variances of weights
    and biases that belong to it.

    Args:
        bound: float. The bound, > 0. Defaults to 1.
        **kwargs: Arguments of `keras.layers.Layer`.

    Returns:
        When called with a tensor: a tensor of the same shape, in the layer's
        compute dtype.

    Raises:
        ValueError: If `bound` is out of range.

    Example:

    >>> import numpy as np
    >>> import keras_initx as kx
    >>> y = HardTanh(4.0)(np.array([-9.0, -3.0, 0.5, 6.0]))
    >>> keras.ops.convert_to_numpy(y)
    array([-4. , -3. ,  0.5,  4. ], dtype=float32)
    >>> point = kx.theory.edge_of_chaos(HardTanh(4.0), bias_variance=0.1)
    >>> round(point.weight_variance, 4)
    1.0364

    Reference: Murray, Abrol & Tanner (2021), arXiv:2105.07741, who study
    activations with a linear region. The clip, and its point on the edge of
    chaos, are derived here.
    """

    def __init__(self, bound: float = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.bound = check_real("bound", bound, "(0, inf)")

    def call(self, inputs: Any) -> Any:
        """Returns the activation of the inputs."""
        x = keras.ops.cast(inputs, self.compute_dtype)
        return keras.ops.clip(x, -self.bound, self.bound)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON can hold them."""
        return super().get_config() | {"bound": self.bound}


@keras.saving.register_keras_serializable(package="keras_initx")
class Sine(_Elementwise):
    """The sine of its inputs, times a frequency.

        sin(frequency x)

    Keep the frequency 1 and give the first kernel the scale of the frequency
    instead: an optimizer such as Adam moves
    the weight before a factor w0 as if its learning rate were w0 times larger.

    Args:
        frequency: float. The angular frequency, > 0. Defaults to 1.
        **kwargs: Arguments of `keras.layers.Layer`.

    Returns:
        When called with a tensor: a tensor of the same shape, in the layer's
        compute dtype.

    Raises:
        ValueError: If `frequency` is out of range.

    Example:

    >>> import numpy as np
    >>> keras.ops.convert_to_numpy(Sine()(np.array([0.0, np.pi / 2])))
    array([0., 1.], dtype=float32)

    Reference: Sitzmann et al., NeurIPS (2020), arXiv:2006.09661.
    """

    def __init__(self, frequency: float = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.frequency = check_real("frequency", frequency, "(0, inf)")

    def call(self, inputs: Any) -> Any:
        """Returns the activation of the inputs."""
        x = keras.ops.cast(inputs, self.compute_dtype)
        return keras.ops.sin(self.frequency * x)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON can hold them."""
        return super().get_config() | {"frequency": self.frequency}
