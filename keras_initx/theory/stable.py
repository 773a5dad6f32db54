"""Symmetric stable laws, and the scale of weights drawn from them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from keras_initx.theory.activations import is_real
from keras_initx.theory.slopes import Slopes, check_width, slopes
from keras_initx.theory.sums import sum_of


def stable_weight_scale(
    stability: float,
    width: int,
    activation: str = "relu",
    preserve: str | float = "log",
    *,
    keep_rate: float = 1.0,
    **parameters: Any,
) -> float:
    _check_stability(stability)
    check_width(width)
    phi = slopes(activation, keep_rate, parameters)
    if preserve != "log" and not (
        is_real(preserve) and 0 < preserve < stability
    ):
        raise ValueError(
            f"preserve must be 'log' or a number in (0, stability). "
            f"Received: preserve={preserve!r}, stability={stability!r}"
        )
    law = _sum_of_powers(float(stability), int(width), phi)
    if preserve == "log":
        exponent = -law.log_mean_and_variance()[0] / stability
    else:
        exponent = -law.log_moment(preserve / stability) / stability
    return math.exp(exponent)


def _sum_of_powers(alpha: float, width: int, phi: Slopes):
    shift = alpha * np.log(phi.slope)

    def transform(x: np.ndarray) -> tuple[np.ndarray, ...]:
        terms = [_power(alpha, x + step) for step in shift]
        one, absence, first, second = (
            np.transpose(column) @ phi.probability
            for column in zip(*terms, strict=True)
        )
        return phi.none + one, absence, first, second

    ends = -math.log(width) - shift.max(), -shift.min()
    return sum_of(transform, width, phi.none, *ends, decay=1)


def _mellin(u: np.ndarray, alpha: float) -> np.ndarray:
    return (
        special.gamma(u)
        * special.gamma(1 + u)
        * 2 ** (-alpha * u)
        * special.gamma((1 - alpha * u) / 2)
        * special.rgamma(1 + alpha * u / 2)
        / math.sqrt(math.pi)
    )


_Y_STEP = 0.04
_Y = _Y_STEP * (np.arange(350) + 0.5)


def _power(alpha: float, x: np.ndarray) -> tuple[np.ndarray, ...]:
    """l, 1 - l, -t l', t^2 l'' of |Z|^alpha at t = e^x."""
    left, right = x[x < 0], x[x >= 0]
    near, far = -0.5 + 1j * _Y, min(0.5, 0.5 / alpha) + 1j * _Y
    beyond = near - 1
    wave = np.exp(-1j * np.multiply.outer(left, _Y)) * (_Y_STEP / math.pi)
    g = _mellin(near, alpha)
    absence, first = (
        np.exp(left / 2)[:, None] * (wave @ np.array([-g, near * g]).T).real
    ).T
    g = _mellin(beyond, alpha) * beyond * near
    second = (
        stable_tail_constant(alpha) * np.exp(left)
        + np.exp(1.5 * left) * (wave @ g).real
    )
    wave = np.exp(-1j * np.multiply.outer(right, _Y)) * (_Y_STEP / math.pi)
    g = _mellin(far, alpha)
    r = (
        np.exp(-far[0].real * right)[:, None]
        * (wave @ np.array([g, far * g, far * (1 + far) * g]).T).real
    ).T
    return (
        np.concatenate([1 - absence, r[0]]),
        np.concatenate([absence, 1 - r[0]]),
        np.concatenate([first, r[1]]),
        np.concatenate([second, r[2]]),
    )


def stable_tail_constant(stability: float) -> float:
    """2^a Gamma((1+a)/2) / (sqrt(pi) Gamma(1-a/2))"""
    return float(
        2**stability
        * special.gamma((1 + stability) / 2)
        * special.rgamma(1 - stability / 2)
        / math.sqrt(math.pi)
    )


def _check_stability(stability: Any) -> None:
    if not is_real(stability) or not 0 < stability <= 2:
        raise ValueError(
            f"stability must be a number in (0, 2]. "
            f"Received: stability={stability!r}"
        )
