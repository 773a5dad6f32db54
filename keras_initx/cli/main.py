"""The command line: `keras-initx`, or `python -m keras_initx`."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import keras
import numpy as np

import keras_initx as kx
from keras_initx.cli import plain_network, report
from keras_initx.cli.errors import one_line

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
_ROOMS = ("initializers", "layers", "callbacks")
_PLAIN_NETWORK = {
    "initializer": None,
    "depth": 50,
    "width": 1024,
    "activation": "relu",
}

# Of a total. Much below, the squares of a layer's units are no float32 numbers.
_SMALLEST = 1e-32


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
            "theory beside it. Prints a table; writes profile.json, "
            "profile.csv and profile.png."
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
    group = command.add_argument_group("without --model, the plain network")
    add = group.add_argument
    add(
        "--initializer",
        metavar="NAME",
        help="of every kernel, as `keras-initx list` shows them; default: "
        "normal, of the variance that keeps that of the pre-activations",
    )
    add("--depth", type=_whole(1, 10_000), help="its last layer; default: 50")
    add("--width", type=_whole(1, 65_536), help="default: 1024")
    add("--activation", choices=plain_network.ACTIVATIONS, help="default: relu")

    commands.add_parser(
        "list", help="show every initializer, layer and callback, and its paper"
    )
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it did, 2 and one line of error if it could not."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    # What a terminal cannot show is no reason to lose a report.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            options = parser().parse_args(argv)
            if options.command is None:
                parser().print_help()
            else:
                {"report": _report, "list": _list}[options.command](options)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read has seen enough.
        _give_up_output()
        return 0
    except Exception as error:
        # Whatever it is, a user of a command wants a sentence.
        sys.stderr.write(f"keras-initx: error: {one_line(error)}\n")
        try:
            sys.stdout.flush()
        except OSError:
            _give_up_output()
        return 2
    return 0


def _give_up_output() -> None:
    # Python flushes once more at its end, and would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _warn(message: Warning, *where: object) -> None:
    sys.stderr.write(f"keras-initx: warning: {one_line(message)}\n")


def _report(options: argparse.Namespace) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(
            'profile.png needs matplotlib: pip install "keras-initx[plot]"'
        )
    report.check_folder(options.out)
    given = {
        name: getattr(options, name)
        for name in _PLAIN_NETWORK
        if getattr(options, name) is not None
    }
    if options.model is not None and given:
        raise ValueError(
            f"--{next(iter(given))} is of the plain network; leave it out "
            "with --model"
        )
    keras.utils.set_random_seed(options.seed)
    data = report.load_data(options.data)
    expected, note = None, None
    if options.model is not None:
        title = f"{options.model}, on {options.data}"
        model = report.load_model(options.model)
        profile = kx.measure(model, report.fitted(data, model, options.data))
    else:
        network = _PLAIN_NETWORK | given
        title = _title(**network) + f", on {options.data}"
        profile, expected, note = _plain(report.as_vectors(data), **network)
    try:
        paths = report.write(options.out, profile, expected, title)
    finally:
        # A full disk must not take the numbers along.
        print(title, "", profile.table(expected), "", sep="\n")
        print(_sentence(profile, expected))
    if note is not None:
        print(note)
    for path in paths:
        print(f"wrote {path}")


def _title(
    depth: int, width: int, activation: str, initializer: str | None
) -> str:
    return (
        f"{depth + 1} dense layers, {width} wide, {activation}, "
        f"{initializer or 'critical'} weights"
    )


def _plain(
    vectors: np.ndarray,
    depth: int,
    width: int,
    activation: str,
    initializer: str | None,
) -> tuple[kx.VarianceProfile, kx.VarianceProfile | None, str | None]:
    """What is measured, what is expected, and what a reader should know."""
    model = plain_network.plain_network(
        vectors.shape[1], depth, width, activation, initializer
    )
    profile = kx.measure(model, vectors)
    reason = plain_network.why_no_theory(profile, activation, initializer)
    if reason is not None:
        return profile, None, f"No theory beside it: {reason}."
    note = None
    if width < 50 * depth:
        note = (
            f"{width} units are few for {depth} layers: chance adds up from "
            "layer to layer, and a wider net comes closer to theory."
        )
    return profile, plain_network.expected_profile(profile, activation), note


def _sentence(
    profile: kx.VarianceProfile, expected: kx.VarianceProfile | None
) -> str:
    lost = "zero, or too small to be squared in float32"
    kept = np.flatnonzero(profile.total > _SMALLEST)
    if not len(kept):
        return f"The signal is {lost}, in every layer."
    first, last = int(kept[0]), int(kept[-1])
    fractions = profile.sample_fraction
    text = (
        "The fraction of the signal that differs between samples is "
        f"{_percent(fractions[first])} at {profile.layers[first]}"
    )
    if last > first:
        text += f" and {_percent(fractions[last])} at {profile.layers[last]}"
    if last + 1 < len(profile):
        return (
            f"{text}; from {profile.layers[last + 1]} on the signal is {lost}."
        )
    if expected is not None:
        fraction = expected.sample_fraction[last]
        text += f"; theory, at infinite width: {_percent(fraction)}"
    return f"{text}."


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _list(options: argparse.Namespace) -> None:
    rooms = {kind: list(_ours(kind)) for kind in _ROOMS}
    names = [row[0] for rows in rooms.values() for row in rows]
    column = max(map(len, [*names, *_KERAS_INITIALIZERS])) + 2
    print("Keras's initializers, for report --initializer\n")
    for name, paper in _KERAS_INITIALIZERS.items():
        print(f"{name:{column}}{paper}".rstrip())
    for kind, rows in rooms.items():
        if rows:
            print(f"\nkeras_initx.{kind}\n")
        for name, summary, paper in rows:
            print(f"{name:{column}}{summary}")
            print(f"{'':{column}}{paper}".rstrip())


def _ours(kind: str) -> Iterator[tuple[str, str, str]]:
    if importlib.util.find_spec(f"keras_initx.{kind}") is None:
        return
    module = importlib.import_module(f"keras_initx.{kind}")
    for name in module.__all__:
        thing = getattr(module, name)
        if not callable(thing):
            continue
        text = thing.__doc__ or ""
        paper = re.search(r"References?:\s(.*?)(?:\n\s*\n|\Z)", text, re.DOTALL)
        yield (
            name,
            text.strip().partition("\n")[0],
            re.sub(r"\s+", " ", paper[1]).strip() if paper else "",
        )


def _whole(least: int, most: int):
    def whole(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"a whole number from {least} to {most} is expected. "
                f"Received: {text}"
            )
        return int(text)

    return whole
