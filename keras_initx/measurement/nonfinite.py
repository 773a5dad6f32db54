"""Where NaN or infinity arises, looked for only when there is one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from keras_initx.hooks.forward_hooks import forward_hooks
from keras_initx.hooks.recorder import Rerun
from keras_initx.inspection.selection import LayerCall


def culprit(
    model: keras.Model, batches: Iterable[Any], training: bool
) -> str | None:
    """The place where a signal stops being finite, None if it is not found.

    Runs the model op by op and looks at what each layer is given and returns.
    The first layer that makes NaN or infinity of finite arguments is named. A
    layer whose arguments are not finite, while all that ran before returned
    finite tensors, is innocent: they were made between the layers.

    Args:
        model: Its variables are read, never written.
        batches: What it is run on, one after the other.
        training: Whether to run it in training mode.

    Returns:
        "at layer 'name'" or "in the input of layer 'name'".
    """
    calls, found = Counter(), []

    def look(heard: LayerCall, rerun: Rerun, output: Any) -> Any:
        calls[heard.name] += 1
        if not _finite(output):
            count = calls[heard.name]
            name = f"{heard.name}:{count}" if count > 1 else heard.name
            where = (
                "at"
                if _finite((rerun.args, rerun.kwargs))
                else "in the input of"
            )
            found.append(f"{where} layer {name!r}")
            raise _FoundError
        return output

    try:
        with (
            keras.StatelessScope(),
            forward_hooks(after_call=look),
        ):
            for batch in batches:
                calls.clear()
                model(batch, training=training)
    except Exception:
        # Ours, which Keras may have wrapped; or the model's own, for it need
        # not run op by op, and then the place remains unknown.
        pass
    return found[0] if found else None


class _FoundError(Exception):
    """Ends the run."""


def _finite(tensors: Any) -> bool:
    return all(
        bool(tf.reduce_all(tf.math.is_finite(x)))
        for x in keras.tree.flatten(tensors)
        # Inside of a tf.function a tensor has no value yet.
        if tf.is_tensor(x) and hasattr(x, "numpy") and x.dtype.is_floating
    )
