"""Whether the data that a model looks up in a table are integers."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import numpy as np

from keras_initx.backend.passes import passes
from keras_initx.hooks.forward_hooks import forward_hooks
from keras_initx.inspection.traversal import ModelView
from keras_initx.measurement.data import arrays_of, fixed_size, map_arrays
from keras_initx.measurement.refusals import no_tokens

# So many random bits are in no two inputs the same.
_SAMPLES = 64


def check_tokens(view: ModelView, batch: Any) -> None:
    """Refuses data of an `Embedding` that are no integers, which it would cut.

    Where there are such data, the model is run once on random zeros and ones.
    What an `Embedding` then receives shows which input it looks up.

    Args:
        view: ModelView. A built model. It does not change.
        batch: Structure of tensors. A batch of its inputs.

    Raises:
        ValueError: If an `Embedding` looks up an input that has other numbers
            than integers.
    """
    model = view.model
    if not any(isinstance(la, keras.layers.Embedding) for la in view.layers):
        return
    arrays = [keras.ops.convert_to_numpy(x) for x in arrays_of(batch)]
    wrong = [
        x[np.isfinite(x) & (x != np.trunc(x))] if x.dtype.kind == "f" else x[:0]
        for x in arrays
    ]
    if not any(x.size for x in wrong):
        return
    rng = np.random.default_rng(0)
    size = fixed_size(model) or _SAMPLES
    bits = [rng.integers(0, 2, (size, *x.shape[1:])) for x in arrays]
    found = []

    def look(call: Any, rerun: Any, output: Any) -> Any:
        if isinstance(call.layer, keras.layers.Embedding):
            for x in keras.tree.flatten((rerun.args, rerun.kwargs)):
                if keras.ops.is_tensor(x) and passes().has_value(x):
                    found.append(keras.ops.convert_to_numpy(x))
        return output

    left = iter(zip(bits, arrays, strict=True))

    def tried(tensor: Any) -> Any:
        values, array = next(left)
        return keras.ops.convert_to_tensor(values.astype(array.dtype))

    # Only what it looks up matters.
    with (
        contextlib.suppress(Exception),
        passes().stateless_scope(()),
        forward_hooks(after_call=look),
    ):
        model(map_arrays(tried, batch), training=False)
    for one, values in zip(bits, wrong, strict=True):
        if values.size and any(np.array_equal(x, one) for x in found):
            raise no_tokens(float(values[0]))
