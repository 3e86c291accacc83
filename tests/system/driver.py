"""A guest that a test talks to, shaped like the machine of a NixOS test."""

from __future__ import annotations

import base64
import json
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from system import cache
from system.engine import Engine, Guest, tail

#: Seconds between two questions of a wait.
PAUSE = 0.25
#: Seconds of a boot, until the agent answers.
BOOT_SECONDS = 180.0


class GuestError(AssertionError):
    """The guest did not do what the test asked; the text has its last words."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


class Machine:
    """One guest. A context manager: on its end the guest is gone."""

    def __init__(self, engine: Engine, tree: Path, *, name: str = "machine", memory: int = 2048):
        self.engine = engine
        self.name = name
        self._tree = tree
        self._memory = memory
        self.directory = cache.scratch("machine")
        self._guest: Guest | None = None
        self._buffer = b""
        self._asked = 0
        self._born = time.monotonic()

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()

    # -- life

    def start(self) -> None:
        """Boot, and wait until commands are answered. Call it from the main thread alone.

        (The kernel ends the guest when the thread that started it ends.)
        """
        self._guest = self.engine.start(self._tree, self.directory, memory=self._memory)
        while not self._receive(BOOT_SECONDS).get("ready"):
            pass
        self.log(f"up on {self.engine.name}")

    def shutdown(self) -> None:
        """Power off, or end it after half a minute."""
        guest, self._guest = self._guest, None
        if guest is not None:
            if guest.process.poll() is None:
                with suppress(GuestError):  # it may be going already
                    self._send(guest, "systemctl poweroff --no-block", 20)
            try:
                guest.process.wait(30)
            except subprocess.TimeoutExpired:
                guest.process.kill()
                guest.process.wait()
            guest.tidy()
            self.log("down")
        cache.remove(self.directory)

    def kill(self) -> None:
        """The power fails."""
        assert self._guest is not None
        self._guest.process.send_signal(signal.SIGKILL)

    @property
    def console(self) -> str:
        """The end of what the kernel and systemd wrote."""
        return tail(self._guest.console, 4000) if self._guest else ""

    def log(self, message: str) -> None:
        """One line with the seconds since this machine was made."""
        sys.stderr.write(f"[{time.monotonic() - self._born:7.2f}] {self.name}: {message}\n")

    @contextmanager
    def subtest(self, name: str) -> Iterator[None]:
        """A named part, with its time; a failure says which part it was."""
        begun = time.monotonic()
        try:
            yield
        except BaseException:
            self.log(f"FAILED {name} after {time.monotonic() - begun:.1f} s")
            raise
        self.log(f"passed {name} in {time.monotonic() - begun:.1f} s")

    # -- commands

    def run(self, script: str, timeout: float = 120.0) -> Answer:
        """Run bash as root (`set -euo pipefail`); status 124 beyond `timeout` seconds."""
        guest = self._guest
        assert guest is not None, "start() comes first"
        number = self._send(guest, script, timeout)
        while True:
            answer = self._receive(timeout + 60)
            if answer.get("id") == number:
                return Answer(answer["status"], answer["stdout"], answer["stderr"])

    def execute(self, script: str, timeout: float = 120.0) -> tuple[int, str]:
        """Status and stdout."""
        answer = self.run(script, timeout)
        return answer.status, answer.stdout

    def succeed(self, *scripts: str, timeout: float = 120.0) -> str:
        """The stdout of all of them; raises GuestError when one ends badly."""
        output = ""
        for script in scripts:
            answer = self.run(script, timeout)
            if answer.status != 0:
                raise GuestError(_failed(script, answer))
            output += answer.stdout
        return output

    def fail(self, *scripts: str, timeout: float = 120.0) -> str:
        """The output of all of them; raises GuestError when one ends well."""
        output = ""
        for script in scripts:
            answer = self.run(script, timeout)
            if answer.status == 0:
                raise GuestError(f"`{script}` succeeded and must not:\n{answer.stdout[-2000:]}")
            output += answer.stdout + answer.stderr
        return output

    def wait_until_succeeds(self, script: str, timeout: float = 60.0) -> str:
        """The stdout of the first run that ends well."""
        for answer in self._repeat(script, timeout):
            if answer.status == 0:
                return answer.stdout
        raise GuestError(f"not within {timeout:g} s: {_failed(script, answer)}")

    def wait_until_fails(self, script: str, timeout: float = 60.0) -> str:
        """The output of the first run that ends badly."""
        for answer in self._repeat(script, timeout):
            if answer.status != 0:
                return answer.stdout + answer.stderr
        raise GuestError(f"`{script}` still succeeds after {timeout:g} s")

    def _repeat(self, script: str, timeout: float) -> Iterator[Answer]:
        end = time.monotonic() + timeout
        while True:
            yield self.run(script, timeout)
            if time.monotonic() > end:
                return
            time.sleep(PAUSE)

    # -- units

    def systemctl(self, words: str) -> tuple[int, str]:
        """Status and stdout of systemctl."""
        return self.execute(f"systemctl {words}")

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit."""
        wanted = ",".join(properties)
        text = self.succeed(f"systemctl show --property={wanted} -- {shlex.quote(unit)}")
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def get_unit_property(self, unit: str, name: str) -> str:
        """One property."""
        return self.show(unit, name)[name]

    def wait_for_unit(self, unit: str, timeout: float = 180.0) -> None:
        """Until it is active. Raises at once when it has failed or when nothing will start it."""
        end = time.monotonic() + timeout
        while True:
            state = self.show(unit, "ActiveState", "SubState", "Result", "Job", "LoadState")
            if state["ActiveState"] == "active":
                return
            hopeless = state["LoadState"] != "loaded" or (
                state["ActiveState"] in {"failed", "inactive"}
                and state.get("Job", "") in {"", "0"}
                and not self.succeed("systemctl list-jobs --no-legend --no-pager").strip()
            )
            if hopeless and self.get_unit_property(unit, "ActiveState") != "active":
                raise GuestError(f"{unit} is {state}\n{self.status(unit)}")
            if time.monotonic() > end:
                raise GuestError(
                    f"{unit} is still {state} after {timeout:g} s\n{self.status(unit)}"
                )
            time.sleep(PAUSE)

    def status(self, unit: str) -> str:
        """What a person would look at."""
        return self.execute(f"systemctl status --no-pager --lines=40 --full {unit} || true")[1]

    def journal(self, unit: str | None = None, *, since: str | None = None) -> str:
        """The messages of this boot, without time and host."""
        self.succeed("journalctl --sync")
        words = ["journalctl", "--boot", "--no-pager", "--output=cat"]
        words += [f"--unit={unit}"] if unit else []
        words += [f"--after-cursor={since}"] if since else []
        return self.succeed(shlex.join(words))

    def cursor(self) -> str:
        """The journal's present end, for `journal(since=…)`."""
        self.succeed("journalctl --sync")
        text = self.succeed("journalctl --boot --lines=0 --show-cursor --no-pager --quiet")
        return text.split("cursor: ", 1)[1].strip()

    # -- files and sockets

    def wait_for_open_port(
        self, port: int, address: str = "127.0.0.1", timeout: float = 60
    ) -> None:
        """Until a connection is accepted."""
        self.wait_until_succeeds(f"(exec 3<>/dev/tcp/{address}/{port})", timeout)

    def wait_for_open_unix_socket(self, path: str, timeout: float = 60) -> None:
        """Until a connection is accepted."""
        script = f"import socket; socket.socket(socket.AF_UNIX).connect({path!r})"
        self.wait_until_succeeds(f"python3 -c {shlex.quote(script)}", timeout)

    def wait_for_file(self, path: str, timeout: float = 60) -> None:
        """Until it is there."""
        self.wait_until_succeeds(f"test -e {shlex.quote(path)}", timeout)

    def write_file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Put a file into the guest, and its directories."""
        where, coded = shlex.quote(path), base64.b64encode(data).decode()
        self.succeed(
            f"install -D -m {mode:o} /dev/null {where}; base64 -d > {where} <<'END'\n{coded}\nEND"
        )

    # -- the line

    def _send(self, guest: Guest, script: str, timeout: float) -> int:
        self._asked += 1
        request = {"id": self._asked, "script": script, "timeout": timeout}
        try:
            guest.line.sendall(json.dumps(request).encode() + b"\n")
        except ConnectionError as error:
            raise GuestError(f"the guest is gone: {self.console}") from error
        return self._asked

    def _receive(self, timeout: float) -> dict[str, Any]:
        """The next object on the line; what is none (a kernel's noise) is skipped."""
        end = time.monotonic() + timeout
        while True:
            while b"\n" in self._buffer:
                line, self._buffer = self._buffer.split(b"\n", 1)
                if line.startswith(b"{"):
                    answer: dict[str, Any] = json.loads(line)
                    return answer
            self._read(end)

    def _read(self, end: float) -> None:
        guest = self._guest
        assert guest is not None
        ready, _, _ = select.select([guest.line], [], [], 1.0)
        if ready:
            try:
                data = guest.line.recv(1 << 16)
            except ConnectionError:
                data = b""
            if not data:
                raise GuestError(f"the guest is gone: {self.console}")
            self._buffer += data
        elif guest.process.poll() is not None:
            raise GuestError(f"the guest ended ({guest.process.returncode}): {self.console}")
        elif time.monotonic() > end:
            raise GuestError(f"the guest does not answer: {self.console}")


def _failed(script: str, answer: Answer) -> str:
    return (
        f"`{script}` ended with {answer.status}:\n"
        f"{answer.stdout[-4000:]}\n{answer.stderr[-4000:]}".rstrip()
    )
