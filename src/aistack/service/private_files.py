"""Files of secrets: never half written, never readable by more than their readers."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def write_private(path: Path, content: bytes) -> None:
    """Replaces `path` atomically by a file of mode 0600."""
    _replace(path, content, like=None)


def replace_file(path: Path, content: bytes) -> None:
    """Replaces the existing `path` atomically; owner, group and mode stay."""
    _replace(path, content, like=path.stat())


def open_private(path: str, flags: int) -> int:
    """An opener of new files of mode 0600."""
    return os.open(path, flags, 0o600)


def _replace(path: Path, content: bytes, *, like: os.stat_result | None) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            if like is not None:
                own = os.fstat(handle)
                if (own.st_uid, own.st_gid) != (like.st_uid, like.st_gid):
                    os.fchown(handle, like.st_uid, like.st_gid)
                os.fchmod(handle, stat.S_IMODE(like.st_mode))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
