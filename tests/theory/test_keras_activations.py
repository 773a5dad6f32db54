"""theory accepts the activations of Keras, by name and as objects."""

import functools
import inspect
import math
import warnings

import keras
import numpy as np
import pytest

from keras_initx import theory
from keras_initx.theory import Activation
from keras_initx.theory.mean_field import activations
from tests.theory.test_mean_field import hard_tanh, map_by_definition, mean

RHO = np.array([-0.9, 0.0, 0.4, 0.9])
# Points where each is not smooth, apart from 0.
KINKS = {
    "relu6": (6,),
    "hard_silu": (-3, 3),
    "hard_swish": (-3, 3),
    "hard_sigmoid": (-3, 3),
    "sparse_plus": (-1, 1),
    "sparse_sigmoid": (-1, 1),
    "hard_tanh": (-1, 1),
    "soft_shrink": (-0.5, 0.5),
    "hard_shrink": (-0.5, 0.5),
}
# Without a counterpart in Keras.
OURS = {"erf", "arctan", "sine", "rrelu"}
NOT_ACTIVATIONS = {"get", "serialize", "deserialize"}
IN_KERAS = {
    name
    for name in dir(keras.activations)
    if inspect.isfunction(getattr(keras.activations, name))
} - NOT_ACTIVATIONS
ACCEPTED = sorted(
    {*activations._DEFAULTS, *activations._ALIASES} - OURS, key=str
)
REFUSED = sorted(activations._REFUSED)


def test_every_activation_of_keras_is_accepted_or_refused_with_a_reason():
    assert not {*ACCEPTED} & {*REFUSED}
    assert {*ACCEPTED, *REFUSED} == IN_KERAS


def in_float64(function):
    return lambda z: np.asarray(function(np.asarray(z, np.float64)))


def quiet_scale(*arguments, **parameters):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return theory.critical_scale(*arguments, **parameters)


@pytest.mark.slow
@pytest.mark.parametrize("name", ACCEPTED)
def test_moments_are_those_of_keras_function(name):
    phi = in_float64(getattr(keras.activations, name))
    edges = sorted({-10, -2, 0, 2, 10, *KINKS.get(name, ())})
    # Keras keeps the constants of these in float32.
    rtol = 1e-6 if name in {"gelu", "selu", "leaky_relu"} else 1e-10

    z = np.linspace(-7, 7, 141)
    values = activations.resolve(name, {}).function(z)
    np.testing.assert_allclose(values, phi(z), rtol=rtol, atol=1e-13)

    square = mean(lambda z: phi(z) ** 2, edges)
    fourth = mean(lambda z: (z * phi(z)) ** 2, edges)
    slope = (fourth / square - 1) / 2
    assert quiet_scale(name) == pytest.approx(1 / square, rel=rtol)
    assert theory.signal_stability(name) == pytest.approx(slope, rel=rtol)
    if name == "hard_shrink":
        with pytest.raises(ValueError, match=r"continuous.*'hard_shrink'"):
            theory.correlation_map(0.5, name)
        return
    expected = [map_by_definition(phi, rho, edges) for rho in RHO]
    result = theory.correlation_map(RHO, name)
    np.testing.assert_allclose(result, expected, rtol=0, atol=rtol)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("elu", {"alpha": 0.3}),
        ("celu", {"alpha": 2.5}),
        ("gelu", {"approximate": True}),
        ("leaky_relu", {"negative_slope": 0.01}),
        ("squareplus", {"b": 0.5}),
        ("squareplus", {"b": 0.0}),
        ("soft_shrink", {"threshold": 1.2}),
        ("hard_shrink", {"threshold": 0.0}),
    ],
)
def test_parameters_are_those_of_keras_function(name, parameters):
    function = getattr(keras.activations, name)
    z = np.linspace(-7, 7, 140)
    ours = activations.resolve(name, parameters).function(z)
    expected = np.asarray(function(z, **parameters))
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-13)
    record = Activation(name, **parameters)
    assert Activation(functools.partial(function, **parameters)) == record
    assert Activation(function, **parameters) == record != Activation(name)


