"""The plain deep network of `keras-initx report`, and its theory."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_initx import initializers, theory
from keras_initx._startup.arguments import ACTIVATIONS, MAX_WIDTH
from keras_initx._startup.errors import one_line
from keras_initx.profile import VarianceProfile
from keras_initx.theory.mean_field.activations import (
    POSITIVE_HOMOGENEOUS,
    resolve,
)
from keras_initx.theory.mean_field.quadrature import second_moment
from keras_initx.validation import did_you_mean

# With these, scaling the weights leaves the sample fraction as it is.
SCALE_FREE = tuple(name for name in ACTIVATIONS if name in POSITIVE_HOMOGENEOUS)
# Initializers for which the theory holds: they draw the weights of a layer
# independently, with mean zero and one finite variance.
INDEPENDENT = (
    keras.initializers.Orthogonal,
    keras.initializers.RandomNormal,
    keras.initializers.RandomUniform,
    keras.initializers.TruncatedNormal,
    keras.initializers.VarianceScaling,
    initializers.FractionalMoment,
)
# The total variance that counts as 1, which the theory assumes in every layer.
TOTAL_RANGE = (0.5, 2.0)
MAX_WEIGHTS = 2**29
# The shape of a kernel that no network has, since it is wider than allowed: a
# second draw of the same shape would repeat the weights of an initializer.
_TRIAL_SHAPE = (1, MAX_WIDTH + 1)


class Chain(keras.Model):
    """A model of layers in sequence, without a limit on their number.

    `keras.Sequential` calls itself once for each layer, so that Python's
    recursion limit ends it at about 980 layers.

    Args:
        layers: List of Keras layers.
    """

    def __init__(self, layers: list[keras.layers.Layer]):
        super().__init__()
        self.chain = layers

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Builds each layer on the output shape of the one before."""
        for layer in self.chain:
            layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)

    def call(self, inputs: Any) -> Any:
        """Returns the output of the last layer."""
        for layer in self.chain:
            inputs = layer(inputs)
        return inputs


def plain_network(
    inputs: int,
    depth: int,
    width: int,
    activation: str,
    initializer: str | None,
) -> keras.Model:
    """Returns a network of `depth` dense layers with zero biases.

    The weights are drawn from Keras's global random seed, and differ between
    layers.

    Args:
        inputs: int. Number of input features.
        depth: int. The number of layers, >= 1.
        width: int. Number of units in each layer.
        activation: str. Name of the activation in each layer.
        initializer: str or None. Name of the initializer of each kernel. If
            None, weights are normal, with variance 1/fan_in in layer 0, which
            keeps the mean square of its input, and critical_scale/fan_in in
            the others, which keeps the variance of the pre-activations.

    Raises:
        ValueError: If there is no such initializer, or more than `MAX_WEIGHTS`
            weights.
    """
    weights = inputs * width + (depth - 1) * width**2
    if weights > MAX_WEIGHTS:
        raise ValueError(
            f"A plain network may have {MAX_WEIGHTS:,} weights (2 GiB), so "
            f"reduce its width or depth. Received: {weights:,} weights, from "
            f"depth={depth}, width={width} and {inputs} inputs"
        )

    # As theory.critical_scale, whose warning is one of the report's notes.
    critical_scale = 1 / second_moment(resolve(activation, {}))

    def kernel_initializer(layer: int) -> keras.Initializer:
        if initializer is not None:
            return named_initializer(initializer)
        scale = critical_scale if layer else 1.0
        return keras.initializers.VarianceScaling(
            scale, mode="fan_in", distribution="untruncated_normal"
        )

    layers = [
        keras.layers.Dense(
            width,
            activation,
            kernel_initializer=kernel_initializer(layer),
            name=f"layer_{layer}",
        )
        for layer in range(depth)
    ]
    model = Chain(layers)
    model.build((None, inputs))
    return model


