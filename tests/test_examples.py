"""Examples run from top to bottom, and README says nothing that does not."""

import os
import re
import shlex
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_is_kept_with_its_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    kept = [output for cell in code for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in kept)
    assert not any(output.output_type == "error" for output in kept)
    # Raises at the first cell that does.
    NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}}
    ).execute()
    printed = "".join(
        output.text
        for cell in code
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stdout"
    )
    if ".table(" in "".join(cell.source for cell in code):
        # A table is text, in a notebook too.
        assert re.search(
            r"sample variance +squared mean +decay|spread +forward", printed
        )


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_readme_python_runs(tmp_path, monkeypatch):
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    names = {}
    assert len(blocks("python")) >= 3
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)


def test_readme_commands_exist():
    from keras_initx.__main__ import parser

    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lines = [line for b in blocks("sh") for line in b.splitlines() if line]
    known = 0
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), line
        elif words[:1] == ["keras-initx"]:
            parser().parse_args(words[1:])
        elif words[:1] == ["python"]:
            assert (ROOT / words[1]).exists(), line
        else:
            assert words[:2] == ["pip", "install"], line
        known += 1
    assert known >= 5


def test_nothing_names_a_machine():
    for path in [*ROOT.glob("*.md"), *NOTEBOOKS]:
        text = path.read_text(encoding="utf-8")
        assert str(Path.home()) + os.sep not in text, path
