"""Gaussian processes over depth: noise that knows the layers beside it.

A process gives every weight one path over the layers, stationary and of unit
variance, with the covariance g_m between layers that lie m apart. Of L layers,
g_0, ..., g_N with N >= L - 1 are the first row of a circulant matrix of order
M = 2 N,

    g_0, g_1, ..., g_N, g_(N-1), ..., g_1,

whose eigenvalues are its Fourier transform. Where none is negative, a Fourier
series with independent normal coefficients of these variances is a path, with
exactly this covariance (Davies & Harte, Biometrika 74, 95, 1987; Dietrich &
Newsam, SIAM J. Sci. Comput. 18, 1088, 1997).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import fft, special

from keras_initx.validation import check_int, is_real

# From this lag on a series of nine terms is exact, for its powers of 1 / lag^2
# fall below the last digit; before it, differences of powers are.
_FAR = 8
_TERMS = 9
# Eigenvalues below this share of the largest are rounding.
_ROUNDING = 1e-14
# A smooth path is embedded so far that its covariance has died away by then.
_DIED = 8.6
# Numbers drawn at once: 16 MiB.
_AT_ONCE = 2**21


def fractional_noise_covariance(lag: np.ndarray, hurst: float) -> np.ndarray:
    """Covariance of fractional Gaussian noise, the increments of unit steps.

        g_m = (|m + 1|^(2 H) - 2 |m|^(2 H) + |m - 1|^(2 H)) / 2

    so that g_0 = 1, and the sum of L increments has variance L^(2 H).

    Args:
        lag: m, array-like of integers.
        hurst: H, in (0, 1]: below 1/2 neighbours are anti-correlated, at 1/2
            the noise is white, at 1 all values are equal.

    Returns:
        g_m, float64 of the shape of `lag`, exact to its last digits: far out,
        where the powers cancel, by their series
        m^(2 H) sum_j binom(2 H, 2 j) m^(-2 j).

    Raises:
        ValueError: hurst is outside (0, 1].

    Example:

    >>> fractional_noise_covariance([0, 1, 2], hurst=0.7).round(4)
    array([1.    , 0.3195, 0.1888])

    Reference: Mandelbrot & Van Ness, SIAM Review 10, 422 (1968).
    """
    power = 2 * _check_hurst(hurst)
    m = np.abs(np.asarray(lag, float))
    near = np.minimum(m, _FAR)
    nearby = (near + 1) ** power - 2 * near**power + np.abs(near - 1) ** power
    far = np.maximum(m, _FAR)
    orders = 2 * np.arange(1, _TERMS + 1)
    series = special.binom(power, orders) * far[..., None] ** (power - orders)
    return np.where(m < _FAR, nearby / 2, series.sum(-1))


def smooth_covariance(
    lag: np.ndarray, depth: int, length_scale: float = 0.1
) -> np.ndarray:
    """Covariance of a smooth process between layers, the squared exponential.

        g_m = exp(-(m / L)^2 / (2 length_scale^2))

    Args:
        lag: m, array-like of integers.
        depth: L, number of layers, an int >= 1.
        length_scale: As a share of the depth, in (0, 100].

    Returns:
        g_m, float64 of the shape of `lag`.

    Raises:
        ValueError: An argument is outside its range.

    Example:

    >>> smooth_covariance([0, 10, 20], depth=100).round(4)
    array([1.    , 0.6065, 0.1353])

    Reference: Marion, Fermanian, Biau & Vert, JMLR 26(56), 2025,
    arXiv:2206.06929: the kernel of their smooth weights.
    """
    check_int("depth", depth, 1)
    length = depth * _check_length_scale(length_scale)
    return np.exp(-0.5 * (np.asarray(lag, float) / length) ** 2)


@dataclass(frozen=True)
class DepthSpectrum:
    """A stationary process over depth, as the variances of a Fourier series.

        x_k = sum_j sqrt(variance_j) (a_j cos(2 pi j k / M)
                                      - b_j sin(2 pi j k / M))

    with independent standard normal a_j and b_j.

    Attributes:
        depth: L; k = 0, ..., L - 1.
        period: M.
        variance: Of each frequency j = 0, 1, ..., float64; without those at
            the end that are nothing but rounding.

    Example:

    >>> process = fractional_process(depth=100, hurst=0.7)
    >>> paths = process.sample(10_000, np.random.default_rng(0))
    >>> paths.shape, round(float((paths[0] * paths[1]).mean()), 1)
    ((100, 10000), 0.3)
    """

    depth: int
    period: int
    variance: np.ndarray

    def sample(
        self, paths: int, rng: np.random.Generator, layers: slice = slice(None)
    ) -> np.ndarray:
        """Independent paths over all layers, or over some of them.

        Args:
            paths: How many, an int >= 0.
            rng: Whose normal numbers are taken, as many whatever `layers`.
            layers: Of range(depth), a slice.

        Returns:
            float32 of shape (layers, paths).
        """
        values = np.empty(
            (len(range(self.depth)[layers]), paths), dtype=np.float32
        )
        for some, normals in self._normals(paths, rng):
            values[:, some] = self._paths(normals, layers)
        return values

    def _normals(
        self, paths: int, rng: np.random.Generator
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """a_j + i b_j of a few paths at a time: complex, (paths, j)."""
        numbers = 2 * len(self.variance)
        at_once = max(1, _AT_ONCE // max(numbers, self.period))
        for start in range(0, paths, at_once):
            some = slice(start, min(start + at_once, paths))
            normals = rng.standard_normal((some.stop - start, numbers))
            yield some, normals.view(complex)

    def _paths(self, normals: np.ndarray, layers: slice) -> np.ndarray:
        normals *= np.sqrt(self.variance)
        if 2 * len(self.variance) >= self.depth:
            # irfft sees each frequency twice but the first and the last.
            normals /= 2
            ends = [0, -1] if len(self.variance) > self.period // 2 else [0]
            normals[:, ends] *= 2
            series = fft.irfft(normals, self.period, norm="forward")
            return series[:, : self.depth][:, layers].T
        k = np.arange(self.depth)[layers]
        turn = np.outer(k, np.arange(len(self.variance))) % self.period
        angle = 2 * math.pi / self.period * turn
        return np.cos(angle) @ normals.real.T - np.sin(angle) @ normals.imag.T


def _spectrum(depth: int, row: np.ndarray) -> DepthSpectrum:
    """Of the circulant whose first row begins g_0, ..., g_N."""
    period = 2 * (len(row) - 1)
    eigenvalues = fft.rfft(np.concatenate([row, row[-2:0:-1]])).real
    kept = np.flatnonzero(eigenvalues > _ROUNDING * eigenvalues.max())
    variance = np.maximum(eigenvalues[: kept[-1] + 1], 0) / period
    # All frequencies but 0 and the last stand for two eigenvalues.
    variance[1 : period // 2] *= 2
    return DepthSpectrum(depth, period, variance)


def fractional_process(depth: int, hurst: float) -> DepthSpectrum:
    """Increments of fractional Brownian motion over L layers, of unit variance.

        x_k = L^H (B_((k+1)/L) - B_(k/L)),    B of Hurst index H

    The covariance is that of `fractional_noise_covariance`, exactly: the
    circulant is of order 2 L with g_L in its middle, for which no eigenvalue
    is negative (Dietrich & Newsam 1997 for H >= 1/2; Craigmile, J. Time Ser.
    Anal. 24, 505, 2003, below). Samplers with 0 there, among them the one that
    was published with the reference, are off: at H = 0.9 and L = 1000 their
    variance is 1.23.

    Args:
        depth: L, number of layers, an int >= 1.
        hurst: H, in (0, 1]; 1/2 is white noise.

    Returns:
        The process, whose `sample` draws paths.

    Raises:
        ValueError: An argument is outside its range.

    Example:

    >>> tied = fractional_process(50, hurst=1.0)
    >>> paths = tied.sample(3, np.random.default_rng(0))
    >>> bool(np.ptp(paths, axis=0).max() < 1e-5)  # the same in all layers
    True

    Reference: Marion, Fermanian, Biau & Vert, JMLR 26(56), 2025,
    arXiv:2206.06929.
    """
    check_int("depth", depth, 1)
    row = fractional_noise_covariance(np.arange(depth + 1), hurst)
    return _spectrum(depth, row)


def smooth_process(depth: int, length_scale: float = 0.1) -> DepthSpectrum:
    """A smooth process over L layers, of unit variance: its values, not steps.

        x_k = X(k / L),    X of the covariance of `smooth_covariance`

    Some twenty frequencies are all there is of it at any depth, unless the
    length scale is no longer than a few layers. The covariance is exact to
    1e-11.

    Args:
        depth: L, number of layers, an int >= 1.
        length_scale: As a share of the depth, in (0, 100].

    Returns:
        The process, whose `sample` draws paths.

    Raises:
        ValueError: An argument is outside its range.

    Example:

    >>> paths = smooth_process(1000).sample(2, np.random.default_rng(0))
    >>> bool(np.abs(np.diff(paths, axis=0)).max() < 0.1)
    True

    Reference: Marion, Fermanian, Biau & Vert, JMLR 26(56), 2025,
    arXiv:2206.06929, whose later code takes the values too. The series is
    derived here.
    """
    check_int("depth", depth, 1)
    stretch = max(1, math.ceil(_DIED * _check_length_scale(length_scale)))
    lags = np.arange(stretch * depth + 1)
    return _spectrum(depth, smooth_covariance(lags, depth, length_scale))


def _check_hurst(hurst: float) -> float:
    if not (is_real(hurst) and 0 < hurst <= 1):
        raise ValueError(f"hurst must be in (0, 1]. Received: hurst={hurst!r}")
    return float(hurst)


def _check_length_scale(length_scale: float) -> float:
    if not (is_real(length_scale) and 0 < length_scale <= 100):
        raise ValueError(
            "length_scale must be in (0, 100], a share of the depth. "
            f"Received: length_scale={length_scale!r}"
        )
    return float(length_scale)
