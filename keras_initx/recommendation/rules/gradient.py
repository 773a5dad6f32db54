"""Faults of the size of the gradient."""

from __future__ import annotations

import math

import keras
import numpy as np

from keras_initx.profile import VarianceProfile
from keras_initx.profile.verdict import GOOD_TOTAL, gradient_growth
from keras_initx.recommendation import lines
from keras_initx.recommendation.case import Case, entries
from keras_initx.recommendation.reading import Reading, outside
from keras_initx.recommendation.rules.weights import has_merge, is_relu

# The offsets of Batch Normalization, in models inside the model too.
_SHIFT = (
    "[w.assign(w + 1.0) for w in model.weights if "
    'w.path.replace("/beta", "/moving_mean") in '
    "{v.path for v in model.non_trainable_weights}]"
)


def growth_of_gradient(
    case: Case, profile: VarianceProfile | None
) -> float | None:
    """Returns the growth of the gradient through the rows of a signal."""
    if profile is None:
        return None
    rows = case.kept(profile)
    roles = [profile.roles[i] for i in rows]
    return gradient_growth(profile.gradient[rows], roles)


def gradient(case: Case) -> Reading | None:
    """The gradient grows or vanishes from the last to the first layer."""
    predicted = None
    if case.gradient_is_known:
        predicted = growth_of_gradient(case, case.predicted)
    measured = growth_of_gradient(case, case.measured)
    if predicted is None and measured is None:
        return None
    low, high = GOOD_TOTAL
    candidates = lines.draws(case.activations)
    candidates.append(lines.initialize('"lecun_normal"'))
    candidates += [lines.SCALE_BRANCHES, lines.PAIRED]
    if case.data is not None:
        candidates.append(case.calibration())
    candidates += [
        lines.then(line, lines.SCALE_BRANCHES)
        for line in lines.draws(case.activations)
    ]
    return Reading(
        outside(predicted, measured, low, high),
        "mean square of the gradient at the first layer over the last "
        f"(good: {low:g} to {high:g})",
        predicted,
        measured,
        why=(
            "Each layer multiplies the squared gradient by n' var(W) E phi'^2, "
            "with n' outputs, so that it grows or vanishes exponentially "
            "where this is not 1 (Schoenholz et al., arXiv:1611.01232)."
        ),
        lines=candidates,
    )


def batch_normalization(case: Case) -> Reading | None:
    """Batch Normalization without skips multiplies the gradient."""
    graph = case.graph
    if graph is None or not case.by_batch or has_merge(graph):
        return None
    if not case.activations or not is_relu(case.activations[0]):
        return None
    norms = [
        step.operation
        for step in graph.steps
        if isinstance(step.operation, keras.layers.BatchNormalization)
    ]
    predicted = math.prod(_rate(_offset(layer)) for layer in norms)
    return Reading(
        outside(predicted, None, 0.0, GOOD_TOTAL[1]),
        "mean square of the gradient at the first layer over the last, in "
        f"large batches (good: below {GOOD_TOTAL[1]:g})",
        predicted,
        where=f"{len(norms)} layers with Batch Normalization and no skip",
        why=(
            "A layer of Batch Normalization and relu multiplies the squared "
            "gradient by pi / (pi - 1) = 1.47, and no initial weights prevent "
            "it (Yang et al., arXiv:1902.08129)."
        ),
        lines=[_SHIFT],
        note=(
            "The line adds 1 to what enters relu, where most units are then "
            "on, so that the network starts nearer to a linear one (derived "
            "here). Residual branches are the usual remedy, and fewer "
            "normalizations help too."
        ),
    )


def _rate(offset: float) -> float:
    """Returns the growth of squared gradients through normalization and relu.

        E phi'(z)^2 / Var phi(z),   phi(z) = max(z + b, 0),   z ~ N(0, 1)

    Reference: Yang et al., arXiv:1902.08129, for b = 0; for other offsets b it
    is derived here.
    """
    on = (1 + math.erf(offset / math.sqrt(2))) / 2
    density = math.exp(-(offset**2) / 2) / math.sqrt(2 * math.pi)
    mean = density + offset * on
    square = (1 + offset**2) * on + offset * density
    return on / (square - mean**2)


def _offset(layer: keras.layers.BatchNormalization) -> float:
    """Returns the mean offset of a normalization, in its standard deviations.

    A layer without a scale has the scale 1.
    """
    beta, gamma = (
        None if w is None else float(np.mean(entries(w)))
        for w in (layer.beta, layer.gamma)
    )
    return (beta or 0.0) / (gamma or 1.0)
