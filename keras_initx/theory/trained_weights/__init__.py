"""What the weights of a trained network say.

- `estimate_hurst` says how rough the weights are from layer to layer.
- `estimate_scaling` estimates the power of the depth by which the weights of
  networks of several depths shrink, and the continuous limit that this
  indicates (Cohen, Cont, Rossier & Xu, 2021).
- `imbalance` says how much larger the weights into each unit are than those
  out (Du, Hu & Lee, 2018).
- `tail_index` says how heavy the tails of weights are (Mohammadi, Mohammadpour
  & Ogata, 2015; Simsekli, Sagun & Gurbuzbalaban, 2019).
"""

from keras_initx.theory.trained_weights.balance import imbalance
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
    "imbalance",
    "tail_index",
]


def __dir__() -> list[str]:
    return __all__
