"""Forward passes, compiled once, over batches whose moments are merged."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_initx.distribute.cluster import strategy_of
from keras_initx.inspection.selection import Selector
from keras_initx.measurement.data import taken_as_inputs
from keras_initx.measurement.forward import Pass, forward_pass
from keras_initx.measurement.moments import Moments, mean_squares, merged
from keras_initx.measurement.replicas import Placed, cut
from keras_initx.measurement.staleness import settings

_TRACES_KEPT = 8


class Result(NamedTuple):
    """What a run over data found, a row for each call of a picked layer."""

    names: tuple[str, ...]
    units: tuple[int, ...]
    samples: np.ndarray
    sample_variance: np.ndarray
    squared_mean: np.ndarray
    data_finite: bool

    def first_not_finite(self) -> str | None:
        """The first layer whose moments are NaN or infinite."""
        finite = np.isfinite(self.sample_variance + self.squared_mean)
        return None if finite.all() else self.names[int(np.argmin(finite))]


class _Trace(NamedTuple):
    """A compiled forward pass and what can be done with its moments."""

    function: Callable
    merge: Callable
    summarize: Callable
    names: tuple[str, ...]
    written: tuple[keras.Variable, ...]


class Probe:
    """Runs a model over batches and keeps each picked layer's moments.

    The model's variables are read, never written: what the forward pass would
    assign (batch statistics, seeds, recurrent states) is handed from batch to
    batch and dropped at the end. A probe does not keep its model alive.
    """

    def __init__(self, model: keras.Model, training: bool):
        self._model = weakref.ref(model)
        self._training = training
        self._traces: OrderedDict[tuple, _Trace] = OrderedDict()
        self._settings: list[tuple[weakref.ref, tuple]] = []

    def is_fresh(self) -> bool:
        """Whether the model still computes what was traced."""
        return all(
            layer() is not None and settings(layer()) == traced
            for layer, traced in self._settings
        )

    def run(
        self,
        batches: Iterable[Any],
        wanted: Sequence[Selector],
        on_batch: Callable[[], None] = lambda: None,
    ) -> Result | None:
        """Moments of all batches together; None if there are no batches."""
        spec, states, written = None, (), ()
        moments, finite = None, True
        for batch in batches:
            spec = _same_spec(batch, spec)
            placed = self._placed(batch, spec)
            trace = self._trace(placed, wanted, states, written)
            new, new_finite, states = trace.function(placed.batch, states)
            written = trace.written
            moments = trace.merge(moments, new) if moments else new
            finite = tf.logical_and(finite, new_finite)
            on_batch()
        if moments is None:
            return None
        table = trace.summarize(moments).numpy()
        units = tuple(int(mean.shape[0]) for mean in moments.means)
        return Result(trace.names, units, *table, bool(finite))

    def _placed(self, batch: Any, spec: Any) -> Placed:
        strategy = strategy_of(self._model())
        if strategy.num_replicas_in_sync == 1:
            return Placed(batch, spec)
        return cut(batch, strategy)

    def _trace(
        self,
        placed: Placed,
        wanted: Sequence[Selector],
        states: tuple,
        written: tuple[keras.Variable, ...],
    ) -> _Trace:
        # Traced a second time only to take in what a first batch has written.
        key = (repr(placed.spec), placed.are_pieces, len(states))
        if key not in self._traces:
            state_specs = tuple(map(tf.type_spec_from_value, states))
            passes: list[Pass] = []

            def forward(batch, states):
                found = forward_pass(
                    self._model(),
                    batch,
                    wanted,
                    self._training,
                    zip(written, states, strict=True),
                )
                passes.append(found)
                return found.moments, found.finite, found.states

            with taken_as_inputs(self._model(), placed.spec):
                function = _concrete(
                    placed.moments(forward), placed.spec, state_specs
                )
            # Of several replicas, which all run the same.
            found = passes[-1]
            self._settings = [
                (weakref.ref(layer), settings(layer)) for layer in found.layers
            ]
            moments = function.structured_outputs[0]
            self._traces[key] = _Trace(
                function,
                _concrete(merged, moments, moments),
                _concrete(_summarize, moments),
                found.names,
                found.written,
            )
            if len(self._traces) > _TRACES_KEPT:
                self._traces.popitem(last=False)
        self._traces.move_to_end(key)
        return self._traces[key]


def _concrete(function: Callable, *specs: Any) -> Callable:
    # Not tf.function's own cache: it warns of models measured one after
    # another as if one were traced too often.
    return tf.function(function, autograph=False).get_concrete_function(*specs)


def _same_spec(batch: Any, before: Any) -> Any:
    spec = keras.tree.map_structure(
        lambda t: tf.TensorSpec([None, *t.shape[1:]], t.dtype), batch
    )
    if before is not None and spec != before:
        raise ValueError(
            "Every batch must have the structure, dtypes and shapes of the "
            f"first, but for the number of samples: {before}. Received: {spec}"
        )
    return spec


def _summarize(moments: Moments) -> tf.Tensor:
    """Samples, sample variance and squared mean: three numbers a layer."""
    return tf.stack(
        [moments.count, moments.variance, mean_squares(moments.means)]
    )
