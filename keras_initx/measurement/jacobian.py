"""Singular values of the Jacobian of every layer, at given inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_initx import backend
from keras_initx.backend.passes import Tensor, passes
from keras_initx.hooks.forward_hooks import forward_hooks
from keras_initx.inspection.checks import check_call, check_model
from keras_initx.inspection.selection import (
    LayerCall,
    Layers,
    check_all_matched,
    matches_any,
    selectors,
)
from keras_initx.measurement.data import (
    Data,
    arrays_of,
    batches,
    build,
    map_arrays,
    samples_of,
    taken_as_inputs,
)
from keras_initx.measurement.refusals import (
    empty_data,
    mixed_samples,
    no_signal,
    nonfinite,
)
from keras_initx.profile import display
from keras_initx.validation import check_int, refuse

# The number of samples in one pass, as in a usual training step.
_AT_ONCE = 32
# Fewer pass where what is kept of them would take more bytes than the first
# number. The second one is kept in any case: the signals of so many samples,
# with their tangents and in float64, are no more than a step of training with
# 32 samples keeps.
_BYTES, _FEW = 2**26, 4
# A Jacobian of more inputs, or of more entries, is not computed entry by entry.
_EXACT_INPUTS, _EXACT_ENTRIES = 1024, 2**18
_HEADS = (
    "layer",
    "units",
    "mean square",
    "smallest",
    "largest",
    "condition",
)


@dataclass(frozen=True, repr=False, eq=False)
class JacobianProfile:
    """Singular values of the Jacobian of every layer.

    Its `str` is an aligned table, which a notebook shows too. The arrays have a
    number for each layer, in the order in which the model calls them.

    Args:
        layers: tuple of str. The names of the layers.
        inputs: int. The number of entries of one input.
        units: array of int. The number of pre-activations of a layer.
        mean_square: float64 array. The mean of the squared singular values,
            over all of them and all samples. There are min(inputs, units)
            singular values.
        largest: float64 array. The largest singular value of all samples.
        smallest: float64 array. The smallest one.
        condition: float64 array. The largest ratio of the two in one sample;
            inf if the smallest is 0.
        mean_square_error: float64 array. The standard error of `mean_square`,
            0 where it is exact.
        largest_error: float64 array. A singular value lies within this distance
            of `largest`, which is never above the true largest one. 0 where it
            is exact.
        smallest_error: float64 array. The same for `smallest`, which is never
            below the true smallest one.

    Example:

    >>> import keras, keras_initx as kx
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    >>> kx.initialize(model, "identity").seed is None
    False
    >>> profile = kx.measure_jacobian(model, keras.random.normal((2, 4)))
    >>> float(profile.condition[0])
    1.0

    Reference: derived here.
    """

    layers: tuple[str, ...]
    inputs: int
    units: np.ndarray
    mean_square: np.ndarray
    largest: np.ndarray
    smallest: np.ndarray
    condition: np.ndarray
    mean_square_error: np.ndarray
    largest_error: np.ndarray
    smallest_error: np.ndarray

    def __len__(self) -> int:
        return len(self.layers)

    def __repr__(self) -> str:
        return f"<JacobianProfile of {len(self)} layers, {self.inputs} inputs>"

    def __str__(self) -> str:
        return display.text_table(_HEADS, self._cells())

    def _repr_html_(self) -> str:
        return display.html_table(_HEADS, self._cells())

    def _cells(self) -> list[list[str]]:
        def with_error(value: float, error: float) -> str:
            text = display.number(value)
            return f"{text} ± {error:.2g}" if error else text

        return [
            [
                name,
                str(self.units[i]),
                with_error(self.mean_square[i], self.mean_square_error[i]),
                with_error(self.smallest[i], self.smallest_error[i]),
                with_error(self.largest[i], self.largest_error[i]),
                display.number(self.condition[i]),
            ]
            for i, name in enumerate(self.layers)
        ]


def measure_jacobian(
    model: keras.Model,
    data: Data,
    *,
    layers: Layers = None,
    iterations: int = 20,
    probes: int = 16,
    seed: int = 0,
) -> JacobianProfile:
    """Measures the singular values of d layer / d input, at given inputs.

    The Jacobian of a layer is that of its pre-activation, as `measure` defines
    it, with respect to the input of the model: a matrix of (units, inputs) for
    each sample. In a network of relus and other piecewise linear layers it is
    the linear map that the network is around that input. If all its singular
    values are 1, the layer keeps every small difference between inputs, and
    gradients keep their size backward; a large condition number says that some
    directions are lost.

    A Jacobian of at most 2^18 entries and 1024 inputs is computed exactly, and
    decomposed in float64. Otherwise `mean_square` is estimated from products
    with random vectors, and the extreme singular values by the Lanczos
    bidiagonalization of Golub and Kahan, whose `largest` is never too large and
    whose `smallest` is never too small; both come with their errors. Products
    are computed forward and backward through the model, at most 32 samples at
    once and fewer in a large model, so that no more memory is needed than for a
    step of training with 32 samples. Each
    product takes about the time of such a step, without compilation: give few
    samples, and name `layers` of a large model.

    The model runs in inference mode and is left as it was.

    Args:
        model: keras.Model. A model of any kind. It is built here if it is not.
        data: Inputs, as in `measure`: an array of shape `(samples, ...)`, or a
            dict, tuple or list of arrays, of floating-point numbers. All
            samples of arrays are used, and the first batch of a data set.
        layers: Which layers to report, as in `measure`. Defaults to every
            layer that holds a kernel.
        iterations: int. The number of Lanczos steps, at least 1. As many as
            there are singular values make them exact. Defaults to 20.
        probes: int. The number of random vectors for each sample, at least 2.
            Defaults to 16.
        seed: int. The seed of these vectors. Defaults to 0.

    Returns:
        A `JacobianProfile` with a row for each layer.

    Raises:
        ValueError: If the data are not floating-point numbers, hold no
            samples or have another shape than the model's inputs; if `layers`
            selects no layer; if the signal of a layer does not have the samples
            along its first axis or does not depend on the input; if a
            derivative is NaN or inf.

    Example:

    >>> import keras, keras_initx as kx
    >>> layers = [keras.layers.Dense(16, "relu") for _ in range(20)]
    >>> model = keras.Sequential([keras.Input((8,)), *layers])
    >>> x = keras.random.normal((2, 8), seed=0)
    >>> done = kx.initialize(model, kx.paired(model), seed=0)
    >>> profile = measure_jacobian(model, x, layers=layers[-1])
    >>> float(profile.smallest[0].round(3)), float(profile.largest[0].round(3))
    (1.0, 1.0)

    Reference: Pennington, Schoenholz & Ganguli, NeurIPS 30 (2017),
    arXiv:1711.04735, for the distribution of these singular values; Golub &
    Kahan, SIAM J. Numer. Anal. 2 (1965), for the bidiagonalization. Riedi,
    Balestriero & Baraniuk, arXiv:2203.03099, study the same matrix as the
    local linear map of a network with skip connections.
    """
    check_model(model)
    check_call(model)
    iterations = check_int("iterations", iterations, 1)
    probes = check_int("probes", probes, 2)
    seed = check_int("seed", seed, 0)
    batch = _first_batch(model, data)
    maps = _LocalMaps(model, batch, selectors(layers))
    exact = [
        maps.inputs <= _EXACT_INPUTS and maps.inputs * n <= _EXACT_ENTRIES
        for n in maps.units
    ]
    rows: list[_Row | None] = [None] * len(maps.names)
    chosen = [i for i, is_exact in enumerate(exact) if is_exact]
    for i, row in zip(chosen, _exact_rows(maps, chosen), strict=True):
        rows[i] = row
    chosen = [i for i, is_exact in enumerate(exact) if not is_exact]
    random = np.random.default_rng(seed)
    estimates = _estimated_rows(maps, chosen, iterations, probes, random)
    for i, row in zip(chosen, estimates, strict=True):
        rows[i] = row
    columns = np.array([row for row in rows if row is not None]).T
    return JacobianProfile(
        tuple(maps.names), maps.inputs, np.array(maps.units), *columns
    )


def _first_batch(model: keras.Model, data: Data) -> Any:
    is_set = (
        backend.is_dataset(data)
        or backend.is_loader(data)
        or isinstance(data, keras.utils.PyDataset)
    )
    all_batches = batches(data, None if is_set else 2**30, None, model)
    build(model, all_batches)
    batch = next(iter(all_batches), None)
    if batch is None:
        raise empty_data()
    for array in arrays_of(batch):
        if not backend.is_floating_tensor(array):
            name = keras.backend.standardize_dtype(array.dtype)
            refuse(
                "data must be floating-point numbers, by which a signal can be "
                "differentiated. For whole numbers or text, measure a model of "
                "the layers behind the embedding.",
                data=f"an array of dtype {name}",
            )
    return map_arrays(lambda a: ops.cast(a, "float32"), batch)


class _Row(NamedTuple):
    """The numbers of one layer, in the order of `JacobianProfile`."""

    mean_square: float
    largest: float
    smallest: float
    condition: float
    mean_square_error: float = 0.0
    largest_error: float = 0.0
    smallest_error: float = 0.0


@dataclass
class _LocalMaps:
    """Products with the Jacobians of all layers at a batch of inputs.

    Attributes:
        model: The model.
        batch: The inputs.
        chosen: The selectors of the layers.
        names: The names of the layers' calls.
        units: The number of pre-activations of each.
        shapes: The shape of those of one sample.
        dtypes: The dtype of each signal.
        inputs: The number of numbers in one input.
    """

    model: keras.Model
    batch: Any
    chosen: Sequence[Any]
    names: list[str] = field(default_factory=list)
    units: list[int] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    inputs: int = 0
    # What was compiled, if the backend compiles.
    _known: dict[Any, Callable[..., Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        leaves = arrays_of(self.batch)
        self.inputs = sum(int(np.prod(a.shape[1:])) for a in leaves)
        few = [0] * min(2, samples_of(self.batch))
        with taken_as_inputs(self.model, self.batch):
            signals = self._signals(self._at(few))
        mixed = [n for n, s in signals if s.shape[0] != len(few)]
        if mixed:
            raise mixed_samples(mixed)
        self.names = [name for name, _ in signals]
        self.shapes = [tuple(s.shape[1:]) for _, s in signals]
        self.units = [int(np.prod(shape)) for shape in self.shapes]
        self.dtypes = [
            keras.backend.standardize_dtype(s.dtype) for _, s in signals
        ]

    def groups(
        self,
        items: Sequence[Any],
        size: Callable[[Any], int] = lambda item: 0,
    ) -> Iterator[Sequence[Any]]:
        """Yields as many items as may pass through the model at once.

        Args:
            items: Whatever has a sample each.
            size: Called with an item, returns how many numbers in float64 are
                kept of it besides its signals.
        """
        total = 8 * sum(self.units)
        limit = max(_BYTES, _FEW * total)
        # In float32, signals and their tangents are as large as in float64.
        costs = [total + 8 * size(item) for item in items]
        start = 0
        while start < len(items):
            end, cost = start, 0
            while end < min(len(items), start + _AT_ONCE) and (
                end == start or cost + costs[end] <= limit
            ):
                cost += costs[end]
                end += 1
            yield items[start:end]
            start = end

    def push(
        self, samples: Sequence[int], tangents: np.ndarray, rows: Sequence[int]
    ) -> list[np.ndarray]:
        """The products J v of some layers.

        Args:
            samples: The sample of each vector.
            tangents: The vectors, of shape (vectors, inputs).
            rows: The layers.

        Returns:
            For each layer an array of shape (vectors, units).
        """
        leaves = arrays_of(self._at(samples))
        products = passes().run_again(
            self._known,
            ("push", tuple(rows)),
            functools.partial(passes().push, self._of_rows(rows)),
            leaves,
            self._split(tangents, leaves),
        )
        return list(map(self._flat, products, rows))

    def pull(
        self,
        samples: Sequence[int],
        rows: Sequence[int],
        cotangents: Sequence[np.ndarray],
    ) -> np.ndarray:
        """The products J^T u of one layer for each sample.

        Args:
            samples: The sample of each vector.
            rows: The layer of each vector.
            cotangents: The vectors, each of the size of its layer.

        Returns:
            An array of shape (vectors, inputs).
        """
        leaves = arrays_of(self._at(samples))
        own = sorted(set(rows))
        targets: list[Tensor] = []
        for row in own:
            values = np.zeros((len(rows), self.units[row]), np.float32)
            for i, vector in enumerate(cotangents):
                if rows[i] == row:
                    values[i] = vector
            shape = (len(rows), *self.shapes[row])
            target = ops.convert_to_tensor(values.reshape(shape))
            targets.append(ops.cast(target, self.dtypes[row]))
        made = passes().run_again(
            self._known,
            ("pull", tuple(own)),
            functools.partial(passes().pull, self._of_rows(own)),
            leaves,
            targets,
        )
        flat = [
            np.zeros((len(rows), int(np.prod(leaf.shape[1:]))))
            if one is None
            else passes().to_numpy(one).reshape(len(rows), -1).astype(float)
            for one, leaf in zip(made, leaves, strict=True)
        ]
        return np.concatenate(flat, axis=1)

    def _of_rows(
        self, rows: Sequence[int]
    ) -> Callable[[list[Tensor]], list[Tensor]]:
        """The signals of some layers as a function of the inputs' arrays."""

        def run(leaves: list[Tensor]) -> list[Tensor]:
            left = iter(leaves)
            batch = map_arrays(lambda _: next(left), self.batch)
            signals = self._signals(batch)
            return [signals[row][1] for row in rows]

        return run

    def _signals(self, batch: Any) -> list[tuple[str, Tensor]]:
        """The pre-activations of the chosen layers, by name."""
        ran: list[LayerCall] = []
        signals: list[tuple[str, Tensor]] = []

        def select(call: LayerCall) -> bool:
            ran.append(call)
            return matches_any(self.chosen, call)

        def keep(call: LayerCall, signal: Tensor) -> Tensor:
            if backend.is_floating_tensor(signal):
                signals.append((call.name, signal))
            return signal

        hooks = forward_hooks(on_pre_activation=keep, select=select)
        # What the model would assign is dropped.
        with passes().stateless_scope(), hooks:
            self.model(batch, training=False)
        check_all_matched(self.chosen, ran)
        if not signals:
            raise no_signal(ran)
        return signals

    def _at(self, samples: Sequence[int]) -> Any:
        index = list(samples)
        return map_arrays(lambda a: ops.take(a, index, axis=0), self.batch)

    def _split(self, vectors: np.ndarray, leaves: list[Any]) -> list[Any]:
        sizes = np.cumsum([int(np.prod(a.shape[1:])) for a in leaves])
        parts = np.split(vectors.astype(np.float32), sizes[:-1], axis=1)
        return [
            ops.convert_to_tensor(part.reshape(leaf.shape))
            for part, leaf in zip(parts, leaves, strict=True)
        ]

    def _flat(self, product: Any, row: int) -> np.ndarray:
        name = self.names[row]
        if product is None:
            raise ValueError(
                "Each layer must depend on the input of the model, by "
                "operations that have a derivative; leave others out through "
                f"`layers`. Received: layer {name!r}"
            )
        product = ops.cast(product, "float32")
        values = passes().to_numpy(product).astype(np.float64)
        if not np.isfinite(values).all():
            raise nonfinite(f"in the Jacobian of layer {name!r}")
        return values.reshape(len(values), -1)


