"""Argument checks: what was expected, then `Received: name=value`.

Every check returns the value in its plain Python type, so that a constructor
reads `self.factor = check_real("factor", factor, "(0, inf)")`.
"""

from __future__ import annotations

import difflib
import math
import reprlib
from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np

# The largest integer up to which a float64 counts every integer.
_LARGEST_INT = 2**53


def refuse(
    expected: str, error: type[Exception] = ValueError, **received: Any
) -> NoReturn:
    """Raises `error`, saying what was expected and what was received.

    Args:
        expected: str. One sentence, with its full stop.
        error: type. The exception class. Defaults to `ValueError`.
        **received: The arguments as the user gave them.

    Example:

    >>> refuse("depth must be odd.", depth=4)
    Traceback (most recent call last):
    ...
    ValueError: depth must be odd. Received: depth=4
    """
    shown = ", ".join(f"{name}={value!r}" for name, value in received.items())
    raise error(f"{expected} Received: {shown}")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Returns a question that names those which a wrong name is close to.

    Args:
        name: str. The wrong name.
        names: Iterable of str. The names that are allowed.

    Returns:
        str. The question after a space, or "" if no name is close.

    Example:

    >>> did_you_mean("gelo", ["relu", "gelu", "tanh"])
    " Did you mean 'gelu'?"
    """
    # Capitals do not count, in "Relu" or "he_Normal".
    by_lower = {each.lower(): each for each in sorted(names)}
    close = difflib.get_close_matches(name.lower(), by_lower, n=3)
    if not close:
        return ""
    return f" Did you mean {' or '.join(repr(by_lower[c]) for c in close)}?"


def is_int(value: Any) -> bool:
    """Whether a value is an integer; True and False are not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_real(value: Any) -> bool:
    """Whether a value is one finite real number; True and False are not."""
    if isinstance(value, bool) or not isinstance(
        value, int | float | np.integer | np.floating
    ):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def check_int(
    name: str,
    value: Any,
    minimum: int = 0,
    maximum: int = _LARGEST_INT,
    *,
    optional: bool = False,
) -> Any:
    """Checks that an argument is an integer in a closed range.

    Args:
        name: str. The argument's name.
        value: The argument.
        minimum: int. The smallest allowed value. Defaults to 0.
        maximum: int. The largest allowed value. Defaults to 2^53, up to which
            a float64 counts every integer.
        optional: bool. Whether None is allowed. Defaults to False.

    Returns:
        The value as an `int`, or None.

    Raises:
        ValueError: If the value is something else.

    Example:

    >>> check_int("depth", 0, 1)
    Traceback (most recent call last):
    ...
    ValueError: depth must be an int >= 1. Received: depth=0
    """
    if optional and value is None:
        return None
    if is_int(value) and minimum <= value <= maximum:
        return int(value)
    wanted = (
        f"an int >= {minimum}"
        if maximum == _LARGEST_INT and not (is_int(value) and value > maximum)
        else f"an int from {minimum} to {_power(maximum)}"
    )
    _refuse_value(name, value, wanted, optional)


def check_real(
    name: str,
    value: Any,
    interval: str = "(-inf, inf)",
    *,
    optional: bool = False,
) -> Any:
    """Checks that an argument is a finite real number in an interval.

    Args:
        name: str. The argument's name.
        value: The argument.
        interval: str. The allowed values in the notation of mathematics, as
            `"(0, 2]"` or `"[0, inf)"`. Defaults to all finite numbers.
        optional: bool. Whether None is allowed. Defaults to False.

    Returns:
        The value as a `float`, or None.

    Raises:
        ValueError: If the value is something else.

    Example:

    >>> check_real("hurst", 1.5, "(0, 1]")
    Traceback (most recent call last):
    ...
    ValueError: hurst must be a number in (0, 1]. Received: hurst=1.5
    """
    if optional and value is None:
        return None
    low, high, inside_low, inside_high = _ends(interval)
    if (
        is_real(value)
        and (value > low or (inside_low and value == low))
        and (value < high or (inside_high and value == high))
    ):
        return float(value)
    _refuse_value(name, value, _in_words(interval), optional)


def check_array(
    name: str, value: Any, interval: str = "(-inf, inf)"
) -> np.ndarray:
    """Checks that an argument is an array of finite numbers in an interval.

    Args:
        name: str. The argument's name.
        value: The argument: a number, nested sequences of numbers or an array.
        interval: str. The allowed entries, as in `check_real`. Defaults to all
            finite numbers.

    Returns:
        A new float64 array of the shape of the value.

    Raises:
        ValueError: If the value is something else: ragged, of a boolean,
            complex or text type, or with an entry that is not finite or
            outside the interval.

    Example:

    >>> check_array("rho", [0, 1.5], "[-1, 1]")
    Traceback (most recent call last):
    ...
    ValueError: rho must be numbers in [-1, 1]. Received: rho=[0, 1.5]
    """
    try:
        array = np.asarray(value)
        # bfloat16 is of kind V.
        real = array.dtype.kind in "iufV"
        array = array.astype(np.float64) if real else array
    except (TypeError, ValueError):
        real = False
    if real:
        low, high, inside_low, inside_high = _ends(interval)
        inside = np.isfinite(array)
        inside &= (array > low) | (inside_low & (array == low))
        inside &= (array < high) | (inside_high & (array == high))
        if inside.all():
            return array
    # A large array is shown by its beginning.
    raise ValueError(
        f"{name} must be {_in_words(interval, plural=True)}. "
        f"Received: {name}={value!r:.200}"
    )


