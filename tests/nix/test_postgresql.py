"""PostgreSQL and Redis of a host: made here or elsewhere, tuned, and what is refused."""

from __future__ import annotations

import re
import shlex
import subprocess
from typing import Any

import psycopg
import pytest

from fix_postgres import PostgresServer, running_server
from nix.hosts import BASE, ask, failures, settings
from nix.toolchain import Nix

EXTERNAL = (
    'services.aistack.postgresql = { createLocally = false; host = "db.example.org";'
    ' passwordFile = "/run/secrets/db"; };'
)


def test_database_role_and_extension_are_asked_for(nix_tool: Nix) -> None:
    roles = {user["name"]: user for user in ask(nix_tool, "services.postgresql.ensureUsers")}
    assert roles["aistack"]["ensureDBOwnership"] is True
    assert "aistack" in ask(nix_tool, "services.postgresql.ensureDatabases")
    extensions = nix_tool.eval_json(
        f"({nix_tool.host(BASE)}).config.services.postgresql.extensions"
        ' { pgvector = "/the/extension"; }'
    )
    assert "/the/extension" in extensions


def test_only_the_services_that_need_it_are_the_role(nix_tool: Nix) -> None:
    [line] = [
        line
        for line in ask(nix_tool, "services.postgresql.authentication").splitlines()
        if "map=aistack" in line
    ]
    assert line.split() == ["local", '"aistack"', '"aistack"', "peer", "map=aistack"]
    everyone = ask(nix_tool, "services.postgresql.authentication").splitlines()
    assert everyone.index(line) < next(
        n for n, other in enumerate(everyone) if re.match(r"local\s+all\s+all\s+peer", other)
    )
    mapped = [
        line.split()
        for line in ask(nix_tool, "services.postgresql.identMap").splitlines()
        if line.startswith("aistack ")
    ]
    assert mapped == [
        ["aistack", "aistack-aidb", "aistack"],
        ["aistack", "aistack-migrate", "aistack"],
        ["aistack", "root", "aistack"],
    ]


def test_the_hosts_version_and_directory_stay_the_hosts(nix_tool: Nix) -> None:
    for attribute in ("services.postgresql.package.version", "services.postgresql.dataDir"):
        plain = nix_tool.eval_json(
            '(nixpkgs.lib.nixosSystem { system = "x86_64-linux"; modules = [ {'
            ' services.postgresql.enable = true; system.stateVersion = "26.05"; } ]; })'
            f".config.{attribute}"
        )
        assert ask(nix_tool, attribute) == plain


def megabytes(text: str) -> int:
    return int(text.removesuffix("MB"))


@pytest.mark.parametrize("memory", [128, 1024, 65_536])
def test_memory_is_shared_out(nix_tool: Nix, memory: int) -> None:
    module = f"{{ services.aistack.postgresql.memory = {memory}; }}"
    found = ask(nix_tool, "services.postgresql.settings", module)
    assert megabytes(found["shared_buffers"]) == memory // 4
    assert megabytes(found["effective_cache_size"]) == memory * 3 // 4
    assert 64 <= megabytes(found["maintenance_work_mem"]) <= 2048
    assert 4 <= megabytes(found["work_mem"]) <= 64


def test_the_hosts_own_tuning_wins(nix_tool: Nix) -> None:
    module = '{ services.postgresql.settings.shared_buffers = "3GB"; }'
    assert ask(nix_tool, "services.postgresql.settings", module)["shared_buffers"] == "3GB"


def test_an_error_of_the_superusers_step_is_a_failure(nix_tool: Nix) -> None:
    commands = ask(nix_tool, "systemd.services.postgresql-setup.serviceConfig.ExecStartPost")
    [command] = [c for c in commands if "aistack-superuser.sql" in c]
    for option in ("--set ON_ERROR_STOP=1", "--dbname aistack", "--no-psqlrc"):
        assert option in command


def test_the_superusers_sql_can_be_repeated(nix_tool: Nix, database: str) -> None:
    module = "{ services.aistack = { prometheus.enable = false; mindsdb.enable = false; }; }"
    text = ask(nix_tool, "services.aistack.postgresql.superuserSql", module)
    assert "CREATE EXTENSION IF NOT EXISTS vector;" in text
    with psycopg.connect(database, autocommit=True) as connection:
        for _ in range(2):
            connection.execute(text.encode())


