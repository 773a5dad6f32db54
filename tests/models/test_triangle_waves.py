"""Triangle waves: formula, matrices, layer, initializers and training agree."""

import inspect
import itertools
import json
import math
from fractions import Fraction

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx
from keras_initx.constraints import BlockDiagonal
from keras_initx.initializers import TriangleWaveBias, TriangleWaveKernel
from keras_initx.layers import TriangleWave
from keras_initx.models import fit_triangle_wave, triangle_wave_network
from keras_initx.models.triangle_fit import _Scaling, _unscale
from keras_initx.theory.triangle_waves.peaks import random_peaks

FAMILIES = list(itertools.product(("ramp", "v"), (1, -1)))
families = pytest.mark.parametrize(("form", "sign"), FAMILIES)
START = {"ramp": 0.0, "v": -1.0}


def grid(form, points=4097):
    return np.linspace(START[form], 1, points)


def slow_curve(x, a, sign, form):
    """One number, from the words of the definition, in its own way."""
    if form == "v":
        scale, w, total = 1.0, (x + 1) / 2, (1 - sign) / 2
    else:
        scale = (1 - a[0] if sign == 1 else a[0]) * a[1]
        w = total = x
    for i in range(len(a) - 1):
        if i > 0:
            scale *= (1 - a[i]) * a[i + 1]
        w = w / a[i] if w <= a[i] else (1 - w) / (1 - a[i])
        total += sign * scale * w
    return total


def run(weights, x):
    """A relu net in NumPy."""
    h = np.asarray(x, float).reshape(len(x), -1)
    for k, (kernel, bias) in enumerate(weights):
        h = h @ kernel + bias
        if k < len(weights) - 1:
            h = np.maximum(h, 0)
    return h


def pairs(model):
    """Kernels and biases of a Keras model."""
    flat = [np.float64(w) for w in model.get_weights()]
    return list(zip(flat[::2], flat[1::2], strict=True))


# ---- The formula -----------------------------------------------------------


@families
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_curve_is_its_definition(form, sign, depth, rng):
    a = rng.uniform(0.02, 0.98, depth + 1)
    x = rng.uniform(START[form], 1, 50)
    expected = [slow_curve(value, a, sign, form) for value in x]
    np.testing.assert_allclose(
        kx.theory.triangle_wave(x, a, sign, form), expected, atol=1e-14
    )


@families
def test_ends_and_bend(form, sign, rng):
    """Through the corners; concave for sign 1, convex for -1, from any peaks.

    Slopes by differences on a grid of 4097, exact to 1e-12 of values of 1.
    """
    for a in rng.uniform(0.05, 0.95, (20, 7)):
        y = kx.theory.triangle_wave(grid(form), a, sign, form)
        ends = [0, 1] if form == "ramp" else [(1 - sign) / 2] * 2
        np.testing.assert_allclose(y[[0, -1]], ends, atol=1e-14)
        bends = np.diff(y, 2)
        assert (sign * bends < 1e-12).all()
        assert np.abs(bends).max() > 1e-6
        if form == "v":
            foot = kx.theory.triangle_wave(2 * a[0] - 1, a, sign, form)
            assert foot == pytest.approx((1 + sign) / 2, abs=1e-14)


@pytest.mark.parametrize("sign", [1, -1])
def test_slopes_at_the_ends_of_infinitely_many_waves(sign, rng):
    """Of 120 waves: what is missing is below 0.7^119 < 1e-18."""
    a = rng.uniform(0.3, 0.7, 121)
    s = kx.theory.triangle_wave_scales(a, sign)
    at_0 = 1 + sign * np.sum(s / np.cumprod(a[:-1]))
    falls = np.concatenate([[1.0], np.cumprod(a[1:-1])])
    at_1 = 1 - sign * np.sum(s / ((1 - a[0]) * falls))
    expected = [1 / a[0], 0] if sign == 1 else [0, 1 / (1 - a[0])]
    np.testing.assert_allclose([at_0, at_1], expected, atol=1e-12)


