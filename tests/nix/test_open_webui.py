"""Open WebUI and MindsDB: opt-in parts that are not ours."""

from __future__ import annotations

import hashlib
import hmac
import re
import subprocess
from base64 import b64decode
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from fix_postgres import PostgresServer
from nix.hosts import ask, failures
from nix.toolchain import Nix

ALLOWED = 'nixpkgs.config.allowUnfreePredicate = p: builtins.elem p.pname [ "open-webui" ];'
WEBUI = 'services.aistack.openWebui = { enable = true; hostName = "chat.example.org"; };'
IMAGE = "docker.io/mindsdb/mindsdb@sha256:" + "0" * 64
MINDSDB = f'services.aistack.mindsdb = {{ enable = true; image = "{IMAGE}"; }};'


def host(nix_tool: Nix, text: str, attribute: str) -> Any:
    return ask(nix_tool, attribute, f"{{ {text} }}")


def refused(nix_tool: Nix, text: str) -> list[str]:
    return failures(nix_tool, f"{{ {text} }}")


def environment(nix_tool: Nix, more: str = "") -> dict[str, str]:
    found = host(nix_tool, ALLOWED + WEBUI + more, "services.open-webui.environment")
    assert isinstance(found, dict)
    return found


def test_neither_is_there_unless_asked_for(nix_tool: Nix) -> None:
    units = host(nix_tool, "", "system.build.units")
    assert not [name for name in units if "open-webui" in name or "mindsdb" in name]


def test_its_licence_must_be_allowed_in_words_that_can_be_copied(nix_tool: Nix) -> None:
    messages = refused(nix_tool, WEBUI)
    assert len(messages) == 1
    assert "nixpkgs.config.allowUnfreePredicate" in messages[0]
    assert '[ "open-webui" ]' in messages[0]
    assert refused(nix_tool, ALLOWED + WEBUI) == []
    assert refused(nix_tool, "nixpkgs.config.allowUnfree = true;" + WEBUI) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("services.aistack.openWebui.enable = true;", 'hostName = "chat.example.org"'),
        (WEBUI + 'services.aistack.nginx.hostName = "chat.example.org";', "another name"),
        (WEBUI + "services.aistack.nginx.enable = false;", "needs nginx"),
        ("services.aistack.mindsdb.enable = true;", "skopeo inspect"),
        (
            MINDSDB + "services.aistack.postgresql = { createLocally = false;"
            ' host = "db.example.org"; passwordFile = "/run/secrets/p"; };',
            "Run MindsDB where the database is",
        ),
    ],
)
def test_a_wrong_configuration_is_told_what_to_write(nix_tool: Nix, text: str, says: str) -> None:
    messages = refused(nix_tool, ALLOWED + text)
    assert len(messages) == 1
    assert says in " ".join(messages[0].split())


@pytest.mark.parametrize(
    ("nginx", "url"),
    [
        ("", "https://chat.example.org"),
        ("httpsPort = 8443;", "https://chat.example.org:8443"),
        ('tls.mode = "off";', "http://chat.example.org"),
        ('tls.mode = "off"; httpPort = 8080;', "http://chat.example.org:8080"),
    ],
)
def test_it_knows_the_address_of_its_site(nix_tool: Nix, nginx: str, url: str) -> None:
    more = f"services.aistack.nginx = {{ {nginx} }};"
    assert environment(nix_tool, more)["WEBUI_URL"] == url


def test_telemetry_is_off_and_nothing_is_looked_up_outside(nix_tool: Nix) -> None:
    values = environment(nix_tool)
    # Defaults upstream, which our own definitions replace.
    assert values["ANONYMIZED_TELEMETRY"] == "False"
    assert values["DO_NOT_TRACK"] == "True"
    assert values["SCARF_NO_ANALYTICS"] == "True"
    assert values["ENABLE_PERSISTENT_CONFIG"] == "False"
    assert values["OFFLINE_MODE"] == "True"
    assert values["RAG_EMBEDDING_MODEL"] == ""
    unit = host(nix_tool, ALLOWED + WEBUI, 'system.build.units."open-webui.service"')
    assert "IPAddressDeny=any\n" in unit
    assert "IPAddressAllow=localhost\n" in unit


