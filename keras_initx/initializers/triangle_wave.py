"""Weights of dense layers of width 4 that compute triangle waves."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_initx import backend
from keras_initx.initializers.base import check_dtype, tensor_of
from keras_initx.theory.triangle_waves.peaks import FORMS, peaks_of, plain_peaks
from keras_initx.theory.triangle_waves.weights import (
    join,
    random_head,
    random_projection,
    triangle_wave_weights,
)
from keras_initx.validation import check_bool, check_choice, check_int, refuse


class _TriangleWave(keras.initializers.Initializer):
    """Base class of kernels and biases, which are parts of one network."""

    # The kernels and biases of a network follow from one seed.
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
        self.depth = check_int("depth", depth, 1)
        # The index of the output is the depth.
        self.index = check_int("index", index, 0, self.depth)
        self.concave = check_bool("concave", concave)
        self.form = check_choice("form", form, FORMS)
        self.peaks = None if peaks is None else plain_peaks(peaks, self.depth)
        if seed is None and peaks is None:
            refuse(
                "seed must be an int, the same one in all layers, since they "
                "are parts of one network; or give peaks.",
                seed=seed,
            )
        self.seed = check_int("seed", seed, 0, optional=True)

    def weights(self, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the weights in float64.

        Args:
            shape: tuple of int. The shape of the kernel or bias.
        """
        raise NotImplementedError

    # Nothing here depends on tensors, and converting it takes seconds.
    @backend.without_autograph
    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        """Returns the weights of the layer.

        Args:
            shape: Sequence of int. The shape of the kernel or bias.
            dtype: str or dtype. One of "float16", "bfloat16", "float32" and
                "float64". Defaults to `keras.config.floatx()`.

        Returns:
            A tensor. The weights are computed in float64, then clipped to the
            range of the dtype and cast.

        Raises:
            ValueError: If the dtype is another one, or if the shape is not
                that of this layer in such a network.
        """
        dtype = check_dtype(dtype)
        values = self.weights(tuple(int(size) for size in shape))
        return tensor_of(values, dtype)

    def _layers(self, blocks: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns the kernel and bias of this layer in each block."""
        peaks = peaks_of(self.peaks, self.depth, blocks, self.seed)
        return [
            triangle_wave_weights(a, self.concave, self.form)[self.index]
            for a in peaks
        ]

    def _blocks(self, shape: tuple[int, ...], units: int) -> int:
        """Returns the number of triangle waves in a layer."""
        if units % 4 or not units:
            refuse(
                "hidden layers must have a multiple of 4 units, 4 for each "
                "triangle wave.",
                shape=shape,
            )
        return units // 4

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON can hold them."""
        return {
            "depth": self.depth,
            "index": self.index,
            "concave": self.concave,
            "form": self.form,
            # Copied, so that a changed config does not change the initializer.
            "peaks": copy.deepcopy(self.peaks),
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="keras_initx")
class TriangleWaveKernel(_TriangleWave):
    """The kernel of a dense layer in a network that starts as triangle waves.

    A network of `depth` layers of 4 units with relu and one without, with the
    kernels of index 0, ..., depth and the biases of `TriangleWaveBias`,
    computes the curve of `theory.triangle_wave`, which has 2^depth linear
    pieces:

        x -> Dense(4, "relu") -> ... -> Dense(4, "relu") -> Dense(1)

    With 4 B units there are B such networks in blocks. Each takes one sum of
    the inputs, with random weights whose magnitudes sum to 1 (positive ones
    for "ramp"), or the input itself if there is only one. The output sums the
    blocks with random weights of variance 1 / B, or takes the block itself if
    there is only one. So inputs should be in [0, 1] for "ramp" and in [-1, 1]
    for "v". `models.triangle_wave_network` builds such a network.

    Args:
        depth: int. The number of hidden layers, at least 1.
        index: int. The index of the layer, from 0 to depth, which is the
            output.
        concave: bool. Whether the waves are added, which makes the curve
            concave, or subtracted, which makes it convex. Defaults to True.
        form: str. "ramp" for a curve from (0, 0) to (1, 1). "v" for a curve
            on [-1, 1] that goes from 1 to 0 and back if it is convex, and
            upside down if it is concave. Defaults to "ramp".
        peaks: Sequence of depth + 1 floats in (0, 1), for all blocks, or one
            such sequence for each block. By default they are uniform in
            (0.05, 0.95).
        seed: int. The seed of the network, at least 0, the same one in all
            layers. It may be None if peaks are given and there is one block
            with one input.

    Returns:
        When called with a shape and a dtype: weights in float16, bfloat16,
        float32 or float64.

    Raises:
        ValueError: If an argument has another type or is out of range. When
            called: if the shape is not (in, 4 B) for index 0, (4 B, out) for
            the output and (4 B, 4 B) between.

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

    Reference: Milkert, Hyde & Laine, ICML (2025), arXiv:2311.18022, sections 4
    and 5. The sums of inputs and of blocks are derived here.
    """

    def weights(self, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the kernel in float64."""
        if len(shape) != 2:
            refuse(
                "TriangleWaveKernel must be used in Dense layers, whose "
                "kernels have two axes.",
                shape=shape,
            )
        first, last = self.index == 0, self.index == self.depth
        blocks = self._blocks(shape, shape[1] if first else shape[0])
        if not first and not last and shape[0] != shape[1]:
            refuse(
                "between the first layer and the output a kernel must be "
                "square.",
                shape=shape,
            )
        before = after = None
        if first:
            self._check_seed(shape, terms=shape[0])
            before = random_projection(
                shape[0], blocks, self.form, self.seed or 0
            )
        if last:
            self._check_seed(shape, terms=blocks)
            after = random_head(blocks, shape[1], self.seed or 0)
        kernel, _ = join(self._layers(blocks), before, after)
        return kernel

    def _check_seed(self, shape: tuple[int, ...], terms: int) -> None:
        if self.seed is None and terms > 1:
            refuse(
                "seed must be an int if several inputs or blocks are summed, "
                "which takes random weights.",
                seed=None,
                shape=shape,
            )


@keras.saving.register_keras_serializable(package="keras_initx")
class TriangleWaveBias(_TriangleWave):
    """The bias of a dense layer in a network that starts as triangle waves.

    The bias of index 0 holds the thresholds at the first peak, all other
    biases are 0. See `TriangleWaveKernel`.

    Args:
        depth: int. The number of hidden layers, at least 1.
        index: int. The index of the layer, from 0 to depth, which is the
            output.
        concave: bool. Whether the curve is concave or convex. Defaults to
            True.
        form: str. "ramp" or "v". Defaults to "ramp".
        peaks: Sequence of depth + 1 floats in (0, 1), for all blocks, or one
            such sequence for each block. By default they are uniform in
            (0.05, 0.95).
        seed: int. The seed of the network, at least 0, the same one in all
            layers. It may be None if peaks are given.

    Returns:
        When called with a shape and a dtype: weights in float16, bfloat16,
        float32 or float64.

    Raises:
        ValueError: If an argument has another type or is out of range. When
            called: if the shape is not (4 B,) in a hidden layer and (out,) in
            the output.

    Example:

    >>> bias = TriangleWaveBias(depth=2, index=0, peaks=[0.25, 0.5, 0.5])
    >>> keras.ops.convert_to_numpy(bias((4,))).tolist()
    [0.0, 0.0, -0.25, 1.0]

    Reference: Milkert, Hyde & Laine, ICML (2025), arXiv:2311.18022, sections 4
    and 5.
    """

    def weights(self, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the bias in float64."""
        if len(shape) != 1:
            refuse(
                "TriangleWaveBias must be used in Dense layers, whose biases "
                "have one axis.",
                shape=shape,
            )
        if self.index == self.depth:
            return np.zeros(shape)
        _, bias = join(self._layers(self._blocks(shape, shape[0])))
        return bias
