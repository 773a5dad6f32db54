"""Does a network that starts with identical features learn as well?

The same residual network is trained on the same data from four starts:

    He            random weights, as usual
    ConstNet      identical features, and arithmetic that is deterministic to
                  the last bit, so that they stay identical
    dropout       ConstNet with a dropout rate of 0.01
    noise         ConstNet with noise of 0.01 in its first weights

The data are scikit-learn's digits, enlarged to 16 by 16 pixels so that a run
takes minutes (`--enlarge 4` makes them 32 by 32). Everything else is the set-up
of Blumenfeld, Gilboa & Soudry (ICML 2020, arXiv:2007.01038), as in
`examples/train_constnet.py`: SGD with momentum 0.9, an L2 penalty of 5e-4, and
a learning rate of 0.03 that is multiplied by 0.2 three times. Images are not
augmented.

    accuracy    on unseen digits after training, over the seeds
    symmetry    spread of the features, and their correlation, during training

Run `python benchmarks/constructed_networks.py [--out DIR]`. `--help` lists the
sizes; with `--out` figures are drawn as well.
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
from report import new_axes, print_table, save_figure
from rich.progress import track

sys.path.append(str(Path(__file__).parent.parent / "examples"))
import train_constnet

STARTS = {
    "He": ["--random-init"],
    "ConstNet": [],
    "ConstNet, dropout 0.01": ["--dropout", "0.01"],
    "ConstNet, noise 0.01": ["--noise", "0.01"],
}


def run(start: str, seed: int, options: argparse.Namespace):
    """Returns the history of a training, and its `FeatureSymmetry`."""
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
    result = train_constnet.train(
        train_constnet.parser().parse_args([*map(str, arguments)])
    )
    keras.utils.clear_session()
    return result


def accuracy(results: dict[str, list]) -> None:
    """Prints the accuracies and losses at the end of training."""
    accuracies = {
        start: 100 * np.array([h["val_accuracy"][-1] for h, _ in runs])
        for start, runs in results.items()
    }
    losses = {
        start: np.array([h["loss"][-1] for h, _ in runs])
        for start, runs in results.items()
    }
    he = accuracies["He"].mean()
    rows = []
    for start, values in accuracies.items():
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
    print_table(
        "accuracy on unseen images, %, mean and standard deviation over "
        f"{len(values)} seeds",
        ["start", "accuracy", "from, to", "minus He", "training loss"],
        rows,
    )


def symmetry(results: dict[str, list]) -> None:
    """Prints medians over seeds at a few epochs, and when symmetry broke."""
    first = next(iter(results.values()))[0][1]
    steps = [step for _, step in first.measured_at]
    last = len(steps) - 1
    shown = [i for i in (0, 1, 2, 3, 5, 10, 20) if i < last] + [last]
    for name, value_of in (
        ("largest spread of a kernel's features", lambda s: s.spread.max(1)),
        ("mean forward correlation", lambda s: s.forward.mean(1)),
    ):
        rows = [
            [
                start,
                *map(
                    float, np.median([value_of(s) for _, s in runs], 0)[shown]
                ),
            ]
            for start, runs in results.items()
        ]
        print_table(
            f"symmetry: {name}, by training step",
            ["start", *(str(steps[i]) for i in shown)],
            rows,
        )
    broken = [
        [start, *(str(s.broken_at) for _, s in runs)]
        for start, runs in results.items()
    ]
    seeds = [f"seed {i}" for i in range(len(broken[0]) - 1)]
    print_table(
        "first (epoch, step) at which features differ",
        ["start", *seeds],
        broken,
    )


def draw(results: dict[str, list], out: Path) -> None:
    """Draws the medians over seeds against the epoch."""
    for name, value_of in (
        ("accuracy", lambda h, s: h["val_accuracy"]),
        ("spread", lambda h, s: s.spread[1:].max(1)),
    ):
        ax = new_axes()
        for start, runs in results.items():
            curve = np.median([value_of(*pair) for pair in runs], 0)
            ax.plot(1 + np.arange(len(curve)), curve, label=start)
        ax.set(xlabel="epoch", ylabel=name)
        if name == "spread":
            ax.set_yscale("symlog", linthresh=1e-7)
        save_figure(ax, out / f"constnet_{name}.png")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--data", choices=["digits", "cifar10"], default="digits")
    add(
        "--enlarge",
        type=int,
        default=2,
        help="factor by which digits of 8 by 8 pixels are enlarged",
    )
    add("--depth", type=int, default=16)
    add("--width-multiplier", type=int, default=1)
    add("--epochs", type=int, default=30)
    add("--batch-size", type=int, default=32)
    add("--seeds", type=int, default=5)
    add("--limit", type=int, help="number of images to train and to test on")
    add("--out", type=Path, help="folder for figures")
    return parser


def main(argv: list[str] | None = None) -> None:
    options = parser().parse_args(argv)
    tf.config.experimental.enable_op_determinism()
    pairs = [(start, seed) for start in STARTS for seed in range(options.seeds)]
    results = {start: [] for start in STARTS}
    for start, seed in track(pairs, "training"):
        results[start].append(run(start, seed, options))
    accuracy(results)
    symmetry(results)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        draw(results, options.out)


if __name__ == "__main__":
    main()
