"""(model, data) -> VarianceProfile, reduced where the model runs."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Sequence

import keras
import numpy as np

from keras_initx.inspection.selection import (
    Layers,
    Selector,
    identity,
    selectors,
)
from keras_initx.measurement.data import (
    Batches,
    Data,
    batches,
    samples_of,
    taken_as_inputs,
)
from keras_initx.measurement.nonfinite import culprit
from keras_initx.measurement.probe import Probe, Result
from keras_initx.profile import VarianceProfile
from keras_initx.validation import check_backend

_PROBES_KEPT = 8
one_at_a_time = threading.RLock()
_probes: weakref.WeakKeyDictionary[
    keras.Model, OrderedDict[Hashable, Probe]
] = weakref.WeakKeyDictionary()


def measure(
    model: keras.Model,
    data: Data,
    *,
    layers: Layers = None,
    training: bool = False,
    steps: int | None = None,
    batch_size: int | None = None,
    verbose: int = 0,
) -> VarianceProfile:
    """Sample variance of every layer's pre-activations, in this model on data.

    For each unit `y_j` (one output element) of a layer and samples `x`,

        mean_j     = <y_j(x)>                  over all samples
        variance_j = <(y_j(x) - mean_j)^2>     divided by n, not n - 1

    and the layer's row holds their averages over units, `variance_j` as
    `sample_variance` and `mean_j^2` as `squared_mean`. Of `n` samples with
    nothing in common the latter is not zero but `sample_variance / n`.

    The pre-activation is what enters the layer's activation, also where that
    is fused into the layer (`Dense(8, activation="relu")`); a layer without
    one is heard at its output. Of an LSTM or GRU it is the candidate's. A
    recurrent layer that returns sequences, and `TimeDistributed`, have a unit
    for every time step and feature. Each call of a shared layer has its row.

    Batches are reduced where the model runs, in float32 or better, and their
    moments merged exactly, so the size of a batch does not matter. The model
    is left as it was: with `training=True` it uses batch statistics and
    dropout, and keeps none of what they write. The compiled pass is kept for
    the next call with the same model, `layers` and `training`, unless a setting
    of a layer has changed; what changed inside of a function, or of an object
    that is no number, name, array, list or dict, goes unseen. Threads measure
    one after the other. A time step that a mask leaves out counts as a repeat
    of the one before.

    Of a model made in the scope of a `tf.distribute` strategy each replica
    takes its piece of every batch, and only what is kept of a piece, two
    numbers a layer and one a unit, leaves it. Under several workers all must
    call, with the same data, and all get the same profile; the message between
    them holds one number a unit, 42 MB a batch of ResNet50 at 224 x 224.

    Args:
        model: A `keras.Model` of any kind. Built here if it is not.
        data: Array `(samples, ...)`; a dict or tuple of such, one for each
            input of the model and none for labels; a `tf.data.Dataset` or
            `keras.utils.PyDataset` of batches, with or without labels. At
            least two samples.
        layers: Which layers to report: a layer, name, class, function
            `layer -> bool`, or a list of these. A picked layer that holds no
            kernel (a nested model, a wrapper) stands for those inside it that
            do. Default: every layer that holds a kernel.
        training: Whether to run the model in training mode.
        steps: At most so many batches. Default: all.
        batch_size: Samples a batch, for arrays. Default: 32.
        verbose: 1 shows a progress bar.

    Returns:
        A profile with a row for each layer, in the order in which the model
        calls them. Of branches side by side in a functional model that is the
        order of `model.layers`, the same for each call, clone and copy.

    Raises:
        ValueError: No such layer; no samples, or one, or empty ones; NaN or
            inf in the data or arising at a layer, which is named; a model that
            cannot be built on the data.
        RuntimeError: Keras runs on another backend than TensorFlow, or a
            layer runs where it cannot be heard (inside a loop of another).

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([
    ...     keras.Input((2,)),
    ...     keras.layers.Dense(3, "relu", kernel_initializer="ones"),
    ... ])
    >>> profile = measure(model, np.array([[0.0, 1.0], [0.0, 3.0]]))
    >>> float(profile.sample_variance[0]), float(profile.squared_mean[0])
    (1.0, 4.0)

    Reference: m^2 and v^2 of Luther & Seung, Physical Review Research 2,
    033135 (2020), arXiv:1902.04942, with the average over networks replaced by
    that over the units of the one network at hand.
    """
    check_backend("measure")
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(
            "model must be a keras.Model. "
            f"Received: model={model!r} of type {type(model).__name__}"
        )
    wanted = selectors(layers)
    all_batches = batches(data, batch_size, steps)
    build(model, all_batches)
    bar = keras.utils.Progbar(all_batches.count) if verbose else None
    # A probe that is kept may be asked for by two threads.
    with one_at_a_time:
        probe = _probe(model, wanted, training)
        result = probe.run(
            all_batches, wanted, on_batch=lambda: bar.add(1) if bar else None
        )
        _check(result, model, all_batches, training)
    return VarianceProfile(
        result.names,
        result.sample_variance,
        result.squared_mean,
        np.array(result.units),
    )


def _probe(
    model: keras.Model, wanted: Sequence[Selector], training: bool
) -> Probe:
    kept = _probes.setdefault(model, OrderedDict())
    key = (tuple(map(identity, wanted)), bool(training))
    if key not in kept or not kept[key].is_fresh():
        kept[key] = Probe(model, bool(training))
    kept.move_to_end(key)
    if len(kept) > _PROBES_KEPT:
        kept.popitem(last=False)
    return kept[key]


def build(model: keras.Model, data: Batches) -> None:
    """Build a model that is not built on the first batch.

    Raises:
        ValueError: It does not take that batch.
    """
    if model.built:
        return
    batch = next(iter(data), None)
    if batch is None:
        return
    symbolic = keras.tree.map_structure(
        lambda t: keras.KerasTensor(
            t.shape, keras.backend.standardize_dtype(t.dtype)
        ),
        batch,
    )
    with taken_as_inputs(model, batch):
        try:
            model(symbolic)
        except Exception as error:
            shapes = keras.tree.map_structure(lambda t: tuple(t.shape), batch)
            raise ValueError(
                "An unbuilt model is built on the first batch, so that must "
                f"be what it takes. Received: model={model.name!r}, data of "
                f"shape {shapes}, which it refuses: {error}"
            ) from error


def _check(
    result: Result | None, model: keras.Model, data: Batches, training: bool
) -> None:
    if result is None:
        raise ValueError("data must hold samples. Received: empty data")
    if not result.data_finite:
        raise ValueError("data must be finite. Received: NaN or inf in data")
    if 0 in result.units:
        raise ValueError(
            "A layer must have at least one unit. Received: none at layer "
            f"{result.names[result.units.index(0)]!r}"
        )
    place = result.first_not_finite()
    if place is not None:
        arises = culprit(model, data, training)
        if arises is not None:
            raise ValueError(
                f"The signal must stay finite. Received: NaN or inf {arises}"
            )
        place = _first_too_large(model, data, training) or place
        raise ValueError(
            "The signal must stay finite, and small enough to be squared in "
            f"float32. Received: NaN or inf at layer {place!r}"
        )
    if (result.samples < 2).any():
        received, total = "data of one sample", sum(map(samples_of, data))
        if total > 1:
            name = result.names[int(np.argmin(result.samples))]
            received = f"one sample at layer {name!r}, of {total} in data"
        raise ValueError(
            "Variance between samples needs at least two of them. "
            f"Received: {received}"
        )


def _first_too_large(
    model: keras.Model, data: Batches, training: bool
) -> str | None:
    """The first layer of all, not only of those asked for."""
    everything = (_any_layer,)
    probe = _probe(model, everything, training)
    for batch in data:
        try:
            place = probe.run([batch], everything).first_not_finite()
        except RuntimeError:
            # Some layer cannot be heard; the ones asked for could.
            return None
        if place is not None:
            return place
    return None


def _any_layer(layer: keras.layers.Layer) -> bool:
    return True
