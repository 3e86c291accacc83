"""Nix for tests of the NixOS side: the tool, the tool on nixpkgs' real `lib`, and the checkers."""

from __future__ import annotations

import os

import pytest

from nix import checking
from nix.debian import Prefix
from nix.required import needed
from nix.toolchain import LIBRARY, Nix, nix


@pytest.fixture(scope="session")
def nix_tool() -> Nix:
    """Nix on the stand-in; skips where Debian's packages cannot be had."""
    with needed():
        return nix()


@pytest.fixture(scope="session")
def real_lib_nix(nix_tool: Nix) -> Nix:
    """Nix on the stand-in with nixpkgs' real `lib`; skips where that is not at hand."""
    if not os.environ.get(LIBRARY):
        # Never required: it cannot be had from the sources of packages.
        pytest.skip(f"{LIBRARY} does not name nixpkgs' real lib")
    with needed():
        return nix_tool.with_real_lib()


@pytest.fixture(scope="session")
def systemd_tools() -> Prefix:
    """systemd 257's programs; skips where Debian's packages cannot be had."""
    with needed():
        return checking.systemd()


@pytest.fixture(scope="session")
def prometheus_tools() -> Prefix:
    """promtool and amtool; skips where Debian's packages cannot be had."""
    with needed():
        return checking.prometheus()
