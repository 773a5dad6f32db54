"""The commands `keras-initx report`, `keras-initx check` and `list`."""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import keras
import numpy as np

import keras_initx as kx
from keras_initx._startup import arguments
from keras_initx._startup.errors import one_line
from keras_initx.cli import plain_network, report
from keras_initx.profile.verdict import RANGES

_GLOROT = "Glorot & Bengio, AISTATS 2010"
_HE = "He, Zhang, Ren & Sun, ICCV 2015"
_LECUN = "LeCun, Bottou, Orr & Mueller, Efficient BackProp, 1998"
# Keras's initializers, and the papers that proposed them.
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
_OF_INITIALIZER = """\
report --initializer takes one of the following names, any other name of
Keras's initializers that needs no arguments, or the registered name of one in
a module that --import names, such as "my_package>MyInitializer".
"""
# Without distributions, which take seconds to import.
_LISTED_MODULES = (
    *("initializers", "layers", "constraints", "models", "callbacks"),
    *("distribute", "testing", "theory"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: Sequence of str or None. The words after the command's name.
            Defaults to those of this process.

    Returns:
        int. The exit code: 0, or 2 after an error, which is written as one
        line to standard error. That of `check` is 1 if it finds something.
    """
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    # A character that the terminal cannot show must not end the report.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    code = 0
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning
            options = arguments.read(argv, kx.__doc__, kx.__version__)
            if options.command == "report":
                _report(options)
            elif options.command == "check":
                code = _check(options)
            elif options.command == "list":
                _list()
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has closed it.
        _discard_output()
        return code
    except Exception as error:
        sys.stderr.write(f"keras-initx: error: {one_line(error)}\n")
        try:
            sys.stdout.flush()
        except OSError:
            _discard_output()
        return 2
    return code


def _discard_output() -> None:
    # Python flushes standard output again when it exits, which would fail.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_warning(
    message: Warning | str, *args: object, **kwargs: object
) -> None:
    sys.stderr.write(f"keras-initx: warning: {one_line(message)}\n")


def _report(options: argparse.Namespace) -> None:
    custom = report.import_modules(options.modules)
    keras.utils.set_random_seed(options.seed)
    data = report.load_data(options.data)
    expected: kx.VarianceProfile | None = None
    notes: list[str] = []
    if options.model is not None:
        title = f"{options.model}, on {options.data}"
        model = report.load_model(options.model, custom)
        samples = report.reshape_to_input(data, model, options.data)
        profile = kx.measure(model, samples)
    else:
        network: dict[str, Any] = arguments.PLAIN_NETWORK | options.network
        title = _title(**network) + f", on {options.data}"
        samples = report.as_vectors(data)
        profile, expected, notes = _measure_plain_network(samples, **network)
    notes = [*report.notes_of_shape(data, samples), *notes]
    try:
        paths = report.write_files(options.out, profile, expected, title)
    finally:
        # The results are printed even if the disk is full.
        print(title, "", profile.table(expected), "", sep="\n")
        print(_summary(profile, expected))
    for note in notes:
        print(note)
    for path in paths:
        print(f"wrote {path}")


def _check(options: argparse.Namespace) -> int:
    """Prints the findings, and returns whether there are any."""
    custom = report.import_modules(options.modules)
    model = report.load_model(options.model, custom, with_optimizer=True)
    samples, notes = None, []
    if options.data is not None:
        data = report.load_data(options.data)
        samples = report.reshape_to_input(data, model, options.data)
        notes = report.notes_of_shape(data, samples)
    findings = kx.recommend(model, samples)
    on = f", on {options.data}" if options.data is not None else ""
    print(f"{options.model}{on}", "", findings, *notes, sep="\n")
    return int(bool(findings))


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
) -> tuple[kx.VarianceProfile, kx.VarianceProfile | None, list[str]]:
    """Returns the measured profile, the expected one, and notes about both."""
    model = plain_network.plain_network(
        vectors.shape[1], depth, width, activation, initializer
    )
    profile = kx.measure(model, vectors)
    notes = plain_network.notes_of_stability(activation, initializer)
    reason = plain_network.why_no_theory(profile, activation, initializer)
    if reason is not None:
        return profile, None, [*notes, f"No theory is shown: {reason}."]
    if width < 50 * depth:
        notes.append(
            f"A width of {width} is small for {depth} layers: random "
            "deviations from the theory add up from layer to layer, and are "
            "smaller in a wider network."
        )
    return profile, plain_network.expected_profile(profile, activation), notes


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


def _list() -> None:
    rows = {"": [*_rows(kx)]}
    rows |= {
        name: [*_rows(getattr(kx, name))]
        for name in _LISTED_MODULES
        if name in kx.__all__
    }
    ours = plain_network.names_without_arguments()
    names = [*_KERAS_INITIALIZERS, *ours]
    names += [row[0] for each in rows.values() for row in each]
    column = max(map(len, names)) + 2
    print(_OF_INITIALIZER)
    for name, paper in _KERAS_INITIALIZERS.items():
        print(f"{name:{column}}{paper}".rstrip())
    for name in ours:
        print(name)
    for module, each in rows.items():
        print(f"\n{f'keras_initx.{module}'.rstrip('.')}\n")
        if module == "initializers":
            print(_OF_INITIALIZERS)
        for name, summary, paper in each:
            print(f"{name:{column}}{summary}")
            if paper:
                print(f"{'':{column}}{paper}")


def _rows(module: ModuleType) -> Iterator[tuple[str, str, str]]:
    """Yields name, summary and reference of each public class or function."""
    prefix = module.__name__.replace("keras_initx", "kx", 1)
    for name in module.__all__:
        member = getattr(module, name)
        if not callable(member):
            continue
        text = member.__doc__ or ""
        found = re.search(r"References?:\s(.*?)(?:\n\s*\n|\Z)", text, re.DOTALL)
        paper = re.sub(r"\s+", " ", found[1]).strip() if found else ""
        # "derived here" names no paper, which has a year or a number.
        if not re.search(r"\d{4}", paper):
            paper = ""
        yield f"{prefix}.{name}", text.strip().partition("\n")[0], paper


if __name__ == "__main__":
    sys.exit(main())
