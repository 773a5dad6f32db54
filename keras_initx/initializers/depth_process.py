"""Weights that are correlated over the depth of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_initx.initializers.base import FanInInitializer
from keras_initx.initializers.depth_paths import DepthPaths, shared_paths
from keras_initx.validation import check_choice, check_int, check_real, refuse

_LENGTH_SCALE = 0.1
_KINDS = ("white", "smooth", "fractional")


class DepthProcess:
    """A random process over depth that gives each layer its initial weights.

    Each entry of a kernel has one path over the layers, and `at(index)` is the
    initializer of the layer with that index. Its weights are

        w_k = sqrt(scale / fan_in) x_k

    where x is a stationary normal process of unit variance over the layers
    k = 0, ..., depth - 1, independent for each entry of the kernel:

        kind          x_k                                   branch scale
        white         independent values                    depth^(-1/2)
        smooth        values of a process with a squared    depth^(-1)
                      exponential covariance
        fractional    increments of fractional Brownian     depth^(-hurst)
                      motion, times depth^hurst

    The last column is the scale of a residual branch with one matrix at which
    a deep network neither explodes nor tends to the identity. For a Hurst index
    below 1/4 see `theory.critical_exponent`.

    All initializers of one process see the same paths, in whatever order they
    are called, and also after saving and loading. Their configs, and the
    number of entries of a kernel, determine the paths completely. The values of
    a path are computed for all layers at once and kept until each layer has
    asked for its own, so that a network of L layers costs O(L log L). They take
    at most 1 GiB for one process and are freed with the process and its
    initializers, or by `clear_cache`. If the weights of one kernel over all
    layers are larger than 256 MiB, the paths are computed again for each part
    of 256 MiB.

    Args:
        depth: int. The number of layers, at least 1.
        kind: str. "white", "smooth" or "fractional". Defaults to "white".
        length_scale: float. The length scale of a smooth process as a share
            of the depth, in (0, 100]. Defaults to 0.1.
        hurst: float. The Hurst index of a fractional process, which requires
            it, in (0, 1]. At 1/2 the process is white, at 1 all layers have the
            same weights.
        scale: float. The variance of a weight times the fan-in, as in
            `theory.critical_scale`, from 1e-30 to 1e30: 1 for branches that
            are scaled down, 2 for He initialization. Defaults to 1.
        seed: int. The seed of all layers. By default it is drawn from the
            generator that `keras.utils.set_random_seed` seeds.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> process = DepthProcess(
    ...     depth=1000, kind="fractional", hurst=0.7, seed=1
    ... )
    >>> layers = [
    ...     keras.layers.Dense(64, kernel_initializer=process.at(index))
    ...     for index in range(1000)
    ... ]

    Reference: Marion, Fermanian, Biau & Vert, JMLR 26(56), 2025,
    arXiv:2206.06929. Smooth weights are the values of the process, as in the
    authors' later code. Fractional weights have the exact covariance, see
    `theory.fractional_process`.
    """

    def __init__(
        self,
        depth: int,
        kind: str = "white",
        length_scale: float | None = None,
        hurst: float | None = None,
        scale: float = 1.0,
        seed: int | None = None,
    ):
        # The first initializer checks the arguments and draws the seed.
        first = DepthWeights(depth, 0, kind, length_scale, hurst, scale, seed)
        self._config = first.get_config() | {"seed": first.seed}
        self._paths = first.paths
        self.depth = first.depth

    def at(
        self,
        index: int,
        stream: int = 0,
        *,
        fan_in: int | None = None,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
    ) -> DepthWeights:
        """Returns the initializer of one layer.

        Args:
            index: int. The index of the layer, from 0 to depth - 1.
            stream: int. The number of the kernel in its layer, at least 0.
                The paths of different streams are independent. Kernels of
                equal shape and stream are equal, such as the query, key and
                value kernels of `MultiHeadAttention`, which takes a single
                initializer. Defaults to 0.
            fan_in: int. Overrides the fan-in that the shape or the axes give,
                at least 1.
            input_axes: list of int. The axes of the kernel that the layer sums
                over.
            output_axes: list of int. The axes of the kernel that the layer's
                output has.

        Returns:
            A `DepthWeights` initializer. It can be saved and loaded without
            the process.

        Raises:
            ValueError: If an argument is out of range.
        """
        chosen = {
            "index": index,
            "stream": stream,
            "fan_in": fan_in,
            "input_axes": input_axes,
            "output_axes": output_axes,
        }
        return DepthWeights(**(self._config | chosen))

    def clear_cache(self) -> None:
        """Frees the memory of the paths; later calls compute them again."""
        self._paths.clear()

    def __repr__(self) -> str:
        # Keras shows this if a layer is given the process.
        return (
            f"<DepthProcess of {self.depth} layers: the initializer of the "
            "layer with index k is process.at(k)>"
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON can hold them."""
        names = ("depth", "kind", "length_scale", "hurst", "scale", "seed")
        return {name: self._config[name] for name in names}


