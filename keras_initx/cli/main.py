"""The commands `keras-initx report` and `keras-initx list`."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import keras
import numpy as np

import keras_initx as kx
from keras_initx.cli import plain_network, report
from keras_initx.cli.errors import one_line
from keras_initx.profile.verdict import RANGES

_GLOROT = "Glorot & Bengio, AISTATS 2010"
_HE = "He, Zhang, Ren & Sun, ICCV 2015"
_LECUN = "LeCun, Bottou, Orr & Mueller, Efficient BackProp, 1998"
# Keras's initializers for --initializer, and the papers that proposed them.
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
_OF_INITIALIZERS = """\
Keras takes an object, such as `kx.initializers.FractionalMoment()`, or a name
with the package, such as "keras_initx>FractionalMoment"; `kx` is keras_initx.
"""
_LISTED_MODULES = ("initializers", "layers", "callbacks")
_PLAIN_NETWORK = {
    "initializer": None,
    "depth": 50,
    "width": 1024,
    "activation": "relu",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the commands and their options."""
    description = (kx.__doc__ or "").partition("\n")[0]
    root = _Parser(prog="keras-initx", description=description)
    root.add_argument("--version", action="version", version=kx.__version__)
    commands = root.add_subparsers(dest="command", metavar="COMMAND")

    command = commands.add_parser(
        "report",
        help="measure a network on data, layer by layer, and compare to theory",
        description=(
            "Measure how much of the difference between samples reaches each "
            "layer of a saved model or of a plain deep network, which is "
            "compared to theory. Prints a table, and writes profile.json, "
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
            "samples in a .npy or .npz file (several arrays are the model's "
            "inputs by name); default: the handwritten digits of scikit-learn"
        ),
    )
    add(
        "--out",
        metavar="DIR",
        default="keras-initx-report",
        type=Path,
        help="folder to write to; default: keras-initx-report",
    )
    add(
        "--seed",
        type=_int_between(0, 2**31 - 1),
        default=0,
        help="random seed; default: 0",
    )
    group = command.add_argument_group("without --model, the plain network")
    add = group.add_argument
    add(
        "--initializer",
        metavar="NAME",
        help="initializer of every kernel, a name that `keras-initx list` "
        "shows; default: normal weights with the variance that keeps the "
        "variance of the pre-activations",
    )
    add(
        "--depth",
        type=_int_between(1, 10_000),
        help="number of layers; default: 50",
    )
    add(
        "--width",
        type=_int_between(1, 65_536),
        help="units of each layer; default: 1024",
    )
    add(
        "--activation",
        choices=plain_network.ACTIVATIONS,
        help="activation of each layer; default: relu",
    )

    commands.add_parser(
        "list", help="show every initializer, layer and callback, and its paper"
    )
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: Sequence of str or None. The words after the command's name.
            Defaults to those of this process.

    Returns:
        int. The exit code: 0, or 2 after an error, which is written as one
        line to standard error.
    """
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    # A character that the terminal cannot show must not end the report.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning
            options = parser().parse_args(argv)
            if options.command is None:
                parser().print_help()
            else:
                {"report": _report, "list": _list}[options.command](options)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has closed it.
        _discard_output()
        return 0
    except Exception as error:
        sys.stderr.write(f"keras-initx: error: {one_line(error)}\n")
        try:
            sys.stdout.flush()
        except OSError:
            _discard_output()
        return 2
    return 0


def _discard_output() -> None:
    # Python flushes standard output again when it exits, which would fail.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_warning(
    message: Warning | str, *args: object, **kwargs: object
) -> None:
    sys.stderr.write(f"keras-initx: warning: {one_line(message)}\n")


def _report(options: argparse.Namespace) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(
            'profile.png needs matplotlib: pip install "keras-initx[plot]"'
        )
    report.check_folder(options.out)
    network_options = {
        name: getattr(options, name)
        for name in _PLAIN_NETWORK
        if getattr(options, name) is not None
    }
    if options.model is not None and network_options:
        raise ValueError(
            f"--{next(iter(network_options))} is an option of the plain "
            "network, and cannot be used with --model"
        )
    keras.utils.set_random_seed(options.seed)
    data = report.load_data(options.data)
    expected, note = None, None
    if options.model is not None:
        title = f"{options.model}, on {options.data}"
        model = report.load_model(options.model)
        data = report.reshape_to_input(data, model, options.data)
        profile = kx.measure(model, data)
    else:
        network: dict[str, Any] = _PLAIN_NETWORK | network_options
        title = _title(**network) + f", on {options.data}"
        vectors = report.as_vectors(data)
        profile, expected, note = _measure_plain_network(vectors, **network)
    try:
        paths = report.write_files(options.out, profile, expected, title)
    finally:
        # The results are printed even if the disk is full.
        print(title, "", profile.table(expected), "", sep="\n")
        print(_summary(profile, expected))
    if note is not None:
        print(note)
    for path in paths:
        print(f"wrote {path}")


def _title(
    depth: int, width: int, activation: str, initializer: str | None
) -> str:
    return (
        f"{depth} dense layers, width {width}, {activation}, "
        f"{initializer or 'critical'} weights"
    )


def _measure_plain_network(
    vectors: np.ndarray,
    depth: int,
    width: int,
    activation: str,
    initializer: str | None,
) -> tuple[kx.VarianceProfile, kx.VarianceProfile | None, str | None]:
    """Returns the measured profile, the expected one, and a note about both."""
    model = plain_network.plain_network(
        vectors.shape[1], depth, width, activation, initializer
    )
    profile = kx.measure(model, vectors)
    reason = plain_network.why_no_theory(profile, activation, initializer)
    if reason is not None:
        return profile, None, f"No theory is shown: {reason}."
    note = None
    if width < 50 * depth:
        note = (
            f"A width of {width} is small for {depth} layers: random "
            "deviations from the theory add up from layer to layer, and are "
            "smaller in a wider network."
        )
    return profile, plain_network.expected_profile(profile, activation), note


def _summary(
    profile: kx.VarianceProfile, expected: kx.VarianceProfile | None
) -> str:
    """Returns the verdict, what theory predicts, and the good ranges."""
    text = str(profile.verdict)
    if expected is not None:
        last = int(np.flatnonzero(profile.sample_variance > 0)[-1])
        text += (
            " Theory for infinite width predicts a sample fraction of "
            f"{expected.sample_fraction[last]:.2g} at {profile.layers[last]}."
        )
    return "\n".join(
        [
            text,
            f"The last total over the first one: {RANGES['signal_total']}",
            f"The last sample fraction: {RANGES['sample_fraction']}",
        ]
    )


def _list(options: argparse.Namespace) -> None:
    rows_by_module = {name: list(_rows(name)) for name in _LISTED_MODULES}
    names = [row[0] for rows in rows_by_module.values() for row in rows]
    column = max(map(len, [*names, *_KERAS_INITIALIZERS])) + 2
    print("Keras's initializers, for report --initializer\n")
    for name, paper in _KERAS_INITIALIZERS.items():
        print(f"{name:{column}}{paper}".rstrip())
    for module, rows in rows_by_module.items():
        print(f"\nkeras_initx.{module}\n")
        if module == "initializers":
            print(_OF_INITIALIZERS)
        for name, summary, paper in rows:
            print(f"{name:{column}}{summary}")
            print(f"{'':{column}}{paper}".rstrip())


def _rows(module_name: str) -> Iterator[tuple[str, str, str]]:
    """Yields name, summary and reference of each public class or function."""
    module = getattr(kx, module_name)
    for name in module.__all__:
        member = getattr(module, name)
        if not callable(member):
            continue
        text = member.__doc__ or ""
        paper = re.search(r"References?:\s(.*?)(?:\n\s*\n|\Z)", text, re.DOTALL)
        yield (
            f"kx.{module_name}.{name}",
            text.strip().partition("\n")[0],
            re.sub(r"\s+", " ", paper[1]).strip() if paper else "",
        )


def _int_between(minimum: int, maximum: int) -> Callable[[str], int]:
    """Returns a function that reads an integer for `argparse`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not minimum <= int(text) <= maximum:
            raise argparse.ArgumentTypeError(
                f"expected an int from {minimum} to {maximum}. Received: {text}"
            )
        return int(text)

    return parse


if __name__ == "__main__":
    sys.exit(main())
