"""The wheel and the sdist: what they hold, what they declare, that they work.

Everything runs without network access: the build uses the setuptools of the
test environment, and the wheel is installed without its dependencies.
"""

import configparser
import email
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import keras_initx as kx

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
GENERATED = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "build", "dist", "site", "demo"
)

pytestmark = [pytest.mark.slow, pytest.mark.isolated]


def run(*command, **options):
    """Runs a command outside the repository and returns what it prints."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"PYTHONPATH", "PYTHONSAFEPATH"}
    }
    environment |= {"PIP_NO_INDEX": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env=environment,
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder with a wheel and an sdist of the repository's current state."""
    # A copy, since a build leaves folders in the tree that it is run in and
    # takes up what an earlier one has left there.
    source = tmp_path_factory.mktemp("build") / "source"
    shutil.copytree(ROOT, source, ignore=GENERATED)
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "-o", out, cwd=source)
    return out


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_twine_accepts_both_files(built):
    printed = run(
        sys.executable, "-m", "twine", "check", "--strict", *built.iterdir()
    )
    assert printed.count("PASSED") == 2


def test_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = {name for name in names if ".dist-info/" not in name}
    assert package == {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "keras_initx").rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    assert "keras_initx/py.typed" in package
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_sdist_holds_what_the_tests_and_the_documentation_need(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"LICENSE", "Makefile", "pyproject.toml", "setup.py"}
    needed |= {path.name for path in ROOT.glob("*.md")} | {"CITATION.cff"}
    for folder in ("tests", "examples", "benchmarks", "docs"):
        needed |= {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / folder).rglob("*")
            if path.suffix in {".py", ".md", ".ipynb", ".csv", ".png"}
            and ".ipynb_checkpoints" not in path.parts
        }
    assert needed <= names


def test_metadata(metadata):
    assert metadata["Name"] == "keras-initx"
    assert metadata["Version"] == kx.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License-File"] == "LICENSE"
    classifiers = metadata.get_all("Classifier")
    # PyPI refuses license classifiers beside a license expression.
    assert not [text for text in classifiers if text.startswith("License")]
    assert "Typing :: Typed" in classifiers
    minors = {
        int(minor)
        for text in classifiers
        for minor in re.findall(r"^Programming .* 3\.(\d+)$", text)
    }
    low, high = map(
        int,
        re.fullmatch(
            r">=3\.(\d+),<3\.(\d+)", PROJECT["project"]["requires-python"]
        ).groups(),
    )
    assert minors == set(range(low, high))
    assert set(metadata.get_all("Provides-Extra")) == {
        "bench",
        "docs",
        "examples",
        "jax",
        "plot",
        "stable",
        "tensorflow",
        "test",
        "torch",
    }


def test_installing_brings_no_backend(metadata):
    required = {
        re.match(r"[\w-]+", each)[0]: each
        for each in metadata.get_all("Requires-Dist")
        if "extra ==" not in each
    }
    # Another package of TensorFlow may be there, in whose folder a second one
    # would be installed, and setuptools is for TensorFlow Probability alone.
    assert set(required) == {"keras", "numpy", "scipy"}


def test_version_and_date_of_release_are_the_same_everywhere():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(
        r"^## \[?(\d[\w.]*)\]? - (\S+)$", changelog, re.MULTILINE
    )
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    cited = dict(
        re.findall(r'^([\w-]+): "?([^\s"]+)"?$', citation, re.MULTILINE)
    )
    assert newest.group(1) == kx.__version__ == cited["version"]
    assert newest.group(2) == cited["date-released"]
    assert cited["license"] == PROJECT["project"]["license"]


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """Virtual environment that holds the wheel, and sees its dependencies."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python]
    run(*pip, "install", "--no-deps", "--no-index", wheel)
    # Packages of the test environment come after those of the new one. Its own
    # .pth files, by which an editable install works, are not read there.
    site_packages = run(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"
    ).strip()
    (Path(site_packages) / "dependencies.pth").write_text(
        sysconfig.get_path("purelib") + "\n", encoding="utf-8"
    )
    return home


def test_installed_wheel_is_imported_and_typed_and_its_command_runs(
    environment, tmp_path
):
    command = environment / "bin" / "keras-initx"
    # One process for all, because the import of TensorFlow takes seconds.
    code = (
        "import importlib.metadata, pathlib, runpy, sys, keras_initx as kx;"
        "folder = pathlib.Path(kx.__file__).parent;"
        "assert (folder / 'py.typed').is_file();"
        "assert importlib.metadata.version('keras-initx') == kx.__version__;"
        "[getattr(kx, name) for name in kx.__all__];"
        "print(folder);"
        "sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    python = environment / "bin" / "python"
    printed = run(python, "-c", code, command, "list", cwd=tmp_path)
    folder, _, listed = printed.partition("\n")
    assert Path(folder).is_relative_to(environment)
    assert "FractionalMoment" in listed
    # As a program, which needs no TensorFlow for this.
    assert run(command, "--version", cwd=tmp_path).strip() == kx.__version__


def test_type_checker_reads_the_types_of_the_installed_wheel(
    environment, tmp_path
):
    (tmp_path / "user.py").write_text(
        "import keras_initx as kx\n\nkx.theory.fixup_factor(branches='8')\n",
        encoding="utf-8",
    )
    # The types of other packages, which take longer to read, play no part.
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nfollow_imports = silent\n"
        "[mypy-keras.*,matplotlib.*,numpy.*,scipy.*,tensorflow.*]\n"
        "follow_imports = skip\nfollow_imports_for_stubs = true\n"
        "ignore_missing_imports = true\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--python-executable"),
            *(environment / "bin" / "python", "user.py"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert 'error: Argument "branches"' in done.stdout, done
    assert "Found 1 error" in done.stdout


def test_entry_point(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (
            n for n in archive.namelist() if n.endswith("/entry_points.txt")
        )
        text = archive.read(name).decode()
    parsed = configparser.ConfigParser()
    parsed.read_string(text)
    assert dict(parsed["console_scripts"]) == {
        "keras-initx": "keras_initx.cli.main:main"
    }