@pytest.mark.parametrize("name", ACCEPTED)
def test_function_of_keras_stands_for_its_name(name):
    record = Activation(name)
    assert Activation(getattr(keras.activations, name)) == record
    assert Activation(keras.activations.get(name)) == record
    assert Activation(keras.layers.Activation(name)) == record


@pytest.mark.parametrize("name", REFUSED)
def test_activation_that_is_no_function_of_one_unit_is_refused(name):
    reason = activations._REFUSED[name].partition(";")[0]
    message = rf"unit alone, .*{reason}.* Received: activation='{name}'"
    for activation in (name, getattr(keras.activations, name)):
        with pytest.raises(ValueError, match=message):
            theory.critical_scale(activation)


LAYERS = keras.layers


@pytest.mark.parametrize(
    ("activation", "record"),
    [
        (LAYERS.ReLU(), Activation("relu")),
        (LAYERS.ReLU(max_value=6), Activation("relu6")),
        (LAYERS.ReLU(negative_slope=0.1), Activation("leaky_relu", 0.1)),
        (LAYERS.LeakyReLU(), Activation("leaky_relu", 0.3)),
        (LAYERS.LeakyReLU(negative_slope=0.2), Activation("leaky_relu")),
        (LAYERS.ELU(alpha=2.0), Activation("elu", alpha=2)),
        (LAYERS.Activation(LAYERS.ELU()), Activation("elu")),
        (LAYERS.Activation(np.tanh), Activation(np.tanh)),
        # The default of keras.ops is another than that of keras.activations.
        (keras.ops.gelu, Activation("gelu", approximate=True)),
        (keras.ops.silu, Activation("silu")),
        (keras.ops.tanh, Activation("tanh")),
        (
            functools.partial(keras.activations.relu, negative_slope=0.1),
            Activation("leaky_relu", 0.1),
        ),
    ],
)
def test_layer_of_keras_stands_for_name_and_parameters(activation, record):
    assert Activation(activation) == record
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert theory.critical_scale(activation) == theory.critical_scale(
            record
        )


@pytest.mark.parametrize(
    "options",
    [
        {"max_value": 1.5},
        {"max_value": 2.0, "negative_slope": 0.3},
        {"threshold": 0.7, "negative_slope": 0.2},
        {"threshold": 0.5, "max_value": 3.0, "negative_slope": 0.1},
    ],
)
def test_relu_with_a_maximum_or_a_threshold(options):
    record = Activation(LAYERS.ReLU(**options))
    assert record == Activation(
        functools.partial(keras.activations.relu, **options)
    )
    z = np.linspace(-4, 4, 80)
    np.testing.assert_allclose(
        record.function(z), keras.activations.relu(z, **options), atol=1e-7
    )
    edges = sorted({-10, 0, 10, *record.breakpoints})
    square = mean(lambda z: record.function(z) ** 2, edges)
    assert quiet_scale(record) == pytest.approx(1 / square, rel=1e-10)


@pytest.mark.parametrize(
    "layer",
    [LAYERS.Dense(3), LAYERS.PReLU(), keras.Sequential()],
    ids=lambda layer: type(layer).__name__,
)
def test_other_layers_of_keras_are_refused(layer):
    with pytest.raises(ValueError, match=r"layers Activation, ELU, .*Received"):
        theory.critical_scale(layer)
    with pytest.raises(ValueError, match="it mixes the units of a layer"):
        theory.critical_scale(LAYERS.Softmax())


def test_callables_of_other_origin_stay_callables():
    def gelu(z):
        return 0.5 * z

    for function in (gelu, np.tanh, functools.partial(np.power, 2.0)):
        assert Activation(function).function is function
    assert theory.critical_scale(gelu) == pytest.approx(4, rel=1e-13)
    assert Activation(keras.ops.sin).function is keras.ops.sin


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("celu", None, None, 0.0), "alpha must be .* > 0. Received: alpha=0"),
        (("soft_shrink", *[None] * 5, -1), ">= 0. Received: threshold=-1"),
        (("squareplus", *[None] * 6, -1), ">= 0. Received: b=-1"),
        (("tanh", *[None] * 5, 0.5), "'tanh' accepts none. Received: thresh"),
    ],
)
def test_parameters_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Activation(*arguments)


