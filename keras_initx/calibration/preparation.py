"""Preparation of a calibration: a model that is built, its batches."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import keras

from keras_initx.calibration.survey import Survey, survey
from keras_initx.calibration.unreached import unreached
from keras_initx.inspection.scalable import skipped_by_kind
from keras_initx.inspection.selection import Selector
from keras_initx.inspection.traversal import ModelView, inspect_model
from keras_initx.measurement.data import (
    Batches,
    build,
    fixed_size,
    map_arrays,
    samples_of,
    symbolic,
)
from keras_initx.measurement.moments import all_finite
from keras_initx.measurement.refusals import (
    empty_data,
    nonfinite_data,
    too_few_samples,
)
from keras_initx.measurement.tokens import check_tokens

# A batch whose largest signal has so many numbers, 16 MiB in float32, takes so
# long that starting its operations takes little of it.
_NUMBERS = 2**22
# So many samples are one batch, however large they are, as in `measure`.
_SAMPLES = 32


class Prepared(NamedTuple):
    """What a calibration starts from.

    Attributes:
        view: ModelView. The model, which is built.
        excluded: dict. The reason of each layer that is skipped for its kind,
            or for the layer after it, by the id of the layer.
        batches: Iterable of batches, which can be run through once.
    """

    view: ModelView
    excluded: dict[int, str]
    batches: Iterable[Any]


def prepare(
    model: keras.Model,
    data: Batches,
    *,
    chosen: Sequence[Selector],
    choose_size: bool,
    find_normalized: bool,
    training: bool,
) -> Prepared:
    """Builds a model, looks at it, and divides the data into batches.

    Args:
        model: keras.Model. A model of any kind.
        data: Batches. The data.
        chosen: Sequence of selectors. Which layers may be calibrated.
        choose_size: bool. Whether the data are arrays of which batches of any
            size may be made.
        find_normalized: bool. Whether layers that a normalization follows are
            skipped.
        training: bool. Whether the model will run in training mode.

    Raises:
        ValueError: If there are no data, or the model is not built on them.
    """
    choose_size &= data.required is None
    if choose_size:
        data = dataclasses.replace(data, size=samples_of(data.data), count=1)
    remaining = iter(data)
    first = next(remaining, None)
    if first is None:
        raise empty_data()
    view = _built(model, first)
    samples = samples_of(first)
    fixed = _fixed_size(view, samples)
    any_size = choose_size and not fixed and not training
    find_normalized &= any(view.rule(la).normalizes for la in view.layers)
    excluded = unreached(view, first, chosen, training) | skipped_by_kind(view)
    size = fixed or samples
    if find_normalized or (any_size and samples > _SAMPLES):
        found = _survey(view, first, fixed or 2, training)
        if find_normalized:
            excluded |= found.normalized
        if any_size:
            size = max(_NUMBERS // found.numbers, 1)
    if choose_size and size < samples:
        # Batches of nearly equal sizes, unless the model takes only one.
        size = fixed or -(-samples // -(-samples // size))
        data = dataclasses.replace(data, size=size, count=None)
        return Prepared(view, excluded, _checked(data))
    every_batch = itertools.chain([first], remaining)
    return Prepared(view, excluded, _checked(every_batch))


def _built(model: keras.Model, batch: Any) -> ModelView:
    """Builds a model, and the layers in it."""
    build(model, [batch])
    view = inspect_model(model)
    check_tokens(view, batch)
    # The `build` of a model need not build the layers in it. Those that never
    # run stay as they are.
    for inputs in (symbolic, _two_of):
        if all(layer.built for layer in view.layers):
            break
        # A symbolic tensor takes a name, so none is made where none is needed.
        with contextlib.suppress(Exception), keras.StatelessScope():
            model(inputs(batch))
        view = inspect_model(model)
    return view


def _two_of(batch: Any) -> Any:
    return map_arrays(lambda t: t[:2], batch)


def _fixed_size(view: ModelView, samples: int) -> int | None:
    """The one batch size that a model takes, None if it takes any."""
    if any(getattr(layer, "stateful", False) for layer in view.layers):
        # The states of a recurrent layer have a size.
        return fixed_size(view.model) or samples
    return fixed_size(view.model)


def _survey(view: ModelView, batch: Any, size: int, training: bool) -> Survey:
    few = map_arrays(lambda t: t[:size], batch)
    if not all_finite(few):
        raise nonfinite_data()
    try:
        return survey(view, few, training)
    except Exception:
        # Some models take no batch of two, and the error may tell of that.
        return survey(view, batch, training)


def _checked(data: Iterable[Any]) -> Iterator[Any]:
    """The batches; refuses data that are not finite, or too few.

    Raises:
        ValueError: If they are.
    """
    samples = 0
    for batch in data:
        samples += samples_of(batch)
        if not all_finite(batch):
            raise nonfinite_data()
        yield batch
    if samples < 2:
        raise too_few_samples()
