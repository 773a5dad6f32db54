"""Tests of AlphaStable as a distribution of TensorFlow Probability."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import special

import keras_initx as kx
from tests.helpers.stat_checks import assert_stable, stable_cf

AlphaStable = kx.distributions.AlphaStable
tfd = tfp.distributions
DTYPES = ["float16", "bfloat16", "float32", "float64"]
COUNT = 1 << 18


def batch(**options):
    return AlphaStable(
        [[1.2, 1.5, 2.0]], [[0.5], [0.0]], loc=1.0, scale=2.0, **options
    )


def test_public_names_are_listed_before_they_are_imported():
    assert kx.distributions.__all__ == ["AlphaStable"]
    assert "AlphaStable" in dir(kx.distributions)
    with pytest.raises(AttributeError, match="no attribute 'Stable'"):
        _ = kx.distributions.Stable


@pytest.mark.slow
def test_shapes_of_samples_and_statistics():
    distribution = batch()
    assert distribution.event_shape == ()
    assert distribution.batch_shape == (2, 3)
    assert distribution.batch_shape_tensor().numpy().tolist() == [2, 3]
    assert distribution.sample(seed=1).shape == (2, 3)
    assert distribution.sample([4, 5], seed=1).shape == (4, 5, 2, 3)
    assert distribution.mean().shape == distribution.variance().shape == (2, 3)
    assert (
        distribution.log_prob(0.3).shape
        == distribution.cdf([[1.0], [2.0]]).shape
        == (2, 3)
    )
    assert distribution.characteristic_function(0.3).shape == (2, 3)
    assert distribution.fractional_moment(0.3).shape == (2, 3)
    assert distribution.parameterization == "S0"


def test_printing_shows_the_parameters(rng):
    assert str(AlphaStable(1.5, 0.25, -2.0, 1e-3, "S1")) == (
        "AlphaStable(stability=1.5, skewness=0.25, loc=-2, scale=0.001, "
        "parameterization='S1', dtype='float32')"
    )
    fitted = AlphaStable.fit(rng.standard_cauchy(100))
    for name in ("stability", "skewness", "loc", "scale"):
        value = float(getattr(fitted, name))
        assert f"{name}={value:.6g}" in str(fitted)
        assert f"{name}={value:.6g}" in repr(fitted)
    number = tf.constant(1.5, tf.bfloat16)
    assert "scale=2, " in str(
        AlphaStable(number, scale=tf.Variable(2 * number / 1.5))
    )
    many = str(AlphaStable(tf.linspace(0.5, 2.0, 1000)))
    assert "stability=[0.5, " in many.replace("     ", "") and len(many) < 300
    text = tf.function(lambda a: tf.constant(str(AlphaStable(a))))(1.5)
    assert "AlphaStable" in str(text.numpy())


def test_slices_and_copies():
    distribution = batch()
    for index in ((..., 0), 1, (slice(None), tf.newaxis, slice(1, None))):
        sliced = distribution[index]
        assert isinstance(sliced, AlphaStable)
        expected = distribution.characteristic_function(0.3)[index]
        assert sliced.batch_shape == expected.shape
        np.testing.assert_array_equal(
            sliced.characteristic_function(0.3), expected
        )
    other = distribution.copy(stability=1.1, parameterization="S1")
    assert other.batch_shape == (2, 1)
    assert other.parameterization == "S1"
    assert float(other.scale) == 2.0


def test_composite_tensor_passes_through_graph_functions():
    distribution = batch()
    assert isinstance(distribution, tf.__internal__.CompositeTensor)

    @tf.function
    def identity_and_sample(distribution):
        return distribution, distribution.sample(3, seed=[1, 2])

    again, x = identity_and_sample(distribution)
    assert isinstance(again, AlphaStable)
    assert again.parameterization == "S0"
    np.testing.assert_allclose(
        x, distribution.sample(3, seed=[1, 2]), rtol=1e-5
    )
    last = tf.while_loop(
        lambda i, distribution: i < 3,
        lambda i, distribution: (
            i + 1,
            distribution.copy(loc=distribution.loc + 1.0),
        ),
        [0, AlphaStable(1.5, loc=0.0)],
    )[1]
    assert float(last.loc) == 3.0


@pytest.mark.slow
def test_use_inside_other_distributions(seed):
    distribution = batch()
    independent = tfd.Independent(distribution, reinterpreted_batch_ndims=1)
    x = independent.sample(4, seed=seed)
    assert x.shape == (4, 2, 3)
    np.testing.assert_allclose(
        independent.log_prob(x),
        tf.reduce_sum(distribution.log_prob(x), -1),
        rtol=1e-5,
    )
    mixture = tfd.MixtureSameFamily(
        tfd.Categorical(probs=[0.3, 0.7]), AlphaStable([1.2, 1.8], scale=2.0)
    )
    x = mixture.sample(5, seed=seed)
    assert x.shape == (5,)
    first, second = (AlphaStable(a, scale=2.0).prob(x) for a in (1.2, 1.8))
    np.testing.assert_allclose(
        mixture.prob(x), 0.3 * first + 0.7 * second, rtol=1e-4
    )
    joint = tfd.JointDistributionSequential(
        [AlphaStable(1.5), lambda x: AlphaStable(1.2, loc=x)]
    )
    first, second = joint.sample(6, seed=seed)
    np.testing.assert_allclose(
        joint.log_prob([first, second]),
        AlphaStable(1.5).log_prob(first)
        + AlphaStable(1.2).log_prob(second - first),
        rtol=1e-4,
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_results_have_the_dtype_of_the_parameters(dtype):
    number = tf.as_dtype(dtype).as_numpy_dtype
    distribution = AlphaStable(number(1.5), number(0.5), parameterization="S1")
    assert distribution.dtype == dtype
    x = distribution.sample(1000, seed=1)
    for value in (
        x,
        distribution.mean(),
        distribution.variance(),
        distribution.log_prob(x),
        distribution.cdf(x),
    ):
        assert value.dtype == dtype
    assert np.isfinite(distribution.log_prob(x).numpy().astype(float)).all()
    assert distribution.fractional_moment(0.5).dtype == dtype
    wide = tf.complex128 if dtype == "float64" else tf.complex64
    assert distribution.characteristic_function(0.5).dtype == wide
    heavy = AlphaStable(number(0.1), scale=number(100))
    assert np.isfinite(heavy.sample(1000, seed=1).numpy().astype(float)).all()


def test_samples_depend_on_the_seed_alone():
    def draw(seed=None):
        return batch().sample(9, seed=seed).numpy()

    assert (draw([1, 2]) == draw(tf.constant([1, 2]))).all()
    assert not np.isin(draw([1, 2]), draw([1, 3])).any()
    assert not np.isin(draw(), draw()).any()
    # An int is combined with the global seed, as by every TFP distribution.
    tf.random.set_seed(5)
    first = draw(7)
    assert not np.isin(first, draw(7)).any()
    tf.random.set_seed(5)
    assert (first == draw(7)).all()


@pytest.mark.slow
def test_xla_and_eager_results_agree(seed):
    # Compiling the density too takes seconds: test_density.py does it.
    def use(x, stability):
        distribution = AlphaStable(stability, 0.5, parameterization="S1")
        return distribution.sample(3, seed=[1, 2]), distribution.cdf(x)

    # One has an integral of its own.
    arguments = tf.constant([0.3, -2.0]), tf.constant([0.2, 1.5])
    for compiled, plain in zip(
        tf.function(use, jit_compile=True)(*arguments),
        use(*arguments),
        strict=True,
    ):
        np.testing.assert_allclose(compiled, plain, rtol=1e-4, atol=1e-5)


def s1_cf(t, a, b, loc, scale):
    """Returns the characteristic function in S1, from its definition."""
    u = np.abs(scale * t)
    if a == 1:
        tangent = -2 / np.pi * np.log(np.where(u == 0, 1, np.abs(t)))
    else:
        tangent = np.tan(np.pi * a / 2)
    exponent = u**a * (1 - 1j * b * np.sign(t) * tangent)
    return np.exp(-exponent + 1j * loc * t)


T = np.array([-2.0, -0.3, 0.0, 1e-9, 0.4, 1.0, 5.0])


@pytest.mark.parametrize("a", [0.3, 0.97, 1.0, 1.2, 2.0])
@pytest.mark.parametrize("b", [0.0, 0.7, -1.0])
def test_characteristic_function_equals_definition(a, b):
    s1 = AlphaStable(
        np.float64(a), b, loc=0.5, scale=3.0, parameterization="S1"
    )
    expected = s1_cf(T, a, b, 0.5, 3.0)
    actual = s1.characteristic_function(T)
    np.testing.assert_allclose(actual, expected, atol=1e-13)
    s0 = AlphaStable(np.float64(a), b)
    actual = s0.characteristic_function(T[4:])
    np.testing.assert_allclose(actual, stable_cf(T[4:], a, b), atol=1e-13)


def test_characteristic_function_is_continuous_at_stability_one():
    at_one, close = (
        AlphaStable(np.float64(a), 1.0).characteristic_function(T)
        for a in (1.0, 1 + 1e-10)
    )
    np.testing.assert_allclose(at_one, close, atol=1e-9)


@pytest.mark.parametrize(("a", "b"), [(0.7, 1.0), (1.0, 0.5), (1.6, -0.8)])
@pytest.mark.parametrize("parameterization", ["S0", "S1"])
def test_samples_follow_the_characteristic_function(
    a, b, parameterization, seed
):
    distribution = AlphaStable(
        a, b, 0.5, 3.0, parameterization=parameterization
    )
    x = (
        distribution.sample(COUNT, seed=[seed % 2**31, 1])
        .numpy()
        .astype(np.float64)
    )
    if parameterization == "S0":
        shift = 0.5
    elif a == 1:
        shift = 0.5 + 2 / np.pi * b * 3.0 * np.log(3.0)
    else:
        shift = 0.5 + 3.0 * b * np.tan(np.pi * a / 2)
    assert_stable((x - shift) / 3.0, a, b)
    with pytest.raises(AssertionError, match="off by"):
        assert_stable((x - shift) / 3.0 + 0.1, a, b)


@pytest.mark.parametrize("b", [0.0, 0.6, -1.0])
def test_mean_and_variance(b):
    a = np.array([0.5, 1.0, 1.0001, 1.5, 1.99, 2.0])
    distribution = AlphaStable(a, b, loc=0.5, scale=3.0)
    # The mean is the derivative at 0 of the characteristic function's phase.
    t = 1e-150
    tangent = np.tan(np.pi * a[2:] / 2)
    phase = 3 * b * tangent * ((3 * t) ** (a[2:] - 1) - 1)
    phase[0] = -3 * b * tangent[0]
    expected = 0.5 + phase
    np.testing.assert_allclose(distribution.mean()[2:], expected, rtol=1e-9)
    undefined = {0.0: math.nan, 0.6: math.nan, -1.0: -math.inf}[b]
    np.testing.assert_equal(distribution.mean()[:2].numpy(), [undefined] * 2)
    variance = [math.nan, math.nan, math.inf, math.inf, math.inf, 18.0]
    np.testing.assert_equal(distribution.variance().numpy(), variance)
    np.testing.assert_equal(distribution.stddev().numpy(), np.sqrt(variance))
    s1 = AlphaStable(a[2:], b, loc=0.5, scale=3.0, parameterization="S1")
    np.testing.assert_allclose(s1.mean(), 0.5, atol=1e-9)


def absolute_moment(p, a, b):
    """Returns E|X|^p = c int (1 - Re E exp(itX)) t^(-1-p) dt, 0 < p < a."""

    def integrand(log_t):
        t = np.exp(log_t)
        exponent = t**a * (1 - 1j * b * np.tan(np.pi * a / 2))
        return -np.expm1(-exponent).real * np.exp(-p * log_t)

    # Beyond `end` the characteristic function is below 1e-40.
    end = np.log(100) / a
    integral = scipy.integrate.quad(
        integrand, -40 / (a - p), end, limit=2000, epsabs=0, epsrel=1e-11
    )[0]
    integral += np.exp(-p * end) / p
    return 2 / np.pi * math.gamma(1 + p) * math.sin(np.pi * p / 2) * integral


@pytest.mark.parametrize(
    ("a", "p"), [(0.5, 0.2), (0.8, 0.3), (1.2, 0.4), (1.5, 1.0), (1.9, 1.3)]
)
@pytest.mark.parametrize("b", [0.0, 0.7, -1.0])
def test_fractional_moments_equal_an_integral(a, p, b):
    distribution = AlphaStable(
        np.float64(a), b, loc=7.0, scale=3.0, parameterization="S1"
    )
    expected = 3.0**p * absolute_moment(p, a, b)
    np.testing.assert_allclose(
        distribution.fractional_moment(p), expected, rtol=1e-8
    )


def test_fractional_moments_of_normal_cauchy_and_levy_distributions():
    """The normal one has variance 2; the Levy one is that of 1 / Z^2."""
    normal = AlphaStable(np.float64(2.0), 0.3)
    p = np.array([-0.5, 0.0, 1.0, 2.0, 4.0, 7.0])
    expected = 2**p * [math.gamma((1 + q) / 2) for q in p] / math.sqrt(math.pi)
    np.testing.assert_allclose(normal.fractional_moment(p), expected)
    p = np.array([-0.9, -0.2, 0.0, 0.5, 0.99])
    cauchy = AlphaStable(np.float64(1.0))
    np.testing.assert_allclose(
        cauchy.fractional_moment(p), 1 / np.cos(np.pi * p / 2)
    )
    levy = AlphaStable(np.float64(0.5), 1.0, parameterization="S1")
    p = np.array([-0.9, -0.2, 0.0, 0.3, 0.49])
    expected = 2**-p * [math.gamma(0.5 - q) for q in p] / math.sqrt(math.pi)
    np.testing.assert_allclose(levy.fractional_moment(p), expected)


@pytest.mark.parametrize("a", [0.9999, 1.0001, 1.001, 1.01, 1.5])
def test_float32_is_accurate_near_stability_one(a):
    """The reference is float64; large terms in skewness cancel in S1."""
    law32, law64 = (
        kx.distributions.AlphaStable(
            dtype(np.float32(a)), 1.0, 0.1, parameterization="S1"
        )
        for dtype in (np.float32, np.float64)
    )
    if a > 1:
        assert float(law32.mean()) == np.float32(0.1)
        np.testing.assert_allclose(law64.mean(), 0.1, rtol=1e-15)
    moments = [
        float(distribution.fractional_moment(0.5))
        for distribution in (law32, law64)
    ]
    assert moments[0] == pytest.approx(moments[1], rel=3e-6)


@pytest.mark.parametrize("method", ["prob", "log_prob", "cdf", "quantile"])
def test_nan_gives_nan(method):
    distribution = kx.distributions.AlphaStable(np.float64(1.5), 0.3)
    assert np.isnan(getattr(distribution, method)(np.float64(np.nan)))


def test_quantiles_of_zero_one_and_invalid_probabilities():
    distribution = kx.distributions.AlphaStable(np.float64(1.5), 0.3)
    ends = distribution.quantile(np.array([0.0, 1.0, -0.1, 1.1]))
    np.testing.assert_array_equal(ends, [-np.inf, np.inf, np.nan, np.nan])


def test_fractional_moments_that_are_infinite_or_unknown():
    distribution = AlphaStable([0.8, 1.0, 1.0, 1.5], [0.0, 0.0, 0.5, 0.5])
    assert np.isnan(distribution.fractional_moment(0.5)[2:]).all()
    assert np.isfinite(distribution.fractional_moment(0.5)[:2]).all()
    s1 = distribution.copy(parameterization="S1")
    assert np.isnan(s1.fractional_moment(0.5)).tolist() == [0, 0, 1, 0]
    assert np.isinf(s1.fractional_moment(1.0)).tolist() == [1, 1, 0, 0]
    assert np.isnan(s1.fractional_moment(-1.0)).all()


@pytest.mark.slow
@pytest.mark.parametrize("parameterization", ["S0", "S1"])
def test_normal_cauchy_and_levy_distributions(parameterization):
    """One batch of all three, since each step of the mode is one call."""
    x = np.array([-7.0, -0.3, 0.5, 1.0, 4.0])
    p = np.array([0.01, 0.3, 0.5, 0.95])
    loc, scale = 0.5, 3.0
    stable = AlphaStable(
        np.array([2.0, 1.0, 0.5]), [0.7, 0.0, 1.0], loc, scale, parameterization
    )
    start = loc if parameterization == "S1" else loc - scale
    known = (
        scipy.stats.norm(loc, math.sqrt(2) * scale),
        scipy.stats.cauchy(loc, scale),
        scipy.stats.levy(start, scale),
    )
    for method, name in {
        "log_prob": "logpdf",
        "prob": "pdf",
        "cdf": "cdf",
        "log_cdf": "logcdf",
        "survival_function": "sf",
        "log_survival_function": "logsf",
    }.items():
        columns = np.asarray(getattr(stable, method)(x[:, None])).T
        expected = [getattr(each, name)(x) for each in known]
        np.testing.assert_allclose(columns[:2], expected[:2], rtol=1e-8)
        if method in ("prob", "cdf"):
            np.testing.assert_allclose(
                columns[2], expected[2], rtol=1e-7, atol=1e-8
            )
    quantiles = np.asarray(stable.quantile(p[:, None])).T
    expected = [each.ppf(p) for each in known]
    np.testing.assert_allclose(quantiles[:2], expected[:2], rtol=1e-7)
    np.testing.assert_allclose(quantiles[2], expected[2], rtol=1e-6)
    modes = np.asarray(stable.mode())
    np.testing.assert_allclose(modes[:2], loc, atol=1e-6)
    np.testing.assert_allclose(modes[2], start + scale / 3, rtol=1e-5)
    assert AlphaStable(2.0, 0.7, loc).mean() == loc


@pytest.mark.slow
@pytest.mark.parametrize("a", [0.7, 1.0, 1.6])
def test_location_and_scale_move_and_stretch_the_distribution(a):
    x = np.array([-7.0, -0.3, 4.0])
    standard = AlphaStable(np.float64(a), 0.5)
    for parameterization in ("S0", "S1"):
        distribution = AlphaStable(
            a, 0.5, np.float64(1.0), 3.0, parameterization
        )
        shift = 1.0
        if parameterization == "S1" and a == 1:
            shift += 2 / np.pi * 0.5 * 3.0 * np.log(3.0)
        elif parameterization == "S1":
            shift += 0.5 * 3.0 * np.tan(np.pi * a / 2)
        z = (x - shift) / 3.0
        np.testing.assert_allclose(distribution.prob(x), standard.prob(z) / 3.0)
        np.testing.assert_allclose(distribution.cdf(x), standard.cdf(z))
        q = distribution.quantile(0.3)
        np.testing.assert_allclose(q, shift + 3.0 * standard.quantile(0.3))


@pytest.mark.slow
def test_undefined_statistics_raise_if_nan_is_not_allowed():
    distribution = AlphaStable([1.5, 0.8], 0.3, allow_nan_stats=False)
    for statistic in (
        distribution.mean,
        distribution.variance,
        distribution.stddev,
        lambda: distribution.fractional_moment(0.1),
    ):
        with pytest.raises(
            tf.errors.InvalidArgumentError,
            match=r"must exist everywhere .* Received: stability=\[1.5 0.8\]",
        ):
            statistic()
        with pytest.raises(tf.errors.InvalidArgumentError):
            tf.function(statistic)()
    assert np.isinf(AlphaStable(1.5, allow_nan_stats=False).variance())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("parameterization", ["S0", "S1"])
def test_gradients_far_out_are_those_of_the_pareto_tail(
    dtype, parameterization
):
    """P(X > x) ~ C (1 + b) (scale / x)^a, C = Gamma(a) sin(pi a / 2) / pi."""
    largest = tf.as_dtype(dtype).max
    x, scale, a, sign = (
        axis.ravel()
        for axis in np.meshgrid(
            [1e20, 1e30, largest / 20],
            [1e-30, 0.01, 1.0, 100.0],
            [0.9, 1.0, 1.1, 1.5, 1.95],
            [-1.0, 1.0],
        )
    )
    # x / scale is infinite in float64.
    kept = x / largest < scale
    x, scale, a, sign = (each[kept] for each in (x, scale, a, sign))
    x *= sign
    values = [tf.constant(v, dtype) for v in (x, a, 0.3 * sign, 0 * x, scale)]
    x, a, _, _, scale = (v.numpy().astype(float) for v in values)
    log_z = np.log(np.abs(x)) - np.log(scale)
    by_stability = special.digamma(a) + np.pi / 2 / np.tan(np.pi / 2 * a)
    for method, index in {"log_prob": a + 1, "log_outer_tail": a}.items():
        with tf.GradientTape() as tape:
            tape.watch(values)
            distribution = AlphaStable(*values[1:], parameterization)
            if method == "log_prob":
                result = distribution.log_prob(values[0])
            else:
                result = tf.where(
                    sign > 0,
                    distribution.log_survival_function(values[0]),
                    distribution.log_cdf(values[0]),
                )
        slopes = [v.numpy() for v in tape.gradient(result, values)]
        near = {"rtol": 1e-6 if dtype == "float32" else 1e-10}
        expected = by_stability - log_z + (1 / a if method == "log_prob" else 0)
        np.testing.assert_allclose(slopes[0] * x, -index, **near)
        np.testing.assert_allclose(slopes[1], expected, **near)
        np.testing.assert_allclose(slopes[2], sign / 1.3, **near)
        np.testing.assert_allclose(slopes[3] * x, index, **near)
        np.testing.assert_allclose(slopes[4] * scale, a, **near)


@pytest.mark.slow
@pytest.mark.parametrize("a", [0.5, 1.0, 1.0 + 1e-9, 1.5, 2.0])
@pytest.mark.parametrize("parameterization", ["S0", "S1"])
def test_samples_have_gradients_in_every_parameter(a, parameterization):
    assert AlphaStable(a).reparameterization_type == tfd.FULLY_REPARAMETERIZED
    parameters = [tf.constant(v, tf.float64) for v in (a, 0.4, 0.3, 2.0)]
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        distribution = AlphaStable(
            *parameters, parameterization=parameterization
        )
        y = tf.reduce_mean(tf.tanh(distribution.sample(1000, seed=[1, 2])))
    for gradient in tape.gradient(y, parameters):
        assert np.isfinite(gradient)


def test_variables_are_read_at_each_use():
    a = tf.Variable(0.5)
    distribution = AlphaStable(a, 0.0, validate_args=True)
    assert np.isnan(distribution.variance())
    a.assign(2.0)
    assert float(distribution.variance()) == 2.0
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(distribution.sample(10, seed=[1, 2]) ** 2)
    assert np.isfinite(tape.gradient(y, a))
    assert distribution.trainable_variables == (a,)
    a.assign(2.5)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"stability=2\.5"):
        distribution.sample()


def test_bijectors_map_all_numbers_to_valid_parameters(rng):
    raw = rng.uniform(-50, 50, 100)
    for dtype in (tf.float32, tf.float64):
        properties = AlphaStable.parameter_properties(dtype=dtype)
        assert list(properties) == ["stability", "skewness", "loc", "scale"]
        values = {
            name: each.default_constraining_bijector_fn().forward(
                tf.constant(raw, dtype)
            )
            for name, each in properties.items()
        }
        distribution = AlphaStable(**values, validate_args=True)
        assert distribution.dtype == dtype
    trained = tfp.experimental.util.make_trainable(AlphaStable)
    assert len(trained.trainable_variables) == 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"stability": 0.0}, r"stability must be in \(0, 2\]. .*stability=0"),
        ({"stability": [1.5, 2.1]}, r"Received: stability=\[1.5 2.1\]"),
        ({"stability": math.nan}, "Received: stability=nan"),
        ({"skewness": -1.5}, r"skewness must be in \[-1, 1\]. .*=-1.5"),
        ({"scale": 0.0}, "scale must be > 0. Received: scale=0.0"),
        ({"scale": -1.0}, "scale must be > 0. Received: scale=-1.0"),
        ({"scale": math.inf}, "Received: scale=inf"),
        ({"loc": math.nan}, "loc must be finite. Received: loc=nan"),
    ],
)
def test_invalid_parameters_raise_if_validated(changed, message):
    parameters = {"stability": 1.5, **changed}
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        AlphaStable(**parameters, validate_args=True)
    AlphaStable(**parameters)

    @tf.function
    def sample(**parameters):
        return AlphaStable(**parameters, validate_args=True).sample()

    tensors = {name: tf.constant(value) for name, value in parameters.items()}
    with pytest.raises(tf.errors.InvalidArgumentError, match="Received"):
        sample(**tensors)


def test_densities_need_a_stability_that_samples_do_not():
    """Without `validate_args` they are NaN."""
    functions = {
        "log_prob": (0.3,),
        "survival_function": (0.3,),
        "quantile": (0.3,),
        "mode": (),
    }
    checked = AlphaStable([0.049, 1.0], validate_args=True)
    assert np.isfinite(checked.sample(seed=[1, 2])).all()
    for name, arguments in functions.items():
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=r"at least 0\.05.*=\[0\.049 1"
        ):
            getattr(checked, name)(*arguments)
        values = getattr(AlphaStable([0.049, 1.0]), name)(*arguments)
        assert np.isnan(values).tolist() == [True, False]
    for dtype in (tf.float16, tf.bfloat16, tf.float32, tf.float64):
        least = AlphaStable(tf.constant(0.05, dtype), validate_args=True)
        assert 0.5 < float(least.cdf(tf.constant(0.3, dtype))) < 1


@pytest.mark.slow
@pytest.mark.parametrize("parameterization", ["S0", "S1"])
def test_invalid_parameters_give_nan_only_where_they_are(parameterization):
    # The first row is valid.
    rows = np.array(
        [
            (1.5, 0.5, 0.0, 1.0),
            (0.0, 0.5, 0.0, 1.0),
            (-1.0, 0.0, 0.0, 1.0),
            (2.1, 0.0, 0.0, 1.0),
            (math.nan, 0.0, 0.0, 1.0),
            (1.5, 1.1, 0.0, 1.0),
            (2.0, -1.1, 0.0, 1.0),
            (1.0, math.nan, 0.0, 1.0),
            (1.5, 0.5, math.inf, 1.0),
            (1.5, 0.5, 0.0, 0.0),
            (1.5, 0.0, 0.0, -1.0),
            (2.0, 0.0, 0.0, -1.0),
        ]
    )
    distribution = AlphaStable(*rows.T, parameterization=parameterization)
    results = {
        "log_prob": distribution.log_prob(0.3),
        "cdf": distribution.cdf(0.3),
        "survival_function": distribution.survival_function(0.3),
        "quantile": distribution.quantile(0.3),
        "sample": distribution.sample(seed=[1, 2]),
        "mean": distribution.mean(),
        "variance": distribution.variance(),
        "mode": distribution.mode(),
        "characteristic_function": tf.abs(
            distribution.characteristic_function(0.3)
        ),
    }
    for name, result in results.items():
        assert not np.isnan(result[0]), name
        assert np.isnan(result[1:]).all(), name


@pytest.mark.parametrize("parameterization", ["S2", "s0", 0, None])
def test_unknown_parameterization_is_refused(parameterization):
    message = r"must be 'S0' or 'S1'\..* Received: parameterization="
    with pytest.raises(ValueError, match=message):
        AlphaStable(1.5, parameterization=parameterization)


def test_dtypes_and_shapes_that_do_not_fit_are_refused():
    with pytest.raises(TypeError, match="'stability': 'int32'"):
        AlphaStable(tf.constant(1))
    with pytest.raises(TypeError, match="'loc': 'float64'"):
        AlphaStable(tf.constant(1.5), loc=np.float64(1))
    with pytest.raises(ValueError, match="Incompatible shapes"):
        AlphaStable([1.5, 1.2], loc=[1.0, 2.0, 3.0]).sample()
