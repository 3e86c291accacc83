"""What the documents show in Nix: it parses, and what is a configuration is accepted."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from fix_postgres import PostgresServer
from nix.hosts import failures
from nix.toolchain import ROOT, Nix

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Of pages that configure a host: the blocks that set something of the stack.
CONFIGURING = [
    ROOT / "README.md",
    *(
        ROOT / f"docs/{name}.md"
        for name in ("install-nixos", "nixos-settings", "operations", "qdrant")
    ),
]


def blocks(page: Path) -> list[str]:
    """The Nix code of a page, without its indentation in lists."""
    found = re.findall(
        r"^( *)```nix\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, code in found]


def module(code: str) -> str:
    """The block as an expression: settings alone get the braces that the reader's file has."""
    bare = re.sub(r"^\s*#.*\n", "", code, flags=re.MULTILINE).lstrip()
    return code if bare.startswith(("{", "[", "(")) else f"{{\n{code}\n}}"


def test_every_block_parses(nix_tool: Nix, tmp_path: Path) -> None:
    files = []
    for page in PAGES:
        for i, code in enumerate(blocks(page)):
            file = tmp_path / f"{page.stem}-{i}.nix"
            # The name that a flake's own outputs give to this one.
            file.write_text(f"{{ aistack, config, ... }}:\n{module(code)}", encoding="utf-8")
            files.append(file)
    assert len(files) > 8
    nix_tool.parse(files)


def fragments() -> list[tuple[str, str]]:
    """Blocks of settings that stand alone, with where they are."""
    found = []
    for page in CONFIGURING:
        for i, code in enumerate(blocks(page)):
            if "services.aistack" in code and module(code) != code:
                found.append((f"{page.stem} {i + 1}", module(code)))
    return found


@pytest.mark.parametrize(("where", "code"), fragments(), ids=[where for where, _ in fragments()])
def test_settings_are_accepted(nix_tool: Nix, where: str, code: str) -> None:
    """In a host that has what the reader has been told to set before."""
    settings = code.replace("imports = [ aistack.nixosModules.default ];", "")
    assert failures(nix_tool, settings) == [], where


def test_there_are_such_settings() -> None:
    assert len(fragments()) > 3


def test_the_uninstall_removes_databases_and_roles(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """The documented command, while somebody is connected, on a server that is not ours alone."""
    page = (ROOT / "docs/install-nixos.md").read_text(encoding="utf-8").replace("\\\n", " ")
    [line] = re.findall(r"^\$ sudo -u postgres (psql .*)$", page, re.MULTILINE)
    database = postgres_server.create()
    replaced = f"{database}_replaced"
    roles = {"aistack": database, "postgres-exporter": f"{database}-exporter"}
    roles["mindsdb"] = f"{database}_mindsdb"
    words = shlex.split(line)
    for old, new in roles.items():
        words = [re.sub(rf"(?<![\w-]){old}(?![-a-z])", new, word) for word in words]
    assert sum(new in word for word in words for new in roles.values()) >= 5

    def left(query: str) -> list[str]:
        with psycopg.connect(postgres_server.dsn(), autocommit=True) as admin:
            found = admin.execute(query, [f"{database}%"]).fetchall()
        return [name for (name,) in found]

    with psycopg.connect(postgres_server.dsn(), autocommit=True) as admin:
        for role in roles.values():
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        owner, reader = sql.Identifier(database), sql.Identifier(roles["mindsdb"])
        admin.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(owner, owner))
        admin.execute(
            sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(replaced), owner)
        )
        admin.execute(
            sql.SQL("GRANT pg_monitor TO {}").format(sql.Identifier(roles["postgres-exporter"]))
        )
    with psycopg.connect(postgres_server.dsn(database), autocommit=True) as connected:
        connected.execute(sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(reader))
        done = subprocess.run(
            [postgres_server.bindir / words[0], *words[1:]],
            env={
                "PGHOST": str(postgres_server.directory),
                "PGPORT": str(postgres_server.port),
                "PGUSER": "postgres",
                "PATH": "/usr/bin:/bin",
            },
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert left("SELECT datname FROM pg_database WHERE datname LIKE %s") == []
    assert left("SELECT rolname FROM pg_roles WHERE rolname LIKE %s") == []
