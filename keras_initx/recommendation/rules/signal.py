"""Faults of the size of the signal, forward."""

from __future__ import annotations

import math

import keras
import numpy as np

from keras_initx.initialization.branches import BranchFinder, is_sum
from keras_initx.profile import VarianceProfile
from keras_initx.profile.verdict import (
    GOOD_FRACTION,
    GOOD_TOTAL,
    LOST_FRACTION,
    MANY_LAYERS,
    drift,
    judged,
)
from keras_initx.recommendation import lines
from keras_initx.recommendation.case import Case, entries, mean_square
from keras_initx.recommendation.reading import Reading, listed, outside
from keras_initx.recommendation.rules.weights import (
    EPSILONS,
    epsilon_of,
    has_sum,
)

# The square of the rounding of float32 numbers near 1.
_DEAD = 2.0**-46
# Behind a normalization, epsilon takes less than 5% of the variance.
_NORMALIZED = 0.95
# Branches that are scaled by 1/sqrt(L) multiply the stream by less than e.
_STREAM = 10.0


def drift_of(case: Case, profile: VarianceProfile | None) -> float | None:
    """Returns the drift of the total, None if no sample is seen."""
    if profile is None:
        return None
    rows = case.kept(profile)
    if not rows:
        return None
    total = profile.total
    # `predict` does not know the last rows of an unstable network.
    counted = [
        i
        for i in judged(profile.roles)
        if i >= rows[0] and not np.isnan(total[i])
    ]
    return drift(total[counted])


def scale(case: Case) -> Reading | None:
    """The signal vanishes or explodes from the first to the last layer."""
    if not case.noise_fits:
        return None
    predicted, measured = (drift_of(case, p) for _, p in case.profiles)
    if measured is None and case.nonfinite:
        measured = math.inf
    if predicted is None and measured is None:
        return None
    low, high = GOOD_TOTAL
    names = ", ".join(lines.critical(case.activations))
    candidates = lines.draws(case.activations)
    candidates += [
        lines.initialize(f'kx.initializers.Scaled("he_normal", {gain})')
        for gain in (0.3, 0.1)
    ]
    candidates += _branches_after(case)
    if case.data is not None:
        candidates.append(case.calibration())
    return Reading(
        outside(predicted, measured, low, high),
        "mean square of the signal at the last layer over the first (good: "
        f"{low:g} to {high:g})",
        predicted,
        measured,
        why=(
            "Weights of variance 1/(n E phi^2), for n inputs, keep the mean "
            "square behind an activation phi, and each layer multiplies it by "
            "the ratio to that (He et al., arXiv:1502.01852; Hanin & Rolnick, "
            f"arXiv:1803.01719). Here these are {names}."
        ),
        lines=candidates,
    )


def _branches_after(case: Case) -> list[str]:
    """Lines that draw weights and then scale residual branches."""
    if case.graph is None or not has_sum(case.graph):
        return []
    return [
        lines.then(line, lines.SCALE_BRANCHES)
        for line in lines.draws(case.activations)
    ]


def residual_growth(case: Case) -> Reading | None:
    """Unscaled residual branches multiply the stream, branch by branch."""
    graph = case.graph
    if graph is None:
        return None
    try:
        branches = BranchFinder(graph, case.view).branches(
            [step for step in graph.steps if is_sum(step)]
        )
    except ValueError:
        return None
    free = [branch for branch in branches if not branch.skipped]
    if len(free) < 2:
        return None
    # Behind a normalization each branch adds the same, which is harmless.
    norms = sum(
        case.view.rule(s.operation).normalizes or 0 for s in graph.steps
    )
    if norms >= len(free) / 2:
        return None
    predicted, measured = (growth(case, p) for _, p in case.profiles)
    if measured is None and case.nonfinite:
        measured = math.inf
    return Reading(
        outside(predicted, measured, 0.0, _STREAM),
        "largest mean square of the signal over the first (good: below "
        f"{_STREAM:g})",
        predicted,
        measured,
        where=f"{len(free)} residual branches",
        why=(
            "A branch without a factor multiplies the mean square of the "
            "stream, so that L of them multiply it exponentially, and with the "
            "factor 1/sqrt(L) by at most e (De & Smith, arXiv:2002.10444; "
            "Marion et al., arXiv:2206.06929)."
        ),
        lines=[lines.SCALE_BRANCHES, *_branches_after(case)],
    )


def growth(case: Case, profile: VarianceProfile | None) -> float | None:
    """Returns the largest total over the first, the last row left out."""
    if profile is None:
        return None
    rows = case.kept(profile)
    if len(rows) < 2:
        return None
    total = profile.total
    return float(np.max(total[rows[:-1]]) / total[rows[0]])


