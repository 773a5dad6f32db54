"""Errors about data and signals, which `measure` and `calibrate` share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from keras_initx.inspection.selection import LayerCall


def empty_data() -> ValueError:
    """Returns the error for data without samples."""
    return ValueError("data must hold samples. Received: empty data")


def nonfinite_data() -> ValueError:
    """Returns the error for data that hold NaN or inf."""
    return ValueError("data must be finite. Received: NaN or inf in data")


def too_few_samples(received: str = "data of one sample") -> ValueError:
    """Returns the error for data of fewer than two samples."""
    return ValueError(
        "Variance between samples needs at least two of them. "
        f"Received: {received}"
    )


def too_large(name: str) -> ValueError:
    """Returns the error for a layer whose moments are NaN or inf."""
    return ValueError(
        "The signal must stay finite, and small enough to be squared in "
        f"float32. Received: NaN or inf at layer {name!r}"
    )


def mixed_samples(names: Sequence[str]) -> ValueError:
    """Returns the error for layers whose signal is not made of samples."""
    return ValueError(
        "Each number of a layer's signal must belong to one sample, but what "
        "enters these layers mixes samples, or is ordered by other things than "
        "samples. Leave them out through `layers`. "
        f"Received: layers {list(names)}"
    )


def nonfinite(place: str) -> ValueError:
    """Returns the error for a signal that is not finite from a place on."""
    return ValueError(
        f"The signal must stay finite. Received: NaN or inf {place}"
    )


def outside_of_table(error: Exception) -> ValueError | None:
    """Returns the error for data that an embedding cannot look up.

    Args:
        error: Exception. What was raised while the model ran.

    Returns:
        A ValueError, None if the error is another one.
    """
    # PyTorch on a CPU does not say which.
    if isinstance(error, IndexError) and "index out of range" in str(error):
        return ValueError(
            "The integers in data must be indices of the table that a layer "
            "looks them up in. Received: a larger integer in data"
        )
    # TensorFlow on a CPU says so; on other devices such a row is zero. On JAX
    # it is NaN.
    found = re.search(
        r"indices\[[\d,]*\] = (-?\d+) is not in \[0, (\d+)\)", str(error)
    )
    if found is None:
        return None
    index, size = found.groups()
    return ValueError(
        "The integers in data must be indices of the table that a layer looks "
        f"them up in, from 0 to {int(size) - 1}. Received: {index} in data"
    )


def no_tokens(value: float) -> ValueError:
    """Returns the error for data of an embedding that are no integers."""
    return ValueError(
        "Data that an Embedding looks up must be integers, since it drops what "
        f"is behind the point. Received: {value:.4g} in data"
    )


def explained(error: Exception) -> ValueError | None:
    """Returns the error for what a model cannot be run on, or run in.

    Args:
        error: Exception. What was raised while the model ran.

    Returns:
        A ValueError, None if the error is another one.
    """
    text = str(error)
    label = re.search(
        r"label value of (-?\d+) which is outside the valid range of "
        r"\[0, (\d+)\)",
        text,
    )
    if label is not None:
        index, classes = label.groups()
        return ValueError(
            "The integers in labels must be classes of the model, from 0 to "
            f"{int(classes) - 1}. Received: {index} in labels"
        )
    if re.search(r"Cast string to \w+ is not supported", text):
        return ValueError(
            "data must be numbers, unless a layer takes text. Received: data "
            "of text"
        )
    # What TensorFlow says of the layers of a `keras.RematScope`.
    if "custom_gradient decorator" in text and "keyword" in text:
        return ValueError(
            "Layers that are built within keras.RematScope run in no compiled "
            "function of TensorFlow, so that neither `fit` nor `measure` can "
            "run them: build the model outside of it. Received: such a layer"
        )
    return outside_of_table(error)


def no_signal(ran: Iterable[LayerCall]) -> ValueError:
    """Returns the error for a model in which no signal was recorded."""
    return ValueError(
        "A picked layer must have a floating-point signal. "
        f"Received: {sorted({layer_call.name for layer_call in ran})}"
    )
