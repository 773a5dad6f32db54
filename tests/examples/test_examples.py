"""Tests that the notebooks run, and that the commands in README exist."""

import json
import os
import re
import shlex
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers import processes

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
SMALL = "KERAS_INITX_SMALL"
INSTALL = """\
import importlib.util

if importlib.util.find_spec("keras_initx") is None:
    %pip install --quiet "keras-initx[examples]\""""


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_of(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_notebook_has_the_head_of_keras_io(notebook):
    head = re.fullmatch(
        r"# \S.*\n\n"
        r"\*\*Author:\*\* keras_initx contributors<br>\n"
        r"\*\*Date created:\*\* (\d{4}/\d\d/\d\d)<br>\n"
        r"\*\*Last modified:\*\* (\d{4}/\d\d/\d\d)<br>\n"
        r"\*\*Description:\*\* \S.*<br>\n"
        r"\*\*Accelerator:\*\* (None|GPU|TPU)",
        notebook.cells[0].source,
    )
    assert head, notebook.cells[0].source
    created, modified, _ = head.groups()
    assert created <= modified


def test_notebook_installs_the_package_first(notebook):
    first = next(
        k for k, cell in enumerate(notebook.cells) if cell.cell_type == "code"
    )
    assert notebook.cells[first - 1].source.startswith("## Setup")
    assert notebook.cells[first].source == INSTALL


def test_notebook_has_small_sizes(notebook):
    source = "\n".join(cell.source for cell in code_of(notebook))
    assert source.count(f'SMALL = bool(os.environ.get("{SMALL}"))') == 1
    assert " if SMALL else " in source


def test_notebook_is_kept_with_its_outputs(notebook):
    kept = [output for cell in code_of(notebook) for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in kept)
    assert not any(output.output_type == "error" for output in kept)
    # Messages of libraries contain names of machines and times.
    assert not any(output.get("name") == "stderr" for output in kept)


RUN_KERNEL = "from ipykernel import kernelapp; kernelapp.launch_new_instance()"


@pytest.fixture(scope="module")
def forked_kernel(tmp_path_factory):
    """Name of a kernel of IPython in a process that has imported Keras."""
    name = "forked"
    folder = tmp_path_factory.mktemp("jupyter")
    spec = {
        "argv": [
            *processes.forked_python(),
            *("-c", RUN_KERNEL, "-f", "{connection_file}"),
        ],
        "display_name": name,
        "language": "python",
    }
    file = folder / "kernels" / name / "kernel.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(spec), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        yield name


@pytest.fixture(scope="module")
def client(forked_kernel):
    """Runs cells in one kernel for all notebooks: TensorFlow starts once."""
    client = NotebookClient(
        nbformat.v4.new_notebook(),
        kernel_name=forked_kernel,
        timeout=1800,  # For a kernel that hangs.
        resources={"metadata": {"path": str(ROOT)}},
    )
    environment = {**os.environ, **processes.QUICK_XLA, SMALL: "1"}
    with client.setup_kernel(env=environment):
        yield client


# Graphs are not optimized, which takes longer than it saves at small sizes,
# and the collections of `%reset` and Keras pass over what is there already.
FORGET = """\
import gc

gc.freeze()
%reset -f in out
import keras, matplotlib.pyplot, tensorflow
from tests.helpers import stacks

stacks.keep_one_stack()
keras.utils.clear_session()
keras.config.set_dtype_policy("float32")
matplotlib.pyplot.close("all")
tensorflow.config.optimizer.set_experimental_options(
    {"disable_meta_optimizer": True}
)
%reset -f"""


@pytest.mark.slow
@pytest.mark.isolated
def test_small_notebook_runs(notebook, client):
    # Without the names that another notebook has defined or imported.
    notebook.cells.insert(0, nbformat.v4.new_code_cell(FORGET))
    client.nb = notebook
    client.reset_execution_trackers()
    for index, cell in enumerate(notebook.cells):
        client.execute_cell(cell, index)  # Raises what the cell does.
    _, install, *code = code_of(notebook)
    assert not install.outputs
    printed = "".join(
        output.text
        for cell in code
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stdout"
    )
    if ".table(" in "".join(cell.source for cell in code):
        # Also in a notebook, a table is text.
        assert re.search(
            r"squared mean +total +(expected total +)?sample fraction"
            r"|spread +forward",
            printed,
        )


def test_readme_commands_exist():
    from keras_initx._startup.arguments import parser

    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line for b in blocks for line in b.splitlines() if line]
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
