"""The signal and the gradient at every layer of a model, predicted."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import keras
import numpy as np

from keras_initx.inspection.row_roles import row_roles
from keras_initx.inspection.selection import (
    LayerCall,
    Layers,
    Selector,
    check_all_matched,
    matches_any,
    selectors,
)
from keras_initx.inspection.traversal import inspect_model
from keras_initx.measurement.data import (
    Data,
    arrays_of,
    batches,
    build,
    check_taken,
    is_white_noise,
    map_arrays,
)
from keras_initx.measurement.gradient import NOT_REACHED
from keras_initx.prediction.averaged import POSITIONS, AveragedMoments
from keras_initx.prediction.engine import Engine
from keras_initx.prediction.finite_width import DrawnEngine
from keras_initx.prediction.moment_tensor import MomentTensor
from keras_initx.prediction.moments import SAMPLED, Moments
from keras_initx.prediction.positions import Table
from keras_initx.prediction.propagation import (
    PredictedRow,
    Propagation,
    given_tensor,
)
from keras_initx.prediction.record import Prediction
from keras_initx.prediction.refusals import (
    TooManyPointsError,
    Unpredictable,
    WrongDataError,
    refusals_of,
)
from keras_initx.prediction.registry import rule_of
from keras_initx.prediction.walk import Walk
from keras_initx.prediction.weights import Source, has_paired_halves
from keras_initx.prediction.wide import WideEngine
from keras_initx.validation import (
    check_bool,
    check_choice,
    check_int,
    refuse,
)

# The largest number of points, positions times samples, of a tensor. A matrix
# of second moments has the square of it.
_POINTS = 1024
# The same for two samples, of which no fewer can be predicted.
_MOST_POINTS = 3072
# The same where moments of more positions are averaged.
_AVERAGED_POINTS = 800
# The same with width="actual", whose cost grows with the cube of it.
_DRAWN_POINTS = 256
# An error of 1% that becomes this many percent is noted, and from the second
# number on there is no prediction.
_GROWS, _UNKNOWN = 2.0, 100.0
# With averaged positions a sample fraction below this is not known: it is a
# small difference of two numbers that are each off by some percent. It is not
# known in later rows either, where a normalization may enlarge it again.
_SMALLEST_FRACTION = 0.05
# A sample fraction below this is the rounding of sums in float64.
_ROUNDING = 1e-12
# The number of channels that are drawn where no closed form is known.
_CHANNELS = 8192


_BLURRED = (
    "the sample fraction is not known: it is below "
    f"{_SMALLEST_FRACTION:g} here or in an earlier row, where the predicted "
    "one may be several times too large"
)


def predict(
    model: keras.Model,
    data: Data = None,
    *,
    layers: Layers = None,
    training: bool = False,
    weights: Source = "present",
    width: Literal["infinite", "actual"] = "infinite",
    networks: int = 64,
    samples: int | None = None,
    seed: int = 0,
) -> Prediction:
    """Predicts the signal and the gradient of every layer from formulas.

    The model is not run on numbers. Its `call` runs once, on symbolic tensors
    that stand for random signals: a layer that has a rule maps the second
    moments of its input to those of its output, and every other layer runs its
    own `call`. So nested, subclassed and residual models, shared layers,
    `x + y`, `0.5 * x` and `keras.ops` can be predicted. No weight, node or
    config of the model changes.

    In the limit of wide layers with independent random weights

        E u_i u_j = n var(W) E h_i h_j + var(b)         a linear map
        E h_i h_j = E phi(u_i) phi(u_j)                 an activation
        E g_i g_j = n' var(W) E phi'(u_i) phi'(u_j) E g'_i g'_j    backward

    for the samples i and j at hand. Here h are the n inputs of the linear map,
    u its n' outputs, and g and g' the gradients before and after an activation
    and a linear map. Where a channel is a function of one Gaussian vector, the
    moments are closed forms or quadrature. A sum or product of branches depends
    on what the branches have in common. Where it has no closed form, its
    variables are drawn, for 8192 channels. Heads of attention are drawn too,
    since their scores stay random in wide models, and so are the states of
    `LSTM` and `GRU`. The weights of a recurrent layer are the same at all time
    steps, and those of a `DepthProcess` are correlated over the layers.

    Where an error of 1% in one layer would be more than 100% in a later one, as
    in deep networks of GELU or SiLU without normalization, the total is NaN,
    and a note says why. In images of more than 1536 positions the moments of
    pairs of distant positions are means over parts of the image. Such rows are
    "positions averaged", behind poolings their total may be 7% off, and a
    sample fraction below 0.05 is NaN, also in the rows behind it.

    A layer that has no formula is refused by name, with the reason. Among
    these are heavy-tailed, paired and constructed weights, matrix products of
    two signals other than attention, dropout of attention scores, and a softmax
    whose output is used.

    Args:
        model: keras.Model. A model of any kind. Without `data` it must be
            built, and have inputs of known shape.
        data: As in `measure`; the samples to predict for. Defaults to white
            noise: independent values of mean square 1.
        layers: As in `measure`. Defaults to every layer that holds a kernel.
        training: bool. Whether to predict the training mode, with the samples
            as one batch, or as many of them as are used. Defaults to False.
        weights: str. "present" takes the mean square of each weight as it is,
            "initial" the variance that its initializer draws, which is known of
            the initializers of Keras, and of `Scaled` around one. Defaults to
            "present".
        width: str. "infinite" is the limit of wide layers. "actual" draws
            networks of the width that the model has, without their weights, and
            gives means and `quartiles` over them. It is exact for normal
            weights. Defaults to "infinite".
        networks: int. The number of networks that "actual" draws, at least 2.
            Defaults to 64.
        samples: int. The number of samples, at least 2. Those of an array are
            evenly spaced in it. Fewer are used where images have many
            positions: two where a tensor has more than 512, and always where
            positions are averaged. Defaults to 8 with data, and without data
            to 2, or to 32 with `training`.
        seed: int. The seed of what is drawn: channels, heads of attention and
            networks. Defaults to 0.

    Returns:
        A `Prediction`: the rows of `measure(model, data)` under the same names,
        with `gradient`, the mean square of the gradient at each row if the
        gradient at the last row has independent standard normal entries. It is
        NaN with a note where no gradient arrives.

    Raises:
        ValueError: If a layer cannot be predicted, which is named with the
            reason; if `layers` selects no layer; if the model is not built, or
            its inputs have no fixed shape, and there are no data; if the model
            does not take data of that shape.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((64,))] + [
    ...     keras.layers.Dense(64, "relu", kernel_initializer="he_normal")
    ...     for _ in range(3)
    ... ])
    >>> prediction = predict(model, weights="initial")
    >>> prediction.total.round(6).tolist()
    [2.0, 2.0, 2.0]
    >>> prediction.sample_fraction.round(4).tolist()
    [1.0, 0.6817, 0.5063]
    >>> prediction.gradient.round(6).tolist()
    [1.0, 1.0, 1.0]

    Reference: Poole et al., arXiv:1606.05340; Schoenholz et al.,
    arXiv:1611.01232; Novak et al., arXiv:1810.05148; for models of any graph
    Yang, arXiv:1910.12478 and arXiv:2006.14548. The moments of merged branches,
    of shared layers and of a model's own `call` are derived here.
    """
    training = check_bool("training", training)
    check_choice("weights", weights, ("present", "initial"))
    samples = check_int("samples", samples, 2, optional=True)
    seed = check_int("seed", seed)
    check_choice("width", width, ("infinite", "actual"))
    networks = check_int("networks", networks, 2)
    task = _Task(model, selectors(layers), training, weights, seed)
    arrays = _samples_of_data(model, data, samples)
    _check_model(model, weights)
    if arrays is None:
        count = samples or (32 if training else 2)
    else:
        count = len(arrays_of(arrays)[0])
    # Large images make matrices too large. A layer then raises an error with
    # its number of points, and all is done again with fewer samples.
    averaged = False
    asked = count
    while True:
        try:
            with _refusals_named(model):
                if averaged:
                    found = _averaged(task, arrays, count)
                elif width == "actual":
                    found = _drawn(task, arrays, count, networks)
                else:
                    found = _wide(task, arrays, count)
            said = _fewer(count, asked, arrays is not None, training)
            return dataclasses.replace(found, remarks=(*found.remarks, *said))
        except TooManyPointsError as error:
            # The positions of one sample, rounded up.
            places = -(-error.points // count)
            fewer = error.limit // places
            if fewer >= count or fewer < 2:
                fewer = 2
            if averaged or (
                width == "actual" and fewer * places > _DRAWN_POINTS
            ):
                most = task.limit(width, 2) // 2
                what = (
                    "joins them in another way than convolutions, pooling and "
                    "functions of each entry do, and of which"
                    if averaged
                    else "of which"
                )
                if averaged and places <= most:
                    raise ValueError(
                        f"A layer of {places} positions joins them in another "
                        "way than convolutions, pooling and functions of each "
                        "entry do, and depends on a larger tensor, whose "
                        "moments are averaged over positions: give a model of "
                        f"smaller inputs. Received: model={model.name!r}"
                    ) from None
                raise ValueError(
                    f"A layer has {places} positions, {what} predict knows "
                    f"the moments for {most} at most, with width={width!r}: "
                    "give a model of smaller inputs. "
                    f"Received: model={model.name!r}"
                ) from None
            averaged = fewer * places > task.limit(width, fewer)
            count = fewer
            if arrays is not None:
                arrays = map_arrays(lambda a, n=count: a[:n], arrays)


def _fewer(
    count: int, asked: int, has_data: bool, training: bool
) -> tuple[str, ...]:
    """Returns the remark on a prediction for fewer samples than asked for."""
    if count == asked:
        return ()
    these = "this pair" if count == 2 else f"these {count}"
    whose = "your " if has_data else ""
    text = (
        f"The prediction is for {count} of {whose}{asked} samples, since "
        "layers have many positions: sample fraction, decay and verdict are "
        f"those of {these}."
    )
    if training:
        text += f" In training mode {these} is the batch, not all {asked}."
    return (text,)


class _Task(NamedTuple):
    """The arguments of `predict` that both engines need."""

    model: Any
    layers: tuple[Selector, ...]
    training: bool
    weights: Source
    seed: int

    def limit(self, width: str, samples: int) -> int:
        """Returns the largest number of points, positions times samples."""
        if width == "actual":
            return _DRAWN_POINTS
        return _MOST_POINTS if samples == 2 else _POINTS

    def run(self, engine: Engine, arrays: Any, samples: int) -> Propagation:
        """Runs the model on an engine, and returns the steps with the rows."""
        seen: list[LayerCall] = []

        def select(call: LayerCall) -> bool:
            seen.append(call)
            return matches_any(self.layers, call)

        steps = Propagation(engine, samples, self.weights, select)
        steps.white_noise = arrays is None or is_white_noise(arrays)
        inputs = _inputs(engine, self.model, arrays, samples)
        Walk(steps).run(self.model, inputs, self.training)
        check_all_matched(self.layers, seen)
        return steps


def _wide(task: _Task, arrays: Any, samples: int) -> Prediction:
    """Returns the prediction in the limit of wide layers."""
    limit = task.limit("infinite", samples)
    engine = WideEngine(Moments(_CHANNELS, limit, task.seed))
    steps = task.run(engine, arrays, samples)
    return _result(engine, task.model, steps, samples)


def _averaged(task: _Task, arrays: Any, samples: int) -> Prediction:
    """Returns the prediction with moments that are averaged over positions."""
    moments = AveragedMoments(_CHANNELS, _AVERAGED_POINTS, task.seed, samples)
    engine = WideEngine(moments)
    steps = task.run(engine, arrays, samples)
    return _result(engine, task.model, steps, samples)


def _drawn(task: _Task, arrays: Any, samples: int, networks: int) -> Prediction:
    """Returns the mean over drawn networks of the width that the model has."""
    rng = np.random.default_rng(task.seed)
    found: list[np.ndarray] = []
    rows: list[PredictedRow] = []
    left = networks
    while left:
        # A part of the networks at a time, so that their values take little
        # memory: about 2^21 numbers in the widest layer.
        size = max(1, min(left, 2**21 // max(1, samples * _widest(task.model))))
        engine = DrawnEngine(size, _DRAWN_POINTS, rng)
        steps = task.run(engine, arrays, samples)
        rows = steps.rows
        found.append(_values_of_networks(engine, rows, samples))
        left -= size
    values = np.concatenate(found, axis=2)
    total, covariance, gradient = values
    with np.errstate(divide="ignore", invalid="ignore"):
        fraction = 1 - covariance / total
    quartiles = {
        name: np.quantile(each, (0.25, 0.5, 0.75), axis=0)
        for name, each in (
            ("total", total.T),
            ("sample_fraction", fraction.T),
            ("gradient", gradient.T),
        )
    }
    reached = np.isfinite(gradient)
    means = zip(total.mean(axis=1), covariance.mean(axis=1), strict=True)
    variance = np.array([_difference(*pair) for pair in means])
    return Prediction(
        [row.name for row in rows],
        variance,
        covariance.mean(axis=1),
        np.array([row.tensor.places * row.tensor.width for row in rows]),
        gradient=gradient.mean(axis=1),
        exactness=["drawn"] * len(rows),
        samples=samples,
        white_noise=steps.white_noise,
        **_judged(task.model, rows, variance, gradient.mean(axis=1)),
        notes=["" if row.any() else NOT_REACHED for row in reached],
        quartiles=quartiles,
        remarks=(f"Means over {networks} networks of this width.",),
    )


def _values_of_networks(
    engine: DrawnEngine, rows: list[PredictedRow], samples: int
) -> np.ndarray:
    """Returns total, covariance of two samples, and squared gradient of rows.

    With y_a the value of a sample at one position and channel, and averages
    over positions and channels,

        total = mean over a of y_a^2
        covariance = mean over a != b of y_a y_b
                   = (n (mean over a of y_a)^2 - total) / (n - 1)

    for n samples. The shape is `(3, rows, networks)`.
    """
    gradients = _gradients(engine, rows)
    values = np.full((3, len(rows), engine.networks), np.nan)
    for i, (row, gradient) in enumerate(zip(rows, gradients, strict=True)):
        y = row.tensor.signal.value
        values[0, i] = values[1, i] = np.mean(y**2, axis=(1, 2))
        if row.tensor.samples is not None:
            split = y.reshape(*y.shape[:2], samples, -1)
            mean = np.mean(split.mean(axis=2) ** 2, axis=(1, 2))
            values[1, i] = (samples * mean - values[0, i]) / (samples - 1)
        if gradient:
            sizes = [np.mean(part**2, axis=(1, 2)) for part in gradient]
            values[2, i] = sum(sizes) / len(row.sources)
    return values


def _gradients(engine: Engine, rows: list[PredictedRow]) -> list[list[Any]]:
    """Returns the gradients of what each row consists of, if it has any."""
    sources = [source for row in rows for source in row.sources]
    found = iter(engine.gradients(rows[-1].tensor.signal, sources))
    return [
        [g for g in (next(found) for _ in row.sources) if g is not None]
        for row in rows
    ]


def _widest(model: Any) -> int:
    """Returns the largest number of outputs of a kernel in a model."""
    return max((int(w.shape[-1]) for w in model.weights if w.shape), default=1)


@contextlib.contextmanager
def _refusals_named(model: keras.Model) -> Iterator[None]:
    """The context in which a refusal says which layer is meant.

    Raises:
        ValueError: If a layer cannot be predicted.
    """
    try:
        yield
    except WrongDataError as error:
        raise ValueError(str(error)) from None
    except Unpredictable as error:
        call = error.layer_call
        where = "the model" if call is None else f"layer {call.name!r}"
        kind = "" if call is None else f" ({type(call.layer).__name__})"
        advice = ""
        if call is None or rule_of(call.layer) is None:
            advice = (
                "A rule that prediction.register_propagation takes would "
                "predict it. "
            )
        raise ValueError(
            f"{where}{kind} cannot be predicted: {error}. {advice}"
            f"Received: model={model.name!r}"
        ) from error


def _check_model(model: Any, weights: str) -> None:
    """Refuses weights whose present values are no independent draws.

    Raises:
        ValueError: If a part of the model has been trained, or has weights in
            pairs.
    """
    view = inspect_model(model)
    if weights == "initial":
        return
    for weight in view.weights:
        if weight.role == "kernel" and has_paired_halves(weight.variable):
            raise ValueError(
                "Weights in pairs, as kx.paired makes them, are no "
                "independent draws and cannot be predicted: measure them. "
                f"Received: layer {weight.layer_name or weight.layer.name!r} "
                f"of model {model.name!r}"
            )
    for layer in view.layers:
        optimizer = getattr(layer, "optimizer", None)
        if optimizer is None:
            continue
        steps = int(keras.ops.convert_to_numpy(optimizer.iterations))
        if steps:
            raise ValueError(
                "Trained weights are no random draws: predict with "
                'weights="initial" what they were. '
                f"Received: {layer.name!r} after {steps} steps"
            )


def _samples_of_data(
    model: keras.Model, data: Data, samples: int | None
) -> Any:
    """Returns evenly spaced samples of the data as arrays, None without data.

    From data that are no arrays the first batch is taken.

    Raises:
        ValueError: If there are fewer than two samples, or if the model does
            not take them.
    """
    if data is None:
        return None
    # Only the first batch is taken, so that the data may be endless.
    given = batches(data, steps=2**53, model=model)
    build(model, given)
    whole = given.data if given.size is not None else None
    if whole is None:
        whole = next(iter(given), None)
        if whole is None:
            refuse("data must hold samples.", data=data)
    arrays = map_arrays(
        lambda a: np.asarray(keras.ops.convert_to_numpy(a)), whole
    )
    size = len(arrays_of(arrays)[0])
    if size < 2:
        refuse("data must hold at least two samples.", data=data)
    # The rules of layers do not compare the size of a signal with that of the
    # weights.
    check_taken(model, arrays)
    count = min(size, samples or 8)
    index = np.linspace(0, size - 1, count).astype(int)
    return map_arrays(lambda a: a[index], arrays)


def _inputs(engine: Engine, model: Any, arrays: Any, samples: int) -> Any:
    """Returns the inputs as tensors of moments, in the model's structure."""
    if arrays is not None:
        specs = getattr(model, "inputs", None)
        for array in arrays_of(arrays):
            # Only a `call` may know that the model takes text.
            if array.dtype.kind in "OSU" and (
                not specs or any(spec.dtype == "string" for spec in specs)
            ):
                raise _text(f"data of dtype {array.dtype}")
        return map_arrays(lambda a: given_input(engine, a), arrays)
    if not getattr(model, "inputs", None):
        raise ValueError(
            "A model whose inputs are not known is predicted for data: pass "
            f"them. Received: data=None, model={model.name!r}"
        )

    def white(spec: Any) -> MomentTensor:
        shape = tuple(spec.shape[1:])
        if spec.dtype == "string":
            raise _text("an input of dtype 'string'")
        if None in shape:
            raise ValueError(
                "Inputs of unknown size are predicted for data: pass them. "
                f"Received: data=None, an input of shape {shape}"
            )
        cut = max(len(shape) - 1, 0)
        positions, channels = shape[:cut], shape[cut:]
        size = samples * math.prod(positions)
        signal = engine.white(size, math.prod(channels))
        return MomentTensor(signal, samples, positions, channels, spec.dtype)

    if isinstance(model, keras.Sequential):
        return white(model.inputs[0])
    return keras.tree.map_structure(white, model.input)


