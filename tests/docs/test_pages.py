"""Pages of the documentation: their code runs, their links lead somewhere."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest

import keras_initx as kx

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
TEXTS = [*sorted(ROOT.glob("*.md")), ROOT / "examples" / "README.md", *PAGES]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.M)


def text_of(path):
    """Markdown of a page, or of all text cells of a notebook."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(c.source for c in cells if c.cell_type == "markdown")


def prose_of(path):
    """The page without code, in which brackets are no links."""
    text = re.sub(r"^```.*?^```", "", text_of(path), flags=re.DOTALL | re.M)
    return re.sub(r"`[^`\n]*`", "code", text)


# The code of each page that has some.
CODE = {
    path: blocks(text_of(path), "python")
    for path in [ROOT / "README.md", *PAGES]
    if blocks(text_of(path), "python")
}


def starts_another(path):
    """Whether the code is that with which another page begins."""
    return any(
        other != path and code[: len(CODE[path])] == CODE[path]
        for other, code in CODE.items()
    )


def test_the_guides_and_readme_have_code():
    guides = {p for p in (DOCS / "guides").glob("*.md") if p.stem != "index"}
    assert guides <= set(CODE)
    assert len(CODE[ROOT / "README.md"]) >= 3


def test_code_on_two_pages_runs_once():
    runs = [path for path in CODE if not starts_another(path)]
    assert {block for path in runs for block in CODE[path]} == {
        block for code in CODE.values() for block in code
    }


# What takes seconds at the size of a page, and does the same at another one.
SIZES = {
    r"DEPTH, WIDTH = 30, \d+": "DEPTH, WIDTH = 6, 16",
    r"DEPTH, WIDTH = 16, 32": "DEPTH, WIDTH = 6, 16",
    r"range\((30|50)\)": "range(5)",
    r"range\(10\)(?=\n    \]\n    \+ \[keras.layers.Dense\(1\))": "range(5)",
    # Fewer layers of this network have no fault.
    r"range\(25\)": "range(15)",
    r"networks=400": "networks=20",
    r"Dense\(512,": "Dense(64,",
    r"LSTM\(256": "LSTM(16",
}


def at_a_small_size(code):
    for pattern, small in SIZES.items():
        code = re.sub(pattern, small, code)
    return code


@pytest.mark.parametrize("pattern", SIZES)
def test_sizes_are_those_of_a_page(pattern):
    assert any(re.search(pattern, block) for b in CODE.values() for block in b)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [path for path in CODE if not starts_another(path)], ids=name_of
)
def test_code_of_a_page_runs(path, tmp_path, monkeypatch):
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    # A class that a page registers with Keras finds its module by this name.
    names = {"__name__": f"page_{path.stem.replace('-', '_')}"}
    for block in CODE[path]:
        exec(compile(at_a_small_size(block), name_of(path), "exec"), names)


def links(text):
    """Targets of the links and images of a Markdown text."""
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(path):
    """Anchors of the headings of a page, and of what its directives name."""
    text = re.sub(r"^```.*?^```", "", text_of(path), flags=re.DOTALL | re.M)
    found = {
        re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())
        for title in re.findall(r"^#+ (.+)$", text, re.M)
    }
    return found | set(re.findall(r"^::: (\S+)", text, re.M))


@pytest.mark.parametrize("path", [*TEXTS, *NOTEBOOKS], ids=name_of)
def test_links_lead_somewhere(path):
    for link in links(prose_of(path)):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme in {"https", "http"}, link
            assert re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc), link
            continue
        target = (path.parent / parts.path).resolve() if parts.path else path
        assert target.exists(), link
        if parts.fragment:
            assert parts.fragment in anchors(target), link


def public_modules():
    return {
        "keras_initx": kx,
        **{
            f"keras_initx.{name}": getattr(kx, name)
            for name in kx.__all__
            if isinstance(getattr(kx, name), type(kx))
        },
    }


def documented_names():
    text = "\n".join(text_of(p) for p in (DOCS / "api").rglob("*.md"))
    return re.findall(r"^::: (\S+)", text, re.M)


def test_no_name_is_documented_twice():
    names = documented_names()
    assert len(names) == len(set(names))


@pytest.mark.parametrize("module", sorted(public_modules()))
def test_every_public_name_is_in_the_reference(module):
    documented = set(documented_names())
    if module == "keras_initx.theory":
        # They are documented where they are defined, one level below.
        documented = {re.sub(r"(theory)\.\w+\.", r"\1.", n) for n in documented}
    values = vars(public_modules()[module])
    public = {
        f"{module}.{name}"
        for name in public_modules()[module].__all__
        if not isinstance(values.get(name), type(kx))
    }
    assert public - documented == set()


def test_the_reference_documents_nothing_else():
    for name in documented_names():
        thing = kx
        for part in name.split(".")[1:]:
            assert part in thing.__all__, name
            thing = getattr(thing, part)


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_commands_of_a_page_exist(path):
    text = text_of(path)
    for script in re.findall(
        r"python ((?:benchmarks|examples)/\S+?\.py)", text
    ):
        assert (ROOT / script).is_file(), script


def test_every_benchmark_has_its_command_on_the_benchmarks_page():
    text = text_of(DOCS / "benchmarks.md")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    # The other two are modules that the scripts import.
    for path in (ROOT / "benchmarks").glob("*.py"):
        if path.stem not in {"paired", "report"}:
            assert f"python benchmarks/{path.name}" in text, path.name
            assert f"python benchmarks/{path.name}" in makefile, path.name


def test_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
