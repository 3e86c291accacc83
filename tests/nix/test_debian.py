"""Debian packages come once, whole or not at all, and a machine without apt is told so."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from nix import debian
from nix.debian import Prefix, UnavailableError
from nix.toolchain import Nix


def test_without_apt_the_reason_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AISTACK_TEST_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="apt-get is not here: hello cannot be unpacked"):
        debian.prefix("hello", "trixie", ["hello"])


def test_a_failed_download_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in {
        "apt-get": 'echo "E: no network" >&2; exit 100',
        "dpkg-deb": "exit 1",
        "dpkg": "echo amd64",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    keyring = tmp_path / "keyring"
    keyring.touch()
    monkeypatch.setattr(debian, "KEYRING", keyring)
    monkeypatch.setenv("AISTACK_TEST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(UnavailableError, match="apt-get failed: E: no network"):
        debian.prefix("hello", "trixie", ["hello"])
    left = [path.name for path in (tmp_path / "cache" / "debian").iterdir()]
    assert [name for name in left if not name.endswith(".lock")] == []


def test_two_runs_do_not_make_the_same_thing(tmp_path: Path) -> None:
    entered = threading.Event()
    order: list[str] = []

    def second() -> None:
        entered.set()
        with debian.locked(tmp_path / "thing"):
            order.append("second")

    with debian.locked(tmp_path / "thing"):
        thread = threading.Thread(target=second)
        thread.start()
        assert entered.wait(10)
        thread.join(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_program_runs_with_the_libraries_of_its_prefix(systemd_tools: Prefix) -> None:
    done = subprocess.run(
        systemd_tools.command("systemd-analyze", "--version"),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("systemd 257")


def test_a_program_that_is_not_there_is_named(systemd_tools: Prefix) -> None:
    with pytest.raises(UnavailableError, match="no-such-program"):
        systemd_tools.command("no-such-program")


def test_nix_has_a_store_of_its_own(nix_tool: Nix) -> None:
    built = nix_tool.build('nixpkgs.legacyPackages.x86_64-linux.writeText "said" "word"')
    assert built.read_text() == "word"
    assert built.is_relative_to(nix_tool.home)
