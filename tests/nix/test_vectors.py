"""The engine of vectors: what follows from choosing Qdrant, here and elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aistack.config import load_config
from nix.hosts import BASE, ask, failures, settings
from nix.toolchain import Nix

HERE = '{ services.aistack.vectors.engine = "qdrant"; }'
ELSEWHERE = (
    '{ services.aistack = { vectors.engine = "qdrant";'
    ' qdrant = { url = "https://q.example.org:6333"; apiKeyFile = "/run/secrets/q"; }; }; }'
)
KEY = "/run/credentials/aistack-aidb.service/qdrant-api-key"


def unit(tool: Nix, name: str, *modules: str) -> dict[str, Any]:
    """The relations and the `serviceConfig` of a service."""
    found: dict[str, Any] = tool.eval_json(
        f'let u = ({tool.host(BASE, *modules)}).config.systemd.services."{name}";'
        " in { inherit (u) after wants serviceConfig; }"
    )
    return found


def test_without_it_aidb_knows_of_no_qdrant(nix_tool: Nix) -> None:
    assert "vectors" not in settings(nix_tool, "aidb")
    aidb = unit(nix_tool, "aistack-aidb")
    assert "qdrant.service" not in aidb["wants"] + aidb["after"]
    assert aidb["serviceConfig"]["PrivateNetwork"] is True
    # One that runs for other purposes changes nothing.
    beside = unit(nix_tool, "aistack-aidb", "{ services.aistack.qdrant.enable = true; }")
    assert beside["serviceConfig"] == aidb["serviceConfig"]


def test_chosen_it_runs_here_with_its_key_and_aidb_gets_loopback(nix_tool: Nix) -> None:
    assert failures(nix_tool, HERE) == []
    assert ask(nix_tool, "services.qdrant.enable", HERE) is True
    aidb = unit(nix_tool, "aistack-aidb", HERE)
    assert "qdrant.service" in aidb["wants"]
    assert "qdrant.service" in aidb["after"]
    config = aidb["serviceConfig"]
    assert config["PrivateNetwork"] is False
    assert (config["IPAddressDeny"], config["IPAddressAllow"]) == ("any", "localhost")
    assert "qdrant-api-key:/var/lib/aistack/secrets/qdrant-api-key" in config["LoadCredential"]
    assert settings(nix_tool, "aidb", HERE)["vectors"] == {
        "engine": "qdrant",
        "qdrant": {
            "url": "http://127.0.0.1:6333",
            "api_key_file": KEY,
            "quantization": "none",
            "shards": 1,
            "replication_factor": 1,
            "write_consistency_factor": 1,
        },
    }
    # Nobody else gets the key or a network of it.
    for other in ("embeddings", "coordinator"):
        service = unit(nix_tool, f"aistack-{other}", HERE)
        assert "qdrant" not in str(service["serviceConfig"])
        assert service["serviceConfig"]["PrivateNetwork"] is True
        assert "vectors" not in settings(nix_tool, other, HERE)


def test_another_port_of_the_local_one_is_followed(nix_tool: Nix) -> None:
    other = "{ services.aistack.qdrant.settings.service.http_port = 7333; }"
    qdrant = settings(nix_tool, "aidb", HERE, other)["vectors"]["qdrant"]
    assert qdrant["url"] == "http://127.0.0.1:7333"


def test_elsewhere_nothing_runs_here_and_aidb_reaches_out(nix_tool: Nix) -> None:
    assert failures(nix_tool, ELSEWHERE) == []
    assert ask(nix_tool, "services.qdrant.enable", ELSEWHERE) is False
    assert ask(nix_tool, 'systemd.services ? "aistack-qdrant-key"', ELSEWHERE) is False
    aidb = unit(nix_tool, "aistack-aidb", ELSEWHERE)
    assert "qdrant.service" not in aidb["wants"]
    assert "network-online.target" in aidb["wants"]
    assert "IPAddressAllow" not in aidb["serviceConfig"]
    assert aidb["serviceConfig"].get("IPAddressDeny") is None
    assert "qdrant-api-key:/run/secrets/q" in aidb["serviceConfig"]["LoadCredential"]
    qdrant = settings(nix_tool, "aidb", ELSEWHERE)["vectors"]["qdrant"]
    assert (qdrant["url"], qdrant["api_key_file"]) == ("https://q.example.org:6333", KEY)
    # A new key starts aidb again.
    assert "/run/secrets/q" in ask(
        nix_tool, 'services.aistack.secrets.watch."aistack-aidb"', ELSEWHERE
    )


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://q.example.org:6333", True),
        ("https://q.example.org:6333", False),
        ("http://127.0.0.1:6333", False),
        ("http://[::1]:6333", False),
    ],
)
def test_a_key_in_the_clear_is_warned_of(nix_tool: Nix, url: str, warned: bool) -> None:
    module = (
        '{ services.aistack = { vectors.engine = "qdrant";'
        f' qdrant = {{ url = "{url}"; apiKeyFile = "/run/secrets/q"; }}; }}; }}'
    )
    warnings = ask(nix_tool, "warnings", module)
    assert any("cross the network in the" in warning for warning in warnings) is warned
    network = unit(nix_tool, "aistack-aidb", module)["serviceConfig"]
    assert ("IPAddressAllow" in network) is (not url.endswith("example.org:6333"))


def test_options_of_a_cluster_are_passed_through_and_taken(nix_tool: Nix, tmp_path: Path) -> None:
    module = """{ services.aistack = {
      vectors = { engine = "qdrant"; quantization = "int8"; shards = 3; replicationFactor = 2;
        writeConsistencyFactor = 2; };
      qdrant = { cluster.uri = "http://10.0.0.5:6335";
        settings = { cluster.enabled = true; service.host = "10.0.0.5"; }; };
      settings.vectors.qdrant.timeout_seconds = 5; }; }"""
    assert failures(nix_tool, module) == []
    said = settings(nix_tool, "aidb", module)["vectors"]
    path = tmp_path / "aidb.json"
    path.write_text(json.dumps({"vectors": said}))
    qdrant = load_config(path).vectors.qdrant
    assert (qdrant.quantization, qdrant.shards) == ("int8", 3)
    assert (qdrant.replication_factor, qdrant.write_consistency_factor) == (2, 2)
    assert (qdrant.url, qdrant.timeout_seconds) == ("http://10.0.0.5:6333", 5)


def test_a_machine_without_aidb_runs_no_qdrant_of_its_own(nix_tool: Nix) -> None:
    module = (
        '{ services.aistack = { vectors.engine = "qdrant"; roles = [ "embeddings" "front" ];'
        ' replicas.aidb = [ "10.0.0.2:9443" ]; replicas.coordinator = [ "10.0.0.2:9443" ]; }; }'
    )
    assert ask(nix_tool, "services.qdrant.enable", module) is False
    said = failures(nix_tool, module)
    assert not any("Qdrant" in message for message in said), said
