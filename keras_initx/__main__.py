"""The command line: `keras-initx`, or `python -m keras_initx`."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import keras
import numpy as np

import keras_initx as kx
from keras_initx import report
from keras_initx.display import text_table

_GLOROT = "Glorot & Bengio, AISTATS 2010"
_HE = "He, Zhang, Ren & Sun, ICCV 2015"
_LECUN = "LeCun, Bottou, Orr & Mueller, Efficient BackProp, 1998"
# What --initializer takes of Keras's own, and who proposed it.
_KERAS_INITIALIZERS = {
    "glorot_normal": _GLOROT,
    "glorot_uniform": _GLOROT,
    "he_normal": _HE,
    "he_uniform": _HE,
    "lecun_normal": _LECUN,
    "lecun_uniform": _LECUN,
    "orthogonal": "Saxe, McClelland & Ganguli, ICLR 2014",
    "identity": "Le, Jaitly & Hinton, arXiv:1504.00941",
    "random_normal": "",
    "random_uniform": "",
    "truncated_normal": "",
    "variance_scaling": "",
}
_PLAIN_NETWORK = {
    "initializer": None,
    "depth": 50,
    "width": 256,
    "activation": "relu",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    root = _Parser(prog="keras-initx", description=kx.__doc__)
    root.add_argument("--version", action="version", version=kx.__version__)
    commands = root.add_subparsers(dest="command", metavar="COMMAND")

    command = commands.add_parser(
        "report",
        help="measure a network on data, layer by layer, beside the theory",
        description=(
            "Measure how much of the difference between samples reaches each "
            "layer: of a saved model, or of a plain deep network, with the "
            "theory beside it. Prints a table; writes profile.json, decay.csv "
            "and decay.png."
        ),
    )
    add = command.add_argument
    add("--model", metavar="FILE.keras", help="a saved model")
    add(
        "--data",
        metavar="FILE",
        default="digits",
        help=(
            "samples in a .npy or .npz file (of several arrays: the model's "
            "inputs by name); default: the handwritten digits of scikit-learn"
        ),
    )
    add("--out", metavar="DIR", default="keras-initx-report", type=Path)
    add("--seed", type=_whole(0, 2**31 - 1), default=0, help="default: 0")
    plain = command.add_argument_group("without --model, the plain network")
    add = plain.add_argument
    add(
        "--initializer",
        metavar="NAME",
        help="of every kernel, as `keras-initx list` shows them; default: "
        "normal, of the variance that keeps that of the pre-activations",
    )
    add("--depth", type=_whole(1, 10_000), help="its last layer; default: 50")
    add("--width", type=_whole(1, 65_536), help="default: 256")
    add("--activation", choices=report.ACTIVATIONS, help="default: relu")

    commands.add_parser(
        "list", help="show every initializer, layer and callback, and its paper"
    )
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it did, 2 and one line of error if it could not."""
    try:
        options = parser().parse_args(argv)
        if options.command is None:
            raise ValueError("a command is needed: report or list")
        run = {"report": _report, "list": _list}[options.command]
        run(options)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        # Whatever it is, a user of a command wants a sentence.
        text = str(error) or type(error).__name__
        line = re.sub(r"\s+", " ", text).strip()
        sys.stderr.write(f"keras-initx: error: {line}\n")
        return 2
    return 0


def _report(options: argparse.Namespace) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(
            'decay.png needs matplotlib: pip install "keras-initx[plot]"'
        )
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"out must be a folder. Received: out={options.out}")
    keras.utils.set_random_seed(options.seed)
    given = [
        name for name in _PLAIN_NETWORK if getattr(options, name) is not None
    ]
    if options.model is not None and given:
        raise ValueError(
            f"--{given[0]} is of the plain network; leave it out with --model"
        )
    data = report.load_data(options.data)
    if options.model is not None:
        model, expected = report.load_model(options.model), None
        data = report.fitted(data, model)
        profile = kx.measure(model, data)
        title = options.model
    else:
        plain = _PLAIN_NETWORK | {n: getattr(options, n) for n in given}
        _check_initializer(plain["initializer"])
        if not isinstance(data, np.ndarray) or data.ndim < 2:
            raise ValueError(
                "data for the plain network must be one array of samples. "
                f"Received: data={options.data}"
            )
        data = data.reshape(len(data), math.prod(data.shape[1:]))
        model = report.plain_network(data.shape[1], **plain)
        profile = kx.measure(model, data)
        expected = report.expected_profile(
            profile, plain["activation"], plain["initializer"]
        )
        title = (
            f"{plain['depth'] + 1} dense layers, {plain['width']} wide, "
            f"{plain['activation']}, {plain['initializer'] or 'critical'}"
        )
    print(f"{title}, on {options.data}\n")
    print(profile.table(expected))
    print(f"\n{_sentence(profile, expected)}")
    if options.model is None and expected is None:
        print(
            "No theory beside it: that is for random weights which, but with "
            "relu and its kin, keep the variance of the pre-activations at 1."
        )
    for path in report.write(options.out, profile, expected):
        print(f"wrote {path}")


def _sentence(
    profile: kx.VarianceProfile, expected: kx.VarianceProfile | None
) -> str:
    kept = (
        f"Between samples varies {profile.decay[0]:.1%} of the signal at "
        f"{profile.layers[0]} and {profile.decay[-1]:.1%} at "
        f"{profile.layers[-1]}"
    )
    if expected is None:
        return f"{kept}."
    return f"{kept}; theory, at infinite width: {expected.decay[-1]:.1%}."


def _list(options: argparse.Namespace) -> None:
    print("Keras's initializers, for report --initializer\n")
    rows = list(_KERAS_INITIALIZERS.items())
    print(text_table(["name", "paper"], rows))
    for kind in ("initializers", "layers", "callbacks"):
        rows = list(_ours(kind))
        if rows:
            print(f"\nkeras_initx.{kind}\n")
            print(text_table(["name", "what it is", "paper"], rows))


def _ours(kind: str) -> Iterator[tuple[str, str, str]]:
    if importlib.util.find_spec(f"keras_initx.{kind}") is None:
        return
    module = importlib.import_module(f"keras_initx.{kind}")
    for name in module.__all__:
        text = getattr(module, name).__doc__
        paper = re.search(r"Reference: (.*?)(?:\n\s*\n|$)", text, re.DOTALL)
        summary = text.strip().splitlines()[0]
        yield name, summary, re.sub(r"\s+", " ", paper[1]).strip()


def _check_initializer(name: str | None) -> None:
    if name is None:
        return
    try:
        keras.initializers.get(name)
    except (ValueError, TypeError) as error:
        raise ValueError(
            "initializer must be a name that `keras-initx list` shows. "
            f"Received: initializer={name}"
        ) from error


def _whole(least: int, most: int):
    def whole(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"a whole number from {least} to {most} is expected. "
                f"Received: {text}"
            )
        return int(text)

    return whole


if __name__ == "__main__":
    sys.exit(main())
