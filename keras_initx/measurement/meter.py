"""A compiled measurement of one model, for any number of calls."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_initx import backend
from keras_initx.backend.passes import Tensor, passes
from keras_initx.hooks.recurrent import refusing_other_axes
from keras_initx.inspection.checks import check_call, check_model
from keras_initx.inspection.equal_kernels import warn_of_equal_kernels
from keras_initx.inspection.row_roles import have_positions, row_roles
from keras_initx.inspection.selection import Layers, selectors
from keras_initx.inspection.traversal import inspect_model
from keras_initx.measurement.data import (
    Batches,
    Data,
    batches,
    build,
    is_white_noise,
    map_arrays,
    samples_of,
    taken_as_inputs,
)
from keras_initx.measurement.forward import ForwardResult, forward_pass
from keras_initx.measurement.gradient import (
    Gradients,
    GradientTask,
    Loss,
    check_gradient,
    measured_gradients,
    with_gradients,
)
from keras_initx.measurement.moments import (
    FEW_SAMPLES,
    Moments,
    all_finite,
    dead_fractions,
    mean_squares,
    merged,
)
from keras_initx.measurement.nonfinite import first_nonfinite, refuse_nonfinite
from keras_initx.measurement.placed import Placed
from keras_initx.measurement.refusals import (
    empty_data,
    explained,
    mixed_samples,
    nonfinite,
    nonfinite_data,
    too_few_samples,
)
from keras_initx.measurement.remarks import (
    Statistics,
    remarks,
    statistics_in_use,
)
from keras_initx.measurement.sample_axis import (
    FIRST,
    NONE,
    UNKNOWN,
    Place,
    Sizes,
    find_places,
    note,
)
from keras_initx.measurement.tokens import check_tokens
from keras_initx.profile import VarianceProfile
from keras_initx.validation import check_bool, refuse

_COMPILED_KEPT = 8


class Meter:
    """Measures one model any number of times and compiles it only once.

    `Meter(model)(data)` returns what `measure(model, data)` returns. The meter
    keeps the compiled forward passes, one for each structure of data (dtypes,
    and shapes but for the number of samples; the last 8 of them), and they go
    when the meter goes. If batches of up to 32 samples come first and larger
    ones later, there is a second pass for these.

    A compiled pass fixes at its first call all Python values that the layers
    read while they run: a dropout rate, an activation function, the attributes
    of your own layers, which layers there are, and which of them `layers`
    selects. Later changes of these are not seen; make a new meter. On PyTorch
    nothing is compiled, and the layers read their values at each call. What
    stands in variables is read anew at each call: weights, statistics of Batch
    Normalization, seeds. They are read, never written: what a forward pass
    would assign goes from batch to batch and is dropped at the end.

    Args:
        model: keras.Model. A model of any kind. It is built at the first call
            if it is not.
        layers: Which layers to report, as in `measure`. Defaults to every
            layer that holds a kernel.
        training: bool. Whether to run the model in training mode. Defaults to
            False.
        gradient: bool. Whether to measure the gradient too, as in `measure`.
            Defaults to False.
        loss: As in `measure`; a call then needs labels. Defaults to None.

    Raises:
        ValueError: If an argument is none of these; at a call, as in `measure`.
        RuntimeError: At a call, as in `measure`.

    Example:

    >>> import keras, numpy as np, keras_initx as kx
    >>> layer = keras.layers.Dense(3, kernel_initializer="ones")
    >>> model = keras.Sequential([keras.Input((2,)), layer])
    >>> meter = kx.Meter(model)
    >>> x = np.array([[0.0, 1.0], [0.0, 3.0]])
    >>> float(meter(x).sample_variance[0])
    1.0
    >>> _ = layer.kernel.assign(2 * layer.kernel)
    >>> float(meter(x).sample_variance[0])
    4.0

    Reference: as for `measure`.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        layers: Layers = None,
        training: bool = False,
        gradient: bool = False,
        loss: Loss | None = None,
    ):
        self._model = check_model(model)
        check_call(model)
        self._selectors = selectors(layers)
        self._training = check_bool("training", training)
        check_gradient(gradient, loss, None)
        self._loss = loss
        self._task = GradientTask(model, loss) if gradient else None
        self._compiled: OrderedDict[tuple, _CompiledForward] = OrderedDict()
        # Where the samples are in the signals that were looked at, by the
        # structure of the data.
        self._places: OrderedDict[str, dict[str, Place]] = OrderedDict()
        self._places_are_sure = True
        self._kernels_compared = False
        # Two threads may call one meter, and both compile.
        self._lock = threading.RLock()

    def __call__(
        self,
        data: Data,
        *,
        steps: int | None = None,
        batch_size: int | None = None,
        verbose: int = 0,
        labels: Any = None,
    ) -> VarianceProfile:
        """Measures the model as it is now.

        Args:
            data: As in `measure`.
            steps: int. The largest number of batches to use. Defaults to all.
            batch_size: int. Samples per batch, for arrays. Defaults to 32.
            verbose: int. 1 shows a progress bar, 0 nothing. Defaults to 0.
            labels: As in `measure`. Defaults to those of a data set.

        Returns:
            A `VarianceProfile`, as `measure` returns.

        Raises:
            ValueError: As in `measure`.
            RuntimeError: As in `measure`.
        """
        if verbose not in (0, 1):
            refuse("verbose must be 0 or 1.", verbose=verbose)
        check_gradient(self._task is not None, self._loss, labels)
        all_batches = batches(data, batch_size, steps, self._model, labels)
        build(self._model, all_batches)
        bar = keras.utils.Progbar(all_batches.count) if verbose else None
        gradients = None
        with self._lock:
            result = self._run(
                all_batches, on_batch=lambda: bar.add(1) if bar else None
            )
            if result is not None and self._task is not None:
                gradients = self._gradients(self._task, result, all_batches)
            if not self._places_are_sure:
                # They hold for data of equal samples, and these are over.
                self._compiled.clear()
                self._places.clear()
                self._places_are_sure = True
        if result is None:
            raise empty_data()
        self._check(result, all_batches)
        columns = {} if gradients is None else {"gradient": gradients.values}
        view = inspect_model(self._model)
        rows = result.names, result.units
        return VarianceProfile(
            result.names,
            result.sample_variance,
            result.squared_mean,
            np.array(result.units),
            dead_fraction=result.shares[0],
            saturated_fraction=result.shares[1],
            notes=_notes(result.places, gradients),
            remarks=remarks(result.statistics, self._training),
            roles=row_roles(view, *rows, result.sample_variance),
            white_noise=result.white_noise and have_positions(view, *rows),
            **columns,
        )

    def _layers(self) -> Sequence[keras.layers.Layer]:
        # Without data it has not been built.
        built = self._model.built
        return inspect_model(self._model).layers if built else ()

    @property
    def _needs_labels(self) -> bool:
        return self._task is not None and self._task.needs_labels

    def _gradients(
        self, task: GradientTask, result: _Result, all_batches: Batches
    ) -> Gradients:
        """The gradients of a run, and of further runs where it needs them."""
        scales = task.scales()

        def again(scale: float) -> np.ndarray:
            if scale == scales.factors[0]:
                return result.gradients
            further = self._run(all_batches, scale=scale)
            return result.gradients if further is None else further.gradients

        return measured_gradients(again, scales)

    def _run(
        self,
        all_batches: Batches,
        on_batch: Callable[[], None] = lambda: None,
        scale: float | None = None,
    ) -> _Result | None:
        """Moments of all batches together; None if there are no batches.

        Args:
            all_batches: The batches.
            on_batch: Called after each batch.
            scale: float. The factor of the gradient where it starts. Defaults
                to the first one to try.
        """
        while True:
            # A run that begins again draws the same random numbers.
            with passes().restoring(self._layers):
                try:
                    return self._run_batches(all_batches, on_batch, scale)
                except _BeginAgain:
                    continue

    def _run_batches(
        self,
        all_batches: Batches,
        on_batch: Callable[[], None],
        scale: float | None,
    ) -> _Result | None:
        spec: Any = None
        states: tuple[Tensor, ...] = ()
        written: tuple[keras.Variable, ...] = ()
        moments: Moments | None = None
        sums: Tensor = 0.0
        finite = ops.cast(True, "bool")
        samples = 0
        white_noise = True
        for example in all_batches.examples(self._needs_labels):
            batch = example.inputs
            # Its first batch shows what the data are.
            white_noise = white_noise and (samples > 0 or is_white_noise(batch))
            if not samples:
                check_tokens(inspect_model(self._model), batch)
            if self._task is not None:
                batch = self._task.feed(example, samples, scale)
            spec = _same_spec(batch, spec)
            placed = self._placed(batch, spec)
            structure = repr(spec)
            try:
                compiled = self._compiled_for(
                    structure, placed, states, written, all_batches
                )
                with refusing_other_axes():
                    (new, numbers), new_finite, states, new_sums = (
                        compiled.function(placed.batch, states)
                    )
            except Exception as error:
                found = explained(error)
                if found is None:
                    raise
                raise found from None
            elsewhere = compiled.not_by_sample(new, samples_of(batch))
            if elsewhere:
                self._look_up(structure, elsewhere, all_batches)
                raise _BeginAgain
            samples += samples_of(batch)
            written = compiled.written
            if moments:
                new, numbers = compiled.merge(moments, new)
            moments = new
            sums = sums + new_sums
            finite = ops.logical_and(finite, new_finite)
            on_batch()
        if moments is None:
            return None
        layers, outputs = numbers
        variance, square = compiled.by_call(passes().to_numpy(layers))
        shares = _of_rows(
            passes().to_numpy(outputs), compiled.activation_of, samples
        )
        reached = np.array([place != NONE for place in compiled.places])
        return _Result(
            compiled.names,
            compiled.units(moments, samples),
            samples,
            np.where(reached, variance, 0),
            square,
            shares,
            bool(finite),
            compiled.places,
            compiled.statistics,
            np.asarray(passes().to_numpy(sums), np.float64),
            white_noise,
        )

    def _placed(self, batch: Any, spec: Any) -> Placed:
        if backend.is_tensorflow():
            from keras_initx.measurement.replicas import split

            return split(batch, spec, self._model)
        return Placed(passes().on_devices(batch), spec, samples_of(batch))

    def _compiled_for(
        self,
        structure: str,
        placed: Placed,
        states: tuple[Tensor, ...],
        written: tuple[keras.Variable, ...],
        all_batches: Batches,
    ) -> _CompiledForward:
        # The second batch has a pass of its own if the first one has written
        # states, which the second takes as arguments.
        key: tuple = (structure, repr(placed.spec))
        key += (placed.are_pieces, len(states))
        # A pass for few samples is compiled sooner, but one for many samples
        # takes few as well.
        few = (
            placed.samples <= FEW_SAMPLES
            and (*key, False) not in self._compiled
        )
        key += (few,)
        if key not in self._compiled:
            traced = self._compile(structure, placed, states, written, few)
            if traced.doubtful:
                self._look_up(structure, traced.doubtful, all_batches)
                traced = self._compile(structure, placed, states, written, few)
            self._compiled[key] = traced
            if len(self._compiled) > _COMPILED_KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(key)
        return self._compiled[key]

    def _look_up(
        self, structure: str, names: Sequence[str], all_batches: Batches
    ) -> None:
        """Finds where the samples are in the signals of some calls.

        Raises:
            ValueError: If there is none, or what was found before is wrong.
        """
        known = self._places.setdefault(structure, {})
        found, sure = find_places(
            self._model,
            all_batches,
            self._selectors,
            names,
            self._training,
        )
        mixed = [
            name
            for name in names
            if name in known or found.get(name) == UNKNOWN
        ]
        if mixed:
            if not all(map(all_finite, all_batches)):
                raise nonfinite_data()
            place = first_nonfinite(self._model, all_batches, self._training)
            raise nonfinite(place) if place else mixed_samples(mixed)
        known.update({name: found.get(name, FIRST) for name in names})
        self._places_are_sure &= sure
        for key in [key for key in self._compiled if key[0] == structure]:
            del self._compiled[key]
        if len(self._places) > _COMPILED_KEPT:
            self._places.popitem(last=False)

    def _compile(
        self,
        structure: str,
        placed: Placed,
        states: tuple[Tensor, ...],
        written: tuple[keras.Variable, ...],
        few: bool,
    ) -> _CompiledForward:
        # The last one, and no tensors of it.
        traces: list[ForwardResult] = []
        # By the number of samples.
        sizes: dict[int, Sizes] = {}
        places = self._places.get(structure, {})

        def forward(batch: Any, states: tuple[Tensor, ...]) -> tuple:
            batch = map_arrays(passes().of_any_size, batch)
            task = self._task
            samples = samples_of(batch)
            # Those of another number of samples, if there is one.
            elsewhere = sorted(
                sizes.values(), key=lambda each: each.samples == samples
            )
            run = functools.partial(
                forward_pass,
                self._model,
                batch if task is None else batch["inputs"],
                self._selectors,
                self._training,
                list(zip(written, states, strict=True)),
                places,
                few,
                elsewhere=elsewhere[0] if elsewhere else None,
            )
            if task is None:
                traced, sums = run(), ops.zeros((0, 2))
            else:
                traced, sums = with_gradients(
                    functools.partial(run, target=task.target(batch))
                )
            traces[:] = [
                traced._replace(
                    moments=(),
                    outputs=(),
                    states=(),
                    finite=None,
                    target=None,
                )
            ]
            sizes.setdefault(samples, traced.sizes)
            moments = traced.moments, traced.outputs
            return moments, traced.finite, traced.states, sums

        on_all = placed.moments(forward)

        def run(batch: Any, states: tuple[Tensor, ...]) -> tuple:
            moments, finite, states, sums = on_all(batch, states)
            return _with_numbers(moments), finite, states, sums

        inputs = placed.spec
        if self._task is not None:
            inputs = inputs["inputs"]
        with taken_as_inputs(self._model, inputs):
            function, ((moments, _), *_) = passes().compile_pass(
                run, placed.batch, placed.spec, states
            )
        # Each replica has traced one, and all of these are equal.
        (traced,) = traces
        if not self._kernels_compared:
            self._kernels_compared = True
            warn_of_equal_kernels(
                (call.name, call.layer) for call in traced.ran
            )
        return _CompiledForward(
            function,
            passes().compile_when_called(
                lambda a, b: _with_numbers(merged(a, b)), moments, moments
            ),
            traced.names,
            traced.order,
            traced.activation_of,
            traced.places,
            traced.doubtful,
            traced.written,
            statistics_in_use(traced.ran, traced.written),
        )

    def _check(self, result: _Result, data: Batches) -> None:
        if not result.data_finite:
            raise nonfinite_data()
        if 0 in result.units:
            raise ValueError(
                "A layer must have at least one unit. Received: none at layer "
                f"{result.names[result.units.index(0)]!r}"
            )
        name = result.first_nonfinite()
        if name is not None:
            with passes().restoring(self._layers):
                refuse_nonfinite(self._model, data, self._training, name)
        if result.samples < 2:
            raise too_few_samples()


