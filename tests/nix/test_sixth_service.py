"""A service more is one entry in the table: all else follows, and no other service changes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aistack.service.keys import KeyStore, read_key
from nix.closure import named
from nix.hosts import BASE
from nix.toolchain import Nix

#: What somebody adds to stack.toml; nothing else in this file is known to the modules.
ENTRY = """
[services.weather]
summary = "A sixth service"
module = "weather.app"
routes = ["/v1/weather"]
openai_routes = []
needs = { redis = "degrades" }
calls = []
clients = ["front"]
network = "unix"
state = "data"
scopes = ["weather.read", "openapi.read"]

[services.weather.limits]
body_bytes = 4096
concurrency = 8
request_seconds = 30
drain_seconds = 7
start_seconds = 40
watchdog_seconds = 11
"""


def host(tool: Nix) -> str:
    """The base with the entry, as an expression."""
    table = f'(builtins.readFile (root + "/src/aistack/stack.toml")) + {json.dumps(ENTRY)}'
    special = f"{{ aistackStack = builtins.fromTOML ({table}); }}"
    return tool.host(BASE).replace("nixosSystem {", f"nixosSystem {{ specialArgs = {special};", 1)


@pytest.fixture(scope="module")
def units(nix_tool: Nix) -> dict[str, str]:
    """The unit files of a host with the entry."""
    found: dict[str, str] = nix_tool.eval_json(f"{host(nix_tool)}.config.system.build.units")
    return found


@pytest.fixture(scope="module")
def before(nix_tool: Nix) -> dict[str, str]:
    """The unit files of a host without it."""
    found: dict[str, str] = nix_tool.eval_json(f"{nix_tool.host(BASE)}.config.system.build.units")
    return found


def section(text: str, name: str) -> dict[str, list[str]]:
    """The lines of one section of a unit file, by key; it may be there more than once."""
    lines: dict[str, list[str]] = {}
    here = False
    for line in text.splitlines():
        if line.startswith("["):
            here = line == f"[{name}]"
        elif here and "=" in line:
            key, _, value = line.partition("=")
            lines.setdefault(key, []).append(value)
    return lines


def test_socket(units: dict[str, str]) -> None:
    lines = section(units["aistack-weather.socket"], "Socket")
    assert lines["ListenStream"] == ["/run/aistack/weather.sock"]
    assert lines["SocketMode"] == ["0660"]
    assert lines["SocketGroup"] == ["aistack-weather-clients"]


def test_unit_with_what_the_entry_says(units: dict[str, str]) -> None:
    lines = section(units["aistack-weather.service"], "Service")
    (command,) = lines["ExecStart"]
    assert "/bin/aistack serve weather --config /nix/store/" in command
    assert lines["WatchdogSec"] == ["11"]
    assert lines["StateDirectory"] == ["aistack-weather"]
    # 40 to start and 7 to drain, and something for the process itself.
    assert int(lines["TimeoutStartSec"][0]) > 40
    assert int(lines["TimeoutStopSec"][0]) > 7
    assert "redis-aistack" in lines["SupplementaryGroups"]
    assert "aistack-aidb-clients" not in lines["SupplementaryGroups"]
    assert {"internal-key:/var/lib/aistack/keys/internal/weather.key"} < set(
        lines["LoadCredential"]
    )
    ordering = section(units["aistack-weather.service"], "Unit")
    assert ordering["Requires"] == ["aistack-weather.socket"]
    assert "redis-aistack.service" in ordering["After"][0].split()
    assert "aistack.target" in section(units["aistack-weather.service"], "Install")["WantedBy"]


def test_hardening_and_limits_are_those_of_its_kind(units: dict[str, str]) -> None:
    """All keys of the coordinator, which is of the same kind, but those that name it."""
    ours, like = (
        section(units[f"aistack-{name}.service"], "Service") for name in ("weather", "coordinator")
    )
    own = {
        "ExecStart", "LoadCredential", "SupplementaryGroups", "User", "WatchdogSec",
        "TimeoutStartSec", "TimeoutStopSec", "StateDirectory", "StateDirectoryMode",
        "MemoryHigh", "MemoryMax", "TasksMax", "CPUWeight",
    }  # fmt: skip
    assert {key: ours.get(key) for key in like if key not in own} == {
        key: value for key, value in like.items() if key not in own
    }
    assert set(ours) - set(like) <= own
    assert ours["PrivateNetwork"] == ["true"]
    assert ours["User"] == ["aistack-weather"]
    assert set(ours) >= {"MemoryHigh", "MemoryMax", "TasksMax", "CPUWeight"}


def test_options(nix_tool: Nix) -> None:
    made = nix_tool.eval_json(
        f"let h = {host(nix_tool)}; in {{"
        " options = builtins.attrNames h.options.services.aistack.weather;"
        " groups = h.config.users.groups ? aistack-weather-clients;"
        ' roles = builtins.elem "weather" h.config.services.aistack.roles; }'
    )
    same = nix_tool.eval_json(
        f"builtins.attrNames {nix_tool.host(BASE)}.options.services.aistack.aidb"
    )
    assert made == {"options": same, "groups": True, "roles": True}


def test_nginx(nix_tool: Nix, units: dict[str, str]) -> None:
    conf = named(nix_tool, host(nix_tool), "nginx.conf")
    assert "server unix:/run/aistack/weather.sock" in conf
    for location in ("= /v1/weather", "^~ /v1/weather/", "= /docs/weather", "= /weather/metrics"):
        assert f"location {location} {{" in conf
    assert '"~^/v1/weather(/|$)" 4096;' in conf
    nginx = section(units["nginx.service"], "Service")
    assert "aistack-weather-clients" in nginx["SupplementaryGroups"]


def test_scrape_target_alerts_and_dashboard(nix_tool: Nix) -> None:
    made = host(nix_tool)
    scraped = nix_tool.eval_json(f"{made}.config.services.prometheus.scrapeConfigs")
    paths = [job.get("metrics_path") for job in scraped]
    assert "/weather/metrics" in paths
    probed = json.dumps(scraped)
    assert "http://127.0.0.1:9180/weather/readyz" in probed
    assert "https://127.0.0.1:443/v1/weather" in probed

    rules = named(nix_tool, made, "aistack-rules.json")
    for service in ("weather", "aidb"):
        assert f'"service":"{service}"' in rules, service
    assert "weather" in named(nix_tool, made, "aistack-dashboard-overview.json")


def test_key_scope(nix_tool: Nix, tmp_path: Path) -> None:
    """With the table that aistack-secrets gets, the first key opens it, and it has its own key."""
    stack = tmp_path / "aistack-stack.json"
    stack.write_text(
        json.dumps(nix_tool.eval_json(f"{host(nix_tool)}.config.services.aistack.stack")),
        encoding="utf-8",
    )
    made = named(nix_tool, host(nix_tool), "aistack-stack.json")
    assert stack.read_text(encoding="utf-8").replace(" ", "") in made.replace(" ", "")

    def run(*words: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "aistack", "--data-dir", str(tmp_path), "--json", *words],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        return json.loads(done.stdout)

    run("keys", "init", "--stack", str(stack))
    keys = tmp_path / "keys"
    store = KeyStore(keys / "keys.json", keys / "pepper")
    internal = store.verify(read_key(keys / "internal" / "weather.key"))
    assert internal.scopes == frozenset()
    first = store.verify(read_key(keys / "default.key"))
    assert "weather.read" in first.scopes


def test_no_other_service_changes(units: dict[str, str], before: dict[str, str]) -> None:
    """Only those know of it that have to: the door, the maker of keys, and what watches."""
    changed = {name for name in before if units[name] != before[name]}
    assert changed <= {
        "nginx.service",
        "aistack-secrets.service",
        "prometheus.service",
        "grafana.service",
        "aistack-restore@.service",
        "aistack-restore-keys@.service",
    }
    assert set(units) - set(before) == {"aistack-weather.service", "aistack-weather.socket"}


def test_nothing_in_the_modules_names_a_service_of_the_table(nix_tool: Nix) -> None:
    """A host with another table altogether: its services, and none of ours."""
    table = json.dumps(ENTRY)
    special = f"{{ aistackStack = builtins.fromTOML {table}; }}"
    other = nix_tool.host(BASE, "{ services.aistack.llama.enable = false; }").replace(
        "nixosSystem {", f"nixosSystem {{ specialArgs = {special};", 1
    )
    units: dict[str, str] = nix_tool.eval_json(f"{other}.config.system.build.units")
    sockets = {name for name in units if name.endswith(".socket")}
    assert sockets == {"aistack-weather.socket", "aistack-otlp.socket"}
