"""Published scales of residual networks and transformers.

A factor multiplies the usual initial weights of a layer; a standard deviation
is that of the weights themselves.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from keras_initx.validation import check_bool, check_int, check_real, refuse


class DeepNormScale(NamedTuple):
    """The two scales of DeepNorm for one part of a transformer.

    Attributes:
        skip: float. alpha of the paper, in LayerNorm(alpha x + branch(x)).
        factor: float. beta of the paper, which multiplies the initial weights
            of the feed-forward layers and of the value and output projections.
    """

    skip: float
    factor: float


def stable_resnet_scale(index: int) -> float:
    """Returns the scale of one residual branch of a Stable ResNet.

        1 / (sqrt(l) log(l + 1)),    l = 1, 2, ...

    The scales decrease with l, and the sum of their squares is finite: it is
    3.24 at a thousand branches.

    Args:
        index: int. l, the number of the branch in the whole network, >= 1.

    Returns:
        The scale, a float.

    Raises:
        ValueError: If the index is not an int >= 1.

    Example:

    >>> round(stable_resnet_scale(1), 4)
    1.4427

    Reference: Hayou et al., AISTATS (2021), arXiv:2010.12859.
    """
    index = check_int("index", index, 1)
    return 1 / (math.sqrt(index) * math.log1p(index))


def fixup_factor(branches: int, layers: int = 2) -> float:
    """Returns Fixup's factor for the weights of a residual branch.

        branches^(-1 / (2 layers - 2))

    It is for networks without normalization, and for all layers of a branch
    except the last, whose weights start at 0, as do those of the classifier.

    Args:
        branches: int. Number of residual branches in the network, >= 1.
        layers: int. Number of layers with weights in a branch, >= 2. Defaults
            to 2.

    Returns:
        The factor of the initialization of He et al., a float.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> round(fixup_factor(54), 4), fixup_factor(16, layers=3)
    (0.1361, 0.5)

    Reference: Zhang, Dauphin & Ma, ICLR (2019), arXiv:1901.09321.
    """
    branches = check_int("branches", branches, 1)
    layers = check_int("layers", layers, 2)
    return float(branches) ** (-1 / (2 * layers - 2))


def gpt2_residual_std(blocks: int, std: float = 0.02) -> float:
    """Returns the standard deviation of GPT-2's residual projections.

        std / sqrt(2 blocks)

    It is that of the projections back into the residual stream, two per
    block; all other weights have the standard deviation `std`.

    Args:
        blocks: int. Number of blocks of the transformer, >= 1.
        std: float. Standard deviation of all other weights, finite and > 0.
            Defaults to 0.02.

    Returns:
        The standard deviation, a float.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> round(gpt2_residual_std(12), 6)
    0.004082

    Reference: Radford et al., Language models are unsupervised multitask
    learners (2019).
    """
    blocks = check_int("blocks", blocks, 1)
    std = check_real("std", std, "(0, inf)")
    return std / math.sqrt(2 * blocks)


def tfixup_factor(blocks: int, decoder: bool = False) -> float:
    """Returns T-Fixup's factor for the weights of a transformer.

        encoder    0.67 blocks^(-1/4)
        decoder    (9 blocks)^(-1/4)

    It is for transformers without normalization, and multiplies Glorot's
    initial weights of the feed-forward layers and of the value and output
    projections. The decoder's also multiplies the embeddings, which start at
    N(0, 1 / dim).

    Args:
        blocks: int. Number of blocks of the part in question, >= 1.
        decoder: bool. Whether the part is the decoder. Defaults to False.

    Returns:
        The factor, a float.

    Raises:
        ValueError: If `blocks` is not an int >= 1.

    Example:

    >>> round(tfixup_factor(6), 4), round(tfixup_factor(6, decoder=True), 4)
    (0.4281, 0.3689)

    Reference: Huang, Perez, Ba & Volkovs, ICML (2020).
    """
    blocks = check_int("blocks", blocks, 1)
    decoder = check_bool("decoder", decoder)
    return (9 * blocks) ** -0.25 if decoder else 0.67 * blocks**-0.25


def deepnorm_scale(
    blocks: int,
    *,
    encoder_blocks: int | None = None,
    decoder_blocks: int | None = None,
) -> DeepNormScale:
    """Returns DeepNorm's scales for one part of a transformer.

                             skip                 factor
        one part alone       (2 blocks)^(1/4)     (8 blocks)^(-1/4)
        encoder of the two   0.81 (N^4 M)^(1/16)  0.87 (N^4 M)^(-1/16)
        decoder of the two   (3 M)^(1/4)          (12 M)^(-1/4)

    with N the number of blocks of the encoder and M that of the decoder.

    Args:
        blocks: int. Number of blocks of the part in question, >= 1.
        encoder_blocks: int. N, >= 1, if the part in question is a decoder that
            follows an encoder. The published scales of the decoder do not
            depend on this number. Defaults to None, which means that there is
            no encoder before it.
        decoder_blocks: int. M, >= 1, if the part in question is an encoder
            that a decoder follows. Defaults to None, which means that there is
            no decoder after it.

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
    blocks = check_int("blocks", blocks, 1)
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
