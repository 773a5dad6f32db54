"""Exponents of the width in parametrizations of dense networks."""

from __future__ import annotations

from typing import NamedTuple

from keras_initx.validation import check_choice, check_instance, check_int


class AbcParametrization(NamedTuple):
    """The exponents of the width m in each layer of a dense network.

    Attributes:
        multiplier: tuple of float. a of each layer: its map is m^(-a) w.
        start: tuple of float. b of each layer: its weights w start with the
            standard deviation m^(-b), times a constant.
        rate: tuple of float. c of each layer: its learning rate for SGD is
            m^(-c), times a constant.
    """

    multiplier: tuple[float, ...]
    start: tuple[float, ...]
    rate: tuple[float, ...]


# a, b and c of the input, the hidden and the output layers.
_EXPONENTS = {
    "standard": ((0, 0, 0), (0, 0.5, 0.5), (0, 0, 0)),
    "ntk": ((0, 0.5, 0.5), (0, 0, 0), (0, 0, 0)),
    "mean_field": ((0, 1, 1), (0, 0, 0), (-1, -2, -1)),
    "mup": ((-0.5, 0, 0.5), (0.5, 0.5, 0.5), (0, 0, 0)),
}


def abc_parametrization(name: str, layers: int = 3) -> AbcParametrization:
    """Returns the exponents of a parametrization of dense networks.

    In a network of width m, layer l maps x to m^(-a) w x, with weights w that
    start with the standard deviation m^(-b) and are trained by SGD with the
    learning rate m^(-c), up to constants:

                        a                 b              c
        standard        0,  0,   0        0, 1/2, 1/2    0,  0,  0
        ntk             0, 1/2, 1/2       0,  0,   0     0,  0,  0
        mean_field      0,  1,   1        0,  0,   0    -1, -2, -1
        mup           -1/2, 0,  1/2      1/2, 1/2, 1/2   0,  0,  0

    for the input layer, the hidden layers and the output layer. "mean_field"
    is the integrable parametrization.

    Args:
        name: str. "standard", "ntk", "mean_field" (or "integrable") or "mup".
        layers: int. The number of layers with weights, >= 2. Defaults to 3.

    Returns:
        An `AbcParametrization` with `layers` numbers in each field.

    Raises:
        ValueError: If there is no parametrization of that name, or `layers` is
            no int >= 2.

    Example:

    >>> abc_parametrization("mup", layers=4).multiplier
    (-0.5, 0.0, 0.0, 0.5)

    Reference: Yang & Hu, ICML (2021), arXiv:2011.14522; Hajjar, Chizat &
    Giraud, arXiv:2110.15596.
    """
    name = "mean_field" if name == "integrable" else name
    name = check_choice("name", name, _EXPONENTS)
    layers = check_int("layers", layers, 2)
    return AbcParametrization(
        *(
            (float(first), *[float(hidden)] * (layers - 2), float(last))
            for first, hidden, last in _EXPONENTS[name]
        )
    )


def first_step_exponent(parametrization: AbcParametrization) -> float:
    """Returns the power of the width with which the first step moves a network.

    In the first step of SGD the output of a relu network of width m changes by

        sum over layers l of  m^(-c_l) |df / dw_l|^2  ~  m^e

    times the derivative of the loss, to first order. With coordinates of size
    m^(-s_l) in the signal of layer l, and m^(-d_l) in the derivative of the
    output by it, for weights of mean zero,

        s_1 = a_1 + b_1,        s_l = s_(l-1) + a_l + b_l - 1/2
        d_(L-1) = a_L + b_L,    d_l = d_(l+1) + a_(l+1) + b_(l+1) - 1/2

        e_l = -2 a_l - c_l + (1 - 2 s_(l-1)) + (1 - 2 d_l)

    without the first bracket at l = 1 and without the second one at l = L, the
    output layer, and e is the largest of these. At e = 0 a step moves wide and
    narrow networks as far: "ntk" and "mup". At e > 0 a wide network needs a
    smaller learning rate: 1 for "standard". At e < 0 a wide network does not
    start: 3 - L for "mean_field" and L > 2, so that integrable networks of
    more than three layers do not start at these learning rates. Hajjar, Chizat
    & Giraud prove for other activations too that those of more than four
    layers start at a stationary point, and that larger rates in the first step
    mend it, which amounts to muP.

    Args:
        parametrization: AbcParametrization. The exponents.

    Returns:
        The exponent e, a float.

    Raises:
        ValueError: If `parametrization` is something else.

    Example:

    >>> first_step_exponent(abc_parametrization("mup", layers=6))
    0.0
    >>> first_step_exponent(abc_parametrization("mean_field", layers=6))
    -3.0

    Reference: derived here. The statement on integrable networks: Hajjar,
    Chizat & Giraud, arXiv:2110.15596.
    """
    check_instance(
        "parametrization",
        parametrization,
        AbcParametrization,
        "an AbcParametrization",
    )
    a, b, c = parametrization
    last = len(a) - 1
    # The exponents of the signal after each layer, and of the derivative.
    s, d = [a[0] + b[0]], [a[last] + b[last]]
    for i in range(1, last):
        s.append(s[-1] + a[i] + b[i] - 0.5)
        d.insert(0, d[0] + a[last - i] + b[last - i] - 0.5)
    exponents = []
    for i in range(last + 1):
        e = -2 * a[i] - c[i]
        e += 1 - 2 * s[i - 1] if i > 0 else 0
        e += 1 - 2 * d[i] if i < last else 0
        exponents.append(e)
    return float(max(exponents))
