"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_whole(path: str | os.PathLike, content: bytes) -> None:
    """Write `content` to `path`; on failure an old file there is as it was."""
    # Through a link, which would else be replaced by the file.
    path = Path(os.path.realpath(path))
    # In the same folder, since only there can a file be moved in one step.
    new = path.with_name(f".{uuid.uuid4().hex}")
    try:
        # Of the mode that every new file has, or else that of the old one.
        with open(new, "xb") as file:
            file.write(content)
        if path.exists():
            os.chmod(new, path.stat().st_mode & 0o777)
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
