"""What a reader should know of a whole measurement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import keras

from keras_initx.inspection.moving_statistics import (
    MovingStatistics,
    moving_statistics,
)
from keras_initx.inspection.selection import LayerCall

# Names in a sentence. A reader needs to see which layers are meant, not all.
_NAMES_SHOWN = 3


class Statistics(NamedTuple):
    """The statistics that a layer used in a forward pass.

    Args:
        name: str. The name of the layer's first call.
        values: MovingStatistics. The statistics.
    """

    name: str
    values: MovingStatistics


def statistics_in_use(
    calls: Iterable[LayerCall], written: Iterable[keras.Variable]
) -> tuple[Statistics, ...]:
    """Returns the moving statistics by which the layers of a pass normalized.

    Args:
        calls: Iterable of LayerCall. The calls of all layers in the pass.
        written: Iterable of keras.Variable. The variables that the pass would
            have assigned. A layer that moves its statistics normalizes by
            those of the batch.
    """
    moved = {id(variable) for variable in written}
    found: dict[int, Statistics] = {}
    for call in calls:
        values = moving_statistics(call.layer)
        if values is not None and id(values.mean) not in moved:
            found.setdefault(id(call.layer), Statistics(call.name, values))
    return tuple(found.values())


def remarks(
    statistics: Iterable[Statistics], training: bool
) -> tuple[str, ...]:
    """Returns a remark if layers normalize by statistics of no data.

    Args:
        statistics: Iterable of Statistics. Those in use.
        training: bool. Whether the model ran in training mode.
    """
    return tuple(_of_fresh(list(statistics), training))


def _of_fresh(statistics: list[Statistics], training: bool) -> Iterator[str]:
    fresh = [each for each in statistics if each.values.are_fresh()]
    moving = [each.name for each in fresh if not each.values.by_adapt]
    adapted = [each.name for each in fresh if each.values.by_adapt]
    if moving:
        remedy = (
            "The layers are frozen, and so normalize by them in training too."
            if training
            else "Measure with training=True to see the model as it trains."
        )
        yield (
            f"The moving statistics of {_layers(moving)} are those of a fresh "
            "model, mean 0 and variance 1, by which nothing is normalized. "
            f"{remedy}"
        )
    if adapted:
        yield (
            f"The statistics of {_layers(adapted)} are those of a fresh layer, "
            "mean 0 and variance 1, by which nothing is normalized. Call "
            "`adapt` with the data first."
        )


def _layers(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_NAMES_SHOWN]))
    more = ", ..." if len(names) > _NAMES_SHOWN else ""
    kind = "normalization layer" + ("s" if len(names) > 1 else "")
    return f"{len(names)} {kind} ({shown}{more})"
