"""Passes over a model on PyTorch: run op by op, without gradients of weights.

What this module needs of PyTorch, and what its documentation describes: a
`torch.overrides.TorchFunctionMode` is asked for each function of PyTorch that
is called within, except by other functions of PyTorch. It notes from which
tensors each tensor was computed, while the model runs.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import torch
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from keras_initx.backend.passes import (
    NewSlot,
    Observe,
    Operation,
    Passes,
    RecordingScope,
    Tensor,
)

# Functions of PyTorch, and the operations of TensorFlow that do the same. A
# name that ends with "_" writes in place.
_TYPES = {
    "relu": "Relu",
    "relu6": "Relu6",
    "elu": "Elu",
    "selu": "Selu",
    "leaky_relu": "LeakyRelu",
    "zeros_like": "ZerosLike",
    "new_zeros": "ZerosLike",
    "ones_like": "OnesLike",
    "new_ones": "OnesLike",
    **dict.fromkeys(
        (
            *("linear", "bilinear", "matmul", "__matmul__", "__rmatmul__"),
            *("mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv"),
            *("einsum", "tensordot", "dot", "vdot", "inner", "multi_dot"),
            *("chain_matmul", "scaled_dot_product_attention"),
        ),
        "MatMul",
    ),
    **dict.fromkeys(
        (
            *("rand", "rand_like", "randn", "randn_like", "randint"),
            *("randint_like", "randperm", "normal", "log_normal", "uniform"),
            *("random", "bernoulli", "multinomial", "poisson", "exponential"),
            *("geometric", "cauchy", "dropout", "dropout1d", "dropout2d"),
            *("dropout3d", "alpha_dropout", "feature_alpha_dropout"),
            *("feature_dropout", "trunc_normal", "rrelu", "gumbel_softmax"),
        ),
        "Random",
    ),
}
_ACTIVATIONS = {"Relu", "Relu6", "Elu", "Selu", "LeakyRelu"}
# What takes numbers out of tensors.
_TO_PYTHON = {
    *("numpy", "__array__", "tolist", "item"),
    *("__bool__", "__int__", "__float__", "__index__"),
}
# What a reduction computes of so many numbers, 1 MiB, stays in the cache.
_NUMBERS_AT_ONCE = 1 << 18
# The numbers of samples in the runs that show where the samples are.
_FEW = (2, 3)

_recorder: contextvars.ContextVar[_Recorder | None] = contextvars.ContextVar(
    "keras_initx_recorder", default=None
)


class TorchPasses(Passes):
    """Runs each function as it is, without gradients."""

    def spec(self, tensor: Tensor) -> Any:
        return torch.zeros_like(tensor)

    def compile(
        self, function: Callable[..., Any], *examples: Any
    ) -> tuple[Callable[..., Any], Any]:
        run = torch.no_grad()(function)
        with _keeping_random_numbers():
            return run, run(*examples)

    def compile_pass(
        self,
        function: Callable[[Any, Any], Any],
        batch: Any,
        spec: Any,
        states: Sequence[Tensor],
    ) -> tuple[Callable[..., Any], Any]:
        run = torch.no_grad()(function)
        with _keeping_random_numbers():
            try:
                for samples in _FEW:
                    outputs = run(_with_samples(batch, samples), states)
            except Exception:
                # The model takes some numbers of samples alone, or no batch of
                # this structure, which is explained where it is run on it.
                outputs = run(batch, states)
        return run, outputs

    def run_once(self, function: Callable[..., Any], *arguments: Any) -> Any:
        with _keeping_random_numbers(), torch.no_grad():
            return function(*arguments)

    def compile_when_called(
        self, function: Callable[..., Any], *examples: Any
    ) -> Callable[..., Any]:
        return torch.no_grad()(function)

    def graph(self) -> Any:
        # Python runs loops and branches, so that all tensors are within reach.
        return None

    def stateless_scope(
        self, states: Iterable[tuple[keras.Variable, Tensor]] = ()
    ) -> RecordingScope:
        return _Scope(states)

    @contextlib.contextmanager
    def restoring(
        self, layers: Callable[[], Iterable[keras.layers.Layer]]
    ) -> Iterator[None]:
        # Modules of PyTorch within hold statistics.
        buffers = {
            id(buffer): buffer
            for layer in layers()
            for buffer in layer.buffers()
        }.values()
        kept = [(buffer, buffer.clone()) for buffer in buffers]
        with _keeping_random_numbers():
            try:
                yield
            finally:
                with torch.no_grad():
                    for buffer, value in kept:
                        buffer.copy_(value)

    def observe(self, run: Callable[[Observe, Any], Any], batch: Any) -> Any:
        recorder = _Recorder(batch)
        token = _recorder.set(recorder)
        try:
            with recorder:
                return run(recorder.observe, batch)
        finally:
            _recorder.reset(token)

    def knows_graph(self) -> bool:
        return True

    def is_in_graph(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor)

    def operation(self, tensor: Tensor) -> Operation:
        recorder = _recorder.get()
        return _Operation("") if recorder is None else recorder.made(tensor)

    def forget(self, operation: Any) -> None:
        operation.outputs = []

    def has_value(self, tensor: Tensor) -> bool:
        return not tensor.is_meta

    def fused(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def lengths(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.tensor(
            [tensor.shape[0] for tensor in tensors],
            dtype=torch.int32,
            device=tensors[0].device,
        )

    def push(
        self,
        run: Callable[[list[Tensor]], list[Tensor]],
        tensors: list[Tensor],
        tangents: list[Tensor],
    ) -> list[Tensor | None]:
        # Other kernels of attention have no forward derivative.
        attention = sdpa_kernel(SDPBackend.MATH)
        with torch.no_grad(), attention, forward_ad.dual_level():
            signals = run(list(map(forward_ad.make_dual, tensors, tangents)))
            return [forward_ad.unpack_dual(x).tangent for x in signals]

    def pull(
        self,
        run: Callable[[list[Tensor]], list[Tensor]],
        tensors: list[Tensor],
        cotangents: list[Tensor],
    ) -> list[Tensor | None]:
        tensors = [tensor.detach().requires_grad_() for tensor in tensors]
        with torch.enable_grad():
            signals = run(tensors)
        return list(
            torch.autograd.grad(signals, tensors, cotangents, allow_unused=True)
        )

    def without_gradients(self) -> contextlib.AbstractContextManager[Any]:
        return torch.no_grad()

    def half_sum_of_squares(self, tensor: Tensor) -> Tensor:
        return torch.sum(torch.square(tensor)) / 2

    def reduce_rows(
        self,
        stack: Tensor,
        reduce: Callable[[Tensor], Tensor],
        merge: Callable[[Tensor, Tensor], Tensor],
        few: bool,
        goes_on: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        if stack.device.type != "cpu":
            return reduce(stack)
        rows = max(1, _NUMBERS_AT_ONCE * stack.shape[-2] // stack.numel())
        first, *others = stack.split(rows, dim=-2)
        so_far = reduce(first)
        for part in others:
            if goes_on is not None and not goes_on(so_far):
                break
            so_far = merge(so_far, reduce(part))
        return so_far

    def gradients(
        self, run: Callable[[NewSlot], tuple[Tensor, Any]], size: int
    ) -> tuple[list[Tensor], Any]:
        slots: list[Tensor] = []

        def new_slot() -> Tensor:
            zeros = keras.ops.zeros((size,), "float32")
            slots.append(zeros.requires_grad_())
            return slots[-1]

        with torch.enable_grad():
            number, others = run(new_slot)
        found: Sequence[Tensor | None] = [None] * len(slots)
        if number.requires_grad:
            found = torch.autograd.grad(number, slots, allow_unused=True)
        return [
            torch.zeros_like(slot) if each is None else each
            for slot, each in zip(slots, found, strict=True)
        ], keras.tree.map_structure(_detached, others)


def _keeping_random_numbers() -> contextlib.AbstractContextManager[None]:
    """The context in which PyTorch's own generators may be drawn from."""
    has_devices = torch.cuda.is_available() and torch.cuda.is_initialized()
    devices = range(torch.cuda.device_count() if has_devices else 0)
    return torch.random.fork_rng(list(devices))


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, torch.Tensor) else leaf


