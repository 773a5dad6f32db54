"""Argument checks: the values they return and the exact messages they give."""

import math

import keras
import numpy as np
import pytest

from keras_initx.validation import (
    check_array,
    check_backend,
    check_bool,
    check_choice,
    check_instance,
    check_int,
    check_real,
    is_int,
    is_real,
    refuse,
)

HUGE = 10**400


@pytest.mark.parametrize(
    ("value", "integer", "real"),
    [
        (3, True, True),
        (np.int8(-3), True, True),
        (HUGE, True, False),
        (0.5, False, True),
        (np.float32(0.5), False, True),
        (math.nan, False, False),
        (-math.inf, False, False),
        (np.float64(math.inf), False, False),
        (True, False, False),
        (np.bool_(True), False, False),
        ("3", False, False),
        (None, False, False),
        ([3], False, False),
        (np.array(3), False, False),
        (3j, False, False),
    ],
)
def test_is_int_and_is_real_accept_integers_and_finite_reals(
    value, integer, real
):
    assert is_int(value) is integer
    assert is_real(value) is real


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        (lambda: check_int("n", 0), 0),
        (lambda: check_int("n", np.int64(7), 1), 7),
        (lambda: check_int("n", 2**53), 2**53),
        (lambda: check_int("n", -5, -5, -5), -5),
        (lambda: check_int("n", None, optional=True), None),
        (lambda: check_real("x", 2, "(0, 2]"), 2.0),
        (lambda: check_real("x", 0, "[0, 1)"), 0.0),
        (lambda: check_real("x", np.float32(0.5), "(0, 1)"), 0.5),
        (lambda: check_real("x", -1e308), -1e308),
        (lambda: check_real("x", np.int32(5), "[5, inf)"), 5.0),
        (lambda: check_real("x", None, optional=True), None),
        (lambda: check_bool("b", True), True),
        (lambda: check_bool("b", np.bool_(False)), False),
        (lambda: check_choice("c", "a", ("a", "b")), "a"),
        (lambda: check_choice("c", 2, (1, 2)), 2),
        (lambda: check_choice("c", None, ("a",), optional=True), None),
        (lambda: check_instance("s", "x", str, "a name"), "x"),
        (lambda: check_instance("s", 3, (str, int), "a name"), 3),
        (
            lambda: check_instance("s", None, str, "a name", optional=True),
            None,
        ),
    ],
)
def test_checks_return_plain_python_values(check, expected):
    found = check()
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "interval", "expected"),
    [
        (0.5, "[0, 1]", np.array(0.5)),
        ([[1], [2]], "(0, inf)", np.array([[1.0], [2.0]])),
        (np.float32([0.25]), "(-inf, inf)", np.array([0.25])),
        ([], "(0, 1)", np.zeros(0)),
        (range(3), "[0, 2]", np.array([0.0, 1.0, 2.0])),
        (keras.ops.ones(2, dtype="bfloat16"), "[1, 1]", np.ones(2)),
    ],
)
def test_arrays_are_float64_of_their_shape(value, interval, expected):
    found = check_array("x", value, interval)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected, strict=True)


