"""Runs tests on versions of Keras and TensorFlow that others have.

    python tests/scripts/run_versions.py colab oldest newest

Each name gets a virtual environment in `.versions`, which is kept. A row of
docs/compatibility.md is printed for it. Python's own packages are all that this
script needs. An interpreter is found on the path as `python3.13`, or through
the environment variable `PYTHON_3_13`.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".versions"
TESTS = (
    *("tests/initializers", "tests/initialization", "tests/measurement"),
    *("tests/hooks", "tests/layers", "tests/calibration", "tests/callbacks"),
    *("tests/models", "tests/docs/test_pages.py::test_code_of_a_page_runs"),
)
ONLY_README = "not test_code_of_a_page_runs or README"
SHOWN = ("keras", "tensorflow", "jax", "torch", "numpy", "scipy")


@dataclass(frozen=True)
class Environment:
    """The packages of an environment.

    Attributes:
        python: The version of Python.
        packages: What pip installs beside this package.
        without: What pip installs without dependencies, so that it does not
            bring another version of TensorFlow.
        pre: Whether pre-releases are taken.
    """

    python: str
    packages: tuple[str, ...]
    without: tuple[str, ...] = ()
    pre: bool = False


_TESTING = ("pytest", "hypothesis", "nbformat", "matplotlib", "scikit-learn")
_PROBABILITY = ("tensorflow-probability", "setuptools")
ENVIRONMENTS = {
    # What Colab's list of packages has had since March 2026, and Kaggle's image
    # since May.
    "colab": Environment(
        "3.13",
        (
            *("keras==3.13.2", "tensorflow==2.20.0", "numpy==2.1.3"),
            *("scipy==1.16.3", "tensorflow-probability==0.25.0"),
            *("tf-keras==2.20.1", "setuptools", *_TESTING),
        ),
    ),
    "oldest": Environment(
        "3.11",
        (
            *("keras==3.10.0", "tensorflow==2.18.0", "numpy==1.26.4"),
            *("scipy==1.11.4", "tensorflow-probability==0.25.0"),
            *("tf-keras==2.18.0", "setuptools", *_TESTING),
        ),
    ),
    # tf-keras asks for a release of TensorFlow that is not newer than itself.
    "newest": Environment(
        "3.13",
        ("keras", "tensorflow", "numpy", "scipy", *_PROBABILITY, *_TESTING),
        without=("tf-keras",),
        pre=True,
    ),
}


def main(names, arguments):
    failed = False
    for name in names:
        python = installed(name, ENVIRONMENTS[name])
        summary, code = run_tests(python, arguments)
        failed |= code != 0
        print(row(name, python, summary), flush=True)
    return int(failed)


def installed(name, environment):
    """The interpreter of an environment, which is made if it is not there."""
    home = FOLDER / name
    python = home / "bin" / "python"
    done = home / "done.json"
    wanted = json.dumps([vars(environment), pyproject()], default=list)
    if done.is_file() and done.read_text(encoding="utf-8") == wanted:
        return python
    shutil.rmtree(home, ignore_errors=True)
    run(interpreter(environment.python), "-m", "venv", home)
    pip = python, "-m", "pip", "install", "--quiet"
    pre = ("--pre",) if environment.pre else ()
    # The tests run in the repository: only the dependencies are installed.
    run(*pip, *pre, *environment.packages, *pyproject())
    if environment.without:
        run(*pip, *pre, "--no-deps", *environment.without)
    done.write_text(wanted, encoding="utf-8")
    return python


def pyproject():
    """The dependencies of this package."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (line,) = re.findall(r"^dependencies = \[(.*?)\]", text, re.M | re.S)
    return re.findall(r'"([^"]+)"', line)


def interpreter(version):
    name = f"python{version}"
    chosen = os.environ.get(f"PYTHON_{version.replace('.', '_')}", name)
    found = shutil.which(chosen)
    if found is None:
        sys.exit(
            f"Python {version} must be on the path as {name}, or named by "
            f"PYTHON_{version.replace('.', '_')}"
        )
    return found


def run_tests(python, arguments):
    """Returns pytest's last line and its exit code."""
    chosen = arguments or [*TESTS, "-k", ONLY_README]
    # Other versions have other warnings, which no test is about.
    options = ("-W", "default", "-p", "no:cacheprovider")
    process = subprocess.Popen(
        [str(part) for part in (python, "-m", "pytest", *options, *chosen)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    last = ""
    for line in process.stdout:
        if line.startswith(("FAILED", "ERROR")):
            print(line, end="", flush=True)
        last = line.strip() or last
    return last, process.wait()


def row(name, python, summary):
    """A row of the table of versions."""
    code = (
        "import importlib.metadata as m, platform, sys\n"
        "print(platform.python_version())\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(name, m.version(name))\n"
        "    except m.PackageNotFoundError: print(name, '-')\n"
    )
    version, *packages = run(python, "-c", code, *SHOWN).splitlines()
    versions = dict(line.split() for line in packages)
    counts = [
        (re.findall(rf"(\d+) {word}", summary) or ["0"])[0]
        for word in ("passed", "failed", "skipped")
    ]
    cells = name, version, *(versions[each] for each in SHOWN), *counts
    return "| " + " | ".join(cells) + " |"


def run(*command):
    done = subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed")
    return done.stdout


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(ENVIRONMENTS))
    parser.add_argument(
        "--tests",
        nargs=argparse.REMAINDER,
        default=[],
        help="what to pass to pytest in the place of the files above",
    )
    options = parser.parse_args()
    sys.exit(main(options.names or list(ENVIRONMENTS), options.tests))