def _text(received: str) -> ValueError:
    """Returns the error for inputs of text."""
    return ValueError(
        "A model of text cannot be predicted: kx.measure(model, data) measures "
        f"it. Received: {received}"
    )


def given_input(engine: Engine, array: np.ndarray) -> MomentTensor:
    """Returns samples as a tensor of moments.

    Raises:
        ValueError: If they are no finite numbers.
    """
    if array.dtype.kind not in "fiub":
        raise ValueError(
            f"data must be numbers. Received: data of dtype {array.dtype}"
        )
    if not np.isfinite(array).all():
        raise ValueError("data must be finite. Received: data with NaN or inf")
    return given_tensor(engine, array)


def _result(
    engine: WideEngine, model: Any, steps: Propagation, samples: int
) -> Prediction:
    """Returns the prediction from the moments of each row and its gradient."""
    rows = steps.rows
    gradients = _gradients(engine, rows)
    columns: dict[str, Any] = {
        name: []
        for name in (
            *("sample_variance", "squared_mean", "units", "gradient"),
            *("exactness", "notes", "position_correlation"),
        )
    }
    growth = _growth(engine, rows)
    was_blurred = False
    for row, gradient, (here, at_end) in zip(
        rows, gradients, growth, strict=True
    ):
        with refusals_of(row.call):
            value = row.tensor.signal.value
            second = engine.second(value)
            total, covariance = pair_moments(second, row.tensor, samples)
            columns["position_correlation"].append(
                position_correlation(second, row.tensor.places)
            )
            size = math.nan
            reasons = engine.reasons(value)
            blurred = (
                POSITIONS in reasons
                and row.tensor.samples is not None
                and total > 0
                and (
                    was_blurred
                    or total - covariance < _SMALLEST_FRACTION * total
                )
            )
            was_blurred |= blurred
            unreached = [] if gradient else [NOT_REACHED]
            if gradient:
                size = 0.0
                for part in gradient:
                    squares = engine.second(part).diagonal()
                    size += float(squares.mean()) / len(row.sources)
                    reasons |= engine.reasons(part)
        if at_end > _UNKNOWN:
            size = math.nan
        unknown = here > _UNKNOWN
        variance = _difference(total, covariance)
        if unknown or blurred:
            variance = math.nan
        columns["sample_variance"].append(variance)
        common = total if blurred else covariance
        columns["squared_mean"].append(math.nan if unknown else common)
        columns["units"].append(row.tensor.places * row.tensor.width)
        columns["gradient"].append(size)
        columns["exactness"].append(_exactness(engine, value, reasons))
        notes = [*sorted(reasons - {SAMPLED}), *unreached]
        notes += [_BLURRED] if blurred else []
        notes += _notes(here, at_end)
        columns["notes"].append("; ".join(notes))
    remarks: tuple[str, ...] = ()
    if "sampled" in columns["exactness"]:
        remarks = (f"Rows that are sampled are means over {_CHANNELS} draws.",)
    return Prediction(
        [row.name for row in rows],
        remarks=remarks,
        samples=samples,
        white_noise=steps.white_noise,
        **_judged(model, rows, columns["sample_variance"], columns["gradient"]),
        **columns,
    )


