"""Passes over a model on JAX: a function under `jax.jit` each.

What this module needs of JAX, and what its documentation describes: a function
is traced to a `jaxpr`, a list of equations, and an equation is evaluated by
`primitive.bind`. A jaxpr is known when the model has run, not while it runs, so
that `observe` traces the model first, and evaluates the equations one by one.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import keras

from keras_initx.backend.passes import (
    NewSlot,
    Observe,
    Operation,
    Passes,
    RecordingScope,
    Tensor,
)

try:
    from jax.extend.core import Literal, get_opaque_trace_state
except ImportError:
    from jax.core import get_opaque_trace_state
    from jax.extend.core import Literal

# Functions of `jax.nn`, and the operations of TensorFlow that do the same.
_ACTIVATIONS = {
    "relu": "Relu",
    "relu6": "Relu6",
    "elu": "Elu",
    "selu": "Selu",
    "leaky_relu": "LeakyRelu",
}
_PRODUCTS = {"dot_general": "MatMul", "conv_general_dilated": "Conv"}
_RANDOM = ("random_bits", "threefry", "rng_")
# Loops pass on what they are given, as those of TensorFlow do, and so does
# `jax.image.resize`, which is a product.
_WHOLE = {"scan": "While", "while": "While", "_resize": "Resize"}
# From half a sum of squares of so many numbers on it is summed in parts.
_PART = 2048

# The values of variables while a function is traced.
_values: contextvars.ContextVar[_Values | None] = contextvars.ContextVar(
    "keras_initx_values", default=None
)
# The operations of tensors while `observe` hands them out, by their ids.
_operations: contextvars.ContextVar[dict[int, _Equation] | None] = (
    contextvars.ContextVar("keras_initx_operations", default=None)
)


class JaxPasses(Passes):
    """Compiles to programs of XLA, each for one number of samples."""

    def spec(self, tensor: Tensor) -> Any:
        return jax.ShapeDtypeStruct(tensor.shape, tensor.dtype)

    def compile(
        self, function: Callable[..., Any], *examples: Any
    ) -> tuple[Callable[..., Any], Any]:
        variables = _variables_read(function, *examples)
        return _compiled(function, variables, *examples)

    def compile_pass(
        self,
        function: Callable[[Any, Any], Any],
        batch: Any,
        spec: Any,
        states: Sequence[Tensor],
    ) -> tuple[Callable[..., Any], Any]:
        larger = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                (x.shape[0] + 1, *x.shape[1:]), x.dtype
            ),
            batch,
        )
        try:
            variables = _variables_read(function, larger, states)
        except Exception:
            # The model takes one number of samples alone, or no batch of this
            # structure, which is explained where it is run on the batch itself.
            variables = _variables_read(function, batch, states)
        return _compiled(function, variables, batch, states)

    def run_once(self, function: Callable[..., Any], *arguments: Any) -> Any:
        # Op by op, each operation of each shape would be compiled.
        return self.compile(function, *arguments)[0](*arguments)

    def graph(self) -> Any:
        return get_opaque_trace_state(convention="keras_initx")

    def stateless_scope(
        self, states: Iterable[tuple[keras.Variable, Tensor]] = ()
    ) -> RecordingScope:
        return _Scope(states)

    def observe(self, run: Callable[[Observe, Any], Any], batch: Any) -> Any:
        calls: list[tuple[Callable[..., Any], Any]] = []

        def traced(batch: Any) -> tuple[Any, list[Tensor]]:
            calls.clear()
            tensors: list[Tensor] = []

            def observe(function: Callable[..., Any], *arguments: Any) -> Any:
                def keep(leaf: Any) -> Any:
                    if not isinstance(leaf, jax.Array):
                        return leaf
                    tensors.append(leaf)
                    return _Tensor(len(tensors) - 1)

                structure = keras.tree.map_structure(keep, arguments)
                calls.append((function, structure))
                return arguments[-1]

            return run(observe, batch), tensors

        closed, shapes = jax.make_jaxpr(traced, return_shape=True)(batch)
        values, operations = _evaluated(closed, jax.tree.leaves(batch))
        outputs, tensors = jax.tree.unflatten(
            jax.tree.structure(shapes), values
        )
        token = _operations.set(operations)
        try:
            for function, structure in calls:
                arguments = keras.tree.map_structure(
                    lambda leaf: (
                        tensors[leaf.index]
                        if isinstance(leaf, _Tensor)
                        else leaf
                    ),
                    structure,
                )
                function(*arguments)
        finally:
            _operations.reset(token)
        return outputs

    def knows_graph(self) -> bool:
        return True

    def is_in_graph(self, value: Any) -> bool:
        return isinstance(value, jax.Array)

    def operation(self, tensor: Tensor) -> Operation:
        operations = _operations.get()
        if operations is None:
            return _Equation("")
        # Outside of the model, as a moment: nothing depends on it.
        return operations.setdefault(
            id(tensor), _Equation("", outputs=[tensor])
        )

    def has_value(self, tensor: Tensor) -> bool:
        return not isinstance(tensor, jax.core.Tracer)

    def on_devices(self, batch: Any) -> Any:
        distribution = keras.distribution.distribution()
        if distribution is None:
            return batch

        def place(tensor: Tensor) -> Tensor:
            layout = distribution.get_data_layout(tensor.shape)
            axis = layout.axes[0] if layout is not None else None
            if axis is None:
                return tensor
            mesh = layout.device_mesh
            devices = mesh.shape[mesh.axis_names.index(axis)]
            # Each device takes as many samples as any other, or else all.
            if tensor.shape[0] % devices:
                layout = keras.distribution.TensorLayout(
                    [None] * len(tensor.shape), mesh
                )
            return keras.distribution.distribute_tensor(tensor, layout)

        return jax.tree.map(place, batch)

    def is_first_process(self) -> bool:
        return jax.process_index() == 0

    def fused(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def lengths(self, tensors: Sequence[Tensor]) -> Tensor:
        return jnp.array([tensor.shape[0] for tensor in tensors], "int32")

    def half_sum_of_squares(self, tensor: Tensor) -> Tensor:
        flat = tensor.reshape(-1)
        # XLA on a CPU adds up one number after another.
        if flat.size > _PART:
            flat = jnp.pad(flat, (0, -flat.size % _PART)).reshape(-1, _PART)
        return jnp.sum(jnp.sum(flat**2, axis=-1)) / 2

    def gradients(
        self, run: Callable[[NewSlot], tuple[Tensor, Any]], size: int
    ) -> tuple[list[Tensor], Any]:
        zeros = jnp.zeros(size)
        slots: list[Tensor] = []

        def new_slot() -> Tensor:
            slots.append(zeros)
            return zeros

        # The slots must be there before the function that is differentiated.
        jax.eval_shape(lambda: run(new_slot))

        def with_slots(slots: list[Tensor]) -> tuple[Tensor, Any]:
            left = iter(slots)
            return run(lambda: next(left))

        return jax.grad(with_slots, has_aux=True)(slots)


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """Stands for one of the tensors that were observed."""

    index: int


@dataclasses.dataclass(eq=False)
class _Equation:
    """An operation, as `passes.Operation` describes it."""

    type: str
    inputs: list[_Equation] = dataclasses.field(default_factory=list)
    outputs: list[Tensor] = dataclasses.field(default_factory=list)

    @property
    def op(self) -> _Equation:
        """The equation itself, which made each of its outputs."""
        return self


def _evaluated(
    closed: Any, arguments: Sequence[Tensor]
) -> tuple[list[Tensor], dict[int, _Equation]]:
    """The results of a jaxpr, and the operations of all tensors in it."""
    jaxpr = closed.jaxpr
    # Where the results are not used, the compiler removes what computes them.
    inside = [
        variable
        for equation in jaxpr.eqns
        for variable in equation.outvars
        if str(variable) != "_"
    ]
    outside = len(jaxpr.outvars)
    everything = jax.extend.core.jaxpr_as_fun(
        jax.extend.core.ClosedJaxpr(
            _with_results(jaxpr, [*jaxpr.outvars, *inside]), closed.consts
        )
    )
    results = everything(*arguments)
    values = dict(zip(inside, results[outside:], strict=True))
    made: dict[Any, _Equation] = {}
    operations: dict[int, _Equation] = {}

    def note(variable: Any, value: Tensor, equation: _Equation) -> None:
        # An equation may return what it was given.
        made[variable] = operations.setdefault(id(value), equation)

    for variable, value in (
        *zip(jaxpr.constvars, closed.consts, strict=True),
        *zip(jaxpr.invars, arguments, strict=True),
    ):
        note(variable, value, _Equation("", outputs=[value]))
    for equation in jaxpr.eqns:
        kept = [x for x in equation.outvars if x in values]
        operation = _Equation(
            _type(equation),
            [made[x] for x in equation.invars if not isinstance(x, Literal)],
            [values[x] for x in kept],
        )
        for variable in kept:
            note(variable, values[variable], operation)
    return [jnp.asarray(x) for x in results[:outside]], operations


def _with_results(jaxpr: Any, variables: Sequence[Any]) -> Any:
    """A jaxpr that returns the values of other variables."""
    names = jaxpr.debug_info._replace(result_paths=None)
    return jaxpr.replace(outvars=list(variables), debug_info=names)


def _type(equation: Any) -> str:
    """The name of the operation of TensorFlow that does what an equation does.

    An equation that calls a function is random, or a product, if one of the
    equations within it is.
    """
    name = str(equation.params.get("name", equation.primitive.name))
    for known in (_ACTIVATIONS, _WHOLE, _PRODUCTS):
        if name in known:
            return known[name]
    name = equation.primitive.name
    if name in _WHOLE or name in _PRODUCTS:
        return {**_WHOLE, **_PRODUCTS}[name]
    if name.startswith(_RANDOM):
        return "Random"
    within = [_type(each) for each in _equations_within(equation)]
    if len(within) == 1:
        # A function with a derivative of its own is another one within.
        return within[0]
    return next((x for x in ("MatMul", "Conv", "Random") if x in within), "")


def _equations_within(equation: Any) -> Iterator[Any]:
    for value in jax.tree.leaves(
        list(equation.params.values()), is_leaf=_is_jaxpr
    ):
        if _is_jaxpr(value):
            yield from getattr(value, "jaxpr", value).eqns


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


class _Values:
    """What variables hold while a function is traced.

    Args:
        of: dict. The tracers of variables by their ids. Defaults to none.
    """

    def __init__(self, of: dict[int, Tensor] | None = None):
        self.of = of or {}
        self.read: dict[int, keras.Variable] = {}


class _Scope(RecordingScope):
    """A stateless scope in which variables hold what the trace gives them."""

    def get_current_value(self, variable: keras.Variable) -> Any:
        """Returns the value of a variable, None if it is its own."""
        value = super().get_current_value(variable)
        values = _values.get()
        if value is not None or values is None:
            return value
        values.read[id(variable)] = variable
        return values.of.get(id(variable))


@contextlib.contextmanager
def _holding(values: _Values) -> Iterator[None]:
    token = _values.set(values)
    try:
        yield
    finally:
        _values.reset(token)


def _variables_read(
    function: Callable[..., Any], *examples: Any
) -> list[keras.Variable]:
    """The variables whose values a function reads."""
    values = _Values()
    # Not the function itself, whose traces JAX keeps.
    with _holding(values):
        jax.eval_shape(lambda *arguments: function(*arguments), *examples)
    return list(values.read.values())


def _compiled(
    function: Callable[..., Any],
    variables: Sequence[keras.Variable],
    *examples: Any,
) -> tuple[Callable[..., Any], Any]:
    @jax.jit
    def with_values(held: list[Tensor], *arguments: Any) -> Any:
        of = dict(zip(map(id, variables), held, strict=True))
        with _holding(_Values(of)):
            return function(*arguments)

    def held() -> list[Tensor]:
        return [variable.value for variable in variables]

    outputs = jax.eval_shape(with_values, held(), *examples)
    return lambda *arguments: with_values(held(), *arguments), outputs


PASSES = JaxPasses()
