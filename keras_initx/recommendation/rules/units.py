"""Faults of units and of inputs: saturated, dead, not centered."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import numpy as np

from keras_initx.inspection.activations import saturation_bounds
from keras_initx.recommendation import lines
from keras_initx.recommendation.case import GOOD_INPUT, Case, entries
from keras_initx.recommendation.reading import Reading, listed, outside
from keras_initx.recommendation.rules.weights import is_relu
from keras_initx.theory.mean_field.activations import resolve
from keras_initx.theory.mean_field.quadrature import gaussian_moments

# E phi'^2 over phi'(0)^2 below which an activation is saturated, and the share
# of outputs near a bound that a tanh has there.
_SLOPE, _SATURATED = 0.1, 2 / 3
# From this variance on, the mean squared slope of a bounded activation falls as
# 1/sqrt(variance), within a percent for tanh.
_WIDE = 100.0
# Where samples become alike, half of the units of a relu layer are off for all.
_DEAD = 0.9
# A normal number is above that many standard deviations once in 31574.
_SIGMAS = 4.0
_CENTERED = 0.2
_DIFFERING = (
    "share of the inputs that differs between samples (good: above "
    f"{_CENTERED:g})"
)


def saturation(case: Case) -> Reading | None:
    """Units of tanh and the like are near their bounds."""
    predicted, names = None, []
    if _saturates(case) and case.predicted is not None:
        for name, total in zip(
            case.predicted.layers, case.predicted.total, strict=True
        ):
            layer = case.layer(name)
            if layer is None:
                continue
            share = slope(case.activation(layer), float(total))
            if share is not None:
                predicted = (
                    share if predicted is None else min(share, predicted)
                )
                if share < _SLOPE:
                    names.append(name)
    found = bool(names)
    measured = None
    if case.measured is not None:
        shares = np.nan_to_num(case.measured.saturated_fraction)
        if not np.isnan(case.measured.saturated_fraction).all():
            measured = float(shares.max())
            found = measured > _SATURATED
            above = np.flatnonzero(shares > _SATURATED)
            names = [case.measured.layers[int(i)] for i in above]
    if predicted is None and measured is None:
        return None
    candidates = lines.draws(case.activations)
    candidates.append(lines.initialize('"lecun_normal"'))
    if case.data is not None:
        candidates.append(case.calibration())
    quantity = (
        f"share of outputs near a bound (good: below {_SATURATED:.2f})"
        if predicted is None
        else f"mean squared slope of the activation over that at 0 (good: "
        f"above {_SLOPE:g}); measured is the share of outputs near a bound "
        f"(good: below {_SATURATED:.2f})"
    )
    return Reading(
        found,
        quantity,
        predicted,
        measured,
        where=listed(names) if names else "the whole model",
        why=(
            "Where an activation is flat, no gradient passes (Glorot & Bengio, "
            "AISTATS 2010)."
        ),
        lines=candidates,
    )


def _saturates(case: Case) -> bool:
    """Whether there is an activation that has bounds."""
    return any(saturation_bounds(one) is not None for one in case.activations)


def slope(activation: Any, variance: float) -> float | None:
    """Returns E phi'(u)^2 over phi'(0)^2 of an activation that has bounds.

    Where the distribution of u is too wide for the quadrature, the limit of
    large variances q is taken, in which only the density of u at 0 counts:

        E phi'(u)^2  ->  integral phi'(u)^2 du / sqrt(2 pi q)

    which is 4 / (3 sqrt(2 pi q)) for tanh (derived here).

    Args:
        activation: callable or None. The activation phi.
        variance: float. The variance of u.
    """
    if activation is None or saturation_bounds(activation) is None:
        return None
    if math.isnan(variance):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            phi = resolve(activation, {})
            at_0 = gaussian_moments(phi, 1e-6).derivative_square
            try:
                there = gaussian_moments(
                    phi, max(variance, 1e-6)
                ).derivative_square
            except ValueError:
                if variance < _WIDE:
                    raise
                there = gaussian_moments(phi, _WIDE).derivative_square
                there *= math.sqrt(_WIDE / variance)
    except ValueError:
        return None
    return there / at_0


def dead_units(case: Case) -> Reading | None:
    """Units are the same for all samples behind their activation."""
    predicted, names = None, []
    if any(map(is_relu, case.activations)) and case.predicted is not None:
        for name, total in zip(
            case.predicted.layers, case.predicted.total, strict=True
        ):
            share = _share_off(case, name, float(total))
            if share is not None:
                predicted = max(share, predicted or 0.0)
                if share > _DEAD:
                    names.append(name)
    measured = None
    has_samples = case.data is not None and not case.is_constant
    if case.measured is not None and has_samples:
        shares = case.measured.dead_fraction
        if not np.isnan(shares).all():
            measured = float(np.nanmax(shares))
            names = [
                name
                for name, share in zip(
                    case.measured.layers, shares, strict=True
                )
                if share > _DEAD
            ]
    if predicted is None and measured is None:
        return None
    return Reading(
        bool(names),
        f"largest share of dead units in a layer (good: below {_DEAD:g})",
        predicted,
        measured,
        where=listed(names) if names else "the whole model",
        why=(
            "A relu unit that is off for every sample has no gradient, and "
            "stays as it is (Maas, Hannun & Ng, ICML 2013)."
        ),
        lines=lines.draws(case.activations),
    )


def _share_off(case: Case, name: str, total: float) -> float | None:
    """Returns the share of relu units that their bias turns off.

    A unit is counted where its bias is more than 4 standard deviations of
    what is added to it below 0.
    """
    layer = case.layer(name)
    bias = getattr(layer, "bias", None)
    if bias is None or not is_relu(case.activation(layer)):
        return None
    if case.by_batch:
        return None
    values = entries(bias).astype(np.float64)
    rest = max(total - float(np.mean(values**2)), 0.0)
    return float(np.mean(values < -_SIGMAS * math.sqrt(rest) - 1e-30))


def inputs(case: Case) -> Reading | None:
    """The data are far from mean 0 or from mean square 1."""
    if case.data is None or case.measured is None:
        return None
    if case.is_constant:
        return Reading(
            True,
            _DIFFERING,
            measured=0.0,
            where="the data",
            why=(
                "All samples are equal, so that there is nothing to tell apart."
            ),
            lines=[],
            note="Whatever reads the data may fill them with one value.",
        )
    if case.by_batch:
        return None
    size = case.input_size(case.measured)
    if size is None:
        return None
    name = case.measured.layers[0]
    fraction = float(case.measured.sample_fraction[0])
    is_far = outside(None, size, *GOOD_INPUT) and not case.normalizes
    is_alike = fraction < _CENTERED
    reading = Reading(
        is_far or is_alike,
        "mean square of the inputs, as the first layer sees them (good: "
        f"{GOOD_INPUT[0]:g} to {GOOD_INPUT[1]:g})",
        measured=size,
        where=f"the data, at {name!r}",
        why=(
            "Initial weights are made for inputs of mean 0 and mean square 1, "
            "and gradients of weights have one sign where inputs have "
            "(LeCun et al., Efficient BackProp, 1998)."
        ),
        lines=_centering(case, name),
        note="The line goes before training, and before each prediction.",
    )
    if is_alike:
        reading = dataclasses.replace(
            reading,
            quantity=_DIFFERING,
            measured=fraction,
        )
    return reading


def _centering(case: Case, name: str) -> list[str]:
    lines_ = [case.calibration(f", layers={name!r}")]
    if isinstance(case.data, np.ndarray):
        whole = "data = (data - data.mean(axis=0)) / (data.std(axis=0) + 1e-6)"
        lines_ = [whole, *lines_]
    return lines_
