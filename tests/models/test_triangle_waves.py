"""Triangle waves: formula, matrices, layer, initializers and training agree."""

import inspect
import itertools
import json
import math

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


def pairs(model):
    """Kernels and biases of a Keras model."""
    flat = [np.asarray(w, np.float64) for w in model.get_weights()]
    return list(zip(flat[::2], flat[1::2], strict=True))


# ---- The layer -------------------------------------------------------------


def test_random_peaks_fill_their_range(seed):
    """The extremes of 10^5 peaks are within 2e-4 with probability 1 - e^-22."""
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
    """Compares in float32, also outside the interval."""
    peaks = rng.uniform(0.25, 0.75, (3, depth + 1))
    layer = TriangleWave(depth, sign == 1, trainable_scales, peaks, form)
    inside = np.float32(rng.uniform(START[form], 1, (200, 3)))
    y = np.asarray(layer(inside))
    for k in range(3):
        expected = kx.theory.triangle_wave(
            inside[:, k], peaks[k], sign == 1, form
        )
        np.testing.assert_allclose(y[:, k], expected, atol=3e-6)
    dense = layer.to_dense()
    assert all(type(d) is keras.layers.Dense for d in dense.layers)
    np.testing.assert_allclose(dense(inside), y, atol=3e-6)
    outside = np.float32(rng.uniform(-3, 3, (200, 3)))
    np.testing.assert_allclose(
        dense(outside), layer(outside), rtol=1e-5, atol=3e-6
    )
    # Large scales, where a partial sum is negative.
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
        return np.sum(kx.theory.triangle_wave(x, a, sign == 1, form) * x)

    raw = np.asarray(layer.raw_peaks)[0]
    for k, step in enumerate(1e-7 * np.eye(5)):
        slope = (value(raw + step) - value(raw - step)) / 2e-7
        assert float(ours[k]) == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("trainable_scales", [False, True])
def test_peaks_stay_inside_for_all_weights(trainable_scales):
    layer = TriangleWave(3, True, trainable_scales, [1e-9, 0.5, 0.5, 1 - 1e-9])
    layer.build((None, 1))
    start = np.asarray(layer.curves()[0])[0]
    np.testing.assert_allclose(start, [0.0035, 0.5, 0.5, 0.9965], atol=1e-4)
    for wild in (1e4, -1e4):
        layer.raw_peaks.assign(np.full((1, 4), wild))
        a = np.asarray(layer.curves()[0])
        assert ((a > 0.00099) & (a < 0.99901)).all()
        assert np.isfinite(layer(np.linspace(-1, 2, 9)[:, None])).all()


@pytest.mark.slow
def test_trainable_scales_start_at_the_rule_and_are_trained(rng):
    peaks = rng.uniform(0.2, 0.8, 4)
    tied = TriangleWave(3, peaks=peaks, name="tied")
    free = TriangleWave(3, peaks=peaks, trainable_scales=True, name="free")
    x = np.linspace(0, 1, 32, dtype="float32")[:, None]
    np.testing.assert_allclose(tied(x), free(x), atol=1e-6)
    assert len(tied.trainable_weights) == 1
    assert len(free.trainable_weights) == 2
    before = np.asarray(free.curves()[1])
    peaks_before = np.asarray(free.curves()[0])
    model = keras.Sequential([free])
    # In a graph, as users train, unlike the other tests of this file.
    model.compile("adam", "mse", jit_compile=False)
    model.fit(x, x**2, epochs=3, verbose=0)
    assert (np.asarray(free.curves()[1]) != before).all()
    assert (np.asarray(free.curves()[0]) != peaks_before).any()


def test_under_mixed_bfloat16_only_inputs_and_outputs_are_rounded(rng):
    peaks = rng.uniform(0.25, 0.75, 9)
    layer = TriangleWave(8, False, peaks=peaks, dtype="mixed_bfloat16")
    x = tf.cast(rng.uniform(0, 1, (200, 1)), tf.bfloat16)
    y = layer(x)
    assert layer.raw_peaks.dtype == "float32" and y.dtype == "bfloat16"
    expected = kx.theory.triangle_wave(
        tf.cast(x, tf.float64).numpy(), peaks, False
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


@pytest.mark.slow
@pytest.mark.parametrize("connected", [True, False])
def test_connections_of_several_features(connected, rng, tmp_path):
    layer = TriangleWave(3, form="v", seed=1)
    x = np.float32(rng.uniform(-1, 1, (64, 2)))
    layer(x)
    model = layer.to_dense(connected)
    model.compile("adam", "mse", run_eagerly=True)
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
    """20,000 weights have a relative deviation of 1%; the band is 6 of them."""
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
    expected = kx.theory.triangle_wave(x, a, sign == 1, form)
    np.testing.assert_allclose(model(x[:, None])[:, 0], expected, atol=1e-12)
    assert kx.theory.count_linear_regions(pairs(model), START[form]) == 2**depth
    assert [d.units for d in model.layers] == [4] * depth + [1]


@pytest.mark.parametrize("form", ["ramp", "v"])
def test_blocks_are_curves_of_sums(form, rng):
    """The output is the sum over blocks of head times curve."""
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
        kx.theory.triangle_wave(x @ projection[:, b], peaks[b], False, form)
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
    """A shallow network is accurate to the 8 bits of bfloat16."""
    keras.config.set_dtype_policy(policy)
    try:
        model = triangle_wave_network(2, False, peaks=[0.5] * 3)
        y = model(np.linspace(0, 1, 9)[:, None])
    finally:
        keras.config.set_dtype_policy("float32")
    x = np.linspace(0, 1, 9)
    expected = kx.theory.triangle_wave(x, [0.5] * 3, False)
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


def test_scales_become_a_part_of_the_first_and_last_layer(rng):
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


@pytest.mark.slow
@pytest.mark.parametrize(("curve", "given"), CURVES.values(), ids=CURVES)
def test_fit_reaches_the_curve_in_its_own_units(curve, given, capsys):
    """Starts with all peaks at 1/2, which is half of the fit."""
    x = np.linspace(-7, 3, 60)[::-1]
    y = curve(x)
    model = fit_triangle_wave(
        x, y[:, None], 3, peaks=[0.5] * 4, epochs=50, verbose=0, **given
    )
    assert [type(d) for d in model.layers] == [keras.layers.Dense] * 4
    rest = np.mean((np.ravel(model(x[:, None])) - y) ** 2) / np.var(y)
    assert rest < 2e-2
    assert kx.theory.count_linear_regions(pairs(model), -7, 3) >= 4
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_fit_trains_and_shows_both_phases(capsys):
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
    # The second phase starts where the first one ends.
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
    line = np.linspace(0, 1, 9)
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
