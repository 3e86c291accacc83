"""Alerts fire when they should, and nothing asks for a metric that does not exist."""

from __future__ import annotations

import ast
import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from aistack.service.metrics import SECONDS
from fix_observability import (
    OBSERVABILITY,
    ROOT,
    SERVICES,
    Rules,
    metric_names,
    queries,
    selectors,
    tool,
)
from nix.debian import Prefix
from nix.hosts import BASE, failures
from nix.toolchain import Nix, NixError

TESTS = sorted((OBSERVABILITY / "tests").glob("*.yml"))
#: Labels that Prometheus or our scrape jobs put on.
TARGET_LABELS = {"job", "instance", "service", "llama", "le"}


def declared() -> dict[str, set[str]]:
    """Our metrics and their labels, read from the code."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "src/aistack").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id not in ("Counter", "Gauge", "Histogram") or not node.args:
                continue
            first = node.args[0]
            if not (isinstance(first, ast.Constant) and str(first.value).startswith("aistack_")):
                continue
            labels = [arg for arg in node.args if isinstance(arg, ast.List)]
            names = (
                {str(e.value) for e in labels[0].elts if isinstance(e, ast.Constant)}
                if labels
                else set()
            )
            name = str(first.value)
            ends = ("_bucket", "_sum", "_count") if node.func.id == "Histogram" else ("",)
            found |= {name + end: names for end in ends}
    return found


def foreign() -> set[str]:
    """Metrics of exporters and of Prometheus itself."""
    table = tomllib.loads((OBSERVABILITY / "metrics.toml").read_text())
    return {name for entry in table.values() for name in entry["names"] + entry.get("series", [])}


def test_rules_are_valid(rules: Rules, monitoring: Prefix, tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text(rules.text)
    assert "SUCCESS" in tool(monitoring, "promtool", "check", "rules", "--lint-fatal", file)


@pytest.mark.parametrize("file", TESTS, ids=lambda path: path.stem)
def test_unit_tests_of_the_alerts(
    file: Path, rules: Rules, monitoring: Prefix, tmp_path: Path
) -> None:
    (tmp_path / "rules.json").write_text(rules.text)
    shutil.copy(file, tmp_path)
    assert "SUCCESS" in tool(monitoring, "promtool", "test", "rules", file.name, cwd=tmp_path)


def test_a_wrong_rule_fails_its_unit_test(rules: Rules, monitoring: Prefix, tmp_path: Path) -> None:
    harmed = rules.text.replace('up{job=\\"aistack\\"} == 0', 'up{job=\\"aistack\\"} == 2')
    assert harmed != rules.text
    (tmp_path / "rules.json").write_text(harmed)
    shutil.copy(OBSERVABILITY / "tests/services.yml", tmp_path)
    with pytest.raises(AssertionError, match="AistackServiceDown"):
        tool(monitoring, "promtool", "test", "rules", "services.yml", cwd=tmp_path)


def test_every_alert_is_tested_both_ways(rules: Rules) -> None:
    named = [
        name
        for file in TESTS
        for name in re.findall(r"^  - name: (.+)$", file.read_text(), re.MULTILINE)
    ]
    assert {name.split()[0] for name in named} == set(rules.alerts)
    for alert in rules.alerts:
        assert any(name.startswith(f"{alert} fires") for name in named), alert
        assert any(name.startswith(f"{alert} is quiet") for name in named), alert


def test_every_alert_says_what_is_wrong_and_where_to_read_on(rules: Rules) -> None:
    runbook = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    anchors = {
        heading.lower() for heading in re.findall(r"^#+ (Aistack\w+)$", runbook, re.MULTILINE)
    }
    for name, rule in rules.alerts.items():
        notes = rule["annotations"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert notes["summary"]
        assert notes["description"].endswith(".")
        assert notes["runbook_url"] == f"docs/operations.md#{name.lower()}"
        assert name.lower() in anchors, f"docs/operations.md has no heading {name}"


def test_rules_and_dashboards_name_only_metrics_that_exist(
    rules: Rules, dashboards: dict[str, Any]
) -> None:
    known = set(declared()) | foreign() | rules.records
    expressions = [rule["expr"] for rule in rules.all]
    expressions += [query for board in dashboards.values() for query in queries(board)]
    assert len(expressions) > 120
    used = set().union(*map(metric_names, expressions))
    assert used - known == set()
    assert foreign() - used == set(), "metrics.toml lists what nobody uses"


def test_selectors_name_only_labels_that_exist(rules: Rules, dashboards: dict[str, Any]) -> None:
    own = declared()
    expressions = [rule["expr"] for rule in rules.all]
    expressions += [query for board in dashboards.values() for query in queries(board)]
    checked = 0
    for expression in expressions:
        for name, labels in selectors(expression):
            if name in own:
                assert labels <= own[name] | TARGET_LABELS, (expression, name)
                checked += 1
    assert checked > 50


def test_the_names_are_really_taken_from_an_expression() -> None:
    text = (
        'sum by (service) (rate(a_total{x="b_total"}[5m])) / on (c) group_left () d:e > 0.9 and up'
    )
    assert metric_names(text) == {"a_total", "d:e", "up"}
    assert selectors('a{job="x",route!~"/(y|z)"} + b{le="2.5"}') == [
        ("a", {"job", "route"}),
        ("b", {"le"}),
    ]


def test_every_service_has_its_objectives_and_its_row(nix_tool: Nix) -> None:
    """A sixth service gets both without a line of its own."""
    services = [*SERVICES, "health-monitor"]
    listed = " ".join(f'"{name}"' for name in services)
    found = nix_tool.eval_json(
        "{ rules = import (root + /nix/observability/rules.nix) {"
        f" inherit (nixpkgs) lib; services = [ {listed} ];"
        " slo = { availability = 0.99; latency = 0.9; minRequests = 1;"
        "   latencySeconds = nixpkgs.lib.genAttrs"
        f" [ {listed} ] (_: 1); }};"
        " }; boards = import (root + /nix/observability/dashboards.nix) {"
        f" inherit (nixpkgs) lib; services = [ {listed} ]; }}; }}"
    )
    slow = {
        rule["labels"]["service"]
        for group in found["rules"]["groups"]
        for rule in group["rules"]
        if rule.get("record", "").startswith("aistack:http_slow")
    }
    rows = {p["title"] for p in found["boards"]["overview"]["panels"] if p["type"] == "row"}
    assert slow == set(services)
    assert set(services) <= rows


def test_dashboards_are_what_grafana_takes(dashboards: dict[str, Any]) -> None:
    assert len({board["uid"] for board in dashboards.values()}) == len(dashboards)
    for board in dashboards.values():
        panels = board["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        taken: set[tuple[int, int]] = set()
        for panel in panels:
            at = panel["gridPos"]
            assert at["x"] + at["w"] <= 24
            cells = {
                (x, y)
                for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            }
            assert not cells & taken, f"{board['title']}: {panel['title']} overlaps"
            taken |= cells
            if panel["type"] != "row":
                assert panel["title"]
                assert panel["targets"]
                assert panel["datasource"]["uid"] in ("aistack-prometheus", "aistack-tempo")


def test_objectives_are_buckets_of_the_histogram(nix_tool: Nix) -> None:
    allowed = nix_tool.eval_json(
        f"{nix_tool.host(BASE)}.options.services.aistack.prometheus.slo.latencySeconds"
        ".type.nestedTypes.elemType.functor.payload.values"
    )
    assert {float(value) for value in allowed} <= {float(value) for value in SECONDS}


def test_everything_listens_on_loopback(nix_tool: Nix) -> None:
    host = nix_tool.host(
        "{ services.aistack = { enable = true; alertmanager.receivers.ntfy = [ { url ="
        ' "https://ntfy.example.org/aistack"; } ]; }; system.stateVersion = "26.05"; }'
    )
    found = nix_tool.eval_json(
        f"let c = {host}.config.services; p = c.prometheus; in {{"
        " exporters = builtins.mapAttrs (n: e: e.listenAddress) (nixpkgs.lib.filterAttrs"
        " (n: e: (builtins.tryEval (e.enable or false)).value or false)"
        ' (removeAttrs p.exporters [ "assertions" "warnings" ]));'
        " prometheus = p.listenAddress; alertmanager = p.alertmanager.listenAddress;"
        " flags = p.alertmanager.extraFlags;"
        " grafana = c.grafana.settings.server.http_addr;"
        " tempo = { inherit (c.tempo.settings.server) http_listen_address grpc_listen_address;"
        " otlp = c.tempo.settings.distributor.receivers.otlp.protocols.grpc.endpoint;"
        " gossip = c.tempo.settings.memberlist.bind_addr; }; }"
    )
    assert set(found["exporters"]) == {"node", "systemd", "blackbox", "postgres", "redis", "nginx"}
    assert set(found["exporters"].values()) == {"127.0.0.1"}
    assert found["prometheus"] == found["alertmanager"] == found["grafana"] == "127.0.0.1"
    assert found["flags"] == ["--cluster.listen-address="]
    assert found["tempo"] == {
        "http_listen_address": "127.0.0.1",
        "grpc_listen_address": "127.0.0.1",
        "otlp": "127.0.0.1:4317",
        "gossip": ["127.0.0.1"],
    }


@pytest.mark.parametrize(("drivers", "exported"), [('[ "nvidia" ]', True), ("[ ]", False)])
def test_a_driver_is_not_brought_in_for_its_metrics(
    nix_tool: Nix, drivers: str, exported: bool
) -> None:
    """CUDA without the driver of this system: Windows' subsystem for Linux, a container."""
    host = nix_tool.host(
        '{ services.aistack = { enable = true; llama.acceleration = "cuda"; };'
        f" services.xserver.videoDrivers = {drivers}; hardware.nvidia.open = true;"
        ' nixpkgs.config.allowUnfree = true; system.stateVersion = "26.05"; }'
    )
    found = nix_tool.eval_json(
        f"let c = {host}.config.services; in {{"
        " on = c.prometheus.exporters.nvidia-gpu.enable;"
        " targets = c.aistack.prometheus.exporterTargets.nvidia-gpu; }"
    )
    assert found["on"] is exported
    assert bool(found["targets"]) is exported


