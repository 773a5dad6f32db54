"""Scales the kernels and biases of a model to data."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import keras

from keras_initx.backend.passes import passes
from keras_initx.calibration.calibrator import Calibrator
from keras_initx.calibration.preparation import prepare
from keras_initx.calibration.record import Calibration
from keras_initx.inspection.assign import assign_all
from keras_initx.inspection.checks import (
    check_call,
    check_eager,
    check_model,
)
from keras_initx.inspection.selection import Layers, selectors
from keras_initx.inspection.traversal import inspect_model
from keras_initx.measurement.data import Data, batches
from keras_initx.validation import (
    check_bool,
    check_choice,
    check_real,
    refuse,
)

# Models may share layers, so one lock is for all of them.
_one_at_a_time = threading.RLock()


def calibrate(
    model: keras.Model,
    data: Data,
    *,
    per: str = "unit",
    center: bool = True,
    target_variance: float = 1.0,
    layers: Layers = None,
    training: bool = False,
    steps: int | None = None,
    batch_size: int | None = None,
    verbose: int = 0,
) -> Calibration:
    """Scales the layers of a model so that the variance of data is kept.

    The pre-activation y of each layer, with mean m and standard deviation s
    over the samples (in convolutions and sequences over positions too),
    becomes

        y  ->  sqrt(target_variance) (y - m) / s

    through its kernel and bias. With

        per="unit"                  m and s are those of each unit: the "sample
                                    initialization" of Luther & Seung, after
                                    which the sample variance does not decay
        per="layer"                 m and s are those of all units together:
                                    their "total" initialization
        per="layer", center=False   nothing is subtracted: LSUV, if the kernels
                                    were orthogonal (`kx.initialize(model,
                                    "orthogonal")`)

    `calibrate` is for networks of moderate depth. With `per="unit"` about ten
    relu layers train faster than with He weights, and 30 or 50 layers train
    worse, since squared gradients and squared differences between signals are
    multiplied by pi / (pi - 1) = 1.47 in each layer, as with Batch
    Normalization. For example, 30 dense relu layers of 128 units, trained on
    4000 images of MNIST for five epochs, reached a validation accuracy of

        He weights                            .74 to .82
        He weights, calibrated                .50 to .64
        residual branches, `BranchScale`      .89 to .92

    (`benchmarks/first_aid.py`), while 30 convolutions of 16 channels reached
    .08 to .87, .84 to .91 and .88 to .92.

    If the differences between samples vanish in a deep network, put its layers
    into residual branches with `layers.BranchScale`.

    There is one forward pass for each batch. In it a layer runs as it was, is
    corrected, and runs once more for the layers after it. The passes wait for
    one another at each layer, and their moments are merged exactly, so the
    result does not depend on the size of a batch. Memory holds one signal of
    all samples, and what one batch needs. Layers must not hand tensors to one
    another through attributes, and a layer that mixes the samples of a batch
    needs all of them in one. With `training=True` all batches have the same
    dropout mask. Before all passes two samples run through the model, to find
    normalizations and the size of a batch.

    When the calibrated model runs again on the same data, its moments agree
    with those of the calibration to 1e-6, as long as the same operations run in
    the same order. On another machine, in other batches or compiled, those of a
    relu network in float32 agree to

        50 layers       1e-3
        60 layers       1e-2
        100 layers      not at all

    since a rounding error grows as other differences do. With bfloat16 they do
    not agree after a few layers.

    A layer is calibrated if its rule says that its units are linear in a kernel
    (`inspection.register_layer`): dense, convolution (grouped, depthwise,
    separable and transposed too) and `EinsumDense` layers, at their first call
    if there are several. Skipped, and listed, are layers that a
    normalization follows directly, unless `layers` picks them; recurrent,
    attention and embedding layers, and layers that run once a time step;
    frozen and quantized kernels; layers that no sample reaches, such as maps of
    learned vectors; layers without such a rule, and subclasses with a `call` of
    their own. A layer without bias is scaled only; units that
    are constant over the data stay as they are; both are listed too. Masks are
    not looked at: a masked time step counts as any other.

    The model is changed when all has been computed, or not at all. In contrast
    to `initialize`, a model that has been trained is not refused: its weights
    are scaled as any others, after which it computes another function. Save
    them before if they are needed. Under several workers each calibrates its
    own copy of the model, so all must call, with the same data.

    Args:
        model: keras.Model. A model of any kind. It is built if it is not.
        data: Data as in `measure`: samples that the training will see. The
            more there are, the closer held-out ones come to the target. At
            least two samples.
        per: str. "unit" or "layer". Defaults to "unit".
        center: bool. Whether to subtract the mean. Defaults to True.
        target_variance: float. The variance to reach, > 0. Defaults to 1.
        layers: Which layers to calibrate, as in `measure`. Defaults to all.
        training: bool. Whether to run the model in training mode, in which
            Batch Normalization uses the batch. Defaults to False.
        steps: int. The largest number of batches to use. Defaults to all, of
            which there may be 1000.
        batch_size: int. Samples per batch, for arrays. Defaults to so many
            that the largest signal of a batch has about 4 million numbers; to
            all samples with `training=True`, or if there are no more than 32
            of them; to 32 if `steps` is given.
        verbose: int. 1 shows a progress bar, which counts layers, 0 nothing.
            Defaults to 0.

    Returns:
        A `Calibration`: the profile of the pre-activation of each layer after
        its correction, with `skipped` and `notes`. Its units are channels,
        while those of `measure` are single outputs. Measure the calibrated
        model to see its signal with all rounding errors.

    Raises:
        ValueError: As `measure` does, or if an argument is none of these, or
            if a layer does not have the moments that follow from its rule.
        RuntimeError: If it is called inside a `tf.function`, or if a picked
            layer runs inside a loop of another layer.

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
    check_call(check_model(model))
    by_unit = check_choice("per", per, ("unit", "layer")) == "unit"
    center = check_bool("center", center)
    target_variance = check_real("target_variance", target_variance, "(0, inf)")
    training = check_bool("training", training)
    if verbose not in (0, 1):
        refuse("verbose must be 0 or 1.", verbose=verbose)
    check_eager("calibrate")
    chosen = selectors(layers)
    all_batches = batches(data, batch_size, steps, model)
    is_array = all_batches.size is not None
    # All weights of a model are then those of one calibration: two at a time
    # would build it twice, and each assign some of its weights last.
    with (
        _one_at_a_time,
        passes().restoring(lambda: _layers(model)),
        passes().without_gradients(),
    ):
        view, excluded, prepared_batches = prepare(
            model,
            all_batches,
            chosen=chosen,
            choose_size=is_array and batch_size is None and steps is None,
            find_normalized=layers is None,
            training=training,
        )
        count = sum(map(view.measured_by_default, view.layers))
        bar = (
            keras.utils.Progbar(
                count if layers is None else None, unit_name="layer"
            )
            if verbose
            else None
        )
        calibrator = Calibrator(
            view,
            chosen,
            by_unit,
            center,
            target_variance,
            training,
            excluded,
            on_layer=lambda: bar.add(1) if bar else None,
        )
        calibrator.run(prepared_batches)
        result = calibrator.result()
        assign_all(calibrator.new_values())
    if bar:
        bar.update(len(result), finalize=True)
    return result


def _layers(model: keras.Model) -> Sequence[keras.layers.Layer]:
    """The layers of a model, which need not be built."""
    return inspect_model(model).layers if model.built else [model]
