"""One weight, drawn by an initializer for the linear maps that it holds."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import keras
import numpy as np

from keras_initx.initializers import Scaled
from keras_initx.initializers.base import FanInInitializer
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
# Keras on TensorFlow tells no more seeds apart.
_SEEDS = 2**31 - 2


def folded_seed(seed: int, *path: str | int) -> int:
    """A seed that follows from another and a path, the same on any machine."""
    text = "/".join(map(str, (seed, *path)))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _SEEDS


def draw(
    initializer: keras.initializers.Initializer,
    geometry: Geometry,
    shape: tuple[int, ...],
    seed: int,
) -> np.ndarray:
    """The weight of a layer, in float32.

    With one fan_in, fan_out and n maps of the geometry:

    - Initializers that follow the fans are given those of the geometry; of
      ours, which take whole numbers from 1 on, the nearest, in the place of a
      `fan_in` of their own.
    - Of `Orthogonal` each map is orthogonal, times sqrt(rows / fan_in). That
      is 1 but in strided transposed convolutions and embeddings.
    - Any other is called once a map, with a seed of its own if it takes one,
      and the shape of an ordinary kernel, (*window, inputs, outputs).

    Args:
        initializer: A Keras initializer. Its own seed and axes are not used,
            but for the seed of `DepthWeights`, which is that of its process.
        geometry: Of a linear map, or not, whose weights are drawn as they are.
        shape: Of the weight.
        seed: An int.

    Raises:
        ValueError: The initializer refuses, or what it gives has another
            shape, or NaN or inf.

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
    """Whether it can be told what to draw.

    Not if it takes no seed, nor if several layers must draw from one.
    """
    initializer = unscaled(initializer)
    shares = getattr(initializer, "shares_seed", False)
    return not shares and "seed" in initializer.get_config()


def unscaled(
    initializer: keras.initializers.Initializer,
) -> keras.initializers.Initializer:
    """What a `Scaled` scales, or the initializer itself."""
    while isinstance(initializer, Scaled):
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


def _draw(initializer, geometry, shape, seed):
    if isinstance(initializer, Scaled):
        inner = draw(initializer.initializer, geometry, shape, seed)
        return initializer.factor * inner
    if geometry.split_shape is None or type(initializer) in _ENTRYWISE:
        return _called(seeded(initializer, seed), shape)
    if isinstance(initializer, FanInInitializer) and initializer.entrywise:
        fan_in = max(1, round(geometry.fan_in))
        axes = {"input_axes": None, "output_axes": None}
        return _called(seeded(initializer, seed, fan_in=fan_in, **axes), shape)
    call = type(initializer).__call__
    if call is _I.VarianceScaling.__call__:
        return _called(_at_fans(initializer, geometry, seed), shape)
    if call is _I.Orthogonal.__call__:
        n, rows, columns = geometry.matrices
        gain = initializer.gain * math.sqrt(rows / geometry.fan_in)
        maps = gain * _orthogonal(n, rows, columns, seed)
    else:
        maps = [
            _called(
                seeded(initializer, folded_seed(seed, i)),
                geometry.kernel_shape,
            )
            for i in range(geometry.matrices[0])
        ]
    return from_matrices(np.asarray(maps), geometry, shape)


def _called(initializer, shape) -> np.ndarray:
    return keras.ops.convert_to_numpy(initializer(shape, dtype="float32"))


def _at_fans(initializer, geometry: Geometry, seed: int):
    fan = {
        "fan_in": geometry.fan_in,
        "fan_out": geometry.fan_out,
        "fan_avg": (geometry.fan_in + geometry.fan_out) / 2,
    }[initializer.mode]
    # Over no axes both fans are 1.
    return _I.VarianceScaling(
        initializer.scale / fan,
        distribution=initializer.distribution,
        seed=seed,
        input_axes=[],
        output_axes=[],
    )


def _orthogonal(n: int, rows: int, columns: int, seed: int) -> np.ndarray:
    """Uniformly distributed, of orthonormal rows or columns, the fewer."""
    tall = (n, max(rows, columns), min(rows, columns))
    normal = keras.random.normal(tall, dtype="float32", seed=seed)
    q, r = np.linalg.qr(keras.ops.convert_to_numpy(normal))
    q = q * np.copysign(1, np.diagonal(r, axis1=-2, axis2=-1))[:, None, :]
    return q if rows >= columns else q.transpose(0, 2, 1)
