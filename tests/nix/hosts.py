"""Questions to a host that is evaluated: its options, its services' settings, what refuses it."""

from __future__ import annotations

import shlex
from typing import Any

from nix.toolchain import Nix

#: The three lines of the README.
BASE = '{ services.aistack.enable = true; system.stateVersion = "26.05"; }'


#: A function in Nix: the texts of the assertions that a host breaks.
FAILED = "(host: map (a: a.message) (builtins.filter (a: !a.assertion) host.config.assertions))"


def ask(tool: Nix, attribute: str, *modules: str) -> Any:
    """An attribute of the configuration of a host with `modules` beside the base."""
    return tool.eval_json(f"({tool.host(BASE, *modules)}).config.{attribute}")


def settings(tool: Nix, name: str, *modules: str) -> dict[str, Any]:
    """The JSON document that the unit of a service is started with."""
    command = ask(tool, f'systemd.services."aistack-{name}".serviceConfig.ExecStart', *modules)
    path = shlex.split(command)[-1]
    # The text is in the derivation of the file; the evaluation has made it, nothing is built.
    found = tool.eval_json(
        f"let host = {tool.host(BASE, *modules)}; of = import (root +"
        ' "/nix/modules/service-settings.nix") { cfg = host.config.services.aistack;'
        " inherit (nixpkgs) lib; inherit (host._module.args) pkgs; };"
        f' in {{ path = "${{of.configFile "{name}"}}"; value = of.settings "{name}"; }}'
    )
    assert found["path"] == path
    value: dict[str, Any] = found["value"]
    return value


def failures(tool: Nix, *modules: str) -> list[str]:
    """The texts of the assertions that a host breaks."""
    found: list[str] = tool.eval_json(f"{FAILED} {tool.host(BASE, *modules)}")
    return found