def _difference(total: float, covariance: float) -> float:
    """Returns the sample variance, 0 where it is rounding alone."""
    variance = total - covariance
    return 0.0 if variance <= _ROUNDING * total else variance


def _judged(
    model: Any, rows: list[PredictedRow], variance: Any, gradient: Any
) -> dict[str, Any]:
    """Returns columns for the verdict: roles of rows, and dead units.

    A row behind which nothing depends on the samples, and whose gradient is 0,
    is dead, unless the next kernel is zero.
    """
    units = [row.tensor.places * row.tensor.width for row in rows]
    names = [row.name for row in rows]
    roles = row_roles(inspect_model(model), names, units, variance)
    dead = np.full(len(rows), np.nan)
    reached = np.flatnonzero(np.array(variance) != 0)
    last = reached[-1] if len(reached) else len(rows)
    if last + 1 < len(rows) and roles[last + 1] == "signal":
        dead[last] = 1.0 if gradient[last] == 0 else math.nan
    return {"roles": roles, "dead_fraction": dead}


def _growth(
    engine: WideEngine, rows: list[PredictedRow]
) -> list[tuple[float, float]]:
    """Returns for each row how an error of the total grows.

    The first number is how large an error of 1% in an earlier row is here, the
    second one how large an error of 1% here is at the last row, both in
    percent.
    """
    signals = [row.tensor.signal for row in rows]
    return list(
        zip(
            engine.largest_error(signals),
            engine.error_at_end(signals[-1], signals),
            strict=True,
        )
    )


