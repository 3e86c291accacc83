"""Evaluate and render hosts from the command line; see the commands in `main`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from nix.debian import UnavailableError
from nix.rendering import RENDERED, hosts, render
from nix.toolchain import Nix, NixError, nix


def units(tool: Nix, module: str, into: Path) -> list[Path]:
    """Write every unit file of a host to a folder."""
    texts = tool.eval_json(f"{tool.host(module)}.config.system.build.units")
    into.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in texts.items():
        (into / name).write_text(text)
        written.append(into / name)
    return written


def rendered(tool: Nix, names: list[str]) -> None:
    """Write the committed hosts anew; all of them, or those named."""
    found = hosts(tool)
    for name in names or found:
        render(tool, name, found[name]).write(RENDERED / name)
    for folder in RENDERED.iterdir():
        if folder.is_dir() and folder.name not in found:
            shutil.rmtree(folder)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m nix.render", description=__doc__)
    parser.add_argument("--real-lib", action="store_true", help="on AISTACK_NIXPKGS_LIB")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("eval", help="an expression; nixpkgs, aistack and root in scope")
    one.add_argument("expression")
    one = commands.add_parser("host", help="an attribute of a host's config")
    one.add_argument("module", help="a file, or Nix text such as '{ services.aistack… }'")
    one.add_argument("attribute", help="below config, such as services.aistack.enable")
    one = commands.add_parser("units", help="write all units of a host to a folder")
    one.add_argument("module")
    one.add_argument("folder", type=Path)
    one = commands.add_parser("rendered", help="refresh the committed hosts")
    one.add_argument("names", nargs="*", help="only these")
    one = commands.add_parser("parse", help="check the syntax of files")
    one.add_argument("files", type=Path, nargs="+")
    given = parser.parse_args(arguments)
    try:
        tool = nix().with_real_lib() if given.real_lib else nix()
        if given.command == "eval":
            print(json.dumps(tool.eval_json(given.expression), indent=2))
        elif given.command == "host":
            value = tool.eval_json(f"{tool.host(_module(given.module))}.config.{given.attribute}")
            print(json.dumps(value, indent=2))
        elif given.command == "units":
            for path in units(tool, _module(given.module), given.folder):
                print(path)
        elif given.command == "rendered":
            rendered(tool, given.names)
        elif given.command == "parse":
            tool.parse(given.files)
    except (NixError, UnavailableError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _module(given: str) -> str:
    """A module argument as Nix text: a file's absolute path, or the text itself."""
    path = Path(given)
    return str(path.resolve()) if given.endswith(".nix") and path.exists() else given


if __name__ == "__main__":
    sys.exit(main())
