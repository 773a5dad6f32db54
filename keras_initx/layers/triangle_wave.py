"""Triangle waves with trained peaks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from scipy import special

from keras_initx.inspection.geometry import Geometry
from keras_initx.inspection.layer_rule import LayerRule, register_layer
from keras_initx.layers.relu_stack import relu_stack
from keras_initx.theory.triangle_waves.curve import triangle_wave_scales
from keras_initx.theory.triangle_waves.peaks import (
    FORMS,
    peaks_of,
    plain_peaks,
)
from keras_initx.theory.triangle_waves.weights import (
    side_by_side,
    triangle_wave_weights,
)
from keras_initx.validation import check_bool, check_choice, check_int, refuse

# Peaks keep this distance from 0 and 1, where the next wave would vanish.
_MARGIN = 1e-3
# With this slope a peak near 1/2 moves at the pace of its weight.
_SLOPE = 4.0
# Initial values of the sigmoid keep this distance from 0 and 1, where it would
# move too slowly.
_FLAT = 2.5e-3


@keras.saving.register_keras_serializable(package="keras_initx")
class TriangleWave(keras.layers.Layer):
    """Computes a curve of 2^depth linear pieces on each feature.

        F = x + (s_0 W_0 + ... + s_(d-1) W_(d-1))        "ramp", concave
        F = x - (s_0 W_0 + ... + s_(d-1) W_(d-1))        "ramp", convex
        F = s_0 W_0 + ... + s_(d-1) W_(d-1)              "v", concave
        F = 1 - (s_0 W_0 + ... + s_(d-1) W_(d-1))        "v", convex

    Here d is the depth and W_i are the triangle waves of
    `theory.triangle_wave`. The weights of the layer are d + 1 peaks for each
    feature. The layer computes the same as a relu network of width 4 with d
    hidden layers, which `to_dense` returns so that all of its weights can be
    trained further.

    If the scales s_i follow from the peaks, a ramp maps [0, 1] to [0, 1]. It
    fits curves through (0, 0) and (1, 1) that are flat at 1 if it is concave,
    and flat at 0 if it is convex. A v maps [-1, 1] to [0, 1]: a convex one is 1
    at both ends and 0 between, a concave one is upside down. Outside of these
    intervals a ramp is 0 to the left and a line to the right, as in the relu
    network, and a v continues its outer pieces. With trainable scales the
    curve may leave this family: where a partial sum of the waves is negative,
    the relu network sets it to 0, and so does the layer, unlike the formula.

    The peaks are the sigmoid of weights, which keeps them in (0, 1). They are
    computed in float32 at least, since each wave doubles the rounding errors of
    the one before.

    Args:
        depth: int. The number d of waves, at least 1.
        concave: bool. Whether the waves are added, which makes the curve
            concave, or subtracted, which makes it convex. Defaults to True.
        trainable_scales: bool. False computes the scales from the peaks as
            `theory.triangle_wave_scales` does. True starts with these scales
            and trains the logarithms of their ratios. Defaults to False.
        peaks: Sequence of d + 1 floats in (0, 1), for all features, or one such
            sequence for each feature. The initial peaks; they are moved to a
            distance of 0.0035 from 0 and 1 at least. By default they are
            uniform in (0.05, 0.95).
        form: str. "ramp" or "v". Defaults to "ramp".
        seed: int. The seed of the initial peaks, at least 0.
        **kwargs: Arguments of `keras.layers.Layer`.

    Returns:
        When called with a tensor of shape (..., features): a tensor of the same
        shape, in the layer's compute dtype.

    Raises:
        ValueError: If an argument has another type or is out of range.

    Example:

    >>> layer = TriangleWave(depth=5, concave=False, peaks=[0.5] * 6)
    >>> y = layer(np.array([[0.25], [0.5]]))  # x^2 with all peaks at 1/2
    >>> keras.ops.convert_to_numpy(y).ravel().tolist()
    [0.0625, 0.25]
    >>> [layer.units for layer in layer.to_dense().layers]
    [4, 4, 4, 4, 4, 1]

    Reference: Milkert, Hyde & Laine, ICML (2025), arXiv:2311.18022, theorem 3.1
    and section 4. There peaks and scales are trained as they are; the sigmoid
    of the peaks and the logarithms of trainable scales are added here.
    """

    def __init__(
        self,
        depth: int,
        concave: bool = True,
        trainable_scales: bool = False,
        peaks: Sequence[float] | Sequence[Sequence[float]] | None = None,
        form: str = "ramp",
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.depth = check_int("depth", depth, 1)
        self.concave = check_bool("concave", concave)
        self.trainable_scales = check_bool("trainable_scales", trainable_scales)
        self.form = check_choice("form", form, FORMS)
        self.peaks = None if peaks is None else plain_peaks(peaks, self.depth)
        self.seed = check_int("seed", seed, 0, optional=True)
        self._sign = 1 if self.concave else -1
        # The seed of the config stays None, so that a copy draws other peaks.
        self._drawn_seed = keras.initializers.RandomUniform(seed=self.seed).seed

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Adds the weights of the peaks and of trainable scales."""
        features = input_shape[-1] if input_shape else None
        if features is None:
            refuse(
                "TriangleWave needs a last axis of known size.",
                input_shape=input_shape,
            )
        self.input_spec = keras.InputSpec(axes={-1: features})
        self._sample_shape = tuple(input_shape[1:])
        peaks = peaks_of(self.peaks, self.depth, features, self._drawn_seed)
        self.raw_peaks = self._add_weight("peaks", _raw(peaks))
        self.log_ratios = None
        if self.trainable_scales:
            scales = [
                triangle_wave_scales(a, self.concave, self.form) for a in peaks
            ]
            steps = np.diff(np.log(scales), axis=1, prepend=0)
            self.log_ratios = self._add_weight("log_ratios", steps)
        self.built = True

    def _add_weight(self, name: str, value: np.ndarray) -> keras.Variable:
        return self.add_weight(
            shape=value.shape,
            initializer=lambda shape, dtype: keras.ops.cast(value, dtype),
            name=name,
            # Otherwise a float32 variable would be read as bfloat16.
            autocast=False,
        )

    def curves(self) -> tuple[Any, Any]:
        """Returns the present peaks and scales of all features.

        Returns:
            Two tensors in float32 or float64: the peaks, of shape
            (features, depth + 1), and the scales, of shape (features, depth).
        """
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        raw = keras.ops.cast(self.raw_peaks, dtype)
        share = keras.ops.sigmoid(_SLOPE * raw)
        a = _MARGIN + (1 - 2 * _MARGIN) * share
        if self.log_ratios is None:
            ratios = self._ratios(a)
        else:
            ratios = keras.ops.exp(keras.ops.cast(self.log_ratios, dtype))
        return a, keras.ops.cumprod(ratios, axis=1)

    def _ratios(self, a: Any) -> Any:
        """Returns s_0 and s_i / s_(i-1) as they follow from the peaks."""
        if self.form == "v":
            first = keras.ops.ones_like(a[:, :1])
        else:
            first = (1 - a[:, :1] if self.concave else a[:, :1]) * a[:, 1:2]
        rest = (1 - a[:, 1:-1]) * a[:, 2:]
        return keras.ops.concatenate([first, rest], axis=1)

    def call(self, inputs: Any) -> Any:
        """Returns the curve at the inputs."""
        relu = keras.ops.relu
        a, s = self.curves()
        x = keras.ops.cast(inputs, a.dtype)
        if self.form == "v":
            wave = (x + 1) / 2
            total = keras.ops.full_like(x, (1 - self._sign) / 2)
        else:
            wave = total = relu(x)
        for k in range(self.depth):
            wave = keras.ops.minimum(wave / a[:, k], (1 - wave) / (1 - a[:, k]))
            total = total + self._sign * s[:, k] * wave
            # As the units of the relu network outside of the interval.
            if k < self.depth - 1:
                total = relu(total)
                wave = relu(wave) if self.form == "ramp" else wave
        return keras.ops.cast(total, self.compute_dtype)

    def to_dense(self, connect_features: bool = True) -> keras.Sequential:
        """Returns a relu network of dense layers that computes the same.

        All weights of the network can be trained. The layer does not change.

        Args:
            connect_features: bool. Whether training may connect the networks of
                several features, which lie side by side. Defaults to True.

        Returns:
            A `keras.Sequential` of `depth` layers with 4 units for each feature
            and relu, and one layer without. It has the dtype policy of the
            layer. In bfloat16 it computes deep waves inaccurately.

        Raises:
            ValueError: If the layer has not been built.
        """
        check_bool("connect_features", connect_features)
        if not self.built:
            raise ValueError(
                "to_dense needs a layer that was called or built. "
                f"Received: {self.name}, which was not"
            )
        peaks, scales = map(keras.ops.convert_to_numpy, self.curves())
        identity = np.eye(len(peaks))
        weights = side_by_side(
            [
                triangle_wave_weights(a, self.concave, self.form, s)
                for a, s in zip(peaks, scales, strict=True)
            ],
            identity,
            identity,
        )
        model = relu_stack(
            self._sample_shape,
            self.depth,
            blocks=len(peaks),
            outputs=len(peaks),
            connect_blocks=connect_features,
            dtype=self.dtype_policy,
            separate_ends=True,
        )
        model.set_weights([w for layer in weights for w in layer])
        return model

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Returns the input shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON can hold them."""
        return super().get_config() | {
            "depth": self.depth,
            "concave": self.concave,
            "trainable_scales": self.trainable_scales,
            "peaks": copy.deepcopy(self.peaks),
            "form": self.form,
            "seed": self.seed,
        }


def _raw(peaks: np.ndarray) -> np.ndarray:
    """Returns the weights whose sigmoid is the peaks, away from 0 and 1."""
    share = (peaks - _MARGIN) / (1 - 2 * _MARGIN)
    return special.logit(np.clip(share, _FLAT, 1 - _FLAT)) / _SLOPE


@register_layer(TriangleWave)
def _rule(layer: TriangleWave) -> LayerRule:
    wave = Geometry("wave")
    return LayerRule({"peaks": wave, "log_ratios": wave})