def _notes(here: float, at_end: float) -> list[str]:
    """Returns what an error that grows does to a row, if it grows."""
    notes = []
    if here > _UNKNOWN:
        notes.append(
            "the total is not known: an error of 1% in an earlier layer is "
            "more than 100% here"
        )
    if at_end > _UNKNOWN:
        notes.append(
            "the gradient is not known: an error of 1% of the total here is "
            "more than 100% at the end"
        )
    elif at_end >= _GROWS:
        notes.append(
            f"an error of 1% of the total here is {at_end:.2g}% at the end"
        )
    return notes


def pair_moments(
    second: np.ndarray | Table, x: MomentTensor, samples: int
) -> tuple[float, float]:
    """Returns the total, and the mean covariance of two samples.

    With M the second moments of x, a and b samples, and p positions,

        total = mean over a and p of M_(ap, ap)
        covariance = mean over a != b and p of M_(ap, bp)

    Args:
        second: Array of shape `(points, points)`. The second moments.
        x: MomentTensor. The tensor.
        samples: int. The number of samples.
    """
    count = 1 if x.samples is None else samples
    total = float(second.diagonal().mean())
    if count == 1:
        return total, total
    if isinstance(second, Table):
        pairs = second.same.mean(axis=2)
    else:
        places = len(second) // count
        shape = (count, places, count, places)
        pairs = np.einsum("apbp->ab", second.reshape(shape)) / places
    covariance = (pairs.sum() - np.trace(pairs)) / (count * (count - 1))
    return total, float(covariance)


