"""How alike the features of a layer are, as told by its kernel."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def kernel_symmetry(kernel: tf.Tensor) -> tf.Tensor:
    """Spread over the outputs, forward and backward correlation, as (3,).

    The spread is the standard deviation over the output channels, as root
    mean square over the other axes. It is 0 if and only if all output
    channels are equal to the last bit, whatever their number.

    Args:
        kernel: (taps, channels, outputs), a real dtype.

    Returns:
        A float32 tensor of the spread; the mean correlation of two output
        channels, as vectors over taps and channels; and that of two input
        channels, as vectors over taps and outputs.

    Reference: the correlations are those of the authors' code for Blumenfeld,
    Gilboa & Soudry, ICML (2020), arXiv:2007.01038; the spread is ours.
    """
    kernel = tf.cast(kernel, tf.float32)
    taps, channels, outputs = tf.unstack(tf.shape(kernel))
    flat = tf.reshape(kernel, [taps * channels, outputs])
    out_of = tf.reshape(
        tf.transpose(kernel, [1, 0, 2]), [channels, taps * outputs]
    )
    return tf.stack(
        [
            _spread(flat),
            mean_correlation(tf.transpose(flat)),
            mean_correlation(out_of),
        ]
    )


def mean_correlation(rows: tf.Tensor) -> tf.Tensor:
    """Mean Pearson correlation of two different rows.

    A row of equal entries, which has none, counts as alike to all others, as
    in the authors' code. NaN where there is only one row. Takes no matrix of
    pairs:

        sum_(i != j) u_i u_j = |sum_i u_i|^2 - sum_i |u_i|^2

    Args:
        rows: (n, m) in float32.

    Returns:
        A scalar in [-1, 1].
    """
    unit, varies = _unit(rows)
    n = tf.cast(tf.shape(rows)[0], tf.float32)
    m = tf.reduce_sum(varies)
    pairs = n * (n - 1)
    alike = tf.reduce_sum(tf.reduce_sum(unit, 0) ** 2) - m
    mean = (alike + pairs - m * (m - 1)) / pairs
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
    """Rows less their means, over how far they vary, and that, (n, 1)."""
    # Less the first entry, equal ones are 0 exactly; less their mean, which
    # is rounded, they need not be. Squares of small ones would vanish.
    moved = rows - rows[:, :1]
    peak = tf.reduce_max(tf.abs(moved), axis=1, keepdims=True)
    moved = tf.math.divide_no_nan(moved, peak)
    return moved - tf.reduce_mean(moved, axis=1, keepdims=True), peak