def test_the_user_has_the_last_word(nix_tool: Nix) -> None:
    own = 'services.open-webui = { port = 9999; environment.ENABLE_TAGS_GENERATION = "True"; };'
    values = environment(nix_tool, own)
    assert values["ENABLE_TAGS_GENERATION"] == "True"
    assert values["ANONYMIZED_TELEMETRY"] == "False"
    assert host(nix_tool, ALLOWED + WEBUI + own, "services.open-webui.port") == 9999


def test_it_asks_our_api_on_loopback_and_is_reached_by_its_name(nix_tool: Nix) -> None:
    assert environment(nix_tool)["OPENAI_API_BASE_URL"] == "http://127.0.0.1:8381/v1"
    configuration = host(nix_tool, ALLOWED + WEBUI, "system.build.nginxConfiguration.text")
    servers = configuration.split("server {")
    api = next(server for server in servers if "127.0.0.1:8381" in server)
    assert "unix:/run/aistack/coordinator.sock" in api
    assert set(re.findall(r"location (\S+) \{", api)) == {"/v1/chat/", "/v1/models"}
    site = next(
        server for server in servers
        if "server_name chat.example.org" in server and "127.0.0.1:8380" in server
    )  # fmt: skip
    assert "ssl" in site
    assert "proxy_buffering off" in site


def test_its_key_carries_two_scopes_and_is_no_text_of_the_store(nix_tool: Nix) -> None:
    keys = host(nix_tool, ALLOWED + WEBUI, "services.aistack.secrets.apiKeys")
    assert keys == {"open-webui": ["chat", "models.read"]}
    unit = host(nix_tool, ALLOWED + WEBUI, 'system.build.units."open-webui.service"')
    assert "EnvironmentFile=/run/aistack-open-webui/environment\n" in unit
    maker = host(
        nix_tool, ALLOWED + WEBUI,
        'system.build.units."aistack-open-webui-environment.service"',
    )  # fmt: skip
    assert "LoadCredential=api-key:/var/lib/aistack/secrets/open-webui-api-key\n" in maker
    made = "systemd.services.aistack-open-webui-environment.requiredBy"
    assert host(nix_tool, ALLOWED + WEBUI, made) == ["open-webui.service"]
    given = 'services.aistack.openWebui.apiKeyFile = "/run/secrets/k";'
    assert host(nix_tool, ALLOWED + WEBUI + given, "services.aistack.secrets.apiKeys") == {}


def test_the_environment_file_holds_the_secrets_and_is_roots(nix_tool: Nix, tmp_path: Path) -> None:
    script = host(
        nix_tool, ALLOWED + WEBUI, "systemd.services.aistack-open-webui-environment.script"
    )
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "secret-key").write_text("s3cret\n")
    (credentials / "api-key").write_text("ais_x_y")
    file = tmp_path / "environment"
    script = script.replace("/run/aistack-open-webui/environment", str(file))
    subprocess.run(
        ["bash", "-eu", "-c", script], env={"CREDENTIALS_DIRECTORY": str(credentials)}, check=True
    )
    assert file.read_text() == "WEBUI_SECRET_KEY=s3cret\nOPENAI_API_KEY=ais_x_y\n"
    assert file.stat().st_mode & 0o777 == 0o600


def test_mindsdb_is_on_loopback_and_by_digest(nix_tool: Nix) -> None:
    container = host(nix_tool, MINDSDB, "virtualisation.oci-containers.containers.aistack-mindsdb")
    assert container["image"] == IMAGE
    assert container["ports"] == ["127.0.0.1:47334:47334"]
    assert not [value for value in container["environment"].values() if "PASSWORD" in value]


def test_mindsdbs_root_is_nobody_to_postgresql(nix_tool: Nix) -> None:
    """Peer authentication asks the kernel for the user; the owner's rule lets root in."""
    container = host(nix_tool, MINDSDB, "virtualisation.oci-containers.containers.aistack-mindsdb")
    for kind in ("uid", "gid"):
        [ids] = [o for o in container["extraOptions"] if o.startswith(f"--{kind}map=")]
        inside, outside, count = map(int, ids.partition("=")[2].split(":"))
        assert (inside, count) == (0, 65536)
        # systemd's numbers: users, its dynamic ones, containers; those of foreign images.
        assert 1878982656 + 65536 <= outside < outside + count < 2147352576
    assert not [o for o in container["extraOptions"] if o.startswith(("--userns", "--privileged"))]
    assert container["volumes"] == [
        "aistack-mindsdb:/mindsdb/var",
        "/run/postgresql:/run/postgresql:ro",
    ]


