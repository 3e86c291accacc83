"""What the evaluation of the guest's configuration gave, as `nix/tests/rendered/guest/` has it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Account:
    """A user."""

    uid: int | None = None
    group: str = ""
    home: str = "/var/empty"
    extra_groups: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is no file: links between units, accounts, rules, and the packages' names.

    `packages` maps a path in the store to the package's pname; `wants`, `requires` and `aliases`
    are pairs of (unit that has the directory or the other name, unit); `system_packages` are the
    paths whose programs are on everybody's PATH.
    """

    packages: Mapping[str, str] = field(default_factory=dict)
    wants: Sequence[tuple[str, str]] = ()
    requires: Sequence[tuple[str, str]] = ()
    aliases: Sequence[tuple[str, str]] = ()
    users: Mapping[str, Account] = field(default_factory=dict)
    groups: Mapping[str, int | None] = field(default_factory=dict)
    members: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tmpfiles: Sequence[str] = ()
    sysctl: Mapping[str, str] = field(default_factory=dict)
    system_packages: Sequence[str] = ()

    @staticmethod
    def read(path: Path) -> Manifest:
        """The manifest of a rendered host; a key that is not known here fails."""
        return Manifest.of(json.loads(path.read_text(encoding="utf-8")))

    @staticmethod
    def of(data: Mapping[str, Any]) -> Manifest:
        """From JSON's types."""
        known = {one.name for one in fields(Manifest)} - {"members", "system_packages"}
        known |= {"systemPackages"}
        if unknown := sorted(set(data) - known):
            raise ValueError(f"the manifest has keys that the system test ignores: {unknown}")
        groups = data.get("groups", {})
        return Manifest(
            packages=data.get("packages", {}),
            wants=[(one, other) for one, other in data.get("wants", [])],
            requires=[(one, other) for one, other in data.get("requires", [])],
            aliases=[(one, other) for one, other in data.get("aliases", [])],
            users={name: _account(user) for name, user in data.get("users", {}).items()},
            groups={name: group.get("gid") for name, group in groups.items()},
            members={name: group.get("members", []) for name, group in groups.items()},
            tmpfiles=data.get("tmpfiles", []),
            sysctl={key: _sysctl(value) for key, value in data.get("sysctl", {}).items()},
            system_packages=data.get("systemPackages", []),
        )

    def sysusers(self) -> str:
        """The accounts as sysusers.d(5) has them."""
        lines = [f"g {name} {_number(gid)}" for name, gid in sorted(self.groups.items())]
        for name, user in sorted(self.users.items()):
            group = f":{user.group}" if user.group else ""
            lines.append(f'u {name} {_number(user.uid)}{group} "" {user.home} /usr/sbin/nologin')
            lines += [f"m {name} {extra}" for extra in user.extra_groups]
        for name, members in sorted(self.members.items()):
            lines += [f"m {member} {name}" for member in members]
        return "\n".join([*lines, ""])


def _account(user: Mapping[str, Any]) -> Account:
    return Account(
        uid=user.get("uid"),
        group=user.get("group") or "",
        home=user.get("home") or "/var/empty",
        extra_groups=tuple(user.get("extraGroups", ())),
    )


def _number(number: int | None) -> str:
    return "-" if number is None else str(number)


def _sysctl(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
