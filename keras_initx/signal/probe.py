"""A model's forward pass, compiled once, that returns moments, not outputs."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_initx.signal.batches import taken_as_inputs
from keras_initx.signal.heard import Heard
from keras_initx.signal.moments import (
    LayerMoments,
    Moments,
    all_finite,
    layer_moments,
    mean_squares,
    merged,
)
from keras_initx.signal.replicas import Placed, cut, strategy_of
from keras_initx.signal.selection import Selector, check_all_matched, matches
from keras_initx.signal.settings import settings
from keras_initx.signal.tap import listening

_TRACES_KEPT = 8


class Result(NamedTuple):
    """What a run over data found; `moments` has a row for each layer's call."""

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
        self._wanted: tuple[Selector, ...] = ()
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
        self._wanted = tuple(wanted)
        spec, states, written = None, (), ()
        moments, finite = None, True
        try:
            for batch in batches:
                spec = _same_spec(batch, spec)
                placed = self._placed(batch, spec)
                trace = self._trace(placed, states, written)
                new, new_finite, states = trace.function(placed.batch, states)
                written = trace.written
                moments = trace.merge(moments, new) if moments else new
                finite = tf.logical_and(finite, new_finite)
                on_batch()
        finally:
            # A user's function may hold the model.
            self._wanted = ()
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
        states: tuple,
        written: tuple[keras.Variable, ...],
    ) -> _Trace:
        # Traced a second time only to take in what a first batch has written.
        key = (repr(placed.spec), placed.are_pieces, len(states))
        if key not in self._traces:
            state_specs = tuple(map(tf.type_spec_from_value, states))
            names, new_written, ran = [], [], []

            def forward(batch, states):
                # One replica after the other, and all run the same.
                for found in (names, new_written, ran):
                    found.clear()
                before = zip(written, states, strict=True)
                return self._forward(batch, before, names, new_written, ran)

            with taken_as_inputs(self._model(), placed.spec):
                function = _concrete(
                    placed.moments(forward), placed.spec, state_specs
                )
            self._settings = [(weakref.ref(la), settings(la)) for la in ran]
            moments = function.structured_outputs[0]
            self._traces[key] = _Trace(
                function,
                _concrete(merged, moments, moments),
                _concrete(_summarize, moments),
                tuple(names),
                tuple(new_written),
            )
            if len(self._traces) > _TRACES_KEPT:
                self._traces.popitem(last=False)
        self._traces.move_to_end(key)
        return self._traces[key]

    def _forward(
        self,
        batch: Any,
        states: Iterable[tuple[keras.Variable, tf.Tensor]],
        names: list[str],
        written: list[keras.Variable],
        layers: list[keras.layers.Layer],
    ) -> tuple[tuple[LayerMoments, ...], tf.Tensor, tuple[tf.Tensor, ...]]:
        rows: list[LayerMoments] = []
        ran: list[Heard] = []

        def listener(heard: Heard, signal: tf.Tensor) -> tf.Tensor:
            names.append(heard.name)
            rows.append(layer_moments(signal))
            # Only then may the signal go on: an activation can then overwrite
            # it in place, and no signal is kept waiting for its turn.
            with tf.control_dependencies(rows[-1]):
                return tf.identity(signal)

        def picks(heard: Heard) -> bool:
            ran.append(heard)
            return any(matches(selector, heard) for selector in self._wanted)

        scope = _RecordingScope(states)
        with scope, listening(listener, picks):
            self._model()(batch, training=self._training)
        check_all_matched(self._wanted, ran)
        if not rows:
            raise ValueError(
                "A picked layer must have a floating-point signal. "
                f"Received: {sorted({heard.name for heard in ran})}"
            )
        layers += (heard.layer for heard in ran)
        written += scope.written.values()
        states = tuple(scope.get_current_value(v) for v in written)
        return tuple(rows), _inputs_finite(batch), states


class _RecordingScope(keras.StatelessScope):
    """A stateless scope that says which variables would have been written."""

    def __init__(self, states: Iterable[tuple[keras.Variable, tf.Tensor]]):
        super().__init__(list(states))
        self.written: dict[int, keras.Variable] = {}

    def add_update(self, update: tuple[keras.Variable, tf.Tensor]) -> None:
        self.written[id(update[0])] = update[0]
        super().add_update(update)


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


def _inputs_finite(batch: Any) -> tf.Tensor:
    return tf.reduce_all(
        [
            all_finite(x)
            for x in keras.tree.flatten(batch)
            if x.dtype.is_floating
        ]
        or [True]
    )


def _summarize(moments: Moments) -> tf.Tensor:
    """Samples, sample variance and squared mean: three numbers a layer."""
    return tf.stack(
        [moments.count, moments.variance, mean_squares(moments.means)]
    )