def test_a_standby_is_left_alone_by_the_superusers_step(
    nix_tool: Nix, postgres_server: PostgresServer
) -> None:
    """Its failure would be one of the whole host's postgresql.target."""
    step = "systemd.services.postgresql-setup.serviceConfig.ExecStartPost"
    # Built, and with it the file that it names.
    command = nix_tool.build(
        'nixpkgs.legacyPackages.x86_64-linux.writeText "command"'
        f" (toString ({nix_tool.host(BASE)}).config.{step})"
    ).read_text()
    _, *options, file = shlex.split(command)
    options[options.index("aistack")] = "postgres"

    with running_server(postgres_server.bindir) as server:

        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [server.bindir / "psql", *options, str(nix_tool.outside(file))],
                env={
                    "PATH": "/usr/bin:/bin",
                    "PGHOST": str(server.directory),
                    "PGPORT": str(server.port),
                    "PGUSER": "postgres",
                },
                capture_output=True, text=True, check=False,
            )  # fmt: skip

        (server.directory / "data/standby.signal").touch()
        server.control("-w", "-m", "fast", "stop")
        server.start()
        done = run()
        assert done.returncode == 0, done.stderr
        server.control("-w", "promote")
        # Not passed over here: the exporter's role, which the server has not, is missed.
        done = run()
        assert done.returncode != 0
        assert 'role "postgres-exporter" does not exist' in done.stderr


def test_migration_runs_before_the_services_and_after_the_database(nix_tool: Nix) -> None:
    unit = "systemd.services.aistack-migrate"
    assert "postgresql.target" in ask(nix_tool, f"{unit}.after")
    assert "aistack-migrate.service" in ask(nix_tool, 'systemd.services."aistack-aidb".after')
    config = ask(nix_tool, f"{unit}.serviceConfig")
    assert config["Type"] == "oneshot"
    assert config["RemainAfterExit"] is True
    assert config["Restart"] == "on-failure"
    assert config["User"] == "aistack-migrate"
    # The package is in the command: another one is another unit, which a rebuild starts again.
    assert re.match(r"/nix/store/.*-aistack-[^/]*/bin/aistack migrate up", config["ExecStart"])


def test_an_external_server_leaves_this_machine_without_one(nix_tool: Nix) -> None:
    module = f"{{ {EXTERNAL} services.aistack.backup.enable = false; }}"
    assert ask(nix_tool, "services.postgresql.enable", module) is False
    aidb = settings(nix_tool, "aidb", module)["postgres"]
    assert aidb["host"] == "db.example.org"
    assert aidb["sslmode"] == "verify-full"
    assert aidb["password_file"] == "/run/credentials/aistack-aidb.service/postgres-password"
    unit: dict[str, Any] = ask(nix_tool, 'systemd.services."aistack-aidb".serviceConfig', module)
    assert "postgres-password:/run/secrets/db" in unit["LoadCredential"]
    environment = ask(nix_tool, 'systemd.services."aistack-aidb".environment', module)
    assert environment["PGSSLROOTCERT"] == "/etc/ssl/certs/ca-certificates.crt"
    migrate = ask(nix_tool, "systemd.services.aistack-migrate.serviceConfig", module)
    assert migrate["PrivateNetwork"] is False
    assert migrate["LoadCredential"] == ["postgres-password:/run/secrets/db"]
    embeddings = ask(nix_tool, 'systemd.services."aistack-embeddings".serviceConfig', module)
    assert embeddings["PrivateNetwork"] is True
    assert not any("postgres" in line for line in embeddings["LoadCredential"])


def test_what_to_run_on_an_external_server_is_said(nix_tool: Nix) -> None:
    module = f'{{ {EXTERNAL} services.aistack.postgresql.database = "docs"; }}'
    text = ask(nix_tool, "services.aistack.postgresql.externalSetup", module)
    assert "CREATE DATABASE docs OWNER aistack;" in text
    assert "CREATE EXTENSION IF NOT EXISTS vector;" in text


