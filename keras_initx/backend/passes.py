"""What a pass over a model needs of a backend, with one module for each.

A pass is a function of a batch that runs the model within hooks. Whoever runs
one asks here to compile it, for gradients at signals within it, and which graph
is being built, and computes with `keras.ops` otherwise.
"""

from __future__ import annotations

import abc
import functools
import importlib
from collections.abc import Callable
from typing import Any, TypeAlias

import keras

Tensor: TypeAlias = Any
# Returns a vector of zeros, at which a gradient is computed.
NewSlot: TypeAlias = Callable[[], Tensor]


class Passes(abc.ABC):
    """Compiles passes over a model, and computes gradients in them."""

    @abc.abstractmethod
    def spec(self, tensor: Tensor) -> Any:
        """Returns the dtype and shape of a tensor, for `compile`."""

    @abc.abstractmethod
    def batch_spec(self, tensor: Tensor) -> Any:
        """Returns the type of batches of any number of samples.

        Two of them are equal, and have one `repr`, if their tensors have the
        same dtype, and the same shape but for the first axis.
        """

    @abc.abstractmethod
    def of_any_size(self, tensor: Tensor) -> Tensor:
        """Returns a tensor that has any number of samples where it is traced.

        It is the tensor itself on a backend that traces a function once for
        each number of samples.
        """

    @abc.abstractmethod
    def compile(
        self, function: Callable[..., Any], *examples: Any
    ) -> tuple[Callable[..., Any], Any]:
        """Compiles a function for arguments of given types.

        The function is traced before this returns. It may read variables, whose
        values are those at each call.

        Args:
            function: Takes and returns structures of tensors.
            *examples: Structures of tensors, or of what `spec` returns for
                them.

        Returns:
            The compiled function, and what it returns, with anything that has
            a dtype and a shape in the place of each tensor.
        """

    def compile_when_called(
        self, function: Callable[..., Any], *examples: Any
    ) -> Callable[..., Any]:
        """Returns a function that is compiled at its first call, if any."""

        @functools.cache
        def compiled() -> Callable[..., Any]:
            return self.compile(function, *examples)[0]

        return lambda *arguments: compiled()(*arguments)

    @abc.abstractmethod
    def graph(self) -> Any:
        """Returns what a tensor that is computed now belongs to.

        A tensor is within reach where this returns the same object as where
        the tensor was computed. Loops, branches and functions that a backend
        traces have graphs of their own.
        """

    def dense(self, gradient: Any) -> Tensor:
        """Returns what a backward pass hands on as one tensor."""
        return gradient

    @abc.abstractmethod
    def gradients(
        self, run: Callable[[NewSlot], tuple[Tensor, Any]], size: int
    ) -> tuple[list[Tensor], Any]:
        """Returns gradients of a number, all in one backward pass.

        Args:
            run: Called as `run(new_slot)`, perhaps more than once. Calls
                `new_slot()` in the same order each time, also inside of loops,
                and computes with what that returns. Returns a number, and a
                structure of other tensors.
            size: int. The size of a slot.

        Returns:
            The gradient of the number at each slot, zeros where the number
            does not depend on it; and the structure.
        """


@functools.cache
def passes() -> Passes:
    """Returns the passes of the backend that Keras runs on."""
    name = f"keras_initx.backend.{keras.config.backend()}_passes"
    return importlib.import_module(name).PASSES
