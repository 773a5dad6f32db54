"""Kernels whose halves are equal or opposite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_initx.initializers.base import LARGEST
from keras_initx.initializers.scaled import Wrapper
from keras_initx.validation import check_choice, check_real, refuse


@keras.saving.register_keras_serializable(package="keras_initx")
class Paired(Wrapper):
    """Kernels built of one block, whose halves are equal or opposite.

        outputs=-1          [B, -B]           outputs=1    [B, B]
        inputs=-1           [B; -B]           inputs=1     [B; B]
        inputs=outputs=-1   [[B, -B], [-B, B]]

    The rows of a kernel are its inputs and the columns its outputs; a semicolon
    puts a block below another one. The block B is drawn by another initializer,
    at half the size of each paired axis. A layer with outputs=-1 has the
    pre-activations u and -u, and the next one, with inputs=-1, computes

        B phi(u) - B phi(-u) = c B u    if phi(u) - phi(-u) = c u

    Relu, leaky relu, GELU, SiLU, softplus, hard SiLU and a few others have that
    property, with c = 1 / sqrt(theory.paired_scale(activation)). A plain
    network of any depth then starts as a LINEAR map, and with orthogonal blocks
    of scale 1 / c^2 as an isometry: all singular values of its Jacobian are 1.
    With unpaired weights a relu network cannot do that, since in each layer
    half of the directions are lost. The pairing holds at the start only:
    training breaks it at the first step.

        layer                               inputs    outputs
        network that starts linear
            ("looks-linear"): first layer   None      -1
            hidden layers                   -1        -1
            last layer                      -1        None
        coupled pairs, zero output:
            hidden layer                    None      1
            last layer                      -1        None
        injective relu layer                None      -1

    `kx.paired` returns the initializers of the layers of a whole model, for
    `kx.initialize`, and refuses a model that breaks the pairing.

    - Biases must be zero. Normalization, dropout, max pooling and residual
      connections between the layers break the pairing, and so do grouped and
      depthwise convolutions. Average pooling keeps it.
    - Rounding adds up: after 200 layers the singular values are within 1e-4 of
      1 in float32, and within 0.1 in mixed_bfloat16.
    - Orthogonal blocks keep the norm of the signal, not the variance of its
      units, see `DeltaOrthogonal`.
    - Coupled pairs give an output of zero up to rounding only: below 1e-4 in
      float32 for 4096 units. In a network with several hidden layers, coupling
      the last one makes the gradients of all layers below it exactly zero at
      the first step. Those of the two coupled layers are not zero.
    - An injective relu layer starts so, and need not stay so. The inverse has
      the Lipschitz constant sqrt(2) for an orthogonal block.

    Args:
        initializer: An instance, name or config of a Keras initializer, which
            draws the block. Use `DeltaOrthogonal` for convolutions: Keras's
            "orthogonal" is no isometry of a convolution. Defaults to
            "orthogonal".
        inputs: int. -1 if the second half of the inputs has the weights of the
            first half times -1, 1 if they are equal, None for unpaired inputs.
            Channel i and channel i + c_in / 2 are a pair. Defaults to None.
        outputs: int. -1, 1 or None, likewise for the outputs. Defaults to None.
        scale: float. Multiplies the variance of the block, from 0 to 1e30:
            `theory.paired_scale` of the activation before the layer. Defaults
            to 1.
        input_axes: list of int. The axes of the kernel that the layer sums
            over. `EinsumDense` and attention layers set them.
        output_axes: list of int. The axes of the kernel that the layer's
            output has. `EinsumDense` and attention layers set them.
        seed: None, int or `keras.random.SeedGenerator`. None keeps the seed of
            the initializer, anything else replaces it.

    Returns:
        When called with a shape and a dtype: weights in float16, bfloat16,
        float32 or float64.

    Raises:
        ValueError: If an argument has another type or is out of range, or if
            the initializer does not take a seed. When called: if a paired axis
            has an odd size, or if there are several axes of inputs or outputs
            that are paired, as in attention layers.

    Example:

    >>> kernel = Paired("he_normal", inputs=-1, outputs=-1, seed=1)((4, 6))
    >>> block = kernel[:2, :3]
    >>> bool(keras.ops.all(kernel[2:, 3:] == block))
    True
    >>> bool(keras.ops.all(kernel[:2, 3:] == -block))
    True

    Reference: Balduzzi et al., ICML (2017), arXiv:1702.08591, and Burkholz &
    Dubatovka, NeurIPS (2019), for relu networks that start linear; Munteanu et
    al., ICML (2022), arXiv:2206.12802, for coupled pairs; Puthawala et al.,
    JMLR (2022), arXiv:2006.08464, for injective relu layers. Other activations
    than relu and leaky relu are derived here.
    """

    entrywise = False
    # The initializer inside it warns.
    uses_fan_in = False

    def __init__(
        self,
        initializer: keras.initializers.Initializer
        | str
        | dict[str, Any] = "orthogonal",
        inputs: int | None = None,
        outputs: int | None = None,
        scale: float = 1.0,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
        seed: int | keras.random.SeedGenerator | None = None,
    ):
        super().__init__(initializer, input_axes, output_axes, seed)
        self.inputs = check_choice("inputs", inputs, (-1, 1), optional=True)
        self.outputs = check_choice("outputs", outputs, (-1, 1), optional=True)
        self.scale = check_real("scale", scale, "[0, 1e30]")

    def draw(self, shape: tuple[int, ...], fan_in: int) -> Any:
        """Returns the block and its copies, in float32."""
        rows, columns = self.axes_for(shape)
        pairs = [
            (self._axis(name, axes, default, shape), sign)
            for name, sign, axes, default in (
                ("outputs", self.outputs, columns, -1),
                ("inputs", self.inputs, rows, -2),
            )
            if sign is not None
        ]
        half = list(shape)
        for axis, _ in pairs:
            half[axis] //= 2
        weights = self.inner_weights(tuple(half)) * math.sqrt(self.scale)
        for axis, sign in pairs:
            weights = keras.ops.concatenate([weights, sign * weights], axis)
        limit = LARGEST["float32"]
        return keras.ops.clip(weights, -limit, limit)

    def _axis(
        self,
        name: str,
        axes: Sequence[int] | None,
        default: int,
        shape: tuple[int, ...],
    ) -> int:
        """Returns the axis of the kernel whose halves are paired."""
        axes = [default] if axes is None else axes
        if len(axes) != 1 or len(shape) < 2:
            refuse(
                f"{name} must be None unless the kernel has one axis of "
                f"{name}. This kernel has the shape {shape}, and {len(axes)} "
                f"axes of {name}.",
                **{name: getattr(self, name)},
            )
        (axis,) = axes
        if shape[axis] % 2:
            refuse(
                f"{name} must be None unless the number of {name} is even. "
                f"This kernel has the shape {shape}, and {shape[axis]} {name}.",
                **{name: getattr(self, name)},
            )
        return axis % len(shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON can hold them."""
        return {
            "inputs": self.inputs,
            "outputs": self.outputs,
            "scale": self.scale,
        } | super().get_config()
