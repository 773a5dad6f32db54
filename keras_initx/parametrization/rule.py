"""The rule of muP: from ratios of fans to a start and learning rates."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratios:
    """How much larger a weight is than that of the base model.

    Args:
        fan_in: float. The fan-in over that of the base, 1 for a vector.
        fan_out: float. The number of outputs over that of the base, those of
            all its maps; for a vector, its size over that of the base.
        head: float. For the query of an attention layer, the size of a head
            over that of the base, otherwise 1.
    """

    fan_in: float = 1.0
    fan_out: float = 1.0
    head: float = 1.0


@dataclass(frozen=True)
class Factors:
    """The factors of one weight.

    Attributes:
        size: The root mean square at the start over that of the base.
        adam: The factor of the learning rate of Adam and its like.
        sgd: The factor of the learning rate of SGD.
    """

    size: float
    adam: float
    sgd: float


def mup_factors(ratios: Ratios) -> Factors:
    """The start and the learning rates of a weight in muP.

    With the ratios r_in and r_out of a weight to that of the base model, and
    theta = (ratio of the head sizes)^(-1/2) for the query of an attention,

        size    theta r_in^(-1/2)       if r_out > 1: input and hidden kernels
                theta r_in^(-1)         if r_out = 1: a readout
        Adam    theta / r_in
        SGD     theta^2 r_out / r_in

    A vector or an embedding has r_in = 1.

    The query takes theta since Keras divides the products of queries and keys
    by the root of the head size d, and muP by d itself. A factor theta behind
    a weight acts as a weight theta times as large, whose learning rate is
    multiplied by theta with Adam and by theta^2 with SGD.

    Args:
        ratios: Ratios. How much larger the weight is than that of the base.

    Example:

    >>> mup_factors(Ratios(4, 4))
    Factors(size=0.5, adam=0.25, sgd=1.0)
    >>> mup_factors(Ratios(4, 1))
    Factors(size=0.25, adam=0.25, sgd=0.25)

    Reference: Yang et al., arXiv:2203.03466, Tables 3 and 8. The form in
    ratios, with one formula for all weights, and the query are derived here.
    """
    theta = 1 / math.sqrt(ratios.head)
    # Many inputs and few outputs: what a readout adds up is correlated with
    # its weights after one step.
    power = 0.5 if ratios.fan_out > 1 else 1.0
    return Factors(
        theta * ratios.fan_in**-power,
        theta / ratios.fan_in,
        theta**2 * ratios.fan_out / ratios.fan_in,
    )
