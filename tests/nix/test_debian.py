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


def programs(monkeypatch: pytest.MonkeyPatch, folder: Path, bodies: dict[str, str]) -> None:
    """Shell scripts in place of programs, and an empty cache."""
    (folder / "bin").mkdir()
    for name, body in bodies.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("AISTACK_TEST_CACHE", str(folder / "cache"))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")


def test_a_failed_download_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failing = 'echo "E: no network" >&2; exit 100'
    programs(
        monkeypatch, tmp_path, {"apt-get": failing, "dpkg-deb": "exit 1", "dpkg": "echo amd64"}
    )
    keyring = tmp_path / "keyring"
    keyring.touch()
    monkeypatch.setattr(debian, "KEYRING", keyring)
    with pytest.raises(UnavailableError, match="apt-get failed: E: no network"):
        debian.prefix("hello", "trixie", ["hello"])
    left = [path.name for path in (tmp_path / "cache" / "debian").iterdir()]
    assert [name for name in left if not name.endswith(".lock")] == []


def test_a_host_without_debians_keys_gets_them_by_its_own_apt(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on Ubuntu, whose archive has Debian's keys in a package, and whose mirrors are others."""
    apt = (
        'case "$*" in *indextargets*) echo "http://archive.ubuntu.com/ubuntu noble";;'
        " *download*) echo keys > keyring.deb;; esac"
    )
    unpack = 'mkdir -p "$3/usr/share/keyrings" && cp "$2" "$3/usr/share/keyrings/not-here.gpg"'
    programs(monkeypatch, tmp_path, {"apt-get": apt, "dpkg-deb": unpack})
    monkeypatch.setattr(debian, "KEYRING", Path("/usr/share/keyrings/not-here.gpg"))
    with pytest.raises(UnavailableError, match=debian.MIRROR):
        debian.host_mirror()
    monkeypatch.setenv(debian.MIRROR, "http://mirror.example/debian")
    assert debian.host_mirror() == "http://mirror.example/debian"
    assert debian.keyring().read_text() == "keys\n"
    assert debian.keyring().is_relative_to(tmp_path / "cache")


def test_a_host_that_cannot_verify_debian_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs(monkeypatch, tmp_path, {"apt-get": 'echo "E: no network" >&2; exit 100'})
    monkeypatch.setattr(debian, "KEYRING", tmp_path / "not-here.gpg")
    with pytest.raises(UnavailableError, match=r"E: no network.*install debian-archive-keyring"):
        debian.keyring()


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
