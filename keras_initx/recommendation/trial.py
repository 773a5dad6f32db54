"""Carries out a line of code on a copy of a model."""

from __future__ import annotations

import inspect
import warnings
from types import SimpleNamespace
from typing import Any

import keras

from keras_initx import initializers
from keras_initx.calibration import calibrate
from keras_initx.initialization import initialize, paired, scale_branches
from keras_initx.inspection.assign import assign_all
from keras_initx.inspection.graph import has_graph
from keras_initx.inspection.traversal import inspect_model
from keras_initx.measurement.data import batches, build
from keras_initx.recommendation.case import Case

# What the lines call, under the names that the package has for it.
_KX = SimpleNamespace(
    calibrate=calibrate,
    initialize=initialize,
    initializers=initializers,
    paired=paired,
    scale_branches=scale_branches,
)


class NotCopied(Exception):
    """A model cannot be copied, with the reason."""


def copy_of(case: Case) -> Any:
    """Returns a new model with the layers, names and weights of a model.

    Raises:
        NotCopied: If Keras cannot make one.
    """
    model = case.model
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            copy = (
                keras.models.clone_model(model)
                if has_graph(model)
                else _from_config(model)
            )
            if not copy.built or not copy.weights:
                build(copy, batches(case.data, steps=case.steps, model=copy))
        ours, theirs = case.view, inspect_model(copy)
        if [tuple(w.variable.shape) for w in ours.weights] != [
            tuple(w.variable.shape) for w in theirs.weights
        ] or len(ours.layers) != len(theirs.layers):
            raise ValueError("its copy has other weights")
    except Exception as error:
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise NotCopied(text[0][:200]) from error
    # Keras numbers the layers of a `call` anew.
    for old, new in zip(ours.layers, theirs.layers, strict=True):
        new.name = old.name
    assign_all(
        [
            (new.variable, keras.ops.convert_to_tensor(old.variable))
            for old, new in zip(ours.weights, theirs.weights, strict=True)
        ]
    )
    return copy


def _from_config(model: Any) -> Any:
    config = model.get_config()
    parameters = inspect.signature(type(model).__init__).parameters
    if type(model).from_config.__func__ is keras.Model.from_config.__func__:
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        if not takes_all:
            config = {k: v for k, v in config.items() if k in parameters}
    return type(model).from_config(config)


def carried_out(case: Case, line: str) -> Case | None:
    """Returns a copy of a case after a line, None if the line fails.

    Raises:
        NotCopied: If the model cannot be copied.
    """
    names = {"model": copy_of(case), "data": case.data, "kx": _KX}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # What is printed is what was tried, so that the text of the line
            # is the only place that knows the call. It holds names of layers,
            # in quotes, and numbers, and nothing that a user has written.
            exec(line, names)
    except (ValueError, TypeError, AttributeError):
        return None
    return Case(names["model"], names["data"], case.steps, is_trial=True)
