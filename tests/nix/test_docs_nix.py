"""What the documents show in Nix: it parses, and what is a configuration is accepted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nix.toolchain import ROOT, Nix

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Of pages that configure a host: the blocks that set something of the stack.
CONFIGURING = [ROOT / "README.md", ROOT / "docs/install-nixos.md", ROOT / "docs/operations.md"]


def blocks(page: Path) -> list[str]:
    """The Nix code of a page, without its indentation in lists."""
    found = re.findall(
        r"^( *)```nix\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, code in found]


def module(code: str) -> str:
    """The block as an expression: settings alone get the braces that the reader's file has."""
    bare = re.sub(r"^\s*#.*\n", "", code, flags=re.MULTILINE).lstrip()
    return code if bare.startswith(("{", "[", "(")) else f"{{\n{code}\n}}"


def test_every_block_parses(nix_tool: Nix, tmp_path: Path) -> None:
    files = []
    for page in PAGES:
        for i, code in enumerate(blocks(page)):
            file = tmp_path / f"{page.stem}-{i}.nix"
            # The name that a flake's own outputs give to this one.
            file.write_text(f"{{ aistack, config, ... }}:\n{module(code)}", encoding="utf-8")
            files.append(file)
    assert len(files) > 8
    nix_tool.parse(files)


def fragments() -> list[tuple[str, str]]:
    """Blocks of settings that stand alone, with where they are."""
    found = []
    for page in CONFIGURING:
        for i, code in enumerate(blocks(page)):
            if "services.aistack" in code and module(code) != code:
                found.append((f"{page.stem} {i + 1}", module(code)))
    return found


@pytest.mark.parametrize(("where", "code"), fragments(), ids=[where for where, _ in fragments()])
def test_settings_are_accepted(nix_tool: Nix, where: str, code: str) -> None:
    """In a host that has what the reader has been told to set before."""
    settings = code.replace("imports = [ aistack.nixosModules.default ];", "")
    host = nix_tool.host(
        '{ services.aistack.enable = true; system.stateVersion = "26.05"; }', settings
    )
    failed = nix_tool.eval_json(
        f"map (a: a.message) (builtins.filter (a: !a.assertion) {host}.config.assertions)"
    )
    assert failed == [], where


def test_there_are_such_settings() -> None:
    assert len(fragments()) > 3
