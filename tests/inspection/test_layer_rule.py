"""One rule for a layer class, which all verbs of the package follow."""

from collections import Counter

import keras
import numpy as np
import pytest

import keras_initx as kx
from keras_initx.inspection import layer_rule, traversal
from keras_initx.inspection.layer_rule import measured_by_default

L = keras.layers
Geometry = kx.inspection.Geometry
LayerRule = kx.inspection.LayerRule
LinearUnits = kx.inspection.LinearUnits


@pytest.fixture(autouse=True)
def no_rule_stays():
    before = dict(layer_rule._RULES)
    yield
    layer_rule._RULES.clear()
    layer_rule._RULES.update(before)


class Mix(L.Layer):
    """Maps the features along axis 1; the rows of its kernel are its units."""

    def __init__(self, units, activation="relu", **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.activation = keras.activations.get(activation)

    def build(self, shape):
        # The names of weights, of attributes and of Keras all differ.
        self.mixing = self.add_weight(
            shape=(self.units, shape[1]), name="w", initializer="he_normal"
        )
        self.offset = self.add_weight(
            shape=(self.units, 1), name="b", initializer="zeros"
        )

    def call(self, x):
        y = keras.ops.einsum("us,bst->but", self.mixing, x) + self.offset
        return self.activation(y)


def mix_rule(layer):
    shape = tuple(layer.mixing.shape)
    return LayerRule(
        {"w": Geometry("kernel", shape, (), (1,), (0,)), "b": Geometry("bias")},
        LinearUnits(layer.mixing, (0,), signal_axes=(1,), bias=layer.offset),
    )


def mixing_model(dtype="float32"):
    return keras.Sequential(
        [
            keras.Input((12, 5)),
            Mix(16, name="first", dtype=dtype),
            Mix(8, name="second", dtype=dtype),
            L.Flatten(),
            L.Dense(3, name="head", dtype=dtype),
        ]
    )


@pytest.mark.slow
def test_a_registered_layer_is_known_to_every_verb(rng):
    kx.inspection.register_layer(Mix)(mix_rule)
    model = mixing_model("float64")
    x = (1 + rng.standard_normal((400, 12, 5))).astype(np.float32)

    drawn = kx.initialize(model, "orthogonal", seed=1)
    assert [row.name for row in drawn.initialized] == [
        f"{layer}/{weight}"
        for layer, weights in (
            ("first", "wb"),
            ("second", "wb"),
            ("head", ["kernel", "bias"]),
        )
        for weight in weights
    ]
    assert drawn.rows[0].fan_in == 12
    values = np.linalg.svd(model.layers[0].mixing, compute_uv=False)
    assert np.allclose(values, 1, atol=1e-5)

    measured = kx.measure(model, x)
    assert measured.layers == ("first", "second", "head")

    done = kx.calibrate(model, x)
    assert not done.skipped
    assert not any(done.notes)
    assert done.units.tolist() == [16, 8, 3]
    signal = x.astype(np.float64)
    for layer in model.layers[:2]:
        kernel, offset = (np.asarray(w, np.float64) for w in layer.weights)
        y = np.einsum("us,bst->but", kernel, signal) + offset
        assert np.abs(y.var(axis=(0, 2)) - 1).max() < 1e-6
        assert np.abs(y.mean(axis=(0, 2))).max() < 1e-6
        signal = np.maximum(y, 0)

    symmetry = kx.callbacks.FeatureSymmetry(verbose=0)
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((400, 3)), verbose=0, callbacks=[symmetry])
    assert symmetry.names == ["first/w", "second/w"]
    assert (symmetry.spread > 0).all()


def test_without_a_rule_a_layer_is_what_it_was(rng):
    """Unknown to `initialize`, skipped by `calibrate`, no row of `measure`."""
    model = mixing_model()
    x = rng.standard_normal((40, 12, 5), np.float32)
    done = kx.initialize(model, "orthogonal", seed=1)
    assert {row.name for row in done.rows if row.role == "unknown"} == {
        f"{layer}/{weight}" for layer in ("first", "second") for weight in "wb"
    }
    assert kx.measure(model, x).layers == ("head",)
    assert set(kx.calibrate(model, x).skipped) == {"first", "second"}


def test_a_layer_without_a_rule_is_measured_by_the_names_of_keras():
    class Named(L.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(2, 3), name="w")

    class Around(L.Wrapper):
        kernel = np.float32(0)

        def build(self, shape):
            super().build(shape)
            self.kernel = self.layer.kernel

    named, around = Named(), Around(L.Dense(3))
    for layer in (named, around):
        layer.build((None, 2))
    assert measured_by_default(named)
    assert not measured_by_default(around)


