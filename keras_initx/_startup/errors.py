"""Shortens errors of Keras, TensorFlow and this package to one line."""

from __future__ import annotations

import re

MAX_CHARACTERS = 275
# Keras and TensorFlow write around the cause of an error where in their code
# it occurred and all arguments. These patterns are deleted one after the other.
_NOISE = [
    re.compile(pattern, re.DOTALL | re.MULTILINE)
    for pattern in (
        r"\x1b\[[0-9;]*m",
        r"\A.*Exception encountered: ",
        r"Exception encountered when calling [^\n]*\n",
        r"\A.*Detected at node [^\n]*\n",
        r"^ *File \"[^\n]*\n",
        r"Arguments received by .*\Z",
        r"Full object config: .*\Z",
        r"\[Op:[^\]]*\]|\{\{function_node [^}]*\}\}",
    )
]


def one_line(error: BaseException | str) -> str:
    """Returns the cause of an error in at most `MAX_CHARACTERS` characters."""
    text = str(error)
    for pattern in _NOISE:
        text = pattern.sub("", text)
    text = re.sub(r"\[\[\{\{node (.*?)\}\}\]\]", r"at \1", text)
    text = re.sub(r"\s+", " ", text).strip() or type(error).__name__
    if len(text) > MAX_CHARACTERS:
        text = text[: MAX_CHARACTERS - 4].rsplit(" ", 1)[0] + " ..."
    return text