def position_correlation(second: np.ndarray | Table, places: int) -> float:
    """Returns the mean correlation of two positions of one sample.

    With M the second moments, and an average over samples a and positions,

        (mean over p != p' of M_(ap, ap')) / (mean over p of M_(ap, ap))

    NaN with one position, or where all is zero.

    Args:
        second: Array of shape `(points, points)`. The second moments.
        places: int. The number of positions.
    """
    total = float(second.diagonal().sum())
    if places < 2 or not total:
        return math.nan
    if isinstance(second, Table):
        within = float(np.trace(second.pair_sums()))
    else:
        count = len(second) // places
        pairs = second.reshape(count, places, count, places)
        within = float(np.einsum("apaq->", pairs))
    return (within - total) / (total * (places - 1))


def _exactness(engine: WideEngine, value: Any, reasons: frozenset[str]) -> str:
    """Returns the word of `Prediction.exactness` for one row.

    Args:
        engine: WideEngine. The engine.
        value: Blocks. The signal of the row.
        reasons: frozenset of str. Why the signal or the gradient is not exact.
    """
    if POSITIONS in reasons:
        return "positions averaged"
    if reasons - {SAMPLED}:
        return "approximated"
    if SAMPLED in reasons:
        return "sampled"
    exact = all(block.expression.exact for block in value)
    return "exact" if exact else "wide"
