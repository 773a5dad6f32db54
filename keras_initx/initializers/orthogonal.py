"""Random orthogonal matrices, and convolution kernels made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_initx.initializers.dirac import CenterKernel
from keras_initx.validation import check_int, check_real, refuse


def random_orthogonal(
    count: int,
    rows: int,
    columns: int,
    seed: int | keras.random.SeedGenerator,
) -> Any:
    """Returns uniformly distributed matrices with orthonormal rows or columns.

    The rows are orthonormal if they are no more than the columns, and the
    columns if they are no more than the rows.

    Args:
        count: int. The number of matrices.
        rows: int. The number of rows.
        columns: int. The number of columns.
        seed: int or `keras.random.SeedGenerator`. The seed.

    Returns:
        Float32 tensor of shape `(count, rows, columns)`.

    Reference: Mezzadri, Notices of the AMS 54 (2007), arXiv:math-ph/0609050:
    the signs of the diagonal make the factor Q uniform.
    """
    tall = (count, max(rows, columns), min(rows, columns))
    if 0 in tall:
        return keras.ops.zeros((count, rows, columns), "float32")
    normal = keras.random.normal(tall, dtype="float32", seed=seed)
    # The factorization is not NumPy's, whose threads wait for one another where
    # fewer cores are free than the machine shows, as in containers.
    q, r = keras.ops.qr(normal)
    negative = keras.ops.diagonal(r, axis1=-2, axis2=-1) < 0
    signs = 1 - 2 * keras.ops.cast(negative, "float32")
    q = q * signs[:, None, :]
    return q if rows >= columns else keras.ops.swapaxes(q, 1, 2)


@keras.saving.register_keras_serializable(package="keras_initx")
class DeltaOrthogonal(CenterKernel):
    """Convolution kernels that are an orthogonal matrix at their center.

        w[mid] = gain Q,    0 elsewhere

    Here `mid` is the center of the window, and Q a random matrix of shape
    (c_in, c_out) whose rows are orthonormal if c_in <= c_out, and whose columns
    are if c_in >= c_out. Each position is multiplied by Q alone, so with
    stride 1 and padding "same" the layer is an isometry at gain 1: it keeps the
    norm of every input, and all singular values of its Jacobian are 1.
    `keras.initializers.Orthogonal` flattens the window, and its convolution is
    no isometry: over 50 layers of 16 channels and windows of 3 by 3 the median
    singular value falls to 1e-7.

    The layer keeps the norm of the signal, not the variance of a channel. If
    c_out > c_in, the norm is spread over more channels, and the variance of a
    channel falls to the share c_in / c_out. From c_in to fewer channels all
    singular values are 1 too, but c_in - c_out directions are lost, and with
    them the share 1 - c_out / c_in of the energy of an input whose channels are
    independent and of equal variance. A convolution with strides passes on the
    positions that it visits, and padding "valid" cuts off the border: both lose
    the rest.

    The initializer is meant for `Dense` and `EinsumDense`, which have no
    window, and for `Conv1D`, `Conv2D` and `Conv3D`. A grouped convolution
    needs `groups`, and has one matrix for each group. For depthwise and
    transposed kernels use `kx.initialize`, which knows their axes; a depthwise
    kernel then is -1 or 1 at its center. Given to a `DepthwiseConv2D` itself,
    the initializer takes the kernel for that of a convolution with one output,
    which has the same shape, and its weights are too small by a factor of
    about sqrt(channels). The center of an even window is at
    (size - 1) // 2, which padding "same" lays over the position itself.

    Args:
        gain: float. The factor of the orthogonal matrix, from -1e30 to 1e30.
            -Q is distributed as Q is, so the sign makes no difference, as in
            `keras.initializers.Orthogonal`. Defaults to 1.
        groups: int. The groups of the convolution, at least 1.
            `kx.initialize` sets it by the layer. Defaults to 1.
        input_axes: list of int. The axes of the kernel that the layer sums
            over. `EinsumDense` and attention layers set them.
        output_axes: list of int. The axes of the kernel that the layer's
            output has. `EinsumDense` and attention layers set them.
        seed: None, int or `keras.random.SeedGenerator`. The seed. With an int,
            kernels of equal shape get equal weights.

    Returns:
        When called with a shape and a dtype: weights in float16, bfloat16,
        float32 or float64.

    Raises:
        ValueError: If an argument is out of range. When called: if the number
            of outputs is no multiple of `groups`, or if the axes are not each
            axis of the kernel once.

    Example:

    >>> layer = keras.layers.Conv2D(
    ...     8, 3, padding="same", kernel_initializer=DeltaOrthogonal()
    ... )
    >>> x = keras.random.normal((1, 5, 5, 8))
    >>> y = layer(x)
    >>> f"{keras.ops.norm(y[0, 2, 3]) / keras.ops.norm(x[0, 2, 3]):.3f}"
    '1.000'

    Reference: Xiao et al., ICML (2018), arXiv:1806.05393, for windows of odd
    size and c_in <= c_out. The other cases are derived here.
    """

    def __init__(
        self,
        gain: float = 1.0,
        groups: int = 1,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
        seed: int | keras.random.SeedGenerator | None = None,
    ):
        super().__init__(None, input_axes, output_axes, seed)
        self.gain = check_real("gain", gain, "[-1e30, 1e30]")
        self.groups = check_int("groups", groups, 1)

    def matrix(self, inputs: int, outputs: int) -> Any:
        """Returns one matrix for each group, beside one another."""
        if outputs % self.groups:
            refuse(
                f"groups must divide the number of outputs, {outputs}.",
                groups=self.groups,
            )
        columns = outputs // self.groups
        blocks = random_orthogonal(self.groups, inputs, columns, self.seed)
        beside = keras.ops.swapaxes(blocks, 0, 1)
        return keras.ops.reshape(beside, (inputs, outputs))

    def draw(self, shape: tuple[int, ...], fan_in: int) -> Any:
        """Returns the weights in float32."""
        return self.structure(shape) * self.gain

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON can hold them."""
        config = super().get_config()
        del config["fan_in"]
        return {"gain": self.gain, "groups": self.groups} | config