def test_mindsdbs_role_on_a_real_server(
    nix_tool: Nix, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    name = postgres_server.create()
    text = MINDSDB + f'services.aistack.postgresql = {{ user = "{name}"; database = "{name}"; }};'
    granted = host(nix_tool, text, "services.aistack.postgresql.superuserSql")
    # Of this module's part alone: others add their own roles.
    granted = granted[granted.index("ALTER ROLE mindsdb") :].partition("GRANT pg_monitor")[0]
    script = host(nix_tool, text, "systemd.services.aistack-mindsdb-role.script")
    (tmp_path / "postgres-password").write_text("it's \\ $x `id`\n")
    roles = sql.SQL("DROP ROLE IF EXISTS {role}")
    try:
        with psycopg.connect(postgres_server.dsn(name), autocommit=True) as admin:
            admin.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
            admin.execute(sql.SQL("GRANT ALL ON SCHEMA public TO {}").format(sql.Identifier(name)))
            admin.execute("CREATE ROLE mindsdb")
            for _ in range(2):  # at every start
                admin.execute(granted)
                subprocess.run(
                    ["bash", "-eu", "-c", script],
                    env={
                        "PATH": f"{postgres_server.bindir}:/usr/bin:/bin",
                        "PGHOST": str(postgres_server.directory),
                        "PGPORT": str(postgres_server.port),
                        "PGUSER": "postgres",
                        "CREDENTIALS_DIRECTORY": str(tmp_path),
                    },
                    check=True,
                )
            # As migrations do it, later.
            admin.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(name)))
            admin.execute("CREATE TABLE documents (v int)")
            admin.execute("INSERT INTO documents VALUES (1)")
            admin.execute("RESET ROLE")
            verifier = admin.execute(
                "SELECT rolpassword FROM pg_authid WHERE rolname = 'mindsdb'"
            ).fetchone()
            assert verifier is not None
            assert scram(verifier[0], "it's \\ $x `id`")
        dsn = postgres_server.dsn(name).replace("user=postgres", "user=mindsdb")
        with psycopg.connect(dsn, autocommit=True) as reader:
            assert reader.execute("SELECT v FROM documents").fetchone() == (1,)
            for write in ("INSERT INTO documents VALUES (2)", "CREATE TABLE mine (v int)"):
                with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                    reader.execute(write)
            reader.execute("SET default_transaction_read_only = off")
            for write in ("INSERT INTO documents VALUES (2)", "CREATE TABLE mine (v int)"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    reader.execute(write)
    finally:
        postgres_server.drop(name)
        with psycopg.connect(postgres_server.dsn(), autocommit=True) as admin:
            for role in ("mindsdb", name):
                admin.execute(roles.format(role=sql.Identifier(role)))


def scram(verifier: str, password: str) -> bool:
    """Whether a password has this SCRAM-SHA-256 verifier (RFC 5803)."""
    kind, made, keys = verifier.split("$")
    rounds, salt = made.split(":")
    stored = keys.split(":")[0]
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), b64decode(salt), int(rounds))
    key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    return kind == "SCRAM-SHA-256" and key == b64decode(stored)


def test_mindsdbs_role_may_read_and_no_more(nix_tool: Nix) -> None:
    sql = host(nix_tool, MINDSDB, "services.aistack.postgresql.superuserSql")
    assert "GRANT SELECT ON ALL TABLES IN SCHEMA public TO mindsdb" in sql
    assert "SET default_transaction_read_only = on" in sql
    granted = re.findall(r"\bGRANT (\w+)", sql)
    assert set(granted) <= {"CONNECT", "USAGE", "SELECT", "pg_monitor"}
    rules = host(nix_tool, MINDSDB, "services.postgresql.authentication").splitlines()
    ours = next(i for i, line in enumerate(rules) if "mindsdb scram-sha-256" in line)
    general = next(i for i, line in enumerate(rules) if re.match(r"local\s+all\s+all", line))
    assert ours < general
