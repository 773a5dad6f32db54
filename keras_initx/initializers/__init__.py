"""Initializers for any Keras layer.

Each takes its scale from the fan-in, the number of terms that an output of the
layer sums. Shapes are read as Keras reads them; `EinsumDense`, and with it the
attention layers, say themselves which axes they sum over. Where a shape cannot
tell, say `fan_in`: k * k for a `DepthwiseConv2D` of k by k, 1 for an
`Embedding`, k * k * channels of the input for a `Conv2DTranspose` of stride 1.

Seeds. A call is a pure function of config, shape and dtype:

- None draws an int at construction, from the generator that
  `keras.utils.set_random_seed` sets. Two initializers differ; one initializer
  that two layers of equal shapes share gives both the same weights. So make a
  new one for each layer.
- An int gives the same weights at each call, and so do copies made from the
  config.
- A `keras.random.SeedGenerator` gives other weights at each call; a copy made
  from the config starts again.

`MultiHeadAttention` and `GroupedQueryAttention` make one copy from the config
for each of their kernels. With an int or a `SeedGenerator` the query, key and
value kernels, where their shapes are equal, are therefore EQUAL, and attention
scores start as those of x W W^T x. Give these layers `seed=None`, and call
`keras.utils.set_random_seed` for weights that can be drawn again.
"""

from keras_initx.initializers.alpha_stable import AlphaStable
from keras_initx.initializers.depth_process import DepthProcess, DepthWeights
from keras_initx.initializers.dirac import Dirac, DiracAverage
from keras_initx.initializers.fractional_moment import FractionalMoment
from keras_initx.initializers.from_distribution import FromDistribution
from keras_initx.initializers.scaled import Scaled
from keras_initx.initializers.triangle_wave import (
    TriangleWaveBias,
    TriangleWaveKernel,
)

__all__ = [
    "AlphaStable",
    "DepthProcess",
    "DepthWeights",
    "Dirac",
    "DiracAverage",
    "FractionalMoment",
    "FromDistribution",
    "Scaled",
    "TriangleWaveBias",
    "TriangleWaveKernel",
]