def dead_at_birth(case: Case) -> Reading | None:
    """The signal is nothing in inference mode, before training."""
    if not case.by_batch:
        return None
    predicted, measured = (
        drift_of(case, p) for _, p in case.inference_profiles
    )
    if predicted is None and measured is None:
        return None
    return Reading(
        outside(predicted, measured, _DEAD, math.inf),
        "mean square of the signal at the last layer over the first, in "
        f"inference mode (good: above {_DEAD:.0e})",
        predicted,
        measured,
        why=(
            "Before training the moving statistics of Batch Normalization "
            "normalize nothing, so that a signal vanishes in inference mode "
            "which lives in training mode. Its values are then below the "
            "rounding of float32 (derived here)."
        ),
        lines=lines.draws(case.activations),
    )


def sample_fraction(case: Case) -> Reading | None:
    """The samples become alike from layer to layer."""
    if case.measured is not None and case.measured.is_noise_of_positions:
        return None
    # The rule for inputs says so.
    if case.is_constant:
        return None
    values: list[float | None] = []
    lost: list[bool] = []
    for _, profile in case.profiles:
        if profile is None or not case.kept(profile):
            values.append(None)
            continue
        # What no sample reaches, as a head of zeros, is no fault.
        fraction = profile.sample_fraction[case.kept(profile)]
        if profile.is_noise_of_positions:
            fraction = fraction[:0]
        if not len(fraction) or np.isnan(fraction[-1]):
            values.append(None)
            continue
        below = fraction < GOOD_FRACTION
        since = int(np.flatnonzero(~below)[-1]) + 1 if not below.all() else 0
        many = len(fraction) - since > MANY_LAYERS
        values.append(float(fraction[-1]))
        lost.append(bool(fraction[-1] < LOST_FRACTION or many))
    if not lost:
        return None
    predicted, measured = values
    candidates = [lines.PAIRED, *lines.draws(case.activations)]
    candidates += _branches_after(case)
    if case.data is not None:
        candidates.append(case.calibration())
    return Reading(
        lost[-1],
        "share of the signal at the last layer that differs between samples "
        f"(good: above {LOST_FRACTION:g}, and below {GOOD_FRACTION:g} in at "
        f"most {MANY_LAYERS} layers)",
        predicted,
        measured,
        why=(
            "The correlation of two samples tends to 1 with depth, and "
            "networks train as deep as differences reach (Schoenholz et al., "
            "arXiv:1611.01232)."
        ),
        lines=candidates,
        note="Fewer layers, residual branches or normalization help too.",
    )


def small_before_normalization(case: Case) -> Reading | None:
    """An embedding is so small that epsilon outweighs its variance."""
    tables = [
        (case.view.name(w.layer), mean_square(w.variable))
        for w in case.view.weights
        if w.role == "embedding"
    ]
    norms = [one for one in case.view.layers if is_fresh(one)]
    epsilons = [epsilon_of(case, one) or 0.0 for one in norms]
    norms = [n for n, e in zip(norms, epsilons, strict=True) if e]
    if not tables or not norms:
        return None
    # Far above each epsilon nothing is measured, which takes time.
    largest = max(epsilons)
    if (
        min(size for _, size in tables) > EPSILONS * largest
        and not case.is_trial
    ):
        return None
    predicted, measured = None, case.measured_at(norms)
    if measured is None:
        predicted = case.predicted_at(norms)
    profile = predicted if measured is None else measured
    if profile is None or np.isnan(profile.total).all():
        return None
    worst = int(np.nanargmin(profile.total))
    kept = float(profile.total[worst])
    names = list(dict.fromkeys(name for name, _ in tables))
    return Reading(
        kept < _NORMALIZED,
        f"mean square behind {profile.layers[worst]!r} (good: {_NORMALIZED:g} "
        "to 1)",
        None if predicted is None else kept,
        None if measured is None else kept,
        where=listed(names),
        why=(
            "A normalization divides by sqrt(q + epsilon): where the mean "
            "square q of an embedding is of the order of epsilon, it does not "
            "normalize, and multiplies gradients (derived here; Keras draws "
            "embeddings with q = 8.3e-4, and epsilon is 1e-3)."
        ),
        lines=[
            lines.initialize(
                f'kx.initializers.Scaled("lecun_normal", {g})', names
            )
            for g in (0.1, 1.0)
        ],
        note=(
            "It was measured on random tokens."
            if case.data is None and measured is not None
            else ""
        ),
    )


def is_fresh(layer: object) -> bool:
    """Whether a normalization has the scale 1 and no offset, or has neither."""
    for name, value in (("gamma", 1), ("scale", 1), ("beta", 0)):
        weight = getattr(layer, name, None)
        if isinstance(weight, keras.Variable) and np.any(
            entries(weight) != value
        ):
            return False
    return True
