"""The scale of a residual branch."""

from __future__ import annotations

from typing import Any

import keras

from keras_initx.inspection.geometry import Geometry
from keras_initx.inspection.layer_rule import LayerRule, register_layer
from keras_initx.theory.residual.schemes import stable_resnet_scale
from keras_initx.validation import check_bool, check_int, check_real, refuse


@keras.saving.register_keras_serializable(package="keras_initx")
class BranchScale(keras.layers.Layer):
    """Multiplies a residual branch by a constant or by a trainable weight.

        x + BranchScale(...)(branch(x))

    The scale is given in one of four ways:

        depth=L, exponent=b    constant L^(-b)
        index=l                constant 1 / (sqrt(l) log(l + 1))
        constant=c             constant c
        initial_value=c        trainable, with the initial value c; with
                               `per_channel`, one weight for each channel

    The schemes of the literature are:

        depth L, white weights     BranchScale(depth=L)
            (Marion et al.)
        depth L, smooth weights    BranchScale(depth=L, exponent=1.0)
        Stable ResNet, uniform     BranchScale(depth=L)
        Stable ResNet, decreasing  BranchScale(index=l)
        SkipInit, ReZero           BranchScale(initial_value=0.0)
        LayerScale                 BranchScale(initial_value=1e-5,
                                               per_channel=True)

    In bfloat16 anything below 1/256 of the skip is rounded away when the two
    are added: give `Residual` blocks with a small scale, or in a very deep
    network, `dtype="float32"`.

    Args:
        depth: int. The number L of branches in the network, at least 1.
        exponent: float. The exponent b that belongs to `depth`, at least 0.
            Defaults to 1/2.
        index: int. The index l of the branch in the whole network, from 1 on.
        constant: float. The constant c.
        initial_value: float. The initial value c of a trainable scale.
        per_channel: bool. Whether a trainable scale has one weight for each
            entry of the last axis. Defaults to False.
        **kwargs: Arguments of `keras.layers.Layer`.

    Returns:
        When called with a tensor: a tensor of the same shape, in the layer's
        compute dtype.

    Raises:
        ValueError: If not exactly one of the four is given, if one is out of
            range, or if `exponent` or `per_channel` belongs to another one.

    Example:

    >>> x = keras.ops.ones((2, 3))
    >>> f"{BranchScale(depth=100)(x)[0, 0]:.1f}"
    '0.1'

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
        ways = {
            "depth": depth,
            "index": index,
            "constant": constant,
            "initial_value": initial_value,
        }
        given: dict[str, Any] = {
            name: v for name, v in ways.items() if v is not None
        }
        if len(given) != 1:
            raise ValueError(
                "BranchScale takes exactly one of depth, index, constant and "
                f"initial_value. Received: {given or 'none of them'}"
            )
        if exponent is not None and depth is None:
            refuse(
                "exponent must be None without depth.",
                exponent=exponent,
                **given,
            )
        if isinstance(depth, float):
            refuse(
                "depth must be the number of branches, an int. A scale that is "
                "known is BranchScale(constant=...).",
                depth=depth,
            )
        self.per_channel = check_bool("per_channel", per_channel)
        if per_channel and initial_value is None:
            refuse(
                "per_channel must be False without initial_value, which makes "
                "the scale trainable.",
                per_channel=per_channel,
                **given,
            )
        self.depth = check_int("depth", depth, 1, optional=True)
        self.exponent = check_real(
            "exponent", exponent, "[0, inf)", optional=True
        )
        self.index = check_int("index", index, 1, optional=True)
        self.constant = check_real("constant", constant, optional=True)
        self.initial_value = check_real(
            "initial_value", initial_value, optional=True
        )
        # A trainable scale is a weight, added when the layer is built.
        self.scale = self._constant_scale()

    def _constant_scale(self) -> float | None:
        if self.depth is not None:
            exponent = 0.5 if self.exponent is None else self.exponent
            return float(self.depth) ** -exponent
        if self.index is not None:
            return stable_resnet_scale(self.index)
        return self.constant

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Adds the weight of a trainable scale."""
        if self.initial_value is not None:
            if self.per_channel:
                if not input_shape or input_shape[-1] is None:
                    refuse(
                        "per_channel needs a last axis of known size.",
                        input_shape=input_shape,
                    )
                # An input whose last axis is 1 would be broadcast.
                self.input_spec = keras.InputSpec(axes={-1: input_shape[-1]})
            self.scale = self.add_weight(
                shape=input_shape[-1:] if self.per_channel else (),
                initializer=keras.initializers.Constant(self.initial_value),
                name="scale",
            )
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Returns the inputs times the scale."""
        return keras.ops.multiply(
            keras.ops.cast(inputs, self.compute_dtype), self.scale
        )

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Returns the input shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON can hold them."""
        return super().get_config() | {
            "depth": self.depth,
            "exponent": self.exponent,
            "index": self.index,
            "constant": self.constant,
            "initial_value": self.initial_value,
            "per_channel": self.per_channel,
        }


@register_layer(BranchScale)
def _rule(layer: BranchScale) -> LayerRule:
    start = layer.initial_value
    initializer = None if start is None else keras.initializers.Constant(start)
    scale = Geometry("branch scale", initializer=initializer)
    return LayerRule({"scale": scale})
