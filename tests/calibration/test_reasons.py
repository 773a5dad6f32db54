"""Tests that calibrate gives the true reason for each layer it skips."""

import keras
import numpy as np
import pytest

import keras_initx as kx

L = keras.layers
NOT_LINEAR = "not known to be linear in one kernel"
X = np.random.default_rng(0).standard_normal((40, 6, 6, 8), np.float32)

KINDS = {
    "dense": lambda **k: L.Dense(8, **k),
    "convolution": lambda **k: L.Conv2D(8, 3, **k),
    "einsum": lambda **k: L.EinsumDense(
        "abcd,de->abce", (6, 6, 8), bias_axes="e", **k
    ),
}


def lora(layer):
    layer.enable_lora(2)


def frozen(layer):
    layer.trainable = False


def frozen_kernel(layer):
    layer.kernel.trainable = False


def frozen_bias(layer):
    layer.bias.trainable = False


def quantized(mode):
    def quantize(layer):
        layer.quantize(mode)

    return quantize


# Keras 3.10 has no "int4".
MODES = ["int8", "float8"]
if hasattr(keras.quantizers, "pack_int4"):
    MODES.append("int4")

# For each change of a layer the reason, and the kinds of layer that allow it.
CHANGES = {
    "lora": (lora, "LoRA adapter", KINDS),
    "frozen": (frozen, "frozen", KINDS),
    "frozen kernel": (frozen_kernel, "frozen", KINDS),
    "frozen bias": (frozen_bias, "frozen", KINDS),
    **{
        mode: (quantized(mode), "quantized", ["dense", "einsum"])
        for mode in MODES
    },
}


@pytest.mark.parametrize(
    ("change", "kind", "where"),
    [
        (change, kind, "inner" if kind == "dense" else "outer")
        for change, row in CHANGES.items()
        for kind in row[2]
    ],
)
def test_calibrate_and_initialize_give_one_reason(change, kind, where):
    apply, reason, _ = CHANGES[change]
    layer = KINDS[kind](name="it")
    body = [keras.Input((6, 6, 8)), layer]
    if where == "inner":
        body = [body[0], keras.Sequential(body, name="in")]
    model = keras.Sequential([*body, L.Dense(3, name="head")])
    apply(layer)
    name = "it" if where == "outer" else "in/it"
    batch_size = None if where == "outer" else 20
    for training in (False, True):
        done = kx.calibrate(model, X, training=training, batch_size=batch_size)
        assert dict(done.skipped) == {name: reason}
    assert f"Skipped: {name}: {reason}" in str(done).splitlines()
    rows = kx.initialize(model, "he_normal", seed=1).rows
    initialized = {row.skipped for row in rows if row.name.startswith(name)}
    assert reason in initialized <= {reason, ""}


class Listed(keras.Model):
    """Hides layers from Keras in a list in its `__dict__`."""

    def __init__(self):
        super().__init__(name="listed")
        vars(self)["hidden"] = [L.Dense(8, name="a"), L.Dense(8, name="b")]
        self.head = L.Dense(3, name="head")

    def call(self, x):
        for layer in vars(self)["hidden"]:
            x = layer(x)
        return self.head(x)


class Made(keras.Model):
    """Makes a layer at each call."""

    def __init__(self):
        super().__init__(name="made")
        self.head = L.Dense(3, name="head")

    def call(self, x):
        return self.head(L.Dense(4, name="new")(x))


class Own(keras.Model):
    """Has a kernel of its own, and a layer that never runs."""

    def __init__(self):
        super().__init__(name="own")
        self.head, self.rest = L.Dense(3, name="head"), L.Dense(3, name="rest")

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 5), name="mine")
        self.rest.build((None, 7))

    def call(self, x):
        return self.head(x @ self.kernel)


class Claims(keras.Model):
    """Says that it is built although its layer is not."""

    def __init__(self):
        super().__init__(name="claims")
        self.head = L.Dense(3, "relu", name="head")

    def build(self, shape):
        self.built = True

    def call(self, x):
        return self.head(x)


class Eager(Claims):
    """The same, and it does not run symbolically."""

    def call(self, x):
        return self.head(np.asarray(x))


def attention():
    x = keras.Input((6, 8))
    y = L.AdditiveAttention(name="add")([x, x])
    return keras.Model(x, L.Dense(3, name="head")(y))


class Cubed(L.Dense):
    def call(self, x):
        return super().call(x) ** 3


def subclass():
    return keras.Sequential([Cubed(4, name="cubed"), L.Dense(3, name="head")])


MODELS = {
    "listed": (
        Listed,
        {
            "a": "not tracked by the model",
            "b": "not tracked by the model",
        },
    ),
    "made": (Made, {"new": "not tracked by the model"}),
    "own": (Own, {"own": NOT_LINEAR, "rest": "did not run"}),
    "claims": (Claims, {}),
    "eager": (Eager, {}),
    "attention": (attention, {"add": "attention"}),
    "subclass": (subclass, {"cubed": NOT_LINEAR}),
}


@pytest.mark.parametrize("name", MODELS)
def test_reasons_that_lie_in_the_model(name):
    make, reasons = MODELS[name]
    model = make()
    x = X[:, 0] if name == "attention" else X[:, 0, 0]
    if name in ("claims", "eager"):
        model.build((None, 8))
    done = kx.calibrate(model, x)
    assert dict(done.skipped) == reasons
    if "head" not in reasons:
        assert done["head"].sample_variance == pytest.approx(1, rel=1e-3)
    by_reason = {}
    for layer, reason in reasons.items():
        by_reason.setdefault(reason, []).append(layer)
    lines = [line for line in str(done).splitlines() if "Skipped" in line]
    assert lines == [
        f"Skipped: {', '.join(layers)}: {reason}"
        for reason, layers in by_reason.items()
    ]
