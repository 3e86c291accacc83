"""Stands before and behind llama-server in its unit.

    llama-guard.py serve --name NAME --model FILE --socket PATH -- llama-server ARGUMENT…
    llama-guard.py wait|watch --socket PATH --seconds N

`serve` looks at the model, and becomes the server. A model that cannot work ends it with one line
and status 78, which the unit does not try again. `wait` returns when the server answers 200 to
/health: llama-server does not tell systemd by itself that it is ready. `watch` does so behind the
unit's start, which does not wait for it, and kills a server that is not ready in time; systemd
starts it again. Standard library alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import NoReturn

WRONG = 78
MAGIC = b"GGUF"
POINTER = b"version https://git-lfs"
HEALTH = b"GET /health HTTP/1.1\r\nHost: llama\r\nConnection: close\r\n\r\n"


def fault(model: Path, name: str) -> str | None:
    """Why this file cannot be served, and what to do; None when it can."""
    option = f"services.aistack.llama.instances.{name}.model"
    try:
        with model.open("rb") as file:
            beginning = file.read(64)
    except FileNotFoundError:
        return f"no model at {model}: put the file there, or set {option}"
    except IsADirectoryError:
        return f"{model} is a directory: name the GGUF file in {option}"
    except OSError as error:
        return f"{model} cannot be read ({error.strerror}): make it readable by everybody"
    if beginning.startswith(POINTER):
        return f"{model} is a Git LFS pointer, not the model: fetch the file itself (git lfs pull)"
    if not beginning.startswith(MAGIC):
        return f"{model} is not a GGUF file: llama.cpp reads no other kind; set {option}"
    return None


def serve(address: Path, command: list[str]) -> NoReturn:
    """Become the server."""
    with contextlib.suppress(FileNotFoundError):
        address.unlink()  # left by one that was killed; the next cannot bind to it
    os.execv(command[0], command)


def health(address: Path) -> int | None:
    """The status of /health: 200 ready, 503 loading; None when nobody answers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        try:
            connection.connect(str(address))
            connection.sendall(HEALTH)
            words = connection.recv(64).split(None, 2)
        except OSError:
            return None
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else None


def wait(address: Path, seconds: float, process: int | None) -> int:
    """Return 0 when the server is ready; else one line and 1."""
    end = time.monotonic() + seconds
    found = health(address)
    while found != 200:
        if process is not None and not runs(process):
            say("the server ended before it was ready: its own lines above say why")
            return 1
        if time.monotonic() > end:
            doing = "still loads the model" if found == 503 else "does not answer"
            say(f"the server {doing} after {seconds:.0f} s: raise startTimeout of the instance")
            return 1
        time.sleep(0.1)
        found = health(address)
    return 0


def watch(address: Path, seconds: float, process: int) -> int:
    """Return at once; a child waits, and kills a process that is not ready in time."""
    if os.fork() != 0:
        return 0
    if wait(address, seconds, process) != 0:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    os._exit(0)


def runs(process: int) -> bool:
    """Whether a process is there. Its /proc entry cannot be asked: ProtectProc= hides it."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def say(line: str) -> None:
    """One line for the journal."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def main(words: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="llama-guard")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("serve")
    one.add_argument("--name", required=True)
    one.add_argument("--model", required=True, type=Path)
    one.add_argument("--socket", required=True, type=Path)
    one.add_argument("server", nargs="+")
    for name in ("wait", "watch"):
        one = commands.add_parser(name)
        one.add_argument("--socket", required=True, type=Path)
        one.add_argument("--seconds", required=True, type=float)
    given = parser.parse_args(words)
    if given.command == "serve":
        line = fault(given.model, given.name)
        if line is not None:
            say(line)
            return WRONG
        serve(given.socket, given.server)
    main_process = os.environ.get("MAINPID", "")
    if given.command == "watch":
        return watch(given.socket, given.seconds, int(main_process))
    return wait(given.socket, given.seconds, int(main_process) if main_process else None)


if __name__ == "__main__":
    sys.exit(main())