# The slope of the variance at its fixed point

GAUSS_AT_1 = math.exp(-0.5) / math.sqrt(2 * math.pi)
INSIDE_1 = math.erf(math.sqrt(0.5)) - 2 * GAUSS_AT_1
GELU = (
    1 / 3 + 1 / (2 * math.pi * math.sqrt(3)),
    1 / (3 * math.pi * math.sqrt(3)),
)


@pytest.mark.parametrize(
    ("activation", "parameters", "slope", "published"),
    [
        # E z phi phi' / E phi^2, with Stein's lemma.
        ("gelu", {}, 1 + GELU[1] / GELU[0], 1.144),
        ("silu", {}, None, 1.173),
        ("mish", {}, None, 1.076),
        ("relu", {}, 1, 1),
        ("leaky_relu", {}, 1, 1),
        ("tanh", {}, None, 0.461),
        # V(q) is proportional to arcsin(2 q / (1 + 2 q)).
        (
            "erf",
            {},
            2 / 9 / math.sqrt(5 / 9) / math.asin(2 / 3),
            0.409,
        ),
        ("elu", {}, None, 0.891),
        ("selu", {}, None, 0.783),
        ("softplus", {}, None, 0.492),
        (
            "hard_tanh",
            {},
            INSIDE_1 / (INSIDE_1 + math.erfc(math.sqrt(0.5))),
            0.385,
        ),
        # V(q) is exp(2 q) / exp(2).
        ("exponential", {}, 2, None),
        ("squareplus", {"b": 3.0}, 2 / 5, None),
        # V(q) is (1 - exp(-2 q)) / (1 - exp(-2)).
        (np.sin, {"breakpoints": ()}, 2 / (math.exp(2) - 1), 0.313),
        (lambda z: z**3, {}, 3, None),
        (np.abs, {}, 1, None),
        # The mean square of a jump does not depend on q.
        (np.sign, {}, 0, None),
    ],
)
def test_signal_stability(activation, parameters, slope, published):
    result = theory.signal_stability(activation, **parameters)
    if slope is not None:
        assert result == pytest.approx(slope, rel=1e-12, abs=1e-13)
    if published is not None:
        assert result == pytest.approx(published, abs=5.1e-4)


@pytest.mark.parametrize("name", ["gelu", "mish", "tanh", "tanh_shrink"])
def test_signal_stability_is_the_slope_of_the_map(name):
    phi = activations.resolve(name, {}).function
    scale = quiet_scale(name)

    def variance(q):
        return scale * mean(lambda z: phi(math.sqrt(q) * z) ** 2)

    h = 1e-4
    assert variance(1) == pytest.approx(1, rel=1e-8)
    assert (variance(1 + h) - variance(1 - h)) / (2 * h) == pytest.approx(
        theory.signal_stability(name), abs=1e-6
    )


@pytest.mark.parametrize("activation", ["gelu", "silu", "mish", "exponential"])
def test_critical_scale_warns_where_variance_one_is_unstable(activation):
    slope = theory.signal_stability(activation)
    message = rf"unstable for {activation}: .* {slope:.4g} in every layer"
    with pytest.warns(UserWarning, match=message) as caught:
        scale = theory.critical_scale(activation)
    assert caught[0].filename == __file__
    assert scale == quiet_scale(activation)


@pytest.mark.parametrize(
    "activation",
    ["relu", "tanh", "elu", "relu6", lambda z: np.maximum(z, 0.0), hard_tanh],
)
def test_critical_scale_is_silent_where_variance_one_is_kept(activation):
    parameters = {"breakpoints": (-1, 1)} if activation is hard_tanh else {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theory.critical_scale(activation, **parameters)
