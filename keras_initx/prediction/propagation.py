"""What the rules of layers call: the steps that a signal can take.

A step reads the variance of its weights, translates the positions of one sample
to points of all samples, and calls the operation of the engine. `Propagation`
also keeps the stack of running layers, from which it names the rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from scipy import sparse

from keras_initx.inspection.layer_rule import layer_rule, measured_by_default
from keras_initx.inspection.selection import LayerCall, names_inside
from keras_initx.prediction.elementwise import Elementwise, from_activation
from keras_initx.prediction.engine import Engine, Signal, Weight
from keras_initx.prediction.moment_tensor import MomentTensor
from keras_initx.prediction.refusals import Unpredictable
from keras_initx.prediction.weights import (
    Process,
    Source,
    WeightMoments,
    depth_process,
    value_moments,
    weight_entries,
    weight_moments,
)

# A logit |e|^2 of a token's own embedding e has the square (n var(e))^2, where
# all m logits have the mean square n var(e)^2: (n - 1) / m more.
_COMPUTED = (
    "its weights are computed from others, of which they are taken to be "
    "independent; if these are the embedding of its own input, its total is up "
    "to {:.2g}% higher"
)
# The largest number of entries of a matrix over points that is not sparse.
_DENSE = 2**22
# A larger window in an image of many positions would be drawn for minutes.
_LARGEST_WINDOW = 1536
_MIXES = "softmax and its like mix the units of a layer"


@dataclass
class Frame:
    """A layer that is running.

    Attributes:
        call: LayerCall. The layer and its full name.
        path: tuple of str. The names from the model to the layer.
        selected: bool. Whether the layer is to be a row.
        stands_for_inner: bool. Whether the layers inside it are to be rows,
            since `layers=` selects it or a layer around it.
        training: bool. Whether it runs in training mode.
        recorded: bool. Whether its pre-activation has been seen.
        recorded_inner: bool. Whether the pre-activation of a layer inside it
            has been seen.
    """

    call: LayerCall
    path: tuple[str, ...]
    selected: bool
    stands_for_inner: bool
    training: bool
    recorded: bool = False
    recorded_inner: bool = False


@dataclass
class PredictedRow:
    """A row before its moments are computed.

    Attributes:
        name: str. The name, as `measure` gives it.
        tensor: MomentTensor. The pre-activation.
        sources: list of Signals. What it consists of: the signal of the tensor,
            or those of all steps of a loop. Its gradient is theirs.
        call: LayerCall. The layer, which a refusal of its moments names.
    """

    name: str
    tensor: MomentTensor
    sources: list[Signal]
    call: LayerCall


class Loop:
    """A layer that runs others once a time step, such as `RNN`.

    Args:
        steps: Propagation. The steps.
    """

    def __init__(self, steps: Propagation):
        self.steps = steps
        self.kept: list[np.ndarray] = []
        self.recorded: list[list[PredictedRow]] = []
        self.masks: dict[Hashable, Signal] = {}

    def next_step(self, kept: np.ndarray) -> None:
        """Begins a time step, which counts for the samples `kept`."""
        self.kept.append(kept)
        self.recorded.append([])

    def add_rows(self, all_steps: bool, zero_masked: bool) -> None:
        """Ends the loop, with a row for each layer: all steps, or the last.

        The gradient of a row is that of all steps in both cases. Where a step
        does not count for a sample, that of the step before is taken, or 0 with
        `zero_masked`, as `measure` does.
        """
        steps = self.steps
        steps.loops.pop()
        for step in zip(*self.recorded, strict=True):
            tensors: list[MomentTensor] = []
            sources = [s for row in step for s in row.sources]
            for kept, row in zip(self.kept, step, strict=True):
                x = row.tensor
                if not kept.all():
                    before = (
                        tensors[-1]
                        if tensors and not zero_masked
                        else steps.zeros(x.positions, x.width)
                    )
                    x = steps.choose(kept, x, before)
                tensors.append(x)
            whole = steps.stack(tensors) if all_steps else tensors[-1]
            steps.add_row(step[0].call, whole, sources)


@dataclass
class Propagation:
    """The steps that a signal can take through a model.

    A rule that `register_propagation` registers is called with it. Its methods
    take and return tensors of moments.

    Attributes:
        engine: Engine. What computes the steps.
        samples: int. The number of samples.
        source: str. "present" or "initial" weights, as in `predict`.
        select: callable. Whether a `LayerCall` is to be a row.
        rows: list of PredictedRow. The pre-activations so far.
        frames: list of Frame. The running layers, the innermost one last.
        counts: dict. The number of rows of each name so far.
        keep: list. Weights and arrays whose `id` is a family. They are kept in
            memory, since a later object could have the same `id`.
        functions: dict. The elementwise function of each activation so far, by
            its `id`.
        loops: list of Loop. The running loops over time, the innermost one
            last.
        white_noise: bool. Whether the inputs are white noise.
    """

    engine: Engine
    samples: int
    source: Source = "present"
    select: Callable[[LayerCall], bool] = lambda call: measured_by_default(
        call.layer
    )
    rows: list[PredictedRow] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    keep: list[Any] = field(default_factory=list)
    functions: dict[int, Any] = field(default_factory=dict)
    loops: list[Loop] = field(default_factory=list)
    white_noise: bool = False

    # ---- the layers that run ----------------------------------------------

    @property
    def training(self) -> bool:
        """Whether the running layer is in training mode."""
        return self.frames[-1].training

    def enter(self, layer: keras.layers.Layer, training: bool | None) -> Frame:
        """Puts a layer on the stack of running layers."""
        outer = self.frames[-1] if self.frames else None
        path = (
            names_inside(outer.path, outer.call.layer, layer) if outer else ()
        )
        call = LayerCall("/".join(path) or layer.name, layer)
        selected = self.select(call)
        inside = bool(outer and outer.stands_for_inner)
        stands = selected or inside
        if training is None:
            training = bool(outer and outer.training)
        frame = Frame(
            call,
            path,
            selected or (stands and measured_by_default(layer)),
            stands,
            bool(training),
        )
        self.frames.append(frame)
        self.engine.layer_call = call
        return frame

    def leave(self, output: Any) -> None:
        """Takes the running layer off the stack, with what it returned."""
        frame = self.frames[-1]
        layer = frame.call.layer
        if (
            frame.selected
            and not frame.recorded
            and (measured_by_default(layer) or not frame.recorded_inner)
        ):
            for leaf in keras.tree.flatten(output):
                if isinstance(leaf, MomentTensor):
                    self.record(leaf)
                    break
        self.frames.pop()
        self.engine.layer_call = self.frames[-1].call if self.frames else None
        if self.frames and (frame.recorded or frame.recorded_inner):
            self.frames[-1].recorded_inner = True

    def record(self, x: MomentTensor) -> None:
        """Makes a tensor the pre-activation of the running layer."""
        frame = self.frames[-1]
        if frame.recorded:
            return
        frame.recorded = True
        if not frame.selected:
            return
        self.add_row(frame.call, x)

    def add_row(
        self,
        call: LayerCall,
        x: MomentTensor,
        sources: list[Signal] | None = None,
    ) -> None:
        """Adds a row; the second one of a name has ":2" behind it."""
        sources = [x.signal] if sources is None else sources
        if self.loops:
            row = PredictedRow(call.name, x, sources, call)
            self.loops[-1].recorded[-1].append(row)
            return
        count = self.counts[call.name] = self.counts.get(call.name, 0) + 1
        name = call.name if count == 1 else f"{call.name}:{count}"
        self.rows.append(PredictedRow(name, x, sources, call))

    @contextlib.contextmanager
    def in_loop(self) -> Iterator[Loop]:
        """The context of a loop over time steps; rows are those of its steps.

        `Loop.add_rows` adds them to the rows around the loop.
        """
        loop = Loop(self)
        self.loops.append(loop)
        try:
            yield loop
        finally:
            if self.loops and self.loops[-1] is loop:
                self.loops.pop()

    # ---- steps ------------------------------------------------------------

    def linear(
        self,
        x: MomentTensor,
        kernel: Any,
        bias: Any = None,
        *,
        outputs: int | tuple[int, ...],
        layer: keras.layers.Layer | None = None,
        name: str = "kernel",
        part: Any = (),
        taps: list[np.ndarray] | None = None,
        positions: tuple[int, ...] | None = None,
        inputs: int | None = None,
        fan_out: int | None = None,
        reasons: Sequence[str] = (),
    ) -> MomentTensor:
        """A random linear map of the channels, and a bias.

            E u_i u_j = inputs var(W) sum over taps o of E h_o(i) h_o(j)
                        + var(b)

        where o(i) is the point that the output i reads by the tap o.

        Args:
            x: MomentTensor. What is mapped.
            kernel: keras.Variable. The weights W.
            bias: keras.Variable or None. The bias b. Defaults to None.
            outputs: int or tuple of ints. The channels of the result.
            layer: keras.layers.Layer. The layer that holds the weights, whose
                initializers `weights="initial"` reads. Defaults to the running
                layer.
            name: str. The name of the kernel in the layer. Defaults to
                "kernel".
            part: slice or tuple. The index of the part of the kernel that is
                used, such as that of one gate. Defaults to all of it.
            taps: list of arrays. For each entry of a window, which position
                each position of the result reads, -1 for none. Defaults to one
                tap, the position itself.
            positions: tuple of ints. The axes of positions of the result.
                Defaults to those of x.
            inputs: int. The channels that an output sums. Defaults to all.
            fan_out: int. The outputs that a channel feeds, for each tap.
                Defaults to all.
            reasons: Sequence of str. What the result is not exact for.

        Returns:
            MomentTensor.

        Reference: Poole et al., arXiv:1606.05340; for windows Novak et al.,
        arXiv:1810.05148, and Xiao et al., arXiv:1806.05393.
        """
        self.check(x)
        moments = self._random_weight(kernel, layer, name, part)
        channels = (outputs,) if isinstance(outputs, int) else outputs
        count = math.prod(channels)
        process = self._process(kernel, layer, name)
        weight = Weight(
            self._family(kernel, part) if process is None else process.name,
            moments.variance,
            x.width if inputs is None else inputs,
            count if fan_out is None else fan_out,
            *(() if process is None else process[1:]),
        )
        places = x.positions if positions is None else positions
        if not isinstance(kernel, keras.Variable):
            more = 100 * (x.width - 1) / count
            reasons = (*reasons, _COMPUTED.format(more))
        spread = None if taps is None else self._per_sample(taps, x)
        size = x.signal.size
        if spread is not None:
            size = len(spread[0])
        signal = self.engine.linear(
            x.signal, weight, spread, size, count, reasons
        )
        u = x.like(signal, positions=places, channels=channels)
        return u if bias is None else self.add_bias(u, bias, layer)

    def weigh_channels(
        self,
        x: MomentTensor,
        kernel: Any,
        bias: Any = None,
        *,
        name: str,
        taps: list[np.ndarray],
        positions: tuple[int, ...],
    ) -> MomentTensor:
        """A random linear map of each channel by itself, and a bias.

            u_i = sum over taps o of w_o h_o(i) + b

        with own weights w for each channel, where o(i) is the point that the
        output i reads by the tap o. As few weights decide about a channel, and
        come back in its gradient, they stay variables.

        Args:
            x: MomentTensor. What is mapped.
            kernel: keras.Variable. The weights, of the running layer.
            bias: keras.Variable or None. The bias. Defaults to None.
            name: str. The name of the kernel in the layer.
            taps: list of arrays. As in `linear`.
            positions: tuple of ints. The axes of positions of the result.
        """
        self.check(x)
        variance = self._random_weight(kernel, None, name).variance
        initializer = getattr(
            self.frames[-1].call.layer, f"{name}_initializer", None
        )
        entries = weight_entries(kernel, initializer, self.source)
        family = self._family(kernel, ())
        terms = []
        for number, tap in enumerate(self._per_sample(taps, x)):
            if (tap < 0).all():
                continue
            read = self.engine.take(x.signal, tap)
            weight = self.engine.new_vector(
                ("tap", number, family),
                variance,
                read.size,
                x.width,
                entries,
            )
            terms.append(self.engine.multiply(read, weight))
        signal = self.engine.add(terms, [1.0] * len(terms))
        u = x.like(signal, positions=positions)
        return u if bias is None else self.add_bias(u, bias)

    def add_bias(
        self,
        x: MomentTensor,
        bias: Any,
        layer: keras.layers.Layer | None = None,
        name: str = "bias",
        part: Any = (),
    ) -> MomentTensor:
        """The sum of a tensor and a bias, one number for each channel.

        Args:
            x: MomentTensor. The tensor.
            bias: keras.Variable. The bias.
            layer: keras.layers.Layer. As in `linear`.
            name: str. The name of the bias in the layer. Defaults to "bias".
            part: slice or tuple. As in `linear`.
        """
        mean, variance = self.weight(bias, layer, name, part)
        signal = x.signal
        if variance:
            vector = self.engine.new_vector(
                ("vector", self._family(bias, part)),
                variance,
                signal.size,
                signal.width,
            )
            signal = self.engine.add([signal, vector], [1.0, 1.0])
        if mean:
            signal = self.engine.shift(signal, mean)
        return x.like(signal)

    def scale_channels(
        self,
        x: MomentTensor,
        scale: Any,
        layer: keras.layers.Layer | None = None,
        name: str = "gamma",
    ) -> MomentTensor:
        """The product of a tensor and a weight, one number a channel or one."""
        mean, variance = self.weight(scale, layer, name)
        if not variance:
            return x.like(self.engine.add([x.signal], [mean]))
        return self.multiply(x, scale)

    def activate(self, layer: keras.layers.Layer, x: MomentTensor) -> Any:
        """The output of a layer's attribute `activation`, after its row."""
        self.record(x)
        activation = getattr(layer, "activation", None)
        return self.apply(activation, x)

    def apply(self, activation: Any, x: MomentTensor) -> MomentTensor:
        """An activation of Keras, or any callable, of a tensor."""
        if activation is None or activation is keras.activations.linear:
            return x
        self.check(x)
        function = self.function_of(activation)
        if function is None:
            return self.unknown(x.shape, _MIXES)
        return self.elementwise(function, x)

    def function_of(self, activation: Any) -> Elementwise | None:
        """The function of an activation, the same object at each call."""
        if id(activation) not in self.functions:
            self.keep.append(activation)
            self.functions[id(activation)] = from_activation(activation)
        return self.functions[id(activation)]

    def sampled(self, x: MomentTensor) -> MomentTensor:
        """The same tensor, whose moments are those of drawn channels.

        It keeps short what a step has to compute that depends on the step
        before, as in a recurrent layer.
        """
        self.check(x)
        return x.like(self.engine.sampled(x.signal))

    def stop_gradient(self, x: MomentTensor) -> MomentTensor:
        """The same tensor, behind which there is no gradient."""
        scores = x.scores
        if scores is not None:
            query, key, mask = scores
            scores = self.stop_gradient(query), self.stop_gradient(key), mask
        return x.like(
            self.engine.stop_gradient(x.signal),
            values=x.values,
            reason=x.reason,
            mask=x.mask,
            scores=scores,
        )

    def elementwise(
        self, function: Elementwise | Callable[..., Any], *tensors: Any
    ) -> MomentTensor:
        """A function that acts on each entry alone.

        Args:
            function: callable. From tensors to one.
            *tensors: MomentTensors or arrays, which are broadcast.
        """
        if not isinstance(function, Elementwise):
            function = Elementwise(function, arity=len(tensors))
        xs = self.broadcast(tensors)
        signal = self.engine.map(function, [x.signal for x in xs])
        return xs[0].like(signal)

    def add(
        self, tensors: Sequence[Any], factors: Sequence[float] | None = None
    ) -> MomentTensor:
        """A sum of tensors, arrays and numbers, each times a factor.

        A number, or an array that is the same in all channels, only shifts the
        mean of a tensor. Another array is a signal with given values.
        """
        factors = [1.0] * len(tensors) if factors is None else list(factors)
        constants = [t for t in tensors if not isinstance(t, MomentTensor)]
        if len(constants) == 1 and len(tensors) == 2:
            (i,) = (
                i for i, t in enumerate(tensors) if isinstance(t, MomentTensor)
            )
            x, value = tensors[i], _uniform(constants[0], tensors[i])
            if value is not None:
                self.check(x)
                signal = x.signal
                if factors[i] != 1:
                    signal = self.engine.add([signal], [factors[i]])
                constant = factors[1 - i] * self._points(value, x)
                return x.like(self.engine.shift(signal, constant))
        xs = self.broadcast(tensors)
        signal = self.engine.add([x.signal for x in xs], factors)
        return xs[0].like(signal)

    def multiply(self, x: Any, y: Any) -> MomentTensor:
        """The product of two tensors, or of a tensor and an array."""
        if not isinstance(x, MomentTensor):
            x, y = y, x
        if not isinstance(y, MomentTensor):
            value = _uniform(y, x)
            if value is not None:
                self.check(x)
                factor = self._points(value, x)
                if np.ndim(factor) == 0:
                    factor = float(factor)
                return x.like(self.engine.add([x.signal], [factor]))
        a, b = self.broadcast([x, y])
        return a.like(self.engine.multiply(a.signal, b.signal))

    def take(
        self,
        x: MomentTensor,
        index: np.ndarray,
        positions: tuple[int, ...],
    ) -> MomentTensor:
        """The values at other positions.

        Args:
            x: MomentTensor. The tensor.
            index: int array. Which position of x each position of the result
                has, counted through all axes of positions. -1 gives 0.
            positions: tuple of ints. The axes of positions of the result.
        """
        self.check(x)
        (spread,) = self._per_sample([np.asarray(index).ravel()], x)
        return x.like(self.engine.take(x.signal, spread), positions=positions)

    def given(self, values: np.ndarray) -> MomentTensor:
        """A tensor of given values, the first axis of which is the samples."""
        self.keep.append(values)
        return given_tensor(self.engine, values)

    def zeros(self, positions: tuple[int, ...], width: int) -> MomentTensor:
        """A tensor of zeros."""
        size = self.samples * math.prod(positions)
        signal = self.engine.constant(np.zeros(size), width)
        return MomentTensor(signal, self.samples, positions, (width,))

    def stack(self, tensors: Sequence[MomentTensor]) -> MomentTensor:
        """Tensors of one shape along a new first axis of positions."""
        first, time = tensors[0], len(tensors)
        samples = 1 if first.samples is None else first.samples
        grid = (samples, time, first.places)
        index = np.arange(math.prod(grid)).reshape(grid)
        signal = self.engine.stack(
            [x.signal for x in tensors],
            [index[:, t].ravel() for t in range(time)],
            index.size,
        )
        return first.like(signal, positions=(time, *first.positions))

    def choose(
        self, keep: np.ndarray, x: MomentTensor, y: MomentTensor
    ) -> MomentTensor:
        """The values of x for some of the samples, those of y for others.

        Args:
            keep: Array of bool. The samples that have the values of x.
            x: MomentTensor. A tensor.
            y: MomentTensor. A tensor of the same shape.
        """
        if keep.all():
            return x
        if not keep.any():
            return y
        points = np.repeat(keep, x.places)
        at = [np.flatnonzero(points), np.flatnonzero(~points)]
        signals = [
            self.engine.take(tensor.signal, index)
            for tensor, index in zip((x, y), at, strict=True)
        ]
        return x.like(self.engine.stack(signals, at, x.signal.size))

    def mix(
        self,
        x: MomentTensor,
        matrix: np.ndarray,
        positions: tuple[int, ...],
    ) -> MomentTensor:
        """A matrix times the values at all positions of each channel.

        Args:
            x: MomentTensor. The tensor.
            matrix: Array or sparse array of SciPy, of shape `(positions of the
                result, positions of x)`.
            positions: tuple of ints. The axes of positions of the result.
        """
        self.check(x)
        count = 1 if x.samples is None else x.samples
        whole = sparse.kron(sparse.eye_array(count), matrix).tocsr()
        # A matrix of many positions stays sparse.
        if math.prod(whole.shape) <= _DENSE:
            whole = whole.toarray()
        return x.like(self.engine.mix(x.signal, whole), positions=positions)

    def largest(
        self,
        x: MomentTensor,
        taps: list[np.ndarray],
        positions: tuple[int, ...],
    ) -> MomentTensor:
        """The largest value over the part of a window that is inside.

        Args:
            x: MomentTensor. The tensor.
            taps: list of int arrays. As in `linear`.
            positions: tuple of ints. The axes of positions of the result.
        """
        self.check(x)
        if not positions or len(taps) > _LARGEST_WINDOW:
            self.engine.check_maximum(x.signal)
        spread = self._per_sample(taps, x)
        return x.like(
            self.engine.largest(x.signal, spread), positions=positions
        )

    def normalize(
        self,
        x: MomentTensor,
        epsilon: float,
        *,
        center: bool,
        over_positions: bool = False,
    ) -> MomentTensor:
        """A tensor normalized over channels, and over positions if wanted."""
        self.check(x)
        groups = np.arange(x.signal.size)
        if over_positions:
            groups = groups // x.places
        return x.like(self.engine.normalize(x.signal, groups, center, epsilon))

    def normalize_channels(
        self, x: MomentTensor, epsilon: float
    ) -> MomentTensor:
        """A tensor of which each channel is normalized over the batch."""
        self.check(x)
        return x.like(self.engine.normalize_channels(x.signal, epsilon))

    def concatenate(
        self, tensors: Sequence[MomentTensor], axis: int
    ) -> MomentTensor:
        """Tensors joined along the channels, or along an axis of positions."""
        first = tensors[0]
        for x in tensors:
            self.check(x)
        rank = len(first.shape)
        axis %= rank
        lead = 0 if first.samples is None else 1
        place = axis - lead
        if any(len(x.channels) != 1 for x in tensors):
            raise Unpredictable(
                "it joins tensors that have several axes of channels"
            )
        if axis == rank - 1:
            signal = self.engine.concatenate([x.signal for x in tensors])
            return first.like(signal, channels=(signal.width,))
        if place < 0:
            raise Unpredictable("it joins tensors along their samples")
        sizes = [x.positions[place] for x in tensors]
        grid = list(first.positions)
        grid[place] = sum(sizes)
        parts, start = [], 0
        for x, size in zip(tensors, sizes, strict=True):
            index = np.full(grid, -1)
            window = [slice(None)] * len(grid)
            window[place] = slice(start, start + size)
            index[tuple(window)] = np.arange(x.places).reshape(x.positions)
            parts.append(self.take(x, index, tuple(grid)))
            start += size
        return self.add(parts)

    def channels(self, x: MomentTensor, start: int, stop: int) -> MomentTensor:
        """Some of the channels."""
        self.check(x)
        signal = self.engine.channels(x.signal, start, stop)
        return x.like(signal, channels=(stop - start,))

    def repeat_channels(
        self, x: MomentTensor, count: int, axis: int
    ) -> MomentTensor:
        """Copies of channels along one of their axes, such as that of heads."""
        self.check(x)
        channels = list(x.channels)
        channels[axis] *= count
        signal = self.engine.repeat_channels(x.signal, count)
        return x.like(signal, channels=tuple(channels))

    def reshape(self, x: MomentTensor, shape: Sequence[int]) -> MomentTensor:
        """The same values in another shape, without the axis of samples.

        Raises:
            Unpredictable: If positions become channels in another way than by
                Flatten, or channels become positions.
        """
        self.check(x)
        shape = _known(tuple(shape), x.places * x.width)
        for cut in range(len(shape) - 1, -1, -1):
            if (
                math.prod(shape[:cut]) == x.places
                and math.prod(shape[cut:]) == x.width
            ):
                return x.like(
                    x.signal, positions=shape[:cut], channels=shape[cut:]
                )
        if math.prod(shape[:-1]) == 1 and len(x.channels) == 1:
            signal = self.engine.flatten(x.signal, x.places)
            return x.like(
                signal, positions=shape[:-1], channels=(signal.width,)
            )
        raise Unpredictable(
            f"it reshapes {tuple(x.shape[1:])} to {shape}, which mixes "
            "positions and channels"
        )

    def mask(
        self,
        x: MomentTensor,
        rate: float,
        shared: Sequence[int] = (),
        all_channels: bool = False,
    ) -> MomentTensor:
        """A tensor of which values are dropped.

        Args:
            x: MomentTensor. The tensor.
            rate: float. The share that is dropped.
            shared: Sequence of int. The axes of x along which a value shares
                the mask. Defaults to none.
            all_channels: bool. Whether all channels share the mask. Defaults
                to False.
        """
        self.check(x)
        grid = np.arange(x.signal.size).reshape(x.grid)
        for axis in shared:
            grid = np.take(grid, [0] * grid.shape[axis], axis=axis)
        kept = self.engine.mask(rate, grid.ravel(), x.width, all_channels)
        return x.like(self.engine.multiply(x.signal, kept))

    def masked_in_loop(
        self, x: MomentTensor, rate: float, key: Hashable
    ) -> MomentTensor:
        """A tensor of which values are dropped, the same ones at each step.

        Args:
            x: MomentTensor. The tensor.
            rate: float. The share that is dropped.
            key: Hashable. The mask; a key has one mask in all steps of a loop.
        """
        self.check(x)
        masks = self.loops[-1].masks
        if key not in masks:
            groups = np.arange(x.signal.size)
            masks[key] = self.engine.mask(rate, groups, x.width)
        return x.like(self.engine.multiply(x.signal, masks[key]))

    def unknown(self, shape: Any, reason: str) -> MomentTensor:
        """A tensor that cannot be predicted, such as the output of a softmax.

        A model may end with it. A step that uses it is refused.
        """
        signal: Signal = Signal(None, shape[-1], 0)
        return MomentTensor(
            signal, shape[0], shape[1:-1], shape[-1:], reason=reason
        )

    # ---- helpers ----------------------------------------------------------

    def check(self, x: MomentTensor) -> None:
        """Refuses a tensor that `unknown` made."""
        if x.reason is not None:
            raise Unpredictable(f"its input is not predicted: {x.reason}")

    def _family(self, weight: Any, part: Any) -> Hashable:
        """The key of a weight, the same one for each of its uses.

        Numbers that are no variable, such as a slice of one, are known by
        their values.
        """
        if isinstance(weight, keras.Variable):
            self.keep.append(weight)
            return (id(weight), str(part))
        values = np.ascontiguousarray(numbers(weight))
        digest = hashlib.sha256(values.tobytes()).hexdigest()
        return (digest, values.shape, str(part))

    def _process(
        self, variable: Any, layer: keras.layers.Layer | None, name: str
    ) -> Process | None:
        """The place of a weight in a `DepthProcess`, None without one."""
        layer = self.frames[-1].call.layer if layer is None else layer
        initializer = getattr(layer, f"{name}_initializer", None)
        if not isinstance(variable, keras.Variable):
            return None
        return depth_process(variable, initializer, self.source)

    def _random_weight(
        self,
        variable: Any,
        layer: keras.layers.Layer | None,
        name: str,
        part: Any = (),
    ) -> WeightMoments:
        """The same as `weight`; a mean that is not 0 is refused."""
        moments = self.weight(variable, layer, name, part)
        if moments.mean:
            raise Unpredictable(
                f"the mean of its {name} is {moments.mean:.3g}, where random "
                "weights have mean 0"
            )
        return moments

    def is_process(self, variable: Any, name: str) -> bool:
        """Whether a weight of the running layer belongs to a `DepthProcess`."""
        return self._process(variable, None, name) is not None

    def weight(
        self,
        variable: Any,
        layer: keras.layers.Layer | None,
        name: str,
        part: Any = (),
    ) -> WeightMoments:
        """The mean and the variance of the entries of a weight, or a part."""
        layer = self.frames[-1].call.layer if layer is None else layer
        initializer = getattr(layer, f"{name}_initializer", None)
        if not isinstance(variable, keras.Variable):
            return value_moments(numbers(variable).astype(np.float64)[part])
        fans = None
        if (
            isinstance(layer, keras.layers.EinsumDense)
            and name == "kernel"
            and hasattr(initializer, "input_axes")
        ):
            # The shape of the kernel does not say which axes are summed.
            fans = layer_rule(layer).weights["kernel"].fans
        return weight_moments(variable, initializer, self.source, fans, part)

    def broadcast(self, tensors: Sequence[Any]) -> list[MomentTensor]:
        """Tensors and arrays, as tensors of one shape."""
        moving = [t for t in tensors if isinstance(t, MomentTensor)]
        for x in moving:
            self.check(x)
        largest = max(
            moving, key=lambda t: (len(t.shape), t.signal.size, t.width)
        )
        rank = len(largest.channels)
        grids = [_grid(x, rank) for x in moving]
        arrays = [t for t in tensors if not isinstance(t, MomentTensor)]
        grids += [np.shape(numbers(a))[:-rank] for a in arrays]
        grid = np.broadcast_shapes(*grids)
        width = max(x.width for x in moving)
        channels = next(x.channels for x in moving if x.width == width)
        target = largest.like(largest.signal)
        lead = largest.samples is not None
        found = []
        for t in tensors:
            if isinstance(t, MomentTensor):
                signal = self._stretched(t, _grid(t, rank), grid, width)
            else:
                signal = self._array(t, grid, channels)
            found.append(
                target.like(
                    signal,
                    samples=grid[0] if lead else None,
                    positions=tuple(grid[1:] if lead else grid),
                    channels=channels,
                )
            )
        return found

    def _stretched(
        self,
        x: MomentTensor,
        own: tuple[int, ...],
        grid: tuple[int, ...],
        width: int,
    ) -> Signal:
        """Returns the signal of a tensor at the points of a larger grid."""
        signal = x.signal
        if math.prod(own) != math.prod(grid) or len(own) != len(grid):
            index = np.arange(signal.size).reshape(own)
            index = np.broadcast_to(index, grid).ravel()
            if len(index) != signal.size:
                signal = self.engine.take(signal, index)
        if signal.width != width:
            values = None
            if signal.width == 1:
                values = self.engine.constant_values(signal)
            if values is None:
                raise Unpredictable(
                    f"it joins {signal.width} with {width} channels"
                )
            signal = self.engine.constant(values, width)
        return signal

    def _array(
        self, array: Any, grid: tuple[int, ...], channels: tuple[int, ...]
    ) -> Signal:
        """Returns an array as a signal with given values."""
        values = np.broadcast_to(numbers(array), (*grid, *channels))
        values = values.reshape(math.prod(grid), math.prod(channels)).T
        self.keep.append(array)
        return self.engine.given(values.astype(float), ("array", id(array)))

    def _points(self, value: Any, x: MomentTensor) -> Any:
        """Returns a number, or an array as one number for each point."""
        if np.ndim(value) == 0:
            return value
        return np.broadcast_to(value, x.grid).ravel()

    def _per_sample(
        self, taps: list[np.ndarray], x: MomentTensor
    ) -> list[np.ndarray]:
        """Returns indices of positions as indices of points."""
        count = 1 if x.samples is None else x.samples
        start = np.arange(count)[:, None] * x.places
        return [
            np.where(tap < 0, -1, tap + start).ravel()
            for tap in (np.asarray(t)[None, :] for t in taps)
        ]


