"""A row for each initializer: how it is made, and what its weights are.

The tests of `tests/initializers`, `tests/test_static.py` and
`tests/distribute` run for each row.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from scipy import optimize, special, stats

import keras_initx as kx
from tests.helpers.stat_checks import assert_shares

LEVELS = (0.5, 0.8, 0.9, 0.98)


def tfd():
    import tensorflow_probability as tfp

    return tfp.distributions


def quantiles(symmetric):
    """Returns the quantiles of |z| at LEVELS for a symmetric distribution."""
    return [symmetric.ppf((1 + level) / 2) for level in LEVELS]


NORMAL = quantiles(stats.norm)
# The quantiles of |Z| where E exp(itZ) = exp(-|t|^alpha): the roots in x of
#   (2 / pi) int_0^inf sin(t x) / t exp(-t^alpha) dt = level.
STABLE = {
    0.5: (1.283833, 12.741343, 57.304028, 1559.726),
    1.0: (1.0, 3.077684, 6.313752, 31.820516),
    1.5: (0.968933, 2.061463, 3.051941, 7.736446),
    1.8: (0.959756, 1.880297, 2.504881, 4.276792),
}


def fractional_std(s):
    """Returns the function from fan-in to sigma of relu, by a binomial sum."""

    def std(fan_in):
        n = np.arange(1, fan_in + 1)
        log_moment = special.logsumexp(
            special.gammaln(fan_in + 1)
            - special.gammaln(n + 1)
            - special.gammaln(fan_in - n + 1)
            - fan_in * np.log(2)
            + s / 2 * np.log(2)
            + special.gammaln((n + s) / 2)
            - special.gammaln(n / 2)
        )
        return np.exp(-log_moment / s)

    return std


def he(fan_in):
    return np.sqrt(2 / fan_in)


def mixture():
    return tfd().MixtureSameFamily(
        tfd().Categorical(probs=[0.9, 0.1]), tfd().Normal(0.0, [1.0, 10.0])
    )


def mixture_quantile(level):
    def excess(x):
        inside = 2 * stats.norm.cdf([x, x / 10]) - 1
        return inside @ [0.9, 0.1] - level

    return optimize.brentq(excess, 0, 100) / np.sqrt(0.9 + 0.1 * 100)


def assert_half_are_positive(weights):
    """Asserts it of independent weights, with false alarms below 1e-8."""
    weights = np.asarray(weights)
    positive = stats.binomtest(np.count_nonzero(weights > 0), weights.size)
    assert positive.pvalue > 1e-8


def assert_signs(unit):
    """Asserts that numbers are -1 or 1, each with probability 1/2."""
    np.testing.assert_allclose(np.abs(unit), 1, rtol=1e-5)
    assert_half_are_positive(unit)


def assert_orthonormal(matrix):
    """Asserts that the rows are orthonormal, or the columns if fewer."""
    matrix = np.asarray(matrix)
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    products = matrix @ matrix.T
    # Rounding of a factorization in float32 grows with the size.
    np.testing.assert_allclose(products, np.eye(len(products)), atol=1e-4)


@dataclass(frozen=True)
class Row:
    """An initializer and the distribution of its weights.

    Attributes:
        make: Function from the keywords that all have to the initializer.
        scale: Function from fan-in to scale.
        quantiles: The quantiles of |weight| / scale at LEVELS, where weight
            has a symmetric distribution that is continuous. None if it has
            none; then `check` is needed.
        check: Function from the weights over `scale` that asserts their
            distribution, and detects an error of 1% in the scale.
        shape: The shape of a kernel.
        columns: The number of columns of 64 weights that show an error of 1%
            in the scale. A million normal weights do: it changes the share
            below LEVELS[2] by 11 standard deviations. Fewer than the default
            where it takes long to draw them and other rows, or the check,
            leave no doubt of the form of the distribution.
        wide: Whether the weights are computed in float64, as those of some
            distributions of TensorFlow Probability and those by formula are:
            on the host, before the first training step.
    """

    make: Callable
    scale: Callable | None = None
    quantiles: tuple | None = None
    check: Callable | None = None
    shape: tuple = (64, 8)
    columns: int = 65536
    wide: bool = False

    def assert_drawn(self, weights, fan_in):
        """Asserts that weights have the distribution and the scale."""
        weights = keras.ops.convert_to_numpy(weights).astype(np.float64)
        unit = weights / self.scale(fan_in)
        if self.check is not None:
            self.check(unit)
            return
        assert_shares(np.abs(unit), self.quantiles, LEVELS)


def fractional(s, scale, **parameters):
    return Row(
        functools.partial(
            kx.initializers.FractionalMoment, order=s, **parameters
        ),
        scale,
        NORMAL,
    )


def stable(stability, scale, **parameters):
    return Row(
        functools.partial(
            kx.initializers.AlphaStable, stability=stability, **parameters
        ),
        scale.get,
        STABLE[stability],
    )


def drawn(distribution, twin, columns=65536, **parameters):
    """Returns a row of FromDistribution, whose twin is of SciPy."""
    stddev = twin.std()
    return Row(
        lambda **keywords: kx.initializers.FromDistribution(
            distribution(), **parameters, **keywords
        ),
        he,
        tuple(q / stddev for q in quantiles(twin)),
        columns=columns,
        wide=True,
    )


# The scales in dicts: sigma of the leaky relu by its hypergeometric sum, of
# the random one by quadrature; c of stable weights by quadrature and checked
# by simulation, to 3 digits at least.
ROWS = {
    "kaiming": fractional(2, he),
    "fractional": fractional(1.0, fractional_std(1.0)),
    "fractional-low": fractional(0.5, fractional_std(0.5)),
    "fractional-linear": fractional(
        1.0, {64: 0.125489216}.get, activation="linear"
    ),
    "fractional-leaky": fractional(
        1.0,
        {64: 0.159062866}.get,
        activation="leaky_relu",
        negative_slope=0.5,
    ),
    "fractional-rrelu": fractional(
        1.0,
        {64: 0.173504106}.get,
        activation="rrelu",
        negative_slope_range=[1 / 8, 1 / 3],
    ),
    "fractional-dropout": fractional(
        1.5, {64: 0.159123407}.get, dropout_rate=0.2
    ),
    "stable": stable(1.5, {64: 0.049830, 256: 0.017170, 1024: 0.0060974}),
    "stable-linear": stable(1.5, {64: 0.029013}, activation="linear"),
    "stable-moment": stable(1.8, {64: 0.089157}, order=0.5),
    "stable-cauchy": stable(
        1.0, {64: 0.0087597, 256: 0.0016893, 1024: 0.00034598}
    ),
    "drawn-normal": drawn(lambda: tfd().Normal(0.0, 3.0), stats.norm(0, 3)),
    # 1% of the scale changes the share below LEVELS[1] by 12 deviations.
    "drawn-student": drawn(
        lambda: tfd().StudentT(3.0, 0.0, 2.0), stats.t(3), columns=32768
    ),
    "drawn-laplace": drawn(lambda: tfd().Laplace(0.0, 2.0), stats.laplace),
    "drawn-mixture": Row(
        lambda **keywords: kx.initializers.FromDistribution(
            mixture(), **keywords
        ),
        he,
        tuple(map(mixture_quantile, LEVELS)),
        wide=True,
    ),
    "drawn-signs": Row(
        lambda **keywords: kx.initializers.FromDistribution(
            tfd().FiniteDiscrete([-3.0, 3.0], probs=[0.5, 0.5]), **keywords
        ),
        he,
        check=assert_signs,
        wide=True,
    ),
    "scaled": Row(
        lambda seed=None, fan_in=None, **axes: kx.initializers.Scaled(
            kx.initializers.FractionalMoment(2, fan_in=fan_in, seed=seed),
            -0.5,
            **axes,
        ),
        lambda fan_in: he(fan_in) / 2,
        NORMAL,
    ),
    # Without pairs: the halves of pairs are not independent.
    "paired": Row(
        lambda seed=None, fan_in=None, **axes: kx.initializers.Paired(
            kx.initializers.FractionalMoment(2, fan_in=fan_in, seed=seed),
            scale=0.25,
            **axes,
        ),
        lambda fan_in: he(fan_in) / 2,
        NORMAL,
    ),
    "delta-orthogonal": Row(
        lambda fan_in=None, **keywords: kx.initializers.DeltaOrthogonal(
            2.0, **keywords
        ),
        lambda fan_in: 2.0,
        check=assert_orthonormal,
        columns=4096,
    ),
}
# With noise=1 the weights are nothing but noise.
ROWS |= {
    f"dirac-{name}": Row(
        functools.partial(kind, noise=1.0, scale=2.0), he, NORMAL
    )
    for name, kind in {
        "average": kx.initializers.DiracAverage,
        "identity": kx.initializers.Dirac,
    }.items()
}
# All layers of a process share an int as seed, so that they take no generator.
DEPTH_ROWS = {
    f"depth-{name}": Row(
        functools.partial(
            kx.initializers.DepthWeights, depth=9, index=4, **parameters
        ),
        lambda fan_in: np.sqrt(1 / fan_in),
        NORMAL,
        # Sums of normal numbers over the layers.
        columns=16384,
    )
    for name, parameters in {
        "white": {},
        "smooth": {"kind": "smooth", "length_scale": 0.3},
        "fractional": {"kind": "fractional", "hurst": 0.8, "stream": 1},
    }.items()
}
DEPTH_ROWS["depth-he"] = Row(
    functools.partial(
        kx.initializers.DepthWeights, depth=3, index=0, scale=2.0
    ),
    he,
    NORMAL,
)
TAKE_GENERATORS = dict(ROWS)
ROWS |= DEPTH_ROWS
BY_LAYER = [
    "kaiming",
    "fractional",
    "stable",
    "stable-cauchy",
    "drawn-student",
    "scaled",
    "paired",
    "dirac-average",
]

# The weights of these are not drawn from one distribution, so that few tests
# can take them.
BUILT = {
    "paired-both": Row(
        functools.partial(
            kx.initializers.Paired,
            "delta_orthogonal",
            inputs=-1,
            outputs=1,
        ),
        shape=(3, 3, 4, 8),
    ),
    "wave-first": Row(
        functools.partial(kx.initializers.TriangleWaveKernel, 2, 0),
        shape=(3, 8),
        wide=True,
    ),
    "wave-hidden": Row(
        functools.partial(kx.initializers.TriangleWaveKernel, 2, 1),
        shape=(8, 8),
        wide=True,
    ),
    "wave-bias": Row(
        functools.partial(kx.initializers.TriangleWaveBias, 2, 1),
        shape=(8,),
        wide=True,
    ),
}
