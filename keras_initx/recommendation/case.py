"""What the rules look at: a model, its prediction and its measurement."""

from __future__ import annotations

import contextlib
import math
import warnings
from functools import cached_property
from typing import Any

import keras
import numpy as np

from keras_initx.inspection.activations import (
    activation_of,
    function_of,
    is_nonlinear,
)
from keras_initx.inspection.graph import Graph, has_graph, read_graph
from keras_initx.inspection.moving_statistics import moving_statistics
from keras_initx.inspection.selection import NAME_THE_LAYERS, NO_KERNEL
from keras_initx.inspection.traversal import ModelView, inspect_model
from keras_initx.measurement.data import arrays_of, batches
from keras_initx.measurement.measure import measure
from keras_initx.prediction.predict import predict
from keras_initx.prediction.record import Prediction
from keras_initx.prediction.weights import has_paired_halves
from keras_initx.profile import VarianceProfile
from keras_initx.profile.verdict import judged

# How many samples a prediction takes of the data, and a measurement of white
# noise.
_PREDICTED, _NOISE = 4, 64
# How many tokens a text has whose length is not known.
_STEPS = 8
# The number of points of a batch, positions times samples, whose variance is
# near enough to that of all, and the samples of a prediction in training mode.
_BATCH, _TRAINING_SAMPLES = 16, 32
# Beginnings of messages: data that cannot be predicted or measured at all, and
# signals that cannot be measured.
_WRONG = (
    "data must",
    "Variance between samples",
    "The integers in data",
    "Data that an Embedding",
    "A dict in data",
)
_MIXED = ("Each number of a layer's signal", NO_KERNEL)
_NONFINITE = "The signal must stay finite"


# The mean square of what enters the first layer.
GOOD_INPUT = (1e-2, 1e2)


