"""The rooms of the house, and which way the arrows between them run."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import keras_initx as kx

PACKAGE = Path(kx.__file__).parent

# Each room may import the rooms named, and validation.
ARROWS = {
    "_startup": set(),
    "validation": set(),
    "distribute": set(),
    "profile": set(),
    "inspection": set(),
    "theory": {"profile"},
    "distributions": set(),
    "hooks": {"inspection"},
    "initializers": {"distributions", "theory"},
    "constraints": {"theory"},
    "layers": {"constraints", "inspection", "theory"},
    "measurement": {"distribute", "hooks", "inspection", "profile"},
    "initialization": {"initializers", "inspection", "profile"},
    "calibration": {"hooks", "inspection", "measurement", "profile", "theory"},
    "models": {
        "calibration",
        "initialization",
        "initializers",
        "inspection",
        "layers",
        "theory",
    },
    "callbacks": {"distribute", "inspection", "measurement", "profile"},
    "__init__": {
        "_startup",
        "calibration",
        "callbacks",
        "constraints",
        "distribute",
        "distributions",
        "initialization",
        "initializers",
        "inspection",
        "layers",
        "measurement",
        "models",
        "profile",
        "theory",
    },
    "cli": {"__init__", "initializers", "profile", "theory"},
    "__main__": {"cli"},
}
# Each subject of theory may import the subjects named, the record and
# validation.
THEORY_ARROWS = {
    "mean_field": set(),
    "norm_moments": {"mean_field"},
    "residual": {"mean_field"},
    "trained_weights": set(),
    "triangle_waves": set(),
}
THEORY_ARROWS["__init__"] = set(THEORY_ARROWS)
# What theory and the record may not need.
FRAMEWORKS = {"keras", "tensorflow", "tensorflow_probability"}


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_arrows_run_one_way(path):
    here = room(path)
    assert here in ARROWS, "a new room: say in ARROWS what it stands on"
    for name in imports(path):
        first, *rest = name.split(".")
        if first != "keras_initx":
            continue
        there = rest[0] if rest else "__init__"
        if (
            not (PACKAGE / there).exists()
            and not (PACKAGE / f"{there}.py").exists()
        ):
            there = "__init__"
        allowed = ARROWS[here] | {here, "validation"}
        assert there in allowed, f"{here} -> {there}"


@pytest.mark.parametrize("arrows", [ARROWS, THEORY_ARROWS])
def test_there_is_no_circle(arrows):
    done = set()
    while len(done) < len(arrows):
        free = {r for r in arrows if r not in done and arrows[r] <= done}
        assert free, f"a circle among {set(arrows) - done}"
        done |= free


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if room(path) == "theory"],
    ids=lambda path: f"{path.parent.stem}-{path.stem}",
)
def test_arrows_between_subjects_of_theory_run_one_way(path):
    here = path.relative_to(PACKAGE / "theory").parts[0].removesuffix(".py")
    assert here in THEORY_ARROWS, "a new subject: add it to THEORY_ARROWS"
    allowed = THEORY_ARROWS[here] | {here}
    for name in imports(path):
        assert name != "keras_initx.theory", "import from the subject"
        if name.startswith("keras_initx.theory."):
            there = name.split(".")[2]
            assert there in allowed, f"{here} -> {there}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_only_public_names_of_keras_and_tfp(path):
    for name in imports(path):
        assert not name.startswith("keras.src"), name
        assert not name.startswith("tensorflow.python"), name
        assert not name.startswith("tensorflow_probability.python"), name


@pytest.mark.parametrize(
    "path",
    [f for f in FILES if room(f) in {"theory", "profile"}],
    ids=lambda path: path.stem,
)
def test_theory_and_record_know_no_framework(path):
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & FRAMEWORKS


def test_importing_does_not_import_tensorflow_probability():
    code = (
        "import sys, keras_initx.distributions.alpha_stable.sampling; "
        "print([m for m in sys.modules if "
        "m.split('.')[0] in ('tensorflow_probability', 'tf_keras')])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True
    )
    assert loaded.stdout.strip() == b"[]"


def test_every_public_name_has_a_docstring_with_its_source():
    objects = {
        name: getattr(module, name)
        for module in (
            kx,
            kx.theory,
            kx.distributions,
            kx.initializers,
            kx.layers,
            kx.constraints,
            kx.inspection,
            kx.models,
            kx.callbacks,
            kx.distribute,
        )
        for name in module.__all__
        if not isinstance(getattr(module, name), type(kx))
    }
    assert len(objects) >= 8
    for name, thing in objects.items():
        text = thing.__doc__ or ""
        parts = ["Args:", ">>>", "Raises:", "Reference"]
        if isinstance(thing, type) and issubclass(thing, tuple):
            # A record of results, whose function has the rest.
            parts = ["Attributes:"]
        for part in parts:
            assert part in text, f"{name} has no {part!r} in its docstring"
