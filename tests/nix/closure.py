"""What an evaluated host would put into the store, read without building anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nix.toolchain import Nix

#: Files that are longer are no text of ours.
TEXT_BYTES = 1_000_000


def derivations(tool: Nix, host: str) -> dict[str, dict[str, Any]]:
    """Every derivation of a host's system, by its path."""
    top = tool.eval_raw(f"{host}.config.system.build.toplevel.drvPath")
    shown = json.loads(
        tool.run("derivation", "show", "--store", tool.store, "--offline", "-r", top)
    )
    found: dict[str, dict[str, Any]] = shown.get("derivations", shown)
    return found


def texts(tool: Nix, host: str) -> dict[str, str]:
    """All text of a host that reaches the store: of derivations, and of files copied there."""
    found = {}
    sources: set[str] = set()
    for path, made in derivations(tool, host).items():
        found[path] = "\n".join([*map(str, made["env"].values()), *made["args"]])
        sources |= set(made["inputSrcs"])
    for source in sorted(sources):
        for file in _files(tool.outside(source)):
            if file.stat().st_size <= TEXT_BYTES:
                found[str(file)] = file.read_text(encoding="utf-8", errors="replace")
    return found


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return [file for file in sorted(path.rglob("*")) if file.is_file()]
    return [path]


def named(tool: Nix, host: str, name: str) -> str:
    """The text of the one derivation with this name (`nginx.conf`, `aistack-rules.json`)."""
    (only,) = [
        "\n".join(map(str, made["env"].values()))
        for made in derivations(tool, host).values()
        if made["name"] == name
    ]
    return only
