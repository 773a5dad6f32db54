"""The rules of the layers and operations of Keras.

A rule says by which steps of `Propagation` the output of a layer is made. The
formula of each rule, with its source, stands in its docstring or in that of its
module. Importing a module registers its rules.
"""

from keras_initx.prediction.rules import (
    activations as _activations,  # noqa: F401
)
from keras_initx.prediction.rules import dense as _dense  # noqa: F401
from keras_initx.prediction.rules import merging as _merging  # noqa: F401
from keras_initx.prediction.rules import (
    normalization as _normalization,  # noqa: F401
)
from keras_initx.prediction.rules import operations as _operations  # noqa: F401
from keras_initx.prediction.rules import recurrent as _recurrent  # noqa: F401
from keras_initx.prediction.rules import shapes as _shapes  # noqa: F401
from keras_initx.prediction.rules import windows as _windows  # noqa: F401
