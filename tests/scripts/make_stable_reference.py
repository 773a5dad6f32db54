"""Writes the reference table of tests/distributions/test_density.py.

The values are integrals that keras_initx does not use, in arithmetic of many
digits:

- the Fourier integral along a straight ray in the plane of t, in the ball
  arithmetic of Arb, whose error bound is certified;
- for the light tails of distributions of skewness -1 and 1, Zolotarev's
  integral over an angle, by the tanh-sinh rule of mpmath in 60 digits;
- for a stability below 0.3, in a table of its own, the Fourier integral along
  the negative imaginary axis by the same rule in 40 digits.

Run `pip install python-flint mpmath`, then this file.
"""

import csv
import itertools
import math
from pathlib import Path

import numpy as np

HERE = Path(__file__).parents[1] / "distributions"
NEAR_ONE = 0.95, 0.999, 1 - 1e-6, 1.0, 1 + 1e-6, 1.001, 1.05
STABILITIES = 0.3, 0.5, 0.8, *NEAR_ONE, 1.2, 1.5, 1.9, 1.99, 1.9999, 2.0
SKEWNESSES = 0.0, 1e-6, 0.3, 0.5, 0.9, 0.999999, 1.0
POINTS = 0.0, 1e-3, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 100.0, 1e3, 1e4, 1e6
SMALL_STABILITIES = 0.05, 0.12, 0.29
SMALL_SKEWNESSES = 0.0, 0.5, 0.999, 1 - 1e-9, 1.0
# One in this number of the grid's points is a row, and all in light tails.
KEPT = 6
# The largest relative error of a certified value.
RELATIVE_ERROR = 1e-15


def psi(log_t, stability, skewness, z):
    """Returns the exponent in float64, which is enough to choose a ray."""
    e = 1 - stability
    u = math.pi * e / 2
    tau = 2 * skewness / math.pi * (u / math.tan(u) if e else 1.0)
    big_e = -np.expm1(-e * log_t) / e if e else log_t
    t = np.exp(log_t)
    return t * (np.exp(-e * log_t) + 1j * (tau * big_e + z))


def ray(stability, skewness, z, digits):
    """Returns the angle of a ray, log|t| at its end, and the growth along it.

    At the end exp(-psi) is below exp(-digits). The angle is that along which
    |exp(-psi)| grows, and its argument changes, least. The growth is that of
    log|exp(-psi)|.
    """
    widest = (math.log(digits * 10) + 8) / min(stability, 1) + 20
    log_r = np.linspace(-60, min(700, widest), 6000)
    best = None
    with np.errstate(all="ignore"):
        for angle in np.linspace(-1.55, 1.55, 81):
            values = psi(log_r + 1j * angle, stability, skewness, z)
            real = np.nan_to_num(values.real, nan=-np.inf)
            if not (real > digits).any():
                continue
            end = int(np.argmax(real > digits))
            growth = max(-real[: end + 1].min(), 0)
            cost = 3 * growth + np.abs(values.imag[: end + 1]).max()
            if best is None or cost < best[0]:
                best = cost, angle, log_r[end] + 0.1, growth
    return best[1:]


def fourier(stability, skewness, z, tail, digits=60.0):
    """Returns the density, or P(Z > z), as an Arb ball.

    The error is about exp(-digits).
    """
    from flint import acb, arb, ctx

    angle, end, growth = ray(stability, skewness, z, digits + 5)
    ctx.prec = int(2 * (digits + growth)) + 200
    e = 1 - arb(stability)
    if stability == 2:
        tau = arb(0)
    elif stability == 1:
        tau = 2 * arb(skewness) / arb.pi()
    else:
        tau = e * arb(skewness) * (arb.pi() * arb(stability) / 2).tan()
    i = acb(0, 1)
    far = arb((digits + 10) / math.cos(angle)) / arb(end).exp()

    def integrand(x, _):
        log_t = x + acb(0, arb(angle))
        t = log_t.exp()
        if stability == 1:
            exponent = t * (1 + i * (tau * log_t + arb(z)))
        else:
            q = (-e * log_t).exp()
            exponent = t * (q + i * (tau * (1 - q) / e + arb(z)))
        if tail:
            # exp(-far t) makes the integral converge at t = 0. Its integral
            # along the real axis is real, so the imaginary part is the same.
            return (-exponent).exp() - (-far * t).exp()
        return (-exponent).exp() * t

    low = min(end, 0) - (digits + 10) / (min(stability, 1) if tail else 1)
    precise = arb(2) ** -(1.45 * digits + 10)
    total = acb.integral(
        integrand,
        arb(low),
        arb(end),
        rel_tol=precise,
        abs_tol=precise,
        depth_limit=200,
        eval_limit=60000,
    )
    missing = arb(0, math.exp(3 - digits))
    if tail:
        return arb(1) / 2 + total.imag / arb.pi() + missing
    return total.real / arb.pi() + missing


def certified(stability, skewness, z, tail):
    """Returns the logarithm of `fourier`, or None if it is not accurate."""
    for digits in (60.0, 120.0, 240.0):
        value = fourier(stability, skewness, z, tail, digits)
        if value > 0 and float(value.rad()) < RELATIVE_ERROR * float(
            value.mid()
        ):
            return float(value.log().mid())
    return None


