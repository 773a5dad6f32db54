"""theory: the names of its subjects, and what its files import."""

import ast
import sys
from pathlib import Path

import pytest

import keras_initx as kx
from keras_initx import theory

SUBJECTS = (
    "mean_field",
    "norm_moments",
    "parametrization",
    "residual",
    "sinusoidal",
    "trained_weights",
    "triangle_waves",
)
FILES = sorted(Path(theory.__file__).parent.rglob("*.py"))


def test_names_of_theory_are_those_of_its_subjects():
    names = list(SUBJECTS)
    for subject in SUBJECTS:
        module = getattr(theory, subject)
        assert sorted(module.__all__) == sorted(set(module.__all__))
        names += module.__all__
        for name in module.__all__:
            assert getattr(theory, name) is getattr(module, name)
    assert sorted(theory.__all__) == sorted(names)
    assert len(names) == len(set(names)), "two subjects share a name"


@pytest.mark.parametrize("subject", SUBJECTS)
def test_docstring_of_a_subject_names_its_functions(subject):
    module = getattr(kx.theory, subject)
    functions = [
        name
        for name in module.__all__
        if not isinstance(getattr(module, name), type)
    ]
    assert len(functions) >= 3
    for name in functions:
        assert f"`{name}`" in module.__doc__


def test_theory_imports_numpy_and_scipy_alone():
    allowed = {*sys.stdlib_module_names, "numpy", "scipy"}
    assert len(FILES) > 20
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module]
            else:
                continue
            for module in modules:
                assert (
                    module.split(".")[0] in allowed
                    or module
                    in ("keras_initx.profile", "keras_initx.validation")
                    or module.startswith("keras_initx.theory")
                ), f"{path.name} imports {module}"
