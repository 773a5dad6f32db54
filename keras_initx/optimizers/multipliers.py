"""Which factor of the learning rate belongs to which weight.

A user gives rules: a layer or a pattern of paths, and a factor. When an
optimizer is built, it knows its weights, and the rules become rows, one for
each weight. The rows are saved with the optimizer; a loaded one finds its
weights by their order, names and shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from keras_initx.validation import check_real, did_you_mean, refuse

# Weights in a message. A reader needs to see what paths look like, not all.
_PATHS_SHOWN = 20


class Rule(NamedTuple):
    """A factor, and the weights that it is for.

    Attributes:
        factor: float. The factor.
        pattern: str or None. A regular expression that matches whole parts of
            the paths of the weights; None for the weights of a layer.
        paths: tuple of str. The paths of the weights of a layer.
        variables: tuple. The weights of a layer, empty if the rule was read
            from a config.
    """

    factor: float
    pattern: str | None = None
    paths: tuple[str, ...] = ()
    variables: tuple[Any, ...] = ()

    def to_config(self) -> dict[str, Any]:
        """The rule as a dict of plain numbers and text."""
        if self.pattern is not None:
            return {"pattern": self.pattern, "factor": self.factor}
        return {"paths": list(self.paths), "factor": self.factor}

    def means(self, variable: Any) -> bool:
        """Whether the rule is for a weight."""
        path = path_of(variable)
        if self.pattern is not None:
            return bool(re.search(_whole_parts(self.pattern), path))
        if self.variables:
            return any(_is_same(variable, each) for each in self.variables)
        return any(_is_end(path, each) for each in self.paths)

    @property
    def shown(self) -> str:
        """The key of the rule, for a message."""
        if self.pattern is not None:
            return repr(self.pattern)
        return f"the layer of {self.paths[0]!r}"


class Row(NamedTuple):
    """The factor of one weight of a known list of weights.

    Attributes:
        path: str. The path of the weight.
        shape: tuple of int. The shape of the weight.
        factor: float. The factor of its learning rate.
        variable: The weight, None if the row was read from a config.
        gradient: float. The factor of its gradient.
    """

    path: str
    shape: tuple[int, ...]
    factor: float
    variable: Any = None
    gradient: float = 1.0

    def to_config(self) -> dict[str, Any]:
        """The row as a dict of plain numbers and text."""
        return {
            "path": self.path,
            "shape": list(self.shape),
            "factor": self.factor,
            "gradient": self.gradient,
        }

    def fits(self, variable: Any) -> bool:
        """Whether a weight has the name and the shape of this row.

        The names of layers may differ, since Keras numbers layers anew in each
        process.
        """
        name = path_of(variable).rpartition("/")[2]
        same_name = name == self.path.rpartition("/")[2]
        return same_name and tuple(variable.shape) == self.shape


class Multipliers:
    """The factors of the weights of an optimizer.

    The factors are in an object, and not in a list or dict of the optimizer,
    since TensorFlow replaces lists and dicts that an optimizer holds.

    Args:
        entries: The dict that the user gave, a list of `Row`s, or a list of
            configs of rules or rows.
    """

    def __init__(self, entries: Any):
        self.entries: Sequence[Rule] | Sequence[Row] = _read(entries)
        # The factors of each weight, once the optimizer is built: those of its
        # learning rate and of its gradient.
        self.built: list[tuple[float, float]] = []

    def to_config(self) -> list[dict[str, Any]]:
        """A list of dicts, from which `Multipliers` makes the same."""
        return [entry.to_config() for entry in self.entries]

    def build(self, variables: Sequence[Any]) -> None:
        """Finds the factor of each weight of an optimizer.

        Args:
            variables: Sequence of weights. Those that the optimizer trains.

        Raises:
            ValueError: If a rule is for no weight, if two rules with different
                factors are for one weight, or if the weights are not those of
                the rows.
        """
        variables = list(variables)
        rows = [e for e in self.entries if isinstance(e, Row)]
        rules = [e for e in self.entries if isinstance(e, Rule)]
        if rules:
            factors = [(f, 1.0) for f in _by_rule(rules, variables)]
        else:
            factors = _by_row(rows, variables)
        self.built = factors
        # From now on the factors belong to these weights.
        self.entries = [
            Row(path_of(v), tuple(v.shape), factor, v, gradient)
            for v, (factor, gradient) in zip(variables, factors, strict=True)
        ]

    @property
    def by_path(self) -> dict[str, float]:
        """The factor of each weight by its path, empty before `build`."""
        factors: dict[str, float] = {}
        for row in self.entries:
            if isinstance(row, Row):
                path, count = row.path, 1
                # Weights of nested models may share a path.
                while path in factors:
                    count += 1
                    path = f"{row.path}:{count}"
                factors[path] = row.factor
        return factors


def path_of(variable: Any) -> str:
    """The path of a variable of Keras, the name of one of TensorFlow."""
    return variable.path if hasattr(variable, "path") else variable.name


def _read(entries: Any) -> Sequence[Rule] | Sequence[Row]:
    if isinstance(entries, Mapping):
        return [_rule(key, factor) for key, factor in entries.items()]
    if all(isinstance(entry, Row) for entry in entries):
        return list(entries)
    if all("shape" in entry for entry in entries):
        return [
            Row(
                entry["path"],
                tuple(entry["shape"]),
                entry["factor"],
                gradient=entry["gradient"],
            )
            for entry in entries
        ]
    return [
        Rule(
            entry["factor"],
            entry.get("pattern"),
            tuple(entry.get("paths", ())),
        )
        for entry in entries
    ]


def _rule(key: Any, factor: Any) -> Rule:
    """The rule for one key of a dict.

    Raises:
        ValueError: If the key is no regular expression and no built layer, or
            the factor is not positive.
    """
    if isinstance(key, keras.layers.Layer):
        if not key.trainable_weights:
            refuse(
                "A layer must be built and have trainable weights to have a "
                "learning rate of its own.",
                layer=key,
            )
        factor = check_real(f"the factor of {key.name!r}", factor, "(0, inf)")
        weights = tuple(key.trainable_weights)
        return Rule(factor, None, tuple(map(path_of, weights)), weights)
    if not isinstance(key, str):
        refuse("Each key must be a regular expression or a layer.", key=key)
    try:
        re.compile(key)
    except re.error as error:
        refuse(
            f"Each key must be a regular expression or a layer ({error}).",
            key=key,
        )
    # A weight that must not change is frozen by `trainable=False`.
    return Rule(check_real(f"the factor of {key!r}", factor, "(0, inf)"), key)


def _whole_parts(pattern: str) -> str:
    """The pattern, so that it matches whole parts of a path."""
    return rf"(?:^|/)(?:{pattern})(?:/|$)"


def _is_end(path: str, other: str) -> bool:
    """Whether one of two paths is the end of the other.

    The path of a loaded model may lack the name of the model.
    """
    longer, shorter = sorted((path, other), key=len, reverse=True)
    return f"/{longer}".endswith(f"/{shorter}")


def _is_same(variable: Any, other: Any) -> bool:
    """Whether two are one weight, as a variable of Keras or of TensorFlow."""
    return variable is other or variable is getattr(other, "value", None)


def _by_rule(rules: Iterable[Rule], variables: list[Any]) -> list[float]:
    """The factors of weights, by rules.

    Raises:
        ValueError: As `Multipliers.build` does.
    """
    factors: list[float | None] = [None] * len(variables)
    owners: dict[int, Rule] = {}
    for rule in rules:
        meant = [i for i, v in enumerate(variables) if rule.means(v)]
        _check_meant(rule, meant, variables)
        for i in meant:
            if factors[i] not in (None, rule.factor):
                raise ValueError(
                    "Each weight must have one factor. Received: "
                    f"{path_of(variables[i])!r} matches {owners[i].shown} and "
                    f"{rule.shown}, with the factors {factors[i]} and "
                    f"{rule.factor}"
                )
            factors[i], owners[i] = rule.factor, rule
    return [1.0 if factor is None else factor for factor in factors]


def _check_meant(rule: Rule, meant: list[int], variables: list[Any]) -> None:
    """Refuses a rule that is for no weight, or whose weights are ambiguous.

    Raises:
        ValueError: If the rule is for no weight, or if it was read from a
            config and one of its paths is that of several weights.
    """
    paths = [path_of(variable) for variable in variables]
    if not meant:
        hint = did_you_mean(
            rule.pattern or rule.paths[0],
            {part for path in paths for part in (path, *path.split("/"))},
        )
        raise ValueError(
            "Each key of multipliers must match a trainable weight: whole "
            f"parts of its path, or its layer.{hint} Received: {rule.shown}, "
            f"among {_listed(paths)}"
        )
    if rule.pattern is None and not rule.variables:
        for path in rule.paths:
            ends = [each for each in paths if _is_end(each, path)]
            if len(ends) != 1:
                # Two nested models may have layers of one name, and one path.
                raise ValueError(
                    "The factors of a layer can be read from a config only if "
                    "its weights have paths of their own. Build the optimizer "
                    "before it is saved, by "
                    "optimizer.build(model.trainable_variables). Received: "
                    f"{len(ends)} weights with the path {path!r}, among "
                    f"{_listed(paths)}"
                )


def _by_row(
    rows: Sequence[Row], variables: list[Any]
) -> list[tuple[float, float]]:
    """The factors of weights, by rows: the same weights, or the like in order.

    Raises:
        ValueError: If the weights are not those of the rows.
    """
    known = {
        id(variable): (row.factor, row.gradient)
        for row in rows
        if row.variable is not None
        for variable in (row.variable, getattr(row.variable, "value", None))
    }
    if all(id(variable) in known for variable in variables):
        return [known[id(variable)] for variable in variables]
    if len(rows) == len(variables) and all(
        row.fits(variable)
        for row, variable in zip(rows, variables, strict=True)
    ):
        return [(row.factor, row.gradient) for row in rows]
    raise ValueError(
        "The factors of this optimizer belong to the trainable weights that "
        f"it was made for, {_listed([_described(r) for r in rows])}. Make a "
        "new one for other weights. Received: "
        f"{_listed([_described(v) for v in variables])}"
    )


def _described(weight: Any) -> str:
    return f"{path_of(weight)} {tuple(weight.shape)}"


def _listed(paths: list[str]) -> str:
    if len(paths) <= _PATHS_SHOWN:
        return str(paths)
    return f"{paths[:_PATHS_SHOWN]} and {len(paths) - _PATHS_SHOWN} more"