@families
def test_the_slope_is_continuous_at_a_peak(form, sign, rng):
    """What is left of the kink at the first peak after n more waves.

    The one-sided slopes of W_0 are 1/a and -1/(1 - a), both followed by slopes
    that grow from 0: the jump is that of W_0, times the (1 - a_m).
    """
    a = rng.uniform(0.3, 0.7, 42)
    s = kx.theory.triangle_wave_scales(a, sign, form)
    before, after = 1 / a[0], -1 / (1 - a[0])
    slopes = []
    for first in (before, after):
        wave, total = first, s[0] * first
        for i in range(1, 41):
            # At its peak W_0 is 1, W_1 is 0 and rises to both sides.
            wave = -wave / (1 - a[i]) if i == 1 else wave / a[i]
            total += s[i] * wave
        slopes.append(total)
    assert abs(slopes[0] - slopes[1]) < 1e-9 * s[0] / a[0]


@pytest.mark.parametrize("depth", range(1, 11))
def test_halves_are_the_parabola(depth):
    """Largest error 2^-(2d+2), mean square 16^-d / 30, with 2^d pieces."""
    a = [0.5] * (depth + 1)
    # On a grid that has all peaks and all points half way.
    x = grid("ramp", 2 ** (depth + 3) + 1)
    error = kx.theory.triangle_wave(x, a, -1) - x**2
    assert error.max() == 2.0 ** -(2 * depth + 2)
    assert error.min() == 0
    concave = kx.theory.triangle_wave(x, a, 1)
    np.testing.assert_array_equal(concave, 1 - (x[::-1] ** 2 + error[::-1]))
    # The trapezoidal rule on 8 parts of each parabola misses 1/64^2 of it.
    mean = np.mean((error**2)[:-1])
    assert mean == pytest.approx(16.0**-depth / 30, rel=1e-3)
    v = 2 * x - 1
    error = kx.theory.triangle_wave(v, a, -1, "v") - v**2
    assert error.max() == 4.0**-depth


# ---- The matrices ----------------------------------------------------------


@families
@pytest.mark.parametrize("depth", [1, 2, 3, 6, 10])
@pytest.mark.parametrize("free", [False, True])
def test_matrices_are_the_formula(form, sign, depth, free, rng):
    for _ in range(10):
        a = rng.uniform(0.05, 0.95, depth + 1)
        s = kx.theory.triangle_wave_scales(a, sign, form)
        # Smaller than the rule, or the sum would fall below 0.
        s = s * rng.uniform(0.1, 1, depth) if free else s
        weights = kx.theory.triangle_wave_weights(a, sign, form, s)
        x = grid(form, 501)
        expected = kx.theory.triangle_wave(x, a, sign, form, s)
        np.testing.assert_allclose(
            run(weights, x)[:, 0], expected, atol=1e-12, rtol=0
        )
        assert not any(bias.any() for _, bias in weights[1:])


@families
@pytest.mark.parametrize("depth", range(1, 11))
def test_regions(form, sign, depth, rng):
    for a in rng.uniform(0.05, 0.95, (3, depth + 1)):
        weights = kx.theory.triangle_wave_weights(a, sign, form)
        assert kx.theory.count_linear_regions(weights, START[form]) == 2**depth
        # One fewer on the last wave alone: a last peak at 0 switches it off.
        half = 2 * a[0] - 1 if form == "v" else a[0]
        assert kx.theory.count_linear_regions(
            weights, START[form], half
        ) == 2 ** (depth - 1)


def exact_regions(weights, low, high):
    """With fractions, asking the net itself for lines between breakpoints."""

    def layer_outputs(x, depth):
        h = [x]
        for k, (kernel, bias) in enumerate(weights[:depth]):
            h = [max(v, 0) for v in h] if k else h
            h = [
                sum(v * Fraction(int(kernel[i, j])) for i, v in enumerate(h))
                + Fraction(int(bias[j]))
                for j in range(len(bias))
            ]
        return h

    cuts = [Fraction(low), Fraction(high)]
    for depth in range(1, len(weights)):
        found = set(cuts)
        for a, b in itertools.pairwise(cuts):
            ends = zip(
                layer_outputs(a, depth), layer_outputs(b, depth), strict=True
            )
            found |= {a + (b - a) * p / (p - q) for p, q in ends if p * q < 0}
        cuts = sorted(found)
    slopes = []
    for a, b in itertools.pairwise(cuts):
        ends = (layer_outputs(x, len(weights)) for x in (a, b))
        slopes.append([(q - p) / (b - a) for p, q in zip(*ends, strict=True)])
    return 1 + sum(p != q for p, q in itertools.pairwise(slopes))


