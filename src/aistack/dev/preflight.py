"""What can be known to fail before anything is started, each in one line."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import IO

from aistack.service.errors import StartError

#: A new database takes 60 MB, its log of changes up to 512 MB; below this it is not worth starting.
LEAST_FREE_BYTES = 500_000_000
_BACKLOG = 2048


def check_data_directory(data: Path, *, least_free: int = LEAST_FREE_BYTES) -> None:
    """Make the data directory if need be, and try it. Raises StartError."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data) as probe:
            probe.write(b"x")
            probe.flush()
    except FileExistsError as error:
        raise StartError(f"{data} is not a directory: choose another with --data-dir") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StartError(_full(data, 0, least_free)) from error
        raise StartError(
            f"{data} cannot be written ({error.strerror}): choose another with --data-dir"
        ) from error
    free = shutil.disk_usage(data).free
    if free < least_free:
        raise StartError(_full(data, free, least_free))


def _full(data: Path, free: int, least_free: int) -> str:
    return (
        f"the disk of {data} is full: {free // 1_000_000} MB are free and"
        f" {least_free // 1_000_000} MB are needed; free some space or choose another --data-dir"
    )


def lock_data_directory(lock: Path) -> IO[str]:
    """Take the lock of a data directory; it is held until the file is closed. Raises StartError.

    A flock, which the kernel drops with the process: no stale lock can be left.
    """
    handle = open(lock, "a+", encoding="ascii")  # noqa: SIM115 - held for the life of the stack
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.seek(0)
        holder = handle.read().strip() or "unknown"
        handle.close()
        raise StartError(
            f"a stack already runs on {lock.parent} (process {holder}):"
            " stop it, or choose another --data-dir"
        ) from None
    handle.seek(0)
    handle.truncate()
    handle.write(f"{os.getpid()}\n")
    handle.flush()
    return handle


def open_port(port: int, *, host: str = "127.0.0.1") -> socket.socket:
    """Listen on `port` (0: one that is free). Raises StartError."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listening.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise StartError(
                f"port {port} is taken: stop what listens there, or choose another with --port"
                " (0 takes a free one)"
            ) from error
        reason = error.strerror if isinstance(error, OSError) else "not a port"
        raise StartError(
            f"port {port} cannot be opened ({reason}): choose another with --port"
        ) from error
    listening.setblocking(False)
    return listening


def open_unix(path: Path) -> socket.socket:
    """Listen on a unix socket that only its owner may use."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listening.bind(str(path))
    finally:
        os.umask(before)
    listening.listen(_BACKLOG)
    listening.setblocking(False)
    return listening
