"""Activation functions and their closed forms in the mean-field theory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NoReturn

import numpy as np
from scipy import special

from keras_initx.theory.mean_field.keras_objects import from_keras
from keras_initx.validation import (
    check_bool,
    check_real,
    did_you_mean,
    is_real,
    refuse,
)

ArrayFunction = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, repr=False)
class Activation:
    """Activation function of a layer, with its parameters, for the theory.

    It is accepted in place of a name and parameters by every function of
    `keras_initx.theory` that has an argument `activation`:
    `critical_scale(Activation("leaky_relu", negative_slope=0.1))` is
    `critical_scale("leaky_relu", negative_slope=0.1)`. Two records of the same
    function and parameters are equal.

    Args:
        function: str or callable. One of "linear", "relu", "leaky_relu",
            "rrelu", "relu6", "elu", "celu", "selu", "gelu", "silu" (or
            "swish"), "hard_silu" (or "hard_swish"), "mish", "softplus",
            "squareplus", "sparse_plus", "exponential", "log_sigmoid",
            "sigmoid", "hard_sigmoid", "sparse_sigmoid", "tanh", "hard_tanh",
            "erf", "arctan", "sine", "softsign", "tanh_shrink", "soft_shrink",
            "hard_shrink"; or a function of `keras.activations`, or a layer
            `Activation`, `ELU`, `LeakyReLU` or `ReLU` of Keras, or `HardTanh`
            or `Sine` of this package, which stand for a name and parameters;
            or a callable from a float64 array to a float64 array of the same
            shape that acts on each entry alone. "rrelu" is a leaky relu whose
            negative slope is uniform on a range and drawn anew for every unit;
            only the functions of `theory.norm_moments` accept it.
        negative_slope: float. Slope of "leaky_relu" below 0, finite. Defaults
            to None, which is 0.2 as in `keras.activations.leaky_relu`.
        negative_slope_range: sequence of two floats. The range of the slope of
            "rrelu" below 0, the lower end first. Defaults to None, which is
            (1/8, 1/3) as in PyTorch; Keras has no rrelu.
        alpha: float. Size at minus infinity, finite for "elu" and above 0 for
            "celu". Defaults to None, which is 1 as in Keras.
        approximate: bool. Whether "gelu" is computed with tanh. Defaults to
            None, which is False as in `keras.activations.gelu`.
        breakpoints: sequence of floats. The points where a callable is not
            smooth, finite. Defaults to None, which is `(0.0,)`.
        threshold: float. The size of z up to which "soft_shrink" and
            "hard_shrink" are 0, >= 0. Defaults to None, which is 0.5 as in
            Keras.
        b: float. Four times the square of "squareplus" at 0, >= 0. Defaults to
            None, which is 4 as in `keras.activations.squareplus`.

    Raises:
        ValueError: If the function is not known, or a parameter is not one of
            the function's or is outside its range. Keras's "softmax",
            "log_softmax", "sparsemax" and "glu" are refused, because they mix
            the units of a layer, and so is "threshold", which has no default
            parameters.

    Example:

    >>> Activation("leaky_relu")
    Activation('leaky_relu', negative_slope=0.2)
    >>> def bump(z):
    ...     return np.maximum(1 - abs(z), 0)
    >>> Activation(bump, breakpoints=[1, 0, -1]).breakpoints
    (-1.0, 0.0, 1.0)
    >>> import keras
    >>> Activation(keras.layers.LeakyReLU(negative_slope=0.1))
    Activation('leaky_relu', negative_slope=0.1)

    Reference: the functions and their defaults are those of Keras 3,
    `keras.activations`; "rrelu" is `torch.nn.RReLU`; "erf" is
    `scipy.special.erf`, "arctan" is `numpy.arctan` and "sine" is `numpy.sin`.
    """

    function: str | ArrayFunction
    negative_slope: float | None = None
    negative_slope_range: tuple[float, float] | None = None
    alpha: float | None = None
    approximate: bool | None = None
    breakpoints: tuple[float, ...] | None = None
    threshold: float | None = None
    b: float | None = None

    def __post_init__(self) -> None:
        defaults: Mapping[str, Any] = {"breakpoints": (0.0,)}
        if not isinstance(self.function, str):
            if not callable(self.function):
                refuse(
                    "activation must be a name or a callable.",
                    activation=self.function,
                )
            function, own = from_keras(self.function, (*_DEFAULTS, *_REFUSED))
            object.__setattr__(self, "function", function)
            for key, value in own.items():
                if getattr(self, key, value) is None:
                    object.__setattr__(self, key, value)
        if isinstance(self.function, str):
            name = _ALIASES.get(self.function, self.function)
            object.__setattr__(self, "function", name)
            if name not in _DEFAULTS:
                _refuse_function(self.function)
            defaults = _DEFAULTS[name]
        for key, value in self.parameters().items():
            if key not in defaults:
                _refuse_parameter(self.name, key, value, defaults)
        for key, value in defaults.items():
            given = getattr(self, key)
            if given is not None:
                check = _CHECKS.get(f"{self.name}.{key}", _CHECKS[key])
                value = check(key, given)
            object.__setattr__(self, key, value)

    @property
    def name(self) -> str:
        """The function's name."""
        if isinstance(self.function, str):
            return self.function
        default = type(self.function).__name__
        return str(getattr(self.function, "__name__", default))

    def parameters(self) -> dict[str, Any]:
        """Returns the parameters that apply to the function, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)[1:]}
        return {
            key: value for key, value in values.items() if value is not None
        }

    def __repr__(self) -> str:
        shown = [repr(self.function)]
        shown += [f"{key}={v!r}" for key, v in self.parameters().items()]
        return f"Activation({', '.join(shown)})"


# What the functions of theory accept as `activation`.
ActivationLike = str | ArrayFunction | Activation

_ALIASES = {"swish": "silu", "hard_swish": "hard_silu"}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "linear": {},
    "relu": {},
    "leaky_relu": {"negative_slope": 0.2},
    "rrelu": {"negative_slope_range": (1 / 8, 1 / 3)},
    "relu6": {},
    "elu": {"alpha": 1.0},
    "celu": {"alpha": 1.0},
    "selu": {},
    "gelu": {"approximate": False},
    "silu": {},
    "hard_silu": {},
    "mish": {},
    "softplus": {},
    "squareplus": {"b": 4.0},
    "sparse_plus": {},
    "exponential": {},
    "log_sigmoid": {},
    "sigmoid": {},
    "hard_sigmoid": {},
    "sparse_sigmoid": {},
    "tanh": {},
    "hard_tanh": {},
    "erf": {},
    "arctan": {},
    "sine": {},
    "softsign": {},
    "tanh_shrink": {},
    "soft_shrink": {"threshold": 0.5},
    "hard_shrink": {"threshold": 0.5},
}
_MIXES_UNITS = "it mixes the units of a layer"
# The activations of Keras that theory does not know, and why.
_REFUSED = {
    "softmax": _MIXES_UNITS,
    "log_softmax": _MIXES_UNITS,
    "sparsemax": _MIXES_UNITS,
    "glu": _MIXES_UNITS,
    "threshold": "it has no default parameters; give a callable and its "
    "breakpoints",
}


def as_activation(
    activation: ActivationLike, parameters: Mapping[str, Any]
) -> Activation:
    """Returns the record of an activation in any of the accepted forms.

    Args:
        activation: str, callable or Activation.
        parameters: Mapping. The parameters by name; empty for a record, which
            has its own.

    Raises:
        ValueError: If a record comes with further parameters, or `Activation`
            refuses the function or a parameter.
    """
    if not isinstance(activation, Activation):
        known = {field.name for field in fields(Activation)[1:]}
        accepted = {key: v for key, v in parameters.items() if key in known}
        record = Activation(activation, **accepted)
        for key in parameters.keys() - known:
            _refuse_parameter(
                record.name, key, parameters[key], record.parameters()
            )
        return record
    for key, value in parameters.items():
        refuse(
            "A parameter of the activation must be given to the Activation "
            "itself.",
            activation=activation,
            **{key: value},
        )
    return activation


def _refuse_function(name: str) -> NoReturn:
    if name in _REFUSED:
        refuse(
            "activation must be one function that acts on each unit alone, "
            f"which {name!r} is not: {_REFUSED[name]}.",
            activation=name,
        )
    names = sorted({*DETERMINISTIC, *_ALIASES})
    hint = did_you_mean(name, names)
    refuse(
        f"activation must be a callable or one of {names}.{hint}",
        activation=name,
    )


def _refuse_parameter(
    activation: str, key: str, value: Any, known: Mapping[str, Any]
) -> NoReturn:
    accepted = f"only {', '.join(sorted(known))}" if known else "none"
    refuse(
        f"As parameters the activation {activation!r} accepts {accepted}.",
        **{key: value},
    )


def _check_range(name: str, value: Any) -> tuple[float, float]:
    if (
        not isinstance(value, tuple | list | np.ndarray)
        or len(value) != 2
        or not all(is_real(end) for end in value)
        or value[0] > value[1]
    ):
        refuse(
            f"{name} must be two finite numbers, the lower first.",
            **{name: value},
        )
    return float(value[0]), float(value[1])


def _check_breakpoints(name: str, value: Any) -> tuple[float, ...]:
    if not isinstance(value, tuple | list | np.ndarray) or not all(
        is_real(point) for point in value
    ):
        refuse(f"{name} must be a sequence of finite numbers.", **{name: value})
    return tuple(sorted({float(point) for point in value}))


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "negative_slope": check_real,
    "negative_slope_range": _check_range,
    "alpha": check_real,
    "celu.alpha": lambda name, value: check_real(name, value, "(0, inf)"),
    "threshold": lambda name, value: check_real(name, value, "[0, inf)"),
    "b": lambda name, value: check_real(name, value, "[0, inf)"),
    "approximate": check_bool,
    "breakpoints": _check_breakpoints,
}


@dataclass(frozen=True)
class Nonlinearity:
    """The numerical function phi of an activation, and its closed forms.

    Attributes:
        name: str. The activation's name.
        function: callable. phi, from a float64 array to one of its shape.
        breakpoints: tuple of floats. The points where phi is not smooth.
        negative_slope: float or None. The number a, if phi(z) = z for z > 0
            and phi(z) = a z for z < 0. Up to a factor these are all the
            functions with phi(r z) = r phi(z) for every r > 0. None for any
            other phi.
        second_moment: float or None. E phi(z)^2 for z ~ N(0, 1), where a
            closed form exists.
        decorrelation: callable or None. The map from 1 - rho to 1 - c(rho),
            where a closed form exists.
    """

    name: str
    function: ArrayFunction
    breakpoints: tuple[float, ...] = ()
    negative_slope: float | None = None
    second_moment: float | None = None
    decorrelation: ArrayFunction | None = None


def resolve(
    activation: ActivationLike, parameters: Mapping[str, Any]
) -> Nonlinearity:
    """Returns phi and its closed forms.

    Args:
        activation: str, callable or Activation.
        parameters: Mapping. As in `as_activation`.

    Raises:
        ValueError: If the activation is random, as "rrelu" is, or
            `as_activation` refuses the arguments.
    """
    record = as_activation(activation, parameters)
    if isinstance(record.function, str):
        if record.function not in _NONLINEARITIES:
            _refuse_function(record.function)
        return _NONLINEARITIES[record.function](**record.parameters())
    return Nonlinearity(
        record.name,
        _checked(record.name, record.function),
        breakpoints=record.breakpoints or (),
    )


def angle(decorrelation: np.ndarray) -> np.ndarray:
    """Returns theta in [0, pi] with 1 - cos(theta) = decorrelation.

    The half-angle form keeps every digit of a small theta; arccos would not.
    """
    return 2 * np.arcsin(np.sqrt(decorrelation / 2))


def bend(slope: float) -> float:
    """Returns (1 - a)^2 / (1 + a^2), the share of leaky relu beyond its line.

    It is 1 for relu, a = 0, and 0 for linear, a = 1.
    """
    # hypot, so that a huge slope gives 1 rather than inf / inf.
    return ((1 - slope) / math.hypot(1, slope)) ** 2


def _piecewise_linear(name: str, slope: float) -> Nonlinearity:
    def decorrelation(eps: np.ndarray) -> np.ndarray:
        # The kernel of degree 1 of Cho & Saul, NeurIPS 22 (2009), less its
        # linear part. With t = arccos(rho), the angle of the two samples,
        #   1 - c = eps - bend(a) (sin t - t cos t) / pi,
        # where the bracket, which cancels for small t, is a Bessel function:
        #   sin t - t cos t = sqrt(pi / 2) t^(3/2) J_(3/2)(t).
        t = angle(eps)
        bracket = math.sqrt(math.pi / 2) * t**1.5 * special.jv(1.5, t)
        return eps - bend(slope) / math.pi * bracket

    return Nonlinearity(
        name,
        lambda z: np.where(z > 0, z, slope * z),
        breakpoints=(0.0,),
        negative_slope=slope,
        second_moment=(1 + slope * slope) / 2,
        decorrelation=decorrelation,
    )


def _erf() -> Nonlinearity:
    second_moment = 2 / math.pi * math.asin(2 / 3)

    def decorrelation(eps: np.ndarray) -> np.ndarray:
        # The kernel of Williams, NeurIPS 9 (1997),
        #   c = arcsin(2 rho / 3) / arcsin(2 / 3).
        # The difference of two arcsines A, B is one arctangent, by
        #   tan((A - B) / 2) = (sin A - sin B) / (cos A + cos B).
        cosines = math.sqrt(5) + np.sqrt(5 + 4 * eps * (2 - eps))
        return 2 * np.arctan(2 * eps / cosines) / math.asin(2 / 3)

    return Nonlinearity(
        "erf",
        special.erf,
        second_moment=second_moment,
        decorrelation=decorrelation,
    )


def _sine() -> Nonlinearity:
    def decorrelation(eps: np.ndarray) -> np.ndarray:
        # E sin(u) sin(v) = exp(-1) sinh(rho), so c = sinh(rho) / sinh(1), and
        #   sinh(1) - sinh(1 - eps) = 2 cosh(1 - eps / 2) sinh(eps / 2).
        half = eps / 2
        return 2 * np.cosh(1 - half) * np.sinh(half) / math.sinh(1)

    return Nonlinearity(
        "sine",
        np.sin,
        second_moment=-math.expm1(-2) / 2,
        decorrelation=decorrelation,
    )


def _gelu(approximate: bool) -> Nonlinearity:
    def with_tanh(z: np.ndarray) -> np.ndarray:
        inner = math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
        return 0.5 * z * (1 + np.tanh(inner))

    return Nonlinearity(
        "gelu", with_tanh if approximate else lambda z: z * special.ndtr(z)
    )


def _elu(alpha: float, factor: float = 1.0, name: str = "elu") -> Nonlinearity:
    def function(z: np.ndarray) -> np.ndarray:
        negative = alpha * np.expm1(np.minimum(z, 0))
        return factor * np.where(z > 0, z, negative)

    return Nonlinearity(name, function, breakpoints=(0.0,))


def _celu(alpha: float) -> Nonlinearity:
    def function(z: np.ndarray) -> np.ndarray:
        negative = alpha * np.expm1(np.minimum(z, 0) / alpha)
        return np.where(z > 0, z, negative)

    return Nonlinearity("celu", function, breakpoints=(0.0,))


def _clipped(
    name: str, low: float, high: float, function: ArrayFunction
) -> Nonlinearity:
    """Returns phi(z) = function(z clipped to [low, high])."""
    return Nonlinearity(
        name, lambda z: function(np.clip(z, low, high)), breakpoints=(low, high)
    )


def _shrink(name: str, threshold: float, shift: float) -> Nonlinearity:
    """Returns phi(z) = z - shift sign(z) where |z| > threshold, and else 0."""
    return Nonlinearity(
        name,
        lambda z: np.where(abs(z) > threshold, z - shift * np.sign(z), 0.0),
        breakpoints=(-threshold, threshold),
    )


# The constants of Klambauer et al. (2017), to the digits that Keras uses.
_SELU_ALPHA, _SELU_FACTOR = 1.6732632423543772, 1.0507009873554805

# The parameters of each are those of the activation of that name.
_NONLINEARITIES: dict[str, Callable[..., Nonlinearity]] = {
    "linear": lambda: _piecewise_linear("linear", 1.0),
    "relu": lambda: _piecewise_linear("relu", 0.0),
    "leaky_relu": lambda negative_slope: _piecewise_linear(
        "leaky_relu", negative_slope
    ),
    "relu6": lambda: _clipped("relu6", 0, 6, lambda z: z),
    "elu": _elu,
    "celu": _celu,
    "selu": lambda: _elu(_SELU_ALPHA, _SELU_FACTOR, "selu"),
    "gelu": _gelu,
    "silu": lambda: Nonlinearity("silu", lambda z: z * special.expit(z)),
    "hard_silu": lambda: Nonlinearity(
        "hard_silu",
        lambda z: z * (np.clip(z, -3, 3) + 3) / 6,
        breakpoints=(-3.0, 3.0),
    ),
    "mish": lambda: Nonlinearity(
        "mish", lambda z: z * np.tanh(np.logaddexp(0, z))
    ),
    "softplus": lambda: Nonlinearity("softplus", lambda z: np.logaddexp(0, z)),
    "squareplus": lambda b: Nonlinearity(
        "squareplus", lambda z: (z + np.sqrt(z * z + b)) / 2, breakpoints=(0.0,)
    ),
    "sparse_plus": lambda: Nonlinearity(
        "sparse_plus",
        lambda z: np.where(z < 1, (np.maximum(z, -1) + 1) ** 2 / 4, z),
        breakpoints=(-1.0, 1.0),
    ),
    "exponential": lambda: Nonlinearity("exponential", np.exp),
    "log_sigmoid": lambda: Nonlinearity(
        "log_sigmoid", lambda z: -np.logaddexp(0, -z)
    ),
    "sigmoid": lambda: Nonlinearity("sigmoid", special.expit),
    "hard_sigmoid": lambda: _clipped(
        "hard_sigmoid", -3, 3, lambda z: (z + 3) / 6
    ),
    "sparse_sigmoid": lambda: _clipped(
        "sparse_sigmoid", -1, 1, lambda z: (z + 1) / 2
    ),
    "tanh": lambda: Nonlinearity("tanh", np.tanh),
    "hard_tanh": lambda: _clipped("hard_tanh", -1, 1, lambda z: z),
    "erf": _erf,
    "arctan": lambda: Nonlinearity("arctan", np.arctan),
    "sine": _sine,
    "softsign": lambda: Nonlinearity(
        "softsign", lambda z: z / (1 + abs(z)), breakpoints=(0.0,)
    ),
    "tanh_shrink": lambda: Nonlinearity(
        "tanh_shrink", lambda z: z - np.tanh(z)
    ),
    "soft_shrink": lambda threshold: _shrink(
        "soft_shrink", threshold, shift=threshold
    ),
    "hard_shrink": lambda threshold: _shrink("hard_shrink", threshold, shift=0),
}

# Names, without aliases, of the activations that are one function, and of
# those with phi(r z) = r phi(z) for every r > 0, one function or random.
DETERMINISTIC = tuple(_NONLINEARITIES)
POSITIVE_HOMOGENEOUS = tuple(
    name
    for name, defaults in _DEFAULTS.items()
    if "negative_slope_range" in defaults
    or _NONLINEARITIES[name](**defaults).negative_slope is not None
)


def _checked(name: str, activation: ArrayFunction) -> ArrayFunction:
    """Returns a callable whose shape, dtype and values are checked."""

    def function(z: np.ndarray) -> np.ndarray:
        value = np.asarray(activation(z))
        if value.shape != z.shape or value.dtype != np.float64:
            raise ValueError(
                f"activation must turn a float64 array into a float64 array "
                f"of the same shape. Received: activation={name!r}, which "
                f"turned shape {z.shape} into shape {value.shape} and dtype "
                f"{value.dtype}"
            )
        if not np.isfinite(value).all():
            worst = z[~np.isfinite(value)].flat[0]
            raise ValueError(
                f"activation must be finite wherever it is averaged, on "
                f"[-17, 17] at least. "
                f"Received: activation={name!r}, which is not at {worst:.4g}"
            )
        return value

    return function
