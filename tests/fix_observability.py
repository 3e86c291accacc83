"""Rules, dashboards and Prometheus' own programs, for tests of what is observed."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nix.debian import Prefix, prefix
from nix.required import needed
from nix.toolchain import Nix

ROOT = Path(__file__).resolve().parents[1]
OBSERVABILITY = ROOT / "nix" / "observability"
SERVICES = ["aidb", "coordinator", "embeddings"]
PACKAGES = [
    "prometheus",
    "prometheus-alertmanager",
    *(f"prometheus-{name}-exporter" for name in ("blackbox", "nginx", "node", "postgres", "redis")),
]
#: Parameters to which the unit tests in nix/observability/tests are written.
PARAMETERS = """{
  inherit (nixpkgs) lib;
  services = [ "aidb" "coordinator" "embeddings" ];
  slo = {
    availability = 0.995;
    latency = 0.95;
    latencySeconds = { aidb = 2.5; coordinator = 60; embeddings = 2.5; };
    minRequests = 20;
  };
  memoryLimits.aidb = 1073741824;
  backupMaxAge = 129600;
}"""


@dataclass(frozen=True, slots=True)
class Rules:
    """A rule file of Prometheus."""

    text: str

    @property
    def all(self) -> list[dict[str, Any]]:
        return [rule for group in json.loads(self.text)["groups"] for rule in group["rules"]]

    @property
    def alerts(self) -> dict[str, dict[str, Any]]:
        return {rule["alert"]: rule for rule in self.all if "alert" in rule}

    @property
    def records(self) -> set[str]:
        return {rule["record"] for rule in self.all if "record" in rule}


@pytest.fixture(scope="session")
def rules(nix_tool: Nix) -> Rules:
    """The rules with the parameters of the unit tests."""
    expression = f"import (root + /nix/observability/rules.nix) {PARAMETERS}"
    return Rules(json.dumps(nix_tool.eval_json(expression)))


@pytest.fixture(scope="session")
def dashboards(nix_tool: Nix) -> dict[str, Any]:
    """Every dashboard with every row."""
    listed = " ".join(f'"{name}"' for name in SERVICES)
    found: dict[str, Any] = nix_tool.eval_json(
        "import (root + /nix/observability/dashboards.nix)"
        f" {{ inherit (nixpkgs) lib; services = [ {listed} ]; tempo = true; gpu = true; }}"
    )
    return found


@pytest.fixture(scope="session")
def monitoring() -> Prefix:
    """Prometheus, its tools and exporters, from Debian; skips where they cannot be had."""
    with needed():
        return prefix("monitoring", "trixie", PACKAGES)


def tool(monitoring: Prefix, name: str, *arguments: str | Path, cwd: Path | None = None) -> str:
    """Run a checker; what it says. Fails the test with its words."""
    done = subprocess.run(
        monitoring.command(name, *arguments),
        capture_output=True, text=True, check=False, cwd=cwd, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


#: Words of PromQL that are no names of metrics.
KEYWORDS = {"and", "or", "unless", "bool", "offset", "on", "by", "without", "ignoring"}


def metric_names(expression: str) -> set[str]:
    """The metrics that a PromQL expression reads."""
    bare = re.sub(r'"(\\.|[^"\\])*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    # A name is no function (followed by a bracket) and no number.
    names = re.findall(r"(?<![\w:.])([a-zA-Z_:][\w:]*)\b(?!\s*\()", bare)
    return set(names) - KEYWORDS


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """Each metric with the labels that select it."""
    return [
        (name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', labels))))
        for name, labels in re.findall(
            r"([a-zA-Z_:][\w:]*)\{((?:[^}\"]|\"[^\"]*\")*)\}", expression
        )
    ]


def queries(dashboard: dict[str, Any]) -> list[str]:
    """The PromQL of all panels."""
    return [
        target["expr"]
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
        if "expr" in target
    ]
