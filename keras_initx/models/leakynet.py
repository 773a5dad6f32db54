"""A deep network without skips, whose layers are linear in pairs."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from keras_initx.initializers import CenterAverage, CenterIdentity
from keras_initx.layers import ScalarBias
from keras_initx.models import wide_blocks as wide
from keras_initx.validation import is_real

# Letter of an initialisation string -> what it is, and its share of noise.
_LETTERS = {
    "i": (CenterIdentity, 0.0),
    "1": (CenterAverage, 0.0),
    "k": (CenterIdentity, 0.01),
    "a": (CenterAverage, 0.01),
    "h": (CenterAverage, 1.0),
}


def LeakyNet(
    initialization: str = "1_ii11_ii11_ii11",
    widen: int = 10,
    classes: int = 10,
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
    rho: float = 0.01,
    dropout: float = 0.0,
    batch_norm: bool = True,
    name: str = "leaky_net",
) -> keras.Model:
    """A plain deep network without skips whose pairs of layers are linear.

    With phi(x) = x for x > 0 and rho x below,

        phi(-phi(x) / rho) = -x    for every x

    so that two layers that pass their input on, times 1 and times -1 / rho,
    hand on minus the signal as it is, whatever the depth. Channels and
    resolutions are those of `ConstNet`; a layer is

        batch_norm(dropout(phi(conv(x + b))))

    with one trainable number b, and batch normalization after each second
    layer. A string says how each convolution starts.

    Args:
        initialization: A letter for the first convolution, and then those of
            three groups of equally many layers, n >= 1, joined by "_":
            "i" `CenterIdentity`, "1" `CenterAverage`, "k" and "a" the same
            with a hundredth of noise, "h" random. The more averages, the
            harder the symmetry is to break.
        widen: Factor of the channels, >= 1.
        classes: Number of logits, >= 1.
        input_shape: (height, width, channels); the first two may be None.
        rho: Slope of the leaky relu below 0, in [1e-6, 1]. Where it is a
            power of 2 the pairs are exact to the last bit.
        dropout: Rate after each leaky relu, in [0, 1).
        batch_norm: Whether there is batch normalization.
        name: Of the model.

    Returns:
        A functional `keras.Model` from images, channels last, to logits.
        Names of layers begin with "stem", "group1_layer1", ...

    Raises:
        ValueError: An argument is outside its range.

    Example:

    >>> model = LeakyNet("1_i1_i1_i1", widen=1)
    >>> model.get_layer("group1_layer2_conv").kernel_initializer.value
    -100.0

    Reference: Blumenfeld, Gilboa & Soudry, ICML (2020), arXiv:2007.01038, as
    read from the authors' code (github.com/yanivbl6/BeyondSigProp, remodel.py
    of the camera-ready version), where any other letter is our "a".
    """
    first, letters = _read(initialization)
    wide.check_network(widen, classes, input_shape, dropout)
    if not (is_real(rho) and 1e-6 <= rho <= 1):
        raise ValueError(
            f"rho must be a slope in [1e-6, 1]. Received: rho={rho!r}"
        )
    rho = float(rho)
    policy = keras.config.dtype_policy()
    largest = float(tf.as_dtype(policy.compute_dtype).max)
    if 1 / rho > largest:
        raise ValueError(
            f"rho must be above {1 / largest:.1e} under the policy "
            f"{policy.name}, which has no larger number than 1 / rho. "
            f"Received: rho={rho!r}"
        )

    def start(letter: str, value: float = 1.0) -> keras.Initializer:
        kind, noise = _LETTERS[letter]
        return kind(noise, value, gain=math.sqrt(2) * (1 + rho))

    inputs = keras.Input(input_shape, name="image")
    x = wide.conv(inputs, 16, start(first), name="stem")
    plan = wide.plan(len(letters) // wide.GROUPS, widen, "layer")
    for i, (layer, filters, strides) in enumerate(plan):
        second = i % 2 == 1
        kernel = start(letters[i], -1 / rho if second else 1.0)
        x = ScalarBias(name=f"{layer}_bias")(x)
        x = wide.conv(x, filters, kernel, f"{layer}_conv", strides)
        x = keras.layers.LeakyReLU(rho, name=f"{layer}_relu")(x)
        x = wide.drop(x, dropout, f"{layer}_dropout")
        if batch_norm and second:
            x = wide.batch_norm(x, f"{layer}_bn")
    x = keras.layers.LeakyReLU(rho, name="relu")(x)
    return keras.Model(inputs, wide.logits(x, classes), name=name)


def _read(initialization: str) -> tuple[str, str]:
    """The letter of the stem, and those of all layers behind it."""
    parts = initialization.split("_") if isinstance(initialization, str) else []
    lengths = [len(part) for part in parts]
    if lengths != [1] + [max(lengths, default=0)] * wide.GROUPS or not set(
        "".join(parts)
    ) <= set(_LETTERS):
        raise ValueError(
            "initialization must be a letter and three groups of equally many "
            'letters, joined by "_", such as "1_ii11_ii11_ii11", of '
            f"{', '.join(_LETTERS)}. Received: initialization="
            f"{initialization!r}"
        )
    return parts[0], "".join(parts[1:])
