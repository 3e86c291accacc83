"""A tool that cannot be had skips its tests, and fails them where they are required."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nix.debian import UnavailableError
from nix.required import REQUIRE, needed

TESTS = Path(__file__).resolve().parents[1]


def test_what_cannot_be_had_is_a_reason_to_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REQUIRE, raising=False)
    with pytest.raises(pytest.skip.Exception, match="no such tool"), needed():
        raise UnavailableError("no such tool")


def test_where_it_is_required_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REQUIRE, "require")
    with pytest.raises(pytest.fail.Exception, match="no such tool"), needed():
        raise UnavailableError("no such tool")


def test_nobody_skips_past_it() -> None:
    """Only nix/required.py makes a reason to skip of an UnavailableError."""
    files = [*TESTS.glob("fix_*.py"), *(TESTS / "nix").glob("*.py")]
    assert len(files) > 30
    caught = re.compile(r"except \(?[\w, ]*UnavailableError\)?[^\n]*\n\s+pytest\.skip")
    assert [file.name for file in files if caught.search(file.read_text())] == []