def version(name: str, of_pgvector: str) -> str:
    """A module with a server whose versions are these."""
    return (
        "({ pkgs, ... }: { services.postgresql.package = pkgs.postgresql_17 // {"
        f' version = "{name}"; pkgs = pkgs.postgresql_17.pkgs // {{'
        f' pgvector = pkgs.postgresql_17.pkgs.pgvector // {{ version = "{of_pgvector}"; }}; }}; }};'
        " })"
    )


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ('{ services.aistack.postgresql.host = "db"; }', "Remove host"),
        (
            "{ services.aistack.postgresql = { createLocally = false;"
            ' host = "postgresql://me:pw@h/db"; }; }',
            "the name of a machine or a directory",
        ),
        ('{ services.aistack.postgresql.database = "docs"; }', "Set\nuser and database both"),
        (
            '{ services.aistack.postgresql.passwordFile = "/run/secrets/x"; }',
            "the local one knows",
        ),
        (version("14.19", "0.8.4"), "needs PostgreSQL 15 or newer"),
        (version("17.7", "0.7.4"), "needs pgvector 0.8.0 or newer"),
        (
            f'{{ {EXTERNAL} services.aistack.postgresql.sslMode = "prefer"; }}',
            'Set it to "verify-full"',
        ),
        (
            "{ services.aistack.postgresql = { createLocally = false;"
            ' host = "db.example.org"; }; }',
            "passwordFile = ",
        ),
        ('{ services.aistack.redis.url = "redis://h/0"; }', "redis.createLocally = false"),
        ("{ services.aistack.redis.createLocally = false; }", "redis.url = "),
        (
            '{ services.aistack.redis = { createLocally = false; url = "redis://:pw@h/0"; }; }',
            "redis.passwordFile = ",
        ),
        (
            '{ services.aistack.redis.passwordFile = "/run/secrets/x"; }',
            "the local one knows",
        ),
    ],
)
def test_a_wrong_configuration_is_told_what_to_write(nix_tool: Nix, module: str, said: str) -> None:
    failed = failures(nix_tool, module)
    assert any(said in message for message in failed), failed


@pytest.mark.parametrize(("pgvector", "warned"), [("0.8.2", True), ("0.8.4", False)])
def test_a_pgvector_that_corrupts_an_index_is_warned_of(
    nix_tool: Nix, pgvector: str, warned: bool
) -> None:
    found = ask(nix_tool, "warnings", version("17.7", pgvector))
    assert any("can corrupt an HNSW index" in text for text in found) is warned


def test_redis_is_a_bounded_cache_on_a_socket(nix_tool: Nix) -> None:
    module = "{ services.aistack.redis.maxMemory = 100; }"
    server = ask(nix_tool, "services.redis.servers.aistack", module)
    assert (server["port"], server["save"]) == (0, [])
    assert server["settings"]["maxmemory"] == "100mb"
    assert server["settings"]["maxmemory-policy"] == "allkeys-lfu"
    unit = ask(nix_tool, "systemd.services.redis-aistack.serviceConfig", module)
    assert int(unit["MemoryMax"].removesuffix("M")) > 100
    assert unit["Restart"] == "always"
    assert unit["PrivateNetwork"] is True
    assert unit["User"] == "redis-aistack"  # upstream's stay upstream's
    # The last line takes away from upstream's list; before it, the meaning would be another.
    assert unit["RestrictAddressFamilies"][-1] == "~AF_INET AF_INET6"


def test_a_password_of_another_redis_is_a_credential(nix_tool: Nix) -> None:
    module = (
        "{ services.aistack.redis = { createLocally = false;"
        ' url = "rediss://cache.example.org:6380/0"; passwordFile = "/run/secrets/redis"; }; }'
    )
    unit = ask(nix_tool, 'systemd.services."aistack-embeddings".serviceConfig', module)
    assert "redis-password:/run/secrets/redis" in unit["LoadCredential"]
    found = settings(nix_tool, "embeddings", module)["redis"]
    assert found["password_file"] == "/run/credentials/aistack-embeddings.service/redis-password"
    # What does not ask it is not told the password.
    aidb = ask(nix_tool, 'systemd.services."aistack-aidb".serviceConfig', module)
    assert "redis-password:/run/secrets/redis" not in aidb["LoadCredential"]
    assert "redis-aistack" not in ask(nix_tool, "services.redis.servers", module)
