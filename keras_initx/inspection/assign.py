"""New values for many variables at once."""

from __future__ import annotations

from typing import Any

import keras


def assign_all(pairs: list[tuple[Any, Any]]) -> None:
    """Assigns a value to each of several variables, to all or to none.

    Args:
        pairs: list of pairs of a Keras variable and its new value.

    Raises:
        Exception: Whatever an assignment raises, after the variables have
            their old values again.
    """
    before = []
    try:
        for variable, value in pairs:
            before.append((variable, keras.ops.copy(variable.value)))
            variable.assign(value)
    except BaseException:
        for variable, value in before:
            variable.assign(value)
        raise
