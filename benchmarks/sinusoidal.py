"""Which frequency lets a network of sines learn an image?

Four gray images, the two photographs of scikit-learn and two random sums of
waves, at 32 by 32 and 64 by 64 pixels. Networks with two hidden layers of 64
sines are trained on every second pixel, as on the black squares of a
chessboard, and tested on the others, by the peak signal-to-noise ratio (PSNR)
in decibels. They are

    SIREN     "siren" weights of `models.SinusoidalNetwork` at several
              frequencies, 30 being the authors' default. Their learning rate of
              1e-4 belongs to it; at another frequency it is 3e-3 over the
              frequency, so that the first layers move as fast
    by share  "siren" and "simple" weights at frequencies from the data: the
              bandwidth at the start is a share of the `rms_frequency` of the
              training pixels, which is 0.7 by the rule

The columns "tuned" show the frequency or share whose median is best on the test
pixels: what a search could find, which knows the answer. Median, smallest and
largest of 5 seeds.

Run `python benchmarks/sinusoidal.py`. What is finished is added to the file of
`--results` and is not run again while it stands there.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import report
import tensorflow as tf

import keras_initx as kx

SEEDS, STEPS, UNITS, HIDDEN = 5, 400, 64, 2
SIDES = (32, 64)
FREQUENCIES, DEFAULT = (5.0, 10.0, 20.0, 30.0), 30.0
# The shares that are tried with each kind of weights.
SHARES = {"siren": (0.5, 0.7, 1.0), "simple": (0.35, 0.5, 0.7, 1.0, 1.4)}
RULE = 0.7
# Rates of the first layers. In the code of SIREN a weight is held before a
# factor of 30, and Adam moves it 30 times as far.
SIREN_RATE, SIMPLE_RATE = 30 * 1e-4, 2e-3
Weights = list[list[np.ndarray]]


# ---- Images ----------------------------------------------------------------


def photograph(name: str, side: int) -> np.ndarray:
    """A photograph of scikit-learn in gray, from -1 to 1."""
    from sklearn.datasets import load_sample_image

    gray = load_sample_image(name).astype(np.float64).mean(-1)
    size = min(gray.shape)
    top, left = ((n - size) // 2 for n in gray.shape)
    square = gray[top : top + size, left : left + size]
    # The mean over blocks of pixels, as equal as the size allows.
    edges = np.linspace(0, size, side + 1).astype(int)
    for axis in (0, 1):
        counts = np.diff(edges).reshape((-1, 1) if axis == 0 else (1, -1))
        square = np.add.reduceat(square, edges[:-1], axis) / counts
    return square / 127.5 - 1


def waves(count: int, side: int) -> np.ndarray:
    """A random sum of waves, of up to `count` over the side of the image."""
    random = np.random.default_rng(count)
    x = positions(side)
    k = np.arange(-count, count + 1)
    k = np.stack(np.meshgrid(k, k), -1).reshape(-1, 2)
    k = k[np.sum(k**2, 1) <= count**2]
    phases = np.pi * x @ k.T + random.uniform(0, 2 * np.pi, len(k))
    image = np.cos(phases) @ random.normal(size=len(k))
    return (image / np.abs(image).max()).reshape(side, side)


def positions(side: int) -> np.ndarray:
    axis = np.linspace(-1, 1, side)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)


IMAGES = {
    "china.jpg": lambda side: photograph("china.jpg", side),
    "flower.jpg": lambda side: photograph("flower.jpg", side),
    "3 waves": lambda side: waves(3, side),
    "8 waves": lambda side: waves(8, side),
}


# ---- Networks --------------------------------------------------------------


def network(kind: str, frequency: float, seed: int) -> Weights:
    """The weights of a network before training."""
    keras.utils.set_random_seed(seed)
    model = kx.models.SinusoidalNetwork(
        UNITS, HIDDEN, 1, frequency, initialization=kind
    )
    return [layer.get_weights() for layer in model.layers if layer.weights]


def outputs(x: Any, layers: list[list[Any]]) -> Any:
    """The outputs of all networks, of shape (networks, samples, 1)."""
    *hidden, (kernel, bias) = layers
    for weight, offset in hidden:
        x = tf.sin(tf.matmul(x, weight) + offset[:, None])
    return tf.matmul(x, kernel) + bias[:, None]


def train(
    starts: list[Weights],
    rates: list[tuple[float, float]],
    x: np.ndarray,
    y: np.ndarray,
    steps: int,
) -> list[list[np.ndarray]]:
    """Trains networks side by side by Adam, on all samples at once.

    Args:
        starts: The weights of each network.
        rates: The learning rates of each network, of all layers but the last
            and of the last one.
        x: Positions.
        y: Values there.
        steps: int. The number of steps.

    Returns:
        The kernel and the bias of each layer, with an axis of networks.
    """
    layers = [
        [
            tf.Variable(np.stack(ws).astype(np.float32))
            for ws in zip(*layer, strict=True)
        ]
        for layer in zip(*starts, strict=True)
    ]
    flat = [v for layer in layers for v in layer]
    first = [tf.Variable(tf.zeros_like(v)) for v in flat]
    second = [tf.Variable(tf.zeros_like(v)) for v in flat]
    table = np.float32(rates).T
    x, y = tf.constant(x, tf.float32), tf.constant(y, tf.float32)

    @tf.function(autograph=False)
    def step(t: Any) -> None:
        with tf.GradientTape() as tape:
            errors = outputs(x[None], layers)[..., 0] - y
            # The networks have no weights in common.
            loss = tf.reduce_sum(tf.reduce_mean(errors**2, axis=1))
        gradients = tape.gradient(loss, flat)
        for i, (v, m, s, g) in enumerate(
            zip(flat, first, second, gradients, strict=True)
        ):
            m.assign(0.9 * m + 0.1 * g)
            s.assign(0.999 * s + 0.001 * g * g)
            rate = table[0 if i < len(flat) - 2 else 1]
            shape = (len(rate), *[1] * (len(v.shape) - 1))
            size = tf.reshape(rate, shape) * tf.sqrt(1 - 0.999**t)
            size = size / (1 - 0.9**t)
            v.assign_sub(size * m / (tf.sqrt(s) + 1e-7))

    for t in range(steps):
        step(tf.constant(t + 1.0))
    return [[v.numpy() for v in layer] for layer in layers]


def psnr(layers: list[list[np.ndarray]], x: Any, y: Any) -> np.ndarray:
    """The ratio of each network, in decibels, for values from -1 to 1."""
    made = outputs(tf.constant(x[None], tf.float32), layers)[..., 0]
    return 10 * np.log10(4 / np.mean((made - y) ** 2, axis=1))


def frequency_of(kind: str, bandwidth: float) -> float:
    """The frequency of a network of that bandwidth at the start."""
    inputs = 2 if kind == "siren" else None
    return kx.theory.sine_frequency(bandwidth, HIDDEN, inputs)


def group(name: str, side: int, kind: str, by_share: bool) -> dict[str, Any]:
    """Trains the networks of one kind on one image."""
    image = IMAGES[name](side)
    black = np.indices(image.shape).sum(0).ravel() % 2 == 0
    x, y = positions(side), image.ravel()
    measured = kx.theory.rms_frequency(x[black], y[black])
    frequencies = (
        [frequency_of(kind, share * measured) for share in SHARES[kind]]
        if by_share
        else FREQUENCIES
    )
    starts, rates = [], []
    for frequency in frequencies:
        for seed in range(SEEDS):
            starts.append(network(kind, frequency, seed))
            rates.append(
                (SIREN_RATE, SIREN_RATE / frequency)
                if kind == "siren"
                else (SIMPLE_RATE, SIMPLE_RATE)
            )
    made = train(starts, rates, x[black], y[black], STEPS)
    training, test = (
        psnr(made, x[part], y[part]).reshape(-1, SEEDS).tolist()
        for part in (black, ~black)
    )
    return {"frequency": measured, "training": training, "test": test}


# name: (kind of weights, whether frequencies come from the data)
GROUPS = {
    "SIREN": ("siren", False),
    "simple by share": ("simple", True),
    "SIREN by share": ("siren", True),
}


# ---- Results ---------------------------------------------------------------


def spread(values: list[float]) -> str:
    low, middle, high = np.percentile(values, [0, 50, 100])
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def best(rows: list[list[float]], labels: tuple[float, ...]) -> str:
    i = int(np.median(rows, axis=1).argmax())
    return f"{spread(rows[i])} at {labels[i]:g}"


def table_row(name: str, found: dict[str, Any]) -> list[Any]:
    test = {key: found[key]["test"] for key in GROUPS}
    rules = {
        kind: test[key][SHARES[kind].index(RULE)]
        for key, kind in (
            ("SIREN by share", "siren"),
            ("simple by share", "simple"),
        )
    }
    tuned = max(np.median(row) for row in test["SIREN"])
    measured = found["SIREN"]["frequency"]
    return [
        name,
        f"{measured:.1f}",
        f"{frequency_of('siren', RULE * measured):.1f}",
        spread(rules["siren"]),
        spread(rules["simple"]),
        spread(test["SIREN"][FREQUENCIES.index(DEFAULT)]),
        best(test["SIREN"], FREQUENCIES),
        f"{np.median(rules['siren']) - tuned:+.1f}",
        best(test["simple by share"], SHARES["simple"]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=Path("sinusoidal.json"))
    path = parser.parse_args().results
    finished: dict[str, Any] = {}
    if path.exists():
        finished = json.loads(path.read_text(encoding="utf-8"))
    for side in SIDES:
        for image in IMAGES:
            found = finished.setdefault(f"{image}, {side}", {})
            for key, (kind, by_share) in GROUPS.items():
                if key not in found:
                    found[key] = group(image, side, kind, by_share)
                    path.write_text(json.dumps(finished), encoding="utf-8")
                    print("finished", image, side, key, flush=True)
    report.print_table(
        f"PSNR on pixels that were not trained on, dB, after {STEPS} steps.",
        [
            "image, side",
            "R",
            "rule's frequency",
            "rule",
            "rule, simple weights",
            "SIREN 30",
            "SIREN tuned",
            "rule minus tuned",
            "simple, share tuned",
        ],
        [table_row(name, found) for name, found in finished.items()],
    )
    for key in GROUPS:
        kind, by_share = GROUPS[key]
        report.print_table(
            f"{key}: PSNR on the pixels of the training, and on the others, "
            "dB, medians.",
            [
                "image, side",
                *map(str, SHARES[kind] if by_share else FREQUENCIES),
            ],
            [
                [
                    name,
                    *(
                        f"{np.median(a):.1f}, {np.median(b):.1f}"
                        for a, b in zip(
                            found[key]["training"],
                            found[key]["test"],
                            strict=True,
                        )
                    ),
                ]
                for name, found in finished.items()
            ],
        )


if __name__ == "__main__":
    main()
