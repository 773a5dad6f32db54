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
        layers,
        models,
        theory,
    )
    from keras_initx.models.calibrate import calibrate
    from keras_initx.models.initialize import initialize
    from keras_initx.profile import VarianceProfile
    from keras_initx.signal import measure

__version__ = "0.1.0.dev0"

__all__ = [
    "VarianceProfile",
    "calibrate",
    "callbacks",
    "constraints",
    "distribute",
    "distributions",
    "initialize",
    "initializers",
    "layers",
    "measure",
    "models",
    "theory",
]
