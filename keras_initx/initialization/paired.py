"""Paired weights for the layers of a whole model.

The layers with kernels must form a chain in the graph of the model. From each
of them to the next one, `_Chain` follows the axis of the pairs through the
steps between: a linear step is run on random numbers, once as they are and once
with the two halves of that axis swapped, and must give its output with two
halves swapped. At the next kernel, swapping the halves of the input must be the
same as swapping the halves of its rows.
"""

from __future__ import annotations

import inspect
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import keras
import numpy as np

from keras_initx import theory
from keras_initx.initialization.choice import Initializer
from keras_initx.initializers import Paired
from keras_initx.initializers.names import get
from keras_initx.inspection.activations import activation_of, is_nonlinear
from keras_initx.inspection.geometry import Geometry, from_matrices
from keras_initx.inspection.graph import Graph, Step, has_graph, read_graph
from keras_initx.inspection.homogeneity import (
    is_linear_step,
    random_inputs,
    run_step,
)
from keras_initx.inspection.traversal import ModelView, inspect_model
from keras_initx.inspection.writable import why_not_writable
from keras_initx.validation import refuse

# The largest relative difference of equal outputs. Where channels are matched
# wrongly the difference is about 1, and rounding to 16 bits is far less.
_TOLERANCE = 0.05


def paired(
    model: keras.Model, initializer: Initializer = "DeltaOrthogonal"
) -> Callable[[keras.layers.Layer], Paired]:
    """Returns the paired initializer of each layer of a plain network.

    Initialized with these, a chain of dense layers or convolutions starts as a
    LINEAR map, whatever its depth and however nonlinear its activations: see
    `initializers.Paired`. With orthogonal blocks it is an isometry, as long as
    no layer is narrower than the one before it: a layer with fewer outputs
    than half its inputs passes on a part of the signal.

        kx.initialize(model, kx.paired(model))

    gives the first layer outputs that come in opposite pairs, the layers
    between paired inputs and outputs, and the last layer paired inputs. Their
    scale is the `theory.paired_scale` of the activation before them. The model
    is inspected and not changed.

    Between the first and the last layer with a kernel, each layer must be

    - a `Dense`, a convolution without groups, an `EinsumDense` with one axis
      of inputs and one of outputs, or a layer of your own with such a rule, of
      an even number of units, alone or in a `TimeDistributed`;
    - one activation after each, with the property of `theory.paired_scale`:
      relu, leaky relu, GELU, SiLU, hard SiLU, softplus, or none;
    - linear, and acting on both halves of the channels alike: average
      pooling, padding, upsampling, reshaping that leaves the channels as they
      are.

    What breaks the pairing is refused by its name: normalization, dropout, max
    pooling, `Flatten` after a convolution, residual connections, attention,
    recurrent layers, other activations, and weights that `initialize` would
    skip. What comes before the first kernel or after the last is free.

    Args:
        model: keras.Model. A built `Sequential` or functional model.
        initializer: A Keras initializer, its name or config, which draws the
            blocks. Defaults to "DeltaOrthogonal", an orthogonal matrix in
            every kernel.

    Returns:
        A function from a layer of the model to its `Paired` initializer, as
        `initialize` accepts it. Give `initialize` no other `bias_initializer`
        than its "zeros", and no `layers`.

    Raises:
        ValueError: If the model is not built, has a `call` of its own, or has
            a layer that breaks the pairing, which is named; or if there is no
            such initializer.
        TypeError: If `model` is no Keras layer.

    Example:

    >>> import keras, keras_initx as kx
    >>> layers = [keras.layers.Dense(64, "silu") for _ in range(20)]
    >>> layers = [keras.Input((8,)), *layers, keras.layers.Dense(32)]
    >>> model = keras.Sequential(layers)
    >>> done = kx.initialize(model, kx.paired(model), seed=0)
    >>> x = keras.random.normal((4, 8))
    >>> f"{keras.ops.norm(model(x)) / keras.ops.norm(x):.4f}"
    '1.0000'

    Reference: Balduzzi et al., ICML (2017), arXiv:1702.08591, for relu; the
    choice for a whole model is derived here.
    """
    block = get(initializer)
    view = inspect_model(model)
    if not has_graph(model):
        refuse(
            "model must be a Sequential or functional model, whose graph says "
            "which layer follows which. For another one give kx.initialize a "
            "function of the layer that returns a Paired.",
            model=model,
        )
    chain = _Chain(view, read_graph(model, view))
    links = chain.links()
    last = len(links) - 1
    chosen = {
        id(link.layer): (
            link.layer,
            Paired(
                block,
                inputs=None if i == 0 else -1,
                outputs=None if i == last else -1,
                scale=link.scale,
            ),
        )
        for i, link in enumerate(links)
    }

    def choose(layer: keras.layers.Layer) -> Paired:
        if id(layer) not in chosen:
            refuse(
                "layer must be one of the model that kx.paired was given.",
                layer=layer,
            )
        return chosen[id(layer)][1]

    return choose


