"""Files of secrets: never half written, never readable by more than their readers."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from aistack.service.errors import StartError

#: What a unit is given in place of a secret whose file was not there (SetCredential= of the NixOS
#: module). Too short for a pepper and no key, so nothing can mistake it for a secret.
MISSING = "missing"


def read_secret(name: str, path: Path, *, fix: str = "give the service read access to it") -> str:
    """The text of a secret's file; `name` is the setting. Raises StartError."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise StartError(f"{name}: {path} cannot be read ({error.strerror}): {fix}") from error
    except UnicodeDecodeError as error:
        raise StartError(f"{name}: {path} is not text: put one line there") from error
    if text in ("", MISSING):
        raise StartError(
            f"{name}: {path} holds no secret: its file was missing or empty when this was started;"
            " put it there (`journalctl -u aistack-secrets` names one that was given;"
            " `systemctl restart aistack-secrets` makes one that was not)"
        )
    return text


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