@keras.saving.register_keras_serializable(package="keras_initx")
class DepthWeights(FanInInitializer):
    """Weights of one layer under a `DepthProcess`.

        w_k = sqrt(scale / fan_in) x_k

    Here k is the index of the layer and x the process. `DepthProcess.at`
    returns these initializers; all those of one process share its paths.

    Args:
        depth: int. The number of layers, at least 1.
        index: int. The index of the layer, from 0 to depth - 1.
        kind: str. "white", "smooth" or "fractional". Defaults to "white".
        length_scale: float. The length scale of a smooth process as a share
            of the depth, in (0, 100]. Defaults to 0.1.
        hurst: float. The Hurst index of a fractional process, which requires
            it, in (0, 1].
        scale: float. The variance of a weight times the fan-in, from 1e-30 to
            1e30. Defaults to 1.
        seed: int. The seed, the same one in all layers of a network.
        stream: int. The number of the kernel in its layer, at least 0.
            Defaults to 0.
        fan_in: int. Overrides the fan-in that the shape or the axes give, at
            least 1.
        input_axes: list of int. The axes of the kernel that the layer sums
            over. `EinsumDense` and attention layers set them, from Keras 3.15
            on.
        output_axes: list of int. The axes of the kernel that the layer's
            output has. `EinsumDense` and attention layers set them, from Keras
            3.15 on.

    Returns:
        When called with a shape and a dtype: weights in float16, bfloat16,
        float32 or float64, the same in a graph and in eager mode.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> third = DepthProcess(10, kind="smooth", seed=1).at(3)
    >>> tuple(third((64, 64)).shape)
    (64, 64)

    Reference: Marion, Fermanian, Biau & Vert, JMLR 26(56), 2025,
    arXiv:2206.06929.
    """

    shares_seed = True

    def __init__(
        self,
        depth: int,
        index: int,
        kind: str = "white",
        length_scale: float | None = None,
        hurst: float | None = None,
        scale: float = 1.0,
        seed: int | None = None,
        stream: int = 0,
        fan_in: int | None = None,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
    ):
        if isinstance(seed, keras.random.SeedGenerator | dict):
            refuse(
                "seed must be an int or None: the layers of a process share "
                "it, and the state of a SeedGenerator changes at each call.",
                seed=seed,
            )
        super().__init__(fan_in, input_axes, output_axes, seed)
        self.kind = check_choice("kind", kind, _KINDS)
        for name, value, kind_of_name in (
            ("length_scale", length_scale, "smooth"),
            ("hurst", hurst, "fractional"),
        ):
            if value is not None and kind != kind_of_name:
                received: dict[str, Any] = {name: value, "kind": kind}
                refuse(
                    f"{name} is an argument of kind={kind_of_name!r} only.",
                    **received,
                )
        if kind == "smooth" and length_scale is None:
            length_scale = _LENGTH_SCALE
        if kind == "fractional" and hurst is None:
            refuse(
                "kind='fractional' needs hurst, a number in (0, 1].",
                hurst=hurst,
            )
        self.depth = check_int("depth", depth, 1)
        self.index = check_int("index", index, 0, self.depth - 1)
        self.length_scale = check_real(
            "length_scale", length_scale, "(0, 100]", optional=True
        )
        self.hurst = check_real("hurst", hurst, "(0, 1]", optional=True)
        self.scale = check_real("scale", scale, "[1e-30, 1e30]")
        self.stream = check_int("stream", stream, 0)
        parameter = self.length_scale if kind == "smooth" else self.hurst
        self.paths: DepthPaths = shared_paths(
            self.kind, self.depth, parameter, self.seed % 2**64
        )

    def draw(self, shape: tuple[int, ...], fan_in: int) -> Any:
        """Returns the weights of the layer in float32."""
        values = self.paths.at_layer(self.index, self.stream, math.prod(shape))
        values *= np.float32(math.sqrt(self.scale / fan_in))
        return keras.ops.convert_to_tensor(values.reshape(shape))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON can hold them."""
        return {
            "depth": self.depth,
            "index": self.index,
            "kind": self.kind,
            "length_scale": self.length_scale,
            "hurst": self.hurst,
            "scale": self.scale,
            "stream": self.stream,
        } | super().get_config()
