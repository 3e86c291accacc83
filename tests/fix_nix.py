"""Nix for tests of the NixOS side: the tool, the tool on nixpkgs' real `lib`, and the checkers."""

from __future__ import annotations

import pytest

from nix import checking
from nix.debian import Prefix, UnavailableError
from nix.toolchain import Nix, nix


@pytest.fixture(scope="session")
def nix_tool() -> Nix:
    """Nix on the stand-in; skips where Debian's packages cannot be had."""
    try:
        return nix()
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def real_lib_nix(nix_tool: Nix) -> Nix:
    """Nix on the stand-in with nixpkgs' real `lib`; skips where that is not at hand."""
    try:
        return nix_tool.with_real_lib()
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def systemd_tools() -> Prefix:
    """systemd 257's programs; skips where Debian's packages cannot be had."""
    try:
        return checking.systemd()
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def prometheus_tools() -> Prefix:
    """promtool and amtool; skips where Debian's packages cannot be had."""
    try:
        return checking.prometheus()
    except UnavailableError as error:
        pytest.skip(str(error))
