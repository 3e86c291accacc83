"""The units of the services: sockets, limits, restarts, configuration, and what refuses a host."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from aistack.config import load_config
from aistack.service.errors import StartError
from aistack.service.private_files import MISSING
from aistack.stack import ServiceEntry, load_stack
from nix.hosts import BASE, FAILED, ask, failures, settings
from nix.toolchain import ROOT, Nix

SERVICES = load_stack().services


@pytest.fixture(scope="module")
def units(nix_tool: Nix) -> dict[str, dict[str, Any]]:
    """`serviceConfig` and the relations of each service and socket of the default host."""
    found: dict[str, dict[str, Any]] = nix_tool.eval_json(
        f"let c = ({nix_tool.host(BASE)}).config.systemd; take = u: {{ inherit (u) after wants"
        " requires partOf wantedBy unitConfig; }; in"
        " builtins.mapAttrs (n: u: take u // { inherit (u) serviceConfig stopIfChanged; })"
        ' (nixpkgs.lib.filterAttrs (n: _: nixpkgs.lib.hasPrefix "aistack-" n) c.services)'
        ' // nixpkgs.lib.mapAttrs\' (n: u: { name = "${n}.socket"; value = take u //'
        " { inherit (u) socketConfig listenStreams; }; })"
        ' (nixpkgs.lib.filterAttrs (n: _: nixpkgs.lib.hasPrefix "aistack-" n) c.sockets)'
    )
    return found


@pytest.mark.parametrize("name", SERVICES)
def test_socket_stays_when_its_service_is_restarted(
    units: dict[str, dict[str, Any]], name: str
) -> None:
    socket, service = units[f"aistack-{name}.socket"], units[f"aistack-{name}"]
    assert socket["listenStreams"] == [f"/run/aistack/{name}.sock"]
    assert socket["socketConfig"]["SocketMode"] == "0660"
    assert socket["socketConfig"]["SocketGroup"] == f"aistack-{name}-clients"
    assert set(socket["wantedBy"]) == {"sockets.target", "aistack.target"}
    assert f"aistack-{name}.service" not in [*socket["partOf"], *socket["requires"]]
    assert f"aistack-{name}.socket" in service["requires"]
    assert f"aistack-{name}.socket" in service["after"]
    assert service["stopIfChanged"] is False


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_never_given_up_and_never_restarted_fast(
    units: dict[str, dict[str, Any]], name: str
) -> None:
    service = units[f"aistack-{name}"]
    config = service["serviceConfig"]
    assert service["unitConfig"]["StartLimitIntervalSec"] == 0
    assert units[f"aistack-{name}.socket"]["socketConfig"]["TriggerLimitIntervalSec"] == 0
    assert config["Restart"] == "always"
    assert (config["RestartSec"], config["RestartMaxDelaySec"]) == ("500ms", 20)
    # A failed requirement is no failed start: the socket would ask for the next one at once.
    assert service["requires"] == [f"aistack-{name}.socket"]
    assert "RestartPreventExitStatus" not in config


@pytest.mark.parametrize("entry", SERVICES.values(), ids=str)
def test_times_follow_from_the_table(units: dict[str, dict[str, Any]], entry: ServiceEntry) -> None:
    config = units[f"aistack-{entry.name}"]["serviceConfig"]
    assert config["Type"] == "notify"
    assert config["WatchdogSec"] == entry.limits.watchdog_seconds
    assert config["TimeoutStartSec"] > entry.limits.start_seconds
    assert config["TimeoutStopSec"] > entry.limits.drain_seconds


@pytest.mark.parametrize("entry", SERVICES.values(), ids=str)
def test_service_starts_after_what_it_needs(
    units: dict[str, dict[str, Any]], entry: ServiceEntry
) -> None:
    service = units[f"aistack-{entry.name}"]
    wanted = {
        "postgres": {"postgresql.target", "aistack-migrate.service"},
        "redis": {"redis-aistack.service"},
        "llama": set(),
        "qdrant": set(),  # nothing here: tests/nix/test_vectors.py
        **{name: {f"aistack-{name}.socket"} for name in SERVICES},
    }
    for need in entry.needs:
        assert wanted[need] <= set(service["after"])
        assert wanted[need] <= set(service["wants"])
    assert "aistack-secrets.service" in service["after"]


def test_a_missing_secret_reaches_the_program_as_such(
    units: dict[str, dict[str, Any]],
) -> None:
    """Else systemd ends the start with a line that names nothing."""
    for name in (*SERVICES, "migrate"):
        config = units[f"aistack-{name}"]["serviceConfig"]
        ids = [line.split(":")[0] for line in config["LoadCredential"]]
        assert config["SetCredential"] == [f"{id}:{MISSING}" for id in ids]
    assert len(MISSING) < 32  # no pepper


def test_clients_are_in_the_groups_of_the_sockets_that_list_them(
    units: dict[str, dict[str, Any]],
) -> None:
    for name in SERVICES:
        groups = units[f"aistack-{name}"]["serviceConfig"]["SupplementaryGroups"]
        for peer, entry in SERVICES.items():
            assert (f"aistack-{peer}-clients" in groups) is (name in entry.clients)


def test_limits_follow_from_the_profile(nix_tool: Nix, units: dict[str, dict[str, Any]]) -> None:
    profile = tomllib.loads((ROOT / "nix" / "profile.toml").read_text())["services"]
    for name in SERVICES:
        config = units[f"aistack-{name}"]["serviceConfig"]
        peak = profile[name]["rss_mib_peak"]
        high, most = (int(config[key].removesuffix("M")) for key in ("MemoryHigh", "MemoryMax"))
        most -= (children := SERVICES[name].limits.children_bytes >> 20)
        assert (children > 0) is (name == "aidb")
        assert peak * 1.5 + 64 <= high - children < most
        assert peak * 2 + 128 <= most <= peak * 2 + 128 + 32
        # A pool of threads for each of several libraries, on a host of some hundred cores.
        assert config["TasksMax"] >= profile[name]["tasks_peak"] * 2 + 4 * 256
        assert config["OOMPolicy"] == "kill"
    module = (
        '{ services.aistack.aidb = { memoryHigh = "1G"; memoryMax = "2G"; tasksMax = 99;'
        " cpuWeight = 300; extraServiceConfig.Nice = 5; }; }"
    )
    config = ask(nix_tool, 'systemd.services."aistack-aidb".serviceConfig', module)
    assert [config[k] for k in ("MemoryHigh", "MemoryMax", "TasksMax", "CPUWeight", "Nice")] == [
        "1G",
        "2G",
        99,
        300,
        5,
    ]


@pytest.mark.parametrize("name", SERVICES)
def test_configuration_is_one_that_the_service_takes(
    nix_tool: Nix, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "service.json"
    path.write_text(json.dumps(settings(nix_tool, name)))
    config = load_config(path)
    unit = f"/run/credentials/aistack-{name}.service"
    assert str(config.auth.pepper_file) == f"{unit}/pepper"
    assert str(config.auth.internal_key_file) == f"{unit}/internal-key"
    assert str(config.auth.keys_file) == "/var/lib/aistack/keys/keys.json"
    for peer in SERVICES[name].needs:
        if peer in SERVICES:
            assert getattr(config.peers, peer) == f"unix:/run/aistack/{peer}.sock"


def test_settings_of_the_service_win_over_the_shared_ones(nix_tool: Nix) -> None:
    module = (
        '{ services.aistack = { settings = { log.level = "warning"; aidb.workers = 3; };'
        ' aidb.settings.log.level = "debug"; }; }'
    )
    aidb = settings(nix_tool, "aidb", module)
    assert aidb["log"]["level"] == "debug"
    assert aidb["aidb"]["workers"] == 3
    assert aidb["aidb"]["embedding_model"]  # what follows from options stays
    assert settings(nix_tool, "embeddings", module)["log"]["level"] == "warning"


def test_a_reranking_model_reaches_the_service_that_has_it(nix_tool: Nix, tmp_path: Path) -> None:
    assert "rerank_model" not in settings(nix_tool, "embeddings")["embeddings"]
    module = '{ services.aistack.rerankModel = "/var/lib/models/judge"; }'
    made = settings(nix_tool, "embeddings", module)
    path = tmp_path / "service.json"
    path.write_text(json.dumps(made))
    assert load_config(path).embeddings.rerank_model == Path("/var/lib/models/judge")
    always = (
        '{ services.aistack = { rerankModel = "/var/lib/models/judge";'
        " settings.aidb.rerank = true; }; }"
    )
    assert failures(nix_tool, always) == []
    assert settings(nix_tool, "aidb", always)["aidb"]["rerank"] is True


def test_a_misspelt_setting_fails_the_build(nix_tool: Nix, tmp_path: Path) -> None:
    """The build runs `aistack config check` on each file; this is what that says."""
    module = "{ services.aistack.settings.aidb.chunk_tokes = 100; }"
    commands = nix_tool.eval_json(
        f'map (c: c.buildCommand or "") ({nix_tool.host(BASE, module)}).config.system.checks'
    )
    [check] = [text for text in commands if "config check" in text]
    files = [line.split()[-1] for line in check.splitlines() if " config check " in line]
    assert sorted(Path(f).name.split("-", 1)[1] for f in files) == sorted(
        f"aistack-{name}.json" for name in SERVICES
    )
    path = tmp_path / "aidb.json"
    path.write_text(json.dumps(settings(nix_tool, "aidb", module)))
    with pytest.raises(StartError, match=r"aidb\.chunk_tokes: no such key"):
        load_config(path)


@pytest.mark.parametrize(
    ("module", "service", "loopback", "egress"),
    [
        ("{ }", "coordinator", False, False),
        ('settings.llama.address = "http://127.0.0.1:8080";', "coordinator", True, False),
        ('settings.llama.address = "http://[::1]:8080";', "coordinator", True, False),
        ('settings.llama.address = "https://gpu.example.org";', "coordinator", False, True),
        ('settings.llama.address = "https://gpu.example.org";', "aidb", False, False),
        ('settings.tracing.endpoint = "http://localhost:4317";', "aidb", True, False),
        ('settings.tracing.endpoint = "unix:///run/x.sock";', "aidb", False, False),
        ('settings.peers.aidb = "http://10.0.0.2:8080";', "coordinator", False, True),
        (
            'redis = { createLocally = false; url = "rediss://cache.example.org:6380/0"; };',
            "embeddings",
            False,
            True,
        ),
        (
            'postgresql = { createLocally = false; host = "db.example.org";'
            ' passwordFile = "/run/secrets/db"; };',
            "aidb",
            False,
            True,
        ),
    ],
)
def test_network_follows_from_the_addresses(
    nix_tool: Nix, module: str, service: str, loopback: bool, egress: bool
) -> None:
    text = "{ }" if module == "{ }" else f"{{ services.aistack = {{ {module} }}; }}"
    unit = f'systemd.services."aistack-{service}"'
    config = ask(nix_tool, f"{unit}.serviceConfig", text)
    assert config["PrivateNetwork"] is not (loopback or egress)
    assert config.get("IPAddressAllow") == ("localhost" if loopback else None)
    assert config.get("IPAddressDeny") == (None if egress else "any")
    assert ("AF_INET6" in config["RestrictAddressFamilies"]) is (loopback or egress)
    assert ("network-online.target" in ask(nix_tool, f"{unit}.after", text)) is egress


@pytest.mark.parametrize(
    ("encoder", "package", "may"),
    [
        (None, "{ withOpenvino = false; }", False),
        ("onnx", "{ }", False),
        ("torch", "{ withTorch = true; withOpenvino = false; }", True),
        ("openvino", "{ }", True),
        # What is chosen there by measuring may be OpenVINO.
        (None, "{ }", True),
    ],
)
def test_only_engines_that_compile_may_map_code(
    nix_tool: Nix, encoder: str | None, package: str, may: bool
) -> None:
    said = "" if encoder is None else f'settings.embeddings.encoder = "{encoder}";'
    host = (
        "{ options, ... }: { services.aistack = {"
        f" package = options.services.aistack.package.default.override {package}; {said} }}; }}"
    )
    unit = 'systemd.services."aistack-{}".serviceConfig'
    assert ask(nix_tool, unit.format("embeddings"), host)["MemoryDenyWriteExecute"] is not may
    assert ask(nix_tool, unit.format("aidb"), host)["MemoryDenyWriteExecute"] is True


@pytest.mark.parametrize(
    ("said", "package", "may"),
    [
        ('rerankModel = "/srv/judge";', "{ }", False),
        ('rerankModel = "/srv/judge";', "{ withTorch = true; }", True),
        ("", "{ withTorch = true; }", False),
        (
            'rerankModel = "/srv/judge"; settings.embeddings.rerank_encoder = "onnx";',
            "{ withTorch = true; }",
            False,
        ),
    ],
)
def test_a_reranker_in_torch_may_map_code(
    nix_tool: Nix, said: str, package: str, may: bool
) -> None:
    host = (
        "{ options, ... }: { services.aistack = {"
        f" package = options.services.aistack.package.default.override {package}; {said}"
        ' settings.embeddings.encoder = "onnx"; }; }'
    )
    unit = 'systemd.services."aistack-embeddings".serviceConfig'
    assert ask(nix_tool, unit, host)["MemoryDenyWriteExecute"] is not may


def sixth(tool: Nix, attribute: str) -> Any:
    """An attribute of a host whose table has one more entry."""
    return tool.eval_json(
        'let table = nixpkgs.lib.importTOML (root + "/src/aistack/stack.toml");'
        " entry = table.services.coordinator // {"
        ' summary = "A sixth one"; routes = [ "/v1/sixth" ]; openai_routes = [ ];'
        ' needs.aidb = "required"; calls = [ "search" ]; scopes = [ "sixth.use" ];'
        ' network = "none"; state = "data"; };'
        " aidb = table.services.aidb // { clients = table.services.aidb.clients ++"
        ' [ "sixth" ]; };'
        " aistackStack = table // { services = table.services // { sixth = entry;"
        " inherit aidb; }; };"
        ' host = nixpkgs.lib.nixosSystem { system = "x86_64-linux";'
        f" specialArgs = {{ inherit aistackStack; }};"
        f" modules = [ aistack.nixosModules.default {BASE} ]; }};"
        f" in ({attribute})"
    )


def test_a_sixth_service_is_one_entry(nix_tool: Nix) -> None:
    found = sixth(
        nix_tool,
        '{ unit = host.config.systemd.services."aistack-sixth".serviceConfig;'
        ' socket = host.config.systemd.sockets."aistack-sixth".listenStreams;'
        " groups = builtins.attrNames host.config.users.groups;"
        " own = host.config.services.aistack.sixth.enable;"
        " nginx = host.config.system.build.nginxConfiguration.text;"
        " prometheus = host.config.system.build.prometheus.configuration.text; }",
    )
    assert found["own"] is True
    assert found["socket"] == ["/run/aistack/sixth.sock"]
    unit = found["unit"]
    assert unit["PrivateNetwork"] is True
    assert unit["StateDirectory"] == "aistack-sixth"
    assert "aistack-aidb-clients" in unit["SupplementaryGroups"]
    assert "aistack-sixth-clients" in found["groups"]
    assert "/v1/sixth" in found["nginx"]
    assert "unix:/run/aistack/sixth.sock" in found["nginx"]
    assert "/sixth/metrics" in found["prometheus"]
    assert unit["MemoryMax"]  # not measured: as the largest of the others


WRONG = [
    ('settings.postgres.host = "/tmp";', "postgresql.{host,port,user"),
    ('settings.auth.keys_file = "/etc/keys";', "secrets.{keysFile,pepperFile"),
    ("aidb.settings.listen.port = 8080;", "systemd opens the sockets"),
    ('settings.log.level = "ais_abc_def";', "holds an API key"),
    ('settings.redis.password_file = "/run/x";', "redis.passwordFile"),
    ('settings.llama.address = "https://me:pw@gpu/";', "an address with a password in it"),
    ('aidb.settings.redis.url = "redis://:pw@host/0";', "an address with a password in it"),
    ("embeddings.enable = false;", "settings.peers.embeddings"),
    ("aidb.enable = false;", "settings.peers.aidb"),
    ("llama.enable = false;", "settings.llama.address"),
]


@pytest.mark.parametrize(("module", "said"), WRONG, ids=[module for module, _ in WRONG])
def test_a_wrong_configuration_is_told_what_to_write(nix_tool: Nix, module: str, said: str) -> None:
    failed = failures(nix_tool, f"{{ services.aistack = {{ {module} }}; }}")
    assert any(said in message for message in failed), failed


def test_the_default_host_breaks_none(nix_tool: Nix) -> None:
    assert failures(nix_tool) == []


def test_a_name_that_makes_too_long_a_group_is_refused(nix_tool: Nix) -> None:
    found = nix_tool.eval_json(
        'let table = nixpkgs.lib.importTOML (root + "/src/aistack/stack.toml");'
        " aistackStack = table // { services = table.services //"
        " { a-much-too-long-name = table.services.embeddings; }; };"
        ' host = nixpkgs.lib.nixosSystem { system = "x86_64-linux";'
        f" specialArgs = {{ inherit aistackStack; }};"
        f" modules = [ aistack.nixosModules.default {BASE} ]; }};"
        f" in {FAILED} host"
    )
    assert any("Choose a name of at most 15" in message for message in found)


@pytest.mark.parametrize("name", SERVICES)
def test_nixpkgs_own_lib_gives_the_same_unit(nix_tool: Nix, real_lib_nix: Nix, name: str) -> None:
    key = f'systemd.units."aistack-{name}.service".text'
    assert ask(nix_tool, key) == ask(real_lib_nix, key)
