"""The plain deep network of the command line, and what theory says of it."""

from __future__ import annotations

import keras
import numpy as np

from keras_initx import initializers, theory
from keras_initx.cli.errors import one_line
from keras_initx.profile import VarianceProfile

# Scaling the weights scales every layer alike: the sample fraction is the same.
SCALE_FREE = ("linear", "relu", "leaky_relu")
ACTIVATIONS = (
    *SCALE_FREE,
    *("tanh", "gelu", "silu", "elu", "selu", "softplus"),
)
# What theory is for: independent weights of mean zero and one finite variance
# in a layer. An initializer that draws such belongs in here.
RANDOM = (
    keras.initializers.Orthogonal,
    keras.initializers.RandomNormal,
    keras.initializers.RandomUniform,
    keras.initializers.TruncatedNormal,
    keras.initializers.VarianceScaling,
    initializers.FractionalMoment,
)
# Of the total variance, which theory takes to be 1 in every layer.
KEPT = (0.5, 2.0)
MOST_WEIGHTS = 2**29


class Chain(keras.Model):
    """Layers one after the other, as many as you like.

    `keras.Sequential` recurses once a layer, so Python ends it at about 980.
    """

    def __init__(self, layers: list[keras.layers.Layer]):
        super().__init__()
        self.chain = layers

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        for layer in self.chain:
            layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)

    def call(self, x):
        for layer in self.chain:
            x = layer(x)
        return x


def plain_network(
    inputs: int,
    depth: int,
    width: int,
    activation: str,
    initializer: str | None,
) -> keras.Model:
    """Dense layers 0 to `depth`, zero biases, and nothing else.

    Without `initializer` the first layer keeps the mean square of its input
    and the others the variance of the pre-activations: weights are normal of
    variance 1/fan_in, then critical_scale/fan_in. Set `keras`'s random seed to
    get the same network again; no two layers are equal.

    Raises:
        ValueError: No such initializer, or more weights than fit.
    """
    weights = inputs * width + depth * width**2
    if weights > MOST_WEIGHTS:
        raise ValueError(
            f"A plain network may have {MOST_WEIGHTS:,} weights (2 GiB); make "
            f"it less wide or less deep. Received: {weights:,} weights, of "
            f"depth={depth}, width={width} and {inputs} inputs"
        )

    def kernel(layer: int) -> keras.Initializer:
        if initializer is not None:
            return named_initializer(initializer)
        gain = theory.critical_scale(activation) if layer else 1.0
        return keras.initializers.VarianceScaling(
            gain, mode="fan_in", distribution="untruncated_normal"
        )

    layers = [
        keras.layers.Dense(
            width,
            activation,
            kernel_initializer=kernel(layer),
            name=f"layer_{layer}",
        )
        for layer in range(depth + 1)
    ]
    model = Chain(layers)
    model.build((None, inputs))
    return model


def named_initializer(name: str) -> keras.Initializer:
    """The initializer that Keras, or keras_initx, has under this name.

    Raises:
        ValueError: There is none, or it needs more than a name and a shape.
    """
    try:
        initializer = _found(name) or _found(f"keras_initx>{name}")
        if initializer is not None:
            initializer((2, 2))
    except Exception as error:
        raise ValueError(
            "initializer must draw a kernel from its name alone; others are "
            f"for Python. Received: initializer={name} ({one_line(error)})"
        ) from error
    if initializer is None:
        raise ValueError(
            "initializer must be a name that `keras-initx list` shows. "
            f"Received: initializer={name}"
        )
    return initializer


def _found(name: str) -> keras.Initializer | None:
    try:
        return keras.initializers.get(name)
    except ValueError:
        return None


def why_no_theory(
    measured: VarianceProfile, activation: str, initializer: str | None
) -> str | None:
    """Why theory does not speak of a plain network; None if it does."""
    if initializer is not None:
        if not isinstance(named_initializer(initializer), RANDOM):
            return (
                "it is for independent random weights of mean zero and one "
                f"variance in a layer, not known of {initializer}"
            )
        if activation not in SCALE_FREE:
            return (
                f"with {activation} it is for the variance of the weights that "
                "keeps a total variance of 1, which the default initializer "
                f"has and {initializer} has not"
            )
    if not np.isfinite(measured.sample_fraction[0]):
        return f"the signal is zero from {measured.layers[0]} on"
    if activation in SCALE_FREE:
        return None
    total = measured.total
    if not KEPT[0] <= total[0] <= KEPT[1]:
        return (
            f"with {activation} it is for a total variance of 1, and here it "
            f"begins with {total[0]:.3g}; scale the data to a mean square of 1"
        )
    if KEPT[0] <= total.min() and total.max() <= KEPT[1]:
        return None
    with np.errstate(divide="ignore"):
        far = int(np.argmax(np.abs(np.log(total))))
    return (
        f"with {activation} it is for a total variance of 1, and here that "
        f"went to {total[far]:.3g} at {measured.layers[far]}"
    )


def expected_profile(
    measured: VarianceProfile, activation: str
) -> VarianceProfile:
    """What theory says of a plain network, from its measured first layer on."""
    return theory.sample_variance_decay(
        len(measured) - 1,
        activation,
        initial_correlation=1 - float(measured.sample_fraction[0]),
    )
