"""A deep residual network that starts with identical features."""

from __future__ import annotations

import keras

from keras_initx.initializers import DiracAverage
from keras_initx.models import wide_blocks as wide
from keras_initx.validation import check_bool, check_int, is_real


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
    """A wide residual network whose features all start out the same.

    Three groups of (depth - 4) / 3 blocks of 16, 32 and 64 times
    `width_multiplier` channels, the second and third at half the resolution of
    the one before.
    A block has one convolution,

        x + dropout(conv(relu(bn(x))))

    and where it changes the channels, a convolution 1 by 1 of relu(bn(x)) in
    place of x. A convolution before all, relu, mean over positions and a
    dense layer after all.

    The convolutions of the blocks and the dense layer start at zero, the others
    as `DiracAverage`: each block hands on one and the same feature, and the
    logits are 0. All channels then have equal gradients, so that the network
    trains as if it were a single channel wide, until something breaks the
    symmetry: `dropout`, `noise`, or an arithmetic that rounds differently at
    each run, as on many GPUs. `callbacks.FeatureSymmetry` shows when. What
    lies before the first dropout, the stem of a net with
    `width_multiplier` > 1, stays symmetric under dropout alone (derived here).

    Args:
        depth: Of 3 n + 4 layers, n >= 1.
        width_multiplier: Factor of the channels, >= 1.
        classes: Number of logits, >= 1.
        input_shape: (height, width, channels); the first two may be None.
        dropout: Rate after the convolution of each block, in [0, 1); 0.01
            breaks the symmetry.
        noise: Share of noise in the start, in [0, 1]: `DiracAverage(noise)`,
            and in the blocks weights of variance 2 noise / fan_out in place of
            zero.
        random_init: True starts the same network as usual: normal weights of
            variance 2 / fan_out in the blocks (He et al.), 1 / fan_out before
            and beside them; the dense layer stays zero.
        name: Of the model.

    Returns:
        A functional `keras.Model` of Keras' own layers, from images, channels
        last, to logits. Names of layers begin with "stem", "group1_block1",
        ...

    Raises:
        ValueError: An argument is outside its range.

    Example:

    >>> model = ConstNet(depth=7, width_multiplier=1, dropout=0.01)
    >>> model.compile(
    ...     "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    ... )
    >>> x, y = keras.ops.ones((4, 32, 32, 3)), keras.ops.arange(4)
    >>> f"{model.evaluate(x, y, verbose=0):.4f}"  # log 10
    '2.3026'

    Reference: Blumenfeld, Gilboa & Soudry, ICML (2020), arXiv:2007.01038, as
    read from the authors' code (github.com/yanivbl6/BeyondSigProp, model.py),
    with batch normalization. `noise` there is `const` before and beside the
    blocks and `sigmaW` in them; to set both by one number is ours.
    """
    blocks = _blocks(depth)
    wide.check_network(width_multiplier, classes, input_shape, dropout)
    if not (is_real(noise) and 0 <= noise <= 1):
        raise ValueError(
            f"noise must be a share in [0, 1]. Received: noise={noise!r}"
        )
    random_init = check_bool("random_init", random_init)
    if random_init and noise:
        raise ValueError(
            "noise must be 0 with random_init, which is random throughout. "
            f"Received: noise={noise!r}, random_init={random_init!r}"
        )

    def around() -> keras.Initializer:
        return _normal(1.0) if random_init else DiracAverage(noise)

    def within() -> keras.Initializer:
        scale = 2.0 * (1.0 if random_init else noise)
        return _normal(scale) if scale else keras.initializers.Zeros()

    inputs = keras.Input(input_shape, name="image")
    x = wide.conv(inputs, 16, around(), name="stem")
    for block, filters, strides in wide.plan(blocks, width_multiplier):
        start = wide.batch_norm(x, f"{block}_bn")
        start = keras.layers.ReLU(name=f"{block}_relu")(start)
        branch = wide.conv(start, filters, within(), f"{block}_conv", strides)
        branch = wide.drop(branch, dropout, f"{block}_dropout")
        if x.shape[-1] != filters:
            x = wide.conv(start, filters, around(), f"{block}_skip", strides, 1)
        x = keras.layers.Add(name=f"{block}_add")([x, branch])
    x = keras.layers.ReLU(name="relu")(x)
    return keras.Model(inputs, wide.logits(x, classes), name=name)


def _normal(scale: float) -> keras.Initializer:
    return keras.initializers.VarianceScaling(
        scale, "fan_out", "untruncated_normal"
    )


def _blocks(depth: int) -> int:
    """Blocks in a group."""
    check_int("depth", depth, 1)
    blocks, rest = divmod(int(depth) - 4, wide.GROUPS)
    if blocks < 1 or rest:
        raise ValueError(
            "depth must be 3 n + 4, such as 7, 16 or 40, for n blocks in a "
            f"group. Received: depth={depth!r}"
        )
    return blocks
