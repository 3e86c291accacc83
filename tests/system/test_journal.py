"""What counts as a clean journal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from system.stack import UNITS, Allowed, Message, allowed, complaints, message

SERVICE = UNITS[0]


def test_warnings_of_anybody_are_complaints() -> None:
    assert complaints([Message("nginx.service", 4, "odd")], "nspawn") == ["nginx.service: odd"]
    assert complaints([Message("nginx.service", 5, "a notice")], "nspawn") == []


def test_a_service_speaks_json_without_warnings() -> None:
    good = Message(SERVICE, 6, '{"event": "ready", "level": "info"}')
    warning = Message(SERVICE, 6, '{"event": "slow", "level": "warning"}')
    stray = Message(SERVICE, 6, "Traceback (most recent call last):")
    manager = Message(SERVICE, 6, "Started aistack.", manager=True)
    assert complaints([good, manager], "nspawn") == []
    own = Message(SERVICE, 6, "Started something of its own.")
    assert len(complaints([good, warning, stray, own], "nspawn")) == 3


def test_what_is_allowed_is_so_for_its_unit_and_its_engine_alone() -> None:
    entry = Allowed("kernel", re.compile("^epoll"), "uml")
    assert entry.fits(Message("kernel", 4, "epoll failed"), "uml")
    assert not entry.fits(Message("kernel", 4, "epoll failed"), "nspawn")
    assert not entry.fits(Message("init.scope", 4, "epoll failed"), "uml")
    assert not entry.fits(Message("kernel", 4, "no epoll"), "uml")


def test_every_entry_of_the_committed_list_is_read(tmp_path: Path) -> None:
    assert allowed()
    bare = tmp_path / "allowed.toml"
    bare.write_text('[[message]]\nunit = "kernel"\npattern = "."\nreason = "noise"\n')
    with pytest.raises(ValueError, match="no reason"):
        allowed(bare)


def test_entries_of_the_journal_are_read_with_their_unit() -> None:
    assert message({"MESSAGE": "m", "PRIORITY": "3", "_SYSTEMD_UNIT": "a.service"}) == Message(
        "a.service", 3, "m"
    )
    started = message({"MESSAGE": "Started", "UNIT": "b.service", "_SYSTEMD_UNIT": "init.scope"})
    assert (started.unit, started.priority, started.manager) == ("b.service", 6, True)
    assert message({"MESSAGE": [255, 104, 105]}).text.endswith("hi")
