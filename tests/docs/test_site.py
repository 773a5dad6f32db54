"""The documentation site, as `make docs` builds it."""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]


def module_of_docs(name):
    """A module of the folder docs, which is no package."""
    path = ROOT / "docs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"docs_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Page(HTMLParser):
    """Anchors, links, and what a browser loads to show the page."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.loaded, self.classes = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors |= {attributes.get("id"), attributes.get("name")}
        self.classes += (attributes.get("class") or "").split()
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag == "link" and attributes.get("rel") != "canonical":
            self.loaded.append(attributes["href"])
        if attributes.get("src"):
            self.loaded.append(attributes["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mkdocs", "build", "--strict"),
            *("--site-dir", str(folder)),
        ],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    assert "WARNING" not in printed, printed
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {
        path: Page(path.read_text(encoding="utf-8"))
        for path in site.rglob("*.html")
    }


@pytest.mark.slow
@pytest.mark.isolated
class TestSite:
    def test_it_has_a_page_for_each_source_and_each_notebook(self, site):
        sources = {
            path.relative_to(ROOT / "docs").with_suffix(".html")
            for path in (ROOT / "docs").rglob("*.md")
        } | {
            Path("notebooks") / f"{path.stem}.html"
            for path in (ROOT / "examples").glob("*.ipynb")
        }
        built = {path.relative_to(site) for path in site.rglob("*.html")}
        assert sources == built - {Path("404.html")}

    def test_internal_links_and_anchors_exist(self, site, pages):
        for path, page in pages.items():
            if path.name == "404.html":
                # It is served from any folder, so its links are absolute.
                continue
            for link in [*page.links, *page.loaded]:
                parts = urlsplit(link)
                if parts.scheme:
                    continue
                target = path
                if parts.path:
                    target = (path.parent / unquote(parts.path)).resolve()
                if target.is_dir():
                    target /= "index.html"
                assert target.is_file(), f"{path.name}: {link}"
                if parts.fragment and target in pages:
                    anchor = unquote(parts.fragment)
                    known = pages[target].anchors
                    assert anchor in known, f"{path.name}: {link}"

    def test_nothing_is_loaded_from_the_network(self, site, pages):
        for path, page in pages.items():
            outside = [link for link in page.loaded if urlsplit(link).netloc]
            assert not outside, path.name
        for path in site.rglob("*.css"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", text)

    def test_formulas_are_drawn_without_a_script(self, pages):
        texts = {p.name: p.read_text(encoding="utf-8") for p in pages}
        assert "<math" in texts["resnet_scaling.html"]
        for page in pages.values():
            assert "arithmatex" not in page.classes

    def test_doctests_are_shown_as_code(self, site):
        for path in (site / "api").rglob("*.html"):
            text = path.read_text(encoding="utf-8")
            # Markdown makes a quotation of a line that begins with ">".
            assert "<blockquote>" not in text, path.name


def test_doctests_get_fences():
    text = "Example:\n\n>>> 1 + 1\n2\n\nReference: none."
    assert module_of_docs("docstrings").fenced_doctests(text) == (
        "Example:\n\n```pycon\n>>> 1 + 1\n2\n```\n\nReference: none."
    )


def test_headings_are_marked():
    text = "Example:\n\n1\n\nReference: A.\nNo Reference: here"
    example, reference = (
        f'<span class="doc-section-title">{word}:</span>'
        for word in ("Example", "Reference")
    )
    assert module_of_docs("docstrings").marked_headings(text) == (
        f"{example}\n\n1\n\n{reference} A.\nNo Reference: here"
    )


@pytest.mark.parametrize("text", ["No code here.", "a >>> b", ""])
def test_text_without_doctests_is_left_as_it_is(text):
    assert module_of_docs("docstrings").fenced_doctests(text) == text


def test_a_notebook_becomes_markdown_with_its_outputs():
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["one\n", "two\n"]},
        {
            "output_type": "display_data",
            "data": {"image/png": "AAEC\n", "text/plain": ["<Figure>"]},
        },
        {"output_type": "execute_result", "data": {"text/plain": ["3"]}},
    ]
    notebook = {
        "cells": [
            {"cell_type": "markdown", "source": ["# Title\n", "text"]},
            {"cell_type": "code", "source": ["f()"], "outputs": outputs},
        ]
    }
    page, figures = module_of_docs("hooks").markdown_of(notebook, "name")
    assert figures == {"name_0.png": b"\x00\x01\x02"}
    assert page.startswith(
        "# Title\ntext\n\n```python\nf()\n```\n\n```text\none\ntwo\n```\n\n"
        "![Figure 1](name_0.png)\n\n```text\n3\n```\n\n"
    )


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("../examples/calibrate.ipynb", "notebooks/calibrate.md"),
        ("../../examples/calibrate.ipynb", "../notebooks/calibrate.md"),
        ("../../examples/board.png", "../notebooks/board.png"),
        ("../../examples/README.md", "../../examples/README.md"),
        ("calibrate.md#cost", "calibrate.md#cost"),
    ],
)
def test_links_to_notebooks_become_links_to_their_pages(link, expected):
    markdown = module_of_docs("hooks").on_page_markdown(
        f"A [link]({link}).", page=None, config=None, files=None
    )
    assert markdown == f"A [link]({expected})."


def test_formulas_become_mathml():
    html = module_of_docs("hooks").on_page_content(
        r'<p><span class="arithmatex">\(a &lt; b^2\)</span></p>'
        r'<div class="arithmatex">\[c\]</div>',
        page=None,
        config=None,
        files=None,
    )
    assert html.count("<math") == 2 and "arithmatex" not in html
    assert "<msup>" in html and 'display="block"' in html
