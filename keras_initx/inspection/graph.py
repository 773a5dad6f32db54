"""The graph of a functional model: which operation feeds which.

Keras documents no way to read the calls of a model after the first call of a
layer. `keras.models.clone_model` hands each call in turn, with its arguments,
to a function, and here that function notes the call and runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_initx.inspection.selection import LayerCall
from keras_initx.inspection.traversal import ModelView


@dataclass(frozen=True, eq=False)
class Step:
    """One call of one operation: of a layer, or of a function of `keras.ops`.

    Attributes:
        chain: The call and the calls that it runs in, outermost first.
        args: The positional arguments, with symbolic tensors.
        kwargs: The other arguments.
        inputs: The number of each tensor among the arguments.
        outputs: The numbers of the tensors that the call returns.
    """

    chain: tuple[LayerCall, ...]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def name(self) -> str:
        """The full name of the operation, as `measure` names layers."""
        return self.chain[-1].name

    @property
    def operation(self) -> Any:
        """The layer or operation."""
        return self.chain[-1].layer


@dataclass
class Graph:
    """All calls of a model, those of the models inside it included.

    Tensors are numbered in the order in which they arise, from 0 on.

    Attributes:
        steps: The calls, in an order in which they can run.
        outputs: The numbers of the model's outputs.
        shapes: The shape of each tensor.
        producers: The step that returns each tensor; the inputs of the model
            have none.
        consumers: The steps that take each tensor, None for an output of the
            model.
    """

    steps: list[Step] = field(default_factory=list)
    outputs: tuple[int, ...] = ()
    shapes: list[tuple[int | None, ...]] = field(default_factory=list)
    producers: dict[int, Step] = field(default_factory=dict)
    consumers: dict[int, list[Step | None]] = field(default_factory=dict)

    def new_tensors(
        self, tensors: Sequence[Any], steps: tuple[int | None, ...] = ()
    ) -> tuple[int, ...]:
        """Numbers new tensors of the shapes of these.

        Args:
            tensors: The tensors.
            steps: The numbers of time steps that each is computed for.
        """
        first = len(self.shapes)
        self.shapes += [(*t.shape[:1], *steps, *t.shape[1:]) for t in tensors]
        return tuple(range(first, len(self.shapes)))

    def add(self, step: Step) -> None:
        """Adds a step."""
        self.steps.append(step)
        for number in step.outputs:
            self.producers[number] = step
        for number in step.inputs:
            self.consumers.setdefault(number, []).append(step)


def has_graph(layer: Any) -> bool:
    """Whether a layer is a functional or sequential model that is built.

    A subclass with a `call` of its own has no graph.
    """
    if not isinstance(layer, keras.Model):
        return False
    call = type(layer).call
    if call is keras.Model.call or not layer.built:
        return False
    # A sequential model has inputs only once it is built, others may have
    # none at all.
    inputs = getattr(layer, "inputs", None)
    if not inputs or not getattr(layer, "outputs", None):
        return False
    # `Model.__new__` returns an instance of the class of functional models,
    # which has no public name.
    one = keras.Input((1,), name="one")
    functional = type(keras.Model.__new__(keras.Model, one, one)).call
    return call in (functional, keras.Sequential.call)


def read_graph(model: keras.Model, view: ModelView) -> Graph:
    """Reads the graph of a model without running it.

    The graphs of models inside, of what `TimeDistributed` wraps, and of layers
    whose rule says `symbolic`, take the places of their calls.

    Args:
        model: keras.Model. A model that `has_graph`.
        view: ModelView. The same model.
    """
    reader = _Reader(view)
    given = reader.graph.new_tensors(model.inputs)
    plain = _plain(model)
    reader.graph.outputs = reader.read(plain, given, ())
    for number in reader.graph.outputs:
        reader.graph.consumers.setdefault(number, []).append(None)
    return reader.graph


@dataclass
class _Reader:
    view: ModelView
    graph: Graph = field(default_factory=Graph)

    def read(
        self,
        plain: keras.Model,
        given: Sequence[int],
        above: tuple[LayerCall, ...],
        steps: tuple[int | None, ...] = (),
    ) -> tuple[int, ...]:
        """Adds the calls of a functional model.

        Args:
            plain: keras.Model. The model.
            given: The numbers of its inputs.
            above: The calls that the model runs in.
            steps: The numbers of time steps that it runs for.

        Returns:
            The numbers of its outputs.
        """
        anchors = [
            keras.Input(batch_shape=t.shape, dtype=t.dtype, name=f"input_{i}")
            for i, t in enumerate(plain.inputs)
        ]
        # The tensors are kept, so that no other one comes to have their ids.
        numbers = {
            id(anchor): (anchor, number)
            for anchor, number in zip(anchors, given, strict=True)
        }
        calls = 0

        def note(operation: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            inputs = tuple(
                numbers[id(tensor)][1]
                for tensor in keras.tree.flatten((args, kwargs))
                if isinstance(tensor, keras.KerasTensor)
            )
            like = keras.tree.flatten(operation.output)
            outer = f"{above[-1].name}/" if above else ""
            call = LayerCall(f"{outer}{operation.name}", operation)
            chain = (*above, call)
            outputs = self._inner(operation, args, inputs, chain, steps)
            if outputs is None:
                outputs = self.graph.new_tensors(like, steps)
                step = Step(chain, args, kwargs, inputs, outputs)
                self.graph.add(step)
            stand_in = _StandIn(name=f"call_{calls}")
            stand_in.like = like
            made = stand_in(*anchors)
            for tensor, number in zip(made, outputs, strict=True):
                numbers[id(tensor)] = (tensor, number)
            return made

        clone = keras.models.clone_model(
            plain,
            input_tensors=anchors,
            clone_function=lambda operation: operation,
            call_function=note,
        )
        return tuple(numbers[id(tensor)][1] for tensor in clone.outputs)

    def _inner(
        self,
        operation: Any,
        args: tuple[Any, ...],
        inputs: tuple[int, ...],
        chain: tuple[LayerCall, ...],
        steps: tuple[int | None, ...],
    ) -> tuple[int, ...] | None:
        """Adds the calls inside an operation, if it has a graph.

        Returns:
            The numbers of its outputs, None if it has no graph.
        """
        shapes: list[tuple[int | None, ...]] = [
            getattr(arg, "shape", ()) for arg in args
        ]
        while isinstance(operation, keras.layers.TimeDistributed):
            steps = (*steps, shapes[0][1])
            shapes = [shape[:1] + shape[2:] for shape in shapes]
            operation = operation.layer
        plain = None
        # Keras sorts the tensors of a dict, and may reorder them here.
        by_name = isinstance(args[0] if args else None, dict)
        if has_graph(operation):
            # A Sequential that only `TimeDistributed` runs has no `input`.
            if by_name == isinstance(getattr(operation, "input", None), dict):
                plain = _plain(operation)
        elif self._is_symbolic(operation):
            tensors = [
                keras.Input(batch_shape=shape, dtype=t.dtype, name=f"in_{i}")
                for i, (shape, t) in enumerate(zip(shapes, args, strict=True))
            ]
            outputs = operation.call(*tensors)
            plain = keras.Model(tensors, outputs, name="inside")
        if plain is None or len(plain.inputs) != len(inputs):
            return None
        return self.read(plain, inputs, chain, steps)

    def _is_symbolic(self, operation: Any) -> bool:
        return bool(
            isinstance(operation, keras.layers.Layer)
            and self.view.rule(operation).symbolic
        )


class _StandIn(keras.Operation):
    """Returns new symbolic tensors like those of another operation."""

    like: Sequence[Any] = ()

    def compute_output_spec(self, *inputs: Any) -> list[keras.KerasTensor]:
        return [keras.KerasTensor(t.shape, t.dtype) for t in self.like]


def _plain(model: keras.Model) -> keras.Model:
    """A functional model of the same graph, not compiled, of Keras's class."""
    return keras.Model(model.inputs, model.outputs, name="plain")