class _BeginAgain(Exception):
    """Raised when the places of samples were wrong, and are now known."""


class _Result(NamedTuple):
    """Moments of the signals over all data, for each call of a layer."""

    names: tuple[str, ...]
    units: tuple[int, ...]
    samples: int
    sample_variance: np.ndarray
    squared_mean: np.ndarray
    # Dead and saturated fractions.
    shares: np.ndarray
    data_finite: bool
    places: tuple[Place, ...]
    statistics: tuple[Statistics, ...]
    # The sum of the squared gradients of each call, and their number.
    gradients: np.ndarray
    # Whether the first batch is white noise of several positions.
    white_noise: bool

    def first_nonfinite(self) -> str | None:
        """The first layer whose moments are NaN or infinite."""
        finite = np.isfinite(self.sample_variance + self.squared_mean)
        return None if finite.all() else self.names[int(np.argmin(finite))]


class _CompiledForward(NamedTuple):
    """A compiled forward pass, and a compiled function of its moments.

    Args:
        function: Returns what `_with_numbers` returns of moments, whether the
            batch is finite, states, and the sums of squared gradients.
        merge: Merges the moments of two batches, and returns the same of them.
        names: The names of the layers' calls.
        order: The index of the call of each row of `Moments`.
        activation_of: The index of the activation of each, or None.
        places: Where the samples are in the signal of each.
        doubtful: The names of the calls for which that is a guess.
        written: The variables whose new values `function` returns as states.
        statistics: The moving statistics by which layers normalize.
    """

    function: Callable
    merge: Callable
    names: tuple[str, ...]
    order: tuple[int, ...]
    activation_of: tuple[int | None, ...]
    places: tuple[Place, ...]
    doubtful: tuple[str, ...]
    written: tuple[keras.Variable, ...]
    statistics: tuple[Statistics, ...]

    def by_call(self, values: np.ndarray) -> np.ndarray:
        """Values of all rows, along the last axis, in the order of the calls.

        Those of one number of units stand together in `Moments`.
        """
        sorted_values = np.empty_like(values)
        sorted_values[..., list(self.order)] = values
        return sorted_values

    def units(self, moments: Moments, samples: int) -> tuple[int, ...]:
        """The number of units of a sample in the signal of each call."""
        counts = self.by_call(passes().to_numpy(moments.count))
        widths = self.by_call(
            np.concatenate(
                [
                    np.full(mean.shape[0], mean.shape[1])
                    for mean in moments.means
                ]
            )
        )
        # A signal that no sample reaches has several rows for each sample if
        # it was repeated for each, and axes were folded into the first.
        folded = [
            place == NONE and count > samples and count % samples == 0
            for place, count in zip(self.places, counts, strict=True)
        ]
        return tuple(
            np.where(folded, widths * counts // samples, widths)
            .astype(int)
            .tolist()
        )

    def not_by_sample(self, moments: Moments, samples: int) -> list[str]:
        """The calls whose signal has another number of samples."""
        return [
            name
            for name, place, count in zip(
                self.names,
                self.places,
                self.by_call(passes().to_numpy(moments.count)),
                strict=True,
            )
            if place != NONE and count != samples
        ]


def _notes(
    places: Sequence[Place], gradients: Gradients | None
) -> tuple[str, ...]:
    """What a reader should know of each row."""
    notes = map(note, places)
    if gradients is None:
        return tuple(notes)
    return tuple(
        "; ".join(filter(None, pair))
        for pair in zip(notes, gradients.notes, strict=True)
    )


def _same_spec(batch: Any, before: Any) -> Any:
    """The type of a batch of any number of samples.

    Raises:
        ValueError: If it is not that of the batch before.
    """
    spec = map_arrays(passes().batch_spec, batch)
    if before is not None and spec != before:
        raise ValueError(
            "Every batch must have the structure, dtypes and shapes of the "
            f"first, but for the number of samples: {before}. Pad all samples "
            "to one length, as `padded_shapes` of "
            f"tf.data.Dataset.padded_batch do. Received: {spec}"
        )
    return spec


def _with_numbers(moments: Moments) -> tuple[Moments, tuple[Tensor, Tensor]]:
    """Moments, with the numbers of each layer and those of each activation.

    All in one function, since to trace another takes longer than to compute a
    few numbers after each batch.

    Returns:
        The moments. Sample variances and squared means, shape `(2, layers)`;
        the number of samples and the dead and saturated fractions,
        `(3, activations)`.
    """
    return moments, (
        ops.stack([moments.variance, mean_squares(moments.means)]),
        ops.stack(
            [moments.outputs, dead_fractions(moments), moments.saturated]
        ),
    )


def _of_rows(
    outputs: np.ndarray, activation_of: Sequence[int | None], samples: int
) -> np.ndarray:
    """Dead and saturated fractions of all rows, NaN where not known.

    They are not where no activation follows a row, or where one follows whose
    first axis is not the samples.
    """
    shares = np.full((2, len(activation_of)), np.nan)
    for row, index in enumerate(activation_of):
        if index is not None and outputs[0, index] == samples:
            # In float32 a mean of ones may be larger than one.
            shares[:, row] = np.clip(outputs[1:, index], 0, 1)
    return shares
