"""Tests of computations in benchmarks against a simple implementation."""

import importlib.util
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx
from keras_initx.theory.triangle_waves.peaks import random_peaks

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    spec = importlib.util.spec_from_file_location(
        name, BENCHMARKS / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def resnet_scaling(monkeypatch):
    return load("resnet_scaling", monkeypatch)


@pytest.mark.parametrize("matrices", [1, 2])
def test_residual_nets_together_equal_single_nets(
    resnet_scaling, matrices, rng
):
    depth, d = 12, 6
    v, w = rng.standard_normal((2, depth, d, d))
    x = rng.standard_normal((3, d))
    scales = np.array([0.1, 0.5, 2.0])
    signal, gradient = resnet_scaling.run(
        v, w if matrices == 2 else None, x, scales
    )
    p = np.random.default_rng(resnet_scaling.SEED).standard_normal(d)
    for i, scale in enumerate(scales):
        for j, start in enumerate(x):
            first = tf.constant(start[:, None])
            with tf.GradientTape() as tape:
                tape.watch(first)
                h = first
                for k in range(depth):
                    z = w[k] @ h / d**0.5 if matrices == 2 else h
                    h += scale * (v[k] @ tf.nn.relu(z)) / d**0.5
                loss = tf.reduce_sum(p[:, None] * h)
            back = np.ravel(tape.gradient(loss, first))
            expected_signal = np.linalg.norm(
                np.ravel(h) - start
            ) / np.linalg.norm(start)
            expected_gradient = np.linalg.norm(back - p) / np.linalg.norm(p)
            assert signal[i, j] == pytest.approx(expected_signal, rel=1e-10)
            assert gradient[i, j] == pytest.approx(expected_gradient, rel=1e-10)


def test_ridge_is_the_last_crossing(resnet_scaling):
    betas = np.linspace(0, 1, 11)
    assert resnet_scaling.ridge(betas, 0.234 - betas) == pytest.approx(0.234)
    with_nan = np.where(betas < 0.15, np.nan, 0.71 - betas)
    assert resnet_scaling.ridge(betas, with_nan) == pytest.approx(0.71)


@pytest.mark.slow
def test_triangle_waves_trained_together_equal_a_single_one(monkeypatch):
    """Trains a net of the last target alone in Keras, for five steps."""
    bench = load("triangle_waves", monkeypatch)
    x = np.linspace(0, 1, 20)
    y = np.repeat(
        np.stack([curve(x) for _, curve in bench.TARGETS.values()], axis=1),
        bench.STARTS,
        axis=1,
    )
    layers = bench.train_waves(False, x, y, 5, 20)
    start = bench.weights_of(layers)
    end = bench.train_weights(start, x, y, 5, 20, "")

    wave = kx.layers.TriangleWave(
        bench.DEPTH,
        peaks=random_peaks(bench.DEPTH, bench.STARTS, bench.SEED)[-1],
    )
    wave.build((None, 1))
    for phase in (1, 2):
        model = wave if phase == 1 else wave.to_dense()
        adam = keras.optimizers.Adam(1e-3)
        for _ in range(5):
            with tf.GradientTape() as tape:
                error = model(x[:, None])[:, 0] - y[:, -1]
                loss = tf.reduce_mean(error**2)
            variables = model.trainable_variables
            adam.apply(tape.gradient(loss, variables), variables)
    for together, single in zip(end, model.layers, strict=True):
        np.testing.assert_allclose(together[0][-1], single.kernel, atol=1e-4)
        np.testing.assert_allclose(together[1][-1, 0], single.bias, atol=1e-4)
    np.testing.assert_allclose(
        bench.forward(end, x)[:, -1], model(x[:, None])[:, 0], atol=1e-4
    )


@pytest.mark.parametrize("conv", [False, True])
def test_plain_nets_together_equal_those_of_keras(conv, monkeypatch, rng):
    bench = load("isometry", monkeypatch)
    x = rng.normal(size=(6, 64)).astype(np.float32)
    model = bench.plain_net(2, 64, conv)
    starts, expected = [], []
    for seed in range(2):
        kx.initialize(model, "he_normal", seed=seed)
        starts.append(bench.weights_of(model))
        expected.append(model(x))
    together = [
        [np.stack(weights) for weights in zip(*layers, strict=True)]
        for layers in zip(*starts, strict=True)
    ]
    both = tf.constant(np.stack([x, x]))
    result = bench.logits(both, together, tf.nn.relu, False, conv)
    np.testing.assert_allclose(result, np.stack(expected), atol=1e-4)


def test_networks_of_sines_together_equal_those_of_keras(monkeypatch, rng):
    """Three steps of Adam on two networks of different rates."""
    bench = load("sinusoidal", monkeypatch)
    monkeypatch.setattr(bench, "UNITS", 5)
    x = rng.uniform(-1, 1, (7, 2)).astype(np.float32)
    y = rng.normal(size=7).astype(np.float32)
    starts = [bench.network("siren", 4.0, 0), bench.network("simple", 2.0, 1)]
    rates = [(3e-3, 1e-3), (2e-3, 2e-3)]
    together = bench.train(starts, rates, x, y, 3)
    for i, (start, (first, last)) in enumerate(zip(starts, rates, strict=True)):
        model = kx.models.SinusoidalNetwork(5, bench.HIDDEN)
        model.set_weights([w for layer in start for w in layer])
        adams = [keras.optimizers.Adam(rate) for rate in (first, last)]
        variables = model.trainable_variables
        for _ in range(3):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(x)[:, 0] - y) ** 2)
            gradients = tape.gradient(loss, variables)
            adams[0].apply(gradients[:-2], variables[:-2])
            adams[1].apply(gradients[-2:], variables[-2:])
        flat = [weight[i] for layer in together for weight in layer]
        for weight, expected in zip(flat, model.get_weights(), strict=True):
            np.testing.assert_allclose(weight, expected, atol=1e-5)
        expected = 10 * np.log10(4 / np.mean((model(x)[:, 0] - y) ** 2))
        assert bench.psnr(together, x, y)[i] == pytest.approx(
            expected, abs=0.01
        )