class Cubed(L.Dense):
    def call(self, inputs):
        return super().call(inputs) ** 3


class Halved(Mix):
    def call(self, x):
        return super().call(x) / 2


def test_subclasses_inherit_what_holds_for_them(rng):
    kx.inspection.register_layer(Mix)(mix_rule)

    class Same(Mix):
        pass

    same, halved, cubed = Same(4), Halved(4), Cubed(4)
    for layer, shape in ((same, (9, 5)), (halved, (9, 5)), (cubed, (9,))):
        layer.build((None, *shape))
        assert measured_by_default(layer)
        kinds = kx.inspection.kernel_geometry(layer).values()
        assert [g.role for g in kinds] == ["kernel", "bias"]
    assert layer_rule.layer_rule(same).units.kernel is same.mixing
    # A call of its own need not be linear in the kernel.
    for layer in (halved, cubed):
        assert layer_rule.layer_rule(layer).units is None


def test_a_subclass_that_is_registered_itself_is_trusted(rng):
    class Doubled(L.Dense):
        def call(self, inputs):
            return 2 * super().call(inputs)

    @kx.inspection.register_layer(Doubled)
    def doubled(layer):
        # Its weights have the roles that they have in a Dense layer.
        return LayerRule(units=LinearUnits(layer.kernel, (1,)))

    model = keras.Sequential([keras.Input((8,)), Doubled(5, use_bias=False)])
    assert kx.initialize(model, "he_normal", seed=1).rows[0].fan_in == 8
    x = rng.standard_normal((200, 8), np.float32)
    assert not kx.calibrate(model, x).skipped
    # The pre-activation is what the Dense layer gives to its activation.
    assert np.allclose(np.var(model(x), axis=0), 4, atol=1e-4)


def test_a_rule_may_name_the_attribute_and_answer_for_part():
    class Two(L.Layer):
        def build(self, shape):
            self.known = self.add_weight(shape=(2, 3))
            self.other = self.add_weight(shape=(4,))

    @kx.inspection.register_layer(Two)
    def two(layer):
        return LayerRule({"known": Geometry("kernel", (2, 3), (), (0,), (1,))})

    layer = Two()
    layer.build((None, 2))
    kinds = list(kx.inspection.kernel_geometry(layer).values())
    assert [g.role for g in kinds] == ["kernel", "unknown"]


def test_a_rule_says_what_weights_start_from():
    class Gated(L.Layer):
        def build(self, shape):
            self.gate = self.add_weight(shape=(3,), name="gate")
            self.offset = self.add_weight(shape=(6,), name="offset")

    @kx.inspection.register_layer(Gated)
    def gated(layer):
        start = keras.initializers.Constant(0.25)
        return LayerRule(
            {
                "gate": Geometry("branch scale", initializer=start),
                "offset": Geometry("bias", ones=(2, 4)),
            }
        )

    layer = Gated()
    layer.build((None, 3))
    kx.initialize(layer, "he_normal", seed=1)
    assert np.asarray(layer.gate).tolist() == [0.25] * 3
    assert np.asarray(layer.offset).tolist() == [0, 0, 1, 1, 0, 0]


def test_a_rule_says_what_is_measured_and_skipped(rng):
    @kx.inspection.register_layer(Mix)
    def mix(layer):
        rule = mix_rule(layer)
        return LayerRule(
            rule.weights, rule.units, measured=False, skip_calibration="odd"
        )

    model = mixing_model()
    x = rng.standard_normal((40, 12, 5), np.float32)
    assert kx.measure(model, x).layers == ("head",)
    done = kx.calibrate(model, x, layers=["first", "head"])
    assert dict(done.skipped) == {"first": "odd"}


def test_a_layer_that_is_registered_as_a_normalization(rng):
    class Standardized(L.Layer):
        def call(self, x):
            return x / keras.ops.std(x, axis=-1, keepdims=True)

    kx.inspection.register_layer(Standardized)(
        lambda layer: LayerRule(normalizes=True)
    )
    model = keras.Sequential(
        [keras.Input((8,)), L.Dense(8, name="d"), Standardized(), L.Dense(2)]
    )
    done = kx.calibrate(model, rng.standard_normal((40, 8), np.float32))
    assert dict(done.skipped) == {"d": "followed by a normalization"}


