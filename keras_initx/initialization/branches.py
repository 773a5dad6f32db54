"""Finds the residual branches of a model, and the weights that end each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

import keras

from keras_initx.inspection.graph import Graph, Step
from keras_initx.inspection.homogeneity import (
    factor_of,
    is_homogeneous,
    is_linear,
    is_linear_step,
    sum_factors,
)
from keras_initx.inspection.traversal import ModelView
from keras_initx.inspection.writable import why_not_writable

_L = keras.layers
# By the names of the classes, since Keras does not export those of `keras.ops`.
_SUMS = ("Add", "Subtract", "Average")
_JOINS = (*_SUMS, "Concatenate")


@dataclass(frozen=True)
class Branch:
    """A sum of a skip and a residual branch.

    Attributes:
        step: The sum.
        ends: The name of each layer that ends the branch, and those of its
            weights that multiply the branch. Empty if `skipped`.
        skipped: Why the branch has no factor to be given, "" if it has.
    """

    step: Step
    ends: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    skipped: str = ""


@dataclass
class BranchFinder:
    """Finds the residual branches among the sums of a graph.

    Which input of a sum is the skip follows from sets of tensors: those that a
    tensor is computed from, and those that reach it without weights. A set of
    tensors is an int here, whose bit n stands for tensor number n.

    Args:
        graph: Graph. The graph of the model.
        view: ModelView. The same model.
    """

    graph: Graph
    view: ModelView
    _in_branches: set[int] = field(default_factory=set)

    def branches(self, sums: Sequence[Step]) -> list[Branch]:
        """The branches of these sums, in the order of the sums.

        A sum inside a branch, at its end, is a part of the branch.

        Raises:
            ValueError: If one is ambiguous, or its factor cannot be given.
        """
        found: dict[int, Branch] = {}
        waiting = []
        for step in sums:
            ends = self._carried_into(step)
            if ends is None:
                waiting.append(step)
            elif ends:
                found[id(step)] = self._branch(step, ends)
        for step in waiting:
            if id(step) in self._in_branches:
                continue
            ends = self._projected_into(step, set(found))
            if ends:
                found[id(step)] = self._branch(step, ends)
        return [
            found[id(step)]
            for step in sums
            if id(step) in found and id(step) not in self._in_branches
        ]

    # ---- Which input of a sum is the skip -----------------------------------

    @cached_property
    def _ancestors(self) -> list[int]:
        """For each tensor the set of those it is computed from."""
        return self._reachable(lambda step: True)

    @cached_property
    def _carried(self) -> list[int]:
        """For each tensor the set of those that reach it without weights.

        They pass through sums, and through steps of one tensor, alone.
        """
        return self._reachable(
            lambda step: (
                not _has_weights(step)
                and (len(set(step.inputs)) == 1 or is_sum(step))
            )
        )

    @cached_property
    def _weighted(self) -> int:
        """The set of the outputs of layers with weights."""
        return sum(
            1 << number
            for step in self.graph.steps
            if _has_weights(step)
            for number in step.outputs
        )

    def _own_weighted(self, number: int, other: int) -> int:
        """The outputs of layers with weights that only `number` needs."""
        return (
            self._weighted & self._ancestors[number] & ~self._ancestors[other]
        )

    def _reachable(self, passes: Any) -> list[int]:
        """For each tensor the set of those that reach it.

        Args:
            passes: Called with a step; returns whether its inputs reach its
                outputs.
        """
        sets = [1 << number for number in range(len(self.graph.shapes))]
        for step in self.graph.steps:
            before = 0
            if passes(step):
                for number in step.inputs:
                    before |= sets[number]
            for number in step.outputs:
                sets[number] |= before
        return sets

    def _carried_into(self, step: Step) -> list[int] | None:
        """The branches of a sum one of whose inputs is a skip without weights.

        Returns:
            The tensors that end the branches; none if the inputs have nothing
            in common; None if no input is such a skip.
        """
        inputs = sorted(set(step.inputs))
        feeds = [
            (skip, branch)
            for skip in inputs
            for branch in inputs
            if _fits(
                self.graph.shapes[skip], self.graph.shapes[step.outputs[0]]
            )
            and self._carried[skip] & self._ancestors[branch]
            and self._weighted
            & self._ancestors[branch]
            & ~self._ancestors[skip]
        ]
        skips = {skip for skip, _ in feeds}
        ends = {branch for _, branch in feeds}
        if skips & ends:
            self._refuse(step, "more than one of its inputs is a skip")
        if ends:
            return sorted(ends)
        common = [
            self._ancestors[one] & self._ancestors[other]
            for one in inputs
            for other in inputs
            if one < other
        ]
        own = any(
            self._own_weighted(one, other) for one in inputs for other in inputs
        )
        return None if any(common) and own else []

    def _projected_into(self, step: Step, found: set[int]) -> list[int]:
        """The branch of a sum whose skip is a projection.

        Raises:
            ValueError: If neither input is one, or both are.
        """
        inputs = sorted(set(step.inputs))
        pairs = [
            (inputs[i], inputs[1 - i])
            for i in range(2 if len(inputs) == 2 else 0)
            if self._linear_reach(inputs[i]) & self._ancestors[inputs[1 - i]]
        ]
        if len(pairs) != 1:
            self._refuse(
                step,
                f"{'both' if len(inputs) == 2 else 'several'} of its inputs "
                "have weights, and none is a skip",
            )
        ((skip, branch),) = pairs
        common = self._linear_reach(skip) & self._ancestors[branch]
        # Tensors are numbered as they arise: the last one is where the skip
        # and the branch part.
        fork = common.bit_length() - 1
        for number in range(fork + 1, branch + 1):
            inside = self._ancestors[branch] >> number & 1
            if not inside or not self._ancestors[number] >> fork & 1:
                continue
            steps = self.graph.consumers.get(number, [])
            outside = any(
                user is None
                or (
                    user is not step
                    and not any(
                        self._ancestors[branch] >> output & 1
                        for output in user.outputs
                    )
                )
                for user in steps
            )
            if outside or id(self.graph.producers[number]) in found:
                self._refuse(step, "both of its inputs are networks")
        return [branch]

    def _linear_reach(self, number: int, kernels: int = 1) -> int:
        """The set of the tensors that this one is a projection of.

        A projection is at most one linear map, with normalizations.

        Args:
            number: int. The number of the tensor.
            kernels: int. How many linear maps there may still be.
        """
        reach = 1 << number
        step = self.graph.producers.get(number)
        if step is None or len(step.inputs) != 1:
            return reach
        layer, rule = step.operation, self.view.rule(step.operation)
        if rule.units:
            kernels -= 1
            if not is_linear(getattr(layer, "activation", None)):
                return reach
        elif not rule.normalizes and (
            _has_weights(step) or not is_linear_step(step)
        ):
            return reach
        if kernels < 0:
            return reach
        return reach | self._linear_reach(step.inputs[0], kernels)

    # ---- The weights that end a branch --------------------------------------

    def _branch(self, step: Step, ends: Sequence[int]) -> Branch:
        found: list[tuple[str, tuple[Any, ...]]] = []
        try:
            for number in ends:
                self._check_factors(step, number)
                found += self._ends(step, number)
        except _Scaled as scaled:
            return Branch(step, skipped=str(scaled))
        return Branch(step, tuple(found))

    def _check_factors(self, step: Step, number: int) -> None:
        """Raises if a layer that adds also multiplies the branch by a factor.

        Raises:
            _Scaled: If it does, so that the branch is skipped.
        """
        if is_known_sum(step):
            return
        factors = dict(zip(step.inputs, sum_factors(step) or (), strict=True))
        others = [f for other, f in factors.items() if other != number]
        if not any(
            math.isclose(abs(factors[number]), abs(f), rel_tol=0.01)
            for f in others
        ):
            raise _Scaled(f"scaled by {step.name!r}")

    def _ends(
        self, sum_: Step, number: int
    ) -> list[tuple[str, tuple[Any, ...]]]:
        """The layers whose weights multiply a tensor, and these weights."""
        step = self.graph.producers.get(number)
        if step is None:
            self._refuse(sum_, "an input of the model ends its branch")
        layer, rule = step.operation, self.view.rule(step.operation)
        if any(g.role == "branch scale" for g in rule.weights.values()):
            raise _Scaled(f"scaled by {step.name!r}")
        single = len(set(step.inputs)) == 1
        free = all(
            self.view.role(weight) == "slope"
            for weight in getattr(layer, "weights", ())
        )
        joins = type(layer).__name__ in _JOINS and _is_keras(layer)
        factor = factor_of(step) if free and single else None
        if factor not in (None, 1.0):
            raise _Scaled(f"scaled by {step.name!r}")
        if len(self.graph.consumers.get(number, [])) > 1:
            self._refuse(
                sum_, f"the output of {step.name!r} goes to other layers too"
            )
        if free and (joins if not single else factor is not None):
            if is_sum(step):
                self._in_branches.add(id(step))
            return [
                end
                for number in sorted(set(step.inputs))
                for end in self._ends(sum_, number)
            ]
        if free:
            self._refuse(
                sum_,
                f"its branch ends in {step.name!r}, which passes no factor on",
            )
        return [(step.name, self._weights(sum_, step))]

    def _weights(self, sum_: Step, step: Step) -> tuple[Any, ...]:
        """The weights that multiply the output of a layer together."""
        layer = step.operation
        if self._calls[id(layer)] > 1:
            self._refuse(
                sum_,
                f"{step.name!r} ends its branch and is called "
                f"{self._calls[id(layer)]} times",
            )
        while self.view.rule(layer).output_layer is not None:
            self._check_writable(sum_, step, layer)
            layer = self.view.rule(layer).output_layer
        self._check_writable(sum_, step, layer)
        rule = self.view.rule(layer)
        weights: tuple[Any, ...] = ()
        if rule.normalizes:
            by_role = {
                role: [w for w in layer.weights if self.view.role(w) == role]
                for role in ("norm scale", "norm offset")
            }
            if not by_role["norm scale"]:
                self._refuse(
                    sum_,
                    f"its branch ends in {step.name!r}, a normalization "
                    "without a scale",
                )
            weights = (*by_role["norm scale"], *by_role["norm offset"])
        elif rule.units is not None:
            activation = getattr(layer, "activation", None)
            if not is_homogeneous(activation):
                name = getattr(activation, "__name__", repr(activation))
                self._refuse(
                    sum_,
                    f"its branch ends in {step.name!r}, whose activation "
                    f"{name} passes no factor on",
                )
            weights = rule.units.weights
        if not weights:
            self._refuse(
                sum_,
                f"its branch ends in {step.name!r}, and it is not known "
                f"which weights multiply the output of a "
                f"{type(layer).__name__} (see inspection.register_layer)",
            )
        for weight in weights:
            self._check_writable(sum_, step, layer, weight)
        return weights

    def _check_writable(
        self, sum_: Step, step: Step, layer: Any, weight: Any = None
    ) -> None:
        reason = why_not_writable(self.view, layer, weight)
        if not reason and weight is not None and self._holders[id(weight)] > 1:
            reason = "shares its weights with another layer"
        if reason:
            self._refuse(sum_, f"{step.name!r} ends its branch: {reason}")

    @cached_property
    def _calls(self) -> Counter[int]:
        """How often each layer or operation is called."""
        return Counter(id(step.operation) for step in self.graph.steps)

    @cached_property
    def _holders(self) -> Counter[int]:
        """How many layers hold each weight themselves."""
        count: Counter[int] = Counter()
        for layer in self.view.layers:
            inside = self.view.inside(layer)[1:]
            inner = {id(w) for one in inside for w in one.weights}
            count.update(id(w) for w in layer.weights if id(w) not in inner)
        return count

    def _refuse(self, step: Step, why: str) -> NoReturn:
        raise ValueError(
            "Each sum must have one skip, and branches that end in weights of "
            "their own; name the sums that have in layers=. Received: "
            f"{sum_name(step, self.view)!r}, where {why}"
        )


def sum_name(step: Step, view: ModelView) -> str:
    """The name of a sum, or of the layer whose `call` it stands in."""
    if len(step.chain) > 1 and view.rule(step.chain[-2].layer).symbolic:
        return step.chain[-2].name
    return step.name


class _Scaled(Exception):
    """Says that a branch has a factor already, and where. It stays here."""


def is_known_sum(step: Step) -> bool:
    """Whether a step is one that Keras has for adding tensors."""
    operation = step.operation
    return (
        type(operation).__name__ in _SUMS
        and _is_keras(operation)
        and len(step.inputs) > 1
    )


def is_sum(step: Step) -> bool:
    """Whether a step adds or subtracts tensors, or multiples of them.

    The layers and operations of Keras are known. Others without weights, such
    as a `Lambda`, are run on numbers.
    """
    if is_known_sum(step):
        return True
    layer = step.operation
    if not isinstance(layer, _L.Layer) or _has_weights(step):
        return False
    public = getattr(_L, type(layer).__name__, None) is type(layer)
    if public and not isinstance(layer, _L.Lambda):
        return False
    return sum_factors(step) is not None


def hidden_layers(graph: Graph, view: ModelView) -> list[str]:
    """The layers whose sums are not seen.

    They run layers themselves, or have several inputs and weights that no rule
    knows.
    """

    def hides(step: Step) -> bool:
        layer = step.operation
        if not isinstance(layer, _L.Layer):
            return False
        unknown = any(view.role(w) == "unknown" for w in layer.weights)
        return (unknown and len(step.inputs) > 1) or any(
            isinstance(inner, keras.Model)
            or (not _is_keras(inner) and len(view.inside(inner)) > 1)
            for inner in view.inside(layer)
        )

    return [step.name for step in graph.steps if hides(step)]


def _fits(shape: Sequence[int | None], other: Sequence[int | None]) -> bool:
    """Whether two shapes are equal, as far as they are known."""
    return len(shape) == len(other) and all(
        a == b or None in (a, b) for a, b in zip(shape, other, strict=True)
    )


def _has_weights(step: Step) -> bool:
    return bool(getattr(step.operation, "weights", None))


def _is_keras(thing: Any) -> bool:
    return type(thing).__module__.startswith("keras.")