def test_nothing_of_the_host_is_overridden(nix_tool: Nix) -> None:
    host = nix_tool.host(
        '{ services.aistack.enable = true; system.stateVersion = "26.05";'
        ' services.prometheus = { enable = true; port = 9999; retentionTime = "1y";'
        ' listenAddress = "10.0.0.1"; scrapeConfigs = [ { job_name = "mine"; } ];'
        ' rules = [ "groups: []" ]; };'
        " services.grafana.settings.server.http_port = 3333; }"
    )
    found = nix_tool.eval_json(
        f"let c = {host}.config.services; in {{ p = {{ inherit (c.prometheus) port retentionTime"
        " listenAddress rules; };"
        " jobs = map (s: s.job_name) c.prometheus.scrapeConfigs;"
        " url = (builtins.head c.grafana.provision.datasources.settings.datasources).url;"
        " grafana = c.grafana.settings.server.http_port; }"
    )
    assert found["p"] == {
        "port": 9999, "retentionTime": "1y", "listenAddress": "10.0.0.1", "rules": ["groups: []"],
    }  # fmt: skip
    assert "mine" in found["jobs"]
    assert len(set(found["jobs"])) == len(found["jobs"]), "Prometheus refuses a job twice"
    assert all(job == "mine" or job.startswith("aistack-") for job in found["jobs"])
    assert found["grafana"] == 3333


