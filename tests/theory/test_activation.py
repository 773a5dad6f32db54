"""theory.Activation: its parameters, and the functions that accept it."""

import inspect
import re

import numpy as np
import pytest

from keras_initx import initializers, theory
from keras_initx.theory import Activation
from keras_initx.theory.mean_field import activations


def hard_tanh(z):
    return np.clip(z, -1, 1)


LEAKY = Activation("leaky_relu", negative_slope=0.4)
# function: (further arguments, activation, its parameters)
CALLS = {
    theory.asymptotic_sample_variance: ((9,), LEAKY),
    theory.batch_norm_gradient_growth: ((), LEAKY),
    theory.batch_norm_raw_variance: ((), Activation("elu", alpha=2.0)),
    theory.correlation_map: (
        (0.3,),
        Activation(hard_tanh, breakpoints=(-1, 1)),
    ),
    theory.critical_exponent: (
        ("fractional", 0.7, 2),
        Activation("leaky_relu", negative_slope=1.0),
    ),
    theory.critical_scale: ((), Activation("elu", alpha=0.5)),
    theory.edge_of_chaos: ((), LEAKY),
    theory.fractional_moment_std: (
        (1.0, 64),
        Activation("rrelu", negative_slope_range=(0.2, 0.8)),
    ),
    theory.jacobian_moments: ((5,), LEAKY),
    theory.log_norm_drift_and_variance: ((1.0, 64), LEAKY),
    theory.nngp_kernel: (([[1.0, 2.0]], 2), LEAKY),
    theory.paired_scale: ((), LEAKY),
    theory.residual_growth: ((9, 0.5), LEAKY),
    theory.residual_log_norm: ((9, 7, 0.5), LEAKY),
    theory.sample_variance_decay: ((3,), LEAKY),
    theory.shaped_variance_drift: ((), Activation("tanh")),
    theory.signal_fixed_point: (
        (),
        Activation(hard_tanh, breakpoints=(-1, 1)),
    ),
    theory.signal_stability: ((), Activation("gelu", approximate=True)),
    theory.stable_scale_recursion: (
        (2, 1.5),
        Activation(hard_tanh, breakpoints=(-1, 1)),
    ),
    theory.stable_weight_scale: ((1.5, 64), LEAKY),
    theory.tangent_kernel: (([[1.0, 2.0]], 2), LEAKY),
}


def test_every_function_of_an_activation_is_in_the_table():
    functions = {
        getattr(theory, name)
        for name in theory.__all__
        if inspect.isfunction(getattr(theory, name))
    }
    result = {
        function
        for function in functions
        if "activation" in inspect.signature(function).parameters
    }
    assert result == set(CALLS)


@pytest.mark.parametrize("function", CALLS, ids=lambda f: f.__name__)
def test_record_stands_for_name_and_parameters(function):
    arguments, activation = CALLS[function]
    result = function(*arguments, activation=activation)
    expected = function(
        *arguments,
        activation=activation.function,
        **activation.parameters(),
    )
    np.testing.assert_equal(result, expected)
    if activation.parameters():
        default = Activation("relu")
        if function is theory.stable_scale_recursion:
            default = Activation("tanh")
        other = function(*arguments, activation=default)
        assert np.any(np.asarray(result != other))
        with pytest.raises(ValueError, match=r"to the Activation.*Received: "):
            function(
                *arguments, activation=activation, **activation.parameters()
            )


ALIASES = {"swish", "hard_swish"}
HOMOGENEOUS = {"linear", "relu", "leaky_relu", "rrelu"}


