"""What MkDocs runs while it builds the site: notebooks, and formulas as MathML.

Notebooks become pages with the outputs they were saved with; none is executed.
Formulas become MathML, which browsers draw themselves, so that the site needs
no script from the network.
"""

import base64
import json
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

NOTEBOOKS = Path(__file__).parents[1] / "examples"


def on_files(files, config):
    """Adds a page with figures for each notebook, and a figure of a guide."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        page, figures = markdown_of(notebook, path.stem)
        files.append(
            File.generated(config, f"notebooks/{path.stem}.md", content=page)
        )
        for name, figure in figures.items():
            files.append(
                File.generated(config, f"notebooks/{name}", content=figure)
            )
    files.append(
        File.generated(
            config,
            "notebooks/tensorboard.png",
            content=(NOTEBOOKS / "tensorboard.png").read_bytes(),
        )
    )
    return files


def on_page_markdown(markdown, page, config, files):
    """Replaces links to the notebooks and figures of `examples/`.

    The sources of the pages link to the files in the repository, and the site
    has a page or a copy of each in `notebooks/`.
    """
    return re.sub(
        r"\]\(\.\./((?:\.\./)*)examples/(\w+)\.(ipynb|png)\b",
        lambda match: (
            f"]({match[1]}notebooks/{match[2]}."
            + ("md" if match[3] == "ipynb" else "png")
        ),
        markdown,
    )


def markdown_of(notebook, stem):
    """Markdown of a notebook with its outputs, and its figures by name."""
    parts, figures = [], {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(fenced(source, "python"))
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{stem}_{len(figures)}.png"
                figures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![Figure {len(figures)}]({name})")
            elif output["output_type"] == "stream":
                text = "".join(output["text"]).strip("\n")
                parts.append(fenced(text, "text"))
            else:
                text = "".join(data["text/plain"])
                parts.append(fenced(text, "text"))
        note = f"The notebook is `examples/{stem}.ipynb` in the repository."
    return "\n\n".join([*parts, note, ""]), figures


def fenced(text, language):
    """A block of code in Markdown."""
    return f"```{language}\n{text}\n```"


def on_page_content(html, page, config, files):
    """Replaces each formula that arithmatex marked by MathML."""
    html = re.sub(
        r'<span class="arithmatex">\\\((.*?)\\\)</span>',
        lambda match: convert(unescaped(match.group(1))),
        html,
        flags=re.DOTALL,
    )
    html = re.sub(
        r'<div class="arithmatex">\\\[(.*?)\\\]</div>',
        lambda match: convert(unescaped(match.group(1)), display="block"),
        html,
        flags=re.DOTALL,
    )
    return html


def unescaped(text):
    """LaTeX as it was written, before it became HTML."""
    for entity, sign in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        text = text.replace(entity, sign)
    return text.strip()
