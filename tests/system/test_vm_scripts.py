"""The scripts of the NixOS VM tests, on the rendered stack in a guest.

NixOS' own machines cannot be had here, but their scripts say what a machine must do, and this guest
is one. What a single guest cannot do is left out by name, with its reason; the machine called
`visitor` is the guest itself. Long: `make test-system-long` runs them.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nix.debian import UnavailableError
from nix.toolchain import SYSTEM, Nix
from system.closure import CHECKS
from system.conftest import unavailable
from system.driver import Machine
from system.engine import Nspawn
from system.stack import BASE_URL, CERTIFICATE, KEY

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        os.environ.get("AISTACK_SYSTEM_VM_SCRIPTS") != "1",
        reason="takes a quarter of an hour: make test-system-long",
    ),
]

#: Parts of each script that a guest cannot do, and why.
LEFT_OUT = {
    "stack": {
        "documents are still there after a reboot": "the guest's disk is an overlay in memory",
    },
    "auth": {"only the front door can be reached": "it takes a second machine"},
    "backup-restore": {
        "restic takes the backup elsewhere, and it can be restored from there": "no restic in it",
    },
    "resilience": {
        "the memory limit kills only the offender": "nspawn enforces no limits on every host",
    },
}
#: The host's name in the VM tests; the guest's certificate has the name `machine`.
HOST_NAME = "aistack.test"

CHECK = f"""#!/bin/bash
name=$1; shift
export PYTHONPATH={CHECKS} PYTHONDONTWRITEBYTECODE=1
exec /usr/bin/python3 -m "checks.$name" \\
  --base-url {BASE_URL} --key-file {KEY} --ca {CERTIFICATE} "$@"
"""
COMMAND = """#!/bin/bash
export AISTACK_DATA_DIR=/var/lib/aistack
exec /usr/lib/aistack/bin/aistack "$@"
"""


class Scripted(Machine):
    """A machine with what the scripts call besides, and with a NixOS test's patience."""

    def start(self) -> None:
        """Boot once, and lay what the VM tests' machines have on their PATH."""
        if self._guest is not None:
            return
        super().start()
        self.write_file("/run/bin/aistack-check", CHECK.encode(), 0o755)
        self.write_file("/run/bin/aistack", COMMAND.encode(), 0o755)

    def run(self, script: str, timeout: float = 900.0) -> Any:
        """As the driver's; the machine's own commands are on PATH."""
        return super().run(f"export PATH=/run/bin:$PATH\n{script}", max(timeout, 900.0))

    def require_unit_state(self, unit: str, require_state: str = "active") -> None:
        """Raises AssertionError when a unit is in another state."""
        state = self.get_unit_property(unit, "ActiveState")
        assert state == require_state, f"{unit} is {state}"

    def wait_until_succeeds(self, script: str, timeout: float = 900.0) -> str:
        """With NixOS' default of 15 minutes."""
        return super().wait_until_succeeds(script, timeout)

    def wait_until_fails(self, script: str, timeout: float = 900.0) -> str:
        """With NixOS' default of 15 minutes."""
        return super().wait_until_fails(script, timeout)


@pytest.fixture
def scripted(guest_root: Path) -> Iterator[Scripted]:
    """A guest of its own for each script; they break things."""
    try:
        made = Scripted(Nspawn(), guest_root)
        with made:
            made.start()
            yield made
    except UnavailableError as error:
        unavailable(str(error))


def without(script: str, parts: dict[str, str]) -> ast.Module:
    """The script less the subtests of these names, each of which must be there."""
    tree = ast.parse(script)
    kept = [node for node in tree.body if _subtest(node) not in parts]
    assert len(tree.body) - len(kept) == len(parts), f"not all of {list(parts)} are in the script"
    return ast.Module(kept, type_ignores=[])


def _subtest(node: ast.stmt) -> str | None:
    if isinstance(node, ast.With) and isinstance(call := node.items[0].context_expr, ast.Call):
        argument = call.args[0]
        return str(argument.value) if isinstance(argument, ast.Constant) else None
    return None


@pytest.mark.skipif(os.geteuid() != 0, reason="systemd-nspawn needs root")
@pytest.mark.parametrize("name", LEFT_OUT)
def test_the_script_passes_in_the_guest(nix_tool: Nix, scripted: Scripted, name: str) -> None:
    script = nix_tool.eval_json(f"aistack.checks.{SYSTEM}.vm-{name}.testScript")
    tree = without(script.replace(HOST_NAME, "machine"), LEFT_OUT[name])
    names = {
        "machine": scripted,
        "visitor": scripted,
        "subtest": scripted.subtest,
        "start_all": scripted.start,
    }
    exec(compile(tree, name, "exec"), names)  # noqa: S102 - as NixOS' driver does