@pytest.mark.parametrize("sizes", [(1, 6, 1), (1, 4, 4, 1), (1, 3, 4, 3, 2)])
def test_regions_of_any_net_are_counted_exactly(sizes, rng):
    counts = []
    for _ in range(15):
        weights = [
            (rng.integers(-4, 5, (a, b)), rng.integers(-4, 5, b))
            for a, b in itertools.pairwise(sizes)
        ]
        expected = exact_regions(weights, -3, 2)
        assert kx.theory.count_linear_regions(weights, -3, 2) == expected
        counts.append(expected)
    assert max(counts) > 1


def test_rounding_makes_no_regions():
    # Two units that bend at one point, but for the last digit.
    one = np.array([[1.0, 3.0]]), np.array([-0.1, -0.3])
    weights = one, (np.ones((2, 1)), np.zeros(1))
    assert kx.theory.count_linear_regions(weights) == 2
    # A bend that the output does not see.
    weights = one, (np.array([[3.0], [-1.0]]), np.zeros(1))
    assert kx.theory.count_linear_regions(weights) == 1
    single = [
        tuple(np.float32(part) for part in layer)
        for layer in kx.theory.triangle_wave_weights(
            np.linspace(0.3, 0.6, 7), 1, "v"
        )
    ]
    assert kx.theory.count_linear_regions(single, -1, 1, tolerance=1e-4) == 64


@pytest.mark.parametrize(
    ("target", "sign", "mse"),
    [
        (lambda x: x**2, -1, 7.57e-9),
        (lambda x: x**3, -1, 3.402e-5),
        (lambda x: x**11, -1, 3.304e-4),
        (lambda x: np.sin(np.pi * x / 2), 1, 5.987e-6),
        (lambda x: np.tanh(3 * x), 1, 2.767e-5),
    ],
)
def test_fit_peaks(target, sign, mse):
    """Against another optimizer's minima, to their last digit."""
    x = np.linspace(0, 1, 500)
    found = kx.theory.fit_peaks(x, target(x), 5, sign, starts=8)
    assert found.mse == pytest.approx(mse, rel=1e-3)
    error = kx.theory.triangle_wave(x, found.peaks, sign) - target(x)
    assert found.mse == pytest.approx(np.mean(error**2), rel=1e-12)


# ---- The layer -------------------------------------------------------------


def test_random_peaks_fill_their_range(seed):
    """Of 10^5 the least and the largest are within 2e-4, but 1 in e^22."""
    a = random_peaks(9, 10**4, seed)
    assert a.shape == (10**4, 10)
    assert 0.05 <= a.min() < 0.0502
    assert 0.9498 < a.max() <= 0.95


@families
@pytest.mark.parametrize("trainable_scales", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 5, 8])
def test_layer_formula_and_dense_stack_agree(
    form, sign, trainable_scales, depth, rng
):
    """To float32, also outside of the interval, where slopes reach 100."""
    peaks = rng.uniform(0.25, 0.75, (3, depth + 1))
    layer = TriangleWave(depth, sign == 1, trainable_scales, peaks, form)
    inside = np.float32(rng.uniform(START[form], 1, (200, 3)))
    y = np.asarray(layer(inside))
    for k in range(3):
        expected = kx.theory.triangle_wave(inside[:, k], peaks[k], sign, form)
        np.testing.assert_allclose(y[:, k], expected, atol=3e-6)
    dense = layer.to_dense()
    assert all(type(d) is keras.layers.Dense for d in dense.layers)
    np.testing.assert_allclose(dense(inside), y, atol=3e-6)
    outside = np.float32(rng.uniform(-3, 3, (200, 3)))
    np.testing.assert_allclose(
        dense(outside), layer(outside), rtol=1e-5, atol=3e-6
    )
    # Wide free scales, where the sum falls below 0 on its way.
    if trainable_scales:
        layer.log_ratios.assign(rng.uniform(-2, 1, (3, depth)))
        np.testing.assert_allclose(
            layer.to_dense()(outside), layer(outside), rtol=1e-4, atol=1e-4
        )


