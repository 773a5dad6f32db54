"""Weights that are correlated over the depth of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_initx import theory
from keras_initx.initializers.base import FanInInitializer, is_int, plain
from keras_initx.initializers.paths import PathCache, Paths, generator
from keras_initx.validation import is_real

_LENGTH_SCALE = 0.1
_KINDS = ("white", "smooth", "fractional")
# Beyond, float32 has no weights left.
_LARGEST_SCALE = 1e30
# The paths of networks that are being built, of any process.
_CACHE = PathCache()


class DepthProcess:
    """A law for the weights of all layers of a deep network at once.

    Every weight entry has one path over the layers, and `at(index)` is the
    initializer of the layer with that index, its weights

        w_k = sqrt(scale / fan_in) x_k

    with x a stationary normal process of unit variance over k = 0, ...,
    depth - 1, independent for each entry of the kernel:

        kind          x_k                                   branch scale
        white         independent                           depth^(-1/2)
        smooth        values of a squared exponential       depth^(-1)
                      process of that length scale
        fractional    increments of fractional Brownian     depth^(-hurst)
                      motion, times depth^hurst

    The last column is the scale of a residual branch with one matrix at which
    a deep network neither explodes nor stays the identity; of a hurst below
    1/4 see `theory.critical_exponent`.

    All initializers of one process see the same paths, whoever is called first
    and in whatever order, in this process or after loading. They hold no state
    but their config: the paths follow from it and from the number of entries
    of the kernel. What was drawn of a path is kept until each layer has asked
    for its part, or until `clear_cache`, at most 1 GiB in all, so that a
    network of L layers costs O(L log L). Where the weights of one kernel over
    all layers are larger than 256 MiB, its paths are drawn anew for each such
    part of them.

    Args:
        depth: Number of layers, an int >= 1.
        kind: "white", "smooth" or "fractional".
        length_scale: Of "smooth", as a share of the depth, in (0, 100]; 0.1
            by default.
        hurst: Of "fractional", which needs it, in (0, 1]. At 1/2 it is white;
            at 1 all layers have the same weights.
        scale: As `theory.critical_scale` has it, from 1e-30 to 1e30: 1 for a
            branch that is scaled down, 2 for He's weights.
        seed: None, which draws one from the generator that
            `keras.utils.set_random_seed` sets, or an int.

    Raises:
        ValueError: An argument is outside its range.

    Example:

    >>> process = DepthProcess(depth=1000, kind="fractional", hurst=0.7, seed=1)
    >>> layers = [
    ...     keras.layers.Dense(64, kernel_initializer=process.at(index))
    ...     for index in range(1000)
    ... ]

    Reference: Marion, Fermanian, Biau & Vert, JMLR 26(56), 2025,
    arXiv:2206.06929. Smooth weights are the values of the process, as in their
    later code; fractional ones are exact, see `theory.fractional_process`.
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
        # An initializer checks all of it, and draws the seed that they share.
        first = DepthWeights(depth, 0, kind, length_scale, hurst, scale, seed)
        self._config = first.get_config() | {"seed": first.seed}
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
        """The initializer of one layer.

        Args:
            index: Of the layer, from 0 to depth - 1.
            stream: An int >= 0. Kernels of one layer, or branch, take
                different streams, whose paths are independent; with one
                stream they are equal, as the query, key and value of
                `MultiHeadAttention` are, which takes one initializer only.
            fan_in: As in `FractionalMoment`.
            input_axes: As in `FractionalMoment`.
            output_axes: As in `FractionalMoment`.

        Returns:
            An initializer that is complete in itself: it can be saved and
            loaded without the process.

        Raises:
            ValueError: The index is outside the depth, or another argument
                outside its range.
        """
        own = {
            "index": index,
            "stream": stream,
            "fan_in": fan_in,
            "input_axes": input_axes,
            "output_axes": output_axes,
        }
        return DepthWeights(**(self._config | own))

    @staticmethod
    def clear_cache() -> None:
        """Forget what is kept of the paths of all processes."""
        _CACHE.clear()

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, fit for JSON."""
        names = ("depth", "kind", "length_scale", "hurst", "scale", "seed")
        return {name: self._config[name] for name in names}


@keras.saving.register_keras_serializable(package="keras_initx")
class DepthWeights(FanInInitializer):
    """The weights of one layer under a `DepthProcess`, which makes these.

    Args:
        depth: As in `DepthProcess`.
        index: Of the layer, from 0 to depth - 1.
        kind: As in `DepthProcess`.
        length_scale: As in `DepthProcess`.
        hurst: As in `DepthProcess`.
        scale: As in `DepthProcess`.
        seed: As in `DepthProcess`.
        stream: As in `DepthProcess.at`.
        fan_in: As in `FractionalMoment`.
        input_axes: As in `FractionalMoment`.
        output_axes: As in `FractionalMoment`.

    Returns:
        When called with a shape and dtype, weights in float16, bfloat16,
        float32 or float64, the same in a graph and out of it.

    Raises:
        ValueError: An argument is outside its range.

    Example:

    >>> third = DepthProcess(10, kind="smooth", seed=1).at(3)
    >>> third((64, 64)).shape
    TensorShape([64, 64])

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
            raise ValueError(
                "seed must be an int or None: the layers of a process share "
                f"it, and its state would move on. Received: seed={seed!r}"
            )
        super().__init__(fan_in, input_axes, output_axes, seed)
        if kind not in _KINDS:
            raise ValueError(
                f"kind must be one of {', '.join(_KINDS)}. "
                f"Received: kind={kind!r}"
            )
        for name, value, own in (
            ("length_scale", length_scale, "smooth"),
            ("hurst", hurst, "fractional"),
        ):
            if value is not None and kind != own:
                raise ValueError(
                    f"{name} is of kind={own!r}. "
                    f"Received: {name}={value!r}, kind={kind!r}"
                )
        if kind == "smooth" and length_scale is None:
            length_scale = _LENGTH_SCALE
        # Theory refuses what is out of range; of "white" there is the depth.
        known = length_scale if kind == "smooth" else _LENGTH_SCALE
        theory.smooth_covariance(0, depth, known)
        if kind == "fractional":
            theory.fractional_noise_covariance(0, hurst)
        self.depth = int(depth)
        self.length_scale = plain(length_scale)
        self.hurst = plain(hurst)
        if not (is_int(index) and 0 <= index < depth):
            raise ValueError(
                f"index must be an int from 0 to depth - 1 = {depth - 1}. "
                f"Received: index={index!r}"
            )
        self.index = int(index)
        if not (is_int(stream) and stream >= 0):
            raise ValueError(
                f"stream must be an int >= 0. Received: stream={stream!r}"
            )
        self.stream = int(stream)
        self.kind = kind
        if not (
            is_real(scale) and 1 / _LARGEST_SCALE <= scale <= _LARGEST_SCALE
        ):
            raise ValueError(
                f"scale must be from {1 / _LARGEST_SCALE} to {_LARGEST_SCALE}. "
                f"Received: scale={scale!r}"
            )
        self.scale = float(scale)

    def draw(self, shape: tuple[int, ...], fan_in: int) -> tf.Tensor:
        seed = self.seed % 2**64
        entries = math.prod(shape)
        if self.kind == "white":
            rng = generator(seed, self.stream, entries, self.index)
            values = rng.standard_normal(entries, dtype=np.float32)
        else:
            parameter = (
                self.hurst if self.kind == "fractional" else self.length_scale
            )
            paths = Paths(
                self.kind, self.depth, parameter, seed, self.stream, entries
            )
            values = _CACHE.layer(paths, self.index)
        values *= np.float32(math.sqrt(self.scale / fan_in))
        return tf.convert_to_tensor(values.reshape(shape))

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, fit for JSON."""
        return {
            "depth": self.depth,
            "index": self.index,
            "kind": self.kind,
            "length_scale": self.length_scale,
            "hurst": self.hurst,
            "scale": self.scale,
            "stream": self.stream,
        } | super().get_config()
