"""How heavy the tails of given weights are."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np


class TailIndex(NamedTuple):
    """An estimate, and its standard error for stable weights."""

    value: float
    standard_error: float


def tail_index(weights: Any, block: int | None = None) -> TailIndex:
    """Tail index of the weights of a trained kernel: 2 if they are light.

    Sums of m independent, symmetric stable values are m^(1/a) times as large
    as one of them. So with Y the sums of n/m blocks of m of the n weights X,

        1/a = (mean log|Y| - mean log|X|) / log m,

    an unbiased estimate of 1/a, since E log|Y| = E log|X| + log(m)/a exactly.
    Its variance is at most

        Var log|X| (m + 1) / (n log(m)^2),
        Var log|X| = (pi^2/6) (1/a^2 + 1/2)

    and nearly that; the standard error of a = 1/(1/a) is a^2 times its root,
    and the bias of a that error squared, over a. Weights of another law with
    tails |x|^-a, a < 2, have sums that become stable as m grows, and weights of
    finite variance such that become normal, a = 2; the bias of 1/a then is of
    order 1 / log(m). At m = 1024, Laplace weights have 1.85 instead of 2,
    Student weights with 1.3 degrees of freedom 1.25. Large
    blocks lessen this bias, small blocks the standard error. The weights are
    first shifted to median 0, and taken into blocks in a fixed random order.

    Args:
        weights: Array-like of at least 100 finite numbers, of any shape,
            drawn independently from one symmetric law.
        block: m, at least 2 and at most a tenth of the number of weights. By
            default the square root of that number: 10^6 weights of
            stability 1.5 then have a standard error of 0.013.

    Returns:
        A `TailIndex`: `value`, positive, and its `standard_error`. By chance
        `value` may be above 2.

    Raises:
        ValueError: Too few weights, or not finite, or half of them equal;
            `block` is out of its range.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> found = tail_index(rng.standard_cauchy((512, 512)))
    >>> bool(abs(found.value - 1) < 4 * found.standard_error)
    True

    Reference: Mohammadi, Mohammadpour & Ogata, Metrika 78, 549 (2015), the
    estimate; Simsekli, Sagun & Gurbuzbalaban, ICML (2019), arXiv:1901.06053,
    for neural networks. The standard error derived here.
    """
    x = np.asarray(weights, np.float64).ravel()
    if x.size < 100 or not np.isfinite(x).all():
        raise ValueError(
            f"Expected at least 100 weights, all of them finite. Received: "
            f"{x.size} weights, {np.count_nonzero(~np.isfinite(x))} not finite"
        )
    m = math.isqrt(x.size) if block is None else block
    if isinstance(m, bool) or not isinstance(m, int | np.integer):
        raise ValueError(f"block must be an int. Received: block={block!r}")
    if not 2 <= m <= x.size // 10:
        raise ValueError(
            f"block must be at least 2 and at most a tenth of the {x.size} "
            f"weights. Received: block={block!r}"
        )
    x = np.random.default_rng(0).permutation(x - np.median(x))
    sums = x[: x.size // m * m].reshape(-1, m).sum(axis=1)
    # The median itself is shifted to zero, which no continuous law gives.
    singles, sums = x[x != 0], sums[sums != 0]
    if 2 * singles.size <= x.size:
        raise ValueError(
            f"Half of the weights are equal. Received: {x.size} weights of "
            f"which {x.size - singles.size} are the median"
        )
    growth = np.log(np.abs(sums)).mean() - np.log(np.abs(singles)).mean()
    value = math.log(m) / growth
    variance = math.pi**2 / 6 * (value**-2 + 0.5) * (m + 1) / x.size
    error = value**2 * math.sqrt(variance) / math.log(m)
    return TailIndex(float(value), float(error))
