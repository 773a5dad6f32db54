"""Estimates from the weights of a trained network.

How rough the weights are from layer to layer: `estimate_hurst`. With which
power of the depth they shrink, and which continuous limit that speaks for:
`estimate_scaling` (Cohen, Cont, Rossier & Xu, 2021). How heavy their tails
are: `tail_index` (Mohammadi, Mohammadpour & Ogata, 2015; Simsekli, Sagun &
Gurbuzbalaban, 2019).
"""

from keras_initx.theory.trained_weights.depth_regularity import (
    HurstEstimate,
    ScalingEstimate,
    estimate_hurst,
    estimate_scaling,
)
from keras_initx.theory.trained_weights.heavy_tails import TailIndex, tail_index

__all__ = [
    "HurstEstimate",
    "ScalingEstimate",
    "TailIndex",
    "estimate_hurst",
    "estimate_scaling",
    "tail_index",
]


def __dir__() -> list[str]:
    return __all__
