"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: str | os.PathLike, content: bytes) -> None:
    """Write `content` to `path`; on failure an old file there is as it was."""
    # Through a link, which would else be replaced by the file.
    path = Path(os.path.realpath(path))
    # In the same folder, since only there can a file be moved in one step.
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.chmod(file.name, _mode(path))
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _mode(path: Path) -> int:
    """That of the file in place, or what `open` would give a new one."""
    if path.exists():
        return path.stat().st_mode & 0o777
    # The only way to read it is to set it.
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask
