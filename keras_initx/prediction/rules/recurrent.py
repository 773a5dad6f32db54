"""Recurrent layers, step by step.

The same weights act at all time steps, so that what they make of the steps is
jointly normal. With the states h_t, the weights U of n inputs and variance v,
and the gradients g_t of U h_t,

    E (U h_s) (U h_t) = n v E h_s h_t               forward
    E (U^T g_s) (U^T g_t) = n' v E g_s g_t          backward

for all steps s and t and all pairs of samples. `SimpleRNN` has closed forms,
since h_t = phi(U h_(t-1) + W x_t + b) is a function of one normal vector. The
states of gates are products and sums of several, and are computed on channels
that are drawn.

Reference: Yang, arXiv:1910.12478, for `SimpleRNN` and `GRU`. The recursion over
pairs of steps and the draws are derived here.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_initx.prediction.moment_tensor import MomentTensor
from keras_initx.prediction.propagation import Propagation, numbers
from keras_initx.prediction.refusals import Unpredictable
from keras_initx.prediction.registry import register_name, register_propagation
from keras_initx.prediction.rules.dense import check_plain
from keras_initx.prediction.rules.shapes import check_channels_last
from keras_initx.prediction.rules.windows import axis_taps, joined_taps, taps_of

_L = keras.layers


# Each class has a `call` of its own, and a rule is not inherited by those.
@register_propagation(
    _L.RNN, _L.SimpleRNN, _L.LSTM, _L.GRU, _L.ConvLSTM1D, _L.ConvLSTM2D
)
def _recurrent(
    steps: Propagation, layer: Any, x: Any, initial_state: Any = None
) -> Any:
    """The cell at each time step, from the first one or from the last one."""
    steps.check(x)
    if x.samples is None or not x.positions:
        raise Unpredictable("its input has no axis of time")
    time, *inner = x.positions
    state = _initial_state(steps, layer, x, tuple(inner), initial_state)
    index = np.arange(x.places).reshape(time, -1)
    order = range(time - 1, -1, -1) if layer.go_backwards else range(time)
    outputs: list[Any] = []
    kept = np.ones((time, x.samples), bool)
    if x.mask is not None and initial_state is None:
        # Keras gives a layer no mask that is given a second tensor.
        kept = x.mask.T
    with steps.in_loop() as loop:
        for t in order:
            loop.next_step(kept[t])
            x_t = steps.take(x, index[t], tuple(inner))
            output, new = layer.cell(x_t, state, training=steps.training)
            pairs = zip(*map(keras.tree.flatten, (new, state)), strict=True)
            chosen = [steps.choose(kept[t], after, s) for after, s in pairs]
            state = keras.tree.pack_sequence_as(new, chosen)
            outputs.append(
                _masked_output(steps, layer, kept[t], output, outputs)
            )
        loop.add_rows(layer.return_sequences, layer.zero_output_for_mask)
    result = steps.stack(outputs) if layer.return_sequences else outputs[-1]
    if layer.return_state:
        return [result, *keras.tree.flatten(state)]
    return result


def _initial_state(
    steps: Propagation,
    layer: Any,
    x: MomentTensor,
    inner: tuple[int, ...],
    given: Any,
) -> Any:
    """Returns the state before the first step, in the structure of the cell.

    Raises:
        Unpredictable: If the layer is stateful and has a state.
    """
    sizes = layer.cell.state_size
    flat = keras.tree.flatten(given) if given is not None else []
    if flat:
        if not all(isinstance(state, MomentTensor) for state in flat):
            raise Unpredictable("its initial state consists of numbers")
        single = isinstance(sizes, int)
        return (
            list(flat) if single else keras.tree.pack_sequence_as(sizes, flat)
        )
    if layer.stateful and layer.states is not None:
        held = keras.tree.flatten(layer.states)
        if any(np.any(numbers(state)) for state in held):
            raise Unpredictable("it is stateful and holds a state")
    if type(layer.cell).__name__ == "ConvLSTMCell":
        shape = layer.cell.compute_output_shape((x.samples, *inner, x.width))
        zero = steps.zeros(tuple(shape[0][1:-1]), layer.cell.filters)
        return [zero, zero]
    zeros = keras.tree.map_structure(lambda n: steps.zeros((), int(n)), sizes)
    return zeros if isinstance(zeros, list | tuple) else [zeros]


def _masked_output(
    steps: Propagation,
    layer: Any,
    kept: np.ndarray,
    output: MomentTensor,
    before: list[MomentTensor],
) -> MomentTensor:
    """Returns the output of a step, for masked samples that of the last one."""
    if kept.all():
        return output
    if before and not layer.zero_output_for_mask:
        return steps.choose(kept, output, before[-1])
    zero = steps.zeros(output.positions, output.width)
    return steps.choose(kept, output, zero)


@register_propagation(_L.StackedRNNCells)
def _stacked_cells(
    steps: Propagation, layer: Any, x: MomentTensor, states: Any
) -> Any:
    """Cells one above the other, each with its state."""
    after = []
    for cell, state in zip(layer.cells, states, strict=True):
        as_list = isinstance(state, list | tuple)
        x, new = cell(x, state if as_list else [state], training=steps.training)
        after.append(new if as_list else new[0])
    return x, after


def _cell_mask(
    steps: Propagation, cell: Any, x: MomentTensor, kind: str, gate: int
) -> MomentTensor:
    """The input or the state of a cell, with the dropout of the cell.

    One mask is used at all time steps, and by all gates that Keras computes
    at once.
    """
    rate = getattr(cell, kind)
    if not steps.training or not rate:
        return x
    at_once = getattr(cell, "implementation", 2) != 1
    key = (id(cell), kind, 0 if at_once else gate)
    return steps.masked_in_loop(x, rate, key)


def _gate(
    steps: Propagation,
    cell: Any,
    x: MomentTensor,
    gate: int,
    name: str,
) -> MomentTensor:
    """The product of the input or of the state with the weights of one gate."""
    check_plain(cell)
    recurrent = name == "recurrent"
    kind = "recurrent_dropout" if recurrent else "dropout"
    units = cell.units
    return steps.linear(
        _cell_mask(steps, cell, x, kind, gate),
        cell.recurrent_kernel if recurrent else cell.kernel,
        outputs=units,
        name=name,
        part=(..., slice(gate * units, (gate + 1) * units)),
    )


def _with_bias(
    steps: Propagation, cell: Any, u: MomentTensor, gate: int, row: Any = ()
) -> MomentTensor:
    """The sum of a tensor and the bias of one gate."""
    if cell.bias is None:
        return u
    forgets = gate == 1 and getattr(cell, "unit_forget_bias", False)
    if forgets and steps.source == "initial":
        # The initializer does not draw the bias of the forget gate.
        return steps.add([u, 1.0])
    units = cell.filters if hasattr(cell, "filters") else cell.units
    columns = slice(gate * units, (gate + 1) * units)
    return steps.add_bias(u, cell.bias, part=(*row, columns))


def _first(states: Any) -> MomentTensor:
    return states[0] if isinstance(states, list | tuple) else states


@register_propagation(_L.SimpleRNNCell)
def _simple_cell(
    steps: Propagation, cell: Any, x: MomentTensor, states: Any
) -> Any:
    """The recursion h_t = phi(W x_t + U h_(t-1) + b)."""
    u = _with_bias(steps, cell, _gate(steps, cell, x, 0, "kernel"), 0)
    v = _gate(steps, cell, _first(states), 0, "recurrent")
    h = steps.activate(cell, steps.add([u, v]))
    return h, [h] if isinstance(states, list | tuple) else h


@register_propagation(_L.LSTMCell)
def _lstm_cell(
    steps: Propagation, cell: Any, x: MomentTensor, states: Any
) -> Any:
    """The recursion c_t = f c_(t-1) + i phi(g), h_t = o phi(c_t).

    The gates i, f and o are sigmoids of linear maps of x_t and h_(t-1).
    """
    h, c = states

    def gate(index: int) -> MomentTensor:
        u = _with_bias(
            steps, cell, _gate(steps, cell, x, index, "kernel"), index
        )
        return steps.add([u, _gate(steps, cell, h, index, "recurrent")])

    return _long_short(steps, cell, [gate(index) for index in range(4)], c)


def _long_short(
    steps: Propagation, cell: Any, gates: list[MomentTensor], c: MomentTensor
) -> Any:
    """Returns output and states of an LSTM from its four pre-activations."""
    i, f, o = (
        steps.apply(cell.recurrent_activation, gates[k]) for k in (0, 1, 3)
    )
    candidate = steps.activate(cell, gates[2])
    c = steps.sampled(
        steps.add([steps.multiply(f, c), steps.multiply(i, candidate)])
    )
    h = steps.sampled(steps.multiply(o, steps.apply(cell.activation, c)))
    return h, [h, c]


@register_propagation(_L.GRUCell)
def _gru_cell(
    steps: Propagation, cell: Any, x: MomentTensor, states: Any
) -> Any:
    """The recursion h_t = z h_(t-1) + (1 - z) phi(a_t).

    z and r are sigmoids of linear maps of x_t and h_(t-1), and

        a_t = W x_t + r (U h_(t-1))     with reset_after=True
        a_t = W x_t + U (r h_(t-1))     with reset_after=False
    """
    h = _first(states)
    rows = ((0,), (1,)) if cell.reset_after else ((), None)

    def gate(index: int, state: MomentTensor, times: Any = None) -> Any:
        u = _gate(steps, cell, x, index, "kernel")
        u = _with_bias(steps, cell, u, index, rows[0])
        v = _gate(steps, cell, state, index, "recurrent")
        if rows[1] is not None:
            v = _with_bias(steps, cell, v, index, rows[1])
        return steps.add([u, v if times is None else steps.multiply(times, v)])

    z, r = (
        steps.apply(cell.recurrent_activation, gate(index, h))
        for index in (0, 1)
    )
    a = gate(2, h, r) if cell.reset_after else gate(2, steps.multiply(r, h))
    candidate = steps.activate(cell, steps.sampled(a))
    rest = steps.multiply(steps.add([1.0, z], [1.0, -1.0]), candidate)
    h = steps.sampled(steps.add([steps.multiply(z, h), rest]))
    return h, [h] if isinstance(states, list | tuple) else h


@register_name("ConvLSTMCell")
def _convolutional_cell(
    steps: Propagation, cell: Any, x: MomentTensor, states: Any
) -> Any:
    """An `LSTMCell` whose linear maps are convolutions."""
    check_channels_last(cell)
    h, c = states
    if steps.training and (cell.dropout or cell.recurrent_dropout):
        raise Unpredictable("it has a dropout in training mode")
    of_x = taps_of(cell, x, h.positions)
    settings = zip(h.positions, cell.kernel_size, strict=True)
    of_h = joined_taps(
        [axis_taps(n, n, window, 1, 1, "same") for n, window in settings],
        h.positions,
    )

    def gate(index: int) -> MomentTensor:
        n = cell.filters
        maps = [
            steps.linear(
                tensor,
                kernel,
                outputs=n,
                name=name,
                part=(..., slice(index * n, (index + 1) * n)),
                taps=taps,
                positions=h.positions,
            )
            for tensor, kernel, name, taps in (
                (x, cell.kernel, "kernel", of_x),
                (h, cell.recurrent_kernel, "recurrent", of_h),
            )
        ]
        maps[0] = _with_bias(steps, cell, maps[0], index)
        return steps.add(maps)

    return _long_short(steps, cell, [gate(index) for index in range(4)], c)
