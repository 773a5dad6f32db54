"""Layers that apply an activation, and dropout.

For an activation phi of Gaussian u, and the gradients g before and g' after it,

    E h_i h_j = E phi(u_i) phi(u_j)
    E g_i g_j = E phi'(u_i) phi'(u_j) E g'_i g'_j

and for dropout in training mode, with a mask for each entry,

    E y_i^2 = E h_i^2 / (1 - rate),    E y_i y_j = E h_i h_j for i other than j

Reference: Schoenholz et al., arXiv:1611.01232, also for dropout. The rules of
shaped activations follow Li, Nica & Roy, arXiv:2206.02768.
"""

from __future__ import annotations

import functools
from typing import Any

import keras

from keras_initx.layers.shaped import ShapedActivation, ShapedReLU
from keras_initx.prediction.elementwise import Elementwise
from keras_initx.prediction.moment_tensor import MomentTensor
from keras_initx.prediction.propagation import Propagation
from keras_initx.prediction.refusals import Unpredictable
from keras_initx.prediction.registry import register_propagation

_L = keras.layers


@register_propagation(_L.Activation)
def _activation(steps: Propagation, layer: Any, x: MomentTensor) -> Any:
    return steps.activate(layer, x)


@register_propagation(_L.ReLU, _L.LeakyReLU, _L.ELU)
def _activation_layer(steps: Propagation, layer: Any, x: MomentTensor) -> Any:
    return steps.apply(_with_parameters(layer), x)


def _with_parameters(layer: Any) -> Any:
    """Returns an activation layer as a function of `keras.activations`."""
    activations = keras.activations
    if isinstance(layer, _L.ELU):
        return functools.partial(activations.elu, alpha=float(layer.alpha))
    slope = float(layer.negative_slope)
    if isinstance(layer, _L.LeakyReLU):
        return functools.partial(activations.leaky_relu, negative_slope=slope)
    limit = None if layer.max_value is None else float(layer.max_value)
    return functools.partial(
        activations.relu,
        negative_slope=slope,
        max_value=limit,
        threshold=float(layer.threshold),
    )


@register_propagation(_L.PReLU)
def _prelu(steps: Propagation, layer: Any, x: MomentTensor) -> MomentTensor:
    """A leaky relu, as long as all slopes are equal, as they are at first."""
    mean, variance = steps.weight(layer.alpha, layer, "alpha")
    if variance:
        raise Unpredictable("its slopes differ from unit to unit")
    return steps.apply(
        functools.partial(keras.activations.leaky_relu, negative_slope=mean), x
    )


@register_propagation(_L.Softmax)
def _softmax(
    steps: Propagation, layer: Any, x: MomentTensor, mask: Any = None
) -> MomentTensor:
    """An output that only may end a model, or scores of attention."""
    axis = layer.axis
    axes = axis if isinstance(axis, list | tuple) else [axis]
    of_keys = [a % len(x.shape) for a in axes] == [len(x.shape) - 1]
    if x.scores is not None and of_keys:
        query, key, before = x.scores
        x.scores = (query, key, mask if before is None else before)
        return x
    return steps.unknown(x.shape, "softmax mixes the units of a layer")


@register_propagation(ShapedReLU)
def _shaped_relu(steps: Propagation, layer: Any, x: MomentTensor) -> Any:
    """A function with one slope above 0 and another one below."""
    above, below = layer.slopes
    return steps.elementwise(_bent(above, below), x)


def _bent(above: float, below: float) -> Elementwise:
    return Elementwise(
        lambda z: keras.ops.where(z > 0, above * z, below * z),
        slopes=(above, below),
    )


@register_propagation(ShapedActivation)
def _shaped_activation(steps: Propagation, layer: Any, x: MomentTensor) -> Any:
    """The activation s phi(x / s), with the stretch s of the layer."""
    stretch = layer.a * layer.root
    steps.record(x)
    inner = steps.add([x], [1 / stretch])
    return steps.add([steps.apply(layer.activation, inner)], [stretch])


@register_propagation(
    _L.Dropout, _L.SpatialDropout1D, _L.SpatialDropout2D, _L.SpatialDropout3D
)
def _dropout(steps: Propagation, layer: Any, x: MomentTensor) -> MomentTensor:
    """A dropout; entries that share a mask are dropped together."""
    if not steps.training or layer.rate == 0:
        return x
    steps.check(x)
    shared: tuple[int, ...] = ()
    all_channels = False
    if not isinstance(layer, _L.Dropout):
        # A channel is dropped at all positions, or at none.
        shared = tuple(range(1, len(x.grid)))
    elif layer.noise_shape is not None:
        shape = layer.noise_shape
        shared = tuple(axis for axis in range(len(x.grid)) if shape[axis] == 1)
        # Stochastic depth drops a residual branch of a sample as a whole.
        all_channels = all(n == 1 for n in shape[len(x.grid) :])
        if not all_channels and 1 in shape[len(x.grid) :]:
            raise Unpredictable("its dropout drops some of the axes together")
    return steps.mask(x, layer.rate, shared, all_channels)


@register_propagation(_L.GaussianDropout, _L.GaussianNoise, _L.AlphaDropout)
def _noise(steps: Propagation, layer: Any, x: MomentTensor) -> MomentTensor:
    if steps.training:
        raise Unpredictable("it adds noise in training mode")
    return x


@register_propagation(_L.Identity, _L.InputLayer, _L.ActivityRegularization)
def _identity(steps: Propagation, layer: Any, x: MomentTensor) -> MomentTensor:
    return x
