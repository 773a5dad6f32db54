"""Initializes a whole model from one initializer and one seed."""

from __future__ import annotations

import keras

from keras_initx.initialization.choice import (
    Choice,
    Initializer,
    are_picked,
    check_roles,
    chooser,
)
from keras_initx.initialization.factors import forget_factors
from keras_initx.initialization.plan import Plan, unbuilt
from keras_initx.initialization.record import Initialization
from keras_initx.initialization.trained import check_untrained
from keras_initx.initializers.names import get
from keras_initx.inspection.assign import assign_all
from keras_initx.inspection.checks import check_eager
from keras_initx.inspection.equal_kernels import warn_of_equal_kernels
from keras_initx.inspection.selection import Layers
from keras_initx.inspection.traversal import inspect_model
from keras_initx.validation import check_bool, is_int, refuse


def initialize(
    model: keras.layers.Layer,
    initializer: Choice,
    *,
    seed: int | None = None,
    layers: Layers = None,
    bias_initializer: Initializer | None = "zeros",
    overwrite: bool = False,
) -> Initialization:
    """Draws all weights of a model anew, each at the fans of its layer.

    A Keras initializer sees nothing but a shape, and so takes the wrong fans
    in depthwise, transposed, gated and attention layers. Here the fans, and
    the linear maps that a weight holds (gates, heads, groups), are those of
    the layer, as `inspection.kernel_geometry` returns them. By role,

        kernels, embeddings     `initializer`, for each of its maps
        biases                  `bias_initializer`; the forget gate of an LSTM
                                with `unit_forget_bias` then has ones
        norm scales, offsets,   the layer's own initializer, as if it were new
        branch scales, slopes,
        statistics

    Skipped, and listed with the reason, are weights that are frozen
    (`trainable=False`), unknown (see `inspection.register_layer`) or without
    an initializer, all weights of a layer that is quantized or has a LoRA
    adapter, and layers that are not built. A weight that layers share is drawn
    once, for the layer that holds it first. One initializer for all kernels is
    also the one for the depthwise kernel of a separable convolution and the
    recurrent kernel of an LSTM; a dict tells them apart.

    "orthogonal" makes each map orthogonal as Keras does, with the window of a
    convolution flattened. That keeps the variance on average, and is no
    isometry of the convolution: over 50 layers of 16 channels and windows of 3
    by 3 the median singular value falls to 1e-7. "delta_orthogonal" is one.

    Each weight has a seed of its own, folded from `seed` and the path of the
    weight in the model. The same seed gives the same model bit for bit, in any
    process and on each of several workers, whatever was built before, and
    weights that are drawn differ, query, key and value of attention included.
    Layers that the user named keep their weights when other layers come or go.
    Layers that Keras named, and those with a name that Keras might have given
    ("dense_1"), are counted among their kind in the order of `model.layers`,
    which another layer may change. If two seeds happen to be equal, once in
    2^31 pairs of weights, the one later in the model is folded again. Paths
    begin at `model`: two equal layers that are initialized one by one get the
    same weights.

    Nothing is changed unless all of it can be. The optimizer is not changed:
    compile the model again for a fresh one.

    Args:
        model: keras.layers.Layer. A built model or layer, or a model without a
            `call` that holds built ones, as a GAN.
        initializer: A Keras initializer, its name or config (the names of this
            package's are names too: "FractionalMoment"); a dict of these
            by role, as in `{"kernel": "he_normal", "recurrent kernel":
            "orthogonal"}`, which skips other roles; or a function that is
            called with the layer that holds a weight (in attention a
            projection, in an LSTM its cell) and returns one or the other, or
            None to skip the layer. Seeds of initializers are not used, except
            those that several layers must share, as in a `DepthProcess`.
        seed: int. A seed of 64 bits. None draws a fresh one, which the record
            names; `keras.utils.set_random_seed` makes it repeatable. Defaults
            to None.
        layers: Which layers to initialize, with all that is inside them: a
            layer, a name (as Keras has it, or as the table shows it), a layer
            class, a function `layer -> bool`, or a list of these. Defaults to
            all layers.
        bias_initializer: An initializer, its name or config, or None to skip
            biases. Defaults to "zeros".
        overwrite: bool. Whether to draw over a model that has been trained.
            Defaults to False.

    Returns:
        An `Initialization`, with a row for each weight. Warns if an
        initializer that takes no seed gives two weights the same values, and
        if skipped layers that share an initializer have equal kernels.

    Raises:
        ValueError: If the model is not built, if it or a model inside it has
            been trained and `overwrite` is False, if there is no such
            initializer or layer, if an initializer refuses a shape or gives
            NaN or inf, or if two weights are to be drawn from one layer of a
            `DepthProcess`.
        TypeError: If `model` is no Keras layer.
        RuntimeError: If it is called inside a `tf.function`.

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
    seed = _seed(seed)
    overwrite = check_bool("overwrite", overwrite)
    check_eager("initialize")
    choose = chooser(initializer)
    if bias_initializer is not None:
        bias_initializer = get(bias_initializer, "bias_initializer", "or None")
    view = inspect_model(model)
    if not overwrite:
        check_untrained(view)
    check_roles(initializer, view)
    picked = are_picked(view, layers)
    plan = Plan(view, seed, choose, bias_initializer)
    decisions = []
    for weight, is_picked in zip(view.weights, picked, strict=True):
        decisions.append(plan.decide(weight, is_picked))
    new = [
        (weight.variable, value)
        for weight, (_, value) in zip(view.weights, decisions, strict=True)
        if value is not None
    ]
    assign_all(new)
    forget_factors([variable for variable, _ in new])
    # Weights that were skipped may still share what they started from.
    warn_of_equal_kernels(
        (weight.layer_name or weight.layer.name, weight.layer)
        for weight in view.weights
    )
    return Initialization(
        (*(row for row, _ in decisions), *unbuilt(view)), seed
    )


def _seed(seed: int | None) -> int:
    """The seed of the model as an int.

    Raises:
        ValueError: If it is neither None nor an int of 64 bits.
    """
    if seed is None:
        # The generator from which the initializers of Keras draw theirs.
        seed = keras.initializers.RandomUniform().seed
    if not is_int(seed) or not -(2**63) <= seed < 2**63:
        refuse("seed must be an int of 64 bits or None.", seed=seed)
    return int(seed)