def _with_samples(batch: Any, samples: int) -> Any:
    """A batch of another number of samples, the first ones again and again."""

    def repeated(leaf: Tensor | None) -> Tensor | None:
        if leaf is None:
            return None
        index = torch.arange(samples, device=leaf.device) % leaf.shape[0]
        return leaf[index]

    return keras.tree.map_structure(repeated, batch)


@dataclasses.dataclass(eq=False)
class _Operation:
    """An operation, as `passes.Operation` describes it.

    It keeps its outputs if it is an activation, until `forget` is called.
    """

    type: str
    inputs: Sequence[_Operation] = ()
    outputs: list[Tensor] = dataclasses.field(default_factory=list)

    @property
    def op(self) -> _Operation:
        """The operation itself, which made each of its outputs."""
        return self


class _Recorder(TorchFunctionMode):
    """Notes the operation that made each tensor.

    Args:
        batch: Structure of tensors. What the model is run on.
    """

    def __init__(self, batch: Any):
        super().__init__()
        # By the ids of tensors, of which one that is gone may leave its id to
        # another one.
        self._made: dict[int, tuple[weakref.ref, _Operation]] = {}
        # What the numbers depend on that Python took out of tensors.
        self._in_python: _Operation | None = None
        self._sources: list[_Operation] = []
        self._is_paused = False
        for leaf in keras.tree.flatten(batch):
            if leaf is not None:
                self._sources.append(_Operation(""))
                self._note(leaf, self._sources[-1])

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self._is_paused:
            return result
        name = getattr(func, "__name__", "")
        if isinstance(result, torch.Tensor):
            outputs = [result]
        elif isinstance(result, list | tuple):
            outputs = list(_tensors(result))
        else:
            outputs = []
            # What writes into a tensor may return nothing.
            if result is None and name.startswith("__set"):
                outputs = [x for x in args[:1] if isinstance(x, torch.Tensor)]
        if outputs:
            self._record(name, list(_tensors((args, kwargs))), outputs)
        elif name in _TO_PYTHON:
            inputs = [self.made(x) for x in _tensors(args)]
            if self._in_python is not None:
                inputs.append(self._in_python)
            self._in_python = _Operation("", inputs)
        return result

    def observe(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function, of whose own operations none is noted.

        It looks at tensors of the model, and returns one of them.
        """
        self._is_paused = True
        try:
            return function(*arguments)
        finally:
            self._is_paused = False

    def _record(
        self, name: str, given: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> None:
        inputs = [self.made(tensor) for tensor in given]
        if not inputs and self._in_python is not None:
            inputs = [self._in_python]
        if name.startswith("conv"):
            kind = "Conv"
        else:
            kind = _TYPES.get(name) or _TYPES.get(name.removesuffix("_"), "")
        operation = _Operation(kind, inputs)
        if kind in _ACTIVATIONS:
            operation.outputs = list(outputs)
        for output in outputs:
            # A function may return what it was given, unless it writes there.
            if name.endswith("_") or all(output is not x for x in given):
                self._note(output, operation)

    def made(self, tensor: Tensor) -> _Operation:
        """Returns the operation that made a tensor.

        A tensor that no function of PyTorch made may depend on all samples.
        """
        reference, operation = self._made.get(id(tensor), (None, None))
        if operation is None or reference is None or reference() is not tensor:
            operation = _Operation("", self._sources)
            self._note(tensor, operation)
        return operation

    def constant(self, tensor: Tensor) -> None:
        """Notes a tensor that depends on no sample."""
        self._note(tensor, _Operation(""))

    def _note(self, tensor: Tensor, operation: _Operation) -> None:
        self._made[id(tensor)] = weakref.ref(tensor), operation


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        for value in values.values():
            yield from _tensors(value)


class _Scope(RecordingScope):
    """A stateless scope that tells the recorder of the values of variables."""

    def __init__(self, states: Iterable[tuple[keras.Variable, Tensor]] = ()):
        super().__init__(states)
        self._is_reading = False

    def get_current_value(self, variable: keras.Variable) -> Any:
        """Returns the value of a variable, None if it is its own."""
        value = super().get_current_value(variable)
        recorder = _recorder.get()
        if value is not None or recorder is None or self._is_reading:
            return value
        self._is_reading = True
        try:
            # Asks this scope again.
            value = variable.value
        finally:
            self._is_reading = False
        recorder.constant(value)
        return value


PASSES = TorchPasses()
