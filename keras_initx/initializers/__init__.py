"""Initializers for the layers of Keras.

The scale of each follows from the fan-in, the number of terms that an output of
the layer sums. Shapes are read as Keras reads them. `EinsumDense` and the
attention layers tell an initializer which axes of a kernel they sum over. Where
the shape does not tell the fan-in, set the argument `fan_in`: k * k for a
`DepthwiseConv2D` with a window of k by k, 1 for an `Embedding`, k * k times the
channels of the input for a `Conv2DTranspose` of stride 1. Or use
`keras_initx.initialize`, which asks the layer.

Before Keras 3.15 `EinsumDense` and the attention layers tell nothing, and their
kernels get the scale that Keras's own initializers give them there: a query
kernel (512, 8, 64) is read as that of a convolution, with fan-in 4096 in the
place of 512, so that a standard deviation of 0.0442 becomes 0.0156. The first
such kernel of a process warns. `keras_initx.initialize` is right with all
versions.

A call is a pure function of the initializer's config, the shape and the dtype:

- With seed None, an int is drawn when the initializer is made, from the
  generator that `keras.utils.set_random_seed` seeds. Two initializers then
  differ, but one initializer that two layers of equal shape share gives both
  the same weights. So make a new initializer for each layer.
- With an int, every call gives the same weights, and so do copies made from
  the config.
- With a `keras.random.SeedGenerator`, every call gives other weights, and a
  copy made from the config starts from the beginning.

`MultiHeadAttention` and `GroupQueryAttention` make a copy from the config for
each of their kernels. With an int or a `SeedGenerator` the query, key and value
kernels are therefore EQUAL if their shapes are, and attention scores start as
those of x W W^T x. Give these layers an initializer with seed None, and call
`keras.utils.set_random_seed` to get the same weights again.
"""

from keras_initx.initializers.alpha_stable import AlphaStable
from keras_initx.initializers.depth_process import DepthProcess, DepthWeights
from keras_initx.initializers.dirac import Dirac, DiracAverage
from keras_initx.initializers.fractional_moment import FractionalMoment
from keras_initx.initializers.from_distribution import FromDistribution
from keras_initx.initializers.orthogonal import DeltaOrthogonal
from keras_initx.initializers.paired import Paired
from keras_initx.initializers.scaled import Scaled
from keras_initx.initializers.triangle_wave import (
    TriangleWaveBias,
    TriangleWaveKernel,
)

__all__ = [
    "AlphaStable",
    "DeltaOrthogonal",
    "DepthProcess",
    "DepthWeights",
    "Dirac",
    "DiracAverage",
    "FractionalMoment",
    "FromDistribution",
    "Paired",
    "Scaled",
    "TriangleWaveBias",
    "TriangleWaveKernel",
]


def __dir__() -> list[str]:
    return __all__