RECEIVERS = """{
  services.aistack = {
    enable = true;
    alertmanager.receivers = {
      email = [ { to = "a$b@example.org"; from = "c@example.org";
        smarthost = "mail.example.org:587"; username = "c"; passwordFile = "/run/secrets/mail"; } ];
      webhook = [ { urlFile = "/run/secrets/hook"; tokenFile = "/run/secrets/token"; } ];
      ntfy = [ { url = "https://ntfy.example.org/t"; tokenFile = "/run/secrets/ntfy"; } ];
    };
  };
  system.stateVersion = "26.05";
}"""


def test_alertmanager_takes_its_configuration(
    nix_tool: Nix, monitoring: Prefix, tmp_path: Path
) -> None:
    found = nix_tool.eval_json(
        f"let c = {nix_tool.host(RECEIVERS)}.config; in {{"
        " inherit (c.services.prometheus.alertmanager) configuration;"
        " credentials = c.systemd.services.alertmanager.serviceConfig.LoadCredential; }"
    )
    text = json.dumps(found["configuration"])
    assert "a$$b@example.org" in text, "envsubst of the unit turns it into one"
    assert "/run/secrets" not in text
    for name in re.findall(r"/run/credentials/alertmanager.service/([\w-]+)", text):
        assert any(entry.startswith(f"{name}:") for entry in found["credentials"]), name
    file = tmp_path / "alertmanager.json"
    file.write_text(text.replace("$$", "$"))
    assert "SUCCESS" in tool(monitoring, "amtool", "check-config", file)


