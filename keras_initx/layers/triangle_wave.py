"""Triangle waves whose peaks are trained."""

from __future__ import annotations

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
from keras_initx.validation import check_bool, check_choice, check_int

# Peaks stay this far from 0 and 1, where the next wave would vanish.
_MARGIN = 1e-3
# With it the peak moves at the pace of its weight, near 1/2.
_SLOPE = 4.0
# At the start the sigmoid is not nearer to 0 and 1, from where it would move
# too slowly.
_FLAT = 2.5e-3


@keras.saving.register_keras_serializable(package="keras_initx")
class TriangleWave(keras.layers.Layer):
    """A curve of 2^depth linear pieces on each feature, by its peaks.

        F = x + (s_0 W_0 + ... + s_(d-1) W_(d-1))        "ramp", concave
        F = x - (s_0 W_0 + ... + s_(d-1) W_(d-1))        "ramp", convex
        F = s_0 W_0 + ... + s_(d-1) W_(d-1)              "v", concave
        F = 1 - (s_0 W_0 + ... + s_(d-1) W_(d-1))        "v", convex

    with W_i the triangle waves of `theory.triangle_wave`. Its weights are
    d + 1 peaks a feature; it equals a relu net of width 4 and d hidden layers,
    which `to_dense` writes out, for all further training of all its weights.

    With scales by the rule a ramp takes values in [0, 1] to [0, 1], and so fits
    what goes through (0, 0) and (1, 1) and is flat at 1 if it is concave, or at
    0 if it is convex. A v takes [-1, 1] to [0, 1]: a convex one is 1 at both
    ends and 0 between, a concave one is upside down. Outside, ramps are 0 to
    the left and a line to the right, as the relu net, and a v goes on in its
    outer pieces. Trained scales may leave the family: where a partial sum of
    the waves falls below 0, relu cuts it, and the layer is the relu net, not
    the formula.

    Peaks are kept inside by a sigmoid, and computed with in float32 at least,
    since each wave doubles the rounding errors of the one before.

    Args:
        depth: d, an int >= 1.
        concave: Whether the curve is concave or convex.
        trainable_scales: False ties the scales to the peaks as
            `theory.triangle_wave_scales` does; True starts there, and trains
            the logarithms of their ratios as well.
        peaks: At the start: d + 1 numbers in (0, 1), for all features alike,
            or such a list for each; nearer to 0 and 1 than 0.0035 they start
            there. By default uniform in (0.05, 0.95).
        form: "ramp" or "v".
        seed: Of the peaks, an int or None.
        **kwargs: As in `keras.layers.Layer`.

    Returns:
        When called with a tensor of shape (..., features), one of the same
        shape.

    Raises:
        ValueError: An argument is none of these.

    Example:

    >>> layer = TriangleWave(depth=5, concave=False, peaks=[0.5] * 6)
    >>> y = layer(np.array([[0.25], [0.5]]))  # x^2 at all halves
    >>> keras.ops.convert_to_numpy(y).ravel().tolist()
    [0.0625, 0.25]
    >>> [layer.units for layer in layer.to_dense().layers]
    [4, 4, 4, 4, 4, 1]

    Reference: Milkert, Hyde & Laine, ICML (2025), arXiv:2311.18022, theorem
    3.1 and section 4. The sigmoid, and logarithms of trained scales, are ours:
    they train both as they are.
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
        check_int("depth", depth, 1)
        self.concave = check_bool("concave", concave)
        self._sign = 1 if concave else -1
        self.trainable_scales = check_bool("trainable_scales", trainable_scales)
        if seed is not None:
            check_int("seed", seed, 0)
        self.depth = int(depth)
        self.form = check_choice("form", form, FORMS)
        self.peaks = None if peaks is None else plain_peaks(peaks, self.depth)
        self.seed = None if seed is None else int(seed)
        # That of the config stays None, so that a copy draws anew.
        self._drawn = keras.initializers.RandomUniform(seed=self.seed).seed

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        features = input_shape[-1] if input_shape else None
        if features is None:
            raise ValueError(
                "TriangleWave needs a last axis of known size. "
                f"Received: input_shape={input_shape}"
            )
        self.input_spec = keras.InputSpec(axes={-1: features})
        self._sample_shape = tuple(input_shape[1:])
        start = peaks_of(self.peaks, self.depth, features, self._drawn)
        self.raw_peaks = self._weight("peaks", _raw(start))
        self.log_ratios = None
        if self.trainable_scales:
            s = [
                triangle_wave_scales(a, self.concave, self.form) for a in start
            ]
            steps = np.diff(np.log(s), axis=1, prepend=0)
            self.log_ratios = self._weight("log_ratios", steps)
        self.built = True

    def _weight(self, name: str, value: np.ndarray) -> keras.Variable:
        return self.add_weight(
            shape=value.shape,
            initializer=lambda shape, dtype: keras.ops.cast(value, dtype),
            name=name,
            # Never bfloat16 where the variable is float32.
            autocast=False,
        )

    def curves(self) -> tuple[Any, Any]:
        """The peaks and scales of the features as they are now.

        Returns:
            Tensors of the shapes (features, depth + 1) and (features, depth),
            in float32 or float64.
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
        if self.form == "v":
            first = keras.ops.ones_like(a[:, :1])
        else:
            first = (1 - a[:, :1] if self._sign == 1 else a[:, :1]) * a[:, 1:2]
        rest = (1 - a[:, 1:-1]) * a[:, 2:]
        return keras.ops.concatenate([first, rest], axis=1)

    def call(self, inputs: Any) -> Any:
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
            # As the units of the relu net, outside of the interval.
            if k < self.depth - 1:
                total = relu(total)
                wave = relu(wave) if self.form == "ramp" else wave
        return keras.ops.cast(total, self.compute_dtype)

    def to_dense(self, connect_features: bool = True) -> keras.Sequential:
        """A relu net of Dense layers that computes the same.

        All of its weights can be trained; the layer is left as it is.

        Args:
            connect_features: Whether training may connect the nets of several
                features, which lie side by side.

        Returns:
            A model of `depth` layers with 4 units a feature and relu, and one
            without. It has the dtype policy of the layer; in bfloat16, deep
            waves are no longer what they were.

        Raises:
            ValueError: The layer has not been built, or the argument is not
                one of these.
        """
        if not self.built:
            raise ValueError(
                "to_dense needs a layer that was called or built. "
                f"Received: {self.name}, which was not"
            )
        peaks, scales = map(keras.ops.convert_to_numpy, self.curves())
        one_each = np.eye(len(peaks))
        weights = side_by_side(
            [
                triangle_wave_weights(a, self.concave, self.form, s)
                for a, s in zip(peaks, scales, strict=True)
            ],
            one_each,
            one_each,
        )
        model = relu_stack(
            self._sample_shape,
            self.depth,
            blocks=len(peaks),
            outputs=len(peaks),
            connect_blocks=check_bool("connect_features", connect_features),
            dtype=self.dtype_policy,
            own_ends=True,
        )
        model.set_weights([w for layer in weights for w in layer])
        return model

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, fit for JSON."""
        return super().get_config() | {
            "depth": self.depth,
            "concave": self.concave,
            "trainable_scales": self.trainable_scales,
            "peaks": self.peaks,
            "form": self.form,
            "seed": self.seed,
        }


def _raw(peaks: np.ndarray) -> np.ndarray:
    """The weights whose sigmoid is the peaks, or as near as it moves."""
    share = (peaks - _MARGIN) / (1 - 2 * _MARGIN)
    return special.logit(np.clip(share, _FLAT, 1 - _FLAT)) / _SLOPE


@register_layer(TriangleWave)
def _rule(layer: TriangleWave) -> LayerRule:
    wave = Geometry("wave")
    return LayerRule({"peaks": wave, "log_ratios": wave})
