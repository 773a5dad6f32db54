"""Draws one weight for the linear maps that it holds."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import keras
import numpy as np

from keras_initx.initializers import DeltaOrthogonal, Scaled
from keras_initx.initializers.base import FanInInitializer
from keras_initx.initializers.orthogonal import random_orthogonal
from keras_initx.initializers.scaled import Wrapper
from keras_initx.inspection.geometry import Geometry, from_matrices

_I = keras.initializers
# What these draw for an entry depends neither on the others nor on the fans.
_ENTRYWISE = (
    _I.Zeros,
    _I.Ones,
    _I.Constant,
    _I.RandomNormal,
    _I.RandomUniform,
    _I.TruncatedNormal,
)
# The number by which Keras divides, for normal numbers between -2 and 2.
_STD_OF_TRUNCATED_NORMAL = 0.87962566103423978
# Keras on TensorFlow distinguishes no more seeds than these.
_SEEDS = 2**31 - 2


def folded_seed(seed: int, *path: str | int) -> int:
    """A seed derived from another one and a path, the same on any machine."""
    text = "/".join(map(str, (seed, *path)))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _SEEDS


def draw(
    initializer: keras.initializers.Initializer,
    geometry: Geometry,
    shape: tuple[int, ...],
    seed: int,
) -> np.ndarray:
    """Draws the weight of a layer in float32.

    With the fan_in, the fan_out and the n maps of the geometry:

    - `VarianceScaling` and its kin use these fans. The initializers of this
      package whose entries are independent use the nearest whole number from
      1 on, in the place of a `fan_in` of their own.
    - `Orthogonal` makes each map orthogonal, times sqrt(rows / fan_in). That
      factor is 1 but in strided transposed convolutions and embeddings.
    - Any other initializer is called once for each map, with a seed of its own
      if it takes one, and the shape of an ordinary kernel,
      `(*window, inputs, outputs)`.

    Args:
        initializer: keras.initializers.Initializer. Its own seed and axes are
            not used, except for the seed of `DepthWeights`, which belongs to
            its process.
        geometry: Geometry. That of the weight. A weight that is no linear map
            is drawn in its own shape.
        shape: tuple of ints. The shape of the weight.
        seed: int. The seed of the weight.

    Returns:
        Float32 array of shape `shape`.

    Raises:
        ValueError: If the initializer refuses, or if it gives another shape,
            NaN or inf.

    Reference: derived here.
    """
    values = _draw(initializer, geometry, shape, seed)
    values = np.asarray(values, np.float32)
    if values.shape != tuple(shape):
        raise ValueError(f"gives weights of shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("gives NaN or inf")
    return values


def takes_seed(initializer: keras.initializers.Initializer) -> bool:
    """Whether the seed of an initializer may be replaced.

    It may not if the initializer has none, nor if several layers must draw
    from the same one.
    """
    initializer = unwrapped(initializer)
    shares = getattr(initializer, "shares_seed", False)
    return not shares and "seed" in initializer.get_config()


def unwrapped(
    initializer: keras.initializers.Initializer,
) -> keras.initializers.Initializer:
    """The initializer inside others that change its weights."""
    while isinstance(initializer, Wrapper):
        initializer = initializer.initializer
    return initializer


def seeded(
    initializer: keras.initializers.Initializer, seed: int, **changes: Any
) -> keras.initializers.Initializer:
    """The same initializer with another seed, if it takes one."""
    if takes_seed(initializer):
        changes["seed"] = seed
    # A copy that changes nothing would only lose what a config leaves out.
    if not changes:
        return initializer
    return type(initializer).from_config(initializer.get_config() | changes)


def _draw(
    initializer: Any, geometry: Geometry, shape: tuple[int, ...], seed: int
) -> np.ndarray:
    if isinstance(initializer, Scaled):
        inner = draw(initializer.initializer, geometry, shape, seed)
        return initializer.factor * inner
    if not geometry.is_linear or type(initializer) in _ENTRYWISE:
        return _values(seeded(initializer, seed), shape)
    if isinstance(initializer, FanInInitializer) and initializer.entrywise:
        fan_in = max(1, round(geometry.fans[0]))
        axes = {"input_axes": None, "output_axes": None}
        return _values(seeded(initializer, seed, fan_in=fan_in, **axes), shape)
    call = type(initializer).__call__
    if call is _I.VarianceScaling.__call__:
        return _values(_at_fans(initializer, geometry, seed), shape)
    if call is _I.Orthogonal.__call__:
        n, rows, columns = geometry.matrices
        gain = initializer.gain * math.sqrt(rows / geometry.fans[0])
        maps = gain * keras.ops.convert_to_numpy(
            random_orthogonal(n, rows, columns, seed)
        )
    else:
        # Each group of a convolution is a map of its own here.
        changes = (
            {"groups": 1} if isinstance(initializer, DeltaOrthogonal) else {}
        )
        maps = np.asarray(
            [
                _values(
                    seeded(initializer, folded_seed(seed, i), **changes),
                    geometry.kernel_shape,
                )
                for i in range(geometry.matrices[0])
            ]
        )
    return from_matrices(maps, geometry, shape)


def _values(initializer: Any, shape: tuple[int, ...]) -> np.ndarray:
    return keras.ops.convert_to_numpy(initializer(shape, dtype="float32"))


def _at_fans(
    initializer: Any, geometry: Geometry, seed: int
) -> keras.initializers.Initializer:
    """An initializer that draws as `VarianceScaling` does at other fans."""
    fan_in, fan_out = geometry.fans
    fan = {
        "fan_in": fan_in,
        "fan_out": fan_out,
        "fan_avg": (fan_in + fan_out) / 2,
    }[initializer.mode]
    variance = initializer.scale / fan
    std = math.sqrt(variance)
    if initializer.distribution == "uniform":
        limit = math.sqrt(3.0 * variance)
        return _I.RandomUniform(-limit, limit, seed)
    if initializer.distribution == "untruncated_normal":
        return _I.RandomNormal(0.0, std, seed)
    return _I.TruncatedNormal(0.0, std / _STD_OF_TRUNCATED_NORMAL, seed)
