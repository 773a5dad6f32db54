"""Dense layers of width 4 that start as triangle waves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_initx.initializers.base import cast_finite, check_dtype, is_int
from keras_initx.theory.triangle_waves.peaks import (
    FORMS,
    peaks_of,
    plain_peaks,
)
from keras_initx.theory.triangle_waves.weights import (
    join,
    random_head,
    random_projection,
    triangle_wave_weights,
)
from keras_initx.validation import check_bool, check_choice, check_int


class _TriangleWave(keras.initializers.Initializer):
    """What kernels and biases share: the net that they are a part of."""

    # Kernels and biases of one net follow from one seed.
    shares_seed = True

    def __init__(
        self,
        depth: int,
        index: int,
        concave: bool = True,
        form: str = "ramp",
        peaks: Sequence[float] | Sequence[Sequence[float]] | None = None,
        seed: int | None = None,
    ):
        check_int("depth", depth, 1)
        self.concave = check_bool("concave", concave)
        check_choice("form", form, FORMS)
        if not (is_int(index) and 0 <= index <= depth):
            raise ValueError(
                f"index must be an int from 0 to depth = {depth}, which is the "
                f"output. Received: index={index!r}"
            )
        if seed is not None:
            check_int("seed", seed, 0)
        elif peaks is None:
            raise ValueError(
                "seed must be an int, the same one in all layers, for they "
                f"are parts of one net; or give peaks. Received: seed={seed!r}"
            )
        self.depth = int(depth)
        self.index = int(index)
        self.form = form
        self.peaks = None if peaks is None else plain_peaks(peaks, self.depth)
        self.seed = None if seed is None else int(seed)

    def weights(self, shape: tuple[int, ...]) -> np.ndarray:
        """What the weights of that shape are, float64."""
        raise NotImplementedError

    # Nothing in it depends on tensors, and translating it takes seconds.
    @tf.autograph.experimental.do_not_convert
    def __call__(self, shape: Sequence[int], dtype: Any = None) -> tf.Tensor:
        """Weights of that shape.

        Args:
            shape: Of the weights, ints.
            dtype: "float16", "bfloat16", "float32" or "float64"; by default
                `keras.config.floatx()`.

        Returns:
            A tensor, computed in float64 and cast last, clipped to the range
            of the dtype.

        Raises:
            ValueError: The dtype is another one, or the shape is not that of
                this layer of such a net.
        """
        dtype = check_dtype(dtype)
        values = self.weights(tuple(int(size) for size in shape))
        return cast_finite(tf.constant(values, tf.float64), dtype)

    def _layers(self, blocks: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Kernel and bias of this layer of each block."""
        peaks = peaks_of(self.peaks, self.depth, blocks, self.seed)
        return [
            triangle_wave_weights(a, self.concave, self.form)[self.index]
            for a in peaks
        ]

    def _blocks(self, shape: tuple[int, ...], units: int) -> int:
        if units % 4 or not units:
            raise ValueError(
                "hidden layers must have a multiple of 4 units, 4 for each "
                f"triangle wave. Received: shape={shape}"
            )
        return units // 4

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, fit for JSON."""
        return {
            "depth": self.depth,
            "index": self.index,
            "concave": self.concave,
            "form": self.form,
            "peaks": self.peaks,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="keras_initx")
class TriangleWaveKernel(_TriangleWave):
    """The kernel of one Dense layer in a net that starts as triangle waves.

    `depth` layers of 4 units with relu, and one without, with the kernels of
    index 0, ..., depth and the biases of `TriangleWaveBias`, are the curve of
    `theory.triangle_wave`, in 2^depth linear pieces:

        x -> Dense(4, "relu") -> ... -> Dense(4, "relu") -> Dense(1)

    With 4 B units there are B such nets in blocks. Each takes one sum of the
    inputs, with random weights whose magnitudes sum to 1 (positive ones for
    "ramp"), or the input itself if there is one; the output sums the blocks
    with random weights of variance 1 / B, or takes the block if there is one.
    So inputs should be in [0, 1] for "ramp", in [-1, 1] for "v".
    `models.triangle_wave_network` puts such a net together.

    Args:
        depth: Number of hidden layers, an int >= 1.
        index: Of the layer, from 0 to depth, which is the output.
        concave: True adds the waves, which makes the curve concave; False
            subtracts them, which makes it convex.
        form: "ramp" goes from (0, 0) to (1, 1); "v" is on [-1, 1], from 1 to 0
            and back if convex, upside down if concave.
        peaks: depth + 1 numbers in (0, 1), for all blocks alike, or such a
            list for each. By default uniform in (0.05, 0.95).
        seed: An int >= 0, the same one in all layers of a net; with peaks, of
            one block with one input, None will do.

    Returns:
        When called with a shape and dtype, weights in float16, bfloat16,
        float32 or float64.

    Raises:
        ValueError: An argument is none of these, or the shape is not (in, 4 B)
            for index 0, (4 B, out) for the output and (4 B, 4 B) between.

    Example:

    >>> net = {"depth": 2, "concave": False, "peaks": [0.5, 0.5, 0.5]}
    >>> layers = [
    ...     keras.layers.Dense(
    ...         units,
    ...         activation,
    ...         kernel_initializer=TriangleWaveKernel(index=k, **net),
    ...         bias_initializer=TriangleWaveBias(index=k, **net),
    ...     )
    ...     for k, (units, activation) in enumerate(
    ...         [(4, "relu"), (4, "relu"), (1, None)]
    ...     )
    ... ]
    >>> y = keras.Sequential(layers)(np.array([[0.0], [0.5], [1.0]]))
    >>> keras.ops.convert_to_numpy(y).ravel().tolist()
    [0.0, 0.25, 1.0]

    Reference: Milkert, Hyde & Laine, ICML (2025), arXiv:2311.18022, sections
    4 and 5. The sums in and out of blocks are ours.
    """

    def weights(self, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) != 2:
            raise ValueError(
                "TriangleWaveKernel is of Dense layers, whose kernels have two "
                f"axes. Received: shape={shape}"
            )
        first, last = self.index == 0, self.index == self.depth
        blocks = self._blocks(shape, shape[1] if first else shape[0])
        if not first and not last and shape[0] != shape[1]:
            raise ValueError(
                "between the first layer and the output a kernel must be "
                f"square. Received: shape={shape}"
            )
        before = after = None
        if first:
            self._need_seed(shape, shape[0])
            before = random_projection(
                shape[0], blocks, self.form, self.seed or 0
            )
        if last:
            self._need_seed(shape, blocks)
            after = random_head(blocks, shape[1], self.seed or 0)
        kernel, _ = join(self._layers(blocks), before, after)
        return kernel

    def _need_seed(self, shape: tuple[int, ...], summands: int) -> None:
        if self.seed is None and summands > 1:
            raise ValueError(
                "seed must be an int where several inputs or blocks are "
                f"summed, with random weights. Received: seed=None, "
                f"shape={shape}"
            )


@keras.saving.register_keras_serializable(package="keras_initx")
class TriangleWaveBias(_TriangleWave):
    """The bias of one Dense layer in a net that starts as triangle waves.

    Thresholds at the peaks for index 0, zeros in all other layers.

    Args:
        depth: As in `TriangleWaveKernel`.
        index: As in `TriangleWaveKernel`.
        concave: As in `TriangleWaveKernel`.
        form: As in `TriangleWaveKernel`.
        peaks: As in `TriangleWaveKernel`.
        seed: As in `TriangleWaveKernel`.

    Returns:
        When called with a shape and dtype, weights in float16, bfloat16,
        float32 or float64.

    Raises:
        ValueError: An argument is none of these, or the shape is not (4 B,)
            for the hidden layers, (out,) for the output.

    Example:

    >>> bias = TriangleWaveBias(depth=2, index=0, peaks=[0.25, 0.5, 0.5])
    >>> keras.ops.convert_to_numpy(bias((4,))).tolist()
    [0.0, 0.0, -0.25, 1.0]

    Reference: Milkert, Hyde & Laine, ICML (2025), arXiv:2311.18022, sections
    4 and 5.
    """

    def weights(self, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) != 1:
            raise ValueError(
                "TriangleWaveBias is of Dense layers, whose biases have one "
                f"axis. Received: shape={shape}"
            )
        if self.index == self.depth:
            return np.zeros(shape)
        _, bias = join(self._layers(self._blocks(shape, shape[0])))
        return bias
