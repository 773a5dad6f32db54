"""An error of Keras, TensorFlow or ours as a line that a person can read."""

from __future__ import annotations

import re

MOST_CHARACTERS = 275
# They tell where in their own code, and recite all that they were given; what
# went wrong stands between. These are cut out, one after the other.
_RECITED = [
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


def one_line(error: BaseException) -> str:
    """What an error says, in one line of at most `MOST_CHARACTERS`."""
    text = str(error)
    for recited in _RECITED:
        text = recited.sub("", text)
    text = re.sub(r"\[\[\{\{node (.*?)\}\}\]\]", r"at \1", text)
    text = re.sub(r"\s+", " ", text).strip() or type(error).__name__
    if len(text) > MOST_CHARACTERS:
        text = text[: MOST_CHARACTERS - 4].rsplit(" ", 1)[0] + " ..."
    return text
