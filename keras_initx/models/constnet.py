"""A deep residual network that starts with identical features."""

from __future__ import annotations

import keras

from keras_initx.initializers import DiracAverage
from keras_initx.models import building_blocks as parts
from keras_initx.validation import check_bool, check_int, check_real, refuse


def ConstNet(
    depth: int = 16,
    width_multiplier: int = 10,
    classes: int = 10,
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
    dropout: float = 0.0,
    noise: float = 0.0,
    random_init: bool = False,
    name: str = "const_net",
) -> keras.Model:
    """Returns a wide residual network whose features all start identical.

    The network has a convolution, three groups of (depth - 4) / 3 blocks, a
    relu, the mean over positions and a dense layer. The groups have 16, 32 and
    64 channels times `width_multiplier`, and the second and third group half
    the resolution of the one before. A block has one convolution,

        x + dropout(conv(relu(bn(x))))

    and where it changes the number of channels, a 1 by 1 convolution of
    relu(bn(x)) in the place of x.

    The convolutions of the blocks and the dense layer start at zero, the other
    convolutions as `initializers.DiracAverage`: each block outputs one and the
    same feature, and the logits are 0. All channels then have equal gradients,
    so that the network trains as if it were one channel wide, until something
    breaks the symmetry: `dropout`, `noise`, or arithmetic that rounds
    differently in each run, as on many GPUs. `callbacks.FeatureSymmetry` shows
    when. Under dropout alone, the layers before the first dropout stay
    symmetric, which are the first convolution of a network with
    `width_multiplier` > 1 (derived here).

    Args:
        depth: int. The number of layers, 3 n + 4 with n >= 1. Defaults to 16.
        width_multiplier: int. The factor of the channels, at least 1. Defaults
            to 10.
        classes: int. The number of logits, at least 1. Defaults to 10.
        input_shape: tuple. (height, width, channels), where height and width
            may be None. Defaults to (32, 32, 3).
        dropout: float. The dropout rate after the convolution of each block,
            in [0, 1). A rate of 0.01 breaks the symmetry. Defaults to 0.
        noise: float. The share of noise in the initial weights, in [0, 1]: it
            is the argument of `DiracAverage`, and the weights of the blocks
            have variance 2 noise / fan_out instead of zero. Defaults to 0.
        random_init: bool. Whether the same network starts as usual, with
            normal weights of variance 2 / fan_out in the blocks (He et al.)
            and 1 / fan_out in the other convolutions. The dense layer still
            starts at zero. Defaults to False.
        name: str. The name of the model. Defaults to "const_net".

    Returns:
        A functional `keras.Model` of Keras layers, from images with channels
        last to logits. The names of the layers begin with "stem",
        "group1_block1", ...

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> model = ConstNet(depth=7, width_multiplier=1, dropout=0.01)
    >>> model.compile(
    ...     "sgd",
    ...     keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    ... )
    >>> x, y = keras.ops.ones((4, 32, 32, 3)), keras.ops.arange(4)
    >>> f"{model.evaluate(x, y, verbose=0):.4f}"  # log 10
    '2.3026'

    Reference: Blumenfeld, Gilboa & Soudry, ICML (2020), arXiv:2007.01038, as
    read from the authors' code (github.com/yanivbl6/BeyondSigProp, model.py),
    with batch normalization. `noise` is there `const` in the first convolution
    and the skips and `sigmaW` in the blocks; one number for both is a choice
    made here.
    """
    per_group = _blocks_per_group(depth)
    parts.check_network(width_multiplier, classes, input_shape, dropout)
    noise = check_real("noise", noise, "[0, 1]")
    random_init = check_bool("random_init", random_init)
    if random_init and noise:
        refuse(
            "noise must be 0 with random_init, which is random throughout.",
            noise=noise,
            random_init=random_init,
        )

    def outside_blocks() -> keras.Initializer:
        return _normal(1.0) if random_init else DiracAverage(noise)

    def in_blocks() -> keras.Initializer:
        scale = 2.0 * (1.0 if random_init else noise)
        return _normal(scale) if scale else keras.initializers.Zeros()

    inputs = keras.Input(input_shape, name="image")
    x = parts.conv(inputs, 16, outside_blocks(), name="stem")
    for block, filters, strides in parts.stages(per_group, width_multiplier):
        start = parts.batch_norm(x, f"{block}_bn")
        start = keras.layers.ReLU(name=f"{block}_relu")(start)
        branch = parts.conv(
            start, filters, in_blocks(), f"{block}_conv", strides
        )
        branch = parts.drop(branch, float(dropout), f"{block}_dropout")
        if x.shape[-1] != filters:
            x = parts.conv(
                start, filters, outside_blocks(), f"{block}_skip", strides, 1
            )
        x = keras.layers.Add(name=f"{block}_add")([x, branch])
    x = keras.layers.ReLU(name="relu")(x)
    return keras.Model(inputs, parts.logits(x, classes), name=name)


def _normal(scale: float) -> keras.Initializer:
    return keras.initializers.VarianceScaling(
        scale, "fan_out", "untruncated_normal"
    )


def _blocks_per_group(depth: int) -> int:
    depth = check_int("depth", depth, 1)
    blocks, rest = divmod(depth - 4, parts.GROUPS)
    if blocks < 1 or rest:
        refuse(
            "depth must be 3 n + 4, such as 7, 16 or 40, for n blocks in a "
            "group.",
            depth=depth,
        )
    return blocks