def test_secrets_of_grafana_come_as_credentials(nix_tool: Nix) -> None:
    found = nix_tool.eval_json(
        f"let c = {nix_tool.host(BASE)}.config; in {{"
        " inherit (c.services.grafana.settings) security analytics users;"
        ' anonymous = c.services.grafana.settings."auth.anonymous".enabled;'
        " made = c.services.aistack.secrets.generate;"
        " given = c.systemd.services.grafana.serviceConfig.LoadCredential; }"
    )
    security = found["security"]
    assert security["secret_key"] == "$__file{/run/credentials/grafana.service/secret-key}"
    assert security["admin_password"] == "$__file{/run/credentials/grafana.service/admin-password}"
    assert "admin-password:/var/lib/aistack/secrets/grafana-admin-password" in found["given"]
    assert {"grafana-admin-password", "grafana-secret-key"} <= set(found["made"])
    assert found["anonymous"] is False
    assert found["users"]["allow_sign_up"] is False
    assert not any(found["analytics"].values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('tracing.endpoint = "https://otel.example.org";', "run services.opentelemetry-collector"),
        (
            "prometheus.enable = false;"
            ' alertmanager.receivers.ntfy = [ { url = "https://n/t"; } ];',
            "nobody would be told",
        ),
        ("alertmanager.receivers.webhook = [ { } ];", "give either url or urlFile"),
        ("prometheus.slo.latencySeconds.embedding = 1;", "there is no such service; use one of"),
        ('backup.restic = [ "offsite" ];', "which services.restic.backups does not have"),
        ('backup.directory = "/var/lib/aistack/backups";', "give an absolute path outside of"),
        ('backup.extraDirectories.keys = "/x";', "are the stack's own"),
    ],
)
def test_assertions_say_what_to_write(nix_tool: Nix, settings: str, message: str) -> None:
    failed = failures(nix_tool, f"{{ services.aistack = {{ {settings} }}; }}")
    assert len(failed) == 1
    assert message in " ".join(failed[0].split())


@pytest.mark.parametrize(
    "settings",
    [
        'tracing.endpoint = "http://user:word@otel:4317";',
        'alertmanager.receivers.ntfy = [ { url = "https://user:word@n/t"; } ];',
        'prometheus.retention = "30 days";',
        'prometheus.exporterTargets.nodes = [ "127.0.0.1:1" ];',
        "prometheus.slo.latencySeconds.aidb = 3;",
        "grafana.adminPasswordFile = ./word;",
    ],
)
def test_types_refuse(nix_tool: Nix, settings: str) -> None:
    host = nix_tool.host(
        f'{{ services.aistack = {{ enable = true; {settings} }}; system.stateVersion = "26.05"; }}'
    )
    with pytest.raises(NixError):
        nix_tool.eval_json(
            f"let c = {host}.config; in [ c.assertions c.services.prometheus.scrapeConfigs"
            " c.services.aistack.settings c.systemd.services.grafana.serviceConfig ]"
        )
