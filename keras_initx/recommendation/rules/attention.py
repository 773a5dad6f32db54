"""Faults of attention: scores that are too large, tokens that become alike."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from keras_initx.profile.verdict import LOST_FRACTION
from keras_initx.recommendation import lines
from keras_initx.recommendation.case import Case
from keras_initx.recommendation.reading import Reading, listed


def query_key_scale(case: Case) -> Reading | None:
    """The scores are so large that a query attends to one key alone."""
    attentions = _attentions(case)
    if not attentions:
        return None
    names: list[str] = []
    readings: dict[str, float] = {}
    for how, each in case.profiles:
        if each is None:
            continue
        values = dict(_scores(case, each))
        if values:
            readings[how] = max(values.values())
            names = [name for name, value in values.items() if value > 1]
    if not readings:
        return None
    heads = [part for name in names for part in attentions[name]]
    return Reading(
        bool(names),
        "variance of the scores over 2 log T, for T keys (good: below 1)",
        readings.get("predicted"),
        readings.get("measured"),
        where=listed(names) if names else "the whole model",
        why=(
            "Above it the softmax of random scores is near 1 for one key, and "
            "passes hardly any gradient to queries and keys (the random "
            "energy model of Giorlandino & Goldt, arXiv:2505.24333)."
        ),
        lines=[
            lines.initialize('"lecun_normal"', heads),
            *(
                lines.initialize(
                    f'kx.initializers.Scaled("lecun_normal", {gain})', heads
                )
                for gain in (0.3, 0.1, 0.01)
            ),
        ],
    )


def _scores(case: Case, profile: Any) -> list[tuple[str, float]]:
    """Returns for each attention layer E s^2 over 2 log T."""
    rows = dict(zip(profile.layers, range(len(profile)), strict=True))
    found = []
    for name, (query, key) in _attentions(case).items():
        i, j = rows.get(query), rows.get(key)
        kernel = getattr(case.layer(key), "kernel", None)
        if i is None or j is None or kernel is None:
            continue
        keys = float(profile.units[j]) / math.prod(kernel.shape[1:])
        if keys > 1:
            variance = float(profile.total[i] * profile.total[j])
            if not math.isnan(variance):
                found.append((name, variance / (2 * math.log(keys))))
    return found


def _attentions(case: Case) -> dict[str, list[str]]:
    """Returns the names of the query and the key of each attention layer."""
    layers = {
        case.view.name(layer): case.view.rule(layer).score_layers or ()
        for layer in case.view.layers
    }
    return {
        name: [case.view.name(part) for part in parts]
        for name, parts in layers.items()
        if len(parts) == 2
    }


def alike_tokens(case: Case) -> Reading | None:
    """The tokens of a sample become alike."""
    parts = [part for both in _attentions(case).values() for part in both]
    # Correlations of tokens are predicted, and not measured.
    if not parts or case.prediction is None:
        return None
    known = case.prediction.position_correlation
    known = known[~np.isnan(known)]
    if not len(known):
        return None
    return Reading(
        bool(known[-1] > 1 - LOST_FRACTION),
        "mean correlation of two tokens at the last layer that has tokens "
        f"(good: below {1 - LOST_FRACTION:g})",
        float(known[-1]),
        why=(
            "Attention averages tokens, so that without strong enough skips "
            "all become alike (Dong et al., arXiv:2103.03404), and the "
            "gradients of queries and keys vanish (Noci et al., "
            "arXiv:2206.03126)."
        ),
        lines=[
            lines.SCALE_BRANCHES,
            *(
                lines.initialize(
                    f'kx.initializers.Scaled("lecun_normal", {gain})', parts
                )
                for gain in (1.2, 1.5, 2.0)
            ),
        ],
        note="Skips around attention, or stronger ones, help too.",
    )
