"""The sample variance at every layer of a model, measured on data."""

from __future__ import annotations

from typing import Any

import keras

from keras_initx.inspection.selection import Layers
from keras_initx.measurement.data import Data
from keras_initx.measurement.gradient import Loss
from keras_initx.measurement.meter import Meter
from keras_initx.profile import VarianceProfile


def measure(
    model: keras.Model,
    data: Data,
    *,
    layers: Layers = None,
    training: bool = False,
    gradient: bool = False,
    loss: Loss | None = None,
    labels: Any = None,
    steps: int | None = None,
    batch_size: int | None = None,
    verbose: int = 0,
) -> VarianceProfile:
    """Measures the sample variance of every layer's pre-activations on data.

    For each unit `y_j` (one output element) of a layer and samples `x`,

        mean_j     = <y_j(x)>                  over all samples
        variance_j = <(y_j(x) - mean_j)^2>     divided by n, not n - 1

    and the layer's row holds their averages over units, `variance_j` as
    `sample_variance` and `mean_j^2` as `squared_mean`. If the outputs of `n`
    samples are independent with mean zero, `squared_mean` is not zero but
    `sample_variance / n` on average.

    The pre-activation is what enters the layer's activation, also where that
    is fused into the layer (`Dense(8, activation="relu")`); of a layer without
    activation it is the output, of an LSTM or GRU the candidate's. A recurrent
    layer that returns sequences and a `TimeDistributed` layer have a unit for
    every time step and feature; a time step that a mask leaves out counts as a
    repetition of the one before. Each call of a shared layer has its own row.

    Samples need not lie along the first axis of a signal. Windows, heads or
    time steps that are folded into it, views that are concatenated along it,
    and axes before the samples are further units of each sample. A layer that
    no sample reaches, such as a position embedding or a map of learned queries,
    has a row of sample variance 0 and a note that says so. Where the graph and
    the shapes of the model leave a doubt, the first call also runs it on two
    samples, which tells where the numbers of each are. A layer whose signal
    mixes samples is refused by name.

    Behind the activation that follows a row,

        dead_fraction         units that are the same for all samples
        saturated_fraction    outputs of tanh, sigmoid, softsign and their hard
                              forms nearer to a bound than 1.5% of the range,
                              as a tanh beyond 0.97

    are shares of all units, and of all units and samples. The activation is
    the first one that the pre-activation reaches: that of the layer, or of a
    later layer behind a normalization, a dropout, a pooling or a sum, as in
    `Dense -> BatchNormalization -> Add -> ReLU`, where all rows that meet in
    the sum share it. Outside of activation layers, `tf.nn.relu` and its like
    count. Where no activation follows before the next kernel, the shares are
    NaN. A relu layer of which all units are dead passes nothing on, whatever
    the sample variance before it is.

    With `gradient=True`, the column `gradient` holds for each row the mean,
    over units and samples, of the squared gradient of

        sum over samples and units of z * y        y: the last row, or
        sum over samples of the loss               with `loss`

    at the pre-activation, where z is a standard normal vector for each sample,
    scaled to a mean square of 1. So the first of the two starts with 1 at the
    last row (at the logits, if the last layer has a softmax as its activation),
    and is what `predict` predicts; `gradient_ratio` is the ratio to the last
    row in both cases. Backward means from the last row: a row on which the last
    row does not depend, such as that of another output, is NaN, and a note says
    so. 0 is what float32 has, as behind dead units, or of gradients below
    1e-45. A row within a recurrent layer or `TimeDistributed` averages over all
    time steps. In float16 the gradient is scaled up where it starts, and so
    does not underflow.

    The vectors z are the same at each call, whatever the batches or replicas
    are. The mean over z is |J|^2 / units, with the Jacobian J of the last row
    by this one. For n samples of equally large gradients, the standard error of
    `gradient` over draws of z is at most a share (2 / n)^(1/2) of it, where J
    has rank 1, and about (2 / (n r))^(1/2) where it has r equal singular
    values. The backward pass needs the memory of a training step, and its time
    is that of a training step too.

    The profile's `remarks` say if layers normalize by moving statistics that
    have seen no data, since the model trains by others: `training=True` shows
    these. A warning names layers whose kernels are equal because they share an
    initializer or a seed.

    Batches are reduced where the model runs, in float32 or better, and their
    moments are merged exactly, so the result does not depend on the size of a
    batch. The model is left as it was: with `training=True` it uses batch
    statistics and dropout, and what they write is dropped.

    Every call compiles the model anew, so every change of the model is seen.
    To measure one model many times, use a `Meter`, which compiles it once.

    If the model was made in the scope of a `tf.distribute` strategy, each
    replica runs a part of every batch, and what leaves it is a few numbers a
    layer, one number a unit, and one more where an activation follows. With
    several workers all of them must call `measure`, with the same data, and
    all get the same profile; the message between them holds as many numbers.

    Args:
        model: keras.Model. A model of any kind. It is built here if it is not.
        data: Array of shape `(samples, ...)` of numbers or text; a dict, tuple
            or list of arrays, one for each input of the model, None for an
            optional input, and none for labels; a
            `tf.data.Dataset` or `keras.utils.PyDataset` of batches, with or
            without labels. At least two samples.
        layers: Which layers to report: a layer, its name, a layer class, a
            function `layer -> bool`, or a list of these. A selected layer that
            holds no kernel (a nested model, a wrapper) stands for those inside
            it that do. "dense_1/activation" is the output of the activation
            that is fused into the layer "dense_1", a row of its own. Defaults
            to every layer that holds a kernel.
        training: bool. Whether to run the model in training mode, in which
            `BatchNormalization` normalizes by the batch. Defaults to False.
        gradient: bool. Whether to measure the gradient at each row. Defaults to
            False.
        loss: str, `keras.losses.Loss`, function of labels and outputs, or a
            structure of these for several outputs. What the gradient is of,
            without the losses that layers add. A loss that averages over the
            weights or the mask of a batch depends on the batch size. Defaults
            to the last row.
        labels: Array, or a structure of arrays. What `loss` compares with.
            Defaults to the labels of a data set, whose weights count too.
        steps: int. The largest number of batches to use. Defaults to all.
        batch_size: int. Samples per batch, for arrays. Defaults to the batch
            size that the model fixes, or else to 32.
        verbose: int. 1 shows a progress bar, 0 nothing. Defaults to 0.

    Returns:
        A `VarianceProfile` with a row for each layer, in the order in which the
        model calls them. Parallel branches of a functional model come in the
        order of `model.layers`, which is the same for each call, clone and
        copy.

    Raises:
        ValueError: If `layers` selects no layer; if the data hold no samples,
            one sample or empty samples; if the data hold NaN or inf, or one
            arises at a layer, which is named; if `loss` and labels are not
            given both, or not for each output; if the signal of a layer mixes
            samples; if the model cannot be built on the data.
        RuntimeError: If a selected layer runs inside a loop of another layer.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([
    ...     keras.Input((2,)),
    ...     keras.layers.Dense(3, "relu", kernel_initializer="ones"),
    ... ])
    >>> profile = measure(model, np.array([[0.0, 1.0], [0.0, 3.0]]))
    >>> float(profile.sample_variance[0]), float(profile.squared_mean[0])
    (1.0, 4.0)
    >>> float(profile.dead_fraction[0])
    0.0

    Reference: m^2 and v^2 of Luther & Seung, Physical Review Research 2,
    033135 (2020), arXiv:1902.04942, with the average over networks replaced by
    the average over the units of the given network. Saturation of units: Glorot
    & Bengio, AISTATS (2010); the threshold of tanh is that of A. Karpathy's
    lectures (2022), scaled here to other bounds.
    """
    meter = Meter(
        model, layers=layers, training=training, gradient=gradient, loss=loss
    )
    return meter(
        data,
        steps=steps,
        batch_size=batch_size,
        verbose=verbose,
        labels=labels,
    )
