"""Does a network that starts with identical features catch up?

The same residual network on the same data, from four starts:

    He            random_init: random weights, as usual
    ConstNet      identical features, and arithmetic that repeats itself to
                  the last bit: nothing can tell them apart
    dropout       ConstNet with a dropout of 0.01
    noise         ConstNet with a hundredth of noise in its first weights

on scikit-learn's digits, enlarged to 16 by 16 pixels so that it takes minutes
(`--enlarge 4` makes them 32 by 32). All but the sizes is the set-up of
Blumenfeld, Gilboa & Soudry (ICML 2020, arXiv:2007.01038), as
`examples/train_constnet.py` has it: SGD with momentum 0.9, an L2 penalty of
5e-4, a learning rate of 0.03 that falls by 0.2 three times. No image is
augmented.

    accuracy    on unseen digits after training, over the seeds
    symmetry    the spread of features and their correlation over time

Run `python benchmarks/constructed_networks.py [--out DIR]`; `--help` shows the
sizes; with `--out` a figure is drawn as well.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from rich.progress import track
from shown import axes, save, show

sys.path.append(str(Path(__file__).parent.parent / "examples"))
import train_constnet

STARTS = {
    "He": ["--random-init"],
    "ConstNet": [],
    "ConstNet, dropout 0.01": ["--dropout", "0.01"],
    "ConstNet, noise 0.01": ["--noise", "0.01"],
}


def run(start: str, seed: int, options: argparse.Namespace):
    """Accuracies by epoch, and the symmetry at every epoch."""
    arguments = [
        *("--data", options.data, "--enlarge", options.enlarge),
        *("--no-augment", "--verbose", "0"),
        *(
            "--depth",
            options.depth,
            "--width-multiplier",
            options.width_multiplier,
        ),
        *("--epochs", options.epochs, "--batch-size", options.batch_size),
        *("--seed", seed, *STARTS[start]),
    ]
    if options.limit:
        arguments += ["--limit", options.limit]
    found = train_constnet.train(
        train_constnet.parser().parse_args([*map(str, arguments)])
    )
    keras.utils.clear_session()
    return found


def accuracy(found: dict[str, list]) -> None:
    reached = {
        start: 100 * np.array([h["val_accuracy"][-1] for h, _ in runs])
        for start, runs in found.items()
    }
    losses = {
        start: np.array([h["loss"][-1] for h, _ in runs])
        for start, runs in found.items()
    }
    he = reached["He"].mean()
    rows = []
    for start, values in reached.items():
        deviation = values.std(ddof=1) if len(values) > 1 else 0.0
        rows.append(
            [
                start,
                f"{values.mean():.2f} +- {deviation:.2f}",
                f"{values.min():.2f} to {values.max():.2f}",
                f"{values.mean() - he:+.2f}",
                float(losses[start].mean()),
            ]
        )
    show(
        "accuracy on unseen images, %, mean and standard deviation over "
        f"{len(values)} seeds",
        ["start", "accuracy", "from, to", "beyond He", "training loss"],
        rows,
    )


def symmetry(found: dict[str, list]) -> None:
    """Medians over seeds, at a few epochs."""
    steps = [step for _, step in next(iter(found.values()))[0][1].steps]
    last = len(steps) - 1
    wanted = [i for i in (0, 1, 2, 3, 5, 10, 20) if i < last] + [last]
    for name, of in (
        ("largest spread of a kernel's features", lambda s: s.spread.max(1)),
        ("mean forward correlation", lambda s: s.forward.mean(1)),
    ):
        rows = [
            [start, *map(float, np.median([of(s) for _, s in runs], 0)[wanted])]
            for start, runs in found.items()
        ]
        show(
            f"symmetry: {name}, by training step",
            ["start", *(str(steps[i]) for i in wanted)],
            rows,
        )
    broken = [
        [start, *(str(s.broken_at) for _, s in runs)]
        for start, runs in found.items()
    ]
    seeds = [f"seed {i}" for i in range(len(broken[0]) - 1)]
    show("first (epoch, step) with a spread", ["start", *seeds], broken)


def draw(found: dict[str, list], out: Path) -> None:
    for name, of in (
        ("accuracy", lambda h, s: h["val_accuracy"]),
        ("spread", lambda h, s: s.spread[1:].max(1)),
    ):
        ax = axes()
        for start, runs in found.items():
            curve = np.median([of(*pair) for pair in runs], 0)
            ax.plot(1 + np.arange(len(curve)), curve, label=start)
        ax.set(xlabel="epoch", ylabel=name)
        if name == "spread":
            ax.set_yscale("symlog", linthresh=1e-7)
        save(ax, out / f"constnet_{name}.png")


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = found.add_argument
    add("--data", choices=["digits", "cifar10"], default="digits")
    add("--enlarge", type=int, default=2, help="digits of 8 by 8 pixels")
    add("--depth", type=int, default=16)
    add("--width-multiplier", type=int, default=1)
    add("--epochs", type=int, default=30)
    add("--batch-size", type=int, default=32)
    add("--seeds", type=int, default=5)
    add("--limit", type=int, help="of images to train and to test on")
    add("--out", type=Path)
    return found


def main(argv: list[str] | None = None) -> None:
    options = parser().parse_args(argv)
    tf.config.experimental.enable_op_determinism()
    pairs = [(start, seed) for start in STARTS for seed in range(options.seeds)]
    found = {start: [] for start in STARTS}
    for start, seed in track(pairs, "training"):
        found[start].append(run(start, seed, options))
    accuracy(found)
    symmetry(found)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        draw(found, options.out)


if __name__ == "__main__":
    main()
