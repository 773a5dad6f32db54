"""The scale of a residual branch."""

from __future__ import annotations

from typing import Any

import keras

from keras_initx import theory
from keras_initx.inspection.geometry import Geometry
from keras_initx.inspection.layer_rule import LayerRule, register_layer
from keras_initx.validation import check_int, is_real


@keras.saving.register_keras_serializable(package="keras_initx")
class BranchScale(keras.layers.Layer):
    """Multiplies a residual branch by a constant, or by a trainable weight.

        x + BranchScale(...)(branch(x))

    The scale is one of four, each an argument of its own:

        depth=L, exponent=b    constant L^(-b)
        index=l                constant 1 / (sqrt(l) log(l + 1))
        constant=c             constant c
        initial_value=c        trainable, from c on; with `per_channel`, a
                               weight a channel

    The schemes of the literature are choices of these, with their defaults:

        depth L, white weights     BranchScale(depth=L)
            (Marion et al.)
        depth L, smooth weights    BranchScale(depth=L, exponent=1.0)
        Stable ResNet, uniform     BranchScale(depth=L)
        Stable ResNet, decreasing  BranchScale(index=l)
        SkipInit, ReZero           BranchScale(initial_value=0.0)
        LayerScale                 BranchScale(initial_value=1e-5,
                                               per_channel=True)

    In bfloat16 what is less than 1/256 of the skip is rounded away when it is
    added: give very deep or hardly scaled `Residual` blocks `dtype="float32"`.

    Args:
        depth: L, number of branches in the network, an int >= 1.
        exponent: Of `depth`, finite and >= 0; by default 1/2.
        index: l, of the branch in the whole network, an int >= 1.
        constant: A finite number.
        initial_value: A finite number.
        per_channel: Whether a trainable scale has one weight for each entry
            of the last axis.
        **kwargs: As in `keras.layers.Layer`.

    Returns:
        When called with a tensor, one of the same shape and dtype.

    Raises:
        ValueError: Not exactly one of the four is given, one is outside its
            range, or `exponent` or `per_channel` are of another than is given.

    Example:

    >>> x = keras.ops.ones((2, 3))
    >>> BranchScale(depth=100)(x)[0, 0].numpy()
    np.float32(0.1)

    Reference: Marion, Fermanian, Biau & Vert, JMLR 26(56), 2025,
    arXiv:2206.06929; Hayou et al., AISTATS (2021), arXiv:2010.12859 (Stable
    ResNet); De & Smith, NeurIPS (2020), arXiv:2002.10444 (SkipInit);
    Bachlechner et al., UAI (2021), arXiv:2003.04887 (ReZero); Touvron et al.,
    ICCV (2021), arXiv:2103.17239 (LayerScale: 1e-5 at 24 layers, 1e-6 at 36).
    """

    def __init__(
        self,
        depth: int | None = None,
        exponent: float | None = None,
        index: int | None = None,
        constant: float | None = None,
        initial_value: float | None = None,
        per_channel: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        choices = {
            "depth": depth,
            "index": index,
            "constant": constant,
            "initial_value": initial_value,
        }
        given = {name: v for name, v in choices.items() if v is not None}
        if len(given) != 1:
            raise ValueError(
                "BranchScale takes exactly one of depth, index, constant and "
                f"initial_value. Received: {given or 'none of them'}"
            )
        for name, value in given.items():
            if not is_real(value):
                raise ValueError(
                    f"{name} must be a finite number. "
                    f"Received: {name}={value!r}"
                )
        if depth is not None:
            check_int("depth", depth, 1)
        elif exponent is not None:
            raise ValueError(
                "exponent is of depth. "
                f"Received: {given}, exponent={exponent!r}"
            )
        if exponent is not None and not (is_real(exponent) and exponent >= 0):
            raise ValueError(
                "exponent must be finite and >= 0. "
                f"Received: exponent={exponent!r}"
            )
        if per_channel and initial_value is None:
            raise ValueError(
                "per_channel is of a trainable scale, which has an "
                f"initial_value. Received: {given}, per_channel={per_channel!r}"
            )
        # As JSON has them, also where they came from NumPy.
        self.depth = None if depth is None else int(depth)
        self.exponent = _float(exponent)
        self.scale = self._constant(index, constant)
        self.index = None if index is None else int(index)
        self.constant = _float(constant)
        self.initial_value = _float(initial_value)
        self.per_channel = bool(per_channel)

    def _constant(
        self, index: int | None, constant: float | None
    ) -> float | None:
        if self.depth is not None:
            exponent = 0.5 if self.exponent is None else self.exponent
            return float(self.depth) ** -exponent
        if index is not None:
            return theory.stable_resnet_scale(index)
        return _float(constant)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if self.initial_value is not None:
            if self.per_channel:
                if not input_shape or input_shape[-1] is None:
                    raise ValueError(
                        "per_channel needs a last axis of known size. "
                        f"Received: input_shape={input_shape}"
                    )
                # A last axis of 1 would be broadcast.
                self.input_spec = keras.InputSpec(axes={-1: input_shape[-1]})
            self.scale = self.add_weight(
                shape=input_shape[-1:] if self.per_channel else (),
                initializer=keras.initializers.Constant(self.initial_value),
                name="scale",
            )
        self.built = True

    def call(self, inputs: Any) -> Any:
        return keras.ops.multiply(
            keras.ops.cast(inputs, self.compute_dtype), self.scale
        )

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, fit for JSON."""
        return super().get_config() | {
            "depth": self.depth,
            "exponent": self.exponent,
            "index": self.index,
            "constant": self.constant,
            "initial_value": self.initial_value,
            "per_channel": self.per_channel,
        }


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


@register_layer(BranchScale)
def _rule(layer: BranchScale) -> LayerRule:
    return LayerRule({"scale": Geometry("branch scale")})