@pytest.mark.parametrize(
    ("documented", "names"),
    [
        (Activation, {*activations.DETERMINISTIC, "rrelu", *ALIASES}),
        (
            theory.correlation_map,
            # It jumps.
            {*activations.DETERMINISTIC, *ALIASES} - {"hard_shrink"},
        ),
        (theory.fractional_moment_std, HOMOGENEOUS),
        (initializers.FractionalMoment, HOMOGENEOUS),
        (initializers.AlphaStable, HOMOGENEOUS),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_docstrings_name_the_activations_that_are_accepted(documented, names):
    entry = re.search(
        r"\n {4,8}(?:function|activation): (.*?)(?:; or|, a leaky|, as in)",
        documented.__doc__,
        re.DOTALL,
    )
    assert set(re.findall(r'"(\w+)"', entry[1])) == names
    for name in names:
        assert Activation(name).name in {*activations._DEFAULTS}


def test_names_of_activations():
    assert set(activations._DEFAULTS) == {*activations.DETERMINISTIC, "rrelu"}
    assert set(activations._ALIASES) == ALIASES
    assert set(activations.POSITIVE_HOMOGENEOUS) == HOMOGENEOUS
    with pytest.raises(
        ValueError, match="must be 'linear', 'relu', 'leaky_relu' or 'rrelu':"
    ):
        theory.fractional_moment_std(1.0, 64, "tanh")


def test_records_are_equal_if_they_are_the_same_function():
    assert Activation("leaky_relu") == Activation("leaky_relu", 0.2)
    assert Activation("leaky_relu") != Activation("leaky_relu", 0.3)
    assert Activation("swish") == Activation("silu")
    assert Activation(np.tanh) == Activation(np.tanh, breakpoints=[0])
    assert Activation(np.tanh) != Activation("tanh")
    points = Activation(np.abs, breakpoints=np.array([3, -3, 3]))
    assert points.breakpoints == (-3.0, 3.0)
    assert len({points, Activation(np.abs, breakpoints=(-3, 3))}) == 1


@pytest.mark.parametrize(
    ("activation", "text"),
    [
        (Activation("relu"), "Activation('relu')"),
        (Activation("gelu"), "Activation('gelu', approximate=False)"),
        (
            Activation("rrelu", negative_slope_range=[0, 1]),
            "Activation('rrelu', negative_slope_range=(0.0, 1.0))",
        ),
    ],
)
def test_text_of_a_record_makes_it_again(activation, text):
    assert repr(activation) == text
    assert eval(text) == activation


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("swoosh",),
            "activation must be a callable or one of .*'elu', .* "
            "Received: activation='swoosh'",
        ),
        (
            (3,),
            "activation must be a name or a callable. Received: activation=3",
        ),
        (
            ("relu", 0.1),
            "As parameters the activation 'relu' accepts none. "
            "Received: negative_slope=0.1",
        ),
        (
            (np.tanh, 0.1),
            "As parameters the activation 'tanh' accepts only breakpoints. "
            "Received: negative_slope=0.1",
        ),
        (
            ("leaky_relu", np.inf),
            "negative_slope must be a finite number. "
            "Received: negative_slope=inf",
        ),
        (
            ("rrelu", None, (0.3, 0.1)),
            "negative_slope_range must be two finite numbers, the lower "
            "first. Received: negative_slope_range=(0.3, 0.1)",
        ),
        (
            ("elu", None, None, "1"),
            "alpha must be a finite number. Received: alpha='1'",
        ),
        (
            ("gelu", None, None, None, 1),
            "approximate must be True or False. Received: approximate=1",
        ),
        (
            (np.abs, None, None, None, None, 0.5),
            "breakpoints must be a sequence of finite numbers. "
            "Received: breakpoints=0.5",
        ),
    ],
)
def test_bad_parameters_are_refused_when_the_record_is_made(arguments, message):
    message = message.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=f"^{message}$"):
        Activation(*arguments)


def test_random_activation_is_refused_where_a_function_is_needed():
    with pytest.raises(ValueError, match="Received: activation='rrelu'"):
        theory.correlation_map(0.0, Activation("rrelu"))


def test_unknown_parameter_of_a_call_is_refused():
    with pytest.raises(
        ValueError, match=r"'elu' accepts only alpha\. Received: slope=1"
    ):
        theory.critical_scale("elu", slope=1)
