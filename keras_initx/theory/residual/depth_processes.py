"""Gaussian processes over depth, for weights that are correlated across layers.

A process gives every weight one path over the layers, stationary and of unit
variance, with the covariance g_m between layers that lie m apart. For L layers,
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
from typing import Any

import numpy as np
from scipy import fft, special

from keras_initx.validation import check_array, check_int, check_real

# From this lag on a series of nine terms is exact, since its powers of
# 1 / lag^2 fall below the last digit. Below it, differences of powers are.
_FAR = 8
_TERMS = 9
# Eigenvalues below this share of the largest one are rounding errors.
_ROUNDING = 1e-14
# A smooth path is embedded in a period at whose middle, this many length scales
# away, its covariance is 0 to float64.
_DECAYED = 8.6
# Largest number of floats drawn at once: 16 MiB.
_AT_ONCE = 2**21


def fractional_noise_covariance(lag: Any, hurst: float) -> np.ndarray:
    """Returns the covariance of fractional Gaussian noise at unit steps.

        g_m = (|m + 1|^(2 H) - 2 |m|^(2 H) + |m - 1|^(2 H)) / 2

    so that g_0 = 1, and the sum of L consecutive values has the variance
    L^(2 H).

    Args:
        lag: array-like of integers, of any shape. m.
        hurst: float. H, in (0, 1]: below 1/2 neighbors are anti-correlated, at
            1/2 the noise is white, at 1 all values are equal.

    Returns:
        g_m, a float64 array of the shape of `lag`, exact to its last digits.
        At large lags, where the powers cancel, it is summed from their series
        m^(2 H) sum_j binom(2 H, 2 j) m^(-2 j).

    Raises:
        ValueError: If `lag` holds anything but finite numbers, or `hurst` is
            outside (0, 1].

    Example:

    >>> fractional_noise_covariance([0, 1, 2], hurst=0.7).round(4)
    array([1.    , 0.3195, 0.1888])

    Reference: Mandelbrot & Van Ness, SIAM Review 10, 422 (1968).
    """
    power = 2 * check_real("hurst", hurst, "(0, 1]")
    m = np.abs(check_array("lag", lag))
    near = np.minimum(m, _FAR)
    nearby = (near + 1) ** power - 2 * near**power + np.abs(near - 1) ** power
    far = np.maximum(m, _FAR)
    orders = 2 * np.arange(1, _TERMS + 1)
    series = special.binom(power, orders) * far[..., None] ** (power - orders)
    return np.where(m < _FAR, nearby / 2, series.sum(-1))


def smooth_covariance(
    lag: Any, depth: int, length_scale: float = 0.1
) -> np.ndarray:
    """Returns the squared exponential covariance of a smooth process.

        g_m = exp(-(m / L)^2 / (2 length_scale^2))

    Args:
        lag: array-like of integers, of any shape. m.
        depth: int. L, the number of layers, >= 1.
        length_scale: float. The length scale as a share of the depth, in
            (0, 100]. Defaults to 0.1.

    Returns:
        g_m, a float64 array of the shape of `lag`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> smooth_covariance([0, 10, 20], depth=100).round(4)
    array([1.    , 0.6065, 0.1353])

    Reference: Marion, Fermanian, Biau & Vert, JMLR 26(56), 2025,
    arXiv:2206.06929: the kernel of their smooth weights.
    """
    lag = check_array("lag", lag)
    depth = check_int("depth", depth, 1)
    length = depth * check_real("length_scale", length_scale, "(0, 100]")
    return np.exp(-0.5 * (lag / length) ** 2)


@dataclass(frozen=True, eq=False)
class DepthSpectrum:
    """A stationary Gaussian process over depth, as a Fourier series.

        x_k = sum_j sqrt(variance_j) (a_j cos(2 pi j k / M)
                                      - b_j sin(2 pi j k / M))

    for the layers k = 0, ..., L - 1, with independent standard normal a_j and
    b_j. `fractional_process` and `smooth_process` make such processes.

    Args:
        depth: int. L, the number of layers.
        period: int. M.
        variance: float64 array. The variance of each frequency
            j = 0, 1, ...; high frequencies whose variance is rounding error
            are left out.

    Raises:
        ValueError: If `sample` is asked for anything but an int >= 0 of paths.

    Example:

    >>> process = fractional_process(depth=100, hurst=0.7)
    >>> paths = process.sample(10_000, np.random.default_rng(0))
    >>> paths.shape, round(float((paths[0] * paths[1]).mean()), 1)
    ((100, 10000), 0.3)

    Reference: Davies & Harte, Biometrika 74, 95 (1987).
    """

    depth: int
    period: int
    variance: np.ndarray

    def sample(
        self, paths: int, rng: np.random.Generator, layers: slice = slice(None)
    ) -> np.ndarray:
        """Returns independent paths over all layers, or over some of them.

        Args:
            paths: int. Number of paths, >= 0.
            rng: np.random.Generator. The source of normal numbers. As many are
                drawn for some layers as for all.
            layers: slice. The layers, a slice of range(depth). Defaults to all
                layers.

        Returns:
            float32 array of shape (layers, paths).

        Raises:
            ValueError: If `paths` is not an int >= 0.
        """
        paths = check_int("paths", paths)
        values = np.empty(
            (len(range(self.depth)[layers]), paths), dtype=np.float32
        )
        for some, normals in self._normals(paths, rng):
            values[:, some] = self._paths(normals, layers)
        return values

    def _normals(
        self, paths: int, rng: np.random.Generator
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Yields a_j + i b_j of a few paths at a time: complex, (paths, j)."""
        numbers = 2 * len(self.variance)
        at_once = max(1, _AT_ONCE // max(numbers, self.period))
        for start in range(0, paths, at_once):
            some = slice(start, min(start + at_once, paths))
            normals = rng.standard_normal((some.stop - start, numbers))
            yield some, normals.view(complex)

    def _paths(self, normals: np.ndarray, layers: slice) -> np.ndarray:
        """Returns the sums of the series: (layers, paths)."""
        normals *= np.sqrt(self.variance)
        if 2 * len(self.variance) >= self.depth:
            # irfft counts each frequency twice except the first and the last.
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
    """Returns the process of the circulant whose row begins g_0, ..., g_N."""
    period = 2 * (len(row) - 1)
    eigenvalues = fft.rfft(np.concatenate([row, row[-2:0:-1]])).real
    kept = np.flatnonzero(eigenvalues > _ROUNDING * eigenvalues.max())
    variance = np.maximum(eigenvalues[: kept[-1] + 1], 0) / period
    # All frequencies except 0 and the last stand for two eigenvalues.
    variance[1 : period // 2] *= 2
    return DepthSpectrum(depth, period, variance)


def fractional_process(depth: int, hurst: float) -> DepthSpectrum:
    """Returns the process of the increments of fractional Brownian motion.

        x_k = L^H (B_((k+1)/L) - B_(k/L)),    k = 0, ..., L - 1

    with B fractional Brownian motion of Hurst index H, so that x_k has unit
    variance. The covariance is that of `fractional_noise_covariance`, exactly:
    the circulant is of order 2 L with g_L in its middle, for which no
    eigenvalue is negative (Dietrich & Newsam 1997 for H >= 1/2; Craigmile, J.
    Time Ser. Anal. 24, 505, 2003, below). Samplers with 0 in the middle, among
    them the one that was published with the reference, are not exact: at
    H = 0.9 and L = 1000 their variance is 1.23.

    Args:
        depth: int. L, the number of layers, >= 1.
        hurst: float. H, in (0, 1]; 1/2 is white noise.

    Returns:
        A `DepthSpectrum`, whose `sample` draws paths.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> tied = fractional_process(50, hurst=1.0)
    >>> paths = tied.sample(3, np.random.default_rng(0))
    >>> bool(np.ptp(paths, axis=0).max() < 1e-5)  # the same in all layers
    True

    Reference: Marion, Fermanian, Biau & Vert, JMLR 26(56), 2025,
    arXiv:2206.06929.
    """
    depth = check_int("depth", depth, 1)
    row = fractional_noise_covariance(np.arange(depth + 1), hurst)
    return _spectrum(depth, row)


def smooth_process(depth: int, length_scale: float = 0.1) -> DepthSpectrum:
    """Returns a smooth process over the layers, of unit variance.

        x_k = X(k / L),    k = 0, ..., L - 1

    with X a process of the covariance of `smooth_covariance`; x_k are its
    values, not its increments. Some twenty frequencies describe it at any
    depth, unless the length scale is no longer than a few layers. The
    covariance is exact to 1e-11.

    Args:
        depth: int. L, the number of layers, >= 1.
        length_scale: float. The length scale as a share of the depth, in
            (0, 100]. Defaults to 0.1.

    Returns:
        A `DepthSpectrum`, whose `sample` draws paths.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> paths = smooth_process(1000).sample(2, np.random.default_rng(0))
    >>> bool(np.abs(np.diff(paths, axis=0)).max() < 0.1)
    True

    Reference: Marion, Fermanian, Biau & Vert, JMLR 26(56), 2025,
    arXiv:2206.06929, whose later code takes the values too. The series is
    derived here.
    """
    depth = check_int("depth", depth, 1)
    length_scale = check_real("length_scale", length_scale, "(0, 100]")
    stretch = max(1, math.ceil(_DECAYED * length_scale))
    lags = np.arange(stretch * depth + 1)
    return _spectrum(depth, smooth_covariance(lags, depth, length_scale))