MISTAKES = {
    "a geometry": (
        lambda la: Geometry("bias"),
        r"rule of Mix .*'m' .*'w' of shape \(4, 9\).* returns Geometry",
    ),
    "size": (
        lambda la: LayerRule({"w": Geometry("kernel", (2, 2), (), (0,), (1,))}),
        r"rule of Mix .*size .*'w' of 'm', of shape \(4, 9\)",
    ),
    "slip of the pen": (
        lambda la: LayerRule({"v": Geometry("bias"), "b": Geometry("bias")}),
        r"rule of Mix .*'m' has.*\['v'\].* no rule for 'w' of shape \(4, 9\)",
    ),
    "role": (
        lambda la: LayerRule({"w": Geometry("kernels")}),
        r"rule of Mix .*'w' of shape .*role must be 'kernel', .* or 'unknown'",
    ),
    "ones of a kernel": (
        lambda la: LayerRule({"w": Geometry("kernel", ones=(0, 1))}),
        r"rule of Mix .*ones must be .* of a bias",
    ),
    "no geometry": (
        lambda la: LayerRule({"w": "kernel"}),
        r"rule of Mix .*weights\['w'\] must be Geometry",
    ),
    "no variable": (
        lambda la: LayerRule(units=LinearUnits("w", (0,))),
        r"rule of Mix .*kernel must be a variable",
    ),
    "axis": (
        lambda la: LayerRule(units=LinearUnits(la.mixing, (2,))),
        r"rule of Mix .*axes of the kernel, of shape \(4, 9\).*\(2,\)",
    ),
    "samples": (
        lambda la: LayerRule(units=LinearUnits(la.mixing, (0,), (0,))),
        r"rule of Mix .*axis 0, which counts samples",
    ),
    "bias": (
        lambda la: LayerRule(
            units=LinearUnits(la.mixing, (1,), bias=la.offset)
        ),
        r"rule of Mix .*each of 9 units.*bias of shape \(4, 1\)",
    ),
    "failure": (lambda la: 1 / 0, r"rule of Mix .*division by zero"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistaken_rule_is_refused(case):
    rule, message = MISTAKES[case]
    kx.inspection.register_layer(Mix)(rule)
    layer = Mix(4, name="m")
    layer.build((None, 9, 5))
    with pytest.raises(ValueError, match=message):
        kx.inspection.kernel_geometry(layer)


def test_signal_axes_without_the_units_are_refused(rng):
    @kx.inspection.register_layer(Mix)
    def mix(layer):
        return LayerRule(units=LinearUnits(layer.mixing, (0,)))

    model = mixing_model()
    before = model.get_weights()
    message = (
        r"rule of Mix does not fit 'first': .* 16 in 'w' of shape \(16, 12\)"
        r".*signal_axes=\(-1,\) .* of shape \(40, 16, 5\)"
    )
    with pytest.raises(ValueError, match=message):
        kx.calibrate(model, rng.standard_normal((40, 12, 5), np.float32))
    for old, new in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(old, new)


@pytest.mark.parametrize("cls", [Mix(3), int, "Mix"])
def test_only_layer_classes_are_registered(cls):
    with pytest.raises(TypeError, match="takes layer classes"):
        kx.inspection.register_layer(cls)


def test_layers_that_are_not_built_have_no_rule():
    kx.inspection.register_layer(Mix)(mix_rule)
    assert layer_rule.layer_rule(Mix(3)) == LayerRule()


VERBS = {
    "initialize": lambda model, x: kx.initialize(model, "zeros", seed=1),
    "calibrate": lambda model, x: kx.calibrate(model, x),
    "calibrate in batches": lambda model, x: kx.calibrate(
        model, x, batch_size=20
    ),
    "FeatureSymmetry": lambda model, x: model.fit(
        x,
        np.zeros_like(x),
        verbose=0,
        callbacks=[kx.callbacks.FeatureSymmetry(verbose=0)],
    ),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_layer_is_looked_into_once(verb, monkeypatch, rng):
    inner = keras.Sequential([keras.Input((8,)), L.Dense(8), L.Dense(8)])
    shared = L.Dense(8, "relu")
    model = keras.Sequential(
        [keras.Input((8,)), shared, inner, shared, L.BatchNormalization()]
    )
    model.compile("sgd", "mse")
    looked_into = Counter()
    look = traversal._inner_layers

    def counted(layer):
        looked_into[id(layer)] += 1
        return look(layer)

    monkeypatch.setattr(traversal, "_inner_layers", counted)
    VERBS[verb](model, rng.standard_normal((60, 8), np.float32))
    assert {id(layer) for layer in model.layers} <= set(looked_into)
    assert set(looked_into.values()) == {1}