def zolotarev(stability, skewness, z):
    """Returns log density and log P(Z < z) for skewness 1 and z < 0."""
    from mpmath import atan, cos, exp, inf, log, mp, mpf, pi, quad, sin, tan

    mp.dps = 60
    a, x = mpf(stability), mpf(z)
    if a == 1:
        low, high, factor = -pi / 2, pi / 2, mpf(1) / 2

        def log_w(v):
            w = pi / 2 + v
            return log(2 / pi) - pi * x / 2 + log(w / cos(v)) + w * tan(v)

    else:
        b = skewness * tan(pi * a / 2)
        y, b = (x + b, b) if a < 1 else (-x - b, -b)
        if y <= 0:
            return -inf, -inf
        theta = atan(b) / a
        low, high, factor = -theta, pi / 2, a / (abs(a - 1) * pi * y)

        def log_w(v):
            ratio = y * cos(v) / sin(a * (theta + v))
            ends = log(cos(a * theta)) / (a - 1)
            inner = cos(a * theta + (a - 1) * v) / cos(v)
            return ends + a / (a - 1) * log(ratio) + log(inner)

    tiny = mpf(10) ** -30
    if log_w(low + tiny) > log_w(high - tiny):
        low, high = high, low

    def rise(fraction):
        return exp(log_w(low + (high - low) * fraction)) - start

    start = exp(log_w(low + (high - low) * tiny))
    cuts = [tiny]
    for target in (1e-6, 1e-3, 0.1, 1, 5, 15, 40, 100):
        left, right = mpf(10) ** -25, 1 - mpf(10) ** -25
        for _ in range(100):
            middle = (left + right) / 2
            if left < 1e-3:
                middle = (left * right) ** mpf("0.5")
            if rise(middle) < target:
                left = middle
            else:
                right = middle
        cuts.append(left)
    width = abs(high - low)
    density_integral = quad(lambda v: (start + rise(v)) * exp(-rise(v)), cuts)
    tail_integral = quad(lambda v: exp(-rise(v)), cuts)
    return (
        log(factor * width * density_integral) - start,
        log(width * tail_integral / pi) - start,
    )


def rows():
    """Yields stability, skewness and z of each row of the table."""
    rng = np.random.default_rng(0)
    for a, b, z in itertools.product(STABILITIES, SKEWNESSES, POINTS):
        points = [z, -z] if b and z else [z]
        if z == 0 and b and a not in (1, 2):
            center = -b * math.tan(math.pi * a / 2)
            points += [center + gap for gap in (-0.05, 1e-6, 0.05)]
        for point in points:
            light = b == 1 and point < -1
            if light or (rng.random() < 1 / KEPT and abs(point) < 1e7):
                yield a, b, point


def small_stability(stability, skewness, y):
    """Returns log density, log P(Y > y) and log P(Y < y) for y > 0.

    Y is Z - its center -skewness tan(pi stability / 2).
    """
    from mpmath import exp, linspace, log, mp, mpc, mpf, pi, quad, tan

    mp.dps = 40
    a, b, y = mpf(stability), mpf(skewness), mpf(y)
    c = 1 - mpc(0, 1) * b * tan(pi * a / 2)
    w = y**-a * c * exp(-mpc(0, 1) * pi * a / 2)

    def factor(x):
        return exp(-exp(x) - w * exp(a * x))

    density = quad(
        lambda x: (factor(x) * mpc(0, -1) * exp(x)).real, linspace(-120, 5, 63)
    )
    # Below `low` the integrand is below exp(-60).
    low = -(60 + max(0, float(log(abs(w))))) / float(a)
    above = quad(lambda x: factor(x).imag, linspace(low, 6, 120)) / pi
    return log(density / pi / y), log(above), log(1 - above)


def small_rows():
    """Yields stability, skewness, y and the three logarithms."""
    for a, b in itertools.product(SMALL_STABILITIES, SMALL_SKEWNESSES):
        for sign, size in itertools.product((1, -1), (1e-9, 0.003, 0.7, 40.0)):
            if b < 1 or sign > 0:
                # The distribution of -Y has the opposite skewness.
                density, above, below = map(
                    float, small_stability(a, sign * b, size)
                )
                if min(density, above, below) < -50:
                    # Too few digits are left.
                    continue
                if sign < 0:
                    above, below = below, above
                yield a, b, sign * size, density, above, below


def main():
    with open(HERE / "small_stability_reference.csv", "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(
            ["stability", "skewness", "y", "log_density", "log_sf", "log_cdf"]
        )
        table.writerows(small_rows())
    with open(HERE / "stable_reference.csv", "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(
            ["stability", "skewness", "z", "log_density", "log_sf", "log_cdf"]
        )
        for a, b, z in rows():
            if b == 1 and z < -1 and a < 2:
                density, below = map(float, zolotarev(a, b, z))
                above = math.log1p(-math.exp(below))
            else:
                density = certified(a, b, z, tail=False)
                above = certified(a, b, z, tail=True)
                below = certified(a, -b, -z, tail=True)
            if None not in (density, above, below):
                table.writerow(
                    [repr(v) for v in (a, b, z, density)] + [above, below]
                )
                file.flush()


if __name__ == "__main__":
    main()