def given_tensor(engine: Engine, array: np.ndarray) -> MomentTensor:
    """Returns given values, of shape `(samples, *positions, channels)`."""
    samples, *rest = array.shape
    cut = max(len(rest) - 1, 0)
    positions, channels = tuple(rest[:cut]), tuple(rest[cut:])
    width = math.prod(channels)
    values = array.reshape(samples * math.prod(positions), width).T
    signal = engine.given(values.astype(np.float64), ("data", id(array)))
    return MomentTensor(
        signal, samples, positions, channels, str(array.dtype), array
    )


def _grid(x: MomentTensor, rank: int) -> tuple[int, ...]:
    """Returns the axes before the last `rank`, which are the channels."""
    if len(x.channels) == rank:
        return x.grid
    if x.width == 1:
        return tuple(x.shape[:-rank])
    raise Unpredictable("it joins tensors whose channels have different axes")


def numbers(array: Any) -> np.ndarray:
    """Returns an array or variable as an array of NumPy."""
    return keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(array))


def _uniform(array: Any, x: MomentTensor) -> Any:
    """Returns an array without its channels, None if they differ.

    The result is a number, or has the axes of samples and positions of `x`, as
    far as it has them.
    """
    values = numbers(array).astype(float)
    if values.size == 1:
        return float(values.ravel()[0])
    rank = len(x.channels)
    if values.ndim <= rank:
        equal = values.size and np.all(values == values.ravel()[0])
        return float(values.ravel()[0]) if equal else None
    flat = values.reshape(*values.shape[:-rank], -1)
    if values.shape[:-rank] and not np.all(flat == flat[..., :1]):
        return None
    if len(np.broadcast_shapes(flat.shape[:-1], x.grid)) > len(x.grid):
        return None
    if np.broadcast_shapes(flat.shape[:-1], x.grid) != x.grid:
        return None
    return flat[..., 0]


def _known(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Returns a shape with -1 filled in."""
    if -1 not in shape:
        return shape
    rest = -math.prod(shape)
    return tuple(size // rest if n == -1 else n for n in shape)
