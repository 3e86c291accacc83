"""Runs the driver's commands as root inside the guest; stdlib alone, one JSON object a line.

Asked {"id", "script", "timeout"}, it answers {"id", "status", "stdout", "stderr"}. A command that
outlives its timeout is killed with its process group and has status 124.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import tty
from typing import Any, BinaryIO

#: Where the container engine puts the driver's socket; another one may be named as the argument.
SOCKET = "/run/host-share/agent.sock"
SERIAL = "/dev/ttyS0"
#: The most of one output that travels.
LIMIT = 8_000_000


def channel() -> tuple[BinaryIO, BinaryIO]:
    """The socket of the container engine, or the serial line of the virtual machine."""
    path = sys.argv[1] if len(sys.argv) > 1 else SOCKET
    if os.path.exists(path):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        return connection.makefile("rb"), connection.makefile("wb")
    line = os.open(SERIAL, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(line)
    return os.fdopen(line, "rb"), os.fdopen(os.dup(line), "wb")


def run(script: str, timeout: float) -> dict[str, Any]:
    """One command of bash; in a file, because an argument holds 128 KiB at most."""
    number = os.memfd_create("script")
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        os.fdopen(number, "wb") as file,
    ):
        file.write(script.encode())
        file.flush()
        process = subprocess.Popen(
            ["/usr/bin/bash", "-euo", "pipefail", f"/dev/fd/{number}"],
            pass_fds=[number],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = 124
        return {"status": status, "stdout": tail(out), "stderr": tail(err)}


def tail(file: BinaryIO) -> str:
    """The end of what a command wrote."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - LIMIT))
    return file.read().decode("utf-8", "replace")


def main() -> None:
    """Serves until the line is closed."""
    reader, writer = channel()

    def send(answer: dict[str, Any]) -> None:
        writer.write(json.dumps(answer).encode() + b"\n")
        writer.flush()

    send({"ready": True})
    for line in reader:
        if not line.strip():
            continue
        request = json.loads(line)
        send({"id": request["id"], **run(request["script"], request["timeout"])})
    sys.exit(0)


if __name__ == "__main__":
    main()
