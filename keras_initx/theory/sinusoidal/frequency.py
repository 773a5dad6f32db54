"""The frequency of a random network of sines, and that of data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import spatial

from keras_initx.validation import check_array, check_int, check_real, refuse


def sine_bandwidth(frequency: float, hidden_layers: int) -> float:
    """Returns the root mean square frequency of a random network of sines.

        bandwidth = frequency prod_l sqrt(q_l coth q_l)
        q_1 = 1,    q_(l+1) = 1 - exp(-2 q_l),    l = 1, ..., hidden_layers

    The network is f(x) = v . h_L(x) with h_0 = sin(W x + b), where W has the
    standard deviation `frequency`, and h_l = sin(W_l h_(l-1)), where W_l has
    the variance 2 / width. Then

        bandwidth^2 = E |grad f|^2 / (inputs Var f)

    is the mean square of its angular frequency along one coordinate, at
    infinite width. Hidden layers raise it: one by a factor of 1.15, two by
    1.27, six by 1.86.

    Args:
        frequency: float. The standard deviation of the first kernel, > 0.
        hidden_layers: int. The number of layers of sines behind the first one,
            at least 0.

    Returns:
        The bandwidth, a float.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> round(sine_bandwidth(10.0, 2), 3)
    12.748

    Reference: derived here, for networks of Belbute-Peres & Kolter (2022),
    arXiv:2211.14503.
    """
    frequency = check_real("frequency", frequency, "(0, inf)")
    q, square = 1.0, 1.0
    for _ in range(check_int("hidden_layers", hidden_layers, 0)):
        square *= q / math.tanh(q)
        q = -math.expm1(-2 * q)
    return frequency * math.sqrt(square)


def sine_frequency(
    bandwidth: float, hidden_layers: int, inputs: int | None = None
) -> float:
    """Returns the frequency at which a network of sines has a bandwidth.

        frequency = bandwidth / sine_bandwidth(1, hidden_layers)   "simple"
        frequency = sqrt(3) inputs bandwidth / sine_bandwidth(1, hidden_layers)
                                                                   "siren"

    It is the `frequency` of `models.SinusoidalNetwork`. Choose the bandwidth
    from the data, 0.7 times their `rms_frequency`. The first kernel of "siren"
    is uniform up to frequency / inputs, of standard deviation
    frequency / (sqrt(3) inputs). Its hidden biases, which raise the bandwidth,
    are left out.

    Args:
        bandwidth: float. The bandwidth of the network at the start, > 0.
        hidden_layers: int. The number of layers of sines behind the first one,
            at least 0.
        inputs: int. The number of coordinates, at least 1, of a network with
            `initialization="siren"`. Defaults to None, for "simple" weights,
            whose frequency does not depend on it.

    Returns:
        The frequency, a float.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> round(sine_frequency(7.0, 2), 2), round(sine_frequency(7.0, 2, 2), 2)
    (5.49, 19.02)

    Reference: derived here. Weights: Sitzmann et al., NeurIPS (2020),
    arXiv:2006.09661, as read from the authors' code, and Belbute-Peres & Kolter
    (2022), arXiv:2211.14503.
    """
    bandwidth = check_real("bandwidth", bandwidth, "(0, inf)")
    inputs = check_int("inputs", inputs, 1, optional=True)
    deviation = bandwidth / sine_bandwidth(1.0, hidden_layers)
    return deviation if inputs is None else math.sqrt(3) * inputs * deviation


def rms_frequency(
    x: Any, y: Any, *, neighbors: int | None = None, noise: float = 0.0
) -> float:
    """Returns the root mean square frequency of data along one coordinate.

        R^2 = mean over neighbors of (|y - y'|^2 - 2 noise^2) / |x - x'|^2
              / Var y

    It is an angular frequency in the unit of 1 / x: y = sin(R x) has the
    frequency R in one dimension. To choose the frequency of a sine network, let
    its bandwidth be a part of that of the data:

        frequency = sine_frequency(c R, hidden_layers, inputs),    c = 0.7

    for `models.SinusoidalNetwork` with `initialization="siren"`. The factor is
    a rule of thumb. On eight small images it gave within 1.0 dB of the best
    frequency that was tried on seven, and 3.6 dB less on the eighth; c = 0.5
    lost up to 2.9 dB, and c = 1 up to 7.3. Scale x to [-1, 1] first, and check
    on samples that were not trained on, since the error in training mostly
    falls with the frequency.

    Neighbors must be nearer to one another than about a quarter of a wave.
    Where they are not, the frequency comes out too small.

    Args:
        x: array-like of shape `(samples, dimensions)` or `(samples,)`. The
            positions, at least 3, such as the coordinates of pixels.
        y: array-like of shape `(samples,)` or `(samples, channels)`. The
            values there.
        neighbors: int. The number of nearest neighbors of each point, at least
            1 and less than the number of samples. Defaults to twice the number
            of dimensions, which are the next points of a grid.
        noise: float. The standard deviation of the noise in y, >= 0. Defaults
            to 0.

    Returns:
        R, a float >= 0.

    Raises:
        ValueError: If an argument is out of range or of another shape, if all
            y are equal, or if all neighbors are at the same position.

    Example:

    >>> x = np.linspace(-1, 1, 400)
    >>> round(rms_frequency(x, np.sin(20 * x)), 1)
    20.3

    Reference: derived here.
    """
    x, y = (_samples(name, v) for name, v in (("x", x), ("y", y)))
    if len(x) != len(y) or len(x) < 3:
        refuse(
            "x and y must hold equally many samples, at least 3.",
            x=f"array of shape {x.shape}",
            y=f"array of shape {y.shape}",
        )
    noise = check_real("noise", noise, "[0, inf)")
    if neighbors is None:
        neighbors = min(2 * x.shape[1], len(x) - 1)
    neighbors = check_int("neighbors", neighbors, 1, len(x) - 1)
    variance = float(np.sum(np.var(y, axis=0)))
    if not variance > 0:
        refuse("y must not be constant.", y=f"values of variance {variance}")
    distance, index = spatial.cKDTree(x).query(x, k=neighbors + 1)
    # The first one is the point itself, or another one at its place.
    distance, index = distance[:, 1:].ravel(), index[:, 1:].ravel()
    own = np.repeat(np.arange(len(x)), neighbors)
    apart = distance > 0
    if not apart.any():
        refuse(
            "x must hold different positions.", x=f"array of shape {x.shape}"
        )
    squares = np.sum((y[own] - y[index]) ** 2, axis=1)
    squares = squares - 2 * y.shape[1] * noise**2
    mean = float(np.mean(squares[apart] / distance[apart] ** 2))
    return math.sqrt(max(0.0, mean) / variance)


def _samples(name: str, value: Any) -> np.ndarray:
    array = check_array(name, value)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or 0 in array.shape:
        received: dict[str, Any] = {name: f"array of shape {array.shape}"}
        refuse(
            f"{name} must have the shape (samples,) or (samples, numbers).",
            **received,
        )
    return array