def _exact_rows(maps: _LocalMaps, rows: list[int]) -> Iterator[_Row]:
    """The rows of layers whose Jacobians are small."""
    if not rows:
        return
    samples = samples_of(maps.batch)
    parts: list[list[np.ndarray]] = [[] for _ in rows]
    for group in maps.groups(range(samples * maps.inputs)):
        tangents = np.zeros((len(group), maps.inputs))
        tangents[np.arange(len(group)), np.array(group) % maps.inputs] = 1
        products = maps.push([c // maps.inputs for c in group], tangents, rows)
        for part, product in zip(parts, products, strict=True):
            part.append(product)
    for part in parts:
        columns = np.concatenate(part).reshape(samples, maps.inputs, -1)
        values = np.linalg.svd(columns, compute_uv=False)
        yield _Row(
            np.mean(values**2),
            values[:, 0].max(),
            values[:, -1].min(),
            _condition(values[:, 0], values[:, -1]),
        )


def _estimated_rows(
    maps: _LocalMaps,
    rows: list[int],
    iterations: int,
    probes: int,
    random: np.random.Generator,
) -> Iterator[_Row]:
    """The rows of layers whose Jacobians are too large to be computed."""
    if not rows:
        return
    samples = samples_of(maps.batch)
    squares: list[list[np.ndarray]] = [[] for _ in rows]
    for group in maps.groups(range(samples * probes)):
        signs = random.choice([-1.0, 1.0], (len(group), maps.inputs))
        products = maps.push([i // probes for i in group], signs, rows)
        for square, product in zip(squares, products, strict=True):
            square.append(np.sum(product**2, axis=1))
    problems = [
        _Bidiagonalization(maps, row, sample, iterations, random)
        for row in rows
        for sample in range(samples)
    ]
    found: list[tuple[float, float, float, float]] = []
    for group in maps.groups(problems, lambda problem: problem.size):
        for _ in range(max(p.steps for p in group)):
            _advance(maps, group)
        for problem in group:
            found.append(problem.extremes())
            problem.release()
    for i, row in enumerate(rows):
        extremes = found[i * samples : (i + 1) * samples]
        largest = max(extremes, key=lambda e: e[0])
        smallest = min(extremes, key=lambda e: e[2])
        count = min(maps.inputs, maps.units[row])
        values = np.concatenate(squares[i]) / count
        yield _Row(
            values.mean(),
            largest[0],
            smallest[2],
            _condition(
                np.array([e[0] for e in extremes]),
                np.array([e[2] for e in extremes]),
            ),
            values.std(ddof=1) / np.sqrt(len(values)),
            largest[1],
            smallest[3],
        )


def _condition(largest: np.ndarray, smallest: np.ndarray) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(smallest > 0, largest / smallest, np.inf)
    return float(ratios.max())


class _Bidiagonalization:
    """Golub-Kahan-Lanczos steps for one layer and one sample.

    It starts on the side with fewer dimensions, where no direction is lost
    because of the shape: with A = J, or its transpose,

        A v_j = beta_(j-1) u_(j-1) + alpha_j u_j
        A^T u_j = alpha_j v_j + beta_j v_(j+1)
    """

    def __init__(
        self,
        maps: _LocalMaps,
        row: int,
        sample: int,
        iterations: int,
        random: np.random.Generator,
    ):
        self.row, self.sample = row, sample
        self.forward = maps.inputs <= maps.units[row]
        size = min(maps.inputs, maps.units[row])
        self.steps = min(iterations, size)
        self.size = self.steps * (maps.inputs + maps.units[row])
        self.vector = _unit(random.normal(size=size))[0]
        self.left: list[np.ndarray] = []
        self.right = [self.vector]
        self.alpha: list[float] = []
        self.beta: list[float] = []

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        zero = bool(self.beta) and self.beta[-1] == 0
        return zero or len(self.beta) == self.steps

    def take(self, product: np.ndarray) -> None:
        """Takes the product with the latest vector, on either side."""
        basis = self.left if len(self.left) < len(self.right) else self.right
        # Twice, so that rounding leaves nothing of the others.
        for _ in range(2):
            for other in basis:
                product = product - (other @ product) * other
        unit, size = _unit(product)
        scale = max([*self.alpha, *self.beta, 0.0])
        # The product is made in float32.
        size = size if size > 1e-6 * scale else 0.0
        (self.alpha if basis is self.left else self.beta).append(size)
        basis.append(unit)
        self.vector = unit

    def release(self) -> None:
        """Drops the vectors of both bases, which need much memory."""
        self.left, self.right = [], []

    def extremes(self) -> tuple[float, float, float, float]:
        """The largest singular value and its error, the smallest, its error."""
        n = len(self.alpha)
        matrix = np.diag(self.alpha) + np.diag(self.beta[: n - 1], 1)
        left, values, _ = np.linalg.svd(matrix)
        errors = self.beta[n - 1] * np.abs(left[-1])
        return values[0], errors[0], values[-1], errors[-1]


def _advance(maps: _LocalMaps, group: Sequence[_Bidiagonalization]) -> None:
    """One step of each problem: a product with A, and one with A^T."""
    running = [problem for problem in group if not problem.is_done]
    for first in (True, False):
        pushed = [p for p in running if p.forward == first]
        pulled = [p for p in running if p.forward != first]
        if pushed:
            rows = sorted({p.row for p in pushed})
            products = maps.push(
                [p.sample for p in pushed],
                np.stack([p.vector for p in pushed]),
                rows,
            )
            for i, problem in enumerate(pushed):
                problem.take(products[rows.index(problem.row)][i])
        if pulled:
            values = maps.pull(
                [p.sample for p in pulled],
                [p.row for p in pulled],
                [p.vector for p in pulled],
            )
            for problem, value in zip(pulled, values, strict=True):
                problem.take(value)


def _unit(vector: np.ndarray) -> tuple[np.ndarray, float]:
    size = float(np.linalg.norm(vector))
    return (vector / size if size else vector), size
