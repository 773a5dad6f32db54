"""Weight initialization for deep Keras networks, with theory and measurement.

- `initializers`, `layers`, `constraints` and `models` are Keras objects whose
  weights keep the signal from vanishing or exploding with depth.
- `initialize` draws new weights for a whole model, `paired` chooses those that
  make a plain network start as an isometry, `scale_branches` scales residual
  branches, `calibrate` scales the layers of a model on data, and `balance`
  makes the weights of a relu network smallest without a change of its function.
- `mup` sets up a wide model to train at the learning rate of a narrow one, and
  `coordinate_check` shows whether it does.
- `theory` predicts how variance and correlation change from layer to layer,
  and `predict` does so for any model, forward and backward.
- `measure` and `callbacks` measure the same in a model, on data, and
  `measure_jacobian` the singular values of its derivative.
- `recommend` says what is wrong with the start of a model, and which call
  mends it; `testing` checks the same in your own tests.
- `optimizers` gives each weight a learning rate of its own.
- `distribute` trains on several devices, several machines, or a TPU.
- `distributions` has the heavy-tailed distributions that some initializers use.
- `inspection` knows the weights of each layer of Keras, and learns your layers.
"""

import contextlib
from typing import Any

from keras_initx import _startup

__version__ = "0.1.0"

if _startup.is_our_command():
    _startup.answer_early(__doc__, __version__)
with (
    _startup.quiet() if _startup.is_our_command() else contextlib.nullcontext()
):
    _startup.import_keras()
    from keras_initx import (
        backend,
        constraints,
        distributions,
        initializers,
        inspection,
        layers,
        models,
        optimizers,
        theory,
    )
    from keras_initx.initialization import (
        Balance,
        BalancedLayer,
        BranchScaling,
        Initialization,
        InitializedWeight,
        ScaledBranch,
        balance,
        initialize,
        paired,
        scale_branches,
    )
    from keras_initx.parametrization import Mup, MupWeight, mup
    from keras_initx.profile import VarianceProfile
    from keras_initx.validation import check_backend

    if backend.has_passes():
        from keras_initx import callbacks, prediction, testing
        from keras_initx.calibration import Calibration, calibrate
        from keras_initx.measurement import (
            JacobianProfile,
            Meter,
            measure,
            measure_jacobian,
        )
        from keras_initx.parametrization import (
            CoordinateCheck,
            coordinate_check,
        )
        from keras_initx.prediction.predict import predict
        from keras_initx.prediction.record import Prediction
        from keras_initx.recommendation.finding import Finding, Findings
        from keras_initx.recommendation.recommend import recommend
    if backend.is_tensorflow():
        from keras_initx import distribute

__all__ = [
    "Balance",
    "BalancedLayer",
    "BranchScaling",
    "Calibration",
    "CoordinateCheck",
    "Finding",
    "Findings",
    "Initialization",
    "InitializedWeight",
    "JacobianProfile",
    "Meter",
    "Mup",
    "MupWeight",
    "Prediction",
    "ScaledBranch",
    "VarianceProfile",
    "balance",
    "calibrate",
    "callbacks",
    "constraints",
    "coordinate_check",
    "distribute",
    "distributions",
    "initialize",
    "initializers",
    "inspection",
    "layers",
    "measure",
    "measure_jacobian",
    "models",
    "mup",
    "optimizers",
    "paired",
    "predict",
    "prediction",
    "recommend",
    "scale_branches",
    "testing",
    "theory",
]
# What runs on TensorFlow alone.
_ON_TENSORFLOW = {"distribute"}
if not backend.has_passes():
    _ON_TENSORFLOW |= {
        "Calibration",
        "CoordinateCheck",
        "Finding",
        "Findings",
        "JacobianProfile",
        "Meter",
        "Prediction",
        "calibrate",
        "callbacks",
        "coordinate_check",
        "measure",
        "measure_jacobian",
        "predict",
        "prediction",
        "recommend",
        "testing",
    }
if not backend.is_tensorflow():
    __all__ = [name for name in __all__ if name not in _ON_TENSORFLOW]


def __getattr__(name: str) -> Any:
    if name in _ON_TENSORFLOW:
        check_backend(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
