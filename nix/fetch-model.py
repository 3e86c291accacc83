"""Downloads one file and puts it in place only when its SHA-256 is right.

    fetch-model.py --url URL --hash sha256-… --to FILE [--size BYTES]

The unit aistack-model-<instance> runs it. What has arrived stays in FILE.part, and the next try or
the next start goes on from there. A file that is in place is not hashed again while its size and
time are those that were verified. Standard library alone.

Exit status: 0 the file is there; 75 try again later (network, server, disk); 78 it cannot work as
configured (wrong hash, no such file), so that systemd does not ask again and again.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

TRY_LATER = 75
WRONG = 78
BLOCK = 1 << 20
#: Bytes that stay free on the disk.
SPARE = 64 << 20
#: Answers below 500 that pass by themselves.
PASSING = {408, 423, 425, 429}


class Stop(Exception):
    """Ends the download with one line and an exit status."""

    def __init__(self, line: str, status: int) -> None:
        super().__init__(line)
        self.status = status


class Again(Exception):
    """This try failed; the next may not. `after` is the server's wish in seconds."""

    def __init__(self, line: str, after: float | None = None) -> None:
        super().__init__(line)
        self.after = after


@dataclass(slots=True)
class Download:
    """One file: where from, where to, and how to wait between tries."""

    url: str
    sha256: str
    target: Path
    size: int | None = None
    tries: int = 8
    pause: float = 1.0
    longest_pause: float = 120.0
    stall: float = 60.0
    _shown: float = field(default=0.0, init=False)

    @property
    def part(self) -> Path:
        """What has arrived so far."""
        return self.target.with_name(self.target.name + ".part")

    @property
    def mark(self) -> Path:
        """What was verified: hash, size and time of the file in place."""
        return self.target.with_name(self.target.name + ".verified")

    def run(self) -> None:
        """Return when the file is in place. Raises Stop."""
        if self.in_place():
            return
        leftover = self._arrived() > 0
        digest = self._persist()
        if digest != self.sha256 and leftover:
            say("what an earlier start had left is not a beginning of this file: it begins anew")
            self.part.unlink()
            digest = self._persist()
        if digest != self.sha256:
            self.part.unlink()
            raise Stop(
                f"{self.url} gives another file than the configured one: its hash is {sri(digest)},"
                f" wanted is {sri(self.sha256)}. It was removed",
                WRONG,
            )
        self.part.chmod(0o444)
        self.part.replace(self.target)
        self._remember()
        self.tidy()

    def _persist(self) -> str:
        """Try until everything has arrived; its hash. Raises Stop."""
        failures = 0
        while True:
            before = self._arrived()
            try:
                return self.attempt()
            except Again as failure:
                # Progress starts the count anew: a long download may be cut many times.
                failures = 1 if self._arrived() > before else failures + 1
                if failures >= self.tries:
                    raise Stop(f"{failure}; {failures} tries without progress", TRY_LATER) from None
                pause = min(self.longest_pause, self.pause * 2 ** (failures - 1))
                pause = max(pause * random.uniform(0.75, 1.25), failure.after or 0.0)
                say(f"{failure}; the next try is in {pause:.0f} s")
                time.sleep(pause)

    def in_place(self) -> bool:
        """Whether the wanted file is there; one that is not it is removed."""
        try:
            found = self.target.stat()
        except FileNotFoundError:
            return False
        known = {"sha256": self.sha256, "size": found.st_size, "mtime": found.st_mtime_ns}
        with contextlib.suppress(OSError, ValueError):
            if json.loads(self.mark.read_text()) == known:
                return True
        status("hashing the file that is there")
        digest = hashlib.sha256()
        for block in blocks(self.target):
            digest.update(block)
        if digest.hexdigest() == self.sha256:
            self._remember()
            return True
        say(f"{self.target} is not the configured file (hash {sri(digest.hexdigest())}): removed")
        self.target.unlink()
        return False

    def attempt(self) -> str:
        """One connection, from where the last broke off; the hash of the whole. Raises Again."""
        digest = hashlib.sha256()
        arrived = self._arrived()
        request = urllib.request.Request(self.url, headers={"User-Agent": "aistack"})
        if arrived:
            request.add_header("Range", f"bytes={arrived}-")
        try:
            with urllib.request.urlopen(request, timeout=self.stall) as answer:
                if arrived and answer.status != 206:
                    arrived = 0  # the server begins at the beginning
                total = self._total(answer, arrived)
                self._room(total, arrived)
                if arrived:
                    self._continue(digest)
                self._receive(answer, arrived, total, digest)
        except urllib.error.HTTPError as error:
            whole = error.headers.get("Content-Range", "") == f"bytes */{arrived}"
            if not (error.code == 416 and arrived and whole):
                self._refused(error, arrived)
            self._continue(digest)  # nothing is left to send
        except (OSError, http.client.HTTPException) as error:
            raise Again(f"the connection to {host(self.url)} broke off ({reason(error)})") from None
        return digest.hexdigest()

    def _continue(self, digest: Any) -> None:
        """Hash what has arrived before."""
        with self._disk():
            for block in blocks(self.part):
                digest.update(block)

    def _receive(self, answer: Any, arrived: int, total: int | None, digest: Any) -> None:
        with self._disk():
            part = self.part.open("ab" if arrived else "wb")
        with self._disk(close=part):
            while block := self._next(answer):
                part.write(block)
                part.flush()
                digest.update(block)
                arrived += len(block)
                self._progress(arrived, total)
            os.fsync(part.fileno())
        if total is not None and arrived < total:
            raise Again(f"the connection ended after {arrived} of {total} bytes")

    def _next(self, answer: Any) -> bytes:
        """The next bytes of the network, whose errors are not the disk's."""
        try:
            return bytes(answer.read1(BLOCK))
        except (OSError, http.client.HTTPException) as error:
            raise Again(f"the connection to {host(self.url)} broke off ({reason(error)})") from None

    @contextlib.contextmanager
    def _disk(self, close: IO[bytes] | None = None) -> Iterator[None]:
        try:
            try:
                yield
            finally:
                if close is not None:
                    close.close()
        except OSError as error:
            line = f"{self.part} cannot be written ({reason(error)})"
            raise Stop(line, TRY_LATER) from None

    def _refused(self, error: urllib.error.HTTPError, arrived: int) -> NoReturn:
        if error.code == 416 and arrived:
            # What is there is longer than the file.
            self.part.unlink(missing_ok=True)
            raise Again(
                f"{host(self.url)} does not continue the download: it begins anew"
            ) from None
        line = f"{self.url}: {host(self.url)} answers {error.code} {error.reason}"
        if error.code < 500 and error.code not in PASSING:
            raise Stop(f"{line}. Check the address", WRONG) from None
        after = error.headers.get("Retry-After", "")
        raise Again(line, min(float(after), 3600.0) if after.isdigit() else None) from None

    def _total(self, answer: Any, arrived: int) -> int | None:
        ranged = re.match(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        if answer.status == 206:
            if ranged is None or int(ranged[1]) != arrived:
                self.part.unlink(missing_ok=True)
                raise Again(f"{host(self.url)} sends another range than asked: it begins anew")
            return int(ranged[2])
        length = answer.headers.get("Content-Length", "")
        return int(length) if length.isdigit() else self.size

    def _room(self, total: int | None, arrived: int) -> None:
        if total is None:
            return
        free = shutil.disk_usage(self.part.parent).free
        missing = total - arrived + SPARE - free
        if missing > 0:
            raise Stop(
                f"the disk of {self.part.parent} has {free} bytes free, and {total - arrived} are"
                f" still to come: free {missing} bytes",
                TRY_LATER,
            )

    def _arrived(self) -> int:
        try:
            return self.part.stat().st_size
        except FileNotFoundError:
            return 0

    def _remember(self) -> None:
        found = self.target.stat()
        known = {"sha256": self.sha256, "size": found.st_size, "mtime": found.st_mtime_ns}
        self.mark.write_text(json.dumps(known))

    def tidy(self) -> None:
        """Remove what an earlier configuration left beside the file."""
        mine = {self.target.name, self.mark.name}
        for other in self.target.parent.iterdir():
            if other.name not in mine and other.suffix in {".gguf", ".part", ".verified"}:
                other.unlink(missing_ok=True)

    def _progress(self, arrived: int, total: int | None) -> None:
        now = time.monotonic()
        if now - self._shown >= 2:
            self._shown = now
            of = f" of {total / 1e9:.2f}" if total else ""
            status(f"{arrived / 1e9:.2f}{of} GB")


def blocks(path: Path) -> Iterator[bytes]:
    """The bytes of a file."""
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def host(url: str) -> str:
    """The host of an address."""
    return urllib.parse.urlsplit(url).netloc


def reason(error: BaseException) -> str:
    """What an error says, in a few words."""
    inner = getattr(error, "reason", None)
    if isinstance(inner, BaseException):
        error = inner
    if isinstance(error, TimeoutError):
        return "nothing came for too long"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def sri(digest: str) -> str:
    """A hash as Nix writes it."""
    return "sha256-" + base64.b64encode(bytes.fromhex(digest)).decode()


def sha256(text: str) -> str:
    """The hexadecimal form of `sha256-…` or of 64 hexadecimal digits."""
    if re.fullmatch("[0-9a-f]{64}", text):
        return text
    if re.fullmatch("sha256-[A-Za-z0-9+/]{43}=", text):
        return base64.b64decode(text.removeprefix("sha256-")).hex()
    raise argparse.ArgumentTypeError(f"{text!r} is neither sha256-… nor 64 hexadecimal digits")


def say(line: str) -> None:
    """One line for the journal."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def status(text: str) -> None:
    """What `systemctl status` shows."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.connect("\0" + address[1:] if address.startswith("@") else address)
            to.sendall(f"STATUS={text}".encode())


def main(words: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="fetch-model", description="a verified download")
    parser.add_argument("--url", required=True)
    parser.add_argument("--hash", required=True, type=sha256, help="sha256-… or hexadecimal")
    parser.add_argument("--to", required=True, type=Path)
    parser.add_argument("--size", type=int, help="bytes, where the server does not say")
    parser.add_argument("--tries", type=int, default=8, help="without progress")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds; doubles")
    parser.add_argument("--stall", type=float, default=60.0, help="seconds without a byte")
    given = parser.parse_args(words)
    download = Download(
        given.url,
        given.hash,
        given.to,
        size=given.size,
        tries=given.tries,
        pause=given.pause,
        stall=given.stall,
    )
    try:
        download.run()
    except Stop as stop:
        say(str(stop))
        return stop.status
    except OSError as error:
        say(f"{given.to}: {reason(error)}")
        return TRY_LATER
    say(f"{given.to} is in place and verified")
    return 0


if __name__ == "__main__":
    sys.exit(main())