def test_a_checked_array_is_a_copy():
    given = np.zeros(3)
    check_array("x", given)[0] = 1.0
    assert given[0] == 0


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (
            lambda: check_int("depth", 0, 1),
            "depth must be an int >= 1. Received: depth=0",
        ),
        (
            lambda: check_int("depth", True),
            "depth must be an int >= 0. Received: depth=True",
        ),
        (
            lambda: check_int("depth", 2.0),
            "depth must be an int >= 0. Received: depth=2.0",
        ),
        (
            lambda: check_int("depth", "2", optional=True),
            "depth must be an int >= 0 or None. Received: depth='2'",
        ),
        (
            lambda: check_int("axis", 4, -3, 3),
            "axis must be an int from -3 to 3. Received: axis=4",
        ),
        (
            lambda: check_int("depth", 2**53 + 1),
            "depth must be an int from 0 to 2^53. "
            "Received: depth=9007199254740993",
        ),
        (
            lambda: check_real("rate", 1, "[0, 1)"),
            "rate must be a number in [0, 1). Received: rate=1",
        ),
        (
            lambda: check_real("rate", 0.0, "(0, 1]"),
            "rate must be a number in (0, 1]. Received: rate=0.0",
        ),
        (
            lambda: check_real("std", 0, "(0, inf)"),
            "std must be a finite number > 0. Received: std=0",
        ),
        (
            lambda: check_real("std", -0.5, "[0, inf)"),
            "std must be a finite number >= 0. Received: std=-0.5",
        ),
        (
            lambda: check_real("time", math.inf, "[0, inf)"),
            "time must be a finite number >= 0. Received: time=inf",
        ),
        (
            lambda: check_real("x", math.nan),
            "x must be a finite number. Received: x=nan",
        ),
        (
            lambda: check_real("x", False),
            "x must be a finite number. Received: x=False",
        ),
        (
            lambda: check_real("x", [1.0]),
            "x must be a finite number. Received: x=[1.0]",
        ),
        (
            lambda: check_real("x", "1", "(0, 1)", optional=True),
            "x must be a number in (0, 1) or None. Received: x='1'",
        ),
        (
            lambda: check_array("rho", [0, 1.5], "[-1, 1]"),
            "rho must be numbers in [-1, 1]. Received: rho=[0, 1.5]",
        ),
        (
            lambda: check_array("rho", -1, "(-1, 1]"),
            "rho must be numbers in (-1, 1]. Received: rho=-1",
        ),
        (
            lambda: check_array("layer", [1, math.inf], "(0, inf)"),
            "layer must be finite numbers > 0. Received: layer=[1, inf]",
        ),
        (
            lambda: check_array("layer", 0, "(0, inf)"),
            "layer must be finite numbers > 0. Received: layer=0",
        ),
        (
            lambda: check_array("x", [[1], [2, 3]]),
            "x must be finite numbers. Received: x=[[1], [2, 3]]",
        ),
        (
            lambda: check_array("x", ["1"]),
            "x must be finite numbers. Received: x=['1']",
        ),
        (
            lambda: check_array("x", [True]),
            "x must be finite numbers. Received: x=[True]",
        ),
        (
            lambda: check_array("x", [1j]),
            "x must be finite numbers. Received: x=[1j]",
        ),
        (
            lambda: check_array("x", None),
            "x must be finite numbers. Received: x=None",
        ),
        (
            lambda: check_array("x", HUGE),
            "x must be finite numbers. Received: x=1" + 199 * "0",
        ),
        (
            lambda: check_array("x", np.zeros(2, "i4,f4")),
            "x must be finite numbers. Received: x=array([(0, 0.), (0, 0.)], "
            "dtype=[('f0', '<i4'), ('f1', '<f4')])",
        ),
        (
            lambda: check_bool("nesterov", 1),
            "nesterov must be True or False. Received: nesterov=1",
        ),
        (
            lambda: check_bool("nesterov", None),
            "nesterov must be True or False. Received: nesterov=None",
        ),
        (
            lambda: check_choice("per", "row", ("unit", "layer")),
            "per must be 'unit' or 'layer'. Received: per='row'",
        ),
        (
            lambda: check_choice("per", "units", ("unit", "layer")),
            "per must be 'unit' or 'layer'. Did you mean 'unit'? "
            "Received: per='units'",
        ),
        (
            lambda: check_choice("per", "Unit", (1, "unit"), optional=True),
            "per must be 1 or 'unit' or None. Did you mean 'unit'? "
            "Received: per='Unit'",
        ),
        (
            lambda: check_choice("kind", ["a"], ("a", "b", "c")),
            "kind must be 'a', 'b' or 'c'. Received: kind=['a']",
        ),
        (
            lambda: check_choice("sign", True, (1, -1), optional=True),
            "sign must be 1 or -1 or None. Received: sign=True",
        ),
        (
            lambda: check_choice("only", 1.0, (1,)),
            "only must be 1. Received: only=1.0",
        ),
        (
            lambda: check_instance("path", 3, str, "a file name"),
            "path must be a file name. Received: path=3 of type int",
        ),
        (
            lambda: check_instance("path", 3, str, "a name", optional=True),
            "path must be a name or None. Received: path=3 of type int",
        ),
        (
            lambda: refuse("a must be below b.", a=2, b="x"),
            "a must be below b. Received: a=2, b='x'",
        ),
    ],
)
def test_messages_of_refused_values(check, message):
    with pytest.raises(ValueError) as caught:
        check()
    assert str(caught.value) == message


def test_refuse_raises_the_error_that_is_asked_for():
    with pytest.raises(TypeError, match=r"^No\. Received: a=1$"):
        refuse("No.", TypeError, a=1)


def test_another_backend_is_refused(monkeypatch):
    check_backend("measure")
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(RuntimeError) as caught:
        check_backend("measure")
    assert str(caught.value) == (
        "keras_initx's measure runs on Keras's TensorFlow backend; set "
        'KERAS_BACKEND="tensorflow" before Keras is imported. '
        "Received: backend='jax'"
    )
