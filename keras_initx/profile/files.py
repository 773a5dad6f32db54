"""Writes files so that a failure leaves the old content in place."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_whole(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file; if that fails, an existing file is unchanged.

    Args:
        path: str or path-like. The file. A symbolic link is followed.
        content: bytes. The new content.
    """
    # os.replace would replace a symbolic link itself.
    path = Path(os.path.realpath(path))
    # A file can be moved in one step only within its folder.
    new = path.with_name(f".{uuid.uuid4().hex}")
    try:
        # A new file gets the default mode; an old file keeps its mode.
        with open(new, "xb") as file:
            file.write(content)
        if path.exists():
            os.chmod(new, path.stat().st_mode & 0o777)
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
