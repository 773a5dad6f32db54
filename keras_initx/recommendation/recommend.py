"""What is wrong with the start of a model, and which call mends it."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from keras_initx.initialization.trained import trained_layers
from keras_initx.inspection.checks import check_eager
from keras_initx.inspection.selection import NO_KERNEL
from keras_initx.inspection.traversal import inspect_model
from keras_initx.measurement.data import Data, batches, build
from keras_initx.recommendation.case import Case
from keras_initx.recommendation.finding import Finding, Findings
from keras_initx.recommendation.reading import WHOLE, Reading, listed
from keras_initx.recommendation.rules import RULES
from keras_initx.recommendation.trial import NotCopied, carried_out
from keras_initx.validation import (
    check_int,
    did_you_mean,
    refuse,
)

# The finding that there is nothing to look at, which no line removes.
_UNKNOWN = "unknown"


def recommend(
    model: keras.Model,
    data: Data = None,
    *,
    ignore: Sequence[str] = (),
    steps: int | None = 8,
) -> Findings:
    """Finds faults of a model before training, and a line against each.

    The signal and the gradient are predicted (`predict`), and measured where
    there are data (`measure`). Rules of the literature look at these numbers
    and at the weights. For each fault, lines of code are tried on a copy of the
    model, and the first one after which the rule finds nothing is given, with
    the number after it. A copy is predicted only where it is not measured. The
    model itself does not change.

        equal weights        layers that share an initializer have equal kernels
        wrong fans           Keras reads fans from a shape that does not say
                             them
        inputs               the data are not centered, or far from size 1
        embedding            an embedding is as small as an epsilon behind it
        query and key        attention scores so large that one key gets all
        residual growth      branches without the factor 1/sqrt(branches)
        saturation           tanh and the like at their bounds
        dead units           relu units that no sample turns on
        scale                the signal vanishes or explodes
        dead at birth        the same in inference mode, at fresh statistics of
                             Batch Normalization
        batch normalization  deep, without skips: gradients explode
        tokens               attention makes all tokens of a sample alike
        width                a deep narrow relu network, different for each seed
        gradient             the gradient vanishes or explodes
        sample fraction      all samples have the same signal at the last layer
        unknown              nothing is known of the signal, as without data of
                             a model that cannot be predicted

    What is measured decides where both numbers are known. A finding that the
    line of an earlier one removes is not given by itself: the earlier one names
    it. A number out of its range is a reason to expect slow training or none,
    and one within its range promises nothing: nobody can know the accuracy of
    a network from its start.

    A model with Batch Normalization is looked at in training mode, since
    before training its moving statistics are of no data.

    Where `predict` refuses a model, its findings are founded on the
    measurement alone. Without data nothing is then known of the signal, which
    is a finding too, "unknown". It comes last.

    Args:
        model: keras.Model. A model that has not been trained.
        data: As in `measure`. Defaults to none: the signal is then predicted
            for white noise, and nothing is known of the inputs.
        ignore: Sequence of str. Names of rules that are left out. Defaults to
            none.
        steps: int. The largest number of batches to measure, None for all.
            Defaults to 8.

    Returns:
        `Findings`, a list of `Finding`, which is empty where nothing is found.

    Raises:
        ValueError: If the model is not built and there are no data, if it has
            no weights or has been trained, or if the data cannot be measured.
        TypeError: If `model` is no Keras layer.

    Example:

    >>> import keras, keras_initx as kx
    >>> layers = [keras.layers.Dense(64, "relu") for _ in range(25)]
    >>> model = keras.Sequential([keras.Input((64,)), *layers])
    >>> findings = kx.recommend(model, ignore=["sample fraction", "width"])
    >>> [finding.rule for finding in findings]
    ['scale']
    >>> findings[0].call
    'kx.initialize(model, "he_normal", seed=0)'

    Reference: each finding names its own. The ranges of scale and sample
    fraction are those of `VarianceProfile`.
    """
    check_eager("recommend")
    if not isinstance(model, keras.layers.Layer):
        inspect_model(model)
    steps = check_int("steps", steps, 1, optional=True)
    ignored = [ignore] if isinstance(ignore, str) else list(ignore)
    rules = _chosen(ignored)
    if data is not None:
        build(model, batches(data, steps=steps, model=model))
    view = inspect_model(model)
    if not view.weights:
        raise ValueError(
            "recommend looks at the weights of a model before training, and "
            "this model has none, so that there is nothing to initialize. "
            f"Received: model={model.name!r}"
        )
    for layer, count in trained_layers(view):
        raise ValueError(
            "recommend looks at weights before training, and the ranges of its "
            "rules say nothing about trained ones: build the model anew, or "
            "give keras.models.clone_model(model). Received: "
            f"{layer.name!r} after {count} steps"
        )
    case = Case(model, data, steps)
    found = {k: v for k, v in readings(case, rules).items() if v.found}
    mender = _Mender(case, rules)
    findings: list[Finding] = []
    while found:
        name = next(iter(found))
        finding, gone = mender.mended(name, found)
        findings.append(finding)
        found = {k: v for k, v in found.items() if k not in gone}
    if _UNKNOWN not in ignored:
        findings += _unknown(case)
    return Findings(findings, _not_seen(case))


def readings(case: Case, rules: Sequence[str]) -> dict[str, Reading]:
    """Returns what rules read off a model, without those that see nothing.

    What is measured decides, and takes less time, so that the model is
    predicted only for a rule that finds something, or cannot measure it.
    """
    found = {}
    for name in rules:
        case.waits, case.was_asked = True, False
        reading = RULES[name](case)
        undecided = reading is None or reading.found or reading.measured is None
        if case.was_asked and undecided and not case.is_trial:
            case.waits = False
            reading = RULES[name](case)
        if reading is not None:
            found[name] = reading
    case.waits = True
    return found


def _chosen(names: Sequence[str]) -> list[str]:
    known = [*RULES, _UNKNOWN]
    for name in names:
        if name not in known:
            hint = did_you_mean(str(name), known)
            refuse(
                f"ignore must hold names of rules, {known}.{hint}",
                ignore=names,
            )
    return [name for name in RULES if name not in names]


class _Mender:
    """Tries lines on copies of a model, each line once.

    What the rules read off a copy is kept, and the copy is not.
    """

    def __init__(self, case: Case, rules: Sequence[str]):
        self.case = case
        self.rules = rules
        self._after: dict[str, dict[str, Reading] | None] = {}
        self._why_not = ""

    def mended(
        self, name: str, found: dict[str, Reading]
    ) -> tuple[Finding, set[str]]:
        """Returns the finding of a rule, and the rules that its line mends.

        The line is the first of the rule after which nothing is found, or else
        one of another fault's that has that effect, or else the first of the
        rule after which the fewest faults are found.

        Args:
            name: str. The rule.
            found: dict. All readings that are faults, by rule.
        """
        before = found[name]
        best = None
        others = [line for other in found.values() for line in other.lines]
        for line in dict.fromkeys([*before.lines, *others]):
            after = self._carried_out(line)
            if after is None:
                continue
            left = [rule for rule, reading in after.items() if reading.found]
            if name in left:
                continue
            if not left:
                return self._finding(name, found, line, before.note)
            own = line in before.lines
            if own and (best is None or len(left) < len(best[1])):
                best = line, left
        if best:
            line, left = best
            note = before.note
            new = [rule for rule in left if rule not in found]
            if new:
                note = f"The line causes another finding: {', '.join(new)}."
                note = f"{note} {before.note}".strip()
            return self._finding(name, found, line, note)
        line, note = "", before.note
        if self._why_not:
            line = next(iter(before.lines), "")
            note = (
                "The line was not tried, since the model cannot be copied: "
                f"{self._why_not}. {note}"
            ).strip()
        return _finding(name, before, line, None, "", (), note), {name}

    def _finding(
        self,
        name: str,
        found: dict[str, Reading],
        line: str,
        note: str,
    ) -> tuple[Finding, set[str]]:
        after = self._carried_out(line) or {}
        number, how = _number(after.get(name))
        gone = [k for k in found if k not in after or not after[k].found]
        also = tuple(other for other in gone if other != name)
        finding = _finding(name, found[name], line, number, how, also, note)
        return finding, {*gone, name}

    def _carried_out(self, line: str) -> dict[str, Reading] | None:
        """Returns what the rules read off a copy, None if the line fails."""
        if line not in self._after:
            after = None
            try:
                case = carried_out(self.case, line)
                after = None if case is None else readings(case, self.rules)
            except NotCopied as error:
                self._why_not = str(error)
            self._after[line] = after
        return self._after[line]


def _number(reading: Reading | None) -> tuple[float | None, str]:
    if reading is None:
        return None, ""
    if reading.measured is not None:
        return reading.measured, "measured"
    if reading.predicted is not None:
        return reading.predicted, "predicted"
    return None, ""


def _finding(
    name: str,
    before: Reading,
    line: str,
    after: float | None,
    how: str,
    also: tuple[str, ...],
    note: str,
) -> Finding:
    return Finding(
        name,
        before.where,
        before.quantity,
        before.predicted,
        before.measured,
        before.why,
        line,
        after,
        how,
        also,
        note,
    )


def _unknown(case: Case) -> list[Finding]:
    """A finding if nothing is known of the signal, or not of all of it."""
    if case.measured is not None or case.nonfinite:
        return []
    where = WHOLE
    # Both may be one reason.
    reasons = [*dict.fromkeys(filter(None, (case.refusal, case.unmeasured)))]
    needs_data = case.data is None and not case.refusal.startswith(NO_KERNEL)
    if case.predicted is not None:
        (unknown,) = np.nonzero(np.isnan(case.predicted.total))
        if not len(unknown):
            return []
        first = int(unknown[0])
        where = f"the layers from {case.predicted.layers[first]!r} on"
        reasons = [case.predicted.notes[first]]
    return [
        Finding(
            _UNKNOWN,
            where,
            "signal and gradient",
            None,
            None,
            "The signal could not be looked at: "
            f"{'; '.join(text.rstrip('.') for text in reasons)}.",
            "kx.recommend(model, data)" if needs_data else "",
            note="The call needs your data." if needs_data else "",
        )
    ]


def _not_seen(case: Case) -> list[str]:
    """What no rule could look at, in sentences."""
    said: list[str] = []
    measured = case.measured
    case.waits = measured is not None and not np.isnan(measured.gradient).all()
    if not case.waits and not case.gradient_is_known:
        why = (
            "the model cannot be predicted"
            if case.predicted is None
            else "through Batch Normalization it depends on the number of "
            "positions in a batch, of which a prediction can take few"
        )
        said.append(f"The gradient was not looked at: {why}.")
    if any(p is not None and p.is_noise_of_positions for _, p in case.profiles):
        what = "data" if case.data is None else "other data"
        said.append(
            "The share of the signal that differs between samples was not "
            f"judged, since pooling makes white noise alike: give {what}."
        )
    if not case.noise_fits:
        said.append(
            "The scale of the signal was not judged, since the model changes "
            "that of its inputs, and white noise of mean square 1 is not what "
            "it is made for: give data."
        )
    if case.data is None:
        said.append(
            "Inputs, and dead and saturated units, were not measured: give "
            "data."
        )
    elif (
        case.measured is None
        and case.predicted is not None
        and not case.nonfinite
    ):
        # Without a prediction, the finding "unknown" says so.
        said.append(f"The signal was not measured: {case.unmeasured}")
    if case.changed_layers:
        said.append(
            "If the model has been trained, what is found says nothing: "
            f"{listed(case.changed_layers)} have moving statistics or biases "
            "that are not those of a new layer."
        )
    return said
