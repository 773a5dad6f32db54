"""Attention kernels where Keras names no axes, as before its version 3.15."""

import warnings

import keras
import numpy as np
import pytest

import keras_initx as kx
from keras_initx.initializers import einsum_axes
from keras_initx.prediction.weights import initializer_moments

NAMES_AXES = einsum_axes.KERAS_NAMES_AXES
I = kx.initializers  # noqa: E741


class Unnamed(keras.layers.EinsumDense):
    """Names no axes, as Keras before 3.15."""

    def _update_kernel_initializer(self, input_axes, output_axes):
        return self.kernel_initializer


def messages(build):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build()
    texts = [str(each.message) for each in caught]
    return [text for text in texts if "keras_initx.initialize" in text]


@pytest.fixture
def unnamed(monkeypatch):
    monkeypatch.setattr(einsum_axes, "KERAS_NAMES_AXES", False)
    monkeypatch.setattr(einsum_axes, "_warned", False)


def einsum(equation, output_shape):
    return lambda **k: Unnamed(equation, output_shape, **k)


# The layer, the shape of its input, and the two fan-ins, if they differ.
LAYERS = {
    "query": (einsum("abc,cde->abde", (None, 8, 4)), (None, 3, 6), (48, 6)),
    "output": (einsum("abcd,cde->abe", (None, 6)), (None, 3, 2, 4), None),
    "batched": (einsum("bni,nij->bnj", (3, 7)), (None, 3, 5), (15, 5)),
    "plain": (einsum("ab,bc->ac", 7), (None, 5), None),
    "transposed": (einsum("ab,cb->ac", 8), (None, 5), (8, 5)),
    "any axes": (einsum("...c,cde->...de", (8, 4)), (2, 3, 6), (48, 6)),
    "dense": (lambda **k: keras.layers.Dense(7, **k), (None, 5), None),
    "conv": (lambda **k: keras.layers.Conv1D(7, 2, **k), (None, 9, 5), None),
}


@pytest.mark.parametrize("name", LAYERS)
def test_warns_where_the_fan_in_is_not_that_of_the_layer(name, unnamed):
    make, shape, fans = LAYERS[name]

    def build(**arguments):
        initializer = I.FractionalMoment(**arguments)
        make(kernel_initializer=initializer).build(shape)

    # An explicit fan-in is not read from the shape.
    assert messages(lambda: build(fan_in=3)) == []
    found = messages(build)
    assert len(found) == (fans is not None)
    if fans is not None:
        assert f"of fan-in {fans[0]}," in found[0]
        assert f"sums {fans[1]} terms" in found[0]
        assert messages(build) == [], "once a process"


@pytest.mark.parametrize(
    ("make", "warns"),
    [
        (lambda: I.Scaled(I.FractionalMoment(), 0.5), True),
        (lambda: I.Scaled(I.Scaled(I.Dirac(noise=0.1), 0.5), 2), True),
        (lambda: I.Paired(I.FractionalMoment()), True),
        (lambda: I.Dirac(), False),
        # As Keras's own, which do not warn.
        (lambda: I.Scaled("he_normal", 0.5), False),
        (lambda: I.Scaled("random_normal", 0.5), False),
    ],
)
def test_warns_for_initializers_whose_weights_depend_on_the_fan_in(
    make, warns, unnamed
):
    layer, shape, _ = LAYERS["query"]
    build = layer(kernel_initializer=make()).build
    assert len(messages(lambda: build(shape))) == warns


@pytest.mark.parametrize("name", ["query", "output", "transposed", "any axes"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: I.Dirac(),
        lambda: I.DeltaOrthogonal(seed=1),
        lambda: I.Paired(I.DeltaOrthogonal(seed=1)),
        lambda: I.Paired(I.DeltaOrthogonal(seed=1), outputs=-1),
    ],
    ids=["dirac", "orthogonal", "unpaired", "paired"],
)
def test_places_in_the_kernel_are_those_of_the_layer(make, name, unnamed):
    # As with the axes that Keras names, which an initializer may be given too.
    layer, shape, _ = LAYERS[name]
    built = layer(kernel_initializer=make())
    kernel, outputs = built.equation.split("->")
    letters = list(enumerate(kernel.split(",")[1]))
    named = make().get_config() | {
        "input_axes": [axis for axis, c in letters if c not in outputs],
        "output_axes": [axis for axis, c in letters if c in outputs],
    }
    twin = type(make()).from_config(named)
    if named.get("outputs") is not None and len(named["output_axes"]) > 1:
        with pytest.raises(ValueError, match="2 axes of outputs"):
            built.build(shape)
        return
    built.build(shape)
    weights = np.asarray(built.kernel)
    np.testing.assert_array_equal(weights, np.asarray(twin(weights.shape)))


def test_a_call_without_a_layer_does_not_warn(unnamed):
    assert messages(lambda: I.FractionalMoment()((6, 8, 4))) == []


def test_attention_kernels_and_initialize(monkeypatch):
    monkeypatch.setattr(einsum_axes, "_warned", False)
    attention = keras.layers.MultiHeadAttention(
        8,
        64,
        kernel_initializer=I.FractionalMoment(2, "linear"),
        use_bias=False,
    )
    shape = (None, 3, 512)
    found = messages(lambda: attention.build(shape, shape))
    assert len(found) == (not NAMES_AXES)
    right, given = 512**-0.5, 512**-0.5 / (1 if NAMES_AXES else 8**0.5)
    stds = [np.std(np.asarray(w)) for w in attention.weights]
    # Query, key and value, then the output, whose axes follow the shape. The
    # relative error of a std of 262144 weights is 0.0014; 7 of them, 4 times,
    # are exceeded with a probability below 1e-10.
    np.testing.assert_allclose(stds, [given] * 3 + [right], rtol=0.0097)
    x = keras.Input((3, 512))
    model = keras.Model(x, attention(x, x))
    done = kx.initialize(model, I.FractionalMoment(2, "linear"), seed=1)
    assert len(done) == 4
    stds = [np.std(np.asarray(w)) for w in model.weights]
    np.testing.assert_allclose(stds, right, rtol=0.0097)


@pytest.mark.parametrize(
    ("mode", "with_axes", "without"),
    [("fan_in", 32, 4 * 32), ("fan_out", 4 * 16, 16 * 32)],
)
def test_moments_of_an_initializer_with_axes_and_without(
    mode, with_axes, without
):
    shape = (32, 4, 16)
    initializer = keras.initializers.VarianceScaling(1.0, mode)
    initializer.input_axes, initializer.output_axes = [0], [1, 2]
    moments = initializer_moments(initializer, shape)
    assert moments.variance == pytest.approx(1 / with_axes)
    # Keras before 3.15 has no axes.
    del initializer.input_axes, initializer.output_axes
    moments = initializer_moments(initializer, shape)
    assert moments.variance == pytest.approx(1 / without)
