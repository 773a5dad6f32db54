"""Which row the activations of a traced model belong to.

The activation of a row is the first one that its pre-activation reaches: that
of the row's own layer, or a later one behind a normalization, a dropout, a sum
with a skip, a reshape or a pooling, as in

    Dense(8, "relu")
    Dense(8) -> BatchNormalization -> ReLU
    Conv2D(8, 3) -> BatchNormalization -> Add -> Activation("relu")

Rows that meet in a sum before the activation share it. A matrix product or a
convolution in between ends the search: what follows belongs to that layer.

A separate activation is a layer that the rules of `inspection` know as one, or
one of the backend's operations such as `tf.nn.relu` anywhere in the model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from keras_initx.backend.passes import Operation, Tensor, passes

# Operations that start a new pre-activation.
_PRODUCTS = ("MatMul", "BatchMatMul", "Einsum", "Conv", "DepthwiseConv")
# Activations outside of layers. `Tanh` and `Sigmoid` are left out: they are
# parts of gelu, silu, mish and gates.
_ACTIVATIONS = {"Relu", "Relu6", "Elu", "Selu", "LeakyRelu"}


class ActivationSearch:
    """Follows the pre-activations of a graph to their activations.

    The graph is searched backwards from the tensors that are asked for, and
    each operation once.

    Args:
        on_activation: Called as `on_activation(rows, output)` for each
            activation outside of layers, with the rows that it belongs to.
    """

    def __init__(
        self, on_activation: Callable[[Collection[int], Tensor], object]
    ):
        self._on_activation = on_activation
        # The rows whose pre-activation reaches an operation's output, with no
        # activation or product in between, when it was looked at.
        self._rows: dict[Operation, frozenset[int]] = {}
        self._open: set[int] = set()
        self._starts: set[Operation] = set()

    def is_start(self, tensor: Tensor) -> bool:
        """Returns whether a tensor is the pre-activation of a row."""
        return passes().operation(tensor) in self._starts

    def start(self, row: int, tensor: Tensor) -> None:
        """Notes a tensor that is the pre-activation of a row."""
        self._open.add(row)
        op = passes().operation(tensor)
        self._starts.add(op)
        self._rows[op] = frozenset([row])

    def is_open(self, row: int) -> bool:
        """Returns whether a row has no activation yet."""
        return row in self._open

    def rows(self, *tensors: Tensor) -> set[int]:
        """Returns the rows without an activation that reach some tensors."""
        operations = map(passes().operation, tensors)
        found = set[int]().union(*map(self._reach, operations))
        return found & self._open

    def end(self, rows: Iterable[int], *outputs: Tensor) -> None:
        """Notes that rows have an activation, and its outputs."""
        self._open -= set(rows)
        for output in outputs:
            self._rows[passes().operation(output)] = frozenset()

    def _reach(self, op: Operation) -> frozenset[int]:
        known, stack = self._rows, [op]
        while stack:
            op = stack[-1]
            if op in known:
                stack.pop()
                continue
            if op.type.startswith(_PRODUCTS):
                known[op] = frozenset()
                continue
            inputs = [x.op for x in op.inputs]
            unknown = [each for each in inputs if each not in known]
            if unknown:
                stack.extend(unknown)
                continue
            rows = frozenset[int]().union(*(known[each] for each in inputs))
            rows &= self._open
            known[op] = rows
            if rows and op.type in _ACTIVATIONS:
                self.end(rows, op.outputs[0])
                self._on_activation(rows, op.outputs[0])
            passes().forget(op)
        return known[op]
