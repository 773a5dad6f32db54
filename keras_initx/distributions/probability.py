"""Imports TensorFlow Probability, which takes a second, on first use."""

from __future__ import annotations

from typing import Any


def load_probability() -> Any:
    """Returns the module `tensorflow_probability`.

    Raises:
        ImportError: If it or something that it needs is not installed.
    """
    try:
        import tensorflow_probability
    except ImportError as error:
        raise ImportError(
            "FromDistribution and keras_initx.distributions need TensorFlow "
            'Probability: `pip install "keras-initx[stable]"`. '
            f"Received: {error}",
            name=error.name,
        ) from error
    return tensorflow_probability