@dataclass(frozen=True)
class _Link:
    """A layer of the chain, and the scale of its block."""

    layer: keras.layers.Layer
    scale: float


@dataclass
class _Chain:
    """The layers with kernels of a model, which must follow one another.

    Attributes:
        view: The model.
        graph: Its graph.
    """

    view: ModelView
    graph: Graph
    _kernels: dict[int, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for weight in self.view.weights:
            if weight.geometry.is_linear:
                for layer in weight.layers:
                    self._kernels.setdefault(id(layer), []).append(weight)

    def links(self) -> list[_Link]:
        """The layers with kernels from the first to the last, and their scales.

        Raises:
            ValueError: If something breaks the pairing.
        """
        steps = [s for s in self.graph.steps if self._has_kernel(s)]
        if not steps:
            refuse("model must have a layer with a kernel.", model=self.view)
        counts = Counter(id(_inside(step)) for step in steps)
        for step in steps:
            self._check_kernel(step)
            if counts[id(_inside(step))] > 1:
                _break(step, "is called more than once")
        links = [_Link(_inside(steps[0]), 1.0)]
        for step, following in itertools.pairwise(steps):
            links.append(_Link(_inside(following), self._join(step, following)))
        return links

    def _has_kernel(self, step: Step) -> bool:
        return id(_inside(step)) in self._kernels

    def _check_kernel(self, step: Step) -> None:
        """Refuses a layer whose weights cannot be paired."""
        layer = _inside(step)
        units = self.view.rule(layer).units
        kernels = self._kernels[id(layer)]
        if units is None or [w.variable for w in kernels] != [units.kernel]:
            _break(step, "is not known to be linear in one kernel")
        geometry = kernels[0].geometry
        if geometry.matrices[0] != 1:
            _break(step, "has a kernel for each group or channel")
        axes = len(geometry.input_axes) - geometry.window
        if axes != 1 or len(geometry.output_axes) != 1:
            _break(step, "has several axes of inputs or outputs")
        for weight in units.weights:
            reason = why_not_writable(self.view, layer, weight, alone=True)
            if reason:
                _break(step, f"initialize would skip: {reason}")

    def _join(self, step: Step, following: Step) -> float:
        """The scale of a layer that follows another one.

        Raises:
            ValueError: If the pairs of the first do not reach the second.
        """
        layer = _inside(step)
        units = self.view.rule(layer).units
        assert units is not None
        if units.count % 2:
            _break(step, f"has an odd number of units, {units.count}")
        # A layer that runs over time does not see the axes of time.
        hidden = self._hidden_axes(step) + _depth_of_time(step)
        rank = len(self.graph.shapes[step.outputs[0]]) - hidden
        axis = units.signal_axes[0] % rank + hidden
        activations: list[tuple[Step, Any]] = []
        if is_nonlinear(getattr(layer, "activation", None)):
            activations.append((step, layer.activation))
        while True:
            step = self._next(step)
            if step is following:
                break
            if self._has_kernel(step):
                _break(step, "does not come right after the layer before it")
            function = self._activation(step)
            if function is None:
                axis = self._axis_after(step, axis)
                continue
            activations.append((step, function))
        self._check_reads(step, axis)
        if len(activations) > 1:
            _break(activations[1][0], "is a second activation")
        return _scale(*activations[0]) if activations else _scale(step, None)

    def _next(self, step: Step) -> Step:
        """The one step that takes what a step returns.

        Raises:
            ValueError: If there is another number of such steps than one.
        """
        (number,) = step.outputs if len(step.outputs) == 1 else (None,)
        takers = self.graph.consumers.get(number, []) if number else []
        named = [taker for taker in takers if taker is not None]
        if number is None or not named:
            _break(step, "has another output than the next layer's input")
        for taker in named:
            if len(taker.inputs) != 1:
                _break(taker, "takes several tensors, as a skip does")
        if len(takers) != 1:
            _break(step, "is followed by several layers, as by a skip")
        return named[0]

    def _hidden_axes(self, step: Step) -> int:
        """The number of axes that a model over time hides from its steps."""
        like, *_ = random_inputs(step)
        return len(self.graph.shapes[step.inputs[0]]) - like.ndim

    def _activation(self, step: Step) -> Any:
        """The function that a step applies to each entry, None for others."""
        operation = _inside(step)
        if not isinstance(operation, keras.layers.Layer):
            if is_linear_step(step):
                return None
            # A function of keras.ops, which theory averages as a callable.
            return lambda z: keras.ops.convert_to_numpy(operation(z))
        if not self.view.rule(operation).activates:
            return None
        return activation_of(operation)

    def _axis_after(self, step: Step, axis: int) -> int:
        """The axis of the pairs after a linear step.

        Raises:
            ValueError: If the step is not linear, or mixes the two halves.
        """
        operation = _inside(step)
        if isinstance(operation, keras.layers.Layer):
            if self.view.rule(operation).normalizes:
                _break(step, "normalizes")
            if "training" in inspect.signature(operation.call).parameters:
                _break(step, "acts otherwise in training")
        if not is_linear_step(step):
            _break(step, "is not linear")
        (x,), hidden = random_inputs(step), self._hidden_axes(step)
        swapped = _swapped(x, axis - hidden)
        before, after = run_step(step, [x]), run_step(step, [swapped])
        if before is not None and after is not None:
            for other in range(1, before.ndim):
                if before.shape[other] % 2 == 0 and _close(
                    _swapped(before, other), after
                ):
                    return other + hidden
        _break(step, "does not keep the two halves of the channels apart")

    def _check_reads(self, step: Step, axis: int) -> None:
        """Refuses a layer that sums over another axis than that of the pairs.

        Swapping the halves of its input must be the same as swapping the
        rows of its kernel.
        """
        layer = step.operation
        (weight,) = self._kernels[id(_inside(step))]
        variable, geometry = weight.variable, weight.geometry
        (like,) = random_inputs(step)
        axis -= self._hidden_axes(step)
        even = geometry.kernel_shape[-2] % 2 == 0
        for seed in range(8 if even else 0):
            random = np.random.default_rng(seed)
            rows = random.normal(size=geometry.kernel_shape)
            x = random.normal(size=like.shape).astype(np.float32)
            here = _output(layer, variable, geometry, rows, _swapped(x, axis))
            there = _output(layer, variable, geometry, _swapped(rows, -2), x)
            if here is None or there is None or not _close(here, there):
                break
            # An activation may have made all outputs zero.
            if here.any():
                return
        _break(step, "does not sum over the channels of the layer before it")


def _inside(step: Step) -> Any:
    """The operation of a step, or the layer that runs over time in it."""
    operation = step.operation
    while isinstance(operation, keras.layers.TimeDistributed):
        operation = operation.layer
    return operation


def _depth_of_time(step: Step) -> int:
    """The number of `TimeDistributed` around the layer of a step."""
    count, operation = 0, step.operation
    while isinstance(operation, keras.layers.TimeDistributed):
        count, operation = count + 1, operation.layer
    return count


def _scale(step: Step, activation: Any) -> float:
    """The scale of the block after an activation, None for no activation."""
    try:
        return theory.paired_scale(
            "linear" if activation is None else activation
        )
    except Exception as error:
        raise ValueError(
            f"The activation of {step.name!r} breaks the pairing: {error}"
        ) from error


def _swapped(x: np.ndarray, axis: int) -> np.ndarray:
    """The two halves of an array in the other order."""
    return np.roll(x, x.shape[axis] // 2, axis)


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    error = np.linalg.norm(a - b) if a.shape == b.shape else np.inf
    return bool(error <= _TOLERANCE * np.linalg.norm(b))


def _output(
    layer: Any,
    variable: Any,
    geometry: Geometry,
    rows: np.ndarray,
    x: np.ndarray,
) -> np.ndarray | None:
    """What a layer computes with another kernel."""
    kernel = from_matrices(rows, geometry, tuple(variable.shape))
    values = [
        kernel.astype(np.float32) if v is variable else v.value
        for v in layer.trainable_variables
    ]
    others = [v.value for v in layer.non_trainable_variables]
    try:
        made, _ = layer.stateless_call(values, others, x)
        return keras.ops.convert_to_numpy(keras.ops.cast(made, "float32"))
    except Exception:
        return None


def _break(step: Step, reason: str) -> NoReturn:
    raise ValueError(
        "Paired weights need layers that follow one another, with nothing "
        "between them but one activation and linear layers that act on each "
        f"channel alike. Received: {step.name!r} of type "
        f"{type(step.operation).__name__}, which {reason}"
    )