def check_bool(name: str, value: Any) -> bool:
    """Checks that an argument is True or False.

    Raises:
        ValueError: If the value is something else.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    _refuse_value(name, value, "True or False", False)


def check_choice(
    name: str, value: Any, choices: Iterable[Any], *, optional: bool = False
) -> Any:
    """Checks that an argument is one of several values.

    Args:
        name: str. The argument's name.
        value: The argument.
        choices: Iterable. The allowed values.
        optional: bool. Whether None is allowed. Defaults to False.

    Returns:
        The allowed value that equals the argument, or None.

    Raises:
        ValueError: If the value is something else.

    Example:

    >>> check_choice("per", "row", ("unit", "layer"))
    Traceback (most recent call last):
    ...
    ValueError: per must be 'unit' or 'layer'. Received: per='row'
    """
    if optional and value is None:
        return None
    choices = tuple(choices)
    for choice in choices:
        # 1 == True and 1 == 1.0, which are different arguments.
        if type(value) is type(choice) and value == choice:
            return choice
    *others, last = map(repr, choices)
    wanted = f"{', '.join(others)} or {last}" if others else last
    words = [choice for choice in choices if isinstance(choice, str)]
    hint = did_you_mean(value, words) if isinstance(value, str) else ""
    _refuse_value(name, value, wanted, optional, hint)


def check_instance(
    name: str,
    value: Any,
    classes: type | tuple[type, ...],
    wanted: str,
    *,
    optional: bool = False,
) -> Any:
    """Checks that an argument is an instance of a class.

    Args:
        name: str. The argument's name.
        value: The argument.
        classes: type or tuple of types.
        wanted: str. What an instance is called, as `"a VarianceProfile"`.
        optional: bool. Whether None is allowed. Defaults to False.

    Returns:
        The value.

    Raises:
        ValueError: If the value is something else.

    Example:

    >>> check_instance("path", 3, str, "a file name")
    Traceback (most recent call last):
    ...
    ValueError: path must be a file name. Received: path=3 of type int
    """
    if (optional and value is None) or isinstance(value, classes):
        return value
    # An array in the place of a model would fill the screen.
    shown = reprlib.repr(value) if hasattr(value, "shape") else repr(value)
    raise ValueError(
        f"{name} must be {wanted}{' or None' if optional else ''}. "
        f"Received: {name}={shown} of type {type(value).__name__}"
    )


def check_backend(caller: str) -> None:
    """Checks that Keras runs on TensorFlow.

    Args:
        caller: str. The name of the function or class that needs TensorFlow.

    Raises:
        RuntimeError: If Keras runs on another backend.
    """
    # Imported here because `theory` uses this module and needs no Keras.
    import keras

    backend = keras.config.backend()
    if backend != "tensorflow":
        raise RuntimeError(
            f"keras_initx's {caller} runs on Keras's TensorFlow backend; set "
            'KERAS_BACKEND="tensorflow" before Keras is imported. '
            f"Received: backend={backend!r}"
        )


def _ends(interval: str) -> tuple[float, float, bool, bool]:
    """Both ends of an interval, and whether they belong to it."""
    low, high = map(float, interval[1:-1].split(","))
    return low, high, interval[0] == "[", interval[-1] == "]"


def _in_words(interval: str, plural: bool = False) -> str:
    """A name for the numbers of an interval."""
    low, high, inside_low, _ = _ends(interval)
    article, ending = ("", "s") if plural else ("a ", "")
    if not math.isinf(high):
        return f"{article}number{ending} in {interval}"
    bound = "" if math.isinf(low) else f" {'>=' if inside_low else '>'} "
    bound += interval[1:-1].split(",")[0] if bound else ""
    return f"{article}finite number{ending}{bound}"


def _refuse_value(
    name: str, value: Any, wanted: str, optional: bool, hint: str = ""
) -> NoReturn:
    if optional:
        wanted += " or None"
    raise ValueError(
        f"{name} must be {wanted}.{hint} Received: {name}={value!r}"
    )


def _power(value: int) -> str:
    """The text of a large bound: 2^53 is easier to read than its digits."""
    exponent = value.bit_length() - 1
    return (
        f"2^{exponent}"
        if exponent > 30 and value == 2**exponent
        else str(value)
    )
