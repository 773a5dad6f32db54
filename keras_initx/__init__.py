"""Weights that keep the signal alive, the theory, and the measurement."""

import contextlib

from keras_initx import _startup

with (
    _startup.quiet() if _startup.is_our_command() else contextlib.nullcontext()
):
    from keras_initx import (
        callbacks,
        constraints,
        distribute,
        distributions,
        initializers,
        inspection,
        layers,
        models,
        theory,
    )
    from keras_initx.calibration import Calibration, calibrate
    from keras_initx.initialization import (
        Initialization,
        InitializedWeight,
        initialize,
    )
    from keras_initx.measurement import measure
    from keras_initx.profile import VarianceProfile

__version__ = "0.1.0"

__all__ = [
    "Calibration",
    "Initialization",
    "InitializedWeight",
    "VarianceProfile",
    "calibrate",
    "callbacks",
    "constraints",
    "distribute",
    "distributions",
    "initialize",
    "initializers",
    "inspection",
    "layers",
    "measure",
    "models",
    "theory",
]
