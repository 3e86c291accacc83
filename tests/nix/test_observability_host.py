"""What is observed fits the host: its own Prometheus and Grafana, its addresses, its ports."""

from __future__ import annotations

import json
import re

import pytest

from fix_observability import SERVICES
from nix.hosts import BASE
from nix.toolchain import Nix


def test_what_the_host_enables_itself_stays_where_it_is(nix_tool: Nix) -> None:
    """Not even our defaults reach a Grafana or a Prometheus that was there before."""
    base = "services.aistack.enable = true;"
    mine = (
        'system.stateVersion = "26.05"; services.prometheus.enable = true;'
        " services.grafana = { enable = true;"
        ' settings.security.secret_key = "$__file{/run/secrets/grafana}"; };'
    )
    asked = (
        "s = c.grafana.settings; p = { inherit (c.prometheus) listenAddress retentionTime; };"
        " made = c.aistack.secrets.generate; inherit (c.aistack.grafana) path;"
        " credentials = d.systemd.services.grafana.serviceConfig.LoadCredential or [ ];"
        " sources = map (s: s.uid) c.grafana.provision.datasources.settings.datasources;"
        ' site = c.nginx.virtualHosts.aistack.locations ? "^~ /grafana/";'
    )
    without = "(nixpkgs.lib.nixosSystem { modules = [ { " + mine + " } ]; })"
    before = nix_tool.eval_json(f"{without}.config.services.grafana.settings")
    found, ours = (
        nix_tool.eval_json(f"let d = {host}.config; c = d.services; in {{ {asked} }}")
        for host in (nix_tool.host(f"{{ {base} {mine} }}"), nix_tool.host(BASE))
    )
    del before["paths"], found["s"]["paths"]  # where the sources are
    assert found["s"] == before
    assert found["p"] == {"listenAddress": "0.0.0.0", "retentionTime": None}
    assert not [name for name in found["made"] if "grafana" in name]
    assert found["credentials"] == []
    assert (found["path"], found["site"]) == (None, False)
    assert found["sources"] == ["aistack-prometheus", "aistack-tempo"]
    assert ours["s"]["server"]["serve_from_sub_path"] is True
    assert ours["p"] == {"listenAddress": "127.0.0.1", "retentionTime": "30d"}
    assert (ours["path"], ours["site"]) == ("/grafana/", True)


TEMPO_3 = (
    "{ nixpkgs.overlays = [ (_: previous: { tempo = previous.tempo"
    '.overrideAttrs (_: { version = "3.0.2"; }); }) ]; }'
)


@pytest.mark.parametrize(("overlay", "old"), [("{ }", True), (TEMPO_3, False)])
def test_tempo_needs_no_address_of_the_machine(nix_tool: Nix, overlay: str, old: bool) -> None:
    """Every ring of the manifest of its version is told an address, and no key is unknown to it."""
    unit = nix_tool.host(BASE, overlay)
    settings = nix_tool.eval_json(f"{unit}.config.services.tempo.settings")
    rings = {
        name: value["ring"]["instance_addr"] for name, value in settings.items() if "ring" in value
    }
    every = {"distributor", "metrics_generator", "live_store", "backend_worker"}
    assert rings == dict.fromkeys(every | ({"compactor"} if old else set()), "127.0.0.1")
    if old:
        assert settings["ingester"]["lifecycler"]["address"] == "127.0.0.1"
    assert ("ingester" in settings) is ("compactor" in settings) is old
    paths = [*re.findall(r"/var/[\w/-]+", json.dumps(settings))]
    assert len(paths) == 5
    assert all(path.startswith("/var/lib/tempo/") for path in paths)
    found = nix_tool.eval_json(f"{unit}.config.systemd.services.tempo.unitConfig")
    assert found["StartLimitIntervalSec"] == 0


@pytest.mark.parametrize(
    ("options", "site"),
    [
        ("", "https://127.0.0.1:443"),
        ("httpsPort = 8443;", "https://127.0.0.1:8443"),
        ('listenAddresses = [ "10.0.0.9" "127.0.0.1" ];', "https://10.0.0.9:443"),
        ('listenAddresses = [ "[::0]" ];', "https://[::1]:443"),
        (
            'tls.mode = "off"; httpPort = 8080; listenAddresses = [ "127.0.0.1" ];',
            "http://127.0.0.1:8080",
        ),
    ],
)
def test_the_front_is_probed_where_it_listens(nix_tool: Nix, options: str, site: str) -> None:
    host = nix_tool.host(f"{{ services.aistack.nginx = {{ {options} }}; }}", BASE)
    jobs = nix_tool.eval_json(f"{host}.config.services.prometheus.scrapeConfigs")
    front = next(job for job in jobs if job["job_name"] == "aistack-front")
    probed = {entry["labels"]["service"]: entry["targets"] for entry in front["static_configs"]}
    assert set(probed) == set(SERVICES)
    assert probed["coordinator"] == [f"{site}/v1/chat"]


@pytest.mark.parametrize("name", [None, "ai.example.org"])
def test_the_probe_asks_for_the_name_of_the_site(nix_tool: Nix, name: str | None) -> None:
    options = "" if name is None else f'services.aistack.nginx.hostName = "{name}";'
    host = nix_tool.host(f'{{ {options} networking.hostName = "box"; }}', BASE)
    found = nix_tool.eval_json(
        f"let c = {host}.config.services; in {{ inherit (c.nginx.virtualHosts.aistack) serverName;"
        " probe = builtins.fromJSON c.prometheus.exporters.blackbox.configFile.text; }"
    )
    front = found["probe"]["modules"]["front"]["http"]
    assert front["headers"]["Host"] == found["serverName"]
    assert front["tls_config"]["server_name"] == found["serverName"]


def test_only_what_the_front_serves_is_probed(nix_tool: Nix) -> None:
    hidden = '(root + "/src/aistack/stack.toml")'
    host = nix_tool.host(BASE).replace(
        "nixosSystem {",
        "nixosSystem { specialArgs.aistackStack = let table = nixpkgs.lib.importTOML"
        f" {hidden}; in nixpkgs.lib.recursiveUpdate table {{ services.embeddings.clients ="
        ' [ "aidb" "coordinator" ]; };',
        1,
    )
    jobs = nix_tool.eval_json(f"{host}.config.services.prometheus.scrapeConfigs")
    front = next(job for job in jobs if job["job_name"] == "aistack-front")
    served = {entry["labels"]["service"] for entry in front["static_configs"]}
    assert served == {"aidb", "coordinator"}
