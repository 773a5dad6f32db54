"""The tangent kernel of one layer of sines."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_initx.validation import check_array, check_real, refuse


def sine_tangent_kernel(x: Any, y: Any, frequency: float = 1.0) -> np.ndarray:
    """Returns the tangent kernel of a network with one layer of sines.

    The network is f(x) = width^(-1/2) v . sin(frequency (W x + b)) with
    independent standard normal v, W and b, all of which are trained. At
    infinite width

        K(x, y) = (1 + w^2 (x.y + 1)) / 2 exp(-w^2 |x - y|^2 / 2)
                + (w^2 (x.y + 1) - 1) / 2 exp(-w^2 |x + y|^2 / 2 - 2 w^2)

    with w = frequency. The first line falls with the distance of x and y, as a
    Gaussian low-pass filter of bandwidth w: gradient descent learns first what
    varies more slowly than sin(w x).

    Args:
        x: array-like of shape `(samples, dimensions)`. Positions.
        y: array-like of shape `(others, dimensions)`. Other positions.
        frequency: float. The frequency w, > 0. Defaults to 1.

    Returns:
        A float64 array of shape `(samples, others)`.

    Raises:
        ValueError: If an argument is out of range or of another shape.

    Example:

    >>> sine_tangent_kernel([[0.3, -0.2]], [[0.1, 0.4]]).round(7)
    array([[0.7952011]])

    Reference: derived here, for networks of Belbute-Peres & Kolter (2022),
    arXiv:2211.14503.
    """
    x, y = (check_array(name, v) for name, v in (("x", x), ("y", y)))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        refuse(
            "x and y must have the shape (samples, dimensions), of equally "
            "many dimensions.",
            x=f"array of shape {x.shape}",
            y=f"array of shape {y.shape}",
        )
    square = check_real("frequency", frequency, "(0, inf)") ** 2
    product = square * (x @ y.T + 1)
    sizes = np.add.outer(np.sum(x**2, 1), np.sum(y**2, 1))
    near = np.maximum(sizes - 2 * x @ y.T, 0)
    far = np.maximum(sizes + 2 * x @ y.T, 0)
    return (1 + product) / 2 * np.exp(-square * near / 2) + (
        product - 1
    ) / 2 * np.exp(-square * far / 2 - 2 * square)