class Case:
    """A model, and what is known about its signal.

    The prediction and the measurement are made when a rule asks for them. A
    model with Batch Normalization is looked at in training mode, since before
    training its moving statistics normalize nothing.

    Args:
        model: keras.Model. A built model.
        data: Data that `measure` takes, or None.
        steps: int or None. The largest number of batches to measure.
        is_trial: bool. Whether the model is a copy that a line was carried out
            on. What is measured decides, so that only what cannot be measured
            is predicted of it. Defaults to False.

    Attributes:
        waits: bool. Whether there is no prediction yet where there is a
            measurement, as always in a trial.
        was_asked: bool. Whether a rule has asked for a prediction since this
            was set to False.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        steps: int | None,
        is_trial: bool = False,
    ):
        self.model = model
        self.data = data
        self.steps = steps
        self.is_trial = is_trial
        self.waits = is_trial
        self.was_asked = False
        self.refusal = ""
        self.unmeasured = ""
        self.nonfinite = False

    # ---- the model ----------------------------------------------------------

    @cached_property
    def view(self) -> ModelView:
        """The layers and the weights."""
        return inspect_model(self.model)

    @cached_property
    def graph(self) -> Graph | None:
        """Which operation feeds which, None for a `call` of one's own."""
        if not has_graph(self.model):
            return None
        return read_graph(self.model, self.view)

    @cached_property
    def by_batch(self) -> bool:
        """Whether a layer normalizes by the statistics of a batch."""
        return any(
            statistics is not None and not statistics.by_adapt
            for statistics in map(moving_statistics, self.view.layers)
        )

    @cached_property
    def normalizes(self) -> bool:
        """Whether there is any normalization in the model."""
        return any(
            self.view.rule(layer).normalizes for layer in self.view.layers
        )

    def layer(self, row: str) -> Any:
        """The layer of a row, None if it is not found."""
        return self._layers.get(row) or self._layers.get(row.rpartition(":")[0])

    @cached_property
    def _layers(self) -> dict[str, Any]:
        return {self.view.name(layer): layer for layer in self.view.layers}

    def activation(self, layer: Any) -> Any:
        """The nonlinear function behind a layer with a kernel, None without.

        It is that of the layer, or of a layer that takes its output,
        normalizations and dropouts left out. Where the graph does not know the
        layer, the one that comes next in the model is taken.
        """
        own = getattr(layer, "activation", None)
        if is_nonlinear(own):
            return own
        starts = [
            number
            for step in (self.graph.steps if self.graph else ())
            if layer in (step.operation, getattr(step.operation, "layer", None))
            for number in step.outputs
        ]
        if starts:
            return self._activation_behind(starts)
        layers = self.view.layers
        start = next(i for i, one in enumerate(layers) if one is layer)
        for one in layers[start + 1 :]:
            if activation_of(one) is not None:
                return activation_of(one)
            if not self._passes(one):
                return None
        return None

    def _activation_behind(self, tensors: list[int]) -> Any:
        """The activation that takes one of some tensors, None without."""
        assert self.graph is not None
        for number in tensors:
            for step in self.graph.consumers.get(number, []):
                if step is None:
                    continue
                one = step.operation
                if not isinstance(one, keras.layers.Layer):
                    found = function_of(one)
                    if found is not None:
                        return found
                    continue
                found = activation_of(one)
                if found is None and self._passes(one):
                    found = self._activation_behind(list(step.outputs))
                if found is not None:
                    return found
        return None

    def _passes(self, layer: Any) -> bool:
        """Whether an activation behind a layer acts on what enters it."""
        return isinstance(layer, keras.layers.Dropout) or bool(
            self.view.rule(layer).normalizes
        )

    @cached_property
    def activations(self) -> list[Any]:
        """The nonlinear functions of the model, the most frequent one first."""
        functions = []
        for layer in self.view.layers:
            own = getattr(layer, "activation", None)
            functions.append(own if is_nonlinear(own) else activation_of(layer))
        for step in self.graph.steps if self.graph else ():
            functions.append(function_of(step.operation))
        found: dict[Any, int] = {}
        for function in functions:
            if function is not None:
                found[function] = found.get(function, 0) + 1
        return sorted(found, key=lambda function: -found[function])

    @cached_property
    def is_paired(self) -> bool:
        """Whether kernels have opposite halves, as `kx.paired` makes them.

        Such weights are not independent, and cannot be predicted.
        """
        return any(
            weight.role == "kernel"
            and has_paired_halves(weight.variable, signs=(-1,))
            for weight in self.view.weights
        )

    @cached_property
    def changed_layers(self) -> list[str]:
        """Layers whose statistics or biases are not those of a new layer."""
        changed = []
        for layer in self.view.layers:
            statistics = moving_statistics(layer)
            if statistics and not (
                statistics.by_adapt or statistics.are_fresh()
            ):
                changed.append(self.view.name(layer))
        for weight in self.view.weights:
            layer = weight.layer
            starts_at_0 = isinstance(
                getattr(layer, "bias_initializer", None),
                keras.initializers.Zeros,
            ) and not getattr(layer, "unit_forget_bias", False)
            if (
                weight.role == "bias"
                and starts_at_0
                and np.any(entries(weight.variable))
            ):
                changed.append(self.view.name(layer))
        return list(dict.fromkeys(changed))

    def calibration(self, options: str = "") -> str:
        """A line that calibrates, on the batches of a data set that are read.

        Args:
            options: str. More arguments of `calibrate`, each after a comma.
                Defaults to none.
        """
        given = batches(self.data, steps=self.steps, model=self.model)
        if given.size is None and self.steps is not None:
            options = f"{options}, steps={self.steps}"
        return f"kx.calibrate(model, data{options})"

    # ---- its signal ---------------------------------------------------------

    @property
    def predicted(self) -> Prediction | None:
        """The prediction; None if it is not known, or waits."""
        self.was_asked = True
        if self.waits and (self.measured is not None or self.nonfinite):
            return None
        return self.prediction

    @cached_property
    def prediction(self) -> Prediction | None:
        """The prediction, None with the reason in `refusal`."""
        return self._predict(self.by_batch)

    def _predict(self, training: bool, layers: Any = None) -> Any:
        if self.is_paired:
            self.refusal = "its weights come in opposite pairs"
            return None
        samples = None if self.data is None else _PREDICTED
        if training:
            samples = None if self.data is None else _TRAINING_SAMPLES
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return predict(
                    self.model,
                    self.data,
                    training=training,
                    samples=samples,
                    layers=layers,
                )
        except ValueError as error:
            if str(error).startswith(_WRONG):
                raise
            self.refusal = _reason(error)
        except (ArithmeticError, np.linalg.LinAlgError, TypeError) as error:
            self.refusal = f"the prediction failed ({error})"
        return None

    def predicted_at(self, layers: Any) -> Prediction | None:
        """The prediction at other layers than those with kernels."""
        return self._predict(self.by_batch, layers)

    def measured_at(self, layers: Any) -> VarianceProfile | None:
        """The measurement at other layers than those with kernels.

        Without data a model of tokens is measured on random ones. None if the
        model, or its data, cannot be measured.
        """
        data = self._random_tokens() if self.data is None else self.data
        if data is None:
            return None
        try:
            return self._measure(data, self.by_batch, False, layers)
        except (ValueError, RuntimeError, TypeError):
            return None

    def _random_tokens(self) -> Any:
        """Random inputs of a model of tokens, None if they are not known.

        An input that enters a layer with embeddings has tokens of the smallest
        of them. Other integers, as those of a mask, are 1.
        """
        if self.graph is None:
            return None
        rows: dict[int, int] = {}
        for weight in self.view.weights:
            if weight.role == "embedding":
                for layer in weight.layers:
                    count = int(weight.variable.shape[0])
                    rows[id(layer)] = min(count, rows.get(id(layer), count))
        rng = np.random.default_rng(0)
        arrays = []
        for number, tensor in enumerate(self.model.inputs):
            if tensor.dtype == "string":
                return None
            shape = (_NOISE, *(n or _STEPS for n in tensor.shape[1:]))
            tokens = [
                rows[id(step.operation)]
                for step in self.graph.consumers.get(number, [])
                if step is not None and id(step.operation) in rows
            ]
            if tokens:
                arrays.append(rng.integers(0, min(tokens), shape))
            elif "int" in tensor.dtype or tensor.dtype == "bool":
                arrays.append(np.ones(shape, tensor.dtype))
            else:
                arrays.append(rng.standard_normal(shape).astype("float32"))
        if isinstance(self.model, keras.Sequential):
            return arrays[0]
        # The structure of the inputs may have other places than their list.
        places = dict(zip(map(id, self.model.inputs), arrays, strict=True))
        return keras.tree.map_structure(
            lambda tensor: places[id(tensor)], self.model.input
        )

    @cached_property
    def measured(self) -> VarianceProfile | None:
        """The measurement, None with the reason in `unmeasured`.

        A model whose weights cannot be predicted because they are paired is
        measured on white noise if there are no data.
        """
        data = self._noise() if self.data is None else self.data
        if data is None:
            return None
        try:
            return self._measure(data, self.by_batch, gradient=True)
        except (ValueError, RuntimeError) as error:
            known = (_NONFINITE, *_MIXED)
            if isinstance(error, ValueError) and not str(error).startswith(
                known
            ):
                raise
            self.nonfinite = str(error).startswith(_NONFINITE)
            self.unmeasured = _reason(error)
        return None

    def _measure(
        self, data: Any, training: bool, gradient: bool, layers: Any = None
    ) -> VarianceProfile:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return measure(
                    self.model,
                    data,
                    layers=layers,
                    training=training,
                    steps=self.steps,
                    gradient=gradient,
                )
        except (ValueError, RuntimeError):
            if not gradient:
                raise
        return self._measure(data, training, False, layers)

    def _noise(self) -> Any:
        if not self.is_paired or self.graph is None:
            return None
        rng = np.random.default_rng(0)
        shapes = [tuple(tensor.shape[1:]) for tensor in self.model.inputs]
        if len(shapes) != 1 or None in shapes[0]:
            return None
        return rng.standard_normal((_NOISE, *shapes[0])).astype("float32")

    @property
    def profiles(self) -> list[tuple[str, VarianceProfile | None]]:
        """Prediction and measurement, under the names of `Reading`."""
        return [("predicted", self.predicted), ("measured", self.measured)]

    @property
    def inference_profiles(self) -> list[tuple[str, VarianceProfile | None]]:
        """The same by moving statistics."""
        measured = None
        if self.data is not None and self.measured is not None:
            # A signal that explodes is not dead.
            with contextlib.suppress(ValueError):
                measured = self._measure(self.data, False, gradient=False)
        self.was_asked = True
        known = self.waits and measured is not None
        predicted = None if known else self._predict(training=False)
        return [("predicted", predicted), ("measured", measured)]

    @property
    def gradient_is_known(self) -> bool:
        """Whether the predicted gradients stand for those in training.

        Through Batch Normalization they depend on the number of points in a
        batch, which `predict` must keep low for large images.
        """
        prediction = self.predicted
        if prediction is None:
            return False
        if not self.by_batch:
            return True
        samples = prediction.samples or 0
        positions = self._normalized_positions()
        return bool(positions) and samples * min(positions) >= _BATCH

    def _normalized_positions(self) -> list[int]:
        """The number of positions of each tensor that a batch normalizes."""
        if self.graph is None:
            return []
        return [
            math.prod(n or 1 for n in self.graph.shapes[number][1:-1])
            for step in self.graph.steps
            if moving_statistics(step.operation) is not None
            for number in step.outputs
        ]

    def input_size(self, profile: VarianceProfile) -> float | None:
        """Returns the mean square of what enters the first layer.

        None if the first row is not of a layer with one kernel, or no sample
        reaches it.
        """
        if 0 not in self.kept(profile):
            return None
        units = self.view.rule(self.layer(profile.layers[0])).units
        if units is None or units.kernel is None:
            return None
        fan_in, _ = next(
            w.geometry.fans
            for w in self.view.weights
            if w.variable is units.kernel
        )
        spread = fan_in * mean_square(units.kernel)
        return float(profile.total[0]) / spread if spread else None

    @cached_property
    def is_constant(self) -> bool:
        """Whether all samples of the data are equal."""
        if self.data is None:
            return False
        first: list[Any] = []
        for batch in batches(self.data, steps=self.steps, model=self.model):
            arrays = [keras.ops.convert_to_numpy(x) for x in arrays_of(batch)]
            first = first or [x[:1] for x in arrays]
            if any(
                (x != one).any() for x, one in zip(arrays, first, strict=True)
            ):
                return False
        return True

    @cached_property
    def noise_fits(self) -> bool:
        """Whether white noise enters the first layer at about its own size.

        A model that rescales pixels, say, makes next to nothing of it.
        """
        if self.data is not None or self.predicted is None:
            return True
        size = self.input_size(self.predicted)
        low, high = GOOD_INPUT
        return size is None or low <= size <= high

    def kept(self, profile: VarianceProfile) -> list[int]:
        """The indices of the rows that are judged and that samples reach.

        A prediction may have a row whose total is known and whose sample
        fraction is not.
        """
        fraction = profile.sample_fraction
        reached = (fraction > 0) | (np.isnan(fraction) & (profile.total > 0))
        return [i for i in judged(profile.roles) if reached[i]]


def _reason(error: Exception) -> str:
    """Returns what an error expected, without arguments of `measure`."""
    text = str(error).partition(" Received:")[0]
    return text.replace(NAME_THE_LAYERS, "Register")


def mean_square(variable: Any) -> float:
    """Returns the mean square of the entries of a weight."""
    return float(np.mean(np.square(entries(variable), dtype=np.float64)))


def entries(variable: Any) -> np.ndarray:
    """Returns the entries of a weight, in float32 or better."""
    tensor = keras.ops.convert_to_tensor(variable)
    values = keras.ops.convert_to_numpy(tensor)
    return values.astype(np.result_type(values.dtype, np.float32), copy=False)
