"""What the networks of identical features are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from keras_initx.validation import check_int, is_real

GROUPS = 3


def plan(
    blocks: int, width_multiplier: int, what: str = "block"
) -> Iterator[tuple[str, int, int]]:
    """Name, filters and strides of each block, or whatever it is called."""
    for group in range(GROUPS):
        for block in range(blocks):
            strides = 2 if group and not block else 1
            name = f"group{group + 1}_{what}{block + 1}"
            yield name, 2 ** (4 + group) * int(width_multiplier), strides


def conv(
    x: Any,
    filters: int,
    initializer: keras.Initializer,
    name: str,
    strides: int = 1,
    window: int = 3,
) -> Any:
    padding = "same"
    if strides > 1:
        # "same" would lay the window's centre beside what the skip takes.
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
    return keras.layers.BatchNormalization(
        momentum=0.9, epsilon=1e-5, name=name
    )(x)


def drop(x: Any, rate: float, name: str) -> Any:
    return keras.layers.Dropout(float(rate), name=name)(x) if rate else x


def logits(x: Any, classes: int) -> Any:
    x = keras.layers.GlobalAveragePooling2D(
        data_format="channels_last", name="pool"
    )(x)
    return keras.layers.Dense(
        int(classes), kernel_initializer="zeros", name="logits"
    )(x)


def check_network(
    width_multiplier: Any, classes: Any, input_shape: Any, dropout: Any
) -> None:
    check_int("width_multiplier", width_multiplier, 1)
    check_int("classes", classes, 1)
    shape = tuple(input_shape) if isinstance(input_shape, list | tuple) else ()
    if len(shape) != 3 or shape[-1] is None:
        raise ValueError(
            "input_shape must be (height, width, channels), of which the first "
            f"two may be None. Received: input_shape={input_shape!r}"
        )
    for size in shape:
        if size is not None:
            check_int("input_shape", size, 1)
    if not (is_real(dropout) and 0 <= dropout < 1):
        raise ValueError(
            f"dropout must be a rate in [0, 1). Received: dropout={dropout!r}"
        )
