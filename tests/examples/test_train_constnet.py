"""Tests of examples/train_constnet.py and of the benchmark that uses it."""

import importlib.util
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

SCRIPT = Path(__file__).parents[2] / "examples" / "train_constnet.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_constnet", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    # AutoGraph looks up the functions' module in sys.modules.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.slow
def test_runs_at_a_small_size(script, capsys, tmp_path):
    arguments = (
        "--data digits --depth 7 --width-multiplier 1 --epochs 2 "
        "--batch-size 16 --limit 32 --dropout 0.01 --verbose 0 "
        f"--log-dir {tmp_path}"
    )
    script.main(arguments.split())
    printed = capsys.readouterr().out
    assert "group3_block1_conv" in printed
    # An epoch has two steps, the first of which changes the logits alone.
    assert "symmetry broken at (epoch, step): (1, 2)" in printed
    assert "accuracy on unseen images: 0." in printed
    assert list(tmp_path.iterdir())


def test_default_options_are_the_authors_set_up(script):
    options = vars(script.parser().parse_args([]))
    assert options["data"] == "cifar10"
    assert (options["depth"], options["width_multiplier"]) == (16, 10)
    assert (options["epochs"], options["batch_size"]) == (300, 128)
    assert (options["rate"], options["penalty"]) == (0.03, 5e-4)
    rates = [script.rate_at(epoch, 300, 1.0) for epoch in range(300)]
    expected = [1.0] * 160 + [0.2] * 60 + [0.04] * 40 + [0.008] * 40
    np.testing.assert_allclose(rates, expected)


def test_penalty_is_added_to_the_gradient(rng, script):
    """PyTorch has b = 0.9 b + (g + penalty w) and w -= rate b."""
    w = rng.standard_normal(5).astype(np.float32)
    variable = keras.Variable(w)
    optimizer = script.SGD(0.1, 0.05)
    b = 0
    for _ in range(4):
        gradient = rng.standard_normal(5).astype(np.float32)
        optimizer.apply([tf.constant(gradient)], [variable])
        b = 0.9 * b + gradient + 0.05 * w
        w = w - 0.1 * b
    np.testing.assert_allclose(variable.numpy(), w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mirror", [False, True])
def test_augmented_images_are_crops_and_mirror_images(script, mirror, rng):
    x = rng.standard_normal((64, 12, 12, 2)).astype(np.float32)
    padded = np.pad(x, [(0, 0), (4, 4), (4, 4), (0, 0)], mode="reflect")
    augmented = script.augmented(tf.constant(x), mirror).numpy()
    crops = set()
    for image, source in zip(augmented, padded, strict=True):
        possible = {
            (i, j, mirrored): source[i : i + 12, j : j + 12][:, ::direction]
            for i in range(9)
            for j in range(9)
            for mirrored, direction in ((False, 1), (True, -1))
        }
        (crop,) = [
            key for key, value in possible.items() if (value == image).all()
        ]
        crops.add(crop)
    # 64 images have fewer than 8 of 81 crops with a probability below 1e-50.
    assert len(crops) >= 8
    assert {mirrored for _, _, mirrored in crops} == {False, mirror}


def test_enlarged_digits_are_those_of_scikit_learn(script):
    from sklearn.datasets import load_digits

    (x, y), (unseen, labels) = script.load("digits")
    assert x.shape == (1437, 32, 32, 1) and unseen.shape == (360, 32, 32, 1)
    images = load_digits().images
    for i, label in ((0, y[0]), (700, y[700])):
        small = x[i, ::4, ::4, 0]
        np.testing.assert_array_equal(x[i, 3::4, 2::4, 0], small)
        matches = np.abs((images - images.mean()) / images.std() - small).max(
            (1, 2)
        )
        assert load_digits().target[matches.argmin()] == label
        assert matches.min() < 1e-5
    assert len(labels) == 360


@pytest.mark.slow
def test_benchmark_reports_every_start(script, capsys, monkeypatch):
    folder = SCRIPT.parent.parent / "benchmarks"
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    spec = importlib.util.spec_from_file_location(
        "constructed_networks", folder / "constructed_networks.py"
    )
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    arguments = "--enlarge 1 --depth 7 --epochs 2 --limit 32 --seeds 1"
    options = benchmark.parser().parse_args(arguments.split())
    results = {
        start: [benchmark.run(start, 3, options)]
        for start in ("He", "ConstNet, dropout 0.01")
    }
    benchmark.accuracy(results)
    benchmark.symmetry(results)
    printed = capsys.readouterr().out
    (he,) = [line for line in printed.splitlines() if "| He" in line][:1]
    reached = 100 * results["He"][0][0]["val_accuracy"][-1]
    assert f"{reached:.2f} +- 0.00" in he and "+0.00" in he
    rows = [line for line in printed.splitlines() if "dropout" in line]
    assert "(2, 2)" in rows[-1]
    assert rows[1].split("|")[2].strip() == "0"
