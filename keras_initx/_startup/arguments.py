"""The arguments of the command line, read and checked without TensorFlow.

TensorFlow takes seconds to import. Help, and errors in an option or a path,
are answered before.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from keras_initx.validation import did_you_mean

# The files that a report writes.
FILES = ("profile.json", "profile.csv", "profile.png")
DATA_SUFFIXES = (".npy", ".npz", ".csv")
_HDF5_SUFFIXES = (".h5", ".hdf5")
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# The activations that theory and Keras have under the same name. A test
# compares them with both, which are slow to import.
ACTIVATIONS = (
    *("linear", "relu", "leaky_relu", "relu6", "elu", "celu", "selu"),
    *("gelu", "silu", "hard_silu", "mish", "softplus", "squareplus"),
    *("sparse_plus", "exponential", "log_sigmoid", "sigmoid", "hard_sigmoid"),
    *("sparse_sigmoid", "tanh", "hard_tanh", "softsign", "tanh_shrink"),
    "soft_shrink",
)
MAX_WIDTH = 65_536
PLAIN_NETWORK = {
    "initializer": None,
    "depth": 50,
    "width": 1024,
    "activation": "relu",
}


_COMMANDS = ("report", "check", "list")
_OPTIONS = tuple(
    f"--{name}"
    for name in (
        *("help", "version", "model", "import", "data", "out", "seed"),
        *PLAIN_NETWORK,
    )
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        wrong = re.match(r"argument COMMAND: invalid choice: '(.*?)'", message)
        if wrong:
            hint = did_you_mean(wrong[1], _COMMANDS) or (
                " It is report, check or list."
            )
            message = f"{wrong[0]}.{hint}"
        raise ValueError(f"{message} (see {self.prog} --help)")


def read(
    words: Sequence[str] | None, description: str | None, version: str
) -> argparse.Namespace:
    """Returns the command and its options, after a look at the paths.

    Args:
        words: Sequence of str or None. The words after the command's name; None
            for those of this process.
        description: str or None. What the package is, for the help.
        version: str. The version of the package.

    Raises:
        ValueError: If an option is wrong, or a file is missing, has another
            ending, or cannot be written.
        ImportError: If a package is missing.
    """
    root = parser(description, version)
    options, unknown = root.parse_known_args(words)
    if unknown:
        hint = did_you_mean(unknown[0].partition("=")[0], _OPTIONS)
        raise ValueError(
            f"unrecognized arguments: {' '.join(unknown)}.{hint} "
            f"(see {root.prog} --help)"
        )
    if options.command is None:
        root.print_help()
    elif options.command == "report":
        _check_report(options)
    elif options.command == "check":
        _check_files(options)
    return options


def parser(
    description: str | None = None, version: str = ""
) -> argparse.ArgumentParser:
    """Returns the parser of the commands and their options."""
    # The first line says what the package is.
    summary = (description or "").partition("\n")[0]
    root = _Parser(prog="keras-initx", description=summary)
    root.add_argument("--version", action="version", version=version)
    commands = root.add_subparsers(dest="command", metavar="COMMAND")
    _add_report(
        commands.add_parser(
            "report",
            help="measure a network on data, layer by layer, and compare to "
            "theory",
            description=(
                "Measure how much of the difference between samples reaches "
                "each layer of a saved model or of a plain deep network, which "
                "is compared to theory. Prints a table, and writes "
                "profile.json, profile.csv and profile.png."
            ),
        )
    )
    _add_check(
        commands.add_parser(
            "check",
            help="say what is wrong with the start of a model, and what to "
            "call",
            description=(
                "Say what is wrong with the start of a saved model that has "
                "not been trained, and which line of code mends it. The exit "
                "status is 1 if something is found, and 0 if not."
            ),
        )
    )
    commands.add_parser(
        "list",
        help="show what `--initializer` takes, and all that the package has, "
        "with its papers",
    )
    return root


_SAMPLES = (
    "samples in a .npy or .npz file (several arrays are the model's inputs by "
    "name), or in a .csv file of numbers, a sample in each row; default: "
)


def _add_check(command: argparse.ArgumentParser) -> None:
    _add_model(command, required=True)
    command.add_argument(
        "--data",
        metavar="FILE",
        help=f"{_SAMPLES}none, and the signal is predicted for white noise",
    )


def _add_model(command: argparse.ArgumentParser, required: bool) -> None:
    """Adds the options that say which model is meant."""
    command.add_argument(
        "--model",
        metavar="FILE",
        required=required,
        help="a saved model: .keras, .h5 or .hdf5",
    )
    command.add_argument(
        "--import",
        dest="modules",
        metavar="MODULE",
        action="append",
        default=[],
        help="a Python module, as in `import my.module`, whose classes and "
        "functions the model or the initializer needs; may be repeated",
    )


def _add_report(command: argparse.ArgumentParser) -> None:
    _add_model(command, required=False)
    add = command.add_argument
    add(
        "--data",
        metavar="FILE",
        default="digits",
        help=f"{_SAMPLES}the handwritten digits of scikit-learn",
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
        type=_int_between(1, MAX_WIDTH),
        help="units of each layer; default: 1024",
    )
    add(
        "--activation",
        metavar="NAME",
        type=_one_of(ACTIVATIONS),
        help=f"activation of each layer: {', '.join(ACTIVATIONS)}; default: "
        "relu",
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


def _one_of(names: Sequence[str]) -> Callable[[str], str]:
    """Returns a function that reads one of several names for `argparse`."""

    def parse(text: str) -> str:
        if text not in names:
            hint = did_you_mean(text, names) or f" It is {', '.join(names)}."
            raise argparse.ArgumentTypeError(f"invalid choice: {text!r}.{hint}")
        return text

    return parse


def _check_report(options: argparse.Namespace) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(
            'profile.png needs matplotlib: pip install "keras-initx[plot]"'
        )
    options.network = {
        name: getattr(options, name)
        for name in PLAIN_NETWORK
        if getattr(options, name) is not None
    }
    if options.model is not None and options.network:
        raise ValueError(
            f"--{next(iter(options.network))} is an option of the plain "
            "network, and cannot be used with --model"
        )
    check_folder(options.out)
    _check_files(options)


def _check_files(options: argparse.Namespace) -> None:
    """Checks the files and modules that an option names."""
    if options.model is not None:
        check_model(options.model)
    if options.data is not None:
        check_data(options.data)
    for module in options.modules:
        _check_module(module)


def check_folder(folder: Path) -> None:
    """Checks that a report can be written, before any work is done.

    Args:
        folder: Path. The folder for the files, which need not exist.

    Raises:
        ValueError: If the folder cannot be created or written to.
    """
    existing = next(p for p in (folder, *folder.parents) if os.path.lexists(p))
    try:
        with tempfile.TemporaryDirectory(dir=existing):
            pass
    except OSError as error:
        raise ValueError(
            "out must be a folder that can be written to. "
            f"Received: out={folder}, where {existing} cannot "
            f"({error.strerror})"
        ) from error
    for name in FILES:
        if (folder / name).is_dir():
            raise ValueError(
                f"out must be a folder in which {name} can be a file. "
                f"Received: out={folder}, where {name} is a folder"
            )


def check_model(source: str) -> None:
    """Checks that a file may be a saved model, by its ending and first bytes.

    Raises:
        ValueError: If it is none.
    """
    path = Path(source)
    problem = None
    if path.suffix not in (".keras", *_HDF5_SUFFIXES):
        problem = "which has another suffix"
    elif not path.is_file():
        problem = f"which is not a file.{_neighbors(path)}"
    elif path.suffix == ".keras":
        if not zipfile.is_zipfile(path):
            problem = "which is not a complete zip archive"
    else:
        with path.open("rb") as file:
            if file.read(len(_HDF5_SIGNATURE)) != _HDF5_SIGNATURE:
                problem = "which is not an HDF5 file"
    if problem:
        raise ValueError(
            "model must be a .keras, .h5 or .hdf5 file, as model.save writes "
            f"it. Received: model={source}, {problem}"
        )


def check_data(source: str) -> None:
    """Checks that data is "digits" or a file with a known ending.

    Raises:
        ValueError: If it is none.
        ImportError: If scikit-learn, which has the digits, is not installed.
    """
    if source == "digits":
        if importlib.util.find_spec("sklearn") is None:
            raise ImportError(
                "The digits come with scikit-learn: "
                'pip install "keras-initx[examples]", or give --data a file'
            )
        return
    path = Path(source)
    if path.suffix not in DATA_SUFFIXES:
        raise ValueError(
            'data must be "digits" or a .npy, .npz or .csv file. '
            f"Received: data={source}"
        )
    if not path.is_file():
        raise ValueError(
            f"data must be a file. Received: data={source}, which is not a "
            f"file.{_neighbors(path)}"
        )


def _neighbors(path: Path) -> str:
    """Returns a question that names files of about the same name."""
    try:
        names = os.listdir(path.parent)
    except OSError:
        return ""
    return did_you_mean(path.name, names)


def _check_module(name: str) -> None:
    # The folder in which the command was started, after all others, so that
    # its files stand for no installed module.
    if "" not in sys.path:
        sys.path.append("")
    package = name.partition(".")[0]
    if not package.isidentifier() or importlib.util.find_spec(package) is None:
        raise ValueError(
            "import must be the name of a Python module that can be imported "
            f"here. Received: import={name}, where {package!r} is not found"
        )
