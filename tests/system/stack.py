"""The stack in a guest: its units by name, its checks, and its journal."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from system.closure import CHECKS, REPOSITORY
from system.driver import Answer, GuestError, Machine

ALLOWED = Path(__file__).parent / "journal-allowed.toml"
BASE_URL = "https://machine"
KEYS = "/var/lib/aistack/keys"
KEY = f"{KEYS}/default.key"
TLS = "/var/lib/aistack-tls"
CERTIFICATE = f"{TLS}/certificate.pem"
#: Seconds of a cold start on the slow engine of a busy machine.
START_SECONDS = 300.0


def services() -> dict[str, Any]:
    """The services of stack.toml."""
    table = tomllib.loads((REPOSITORY / "src/aistack/stack.toml").read_text(encoding="utf-8"))
    found: dict[str, Any] = table["services"]
    return found


SERVICES = tuple(services())
UNITS = tuple(f"aistack-{name}.service" for name in SERVICES)
LLAMA = "aistack-llama-chat.service"
DATA = ("postgresql.service", "redis-aistack.service")
#: A request that a service answers by itself.
EARLY: dict[str, tuple[str, str, object]] = {
    "embeddings": ("POST", "/embed", {"inputs": "early"}),
    "aidb": ("GET", "/v1/collections", None),
    "coordinator": ("GET", "/v1/models", None),
}
#: What stands before a command that runs beside the tests.
TRANSIENT = "systemd-run --quiet --collect --property=Type=exec"


@dataclass(frozen=True, slots=True)
class Message:
    """One line of the journal."""

    unit: str
    priority: int
    text: str
    manager: bool = False  # systemd speaks of the unit


class Stack:
    """What the tests ask of the guest."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def wait(self) -> None:
        """Until the whole target is up."""
        self.machine.wait_for_unit("aistack.target", START_SECONDS)

    def check(self, name: str, *arguments: str, timeout: float = 240.0) -> str:
        """Run one of the checks inside; its line. Raises GuestError with its complaint."""
        return self.machine.succeed(self.command(name, *arguments), timeout=timeout).strip()

    def tried(self, name: str, *arguments: str) -> Answer:
        """Run one of the checks, whatever it says."""
        return self.machine.run(self.command(name, *arguments), timeout=240.0)

    def command(self, name: str, *arguments: str) -> str:
        """The command line of a check inside."""
        words = ["/usr/bin/python3", "-m", f"checks.{name}", "--base-url", BASE_URL]
        words += ["--key-file", KEY, "--ca", CERTIFICATE, *arguments]
        return f"cd {CHECKS} && {shlex.join(words)}"

    def request(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        """Status and body of one request through nginx."""
        words = ["curl", "--silent", "--show-error", "--cacert", CERTIFICATE, "-X", method]
        words += ["--max-time", "90", "--write-out", r"\n%{http_code}", f"{BASE_URL}{path}"]
        if body is not None:
            words += ["-H", "content-type: application/json", "-d", json.dumps(body)]
        key = f'-H "authorization: Bearer $(cat {KEY})"'
        text, _, status = self.machine.succeed(f"{shlex.join(words)} {key}").rpartition("\n")
        return int(status), text

    def active(self, *units: str) -> dict[str, str]:
        """ActiveState of units."""
        return {unit: self.machine.get_unit_property(unit, "ActiveState") for unit in units}

    def invocations(self, *units: str) -> dict[str, str]:
        """InvocationID of units: another one is another start."""
        return {unit: self.machine.get_unit_property(unit, "InvocationID") for unit in units}

    def failed_units(self) -> list[str]:
        """Units in the state failed."""
        text = self.machine.succeed("systemctl list-units --state=failed --plain --no-legend")
        return [line.split()[0] for line in text.splitlines() if line.strip()]

    def wait_restarted(self, unit: str, before: str, timeout: float = 90.0) -> None:
        """Until the unit is active again under another invocation than `before`."""
        script = (
            f'[ "$(systemctl show -P ActiveState {unit})" = active ]'
            f' && [ "$(systemctl show -P InvocationID {unit})" != {shlex.quote(before)} ]'
        )
        try:
            self.machine.wait_until_succeeds(script, timeout)
        except GuestError as error:
            raise GuestError(f"{error}\n{self.machine.status(unit)}") from error

    def journal(self, since: str | None = None) -> list[Message]:
        """All messages of this boot, or those after a cursor."""
        self.machine.succeed("journalctl --sync")
        fields = "--output-fields=MESSAGE,PRIORITY,_SYSTEMD_UNIT,UNIT,SYSLOG_IDENTIFIER"
        after = f"--after-cursor={shlex.quote(since)}" if since else ""
        text = self.machine.succeed(
            f"journalctl --boot --no-pager --all --output=json {fields} {after}"
        )
        return [message(json.loads(line)) for line in text.splitlines()]


def message(entry: dict[str, Any]) -> Message:
    """One entry of `journalctl --output=json`; bytes that are no UTF-8 come as numbers."""
    text = entry.get("MESSAGE") or ""
    if isinstance(text, list):
        text = bytes(text).decode("utf-8", "replace")
    unit = entry.get("UNIT") or entry.get("_SYSTEMD_UNIT") or entry.get("SYSLOG_IDENTIFIER", "")
    return Message(unit, int(entry.get("PRIORITY", 6)), text, "UNIT" in entry)


@dataclass(frozen=True, slots=True)
class Allowed:
    """A message that does not spoil a clean journal."""

    unit: str
    pattern: re.Pattern[str]
    engine: str | None

    def fits(self, found: Message, engine: str) -> bool:
        """Whether it is this one."""
        here = self.engine in {None, engine}
        return here and found.unit == self.unit and self.pattern.search(found.text) is not None


def allowed(path: Path = ALLOWED) -> list[Allowed]:
    """The reviewed list; every entry has a reason."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    entries = data.get("message", [])
    if bad := [entry for entry in entries if len(entry.get("reason", "").split()) < 3]:
        raise ValueError(f"no reason: {bad}")
    return [
        Allowed(entry["unit"], re.compile(entry["pattern"]), entry.get("engine"))
        for entry in entries
    ]


def complaints(messages: Sequence[Message], engine: str) -> list[str]:
    """What spoils the journal: warnings and worse, by priority or by a service's own level.

    A line of one of our services that is no JSON object is a complaint too: something wrote past
    the log.
    """
    known = allowed()
    found = []
    for one in messages:
        if _bad(one) and not any(entry.fits(one, engine) for entry in known):
            found.append(f"{one.unit}: {one.text[:300]}")
    return found


def _bad(one: Message) -> bool:
    if one.priority <= 4:
        return True
    if one.unit not in UNITS or one.manager:
        return False
    try:
        line = json.loads(one.text)
    except ValueError:
        return True
    return not isinstance(line, dict) or line.get("level") not in {"debug", "info"}
