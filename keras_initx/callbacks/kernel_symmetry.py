"""How alike the features of a layer are, computed from its kernel."""

from __future__ import annotations

from keras import ops

from keras_initx.backend.passes import Tensor


def kernel_symmetry(kernel: Tensor) -> Tensor:
    """Returns spread, forward and backward correlation of a kernel.

    The spread is the standard deviation over the output channels, as root
    mean square over the other axes. It is 0 if and only if all output
    channels are equal to the last bit, whatever their number.

    Args:
        kernel: tensor. Shape `(taps, channels, outputs)`, a real dtype.

    Returns:
        A float32 tensor of shape `(3,)`: the spread; the mean correlation of
        two output channels, as vectors over taps and channels; and that of two
        input channels, as vectors over taps and outputs.

    Reference: the correlations are those of the authors' code for Blumenfeld,
    Gilboa & Soudry, ICML (2020), arXiv:2007.01038; the spread is defined here.
    """
    kernel = ops.cast(kernel, "float32")
    taps, channels, outputs = kernel.shape
    flat = ops.reshape(kernel, (taps * channels, outputs))
    by_input = ops.reshape(
        ops.transpose(kernel, (1, 0, 2)), (channels, taps * outputs)
    )
    return ops.stack(
        [
            _spread(flat),
            mean_correlation(ops.transpose(flat)),
            mean_correlation(by_input),
        ]
    )


def mean_correlation(rows: Tensor) -> Tensor:
    """Returns the mean Pearson correlation of two different rows.

    A row of equal entries, which has none, counts as correlated by 1 with all
    others, as in the authors' code. With the other rows, m of n, as vectors
    u_i of mean 0 and norm 1, the mean over all pairs needs no matrix of pairs.
    It is either side of

        1 - m D / (n (n - 1)) = 1 + (|S|^2 - sum_i |u_i|^2 - m (m - 1))
                                    / (n (n - 1)),
        D = sum_i |u_i - S / m|^2,    S = sum_i u_i,

    of which the left one has the smaller rounding error for correlated rows
    (none of first order, where they are equal), the right one for others.

    Args:
        rows: tensor. Shape `(n, m)`, float32.

    Returns:
        A scalar tensor in [-1, 1]; NaN if there is only one row.
    """
    unit, varies = _unit(rows)
    n = ops.cast(rows.shape[0], "float32")
    m = ops.sum(varies)
    pairs = n * (n - 1)
    total = ops.sum(unit, axis=0)
    deviation = varies * (unit - ops.divide_no_nan(total, m))
    deviations = ops.sum(deviation**2)
    alike = ops.sum(total**2) - ops.sum(unit**2)
    mean = ops.where(
        deviations < m / 2,
        1 - m * deviations / pairs,
        (alike + pairs - m * (m - 1)) / pairs,
    )
    return ops.where(n > 1, ops.clip(mean, -1.0, 1.0), float("nan"))


def _unit(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of mean 0 and norm 1, or all 0; whether they vary, as 0 and 1."""
    centered, peak = _centered(rows)
    norm = ops.sqrt(ops.sum(centered * centered, axis=1, keepdims=True))
    varies = ops.cast(peak > 0, "float32")
    return ops.divide_no_nan(centered, norm), varies


def _spread(rows: Tensor) -> Tensor:
    """Root mean square of the standard deviations of the rows."""
    centered, peak = _centered(rows)
    highest = ops.max(peak)
    shares = centered * ops.divide_no_nan(peak, highest)
    return highest * ops.sqrt(ops.mean(shares**2))


def _centered(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows minus their means, divided by their range; the ranges, (n, 1)."""
    # Without their first entry, equal ones are 0 exactly; without their mean,
    # which is rounded, they need not be. Squares of small ones would vanish.
    moved = rows - rows[:, :1]
    peak = ops.max(ops.abs(moved), axis=1, keepdims=True)
    moved = ops.divide_no_nan(moved, peak)
    return moved - ops.mean(moved, axis=1, keepdims=True), peak
