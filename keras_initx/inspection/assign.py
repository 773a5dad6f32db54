"""New values for many variables at once."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def assign_all(pairs: list[tuple[Any, Any]]) -> None:
    """Assign to each variable its value: to all of them, or to none.

    Raises:
        Whatever an assignment raises.
    """
    before = []
    try:
        for weight, value in pairs:
            before.append((weight, tf.convert_to_tensor(weight.value)))
            weight.assign(value)
    except BaseException:
        for weight, value in before:
            weight.assign(value)
        raise
