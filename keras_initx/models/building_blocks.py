"""Parts that the networks of identical features have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import keras

from keras_initx.validation import check_int, check_real, refuse

GROUPS = 3


class Stage(NamedTuple):
    """The size of one block or layer.

    Attributes:
        name: str. The prefix of the names of its layers.
        filters: int. The number of channels.
        strides: int. The strides of its convolution.
    """

    name: str
    filters: int
    strides: int


def stages(
    per_group: int, width_multiplier: int, kind: str = "block"
) -> Iterator[Stage]:
    """Yields the sizes of three groups of blocks or layers.

    Args:
        per_group: int. The number of stages in a group.
        width_multiplier: int. The factor of the channels.
        kind: str. "block" or "layer", for the names. Defaults to "block".
    """
    for group in range(GROUPS):
        for i in range(per_group):
            yield Stage(
                f"group{group + 1}_{kind}{i + 1}",
                2 ** (4 + group) * int(width_multiplier),
                strides=2 if group and not i else 1,
            )


def conv(
    x: Any,
    filters: int,
    initializer: keras.Initializer,
    name: str,
    strides: int = 1,
    window: int = 3,
) -> Any:
    """Applies a convolution without bias that keeps positions aligned."""
    padding = "same"
    if strides > 1:
        # With strides, "same" would not center the window at the positions that
        # the skip takes.
        padding = "valid"
        if window > 1:
            x = keras.layers.ZeroPadding2D(
                window // 2, data_format="channels_last", name=f"{name}_pad"
            )(x)
    return keras.layers.Conv2D(
        filters,
        window,
        strides,
        padding,
        data_format="channels_last",
        use_bias=False,
        kernel_initializer=initializer,
        name=name,
    )(x)


def batch_norm(x: Any, name: str) -> Any:
    """Applies batch normalization with the constants of the authors."""
    return keras.layers.BatchNormalization(
        momentum=0.9, epsilon=1e-5, name=name
    )(x)


def drop(x: Any, rate: float, name: str) -> Any:
    """Applies dropout if the rate is not 0."""
    return keras.layers.Dropout(rate, name=name)(x) if rate else x


def logits(x: Any, classes: int) -> Any:
    """Applies the mean over positions and a dense layer that starts at 0."""
    x = keras.layers.GlobalAveragePooling2D(
        data_format="channels_last", name="pool"
    )(x)
    return keras.layers.Dense(
        int(classes), kernel_initializer="zeros", name="logits"
    )(x)


def check_network(
    width_multiplier: Any, classes: Any, input_shape: Any, dropout: Any
) -> None:
    """Checks the arguments that both networks have.

    Raises:
        ValueError: If one is out of range.
    """
    check_int("width_multiplier", width_multiplier, 1)
    check_int("classes", classes, 1)
    shape = tuple(input_shape) if isinstance(input_shape, list | tuple) else ()
    if len(shape) != 3 or shape[-1] is None:
        refuse(
            "input_shape must be (height, width, channels), of which the first "
            "two may be None.",
            input_shape=input_shape,
        )
    for size in shape:
        check_int("input_shape", size, 1, optional=True)
    check_real("dropout", dropout, "[0, 1)")
