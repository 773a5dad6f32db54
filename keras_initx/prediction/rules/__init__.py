"""The rules of the layers and operations of Keras."""

from keras_initx.prediction.rules import (
    activations as _activations,  # noqa: F401
)
from keras_initx.prediction.rules import dense as _dense  # noqa: F401
from keras_initx.prediction.rules import merging as _merging  # noqa: F401
from keras_initx.prediction.rules import (
    normalization as _normalization,  # noqa: F401
)
from keras_initx.prediction.rules import operations as _operations  # noqa: F401
from keras_initx.prediction.rules import shapes as _shapes  # noqa: F401
from keras_initx.prediction.rules import windows as _windows  # noqa: F401