def named_initializer(name: str) -> keras.Initializer:
    """Returns the initializer of Keras or keras_initx with a given name.

    Raises:
        ValueError: If there is none, or it cannot be created from its name
            alone.
    """
    try:
        initializer = _initializer_or_none(name)
        if initializer is None:
            class_name = name.removeprefix("kx.initializers.")
            initializer = _initializer_or_none(f"keras_initx>{class_name}")
        if initializer is not None:
            initializer(_TRIAL_SHAPE)
    except Exception as error:
        raise ValueError(
            "initializer must be one that draws a kernel without further "
            f"arguments. Received: initializer={name} ({one_line(error)})"
        ) from error
    if initializer is None:
        ours = [f"kx.initializers.{each}" for each in initializers.__all__]
        hint = did_you_mean(
            name, [*_names_in_keras(), *initializers.__all__, *ours]
        )
        raise ValueError(
            "initializer must be a name that `keras-initx list` shows. "
            f"Received: initializer={name}.{hint}"
        )
    return initializer


def names_without_arguments() -> list[str]:
    """Returns the initializers of this package that need no arguments."""
    names = [f"kx.initializers.{name}" for name in initializers.__all__]
    return [name for name in names if _draws_a_kernel(name)]


def _draws_a_kernel(name: str) -> bool:
    try:
        named_initializer(name)
    except ValueError:
        return False
    return True


def _names_in_keras() -> list[str]:
    """Returns the names of Keras's initializers, but not of their classes."""
    return [name for name in dir(keras.initializers) if name.islower()]


def _initializer_or_none(name: str) -> keras.Initializer | None:
    try:
        return keras.initializers.get(name)
    except ValueError:
        return None


def notes_of_stability(activation: str, initializer: str | None) -> list[str]:
    """Returns a note if critical weights do not hold the total variance.

    Args:
        activation: str. Name of the activation.
        initializer: str or None. Name of the initializer; None for critical
            weights.
    """
    slope = theory.signal_stability(activation)
    if initializer is not None or slope <= 1:
        return []
    return [
        f"With {activation}, the total variance 1 that critical weights keep "
        f"is unstable: a deviation from it grows by a factor of {slope:.4g} in "
        "each layer, so that the signal of a deep plain network vanishes or "
        "explodes (theory.signal_stability)."
    ]


def why_no_theory(
    measured: VarianceProfile, activation: str, initializer: str | None
) -> str | None:
    """Returns why the theory does not hold for a plain network.

    Args:
        measured: VarianceProfile. The measured profile of the network.
        activation: str. Name of the activation.
        initializer: str or None. Name of the initializer; None for critical
            weights.

    Returns:
        str or None. A part of a sentence, or None if the theory holds.
    """
    if initializer is not None:
        if not isinstance(named_initializer(initializer), INDEPENDENT):
            return (
                "it needs independent random weights with mean zero and one "
                f"variance in a layer, and {initializer} is not known to draw "
                "such weights"
            )
        if activation not in SCALE_FREE:
            return (
                f"with {activation} it needs the variance of the weights that "
                "keeps the total variance at 1, which the default initializer "
                f"has and {initializer} has not"
            )
    if not np.isfinite(measured.sample_fraction[0]):
        return f"the signal is zero from {measured.layers[0]} on"
    if activation in SCALE_FREE:
        return None
    total = measured.total
    low, high = TOTAL_RANGE
    if not low <= total[0] <= high:
        return (
            f"with {activation} it needs a total variance of 1, which here "
            f"starts at {total[0]:.3g}; scale the data to a mean square of 1"
        )
    if low <= total.min() and total.max() <= high:
        return None
    with np.errstate(divide="ignore"):
        farthest = int(np.argmax(np.abs(np.log(total))))
    return (
        f"with {activation} it needs a total variance of 1, which here is "
        f"{total[farthest]:.3g} at {measured.layers[farthest]}"
    )


def expected_profile(
    measured: VarianceProfile, activation: str
) -> VarianceProfile:
    """Returns the theory that starts from the measured first layer."""
    return theory.sample_variance_decay(
        len(measured),
        activation,
        initial_correlation=1 - float(measured.sample_fraction[0]),
    )
