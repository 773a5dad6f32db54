"""Where the samples are in the signal of a layer.

They lie along the first axis as a rule, but not always. Position embeddings and
learned tokens depend on no sample. Windows, heads or time steps may be folded
into the first axis, two views concatenated along it, or time may come first.
Each signal is therefore read as a flat array of shape

    (before, samples, after)

in which one sample has `before * after` units. What can be known without
numbers is read from the graph of the traced model: whether a signal depends on
the data at all, and whether its first axis can only be that of the samples
(`Reach`). Where that leaves a doubt, the model runs on a few samples, one of
which is changed, and the numbers that change tell where this sample is
(`find_places`).
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
from keras import ops

from keras_initx import backend
from keras_initx.backend.passes import Operation, Tensor, passes
from keras_initx.hooks.forward_hooks import forward_hooks
from keras_initx.inspection.selection import LayerCall, Selector, matches_any
from keras_initx.measurement.data import arrays_of, map_arrays, samples_of
from keras_initx.measurement.moments import units_of

# Operations whose result depends on the shape of their input alone.
_OF_SHAPES = {"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"}
# Operations that may take away the axis of the samples, and leave another.
_REDUCTIONS = {"Sum", "Mean", "Max", "Min", "Prod", "StridedSlice", "GatherV2"}
# Operations whose number of results depends on values.
_OF_ANY_SIZE = {
    "Where",
    "Unique",
    "UniqueV2",
    "DynamicPartition",
    "PyFunc",
    "EagerPyFunc",
}
# Operations that have lists and functions within, of which the shapes are set
# later.
_WITHIN = ("TensorList", "While", "StatelessWhile")
# A changed sample moves the numbers of other samples by less than this share,
# by rounding, or else it reaches them.
_ROUNDING = 1e-3


class SampleAxis(NamedTuple):
    """The samples of a signal that is read as (before, samples, after).

    Args:
        before: int. The product of the axes before the samples.
        after: int. The product of the axes behind the samples.
    """

    before: int
    after: int


# "first" stands for the first axis, "none" for a signal that depends on no
# sample, "unknown" for one whose numbers do not each belong to one sample.
Place: TypeAlias = SampleAxis | str
FIRST, NONE, UNKNOWN = "first", "none", "unknown"


def note(place: Place) -> str:
    """Returns what the row of a layer says of its samples, mostly nothing."""
    if place == NONE:
        return "no sample reaches this layer"
    if isinstance(place, SampleAxis) and place.before > 1:
        return "its samples are not in order along the first axis"
    return ""


class Reach:
    """Tells which tensors of a graph depend on the values of some of them.

    Random numbers count as values of the samples, since each sample has its
    own. Python has run the model when the graph is there, so each operation is
    looked at once.

    The number of samples is the one size that the graph does not know, unless
    the model loses others, as in a reshape to a computed size. The first axis
    of what comes from there may be another one, even if it has as many entries
    as there are samples.

    Args:
        sources: Structure of tensors of one graph, the batch.
    """

    def __init__(self, sources: Any):
        self._known = {passes().operation(x): True for x in arrays_of(sources)}
        self._lost: set[Operation] = set()

    def is_lost(self, tensor: Tensor) -> bool:
        """Returns whether the first axis may be another than the samples."""
        operation = passes().operation(tensor)
        return operation in self._lost or passes().unknown_axes(tensor) > 1

    def __call__(self, tensor: Tensor) -> bool:
        """Returns whether the tensor depends on the sources."""
        known, operation = self._known, passes().operation(tensor)
        stack = [operation]
        while stack:
            op = stack[-1]
            of_shapes = op.type in _OF_SHAPES
            inputs = [] if of_shapes else list(op.inputs)
            unknown = [x.op for x in inputs if x.op not in known]
            if unknown and op not in known:
                stack.extend(unknown)
                continue
            stack.pop()
            if op not in known:
                reached = [x for x in inputs if known[x.op]]
                known[op] = "Random" in op.type or bool(reached)
                lost = (x for x in reached if x.op in self._lost)
                if any(map(passes().unknown_axes, lost)) or (
                    reached and _loses_size(op, reached)
                ):
                    self._lost.add(op)
        return known[operation]


def _loses_size(op: Operation, reached: Sequence[Tensor]) -> bool:
    """Whether an operation may return no axis of samples but an unknown one.

    Args:
        op: Operation. The operation.
        reached: Sequence of tensors. The inputs that depend on samples.
    """
    if op.type in _OF_ANY_SIZE:
        return True
    if op.type.startswith(_WITHIN) or "Random" in op.type:
        return False
    before = max(passes().unknown_axes(x) for x in reached)
    return any(map(passes().unknown_axes, op.outputs)) and (
        before == 0 or (before > 1 and op.type in _REDUCTIONS)
    )


class Sizes(NamedTuple):
    """The sizes of first axes in a run of a model.

    Args:
        samples: int. The number of samples.
        sizes: Mapping. The sizes by the names of the calls.
    """

    samples: int
    sizes: Mapping[str, int | None]


class PlacesInGraph:
    """Says where the samples are in signals, as far as their graph shows.

    Args:
        batch: Structure of tensors. What the model is run on.
        known: Mapping. The places of some calls, by the name of the call.
        elsewhere: The number of samples of another run, and the sizes of the
            first axes of its signals by the name of the call. Only a graph
            that knows the number of samples needs it. Defaults to none.

    Attributes:
        doubtful: list of str. The names of the calls that are taken to have
            the samples along the first axis, although that has a fixed size or
            may be another axis of unknown size.
    """

    def __init__(
        self,
        batch: Any,
        known: Mapping[str, Place],
        elsewhere: Sizes | None = None,
    ):
        self._known = known
        self._batch = batch
        self._elsewhere = elsewhere or Sizes(0, {})
        self.doubtful: list[str] = []

    def __call__(self, name: str, signal: Tensor) -> Place:
        """Returns the place of the samples in the signal of a call."""
        if name in self._known:
            return self._known[name]
        if self._reach is None:
            return FIRST
        if not self._reach(signal):
            return NONE
        if not self._is_first(name, signal) or self._reach.is_lost(signal):
            self.doubtful.append(name)
        return FIRST

    @functools.cached_property
    def _reach(self) -> Reach | None:
        # Only a graph knows what a tensor was computed from.
        return Reach(self._batch) if passes().knows_graph() else None

    def varies(self, name: str, signal: Tensor) -> bool:
        """Returns whether the first axis depends on the number of samples."""
        size = signal.shape[0]
        return size is None or size != self._elsewhere.sizes.get(name, size)

    def _is_first(self, name: str, signal: Tensor) -> bool:
        """Whether the size of the first axis is the number of samples."""
        size = signal.shape[0]
        return size is None or (
            size == samples_of(self._batch)
            and self._elsewhere.sizes.get(name) == self._elsewhere.samples
        )


def by_sample(signal: Tensor, place: Place) -> Tensor:
    """Returns a signal as a matrix with a row for each sample.

    Args:
        signal: tensor. A floating-point tensor.
        place: SampleAxis or FIRST. Where its samples are.
    """
    if isinstance(place, SampleAxis):
        flat = ops.reshape(signal, (place.before, -1, place.after))
        return ops.reshape(
            ops.transpose(flat, (1, 0, 2)), (-1, place.before * place.after)
        )
    if len(signal.shape) == 2:
        return signal
    units = units_of(signal)
    return ops.reshape(
        signal, (ops.shape(signal)[0], -1 if units is None else units)
    )


def find_places(
    model: keras.Model,
    batches: Iterable[Any],
    selectors: Sequence[Selector],
    names: Collection[str],
    training: bool = False,
) -> tuple[dict[str, Place], bool]:
    """Finds where the samples are in some signals, by running the model.

    With two samples A and B, the model runs on (A, A), (B, B), (A, B) and
    (A, A, A), op by op. A first axis that has as many entries as there are
    samples each time is theirs. Otherwise the signal of (A, B) must be that of
    (A, A) in the numbers of the first sample, and that of (B, B) in all others;
    the first place for which this holds is taken, the batch-major one before
    others. A model that takes a fixed number of samples runs on as many.

    In training mode, statistics of a batch may mix the numbers of samples that
    have a place nonetheless. The place in inference mode is taken then, if the
    signal has the same shape there.

    Args:
        model: keras.Model. Its variables are read, never written.
        batches: Iterable of batches of inputs.
        selectors: Sequence of selectors. Which layers are recorded, so that
            their calls are counted as in the pass that is measured.
        names: Collection of str. The names of the calls to find places for.
        training: bool. Whether to run the model in training mode. Defaults to
            False.

    Returns:
        The place of each name, and whether the two samples differ, without
        which a place is right for these data alone. A name is left out if the
        model cannot be run so.
    """
    first, other, size = _two_samples(batches)
    look = functools.partial(
        _look, model, (first, other), dict.fromkeys((2, size)), selectors
    )
    found = look(names, training)
    if training:
        others = [
            name
            for name in names
            if name not in found or found[name].place == UNKNOWN
        ]
        for name, plain in look(others, False).items():
            if found.get(name, plain).shape == plain.shape:
                found[name] = plain
    places = {name: each.place for name, each in found.items()}
    return places, other is not first


class _Found(NamedTuple):
    """Where the samples are in a signal of some shape."""

    place: Place
    shape: tuple[int, ...]


def _look(
    model: keras.Model,
    samples: tuple[Any, Any],
    counts: Iterable[int],
    selectors: Sequence[Selector],
    names: Collection[str],
    training: bool,
) -> dict[str, _Found]:
    """Finds places from runs of the model on as many samples as it takes."""
    if not names:
        return {}
    first, other = samples
    for count in counts:
        runs: list[dict[str, Any]] = []
        try:
            for parts in (
                [first] * count,
                [other] * count,
                [first] + [other] * (count - 1),
                [first] * (count + 1),
            ):
                batch = map_arrays(lambda *x: passes().joined(x), *parts)
                runs.append(_signals(model, batch, selectors, names, training))
        except Exception:
            # The last run is of no use where the number of samples is fixed.
            if len(runs) < 3:
                continue
            runs.append(dict.fromkeys(names))
        common = set(names).intersection(*map(set, runs))
        return {
            name: _Found(
                _place(count, *(run[name] for run in runs)),
                runs[0][name].shape,
            )
            for name in common
        }
    return {}


def _two_samples(batches: Iterable[Any]) -> tuple[Any, Any, int]:
    """Two samples that differ, if there are, and the size of the first batch.

    Each is a batch of one sample. If all samples are equal, one is returned
    twice.
    """
    first: Any = None
    other: Any = None
    size = most = 0
    for batch in batches:
        leaves = arrays_of(batch)
        if first is None:
            size = len(leaves[0])
            first = other = map_arrays(lambda x: x[:1], batch)
        unequal = [
            _unequal(leaf, one)
            for leaf, one in zip(leaves, arrays_of(first), strict=True)
        ]
        # Inputs that are equal in both samples would tell nothing.
        count = np.sum([each.any(axis=1) for each in unequal], axis=0)
        if count.max() > most:
            most, i = count.max(), int(count.argmax())
            other = map_arrays(lambda x, i=i: x[i : i + 1], batch)
        if most == len(leaves):
            break
    return first, other, size


def _unequal(leaf: Tensor, one: Tensor) -> np.ndarray:
    """Which numbers of each sample differ from those of one sample."""
    leaf, one = passes().to_numpy(leaf), passes().to_numpy(one)
    return (leaf != one).reshape(len(leaf), -1)


def _signals(
    model: keras.Model,
    batch: Any,
    selectors: Sequence[Selector],
    names: Collection[str],
    training: bool,
) -> dict[str, np.ndarray]:
    """The pre-activations of the calls of some names, in float64."""

    def run(batch: Any) -> dict[str, Tensor]:
        signals: dict[str, Tensor] = {}

        def record(call: LayerCall, signal: Tensor) -> Tensor:
            if call.name in names:
                signals[call.name] = ops.cast(signal, backend.widest_float())
            return signal

        with (
            passes().stateless_scope(),
            forward_hooks(
                on_pre_activation=record,
                select=lambda call: matches_any(selectors, call),
            ),
        ):
            model(batch, training=training)
        return signals

    return {
        name: passes().to_numpy(signal).astype(np.float64)
        for name, signal in passes().run_once(run, batch).items()
    }


def _place(
    samples: int,
    first: np.ndarray,
    other: np.ndarray,
    mixed: np.ndarray,
    longer: np.ndarray | None,
) -> Place:
    """The place of the samples in a signal.

    Args:
        samples: int. The number of samples.
        first: array. The signal of as many samples A.
        other: array. The signal of as many samples B.
        mixed: array. The signal of one sample A, and the others B.
        longer: array. The signal of a sample A more; None if there cannot be.
    """
    lengths = [
        x.shape[:1] for x in (first, other, mixed, longer) if x is not None
    ]
    if lengths == [(samples,)] * 3 + [(samples + 1,)]:
        # Samples may have other numbers of units, as texts of many lengths.
        return FIRST
    if not first.size == other.size == mixed.size:
        return UNKNOWN
    # What the first sample does, and what all others do.
    of_first, of_others = ((mixed - x) ** 2 for x in (other, first))
    if of_first.any() or of_others.any():
        for place in _candidates(mixed.shape, samples):
            outside = _split(of_first, samples, place)[1]
            inside = _split(of_others, samples, place)[0]
            limit = _ROUNDING**2
            if (
                outside.sum() <= limit * of_first.sum()
                and inside.sum() <= limit * of_others.sum()
            ):
                return place
        return UNKNOWN
    # The samples have equal signals, so that their parts must be equal.
    if longer is not None and longer.size == mixed.size:
        return NONE
    for place in _candidates(mixed.shape, samples):
        head, rest = _split(mixed, samples, place)
        error = np.abs(rest - head).max(initial=0)
        if error <= _ROUNDING * np.abs(mixed).max(initial=0):
            return place
    return UNKNOWN


def _split(
    signal: np.ndarray, samples: int, place: SampleAxis
) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the first sample, and those of all others."""
    by_place = signal.reshape(place.before, samples, place.after)
    return by_place[:, :1], by_place[:, 1:]


def _candidates(shape: tuple[int, ...], samples: int) -> Iterator[SampleAxis]:
    """The places that the samples may have in a signal.

    The first is that all numbers of a sample are in a row. In the others the
    samples are along one axis, into which other axes may be folded.
    """
    size = int(np.prod(shape))
    if size % samples == 0:
        yield SampleAxis(1, size // samples)
    before = 1
    for length in shape:
        whole, rest = divmod(length, samples)
        if not rest:
            for inner in range(1, whole + 1):
                if whole % inner == 0:
                    outer = before * inner
                    yield SampleAxis(outer, size // (outer * samples))
        before *= length
