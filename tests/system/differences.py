"""The reviewed list of what the guest needs to be different: `differences.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "differences.toml"
#: The only keys of a unit that a difference may set; none of them confines anything.
KEYS = {
    "Type": "Service",
    "ExecStartPost": "Service",
    "Environment": "Service",
    "TimeoutStartSec": "Service",
    "TimeoutStopSec": "Service",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of a drop-in."""

    unit: str
    key: str
    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class Without:
    """A unit that the guest does not have."""

    unit: str
    reason: str


@dataclass(frozen=True, slots=True)
class Placed:
    """A symbolic link `path` → `origin`."""

    path: str
    origin: str
    reason: str


@dataclass(frozen=True, slots=True)
class Differences:
    """The whole list."""

    settings: Sequence[Setting] = ()
    without: Sequence[Without] = ()
    placed: Sequence[Placed] = ()

    @staticmethod
    def read(path: Path = FILE) -> Differences:
        """The list; raises ValueError on a key that may not stand in it or has no reason."""
        return Differences.of(tomllib.loads(path.read_text(encoding="utf-8")))

    @staticmethod
    def of(data: dict[str, Any]) -> Differences:
        """From TOML's types."""
        if unknown := set(data) - {"set", "without", "file"}:
            raise ValueError(f"no such kind of difference: {', '.join(sorted(unknown))}")
        found = Differences(
            settings=[
                Setting(one["unit"], one["key"], one["value"], one["reason"])
                for one in data.get("set", [])
            ],
            without=[Without(one["unit"], one["reason"]) for one in data.get("without", [])],
            placed=[
                Placed(one["path"], one["from"], one["reason"]) for one in data.get("file", [])
            ],
        )
        for setting in found.settings:
            if setting.key not in KEYS:
                raise ValueError(f"{setting.unit}: a difference may not set {setting.key}")
            if "\n" in setting.value + setting.reason + setting.unit:
                raise ValueError(f"{setting.unit}: {setting.key} is more than one line")
            if setting.value.startswith(("+", "!", "-", "@", ":", "|")):
                raise ValueError(f"{setting.unit}: {setting.key} begins with a privilege")
        for placed in found.placed:
            if not placed.path.startswith("/var/lib/") or ".." in placed.path.split("/"):
                raise ValueError(f"{placed.path}: only data below /var/lib may differ")
        for kind in ("set", "without", "file"):
            for entry in data.get(kind, []):
                if len(entry["reason"].split()) < 3:
                    raise ValueError(f"{entry} has no reason")
        return found

    def drop_ins(self) -> dict[str, str]:
        """The text of the drop-in of each unit."""
        texts: dict[str, str] = {}
        for setting in self.settings:
            text = texts.setdefault(setting.unit, "")
            line = f"[{KEYS[setting.key]}]\n# {setting.reason}\n{setting.key}={setting.value}\n"
            texts[setting.unit] = text + line
        return texts
