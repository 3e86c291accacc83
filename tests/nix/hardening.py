"""What systemd says of the confinement of the units, by two of its versions.

    python -m nix.hardening       the table of docs/hardening.md

The figures are `systemd-analyze security` of unit files, without running them: 0 is the
best.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nix.debian import Prefix, prefix
from nix.hosts import BASE
from nix.toolchain import Nix, nix

#: The suite of Debian that has each version of systemd.
VERSIONS = {252: "bookworm", 257: "trixie"}
#: Most that a unit of each kind may score on systemd 252.
BUDGETS = {
    "no network": 0.4,
    "sockets of others": 0.6,
    "loopback": 1.1,
    "a GPU": 1.3,
    # A service that a remote part makes a client of the internet, and the download of a model.
    "egress": 1.1,
    # Short runs that make or restore files of other users.
    "root": 1.6,
}

#: What each unit is, whatever its own text says, and where a host makes it something else. A unit
#: that lost its user or its empty network would else be measured by what it has become.
KINDS = {
    "aistack-aidb.service": "sockets of others",
    "aistack-backup.service": "root",
    "aistack-coordinator.service": "sockets of others",
    "aistack-embeddings.service": "sockets of others",
    "aistack-llama-chat.service": "no network",
    "aistack-migrate.service": "no network",
    "aistack-model-chat.service": "egress",
    "aistack-otlp.service": "loopback",
    "aistack-qdrant-key.service": "root",
    "aistack-restore-keys@.service": "root",
    "aistack-restore@.service": "root",
    "aistack-secrets.service": "root",
    "aistack-tls.service": "root",
    "redis-aistack.service": "no network",
}
FURTHER_KINDS = {
    # Traces go to a port of loopback, which a network namespace of its own would not have.
    "aistack-aidb.service": "loopback",
    "aistack-embeddings.service": "loopback",
    # llama.cpp is on another machine.
    "aistack-coordinator.service": "egress",
}
GPU_KINDS = {"aistack-embeddings.service": "a GPU", "aistack-llama-chat.service": "a GPU"}

#: Everything that has a unit of ours; and a host whose services reach further.
EVERYTHING = "{ services.aistack = { qdrant.enable = true; }; }"
FURTHER = (
    '{ services.aistack.settings = { llama.address = "https://gpu.example.org";'
    ' tracing.endpoint = "http://127.0.0.1:4317"; };'
    ' services.aistack.llama.instances.chat.fetch = "start"; }'
)
GPU = (
    "{ nixpkgs.config = { cudaSupport = true; allowUnfree = true; };"
    ' services.aistack = { settings.embeddings.encoder = "torch"; llama.acceleration = "cuda"; }; }'
)


@cache
def analyzer(version: int) -> Prefix:
    """systemd's programs of one version."""
    return prefix(f"systemd-{version}", VERSIONS[version], ["systemd"])


def units(tool: Nix, *modules: str) -> dict[str, str]:
    """The text of every service of a host."""
    host = tool.host(BASE, *modules)
    found: dict[str, str] = tool.eval_json(
        f"builtins.mapAttrs (n: u: u.text) (nixpkgs.lib.filterAttrs (n: u:"
        f' nixpkgs.lib.hasSuffix ".service" n) ({host}).config.systemd.units)'
    )
    return found


def score(version: int, name: str, text: str) -> float:
    """The exposure of a unit file. Raises ValueError with what the program says of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(text)
        done = subprocess.run(
            analyzer(version).command(
                "systemd-analyze", "--offline=true", "--no-pager", "security", path
            ),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    marker = "Overall exposure level for "
    for line in done.stdout.splitlines():
        if marker in line:
            return float(line.rsplit(": ", 1)[1].split()[0])
    raise ValueError(done.stderr.strip() or done.stdout.strip())


def setting(text: str, key: str) -> list[str]:
    """Every value of a key in a unit file."""
    return [line.split("=", 1)[1] for line in text.splitlines() if line.startswith(f"{key}=")]


def kind(text: str) -> str:
    """What a unit may reach, which decides its budget."""
    if not setting(text, "User") and not setting(text, "DynamicUser"):
        return "root"
    if any("nvidia" in device for device in setting(text, "DeviceAllow")):
        return "a GPU"
    if setting(text, "PrivateNetwork") != ["true"]:
        return "egress" if not setting(text, "IPAddressDeny") else "loopback"
    return "sockets of others" if setting(text, "SupplementaryGroups") else "no network"


@dataclass(frozen=True, slots=True)
class Row:
    """One unit in the table."""

    unit: str
    kind: str
    exceptions: str
    scores: Mapping[int, float]


#: Keys that an exception of nix/modules/hardening.nix changes, and the words for it.
CHANGES = {
    "MemoryDenyWriteExecute": {"false": "executable memory"},
    "PrivateUsers": {"false": "root's own user"},
    "ProcSubset": {"all": "/proc/cpuinfo"},
    "PrivateDevices": {"false": "devices of GPUs"},
    "CapabilityBoundingSet": {"CAP_DAC_READ_SEARCH": "reads every file"},
}


def row(name: str, text: str) -> Row:
    """The figures of one unit."""
    changed = [
        words[value]
        for key, words in CHANGES.items()
        for value in setting(text, key)
        if value in words
    ]
    return Row(name, kind(text), ", ".join(changed), {v: score(v, name, text) for v in VERSIONS})


def ours(texts: Mapping[str, str]) -> dict[str, str]:
    """The units that this project writes, and the Redis that it adds to."""
    return {
        name: text
        for name, text in sorted(texts.items())
        if name.startswith("aistack-") or name == "redis-aistack.service"
    }


def table(tool: Nix) -> str:
    """Markdown of every unit of the default host with everything on."""
    head = "| unit | may reach | exceptions | systemd 252 | systemd 257 |\n|---|---|---|---|---|\n"
    rows = (row(name, text) for name, text in ours(units(tool, EVERYTHING)).items())
    return head + "".join(
        f"| `{r.unit}` | {r.kind} | {r.exceptions} | {r.scores[252]:.1f} | {r.scores[257]:.1f} |\n"
        for r in rows
    )


if __name__ == "__main__":
    sys.stdout.write(table(nix()))
