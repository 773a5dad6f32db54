"""A griffe extension: doctests as code, and functions named as their modules.

Docstrings show doctests below `Example:` without indentation and without
fences, as Keras's do. Markdown takes them for quotations.
"""

import re

import griffe

_DOCTEST = re.compile(r"^( *)>>> ")
_HEADING = re.compile(r"^(Example:|Reference:)(?=\s|$)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Prepares what griffe has read for the reference pages."""

    def on_object(self, *, obj, **kwargs):
        """Puts doctests into fences, and marks headings."""
        if obj.docstring:
            text = fenced_doctests(obj.docstring.value)
            obj.docstring.value = marked_headings(text)

    def on_package(self, *, pkg, **kwargs):
        """Resolves `keras_initx.measure` to the function.

        griffe finds the module `measurement.measure`, since it looks for
        modules before it looks at imports. Python finds the function, which
        the package imports from there.
        """
        for name, member in list(pkg.members.items()):
            prefix = f"{pkg.name}."
            if not member.is_alias or not member.target_path.startswith(prefix):
                continue
            *path, last = member.target_path.removeprefix(prefix).split(".")
            found = pkg[".".join(path)].members[last] if path else member
            if not found.is_alias and found.is_module:
                function = found.members[last]
                pkg.members[name] = griffe.Alias(name, function, parent=pkg)


def marked_headings(text):
    """The text, with `Example:` and `Reference:` as mkdocstrings' headings."""
    return _HEADING.sub(r'<span class="doc-section-title">\1</span>', text)


def fenced_doctests(text):
    """The text, with each block of doctests between two fences."""
    lines, indent = [], None
    for line in text.splitlines():
        match = _DOCTEST.match(line)
        if match and indent is None:
            indent = match.group(1)
            lines.append(f"{indent}```pycon")
        elif indent is not None and not line.strip():
            lines.append(f"{indent}```")
            indent = None
        lines.append(line)
    if indent is not None:
        lines.append(f"{indent}```")
    return "\n".join(lines)
