"""One initializer and one seed for a whole model, at the fans of its layers."""

from __future__ import annotations

import keras

from keras_initx.initialization.choice import (
    Chosen,
    Initializer,
    check_roles,
    chooser,
    initializer_of,
    picked_places,
)
from keras_initx.initialization.plan import Plan, unbuilt
from keras_initx.initialization.record import Initialization
from keras_initx.initializers.base import is_int
from keras_initx.inspection.assign import assign_all
from keras_initx.inspection.checks import check_eager
from keras_initx.inspection.selection import Layers
from keras_initx.inspection.traversal import all_layers, places


def initialize(
    model: keras.layers.Layer,
    initializer: Chosen,
    *,
    seed: int | None = None,
    layers: Layers = None,
    bias_initializer: Initializer | None = "zeros",
    overwrite: bool = False,
) -> Initialization:
    """Draw all weights of a model anew, each at the fans of its layer.

    A Keras initializer sees a shape only, and so takes the wrong fans in
    depthwise, transposed, gated and attention layers. Here the fans, and the
    linear maps that a weight holds (gates, heads, groups), are those of the
    layer, as `kernel_geometry` tells them. By role,

        kernels, embeddings     `initializer`, for each of its maps
        biases                  `bias_initializer`; the forget gate of an LSTM
                                with `unit_forget_bias` then has ones
        norm scales, offsets,   the layer's own initializer, as if it were new
        branch scales, slopes,
        statistics

    Left alone, and listed with the reason: weights that are frozen
    (`trainable=False`), unknown (see `register_geometry`), without initializer,
    all of a layer that is quantized or has a LoRA adapter, and layers that are
    not built. A weight that layers share is drawn once, for the layer that
    holds it first. One initializer for all kernels is one for the depthwise
    kernel of a separable convolution and the recurrent kernel of an LSTM too:
    a dict tells them apart.

    Seeds. Each weight has its own, folded from `seed` and the weight's path in
    the model: the same seed gives the same model bit for bit, in any process,
    on each of several workers, whatever was built before, and weights that are
    drawn differ, query, key and value of attention included. Layers that you
    named keep their weights when others come or go. Those that Keras named, and
    those with a name that it might have given ("dense_1"), are counted among
    their like in the order of `model.layers`, which another layer may change.
    (Of two seeds that happen to be equal, once in 2^31 pairs of weights, the
    later in the model is folded again.) Paths begin at `model`: two equal
    layers that are given one by one get the same weights.

    Nothing is changed unless all of it can be. The optimizer is not touched:
    compile again for a fresh one.

    Args:
        model: A built `keras.Model` or layer.
        initializer: A Keras initializer, its name or config; or a dict of
            these by role, as in {"kernel": "he_normal", "recurrent kernel":
            "orthogonal"}, which leaves other roles alone; or a function of the
            layer that holds a weight (in attention a projection, in an LSTM its
            cell), which returns one or the other, or None to leave the layer
            alone. Seeds of initializers are not used, but for those that
            several layers must share, as of a `DepthProcess`.
        seed: An int of 64 bits. None draws one, which the record tells: a
            fresh one at each call, and the same one after the same
            `keras.utils.set_random_seed`. Defaults to None.
        layers: Which layers, and all that is inside them: a layer, name (as
            Keras has it, or as the table shows it), class, function
            `layer -> bool`, or a list of these. Default: all.
        bias_initializer: An initializer, its name or config, or None to leave
            biases as they are.
        overwrite: Whether to draw over a model that has been trained.

    Returns:
        A table with a row for each weight. Warns where an initializer that
        takes no seed gives two weights the same values.

    Raises:
        ValueError: The model is not built, or it or a model inside it has been
            trained and `overwrite` is False; there is no such initializer or
            layer; an initializer refuses a shape, or gives NaN or inf; one
            layer of a `DepthProcess` is to draw two weights.
        TypeError: `model` is no Keras layer.

    Example:

    >>> import keras, keras_initx as kx
    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 64)),
    ...     keras.layers.DepthwiseConv2D(3, activation="relu"),
    ...     keras.layers.Conv2D(32, 1),
    ... ])
    >>> kx.initialize(model, kx.initializers.FractionalMoment(), seed=7)
    <Initialization of 4 weights: 4 initialized, 0 skipped>

    Reference: derived here. Fans: Glorot & Bengio, AISTATS (2010).
    """
    if seed is None:
        # The generator from which Keras's own initializers draw theirs.
        seed = keras.initializers.RandomUniform().seed
    if not is_int(seed) or not -(2**63) <= seed < 2**63:
        raise ValueError(
            f"seed must be an int of 64 bits or None. Received: seed={seed!r}"
        )
    check_eager("initialize")
    choose = chooser(initializer)
    if bias_initializer is not None:
        bias_initializer = initializer_of(
            bias_initializer, "bias_initializer", "or None"
        )
    all_places = places(model)
    _check_untrained(model, overwrite)
    check_roles(initializer, all_places)
    picked = picked_places(model, all_places, layers)
    plan = Plan(int(seed), choose, bias_initializer)
    rows, values = [], []
    for place, is_picked in zip(all_places, picked, strict=True):
        row, value = plan.of(place, is_picked)
        rows.append(row)
        values.append(value)
    assign_all(
        [
            (place.weight, value)
            for place, value in zip(all_places, values, strict=True)
            if value is not None
        ]
    )
    return Initialization((*rows, *unbuilt(model)), int(seed))


def _check_untrained(model: keras.layers.Layer, overwrite: bool) -> None:
    if overwrite:
        return
    for layer in all_layers(model):
        optimizer = getattr(layer, "optimizer", None)
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            continue
        steps = int(keras.ops.convert_to_numpy(optimizer.iterations))
        if steps:
            raise ValueError(
                "The model has been trained, and its weights would be lost: "
                "say overwrite=True if they may be. Received: overwrite=False, "
                f"{layer.name!r} after {steps} steps"
            )
