"""Scale rules of residual nets and transformers, with their papers' numbers.

What is called a factor multiplies a weight's usual initial value, a std or a
weight stands for itself.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from keras_initx.validation import check_int, is_real, refuse


class DeepNormScale(NamedTuple):
    """What DeepNorm asks of a part of a transformer.

    Attributes:
        skip: alpha, in LayerNorm(alpha x + branch(x)).
        factor: beta, of the initial weights of the feed-forward layers and of
            the value and output projections.
    """

    skip: float
    factor: float


def stable_resnet_scale(index: int) -> float:
    """Decreasing scale of the residual branches of a Stable ResNet.

        1 / (sqrt(l) log(l + 1)),    l = 1, 2, ...

    The sum of the squares is finite, 3.24 at a thousand branches.

    Args:
        index: l, counted over the whole network, an int >= 1.

    Returns:
        The scale.

    Raises:
        ValueError: The index is not an int >= 1.

    Example:

    >>> round(stable_resnet_scale(1), 4)
    1.4427

    Reference: Hayou et al., AISTATS (2021), arXiv:2010.12859.
    """
    check_int("index", index, 1)
    return 1 / (math.sqrt(index) * math.log1p(index))


def fixup_factor(branches: int, layers: int = 2) -> float:
    """Factor of the weights in a residual branch without normalisation: Fixup.

        branches^(-1 / (2 layers - 2))

    of all layers of a branch but its last, whose weights start at 0, as do
    those of the classifier.

    Args:
        branches: In the network, an int >= 1.
        layers: With weights, in a branch, an int >= 2.

    Returns:
        The factor of He's initialisation.

    Raises:
        ValueError: An argument is outside its range.

    Example:

    >>> round(fixup_factor(54), 4), fixup_factor(16, layers=3)
    (0.1361, 0.5)

    Reference: Zhang, Dauphin & Ma, ICLR (2019), arXiv:1901.09321.
    """
    check_int("branches", branches, 1)
    check_int("layers", layers, 2)
    return float(branches) ** (-1 / (2 * layers - 2))


def gpt2_residual_std(blocks: int, std: float = 0.02) -> float:
    """Standard deviation of GPT-2's projections back into the residual stream.

        std / sqrt(2 blocks)

    There are two branches a block; all other weights have `std`.

    Args:
        blocks: Of the transformer, an int >= 1.
        std: Of all other weights, finite and > 0.

    Returns:
        The standard deviation.

    Raises:
        ValueError: An argument is outside its range.

    Example:

    >>> round(gpt2_residual_std(12), 6)
    0.004082

    Reference: Radford et al., Language models are unsupervised multitask
    learners (2019).
    """
    check_int("blocks", blocks, 1)
    if not (is_real(std) and std > 0):
        raise ValueError(f"std must be finite and > 0. Received: std={std!r}")
    return std / math.sqrt(2 * blocks)


def tfixup_factor(blocks: int, decoder: bool = False) -> float:
    """Factor of the weights of a transformer without normalisation: T-Fixup.

        encoder    0.67 blocks^(-1/4)
        decoder    (9 blocks)^(-1/4)

    of Glorot's initialisation, in the feed-forward layers and the value and
    output projections. The decoder's is also that of the embeddings, which
    start at N(0, 1 / dim).

    Args:
        blocks: Of that part, an int >= 1.
        decoder: Whether of the decoder.

    Returns:
        The factor.

    Raises:
        ValueError: blocks is not an int >= 1.

    Example:

    >>> round(tfixup_factor(6), 4), round(tfixup_factor(6, decoder=True), 4)
    (0.4281, 0.3689)

    Reference: Huang, Perez, Ba & Volkovs, ICML (2020).
    """
    check_int("blocks", blocks, 1)
    return (9 * blocks) ** -0.25 if decoder else 0.67 * blocks**-0.25


def deepnorm_scale(
    blocks: int,
    *,
    encoder_blocks: int | None = None,
    decoder_blocks: int | None = None,
) -> DeepNormScale:
    """Scales of one part of a transformer, encoder or decoder: DeepNorm.

                             skip                 factor
        one part alone       (2 blocks)^(1/4)     (8 blocks)^(-1/4)
        encoder of the two   0.81 (N^4 M)^(1/16)  0.87 (N^4 M)^(-1/16)
        decoder of the two   (3 M)^(1/4)          (12 M)^(-1/4)

    Args:
        blocks: int. Number of blocks of the part in question, >= 1: N of an
            encoder, M of a decoder.
        encoder_blocks: int. Number of blocks, >= 1, of the encoder that the
            decoder in question follows. The published scales of the decoder
            do not depend on this number. Defaults to None: there is none.
        decoder_blocks: int. M, the number of blocks, >= 1, of the decoder that
            follows the encoder in question. Defaults to None: there is none.

    Returns:
        (skip, factor) of the part in question.

    Raises:
        ValueError: If a number of blocks is not an int >= 1, or both
            `encoder_blocks` and `decoder_blocks` are given.

    Example:

    >>> skip, factor = deepnorm_scale(12)
    >>> round(skip, 4), round(factor, 4)
    (2.2134, 0.3195)
    >>> encoder = deepnorm_scale(6, decoder_blocks=6)
    >>> decoder = deepnorm_scale(6, encoder_blocks=6)
    >>> round(encoder.skip, 4), round(decoder.factor, 4)
    (1.4179, 0.3433)

    Reference: Wang et al. (2022), arXiv:2203.00555, table of scales.
    """
    check_int("blocks", blocks, 1)
    check_int("encoder_blocks", encoder_blocks, 1, optional=True)
    check_int("decoder_blocks", decoder_blocks, 1, optional=True)
    if encoder_blocks is not None and decoder_blocks is not None:
        refuse(
            "encoder_blocks is for a decoder and decoder_blocks for an "
            "encoder: at most one of them can be given.",
            encoder_blocks=encoder_blocks,
            decoder_blocks=decoder_blocks,
        )
    if decoder_blocks is not None:
        size = (blocks**4 * decoder_blocks) ** (1 / 16)
        return DeepNormScale(0.81 * size, 0.87 / size)
    if encoder_blocks is not None:
        return DeepNormScale((3 * blocks) ** 0.25, (12 * blocks) ** -0.25)
    return DeepNormScale((2 * blocks) ** 0.25, (8 * blocks) ** -0.25)
