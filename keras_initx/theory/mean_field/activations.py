"""What the mean-field theory knows of an activation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from keras_initx.validation import is_real

ArrayFunction = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Activation:
    """An activation phi, as the mean-field theory needs it.

    Attributes:
        name: As in `keras.activations`.
        function: phi, from a float64 array to one of the same shape.
        breakpoints: Where phi is not smooth.
        negative_slope: If phi(z) = z for z > 0 and phi(z) = negative_slope * z
            for z < 0, that slope. Up to a factor these are all the activations
            with phi(r z) = r phi(z) for every r > 0. None for any other phi.
        second_moment: E[phi(z)^2] for z ~ N(0, 1), where a closed form exists.
        decorrelation: The map from 1 - rho to 1 - c(rho), where a closed form
            exists.
    """

    name: str
    function: ArrayFunction
    breakpoints: tuple[float, ...] = ()
    negative_slope: float | None = None
    second_moment: float | None = None
    decorrelation: ArrayFunction | None = None


def angle(decorrelation: np.ndarray) -> np.ndarray:
    """theta in [0, pi] with 1 - cos(theta) = decorrelation.

    The half-angle form keeps every digit of a small theta; arccos would not.
    """
    return 2 * np.arcsin(np.sqrt(decorrelation / 2))


def bend(slope: float) -> float:
    """(1-a)^2 / (1+a^2), the part of a leaky relu that is not linear."""
    # hypot, so that a huge slope gives 1 rather than inf / inf.
    return ((1 - slope) / math.hypot(1, slope)) ** 2


def _piecewise_linear(name: str, slope: float) -> Activation:
    def decorrelation(eps: np.ndarray) -> np.ndarray:
        # Cho & Saul's kernel of degree one, less its linear part:
        #   1 - c = eps - bend(a) (sin t - t cos t) / pi
        # where the bracket, which cancels for small t, is a Bessel function:
        #   sin t - t cos t = sqrt(pi/2) t^(3/2) J_(3/2)(t).
        t = angle(eps)
        bracket = math.sqrt(math.pi / 2) * t**1.5 * special.jv(1.5, t)
        return eps - bend(slope) / math.pi * bracket

    return Activation(
        name,
        lambda z: np.where(z > 0, z, slope * z),
        breakpoints=(0.0,),
        negative_slope=slope,
        second_moment=(1 + slope * slope) / 2,
        decorrelation=decorrelation,
    )


def _erf() -> Activation:
    second_moment = 2 / math.pi * math.asin(2 / 3)

    def decorrelation(eps: np.ndarray) -> np.ndarray:
        # Williams' kernel, c = asin(2 rho / 3) / asin(2/3). The difference of
        # the arcsines is one arctangent, by
        #   tan((A - B)/2) = (sin A - sin B) / (cos A + cos B).
        cosines = math.sqrt(5) + np.sqrt(5 + 4 * eps * (2 - eps))
        return 2 * np.arctan(2 * eps / cosines) / math.asin(2 / 3)

    return Activation(
        "erf",
        special.erf,
        second_moment=second_moment,
        decorrelation=decorrelation,
    )


def _gelu(approximate: bool) -> Activation:
    def with_tanh(z: np.ndarray) -> np.ndarray:
        inner = math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
        return 0.5 * z * (1 + np.tanh(inner))

    return Activation(
        "gelu", with_tanh if approximate else lambda z: z * special.ndtr(z)
    )


def _elu(alpha: float, gain: float = 1.0, name: str = "elu") -> Activation:
    def function(z: np.ndarray) -> np.ndarray:
        negative = alpha * np.expm1(np.minimum(z, 0))
        return gain * np.where(z > 0, z, negative)

    return Activation(name, function, breakpoints=(0.0,))


# The constants of Klambauer et al. (2017), to the digits that Keras uses.
_SELU_ALPHA, _SELU_GAIN = 1.6732632423543772, 1.0507009873554805

# name -> (how to build it, its parameters with the defaults of Keras)
_TABLE: dict[str, tuple[Callable[..., Activation], dict[str, Any]]] = {
    "linear": (lambda: _piecewise_linear("linear", 1.0), {}),
    "relu": (lambda: _piecewise_linear("relu", 0.0), {}),
    "leaky_relu": (
        lambda negative_slope: _piecewise_linear("leaky_relu", negative_slope),
        {"negative_slope": 0.2},
    ),
    "erf": (_erf, {}),
    "tanh": (lambda: Activation("tanh", np.tanh), {}),
    "gelu": (_gelu, {"approximate": False}),
    "silu": (lambda: Activation("silu", lambda z: z * special.expit(z)), {}),
    "elu": (_elu, {"alpha": 1.0}),
    "selu": (lambda: _elu(_SELU_ALPHA, _SELU_GAIN, "selu"), {}),
    "softplus": (
        lambda: Activation("softplus", lambda z: np.logaddexp(0, z)),
        {},
    ),
}
_ALIASES = {"swish": "silu"}


def resolve(
    activation: str | ArrayFunction, parameters: Mapping[str, Any]
) -> Activation:
    """The record of a named activation or of a callable.

    Args:
        activation: A name known here, or a callable.
        parameters: Of a named activation, those of the Keras function of that
            name. Of a callable, `breakpoints`: where it is not smooth, a
            sequence of finite numbers; default `(0.0,)`.

    Raises:
        ValueError: The name, a parameter's name or its value is not known.
    """
    if isinstance(activation, str):
        name = _ALIASES.get(activation, activation)
        if name not in _TABLE:
            raise ValueError(
                f"activation must be a callable or one of "
                f"{sorted([*_TABLE, *_ALIASES])}. "
                f"Received: activation={activation!r}"
            )
        build, defaults = _TABLE[name]
        check_names(name, parameters, defaults)
        return build(
            **{
                key: _check_value(key, parameters.get(key, default), default)
                for key, default in defaults.items()
            }
        )
    if not callable(activation):
        raise ValueError(
            f"activation must be a name or a callable. "
            f"Received: activation={activation!r}"
        )
    name = getattr(activation, "__name__", type(activation).__name__)
    check_names(name, parameters, {"breakpoints": (0.0,)})
    return Activation(
        name,
        _checked(name, activation),
        breakpoints=_check_breakpoints(parameters.get("breakpoints", (0.0,))),
    )


def check_names(
    activation: str, parameters: Mapping[str, Any], known: Mapping[str, Any]
) -> None:
    """Refuse parameters whose names are not among the known."""
    for key, value in parameters.items():
        if key not in known:
            accepted = f"only {', '.join(sorted(known))}" if known else "none"
            raise ValueError(
                f"As parameters the activation {activation!r} accepts "
                f"{accepted}. Received: {key}={value!r}"
            )


def _check_value(key: str, value: Any, default: bool | float) -> Any:
    if isinstance(default, bool):
        if not isinstance(value, bool | np.bool_):
            raise ValueError(
                f"{key} must be True or False. Received: {key}={value!r}"
            )
        return bool(value)
    if not is_real(value):
        raise ValueError(
            f"{key} must be a finite number. Received: {key}={value!r}"
        )
    return float(value)


def _check_breakpoints(value: Any) -> tuple[float, ...]:
    if not isinstance(value, tuple | list | np.ndarray) or not all(
        is_real(point) for point in value
    ):
        raise ValueError(
            f"breakpoints must be a sequence of finite numbers. "
            f"Received: breakpoints={value!r}"
        )
    return tuple(sorted({float(point) for point in value}))


def _checked(name: str, activation: ArrayFunction) -> ArrayFunction:
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