@families
def test_gradients_are_those_of_the_curve(form, sign, rng):
    """By central differences of the formula, through the scales too."""
    peaks = rng.uniform(0.3, 0.7, 5)
    layer = TriangleWave(4, sign == 1, peaks=peaks, form=form, dtype="float64")
    x = rng.uniform(START[form], 1, 20)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(x[:, None]) * x[:, None])
    ours = tape.gradient(total, layer.raw_peaks.value)[0]

    def value(raw):
        a = 0.001 + 0.998 / (1 + np.exp(-4 * raw))
        return np.sum(kx.theory.triangle_wave(x, a, sign, form) * x)

    raw = np.asarray(layer.raw_peaks)[0]
    for k, step in enumerate(1e-7 * np.eye(5)):
        slope = (value(raw + step) - value(raw - step)) / 2e-7
        assert float(ours[k]) == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("trainable_scales", [False, True])
def test_peaks_stay_inside_whatever_is_learnt(trainable_scales):
    layer = TriangleWave(3, True, trainable_scales, [1e-9, 0.5, 0.5, 1 - 1e-9])
    layer.build((None, 1))
    start = np.asarray(layer.curves()[0])[0]
    np.testing.assert_allclose(start, [0.0035, 0.5, 0.5, 0.9965], atol=1e-4)
    for wild in (1e4, -1e4):
        layer.raw_peaks.assign(np.full((1, 4), wild))
        a = np.asarray(layer.curves()[0])
        assert ((a > 0.00099) & (a < 0.99901)).all()
        assert np.isfinite(layer(np.linspace(-1, 2, 9)[:, None])).all()


def test_free_scales_start_at_the_rule_and_are_trained(rng):
    peaks = rng.uniform(0.2, 0.8, 4)
    tied = TriangleWave(3, peaks=peaks, name="tied")
    free = TriangleWave(3, peaks=peaks, trainable_scales=True, name="free")
    x = np.linspace(0, 1, 32, dtype="float32")[:, None]
    np.testing.assert_allclose(tied(x), free(x), atol=1e-6)
    assert len(tied.trainable_weights) == 1
    assert len(free.trainable_weights) == 2
    before = np.asarray(free.curves()[1])
    model = keras.Sequential([free])
    model.compile("adam", "mse", jit_compile=False)
    model.fit(x, x**2, epochs=3, verbose=0)
    assert (np.asarray(free.curves()[1]) != before).all()


def test_under_mixed_bfloat16_only_inputs_and_outputs_are_rounded(rng):
    peaks = rng.uniform(0.25, 0.75, 9)
    layer = TriangleWave(8, False, peaks=peaks, dtype="mixed_bfloat16")
    x = tf.cast(rng.uniform(0, 1, (200, 1)), tf.bfloat16)
    y = layer(x)
    assert layer.raw_peaks.dtype == "float32" and y.dtype == "bfloat16"
    expected = kx.theory.triangle_wave(
        tf.cast(x, tf.float64).numpy(), peaks, -1
    )
    np.testing.assert_allclose(
        tf.cast(y, tf.float64), expected, rtol=2.0**-8, atol=1e-6
    )


def test_seeds(rng):
    def curves(**given):
        layer = TriangleWave(4, **given)
        layer.build((None, 3))
        return np.asarray(layer.curves()[0])

    np.testing.assert_array_equal(curves(seed=3), curves(seed=3))
    assert (curves() != curves()).all()
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(5)
        drawn.append(curves())
    np.testing.assert_array_equal(*drawn)
    # The layer, the network and the theory draw alike.
    np.testing.assert_allclose(curves(seed=3), random_peaks(4, 3, 3), rtol=1e-6)
    layer = TriangleWave(4, seed=3)
    x = np.linspace(0, 1, 50, dtype="float32")[:, None]
    np.testing.assert_allclose(
        layer(x), triangle_wave_network(4, seed=3)(x), atol=2e-6
    )


@pytest.mark.parametrize("connected", [True, False])
def test_connections_of_several_features(connected, rng, tmp_path):
    layer = TriangleWave(3, form="v", seed=1)
    x = np.float32(rng.uniform(-1, 1, (64, 2)))
    layer(x)
    model = layer.to_dense(connected)
    model.compile("adam", "mse", jit_compile=False)
    model.fit(x, x[:, ::-1], epochs=2, verbose=0)
    beside = np.kron(1 - np.eye(2), np.ones((4, 4))) == 1
    for dense in model.layers[1:3]:
        kernel = np.asarray(dense.kernel)
        assert (kernel[beside] == 0).all() == (not connected)
        assert kernel[~beside].any()
    moved = x + np.float32([0.0, 0.1])
    apart = np.array_equal(model(x)[:, 0], model(moved)[:, 0])
    assert apart == (not connected)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), model(x))


