"""A deep network without skips whose layers are linear in pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras

from keras_initx.initializers import Dirac, DiracAverage
from keras_initx.initializers.base import LARGEST
from keras_initx.layers import ScalarBias
from keras_initx.models import building_blocks as parts
from keras_initx.validation import check_bool, check_real, refuse

# The initializer of each start, and its share of noise.
_STARTS: dict[str, tuple[type[Dirac] | type[DiracAverage], float]] = {
    "dirac": (Dirac, 0.0),
    "dirac_average": (DiracAverage, 0.0),
    "noisy_dirac": (Dirac, 0.01),
    "noisy_dirac_average": (DiracAverage, 0.01),
    "random": (DiracAverage, 1.0),
}
# The letters of the authors' code for these starts.
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
    """Returns a deep network of leaky relus that undo one another in pairs.

    With phi(x) = x for x > 0 and phi(x) = a x for x < 0, a the negative slope,

        phi(-phi(x) / a) = -x    for every x

    So two layers that pass their inputs on, one times 1 and the other times
    -1 / a, compute exactly minus the identity, and networks of such pairs keep
    the signal at any depth. Channels and resolutions are those of `ConstNet`. A
    layer is

        batch_norm(dropout(phi(conv(x + b))))

    with one trainable number b, and with batch normalization after each second
    layer only.

    Args:
        initialization: list of str. How each convolution starts: one name for
            the first convolution, and one for each of the 3 n layers, which
            form three groups of n >= 1. A name is "dirac"
            (`initializers.Dirac`), "dirac_average"
            (`initializers.DiracAverage`), "noisy_dirac" or
            "noisy_dirac_average" (the same with a hundredth of noise) or
            "random" (nothing but noise). The more averages, the harder it is to
            break the symmetry of the features. The strings of the authors' code
            are read too: a letter for the first convolution and the letters of
            each group, joined by "_", where the names above are "i", "1", "k",
            "a" and "h". The default is "1_ii11_ii11_ii11".
        width_multiplier: int. The factor of the channels, at least 1. Defaults
            to 10.
        classes: int. The number of logits, at least 1. Defaults to 10.
        input_shape: tuple. (height, width, channels), where height and width
            may be None. Defaults to (32, 32, 3).
        negative_slope: float. The slope a of the leaky relu below 0, in
            [1e-6, 1]. If it is a power of 2, the pairs are exact to the last
            bit. Defaults to 0.01.
        dropout: float. The dropout rate after each leaky relu, in [0, 1).
            Defaults to 0.
        batch_norm: bool. Whether there is batch normalization. Defaults to
            True.
        name: str. The name of the model. Defaults to "leaky_net".

    Returns:
        A functional `keras.Model` from images with channels last to logits. The
        names of the layers begin with "stem", "group1_layer1", ...

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> names = ["dirac_average"] + 3 * ["dirac", "dirac_average"]
    >>> model = LeakyNet(names, width_multiplier=1)
    >>> model.get_layer("group1_layer2_conv").kernel_initializer.value
    -100.0

    Reference: Blumenfeld, Gilboa & Soudry, ICML (2020), arXiv:2007.01038, as
    read from the authors' code (github.com/yanivbl6/BeyondSigProp, remodel.py
    of the camera-ready version), where any other letter is "a".
    """
    first, *starts = _read(initialization)
    parts.check_network(width_multiplier, classes, input_shape, dropout)
    slope = check_real("negative_slope", negative_slope, "[1e-6, 1]")
    batch_norm = check_bool("batch_norm", batch_norm)
    policy = keras.config.dtype_policy()
    largest = LARGEST[policy.compute_dtype]
    if 1 / slope > largest:
        refuse(
            f"negative_slope must be above {1 / largest:.1e} under the policy "
            f"{policy.name}, which has no larger number than its inverse.",
            negative_slope=negative_slope,
        )

    def initializer(start: str, value: float = 1.0) -> keras.Initializer:
        kind, noise = _STARTS[start]
        return kind(noise, value, scale=math.sqrt(2) * (1 + slope))

    inputs = keras.Input(input_shape, name="image")
    x = parts.conv(inputs, 16, initializer(first), name="stem")
    per_group = len(starts) // parts.GROUPS
    stages = parts.stages(per_group, width_multiplier, "layer")
    for i, (layer, filters, strides) in enumerate(stages):
        second = i % 2 == 1
        kernel = initializer(starts[i], -1 / slope if second else 1.0)
        x = ScalarBias(name=f"{layer}_bias")(x)
        x = parts.conv(x, filters, kernel, f"{layer}_conv", strides)
        x = keras.layers.LeakyReLU(slope, name=f"{layer}_relu")(x)
        x = parts.drop(x, float(dropout), f"{layer}_dropout")
        if batch_norm and second:
            x = parts.batch_norm(x, f"{layer}_bn")
    x = keras.layers.LeakyReLU(slope, name="relu")(x)
    return keras.Model(inputs, parts.logits(x, classes), name=name)


def _read(initialization: Sequence[str] | str) -> list[str]:
    """Returns the names of the starts of all convolutions."""
    names: list[str] = []
    if isinstance(initialization, list | tuple):
        names = list(initialization)
    elif isinstance(initialization, str):
        first, *groups = initialization.split("_")
        lengths = [len(first), *map(len, groups)]
        if lengths == [1] + [max(lengths)] * parts.GROUPS:
            letters = first + "".join(groups)
            names = [_LETTERS.get(letter, "") for letter in letters]
    layers = len(names) - 1
    if (
        layers < parts.GROUPS
        or layers % parts.GROUPS
        or not all(isinstance(n, str) and n in _STARTS for n in names)
    ):
        refuse(
            "initialization must be 1 + 3 n names, for the first convolution "
            f"and three groups of n layers, each one of {', '.join(_STARTS)}; "
            f"or their letters, {', '.join(_LETTERS)}, joined by '_', such as "
            "'1_ii11_ii11_ii11'.",
            initialization=initialization,
        )
    return names
