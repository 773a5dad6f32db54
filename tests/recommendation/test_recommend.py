"""Tests of `recommend`: known faults are found and mended, others not."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx
from keras_initx.prediction import moments
from keras_initx.recommendation import case
from keras_initx.recommendation.rules import RULES, units
from tests.recommendation import networks

L = keras.layers
RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(64, networks.WIDTH)).astype("float32")
TOKENS = RNG.integers(0, 20, (32, 3))
IMAGES = RNG.normal(size=(32, 2, 2, 32)).astype("float32")

# The model, the data, the rule that gives the cause, and one more number: the
# range in which the number of the finding lies.
BAD = {
    "glorot, 20 relu layers": (
        lambda: networks.chain(20, "relu", "glorot_uniform"),
        None,
        "scale",
        (1e-7, 1e-5),
    ),
    "weights too small, measured": (
        lambda: networks.chain(4, "relu", networks.normal(0.01)),
        NOISE,
        "scale",
        (1e-14, 1e-8),
    ),
    "weights too large": (
        lambda: networks.chain(12, "relu", networks.normal(1.0)),
        None,
        "scale",
        (1e12, 1e17),
    ),
    "linear": (
        lambda: networks.chain(20, None, networks.normal(0.05)),
        None,
        "scale",
        (1e-25, 1e-18),
    ),
    "gelu": (
        lambda: networks.chain(4, "gelu", networks.normal(0.05)),
        None,
        "scale",
        (1e-8, 1e-4),
    ),
    "a call of its own": (
        lambda: networks.Written(4, networks.normal(0.025)),
        NOISE,
        "scale",
        (1e-8, 1e-4),
    ),
    "saturated tanh": (
        lambda: networks.chain(3, "tanh", networks.normal(1.5)),
        None,
        "saturation",
        (0.01, 0.1),
    ),
    "saturated tanh, measured": (
        lambda: networks.chain(2, "tanh", networks.normal(1.5)),
        NOISE,
        "saturation",
        (2 / 3, 1),
    ),
    "tower": (lambda: networks.tower(8), None, "residual growth", (100, 1e4)),
    "tower, measured": (
        lambda: networks.tower(8),
        NOISE,
        "residual growth",
        (30, 1e5),
    ),
    "depthwise": (
        lambda: networks.depthwise(),
        None,
        "wrong fans",
        (0.02, 0.1),
    ),
    "depthwise, batch normalization": (
        lambda: networks.depthwise(1, batch_norm=True),
        None,
        "wrong fans",
        (0.02, 0.1),
    ),
    # pi / (pi - 1) to the power of 26
    "batch normalization": (
        lambda: networks.batch_normalized(26),
        None,
        "batch normalization",
        (2.1e4, 2.13e4),
    ),
    # exp(2.5 * 15 / 10)
    "narrow": (
        lambda: networks.chain(15, "relu", "he_normal", width=10),
        None,
        "width",
        (42.5, 42.6),
    ),
    "one initializer": (
        networks.shared_initializer,
        None,
        "equal weights",
        (4, 4),
    ),
    "dead units": (networks.dead_head, None, "dead units", (1, 1)),
    "dead units, measured": (networks.dead_head, NOISE, "dead units", (1, 1)),
    "not centered": (
        lambda: networks.chain(2, "relu", "he_normal"),
        20 + NOISE,
        "inputs",
        (1e-4, 0.01),
    ),
    "pixels of 0 to 255": (
        lambda: networks.chain(2, "relu", "he_normal"),
        100 * NOISE,
        "inputs",
        (2e3, 4e4),
    ),
    "embedding": (
        lambda: networks.transformer(epsilon=1e-3),
        TOKENS,
        "embedding",
        (0.4, 0.5),
    ),
    "queries and keys": (
        lambda: networks.transformer(query_gain=4.0),
        TOKENS,
        "query and key",
        (10, 500),
    ),
}
GOOD = {
    "he": (lambda: networks.chain(10, "relu", "he_normal"), None),
    "he, measured": (lambda: networks.chain(10, "relu", "he_normal"), NOISE),
    "selu": (lambda: networks.chain(20, "selu", "lecun_normal"), None),
    "tanh": (lambda: networks.chain(10, "tanh", "glorot_uniform"), None),
    "scaled tower": (lambda: networks.tower(12, factor=12**-0.5), None),
    "normalized by the batch": (lambda: networks.batch_normalized(8), None),
    "pre-LN transformer": (lambda: networks.transformer(), TOKENS),
    "post-LN transformer": (
        lambda: networks.transformer(norm_first=False),
        TOKENS,
    ),
    "a zero head": (
        lambda: keras.Sequential(
            [
                keras.Input((networks.WIDTH,)),
                L.Dense(64, "relu", kernel_initializer="he_normal"),
                L.Dense(64, "relu", kernel_initializer="he_normal"),
                L.Dense(3, kernel_initializer="zeros"),
            ]
        ),
        NOISE,
    ),
}


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    """Draws fewer channels for statistics of a batch: a fault is far larger."""
    monkeypatch.setattr(moments, "_BATCH_VALUES", 2**14)


def clone(model, data):
    """A copy of a model, made without the package."""
    if isinstance(model, networks.Written):
        copy = networks.Written(len(model.inner), model.initializer)
        copy(data[:2])
    else:
        copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_faults_are_found_and_mended(name):
    make, data, rule, (low, high) = BAD[name]
    model = make()
    if not model.built:
        model(data[:2])
    before = [w.numpy() for w in model.weights]
    findings = kx.recommend(model, data)
    first = findings[0]
    assert first.rule == rule, str(findings)
    value = first.predicted if first.measured is None else first.measured
    assert low <= value <= high
    for one, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), one)
    for finding in findings:
        assert finding.call, str(finding)
        names = {"model": clone(model, data), "kx": kx, "data": data}
        exec(finding.call, names)
        ignore = [
            other
            for other in RULES
            if other not in (finding.rule, *finding.also)
        ]
        again = kx.recommend(names["model"], names["data"], ignore=ignore)
        assert not again, f"{finding}\n{again}"


@pytest.mark.slow
@pytest.mark.parametrize("name", GOOD)
def test_nothing_is_found_in_good_networks(name):
    make, data = GOOD[name]
    findings = kx.recommend(make(), data)
    assert not findings, str(findings)


class Raw(L.Layer):
    """A layer that cannot be predicted."""

    def call(self, x):
        return tf.math.sin(x)


def test_images_of_white_noise_are_not_said_to_become_alike():
    layers = [keras.Input((8, 8, 4))]
    for _ in range(3):
        for _ in range(2):
            layers.append(
                L.Conv2D(
                    8,
                    3,
                    padding="same",
                    activation="relu",
                    kernel_initializer="he_normal",
                )
            )
        layers.append(L.MaxPooling2D())
    findings = kx.recommend(keras.Sequential([*layers, L.Flatten()]))
    assert not findings
    assert "white noise" in findings.not_seen[0]


def test_tokens_that_become_alike_are_found():
    model = networks.transformer(blocks=2, skips=False)
    (finding,) = kx.recommend(model, TOKENS)
    assert finding.rule == "tokens"
    assert 0.98 < finding.predicted < 1


def stack(*layers):
    return keras.Sequential([keras.Input(NOISE.shape[1:]), *layers])


def test_a_model_of_text_is_judged_by_its_measurement():
    texts = np.array([f"{a} {b}" for a in "abcd" for b in "abcd"])
    words = L.TextVectorization(vocabulary=[*"abcd"], output_sequence_length=4)
    normal = keras.initializers.RandomNormal

    def model(stddev=0.35):
        layers = [
            L.Dense(16, "relu", kernel_initializer=normal(stddev=stddev))
            for _ in range(3)
        ]
        return keras.Sequential(
            [
                keras.Input((), dtype="string"),
                words,
                L.Embedding(6, 8),
                L.Flatten(),
                *layers,
            ]
        )

    (finding,) = kx.recommend(model())
    assert finding.rule == "unknown"
    assert finding.call == "kx.recommend(model, data)"
    for data in (texts, texts.astype(object), tf.constant(texts)):
        findings = kx.recommend(model(), data)
        assert "unknown" not in [finding.rule for finding in findings]
    small = model(stddev=0.01)
    (scale,) = [f for f in kx.recommend(small, texts) if f.rule == "scale"]
    assert scale.measured < 1e-2
    exec(scale.call, {"model": small, "kx": kx, "data": texts})
    assert "scale" not in [f.rule for f in kx.recommend(small, texts)]


def test_a_model_without_kernels_is_not_known():
    for data in (None, NOISE):
        findings = kx.recommend(stack(L.LayerNormalization()), data)
        (finding,) = findings
        assert finding.rule == "unknown" and not finding.call
        assert str(findings).count("No layer that is known") == 1
        assert "layers=" not in str(findings)


def test_what_is_not_known_is_no_health():
    model = keras.Sequential([keras.Input((4,)), Raw(name="raw"), L.Dense(2)])
    (finding,) = kx.recommend(model)
    assert finding.rule == "unknown"
    assert "'raw'" in finding.why
    with pytest.raises(AssertionError, match=r"unknown(.|\n)*needs your data"):
        kx.testing.assert_healthy(model)
    for ignore in ("unknown", ["unknown"]):
        kx.testing.assert_healthy(model, ignore=ignore)
    with pytest.raises(ValueError, match="Did you mean 'unknown'"):
        kx.recommend(model, ignore=["unknow"])


def test_what_is_not_known_comes_after_a_fault():
    shared = keras.initializers.RandomNormal(stddev=0.5, seed=0)
    layers = [L.Dense(4, kernel_initializer=shared) for _ in range(2)]
    model = keras.Sequential([keras.Input((4,)), Raw(), *layers])
    found = kx.recommend(model)
    assert [finding.rule for finding in found] == ["equal weights", "unknown"]
    (fault,) = kx.recommend(model, ignore="unknown")
    assert fault == found[0]


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [L.Dense(6, "tanh", bias_initializer="ones")],
        lambda: [L.Dense(6), L.BatchNormalization(), L.ReLU()],
    ],
    ids=["biases", "batch normalization"],
)
def test_data_of_equal_samples_are_a_finding_of_their_own(layers):
    model = stack(*layers(), L.Dense(2))
    data = np.full((40, *NOISE.shape[1:]), 0.3, "float32")
    (finding,) = kx.recommend(model, data)
    assert finding.rule == "inputs" and finding.measured == 0
    assert "All samples are equal" in finding.why and not finding.call


def test_a_sample_that_differs_is_seen_in_any_batch():
    model = stack(L.Dense(2))
    data = np.full((40, *NOISE.shape[1:]), 0.3)
    batched = tf.data.Dataset.from_tensor_slices(data).batch(32)
    for equal in (data, batched):
        assert case.Case(model, equal, None).is_constant
    data[-1, -1] = -0.3
    batched = tf.data.Dataset.from_tensor_slices(data).batch(32)
    for other in (data, batched):
        assert not case.Case(model, other, None).is_constant
        assert case.Case(model, other, 1).is_constant
    assert not case.Case(model, None, None).is_constant


def test_a_signal_that_is_known_in_part_is_not_known(monkeypatch):
    model = networks.chain(3, "gelu", "lecun_normal")
    names = [layer.name for layer in model.layers]
    nan = np.nan
    part = kx.Prediction(
        names,
        [1.0, 0.9, nan, nan],
        [0.0, 0.1, nan, nan],
        [8] * 4,
        gradient=[nan, nan, 1.0, 1.0],
        notes=["", "", "an error grows", ""],
    )
    monkeypatch.setattr(case, "predict", lambda *args, **options: part)
    (finding,) = kx.recommend(model)
    assert finding.rule == "unknown"
    assert finding.where == f"the layers from {names[2]!r} on"
    assert "an error grows" in finding.why
    # What is measured is known.
    assert not kx.recommend(model, NOISE)


@pytest.mark.slow
def test_without_a_prediction_the_measurement_decides():
    inputs = keras.Input((4,))
    x = Raw()(inputs)
    for _ in range(6):
        x = L.Dense(8, "relu", kernel_initializer=networks.normal(0.1)())(x)
    findings = kx.recommend(keras.Model(inputs, x), NOISE[:, :4])
    assert findings[0].rule == "scale"
    assert findings[0].predicted is None
    assert findings[0].measured < 1e-4
    assert findings.not_seen == ()


def test_a_gradient_that_cannot_be_predicted_is_measured():
    layers = [keras.Input((16,)), Raw()]
    for _ in range(6):
        layers.append(
            L.Dense(16, "tanh", kernel_initializer=networks.normal(0.05)())
        )
    model = keras.Sequential([*layers, L.Dense(3)])
    findings = kx.recommend(model, NOISE[:, :16], ignore="scale")
    gradient = next(f for f in findings if f.rule == "gradient")
    # 16 var(W) = 0.04 for each of the five layers between.
    assert 0.1 < gradient.measured / 0.04**5 < 10
    assert gradient.predicted is None


@pytest.mark.slow
def test_a_signal_that_is_not_finite_is_found():
    model = networks.chain(4, "relu", networks.normal(1e12))
    findings = kx.recommend(model, NOISE)
    finding = findings[0]
    assert finding.rule == "scale"
    assert finding.measured == np.inf
    json.dumps(findings.to_dict(), allow_nan=False)
    names = {"model": model, "kx": kx}
    exec(finding.call, names)
    assert not kx.recommend(model, NOISE)


def test_a_model_that_cannot_be_copied_gets_a_line_that_was_not_tried():
    class Own(L.Layer):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def call(self, x):
            return self.function(x)

        def get_config(self):
            raise NotImplementedError("no config")

    layers = [Own(lambda x: x), *(L.Dense(8, "relu") for _ in range(25))]
    model = keras.Sequential([keras.Input((8,)), *layers])
    finding = kx.recommend(model, ignore=["sample fraction", "width"])[0]
    assert finding.rule == "scale"
    assert finding.call == 'kx.initialize(model, "he_normal", seed=0)'
    assert finding.after is None
    assert "cannot be copied: no config" in finding.note


def test_ignored_rules_and_healthy_models():
    model = networks.chain(15, "relu", "he_normal", width=10)
    kx.testing.assert_healthy(model, ignore="width")
    with pytest.raises(AssertionError, match=r"width, in the whole model"):
        kx.testing.assert_healthy(model)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_float16"])
def test_mixed_precision(policy):
    model = networks.chain(4, "relu", networks.normal(0.025), dtype=policy)
    findings = kx.recommend(model, NOISE)
    assert findings[0].rule == "scale"
    exec(findings[0].call, {"model": model, "kx": kx})
    assert not kx.recommend(model, NOISE)


def test_wrong_use_is_refused():
    model = networks.chain(2, "relu", "he_normal")
    for arguments, error, message in [
        (("model",), TypeError, r"Keras layer or model.*load_model"),
        ((keras.Sequential([L.Dense(2)]),), ValueError, "built"),
        ((keras.Sequential(),), ValueError, "must have layers"),
        ((stack(L.ReLU(), L.Flatten()),), ValueError, "nothing to initialize"),
        ((stack(L.ReLU()), NOISE), ValueError, "nothing to initialize"),
        ((model, NOISE.astype(str)), ValueError, "must be numbers"),
        ((model, NOISE[:1]), ValueError, "two"),
        ((model, np.full_like(NOISE, np.nan)), ValueError, "finite"),
        ((model, NOISE[:, :3]), ValueError, "."),
    ]:
        with pytest.raises(error, match=message):
            kx.recommend(*arguments)
    with pytest.raises(ValueError, match="Did you mean 'width'"):
        kx.recommend(model, ignore=["widht"])
    with pytest.raises(ValueError, match="steps"):
        kx.recommend(model, NOISE, steps=0)
    model.compile("sgd", "mse", run_eagerly=True)
    model.train_on_batch(NOISE[:4], np.zeros((4, 3)))
    with pytest.raises(ValueError, match="after 1 steps"):
        kx.recommend(model)


def test_records():
    finding = kx.Finding("r", "w", "q", 1e-9, np.inf, "y", also=("a",))
    assert "1e-09 (predicted), inf (measured)" in str(finding)
    assert "no line of code is known" in str(finding)
    found = kx.Findings([finding], ["Not seen."])
    assert str(found).endswith("Not seen.")
    assert found.to_dict()["findings"][0]["measured"] == "inf"
    assert repr(found) == "<1 findings: r>"


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softsign"])
def test_total_saturation_is_found(activation):
    # The quadrature refuses so wide distributions, and gives 0 for the widest.
    for stddev in (100.0, 1e30):
        model = networks.chain(2, activation, networks.normal(stddev))
        reading = RULES["saturation"](case.Case(model, None, 8))
        assert reading.found, stddev
        assert reading.predicted < 0.02


def test_a_wide_slope_is_that_of_the_limit():
    for variance in (1e4, 1e10):
        limit = 4 / (3 * (2 * np.pi * variance) ** 0.5)
        found = units.slope(keras.activations.tanh, variance)
        np.testing.assert_allclose(found, limit, rtol=0.01)
    assert units.slope(keras.activations.tanh, np.inf) == 0
    assert units.slope(keras.activations.tanh, np.nan) is None


@pytest.mark.slow
def test_endless_data_are_read_for_some_steps():
    data = tf.data.Dataset.from_tensor_slices(NOISE).batch(16).repeat()
    model = networks.chain(2, "tanh", networks.normal(1.5))
    rules = ("saturation", "scale")
    ignore = [name for name in RULES if name not in rules]
    findings = kx.recommend(model, data, steps=2, ignore=ignore)
    assert findings[0].rule == "saturation"
    assert findings[0].predicted is not None
    assert case.Case(model, data, 2).calibration() == (
        "kx.calibrate(model, data, steps=2)"
    )
    assert case.Case(model, NOISE, 2).calibration() == (
        "kx.calibrate(model, data)"
    )

    # A model with a call of its own is built on the data, as its copy is.
    class Own(networks.Written):
        def get_config(self):
            return {"depth": len(self.inner), "initializer": self.initializer}

    own = Own(4, networks.normal(0.025))
    findings = kx.recommend(own, data, steps=2, ignore=ignore)
    assert findings[0].rule == "scale"
    assert findings[0].after is not None


def test_the_activation_is_that_of_the_graph():
    inputs = keras.Input((8,))
    linear, other, last = (L.Dense(8, name=n) for n in ("lin", "other", "last"))
    relu = L.ReLU()
    behind = relu(L.Dropout(0.1)(L.LayerNormalization()(other(inputs))))
    total = L.Add()([linear(inputs), behind])
    model = keras.Model(inputs, last(total))
    linear.bias.assign(np.full(8, -30.0))
    one = case.Case(model, None, 8)
    assert one.activation(linear) is None
    assert one.activation(other) is relu
    assert one.activation(last) is None
    assert not RULES["dead units"](one).found


def test_a_zero_head_is_no_fault_of_scale():
    for depth, heads, found in [(1, 1, False), (2, 2, False), (1, 0, False)]:
        zeros = [L.Dense(4, kernel_initializer="zeros") for _ in range(heads)]
        body = networks.chain(depth, "relu", "he_normal").layers[:depth]
        x = inputs = keras.Input((networks.WIDTH,))
        for layer in body:
            x = layer(x)
        model = keras.Model(inputs, [layer(x) for layer in zeros] or x)
        reading = RULES["scale"](case.Case(model, None, 8))
        assert reading.found is found, (depth, heads)
    # A layer of zeros before the last one is a fault.
    zero = L.Dense(4, kernel_initializer="zeros")
    model = keras.Model(inputs, L.Dense(4)(zero(x)))
    assert RULES["scale"](case.Case(model, None, 8)).found
    # And so is a last layer of small weights.
    small = L.Dense(4, kernel_initializer=networks.normal(1e-4)())
    model = keras.Model(inputs, small(x))
    assert RULES["scale"](case.Case(model, None, 8)).found


def test_a_last_row_that_no_sample_reaches_is_left_out():
    x = inputs = keras.Input((networks.WIDTH,))
    x = L.Dense(16, "relu", kernel_initializer="he_normal")(x)
    constant = L.Dense(16)(keras.ops.ones_like(x))
    model = keras.Model(inputs, L.Add()([x, constant]))
    reading = RULES["sample fraction"](case.Case(model, NOISE, 8))
    assert not reading.found
    assert reading.measured > 0.9


def test_numbers_around_the_bounds():
    def case_of(model):
        return case.Case(model, None, 8)

    def biased(value, units):
        model = networks.chain(1, "relu", "he_normal")
        bias = np.zeros(networks.WIDTH)
        bias[:units] = value
        model.layers[0].bias.assign(bias)
        return RULES["dead units"](case_of(model))

    # A bias of one standard deviation turns a unit off for some samples only.
    assert biased(-1.4, 32).predicted == 0
    # 31 / 32 and 28 / 32 units are off.
    assert biased(-1e3, 31).found
    assert not biased(-1e3, 28).found
    # A glorot kernel of (3, 3, c, 1) has 2 / (c + 1) of its variance.
    for channels, found in [(4, False), (16, True)]:
        layer = L.DepthwiseConv2D(3, padding="same")
        model = keras.Sequential([keras.Input((2, 2, channels)), layer])
        assert RULES["wrong fans"](case_of(model)).found is found
    # The batch is normalized at two points, of images of 1024 positions.
    x = inputs = keras.Input((32, 32, 1))
    x = L.Dense(4)(L.GlobalAveragePooling2D()(x))
    x = L.Dense(3)(L.ReLU()(L.BatchNormalization()(x)))
    assert not case_of(keras.Model(inputs, x)).gradient_is_known
    # Without a prediction nothing is known.
    raw = keras.Sequential([keras.Input((4,)), Raw(), L.Dense(2)])
    assert not case_of(raw).gradient_is_known


def at_start(model):
    return case.Case(model, None, None)


def test_the_fans_are_those_of_the_layer():
    # With inputs and outputs swapped, the factors would be 50 and 1/50.
    layers = [L.Dense(n, kernel_initializer="he_normal") for n in (400, 8)]
    right = keras.Sequential([keras.Input((8,)), *layers])
    reading = RULES["wrong fans"](at_start(right))
    assert not reading.found and reading.predicted == 1
    # 9 terms are summed, where Keras counts 9 for each of 64 channels.
    layer = L.DepthwiseConv2D(3, depthwise_initializer="he_normal")
    wrong = keras.Sequential([keras.Input((4, 4, 64)), layer])
    reading = RULES["wrong fans"](at_start(wrong))
    assert reading.found and reading.predicted == pytest.approx(1 / 64)


@pytest.mark.slow
def test_with_data_only_a_model_with_a_fault_of_its_signal_is_predicted(
    monkeypatch,
):
    calls = []

    def counted(*args, **options):
        calls.append(options["training"])
        return kx.predict(*args, **options)

    monkeypatch.setattr(case, "predict", counted)
    findings = kx.recommend(networks.depthwise(1, batch_norm=True), IMAGES)
    assert [finding.rule for finding in findings] == ["wrong fans"]
    assert calls == []
    for depth in (3, 8):
        model = networks.chain(depth, "relu", networks.normal(0.05))
        findings = kx.recommend(model, NOISE, ignore="sample fraction")
        # The copies are measured.
        assert calls == ([False] if findings else [])
    (finding,) = [one for one in findings if one.rule == "scale"]
    assert finding.predicted < 1e-4 and finding.after_by == "measured"


def test_the_verdict_of_a_profile_has_the_ranges_of_the_rules():
    states = set()
    for model in (
        networks.chain(5, "relu", "he_normal"),
        networks.chain(5, "relu", networks.normal(0.05)),
        networks.chain(5, "relu", networks.normal(1.5)),
        networks.chain(9, "tanh", networks.normal(2.5)),
        networks.batch_normalized(40),
    ):
        one = at_start(model)
        one.by_batch = False
        found = one.predicted.verdict.state
        found_by_rules = {
            name: RULES[name](one).found for name in ("scale", "gradient")
        }
        assert found_by_rules["scale"] == (found in ("vanishes", "explodes"))
        if not found_by_rules["scale"]:
            is_gradient = found.startswith("gradient")
            assert found_by_rules["gradient"] == is_gradient
        states.add(found)
    assert {"vanishes", "explodes", "gradient explodes"} <= states


def test_a_normalization_of_samples_makes_wrong_fans_harmless():
    def reading(*behind, beside=()):
        x = inputs = keras.Input((4, 4, 64))
        y = L.DepthwiseConv2D(3, depthwise_initializer="he_normal")(x)
        outputs = [layer(y) for layer in (*behind, *beside)]
        return RULES["wrong fans"](at_start(keras.Model(inputs, outputs)))

    norms = [
        L.LayerNormalization(epsilon=1e-6),
        L.RMSNormalization(epsilon=1e-6),
        L.GroupNormalization(8, epsilon=1e-6),
    ]
    for norm in norms:
        each = reading(norm)
        assert each is None or not each.found, norm.name
    # The other uses see the scale, and so do a batch and a large epsilon.
    for others in (
        [norms[0], L.ReLU()],
        [L.BatchNormalization()],
        [L.LayerNormalization(epsilon=0.1)],
    ):
        assert reading(*others).found, others


def test_what_is_concatenated_is_a_skip():
    def normalized(x):
        return L.ReLU()(L.BatchNormalization()(L.Dense(8)(x)))

    rule = RULES["batch normalization"]
    for joined in (False, True):
        x = inputs = keras.Input((8,))
        for _ in range(26):
            y = normalized(x)
            x = L.Concatenate()([x, y]) if joined else y
        reading = rule(at_start(keras.Model(inputs, x)))
        assert (reading is None) is joined
        assert joined or reading.found


def test_offsets_inside_of_inner_models_are_moved():
    inner = networks.batch_normalized(13)
    inputs = keras.Input((networks.WIDTH,))
    x = keras.Sequential(inner.layers[:-1])(inputs)
    x = keras.Sequential(networks.batch_normalized(13).layers[:-1])(x)
    x = L.LayerNormalization()(L.Dense(3)(x))
    model = keras.Model(inputs, x)
    reading = RULES["batch normalization"](at_start(model))
    assert reading.found
    exec(reading.lines[0], {"model": model})
    assert not RULES["batch normalization"](at_start(model)).found
    assert not np.any(model.layers[-1].beta)


def test_bare_operations_are_activations():
    x = inputs = keras.Input((8,))
    layers = [L.Dense(8) for _ in range(3)]
    x = keras.ops.relu(layers[0](x))
    x = keras.ops.leaky_relu(layers[1](x), negative_slope=0.5)
    x = keras.ops.softmax(layers[2](keras.ops.tanh(x)))
    one = at_start(keras.Model(inputs, x))
    assert one.activation(layers[0]) is keras.activations.relu
    # Another slope than that of the function, and a function of several units.
    assert one.activation(layers[1]) is None
    assert one.activation(layers[2]) is None
    assert set(one.activations) == {
        keras.activations.relu,
        keras.activations.tanh,
    }


def test_what_a_training_may_have_left_is_said():
    layers = [L.Dense(4), L.BatchNormalization(), L.LSTM(2), L.Dense(2)]
    model = keras.Sequential([keras.Input((3, 4)), *layers])
    assert at_start(model).changed_layers == []
    layers[1].moving_mean.assign(np.ones(4))
    layers[3].bias.assign([0.0, 1.0])
    names = [layers[1].name, layers[3].name]
    assert at_start(model).changed_layers == names
    (said,) = [
        text
        for text in kx.recommend(model, ignore=list(RULES)).not_seen
        if "trained" in text
    ]
    assert all(repr(name) in said for name in names)


def test_the_scale_of_noise_that_a_model_rescales_is_not_judged():
    def model(factor):
        x = inputs = keras.Input((networks.WIDTH,))
        x = L.Dense(16, "relu")(L.Rescaling(factor)(x))
        x = L.Dense(16)(L.BatchNormalization()(x))
        return keras.Model(inputs, L.Dense(3)(L.ReLU()(x)))

    # 1/20 squared is below the range of inputs, and 1/5 squared within.
    for factor, fits in ((1 / 255, False), (1 / 20, False), (1 / 5, True)):
        one = at_start(model(factor))
        assert one.noise_fits is fits
        assert (RULES["scale"](one) is None) is not fits
    findings = kx.recommend(model(1 / 255), ignore=["gradient"])
    assert any("made for: give data" in text for text in findings.not_seen)
    # With data the inputs are known.
    data = 255 * NOISE
    one = case.Case(model(1 / 255), data, 8)
    assert one.noise_fits and not RULES["scale"](one).found


def signs(size):
    """Makes tables of entries of one size, half of them negative."""

    def table(shape, dtype=None):
        numbers = np.arange(np.prod(shape)).reshape(shape)
        return size * keras.ops.cast(1 - 2 * (numbers % 2), dtype)

    return table


class Positions(L.Layer):
    """Tokens and their positions, and the read-out by the same table."""

    def __init__(self, token, position):
        super().__init__()
        self.tokens = L.ReversibleEmbedding(9, 8, embeddings_initializer=token)
        self.places = L.Embedding(3, 8, embeddings_initializer=position)

    def call(self, x, reverse=False):
        if reverse:
            return self.tokens(x, reverse=True)
        return self.tokens(x) + self.places(keras.ops.arange(3))


def embedded(size, epsilon, kind="tokens", norm=L.LayerNormalization):
    """A model of tokens, of tokens and positions, or of text."""
    x = inputs = keras.Input(
        () if kind == "text" else (3,),
        dtype="string" if kind == "text" else "int32",
    )
    if kind == "text":
        words = L.TextVectorization(
            vocabulary=[*"abcde"], output_sequence_length=3
        )
        x = words(x)
    layer = L.Embedding(9, 8, embeddings_initializer=signs(size))
    if kind == "positions":
        layer = Positions(signs(size), "zeros")
    x = L.Dense(8, "relu")(norm(epsilon=epsilon)(layer(x)))
    x = layer(x, reverse=True) if kind == "positions" else L.Dense(2)(x)
    return keras.Model(inputs, x)


TEXTS = np.array([f"{a} {b} c" for a in "abcd" for b in "abcd"])


@pytest.mark.parametrize(
    ("size", "epsilon", "kind", "data", "found"),
    [
        (0.0005, 1e-6, "tokens", None, True),
        (0.0005, 1e-3, "tokens", TOKENS % 9, True),
        (0.0005, 1e-6, "positions", None, True),
        (0.0005, 1e-3, "positions", TOKENS % 9, True),
        (0.0005, 1e-6, "text", TEXTS, True),
        # The size of Keras at its own epsilon.
        (0.05 / 3**0.5, 1e-3, "text", TEXTS, True),
        # Epsilon takes 5.1% of the variance, and 4.9%.
        ((0.949 / 0.051 * 1e-6) ** 0.5, 1e-6, "tokens", None, True),
        ((0.951 / 0.049 * 1e-6) ** 0.5, 1e-6, "positions", None, False),
        # The size of BERT.
        (0.02, 1e-6, "positions", TOKENS % 9, False),
        (0.05 / 3**0.5, 1e-6, "text", TEXTS, False),
    ],
)
def test_an_embedding_against_epsilon(size, epsilon, kind, data, found):
    model = embedded(size, epsilon, kind)
    reading = RULES["embedding"](case.Case(model, data, 8))
    assert (reading is not None and reading.found) is found
    if reading is not None:
        kept = size**2 / (size**2 + epsilon)
        assert reading.measured == pytest.approx(kept, rel=1e-3)
    if found:
        names = {"model": model, "kx": kx}
        exec(reading.lines[-1], names)
        again = RULES["embedding"](case.Case(model, data, 8, is_trial=True))
        assert not again.found and again.measured > 0.99


class TwoTables(L.Layer):
    """A layer with two tables, the first of which has all tokens below 9."""

    def __init__(self, *sizes):
        super().__init__(name="tables")
        self.sizes = sizes

    def build(self, shape):
        for i, size in enumerate(self.sizes):
            self.add_weight(
                shape=(9, 8), initializer=signs(size), name=f"table{i}"
            )

    def call(self, x):
        first, second = (keras.ops.take(w, x, axis=0) for w in self.weights)
        return keras.ops.where(x[..., None] < 9, first, second)


@kx.inspection.register_layer(TwoTables)
def tables_rule(layer):
    table = kx.inspection.Geometry("embedding", (9, 8), (), (0,), (1,))
    return kx.inspection.LayerRule({w.name: table for w in layer.weights})


def test_the_smaller_table_of_a_layer_counts():
    for sizes, kept in (((0.0005, 1.0), 0.2), ((1.0, 0.0005), 1.0)):
        inputs = keras.Input((3,), dtype="int32")
        x = TwoTables(*sizes)(inputs)
        x = L.Dense(2)(L.LayerNormalization(epsilon=1e-6)(x))
        model = keras.Model(inputs, x)
        reading = RULES["embedding"](case.Case(model, TOKENS % 9, 8))
        assert reading.measured == pytest.approx(kept, rel=1e-3)
        assert reading.where == "'tables'"


@pytest.mark.parametrize("norm", [L.RMSNormalization, L.LayerNormalization])
def test_normalizations_that_an_embedding_is_not_judged_by(norm):
    model = embedded(0.0005, 1e-6, norm=norm)
    rule = RULES["embedding"]
    assert rule(at_start(model)).found
    # Behind other scales and offsets the mean square says nothing.
    (layer,) = (one for one in model.layers if isinstance(one, norm))
    for weight in layer.weights:
        before = weight.numpy()
        weight.assign(before + 1)
        assert rule(at_start(model)) is None
        weight.assign(before)
    # Without tokens, or without a table, there is nothing to look at.
    assert rule(at_start(keras.Sequential([keras.Input((8,)), norm()]))) is None
    unknown = embedded(0.0005, 1e-6, "text")
    assert rule(at_start(unknown)) is None


class OwnAttention(L.Layer):
    """Attention with names of its own."""

    def __init__(self, gain):
        super().__init__(name="own")
        draw = keras.initializers.VarianceScaling(gain, seed=0)
        self.asks = L.Dense(16, kernel_initializer=draw, name="asks")
        self.answers = L.Dense(16, kernel_initializer=draw, name="answers")
        self.query = L.Dense(16, name="query")

    def build(self, shape):
        for layer in (self.asks, self.answers, self.query):
            layer.build(shape)

    def call(self, x):
        scores = keras.ops.einsum("bti,bsi->bts", self.asks(x), self.answers(x))
        return keras.ops.matmul(keras.ops.softmax(scores / 4), self.query(x))


class NamedAttention(OwnAttention):
    """The same, whose rule names the layers of its scores."""


@kx.inspection.register_layer(NamedAttention)
def named_rule(layer):
    scores = (layer.asks, layer.answers)
    return kx.inspection.LayerRule(score_layers=scores)


@pytest.mark.parametrize("cls", [OwnAttention, NamedAttention])
def test_a_rule_names_the_layers_whose_outputs_are_scores(cls):
    inputs = keras.Input((3, 16))
    model = keras.Model(inputs, cls(100.0)(inputs))
    tokens = RNG.normal(size=(16, 3, 16)).astype("float32")
    one = case.Case(model, tokens, 8)
    reading = RULES["query and key"](one)
    profile = one.measured
    roles = dict(zip(profile.layers, profile.roles, strict=True))
    is_named = cls is NamedAttention
    scores = {"own/asks", "own/answers"} if is_named else set()
    assert {name for name in roles if roles[name] == "scores"} == scores
    assert len(roles) == 3
    assert (reading is not None) is is_named
    if is_named:
        variance = profile["own/asks"].total * profile["own/answers"].total
        assert reading.measured == pytest.approx(variance / (2 * np.log(3)))
        assert reading.where == "'own'"
    # It is a tuple of layers, and not their names.
    with pytest.raises(ValueError, match="score_layers must be a tuple"):
        kx.inspection.LayerRule(score_layers=["asks", "answers"])


def test_scores_of_grouped_queries_are_looked_at():
    values = []
    for gain in (1.0, 5.0):
        x = inputs = keras.Input((3, 16))
        x = L.GroupQueryAttention(4, 4, 2, name="group")(x, x)
        model = keras.Model(inputs, L.Dense(3)(x))
        for weight in model.weights:
            if "query" in weight.path or "key" in weight.path:
                weight.assign(gain * weight)
        tokens = RNG.normal(size=(16, 3, 16)).astype("float32")
        one = case.Case(model, tokens, 8)
        reading = RULES["query and key"](one)
        assert reading.found is (gain > 1)
        profile = one.measured
        rows = dict(zip(profile.layers, profile.total, strict=True))
        # The variance of a score over 2 log 3.
        variance = rows["group/query"] * rows["group/key"]
        expected = variance / (2 * np.log(3))
        assert reading.measured == pytest.approx(expected, rel=1e-6)
        if reading.found:
            assert "'group/key'" in reading.lines[0]
        values.append(reading.measured)
    assert values[1] > 100 * values[0]