def test_features_of_sequences(rng):
    layer = TriangleWave(3, seed=1)
    x = np.float32(rng.uniform(0, 1, (5, 7, 2)))
    y = layer(x)
    assert y.shape == x.shape
    np.testing.assert_allclose(layer.to_dense()(x), y, atol=2e-6)
    np.testing.assert_allclose(y[:, 3], layer(x[:, 3:4])[:, 0], atol=1e-6)


# ---- Initializers and networks ---------------------------------------------


def test_random_sums_of_blocks_have_unit_variance(seed):
    """20,000 weights: relative spread 1%, the band 6 of it, below 1e-8."""
    head = TriangleWaveKernel(2, 2, seed=seed)((4000, 20))
    weights = np.asarray(head)[0::4] * 1000**0.5
    assert np.mean(weights**2) == pytest.approx(1, abs=0.06)
    # Not the numbers of the first layer's projection.
    first = np.asarray(TriangleWaveKernel(2, 0, seed=seed)((20, 4000)))
    alike = np.corrcoef(weights.ravel(), first[:, 0::4].T.ravel())[0, 1]
    assert abs(alike) < 0.05


NETS = {
    "peaks": {"depth": 3, "peaks": [0.3, 0.4, 0.5, 0.6]},
    "seed": {"depth": 3, "seed": 4},
    "convex": {"depth": 1, "concave": False, "seed": 4},
    "v": {"depth": 3, "form": "v", "concave": False, "seed": 4},
    "blocks": {
        "depth": 2,
        "form": "v",
        "peaks": [[0.3, 0.4, 0.5], [0.6, 0.7, 0.8]],
        "seed": 4,
    },
}
nets = pytest.mark.parametrize("net", NETS.values(), ids=NETS)
KINDS = (TriangleWaveKernel, TriangleWaveBias)


@nets
@pytest.mark.parametrize("kind", KINDS)
def test_config_round_trip(net, kind):
    made = kind(index=1, **net)
    config = made.get_config()
    assert json.loads(json.dumps(config)) == config
    arguments = set(inspect.signature(kind.__init__).parameters)
    assert set(config) == arguments - {"self"}
    shape = (8,) * (2 if kind is TriangleWaveKernel else 1)
    if net["depth"] == 1:
        shape = (8, 3)[: len(shape)]
    for other in (
        kind.from_config(config),
        keras.initializers.deserialize(keras.initializers.serialize(made)),
    ):
        assert other.get_config() == config
        if made.seed is not None or len(shape) == 1 or shape == (8, 8):
            np.testing.assert_array_equal(other(shape), made(shape))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_computed_in_float64_and_cast_last(kind, dtype):
    made = kind(depth=3, index=0, peaks=[1e-300, 0.4, 0.5, 0.6], form="v")
    shape = (1, 4) if kind is TriangleWaveKernel else (4,)
    weights = made(shape, dtype)
    assert weights.dtype == dtype
    values = tf.cast(weights, tf.float64).numpy()
    assert np.isfinite(values).all()
    exact = made(shape, "float64").numpy()
    limit = float(tf.as_dtype(dtype).max)
    np.testing.assert_array_equal(
        weights, tf.cast(np.clip(exact, -limit, limit), dtype)
    )
    graph = tf.function(lambda: made(shape, dtype))()
    np.testing.assert_array_equal(graph, weights)


@families
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_network_is_the_formula(form, sign, depth, rng):
    a = rng.uniform(0.1, 0.9, depth + 1)
    model = triangle_wave_network(depth, sign == 1, form, a, dtype="float64")
    x = grid(form, 101)
    expected = kx.theory.triangle_wave(x, a, sign, form)
    np.testing.assert_allclose(model(x[:, None])[:, 0], expected, atol=1e-12)
    assert kx.theory.count_linear_regions(pairs(model), START[form]) == 2**depth
    assert [d.units for d in model.layers] == [4] * depth + [1]


