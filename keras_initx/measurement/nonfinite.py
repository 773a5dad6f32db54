"""The place in a model where NaN or infinity arises."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

import keras
import numpy as np
from keras import ops

from keras_initx.backend.passes import Tensor, passes
from keras_initx.hooks.forward_hooks import forward_hooks
from keras_initx.hooks.recorder import Rerun
from keras_initx.inspection.selection import LayerCall
from keras_initx.measurement.forward import forward_pass
from keras_initx.measurement.moments import all_finite, half_squares
from keras_initx.measurement.refusals import nonfinite, too_large

# Pairs of a variable and the value that it has in a pass.
Values = Sequence[tuple[keras.Variable, Tensor]]


def first_nonfinite(
    model: keras.Model,
    batches: Iterable[Any],
    training: bool,
    values: Values = (),
) -> str | None:
    """Finds the first place where a signal is not finite.

    Runs the model op by op and looks at the arguments and the output of each
    layer. The first layer whose output is not finite is named: as the place
    itself if its arguments are finite, else as the layer whose input is not
    finite, since what ran between the layers must have made it so.

    Args:
        model: keras.Model. Its variables are read, never written.
        batches: Iterable of batches of inputs, run one after the other.
        training: bool. Whether to run the model in training mode.
        values: Pairs of a variable and the value that it has here. Defaults
            to the values that the variables hold.

    Returns:
        str. "at layer 'name'" or "in the input of layer 'name'"; None if no
        place is found.
    """
    calls: Counter[str] = Counter()
    places: list[str] = []

    def look(layer_call: LayerCall, rerun: Rerun, output: Any) -> Any:
        calls[layer_call.name] += 1
        if not _finite(output):
            count = calls[layer_call.name]
            number = f":{count}" if count > 1 else ""
            arguments_finite = _finite((rerun.args, rerun.kwargs))
            where = "at" if arguments_finite else "in the input of"
            places.append(f"{where} layer {layer_call.name + number!r}")
            raise _FoundError
        return output

    try:
        with (
            passes().stateless_scope(values),
            forward_hooks(after_call=look),
        ):
            for batch in batches:
                calls.clear()
                model(batch, training=training)
    except Exception:
        # The one above, which Keras may have wrapped; or one of the model,
        # which need not run op by op, and then the place remains unknown.
        pass
    return places[0] if places else None


class _FoundError(Exception):
    """Ends the forward pass."""


def _finite(values: Any) -> bool:
    return bool(
        all_finite(
            [
                x
                for x in keras.tree.flatten(values)
                # Where a function is traced a tensor has no value yet.
                if ops.is_tensor(x) and passes().has_value(x)
            ]
        )
    )


def first_too_large(
    model: keras.Model,
    batches: Iterable[Any],
    training: bool,
    values: Values = (),
) -> str | None:
    """Finds the first layer whose signal is too large to be squared.

    All layers are looked at, not only those that are measured.

    Args:
        model: keras.Model. Its variables are read, never written.
        batches: Iterable of batches of inputs, run one after the other.
        training: bool. Whether to run the model in training mode.
        values: Pairs of a variable and the value that it has here. Defaults
            to the values that the variables hold.

    Returns:
        str. The name of the layer; None if no place is found.
    """
    for batch in batches:
        try:
            result = forward_pass(
                model, batch, [lambda layer: True], training, values
            )
        except RuntimeError:
            # The pre-activation of a layer that is not selected is out of
            # reach.
            return None
        squares = [
            [passes().to_numpy(half_squares(stack.mean)), stack.half_squares]
            for stack in result.moments
        ]
        bad = ~np.isfinite(
            np.concatenate(
                [
                    np.stack([a, passes().to_numpy(b)]).astype(np.float64)
                    for a, b in squares
                ],
                axis=1,
            )
        ).all(axis=0)
        if bad.any():
            return result.names[min(np.asarray(result.order)[bad])]
    return None


def refuse_nonfinite(
    model: keras.Model,
    batches: Iterable[Any],
    training: bool,
    layer: str,
    values: Values = (),
) -> NoReturn:
    """Refuses a model whose signal does not stay finite, and names the place.

    Args:
        model: keras.Model. Its variables are read, never written.
        batches: Iterable of batches of inputs, run one after the other.
        training: bool. Whether to run the model in training mode.
        layer: str. The layer to name if no place before it is found.
        values: Pairs of a variable and the value that it has here. Defaults
            to the values that the variables hold.

    Raises:
        ValueError: Always.
    """
    place = first_nonfinite(model, batches, training, values)
    if place is not None:
        raise nonfinite(place)
    raise too_large(first_too_large(model, batches, training, values) or layer)


@contextlib.contextmanager
def naming_nonfinite(
    model: keras.Model, batch: Any, training: bool, values: Values = ()
) -> Iterator[None]:
    """Names the place where a signal is not finite, if a model fails within.

    What is not finite may be the reason of any other error.

    Args:
        model: keras.Model. The model that is run within.
        batch: The batch that it is run on.
        training: bool. Whether it is run in training mode.
        values: Pairs of a variable and the value that it has. Defaults to the
            values that the variables hold.

    Raises:
        ValueError: If there is such a place.
    """
    try:
        yield
    except Exception as error:
        place = first_nonfinite(model, [batch], training, values)
        if place is not None:
            raise nonfinite(place) from error
        raise
