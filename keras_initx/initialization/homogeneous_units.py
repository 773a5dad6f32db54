"""Finds the units of a model that may be rescaled, and the weights of each.

Every entry of every tensor of a model has a unit: the number of the gain that
it is multiplied by. Unit 0 has the gain 1. The outputs of a layer with a kernel
get new units, and activations, pooling, reshaping and concatenations pass units
on, which shows when they run on numbers. Tensors that are added must have
equal gains, so that their units are tied.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

import keras
import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from keras_initx.initialization.branches import is_sum
from keras_initx.inspection.geometry import (
    Geometry,
    from_matrices,
    to_matrices,
)
from keras_initx.inspection.graph import Graph, Step
from keras_initx.inspection.homogeneity import (
    is_homogeneous,
    random_inputs,
    run_step,
)
from keras_initx.inspection.traversal import ModelView
from keras_initx.inspection.writable import why_not_writable

_L = keras.layers
# They multiply each entry by a random number >= 0 in training.
_DROPOUTS = (
    _L.Dropout,
    _L.GaussianDropout,
    _L.SpatialDropout1D,
    _L.SpatialDropout2D,
    _L.SpatialDropout3D,
)
# By the names of the classes, since Keras does not export those of `keras.ops`.
_EXTREMES = ("Maximum", "Minimum")
_PASSED_BY = ("slope", "branch scale")
# A power of 2, which floating-point numbers multiply by exactly.
_FACTOR = 0.25
# The unit of an entry that is always zero.
_ZERO = -1


@dataclass(frozen=True)
class RescaledWeight:
    """A weight, and the units that it leads from and to.

    Attributes:
        variable: The kernel or bias.
        geometry: Its geometry.
        sources: For each map of a kernel the units of its inputs, of shape
            (maps, inputs). A bias leads from unit 0.
        targets: The units of its outputs, of shape (maps, outputs).
    """

    variable: Any
    geometry: Geometry
    sources: np.ndarray
    targets: np.ndarray

    def squares(self) -> np.ndarray:
        """The sums of squares between units.

        Returns:
            Array of shape (3, n): the units that weights lead from, the units
            that they lead to, and their sums of squares.
        """
        value = keras.ops.convert_to_numpy(self.variable).astype(np.float64)
        maps = self._maps(np.square(value))
        if len(maps) == 1:
            # Few units may have many inputs, as behind `Flatten`.
            units, where = np.unique(self.sources[0], return_inverse=True)
            rows = len(where)
            merge = sparse.csr_array(
                (np.ones(rows), (where, np.arange(rows))),
                shape=(len(units), rows),
            )
            maps, sources = (merge @ maps[0])[None], units[None]
        else:
            sources = self.sources
        i, j = np.broadcast_arrays(sources[:, :, None], self.targets[:, None])
        return np.stack([i.ravel(), j.ravel(), maps.ravel()])

    def factors(self, gains: np.ndarray) -> np.ndarray:
        """What each entry is multiplied by, where the units have these gains.

        Args:
            gains: array of shape (units,).
        """
        ratio = gains[self.targets][:, None] / gains[self.sources][:, :, None]
        shape = tuple(self.variable.shape)
        if not self.geometry.is_linear:
            return ratio.reshape(shape)
        window = self._window
        matrices = np.broadcast_to(
            ratio[:, None], (len(ratio), window, *ratio.shape[1:])
        ).reshape(self.geometry.matrices)
        return from_matrices(matrices, self.geometry, shape)

    @property
    def _window(self) -> int:
        """The number of positions in the window of a kernel."""
        return self.geometry.matrices[1] // self.sources.shape[1]

    def _maps(self, value: np.ndarray) -> np.ndarray:
        """The sums over the window, of shape (maps, inputs, outputs)."""
        if not self.geometry.is_linear:
            return value.reshape(1, 1, -1)
        maps, _, outputs = self.geometry.matrices
        split = to_matrices(value, self.geometry).reshape(
            maps, self._window, -1, outputs
        )
        return split.sum(axis=1)


@dataclass
class UnitFinder:
    """Follows the units through the graph of a model.

    Args:
        graph: Graph. The graph of the model.
        view: ModelView. The same model.

    Attributes:
        count: The number of units, those that are tied counted once.
        layers: For each layer with a kernel its name and its weights; none if
            it keeps them.
        skipped: Why a layer keeps its weights, by its name.
    """

    graph: Graph
    view: ModelView
    count: int = 1
    layers: list[tuple[str, list[RescaledWeight]]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    _units: dict[int, np.ndarray] = field(default_factory=dict)
    _ties: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number, shape in enumerate(self.graph.shapes):
            if number not in self.graph.producers:
                self._fix(number, shape)
        for step in self.graph.steps:
            self._follow(step)
        for number in self.graph.outputs:
            self._tie(self._units[number], np.zeros((), int))
        self._number_tied_units()

    def _follow(self, step: Step) -> None:
        """Finds the units of the tensors that a step returns.

        Raises:
            ValueError: If it does not pass them on.
        """
        fixed = all(not self._units[n].any() for n in step.inputs)
        if id(step.operation) in self._kernels:
            reason = why_not_writable(self.view, step.operation)
            if reason:
                self._refuse(step, f"must keep its weights: {reason}")
            units = self.view.rule(step.operation).units
            if units is not None:
                self._rescale(step)
                return
            if not fixed:
                self._refuse(step, "is not known to be linear in one kernel")
            if step.name not in self.skipped:
                self.layers.append((step.name, []))
            self.skipped[step.name] = "not known to be linear in one kernel"
        if fixed:
            self._fix_outputs(step)
        elif not self._goes_on(step):
            for number in step.inputs:
                self._tie(self._units[number], np.zeros((), int))
            self._fix_outputs(step)
        else:
            self._pass_on(step)

    # ---- Layers with kernels ------------------------------------------------

    def _rescale(self, step: Step) -> None:
        """Gives the outputs of a layer with a kernel new units."""
        layer = step.operation
        units = self.view.rule(layer).units
        assert units is not None
        self._check_weights(step)
        kernels = self._kernels[id(layer)]
        if kernels[-1].variable is not units.kernel or [
            weight.role for weight in kernels[:-1]
        ] not in ([], ["depthwise kernel"]):
            self._refuse(step, "is not known to be linear in one kernel")
        if len(units.signal_axes) > 1 or not units.bias_per_unit:
            self._refuse(step, "has several axes of units")
        given = self._read(step, step.inputs[0])
        (x,) = random_inputs(step)
        (place,) = units.signal_axes
        if place >= 0:
            place -= x.ndim
        if given.ndim < -place:
            self._refuse(step, "has its units along an axis of its own")
        channels = self._one(given, place, x.shape[place])
        moves = self._goes_on(step)
        if moves and not is_homogeneous(getattr(layer, "activation", None)):
            self._refuse(step, "has an activation that passes no factor on")
        weights: list[RescaledWeight] = []
        for weight in kernels:
            geometry = weight.geometry
            maps, rows, outputs = geometry.matrices
            window = math.prod(geometry.kernel_shape[: geometry.window])
            if maps * rows != window * len(channels):
                self._refuse(step, "has several axes of inputs")
            free = moves or weight is not kernels[-1]
            made = np.zeros(maps * outputs, int)
            if free:
                made = self._new(maps * outputs)
            weights.append(
                RescaledWeight(
                    weight.variable,
                    geometry,
                    channels.reshape(maps, -1),
                    made.reshape(maps, outputs),
                )
            )
            channels = made
        if units.bias is not None:
            weights.append(
                RescaledWeight(
                    units.bias,
                    Geometry("bias"),
                    np.zeros((1, 1), int),
                    channels[None],
                )
            )
        for number in step.outputs:
            rank = len(self.graph.shapes[number]) - 1
            self._units[number] = _along(channels, place, rank)
        self._check_rule(step, x, weights, place)
        self.layers.append((step.name, weights))

    def _check_weights(self, step: Step) -> None:
        """Refuses a layer whose weights must not be rescaled."""
        layer = step.operation
        if self._calls[id(layer)] > 1:
            self._refuse(step, f"is called {self._calls[id(layer)]} times")
        if len(step.inputs) != 1:
            self._refuse(step, "takes several tensors")
        for weight in layer.weights:
            reason = why_not_writable(self.view, layer, weight, alone=True)
            if not reason and self._holders[id(weight)] > 1:
                reason = "shares its weights with another layer"
            if reason:
                self._refuse(step, f"must keep its weights: {reason}")
            value = keras.ops.convert_to_numpy(weight).astype(np.float64)
            if not np.isfinite(value).all():
                self._refuse(step, "has weights that are not finite")

    def _check_rule(
        self,
        step: Step,
        x: np.ndarray,
        weights: Sequence[RescaledWeight],
        axis: int,
    ) -> None:
        """Refuses a layer that computes something else than its rule says.

        It runs on random numbers with and without gains, all powers of 2.
        """
        random = np.random.default_rng(0)
        gains = 2.0 ** -random.integers(0, 7, self.count)
        gains[0] = 1
        drawn = {
            id(w.variable): random.normal(size=tuple(w.variable.shape))
            for w in weights
        }
        scaled = {
            id(w.variable): drawn[id(w.variable)] * w.factors(gains)
            for w in weights
        }
        sources = gains[weights[0].sources].ravel()
        inputs = _along(sources, axis, x.ndim)
        before = _output(step, x, drawn)
        after = _output(step, (x * inputs).astype(np.float32), scaled)
        if before is None or after is None:
            self._refuse(step, "does not run on random numbers")
        targets = gains[weights[-1].targets].ravel()
        if not _close(after, before * _along(targets, axis, before.ndim)):
            self._refuse(step, "computes something else than its rule says")

    # ---- Other steps --------------------------------------------------------

    def _pass_on(self, step: Step) -> None:
        """Finds the units of the outputs of a step without a kernel."""
        operation = step.operation
        if isinstance(operation, _L.Layer):
            if self.view.rule(operation).normalizes:
                self._refuse(step, "normalizes")
            is_lambda = isinstance(operation, _L.Lambda)
            call = operation.function if is_lambda else operation.call
            if not isinstance(operation, _DROPOUTS) and (
                "training" in inspect.signature(call).parameters
            ):
                self._refuse(step, "acts otherwise in training")
            for weight in operation.weights:
                role = self.view.role(weight)
                if role not in _PASSED_BY:
                    self._refuse(step, f"has a weight with the role {role!r}")
        numbers = list(dict.fromkeys(step.inputs))
        given = [self._read(step, number) for number in numbers]
        extremes = type(operation).__name__ in _EXTREMES and type(
            operation
        ).__module__.startswith("keras.")
        if len(numbers) > 1 and (extremes or is_sum(step)):
            try:
                together = np.broadcast_arrays(*given)
            except ValueError:
                self._refuse(step, "adds tensors of different shapes")
            for other in together[1:]:
                self._tie(together[0], other)
            made = together[0].copy()
        else:
            found = _passed_units(step, given)
            if found is None:
                self._refuse(step, "does not pass the scale of each unit on")
            made = found
        (number,) = step.outputs
        self._write(number, made)

    def _write(self, number: int, units: np.ndarray) -> None:
        """Notes the units of a tensor, once along each axis where possible."""
        shape = self.graph.shapes[number][1:]
        inner = shape[len(shape) - units.ndim :]
        for axis, size in enumerate(inner):
            most = units.max(axis=axis, keepdims=True)
            if size is None or ((units == most) | (units == _ZERO)).all():
                units = self._one_of(units, axis)
        lead = (1,) * (len(shape) - units.ndim)
        self._units[number] = np.maximum(units, 0).reshape(lead + units.shape)

    def _read(self, step: Step, number: int) -> np.ndarray:
        """The units of a tensor, without the time steps of a wrapper."""
        units = self._units[number]
        inner = {
            len(tensor.shape) - 1
            for tensor in keras.tree.flatten((step.args, dict(step.kwargs)))
            if isinstance(tensor, keras.KerasTensor)
        }
        outer = units.ndim - max(inner, default=units.ndim)
        for _ in range(outer):
            units = self._one_of(units, 0)[0]
        return units

    def _one(self, units: np.ndarray, place: int, size: int) -> np.ndarray:
        """The units along one axis, tied along the others."""
        for axis in range(units.ndim):
            if axis != place % units.ndim:
                units = self._one_of(units, axis)
        return np.broadcast_to(units.ravel(), (size,)).copy()

    def _one_of(self, units: np.ndarray, axis: int) -> np.ndarray:
        """The units at one place of an axis, those of the others tied."""
        first = units.max(axis=axis, keepdims=True)
        if units.shape[axis] > 1:
            self._tie(*np.broadcast_arrays(first, units))
        return first

    # ---- Units --------------------------------------------------------------

    def _new(self, number: int) -> np.ndarray:
        self.count += number
        return np.arange(self.count - number, self.count)

    def _fix(self, number: int, shape: Sequence[int | None]) -> None:
        self._units[number] = np.zeros((1,) * (len(shape) - 1), int)

    def _fix_outputs(self, step: Step) -> None:
        for number in step.outputs:
            self._fix(number, self.graph.shapes[number])

    def _tie(self, one: np.ndarray, other: np.ndarray) -> None:
        pairs = np.stack(np.broadcast_arrays(one, other)).reshape(2, -1)
        pairs = pairs[:, (pairs >= 0).all(axis=0) & (pairs[0] != pairs[1])]
        if pairs.size:
            self._ties.append(np.unique(pairs, axis=1))

    def _number_tied_units(self) -> None:
        """Gives units that are tied one number; unit 0 stays unit 0."""
        ties = np.concatenate([np.zeros((2, 0), int), *self._ties], axis=1)
        graph = sparse.coo_array(
            (np.ones(ties.shape[1]), tuple(ties)), shape=(self.count,) * 2
        )
        self.count, number = csgraph.connected_components(graph, directed=False)
        # Unit 0 is the first that is numbered.
        self.layers = [
            (
                name,
                [
                    RescaledWeight(
                        w.variable,
                        w.geometry,
                        number[w.sources],
                        number[w.targets],
                    )
                    for w in weights
                ],
            )
            for name, weights in self.layers
        ]

    @cached_property
    def _kernels(self) -> dict[int, list[Any]]:
        """The kernels in each layer, by its id."""
        kernels: dict[int, list[Any]] = {}
        for weight in self.view.weights:
            if weight.geometry.is_linear:
                for layer in weight.layers:
                    kernels.setdefault(id(layer), []).append(weight)
        # A layer whose kernels another layer holds too.
        for layer in self.view.layers:
            units = self.view.rule(layer).units
            if units is not None:
                kernels.setdefault(id(layer), [])
        return kernels

    @cached_property
    def _calls(self) -> Counter[int]:
        """How often each layer or operation is called."""
        return Counter(id(step.operation) for step in self.graph.steps)

    @cached_property
    def _holders(self) -> Counter[int]:
        """How many layers hold each weight themselves."""
        count: Counter[int] = Counter()
        for layer in self.view.layers:
            if len(self.view.inside(layer)) == 1:
                count.update(id(weight) for weight in layer.weights)
        return count

    @cached_property
    def _reaching(self) -> set[int]:
        """The tensors that a layer with a kernel is computed from."""
        reaching: set[int] = set()
        for step in reversed(self.graph.steps):
            if id(step.operation) in self._kernels or reaching & set(
                step.outputs
            ):
                reaching |= set(step.inputs)
        return reaching

    def _goes_on(self, step: Step) -> bool:
        """Whether a layer with a kernel comes after a step."""
        return bool(self._reaching & set(step.outputs))

    def _refuse(self, step: Step, why: str) -> NoReturn:
        raise ValueError(
            "Between the first and the last layer that is balanced, each must "
            "be a dense layer or convolution of its own weights, or pass a "
            "factor of each unit on, as relu does. Received: "
            f"{step.name!r} of type {type(step.operation).__name__}, which "
            f"{why}"
        )


def _passed_units(step: Step, given: Sequence[np.ndarray]) -> np.ndarray | None:
    """The units of the output of a step that passes units on.

    It runs on numbers, some of whose units are multiplied by a factor: those
    with a certain bit in their number. Each entry of the output must be
    multiplied by the same factor, or by none.

    Args:
        step: Step. The step.
        given: The units of each tensor that it takes.

    Returns:
        Array of the shape of its output, without the samples, with `_ZERO`
        where the output is zero. None if it mixes units, or does not pass
        factors on.
    """
    inputs = random_inputs(step)
    known = np.unique(np.concatenate([units.ravel() for units in given]))
    # Numbers from 1 on, all of which have a bit.
    classes = [
        np.broadcast_to(np.searchsorted(known, units) + 1, x.shape[1:])
        for units, x in zip(given, inputs, strict=True)
    ]
    everything = np.arange(len(known) + 1) > 0
    bits = [
        np.arange(len(known) + 1) >> bit & 1 > 0
        for bit in range(len(known).bit_length())
    ]
    codes: list[np.ndarray] = []
    for chosen in (everything, *bits):
        share = np.full((), _ZERO)
        for sign in (1, -1):
            plain = [np.float32(sign) * x for x in inputs]
            scaled = [
                np.where(chosen[c], np.float32(_FACTOR), np.float32(1)) * x
                for x, c in zip(plain, classes, strict=True)
            ]
            before, after = run_step(step, plain), run_step(step, scaled)
            if before is None or after is None or not before.ndim:
                return None
            for y, z in zip(before, after, strict=True):
                least = 3e-5 * np.abs(y).max(initial=0)
                said = np.full(y.shape, -2)
                said[_near(z, y)] = 0
                said[_near(z, _FACTOR * y)] = 1
                # Cancellation leaves no digits to compare.
                said[(np.abs(y) <= least) & (np.abs(z) <= least)] = _ZERO
                differ = (share >= 0) & (said >= 0) & (share != said)
                if (said == -2).any() or differ.any():
                    return None
                share = np.maximum(share, said)
        codes.append(share)
    moved, *digits = codes
    number = sum(
        (np.maximum(digit, 0) << bit for bit, digit in enumerate(digits)),
        start=np.zeros(moved.shape, int),
    )
    zero = moved == _ZERO
    if (moved == 0).any() or (number[~zero] < 1).any():
        return None
    if (number[~zero] > len(known)).any():
        return None
    return np.where(zero, _ZERO, known[np.maximum(number, 1) - 1])


def _along(units: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """A vector along one axis of an array of that rank."""
    sizes = [1] * rank
    sizes[axis] = len(units)
    return units.reshape(sizes)


def _near(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two arrays are equal up to rounding."""
    return np.isclose(a, b, rtol=1e-4, atol=1e-6 * np.abs(b).max(initial=0))


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    error = np.linalg.norm(a - b) if a.shape == b.shape else np.inf
    return bool(error <= 1e-4 * np.linalg.norm(b))


def _output(
    step: Step, x: np.ndarray, values: dict[int, np.ndarray]
) -> np.ndarray | None:
    """What a layer computes from numbers, with other weights."""
    layer = step.operation
    trainable, others = (
        [
            values[id(v)].astype(np.float32) if id(v) in values else v.value
            for v in variables
        ]
        for variables in (
            layer.trainable_variables,
            layer.non_trainable_variables,
        )
    )
    try:
        args, kwargs = keras.tree.map_structure(
            lambda one: x if isinstance(one, keras.KerasTensor) else one,
            (step.args, dict(step.kwargs)),
        )
        made, _ = layer.stateless_call(trainable, others, *args, **kwargs)
        return keras.ops.convert_to_numpy(keras.ops.cast(made, "float32"))
    except Exception:
        return None