@pytest.mark.parametrize("form", ["ramp", "v"])
def test_blocks_are_curves_of_sums(form, rng):
    """The sum over blocks of head times curve, found from its parts."""
    model = triangle_wave_network(
        3, False, form, blocks=5, inputs=3, outputs=2, seed=6, dtype="float64"
    )
    first, last = (np.asarray(model.layers[k].kernel) for k in (0, -1))
    peaks = random_peaks(3, 5, 6)
    # The third unit of a v is the right arm, the first of a ramp is x.
    if form == "v":
        projection = first[:, 2::4] * 2 * (1 - peaks[:, 0])
        assert (projection < 0).any()
    else:
        projection = first[:, ::4]
        assert (projection > 0).all()
    np.testing.assert_allclose(np.abs(projection).sum(0), 1, rtol=1e-12)
    head = last[::4]
    x = rng.uniform(START[form], 1, (40, 3))
    blocks = [
        kx.theory.triangle_wave(x @ projection[:, b], peaks[b], -1, form)
        for b in range(5)
    ]
    np.testing.assert_allclose(
        model(x), np.transpose(blocks) @ head, atol=1e-12
    )
    again = keras.models.clone_model(model)
    np.testing.assert_array_equal(again(x), model(x))
    other = triangle_wave_network(
        3, False, form, blocks=5, inputs=3, outputs=2, dtype="float64"
    )
    assert (np.asarray(other.layers[0].kernel) != first).any()


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "float64"])
def test_networks_under_policies(policy):
    """A shallow one survives bfloat16, to its 8 bits."""
    keras.config.set_dtype_policy(policy)
    try:
        model = triangle_wave_network(2, False, peaks=[0.5] * 3)
        y = model(np.linspace(0, 1, 9)[:, None])
    finally:
        keras.config.set_dtype_policy("float32")
    x = np.linspace(0, 1, 9)
    expected = kx.theory.triangle_wave(x, [0.5] * 3, -1)
    np.testing.assert_allclose(
        tf.cast(y, tf.float64)[:, 0], expected, atol=2.0**-7
    )


def test_the_network_is_saved_and_runs_under_xla(tmp_path):
    model = triangle_wave_network(
        3, form="v", blocks=2, connect_blocks=False, inputs=2, seed=1
    )
    x = np.float32(np.random.default_rng(0).uniform(-1, 1, (8, 2)))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), model(x))
    assert loaded.layers[1].kernel_constraint.blocks == 2
    fast = tf.function(model, jit_compile=True)(x)
    np.testing.assert_allclose(fast, model(x), atol=1e-5)


# ---- Training --------------------------------------------------------------


def test_a_model_takes_scales_into_its_ends(rng):
    model = triangle_wave_network(3, seed=2, dtype="float64")
    u = rng.uniform(0, 1, 20)
    before = np.asarray(model(u[:, None]))[:, 0]
    _unscale(model, _Scaling(3.0, -7.0), _Scaling(-2.0, 5.0))
    after = np.asarray(model((3 * u - 7)[:, None]))[:, 0]
    np.testing.assert_allclose(after, 5 - 2 * before, atol=1e-12)


CURVES = {
    "falling": (lambda x: 5 - np.sqrt(x + 7), {}),
    "uneven": (lambda x: (x + 3.5) ** 2, {"form": "v"}),
    "cap": (lambda x: 3 - (x + 2) ** 2 / 9, {"form": "v", "concave": True}),
}


@pytest.mark.parametrize(("curve", "given"), CURVES.values(), ids=CURVES)
def test_fit_reaches_the_curve_in_its_own_units(curve, given, capsys):
    """From all halves, which explain half or more of the curve already."""
    x = np.linspace(-7, 3, 60)[::-1]
    y = curve(x)
    model = fit_triangle_wave(
        x, y[:, None], 3, peaks=[0.5] * 4, epochs=50, verbose=0, **given
    )
    assert [type(d) for d in model.layers] == [keras.layers.Dense] * 4
    rest = model.evaluate(x[:, None], y[:, None], verbose=0) / np.var(y)
    assert rest < 2e-2
    assert kx.theory.count_linear_regions(pairs(model), -7, 3) >= 4
    assert capsys.readouterr().out == ""


