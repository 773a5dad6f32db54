"""The rule of muP: from ratios of fans to a start and learning rates."""

from __future__ import annotations

import math
from typing import NamedTuple

from keras_initx.validation import check_real


class MupFactors(NamedTuple):
    """The factors of a weight in muP, relative to the same weight of a base.

    Attributes:
        size: float. The root mean square at the start over that of the base.
        adam: float. The factor of the learning rate of Adam and its like.
        sgd: float. The factor of the learning rate of SGD.
        relative: float. The factor of the learning rate of an optimizer whose
            step is as large as the weight, times the learning rate.
        orthogonal: float. The factor of the learning rate of an optimizer whose
            step is an orthogonal matrix, times the learning rate.
    """

    size: float
    adam: float
    sgd: float
    relative: float
    orthogonal: float

    @property
    def gradient(self) -> float:
        """The size of the gradient over that in the base."""
        return self.adam / self.sgd


def mup_factors(
    input_ratio: float = 1.0,
    output_ratio: float = 1.0,
    head_ratio: float = 1.0,
) -> MupFactors:
    """Returns the start and the learning rates of a weight in muP.

    With the ratios r_in and r_out of the fans of a weight to those in the base
    model, and theta = head_ratio^(-1/2) for the query of an attention,

        size        theta r_in^(-1/2)   if r_out > 1: input and hidden kernels
                    theta r_in^(-1)     if r_out = 1: a readout
        adam        theta / r_in
        sgd         theta^2 r_out / r_in
        relative    adam / size
        orthogonal  theta (r_out / r_in)^(1/2)

    A vector or an embedding has r_in = 1. In the table `orthogonal` is for
    steps of spectral norm 1.

    A step of Adam is of the size of the learning rate, whatever the size of the
    gradient, and that of SGD is the learning rate times the gradient. Both
    factors bring about the same steps, so that the gradient is adam / sgd times
    as large as in the base: 1 / (theta r_out).

    The query takes theta since Keras divides the products of queries and keys
    by the root of the head size d, and muP by d itself. A factor theta behind
    a weight acts as a weight theta times as large, whose learning rate is
    multiplied by theta with Adam and by theta^2 with SGD.

    Args:
        input_ratio: float. The fan-in over that of the base, > 0, and 1 for a
            vector. Defaults to 1.
        output_ratio: float. The number of outputs, of all maps of the weight,
            over that of the base; for a vector, its size over that of the
            base, > 0. Defaults to 1.
        head_ratio: float. For the query of an attention layer, the size of a
            head over that of the base, > 0. Defaults to 1.

    Returns:
        A `MupFactors`.

    Raises:
        ValueError: If a ratio is not positive.

    Example:

    >>> mup_factors(4, 4)
    MupFactors(size=0.5, adam=0.25, sgd=1.0, relative=0.5, orthogonal=1.0)
    >>> mup_factors(4, 1)
    MupFactors(size=0.25, adam=0.25, sgd=0.25, relative=1.0, orthogonal=0.5)

    Reference: Yang et al., arXiv:2203.03466, for size, adam and sgd; Yang,
    Simon & Bernstein, arXiv:2310.17813, for spectral norms. The form in ratios,
    with one formula for all weights, the query and `relative` are derived here.
    """
    input_ratio = check_real("input_ratio", input_ratio, "(0, inf)")
    output_ratio = check_real("output_ratio", output_ratio, "(0, inf)")
    theta = check_real("head_ratio", head_ratio, "(0, inf)") ** -0.5
    # Many inputs and few outputs: what a readout adds up is correlated with
    # its weights after one step.
    size = math.sqrt(input_ratio) if output_ratio > 1 else input_ratio
    return MupFactors(
        theta / size,
        theta / input_ratio,
        theta**2 * output_ratio / input_ratio,
        size / input_ratio,
        theta * math.sqrt(output_ratio / input_ratio),
    )
