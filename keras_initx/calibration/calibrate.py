"""Kernels and biases scaled to the data, layer by layer, as it passes."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable
from typing import Any

import keras

from keras_initx.calibration.calibrator import Calibrator
from keras_initx.calibration.record import Calibration
from keras_initx.inspection.assign import assign_all
from keras_initx.inspection.checks import check_eager, check_model
from keras_initx.inspection.selection import Layers, Selector, selectors
from keras_initx.measurement.data import (
    Batches,
    Data,
    batches,
    build,
    samples_of,
)
from keras_initx.measurement.measure import one_at_a_time
from keras_initx.measurement.moments import all_finite
from keras_initx.validation import check_backend, is_real


def calibrate(
    model: keras.Model,
    data: Data,
    *,
    per: str = "unit",
    center: bool = True,
    target_variance: float = 1.0,
    layers: Layers = None,
    training: bool = False,
    batch_size: int | None = None,
    verbose: int = 0,
) -> Calibration:
    """Scale the layers of a model so that data keep their variance in it.

    A pre-activation y of each layer, with mean m and standard deviation s over
    the samples (of convolutions and sequences over positions too), becomes

        y  ->  sqrt(target_variance) (y - m) / s

    through the kernel and the bias. All it takes is ONE forward pass, in which
    each layer runs as it was, is corrected, and runs once more for the layers
    to come. With

        per="unit"                  m and s of each unit: the "sample
                                    initialisation" of Luther & Seung, after
                                    which the sample variance does not decay
        per="layer"                 of all units together: their "total" one
        per="layer", center=False   nothing is subtracted: LSUV, if the kernels
                                    were orthogonal (`kx.initialize(model,
                                    "orthogonal", seed=...)`)

    The price of the first: in a relu net squared gradients grow by
    pi / (pi - 1) = 1.47 a layer, as with Batch Normalization, and differences
    between signals likewise, rounding errors included. On the same data the
    moments repeat to 1e-6 as long as the same operations run in the same order;
    run otherwise (another machine, batch size or compiler) a relu net of 50
    layers has them to 1e-3, of 60 to 1e-2, and of 100 not at all; with bfloat16
    that is so after a few layers.

    Arrays are one batch. A data set of several batches, or arrays with a
    `batch_size`, are handled exactly, by moments that are merged over batches,
    at the price of a pass up to each layer in turn. Each pass must give the
    same samples: cache what is shuffled. With `training=True` all batches have
    the same dropout mask. Under several workers each calibrates its own copy of
    the model, so all must call, with the same data.

    Calibrated are dense, convolution (grouped, depthwise, separable and
    transposed too) and `EinsumDense` layers, at their first call if there are
    several. Left alone, and listed, are layers that a normalization follows
    directly, unless `layers` picks them; recurrent, attention and embedding
    layers and what runs once a time step; frozen and quantized kernels; layers
    of your own, and subclasses with a `call` of their own. A layer without
    bias is scaled only; units that are constant over the data are left as they
    are; both are listed too. Masks are not looked at: a time step that one
    leaves out counts as any other.

    Trained weights are scaled as well as others. The model is changed when all
    has been computed, or not at all.

    Args:
        model: A `keras.Model` of any kind. Built here if it is not.
        data: As in `measure`. Samples that the training will see: the more,
            the closer held-out ones are to the target. At least two.
        per: "unit" or "layer".
        center: Whether to subtract the mean.
        target_variance: The variance to reach, > 0.
        layers: Which layers to calibrate, as in `measure`. Default: all.
        training: Whether to run the model in training mode, in which Batch
            Normalization uses the batch.
        batch_size: Samples a batch, for arrays. Default: all at once.
        verbose: 1 shows a progress bar, which counts layers. Defaults to 0.

    Returns:
        The profile of what each layer hands on, with `skipped` and `notes`.
        Its units are channels; `measure`, whose units are single outputs, is
        the judge of the finished model.

    Raises:
        ValueError: As `measure` does; or an argument is none of these.
        RuntimeError: Keras runs on another backend than TensorFlow, or a
            picked layer runs where it cannot be heard.

    Example:

    >>> import keras, numpy as np, keras_initx as kx
    >>> model = keras.Sequential([keras.Input((8,))] + [
    ...     keras.layers.Dense(64, "relu") for _ in range(20)
    ... ])
    >>> x = np.random.normal(size=(256, 8))
    >>> done = kx.calibrate(model, x)
    >>> float(kx.measure(model, x).sample_variance[-1].round(2))
    1.0

    Reference: Luther & Seung, Physical Review Research 2, 033135 (2020),
    arXiv:1902.04942; Mishkin & Matas, ICLR (2016), arXiv:1511.06422 (LSUV).
    The growth of gradients: Yang et al., ICLR (2019), arXiv:1902.08129.
    """
    check_backend("calibrate")
    check_model(model)
    if per not in ("unit", "layer"):
        raise ValueError(
            f'per must be "unit" or "layer". Received: per={per!r}'
        )
    if not (is_real(target_variance) and 0 < target_variance < math.inf):
        raise ValueError(
            "target_variance must be a number > 0. "
            f"Received: target_variance={target_variance!r}"
        )
    check_eager("calibrate")
    wanted = selectors(layers)
    all_batches = _as_one(batches(data, batch_size), batch_size)
    # A layer's call is replaced for a while, which two threads cannot.
    with one_at_a_time:
        return _calibrated(
            model,
            all_batches,
            wanted,
            per == "unit",
            bool(center),
            float(target_variance),
            bool(training),
            keras.utils.Progbar(None, unit_name="layer") if verbose else None,
        )


def _calibrated(
    model: keras.Model,
    all_batches: Batches,
    wanted: tuple[Selector, ...],
    by_unit: bool,
    center: bool,
    target_variance: float,
    training: bool,
    bar: keras.utils.Progbar | None,
) -> Calibration:
    build(model, all_batches)
    calibrator = Calibrator(
        model, wanted, by_unit, center, target_variance, training
    )
    held = _held(all_batches)
    _check(held)
    calibrator.run(held, on_layer=lambda: bar.add(1) if bar else None)
    result = calibrator.result()
    assign_all(calibrator.new_values())
    return result


def _as_one(given: Batches, batch_size: int | None) -> Batches:
    if given.size is None or batch_size is not None:
        return given
    return dataclasses.replace(given, size=sys.maxsize, count=1)


def _held(data: Batches) -> Iterable[Any]:
    """The batches, to be run through as often as wanted."""
    found = iter(data)
    first = next(found, None)
    if first is None:
        raise ValueError("data must hold samples. Received: empty data")
    return [first] if next(found, None) is None else data


def _check(held: Iterable[Any]) -> None:
    samples = passes = 0
    for batch in held:
        passes += 1
        samples += samples_of(batch)
        floats = [x for x in keras.tree.flatten(batch) if x.dtype.is_floating]
        if not all(bool(all_finite(x)) for x in floats):
            raise ValueError(
                "data must be finite. Received: NaN or inf in data"
            )
    if not passes:
        raise ValueError(
            "Several batches are run through once for each layer, so data must "
            "give them anew each time. Received: data that give nothing the "
            "second time"
        )
    if samples < 2:
        raise ValueError(
            "Variance between samples needs at least two of them. "
            "Received: data of one sample"
        )