def test_fit_trains_both_phases_and_says_so(capsys):
    keras.utils.set_random_seed(1)
    x = np.linspace(0, 1, 40)
    losses = {}

    class Record(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            losses.setdefault(type(self.model.layers[-1]), []).append(
                logs["loss"]
            )

    fit_triangle_wave(
        x, x**3, 3, epochs=150, seed=1, callbacks=[Record()], batch_size=20
    )
    waves, dense = losses[TriangleWave], losses[keras.layers.Dense]
    assert len(waves) == len(dense) == 50
    # Phase two goes on from where phase one came to.
    assert waves[-1] < waves[0] / 2
    assert dense[0] < 1.5 * waves[-1]
    assert dense[-1] < waves[-1] / 2
    shown = capsys.readouterr().out
    for part in ("Phase 1", "Phase 2", "150/150", "loss"):
        assert part in shown


# ---- Bad input -------------------------------------------------------------

nan, inf = math.nan, math.inf
HALVES = [0.5, 0.5, 0.5]


def bad_values():
    """(what is called, its good arguments, a name, and values to refuse)."""
    theory, line = kx.theory, np.linspace(0, 1, 9)
    peaks = [[0.5], [0.5, 1.0], [0, 0.5], [nan, 0.5], "0.5", None, [[0.5] * 3]]
    scales = {"peaks": HALVES}
    curve = scales | {"x": line}
    for call, good in (
        (theory.triangle_wave_scales, scales),
        (theory.triangle_wave, curve),
        (theory.triangle_wave_weights, scales),
    ):
        yield call, good, "peaks", peaks
        yield call, good, "sign", [0, 2, True, "1", None, nan]
        yield call, good, "form", ["w", None, 1]
    free = [[1.0], [1.0, 0.0], [1.0, -1.0], [nan, 1.0], "s"]
    yield theory.triangle_wave, curve, "scales", free
    yield theory.triangle_wave_weights, scales, "scales", free
    yield theory.triangle_wave, curve, "x", [[-0.1], [1.1], [nan], "x"]
    net = [np.ones((1, 2)), np.ones(2)], [np.ones((2, 1)), np.ones(1)]
    regions = theory.count_linear_regions, {"weights": net}
    yield *regions, "weights", [[], None, net[::-1], [[np.ones((1, 2))]]]
    yield *regions, "weights", [[[np.full((1, 2), nan), np.ones(2)]]]
    yield *regions, "low", [1.0, nan, -inf, "0"]
    yield *regions, "high", [0.0, inf]
    yield *regions, "tolerance", [-0.1, 1.0, nan, "1"]
    best = theory.fit_peaks, {"x": line, "y": line, "depth": 2}
    yield *best, "depth", [0, 1.5, None, True]
    yield *best, "x", [line + 0.1, [nan] * 9]
    yield *best, "y", [[nan] * 9, "y"]
    yield *best, "starts", [0, 1.5]

    layer = TriangleWave, {"depth": 2}
    yield *layer, "depth", [0, -1, 2.0, True, None]
    yield *layer, "concave", [0, 1, "1", None]
    yield *layer, "form", ["w", None]
    yield *layer, "trainable_scales", ["free", 1, None]
    yield *layer, "peaks", [[0.5] * 2, [0.5, 0.5, 1.0], [[0.5] * 2], "p", []]
    yield *layer, "seed", [-1, 1.5, "1"]
    for kind in KINDS:
        good = {"depth": 2, "index": 1, "seed": 1}
        yield kind, good, "depth", [0, 2.5, None]
        yield kind, good, "index", [-1, 3, 1.5, True, None]
        yield kind, good, "concave", [0, -1, None]
        yield kind, good, "form", ["w"]
        yield kind, good, "peaks", [[0.5] * 2, [0.5, 0.5, nan]]
        yield kind, good, "seed", [None, -1, 1.5]
    network = triangle_wave_network, {"depth": 2}
    for name in ("depth", "blocks", "inputs", "outputs"):
        yield *network, name, [0, 1.5, None]
    yield *network, "connect_blocks", ["dense", 0, None]
    yield *network, "concave", [-1, None]
    yield BlockDiagonal, {}, "blocks", [0, 1.5, None]

    fit = fit_triangle_wave, {"x": line, "y": line**2, "depth": 2}
    yield *fit, "depth", [0, None]
    yield *fit, "concave", [0, 1, "1"]
    yield *fit, "form", ["w"]
    yield *fit, "trainable_scales", ["free", None]
    yield *fit, "peaks", [[0.5]]
    yield *fit, "epochs", [0, 1.5]
    yield *fit, "batch_size", [0, None]
    yield *fit, "learning_rate", [0, nan, "1"]
    yield *fit, "x", [[*line[1:], nan], "x", line * 0, line * 1e-5 + 1]
    yield *fit, "x", [line * 1e39, line * 1e-42, line * 1j]
    yield *fit, "y", [line * 1e40, line + 5j]
    yield *fit, "y", [[*line[1:], inf], line * 0, 1e7 + line]


BAD = [
    pytest.param(call, good, name, value, id=f"{call.__name__}-{name}={value}")
    for call, good, name, values in bad_values()
    for value in values
]


@pytest.mark.parametrize(("call", "good", "name", "value"), BAD)
def test_bad_arguments(call, good, name, value):
    with pytest.raises(ValueError, match=rf"(?s){name}.*Received: "):
        call(**good | {name: value})


LINE, WIDE = np.linspace(0, 1, 9), np.linspace(-1, 1, 9)
SINE = np.sin(2 * np.pi * LINE) + 0.01 * LINE


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: fit_triangle_wave(np.ones((9, 2)), LINE, 2), "shape"),
        (lambda: fit_triangle_wave(LINE, np.ones((3, 3)), 2), "shape"),
        (lambda: fit_triangle_wave(LINE, LINE[1:], 2), "as many"),
        (lambda: fit_triangle_wave([1.0], [1.0], 2), "2 or more"),
        # Symmetric about its ends.
        (lambda: fit_triangle_wave(WIDE, WIDE**3 - WIDE, 2), 'form="ramp"'),
        (lambda: fit_triangle_wave(LINE, SINE, 2), 'form="ramp"'),
        # Falls and rises, and the other way.
        (lambda: fit_triangle_wave(LINE, (LINE - 0.5) ** 2, 2), 'form="v"'),
        (lambda: fit_triangle_wave(LINE, LINE, 2, form="v"), 'form="ramp"'),
        (lambda: TriangleWave(2).to_dense(), "built"),
        (lambda: TriangleWave(2)(keras.Input((None,))), "known size"),
        (
            lambda: TriangleWave(2, peaks=[HALVES] * 3)(np.ones((1, 2))),
            "one list, or 2",
        ),
        (lambda: kx.theory.fit_peaks(LINE, LINE[1:], 2), "one shape"),
        (
            lambda: TriangleWaveKernel(2, 0, seed=1)((1, 6)),
            "multiple of 4",
        ),
        (lambda: TriangleWaveKernel(2, 1, seed=1)((4, 8)), "square"),
        (lambda: TriangleWaveKernel(2, 2, seed=1)((6, 1)), "multiple of 4"),
        (lambda: TriangleWaveKernel(2, 1, seed=1)((3, 4, 4)), "two axes"),
        (lambda: TriangleWaveBias(2, 1, seed=1)((6,)), "multiple of 4"),
        (lambda: TriangleWaveBias(2, 1, seed=1)((4, 4)), "one axis"),
        (lambda: TriangleWaveKernel(2, 0, peaks=HALVES)((2, 4)), "seed"),
        (lambda: TriangleWaveKernel(2, 2, peaks=HALVES)((8, 1)), "seed"),
        (
            lambda: TriangleWaveKernel(2, 1, seed=1, peaks=[HALVES])((8, 8)),
            "one list, or 2",
        ),
        (
            lambda: TriangleWaveKernel(2, 1, seed=1)((4, 4), "int32"),
            "real numbers",
        ),
        (lambda: BlockDiagonal(2)(np.ones((3, 4))), "multiples"),
        (lambda: BlockDiagonal(2)(np.ones(4)), "multiples"),
    ],
)
def test_bad_uses(use, message):
    with pytest.raises(ValueError, match=rf"(?s){message}.*Received: "):
        use()


def test_another_number_of_features_is_refused():
    layer = TriangleWave(2)
    layer(np.ones((2, 3)))
    with pytest.raises(ValueError, match="axis -1"):
        layer(np.ones((2, 1)))
