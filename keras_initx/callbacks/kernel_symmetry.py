"""How alike the features of a layer are, computed from its kernel."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def kernel_symmetry(kernel: tf.Tensor) -> tf.Tensor:
    """Returns spread, forward and backward correlation of a kernel.

    The spread is the standard deviation over the output channels, as root
    mean square over the other axes. It is 0 if and only if all output
    channels are equal to the last bit, whatever their number.

    Args:
        kernel: tf.Tensor. Shape `(taps, channels, outputs)`, a real dtype.

    Returns:
        A float32 tensor of shape `(3,)`: the spread; the mean correlation of
        two output channels, as vectors over taps and channels; and that of two
        input channels, as vectors over taps and outputs.

    Reference: the correlations are those of the authors' code for Blumenfeld,
    Gilboa & Soudry, ICML (2020), arXiv:2007.01038; the spread is defined here.
    """
    kernel = tf.cast(kernel, tf.float32)
    taps, channels, outputs = tf.unstack(tf.shape(kernel))
    flat = tf.reshape(kernel, [taps * channels, outputs])
    by_input = tf.reshape(
        tf.transpose(kernel, [1, 0, 2]), [channels, taps * outputs]
    )
    return tf.stack(
        [
            _spread(flat),
            mean_correlation(tf.transpose(flat)),
            mean_correlation(by_input),
        ]
    )


def mean_correlation(rows: tf.Tensor) -> tf.Tensor:
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
        rows: tf.Tensor. Shape `(n, m)`, float32.

    Returns:
        A scalar tensor in [-1, 1]; NaN if there is only one row.
    """
    unit, varies = _unit(rows)
    n = tf.cast(tf.shape(rows)[0], tf.float32)
    m = tf.reduce_sum(varies)
    pairs = n * (n - 1)
    total = tf.reduce_sum(unit, 0)
    deviation = varies * (unit - tf.math.divide_no_nan(total, m))
    deviations = tf.reduce_sum(deviation**2)
    alike = tf.reduce_sum(total**2) - tf.reduce_sum(unit**2)
    mean = tf.where(
        deviations < m / 2,
        1 - m * deviations / pairs,
        (alike + pairs - m * (m - 1)) / pairs,
    )
    return tf.where(n > 1, tf.clip_by_value(mean, -1.0, 1.0), np.nan)


def _unit(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Rows of mean 0 and norm 1, or all 0; whether they vary, as 0 and 1."""
    centered, peak = _centered(rows)
    norm = tf.norm(centered, axis=1, keepdims=True)
    return tf.math.divide_no_nan(centered, norm), tf.where(peak > 0, 1.0, 0.0)


def _spread(rows: tf.Tensor) -> tf.Tensor:
    """Root mean square of the standard deviations of the rows."""
    centered, peak = _centered(rows)
    highest = tf.reduce_max(peak)
    shares = centered * tf.math.divide_no_nan(peak, highest)
    return highest * tf.sqrt(tf.reduce_mean(shares**2))


def _centered(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Rows minus their means, divided by their range; the ranges, (n, 1)."""
    # Without their first entry, equal ones are 0 exactly; without their mean,
    # which is rounded, they need not be. Squares of small ones would vanish.
    moved = rows - rows[:, :1]
    peak = tf.reduce_max(tf.abs(moved), axis=1, keepdims=True)
    moved = tf.math.divide_no_nan(moved, peak)
    return moved - tf.reduce_mean(moved, axis=1, keepdims=True), peak
