"""A deep network without skips, whose layers are linear in pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_initx.initializers import Dirac, DiracAverage
from keras_initx.layers import ScalarBias
from keras_initx.models import wide_blocks as wide
from keras_initx.validation import is_real, refuse

# Name of a start -> its initializer and share of noise.
_STARTS: dict[str, tuple[type[Dirac] | type[DiracAverage], float]] = {
    "dirac": (Dirac, 0.0),
    "dirac_average": (DiracAverage, 0.0),
    "noisy_dirac": (Dirac, 0.01),
    "noisy_dirac_average": (DiracAverage, 0.01),
    "random": (DiracAverage, 1.0),
}
# The letters of the authors' code for these.
_LETTERS = dict(zip("i1kah", _STARTS, strict=True))
_GROUP = ("dirac", "dirac", "dirac_average", "dirac_average")


def LeakyNet(
    initialization: Sequence[str] | str = ("dirac_average", *3 * _GROUP),
    width_multiplier: int = 10,
    classes: int = 10,
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
    negative_slope: float = 0.01,
    dropout: float = 0.0,
    batch_norm: bool = True,
    name: str = "leaky_net",
) -> keras.Model:
    """A plain deep network without skips whose pairs of layers are linear.

    With phi(x) = x for x > 0 and a x below, a being `negative_slope`,

        phi(-phi(x) / a) = -x    for every x

    so that two layers that pass their input on, times 1 and times -1 / a,
    hand on minus the signal as it is, whatever the depth. Channels and
    resolutions are those of `ConstNet`; a layer is

        batch_norm(dropout(phi(conv(x + b))))

    with one trainable number b, and batch normalization after each second
    layer. `initialization` says how each convolution starts.

    Args:
        initialization: list of str. The start of each convolution: one name
            for the first and 3 n for the layers, n >= 1 in each of three
            groups. A name is "dirac" (`initializers.Dirac`), "dirac_average"
            (`initializers.DiracAverage`), "noisy_dirac" or
            "noisy_dirac_average" (the same with a hundredth of noise) or
            "random" (nothing but noise). The more averages, the harder the
            symmetry is to break. The authors' strings are read too, such as
            "1_ii11_ii11_ii11", which is the default: a letter for the first
            convolution and the letters of each group, in the order above "i",
            "1", "k", "a" and "h".
        width_multiplier: Factor of the channels, >= 1.
        classes: Number of logits, >= 1.
        input_shape: (height, width, channels); the first two may be None.
        negative_slope: Slope of the leaky relu below 0, in [1e-6, 1]. Where it
            is a power of 2 the pairs are exact to the last bit.
        dropout: Rate after each leaky relu, in [0, 1).
        batch_norm: Whether there is batch normalization.
        name: Of the model.

    Returns:
        A functional `keras.Model` from images, channels last, to logits.
        Names of layers begin with "stem", "group1_layer1", ...

    Raises:
        ValueError: An argument is outside its range.

    Example:

    >>> model = LeakyNet("1_i1_i1_i1", width_multiplier=1)
    >>> model.get_layer("group1_layer2_conv").kernel_initializer.value
    -100.0

    Reference: Blumenfeld, Gilboa & Soudry, ICML (2020), arXiv:2007.01038, as
    read from the authors' code (github.com/yanivbl6/BeyondSigProp, remodel.py
    of the camera-ready version), where any other letter is our "a".
    """
    first, *starts = _read(initialization)
    wide.check_network(width_multiplier, classes, input_shape, dropout)
    if not (is_real(negative_slope) and 1e-6 <= negative_slope <= 1):
        raise ValueError(
            "negative_slope must be in [1e-6, 1]. "
            f"Received: negative_slope={negative_slope!r}"
        )
    slope = float(negative_slope)
    policy = keras.config.dtype_policy()
    largest = float(tf.as_dtype(policy.compute_dtype).max)
    if 1 / slope > largest:
        raise ValueError(
            f"negative_slope must be above {1 / largest:.1e} under the policy "
            f"{policy.name}, which has no larger number than its "
            f"inverse. Received: negative_slope={negative_slope!r}"
        )

    def start(name: str, value: float = 1.0) -> keras.Initializer:
        kind, noise = _STARTS[name]
        return kind(noise, value, scale=math.sqrt(2) * (1 + slope))

    inputs = keras.Input(input_shape, name="image")
    x = wide.conv(inputs, 16, start(first), name="stem")
    plan = wide.plan(len(starts) // wide.GROUPS, width_multiplier, "layer")
    for i, (layer, filters, strides) in enumerate(plan):
        second = i % 2 == 1
        kernel = start(starts[i], -1 / slope if second else 1.0)
        x = ScalarBias(name=f"{layer}_bias")(x)
        x = wide.conv(x, filters, kernel, f"{layer}_conv", strides)
        x = keras.layers.LeakyReLU(slope, name=f"{layer}_relu")(x)
        x = wide.drop(x, dropout, f"{layer}_dropout")
        if batch_norm and second:
            x = wide.batch_norm(x, f"{layer}_bn")
    x = keras.layers.LeakyReLU(slope, name="relu")(x)
    return keras.Model(inputs, wide.logits(x, classes), name=name)


def _read(initialization: Sequence[str] | str) -> list[str]:
    """The names of the starts of all convolutions."""
    names: list[str] = []
    if isinstance(initialization, list | tuple):
        names = list(initialization)
    elif isinstance(initialization, str):
        first, *groups = initialization.split("_")
        if [len(first), *map(len, groups)] == [1] + [
            max(map(len, groups), default=0)
        ] * wide.GROUPS:
            names = [
                _LETTERS.get(letter, "") for letter in first + "".join(groups)
            ]
    layers = len(names) - 1
    if (
        layers < wide.GROUPS
        or layers % wide.GROUPS
        or not all(isinstance(n, str) and n in _STARTS for n in names)
    ):
        refuse(
            "initialization must be 1 + 3 n names, for the first convolution "
            f"and three groups of n, each one of {', '.join(_STARTS)}; or "
            f"as many of their letters, {', '.join(_LETTERS)}, such as "
            '"1_ii11_ii11_ii11".',
            initialization=initialization,
        )
    return names
