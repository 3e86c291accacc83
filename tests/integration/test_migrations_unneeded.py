"""A start does without the migration process where the schema is the newest already."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from aistack.dev.migrate import at_newest
from aistack.dev.paths import Paths
from aistack.dev.programs import migrations
from fix_postgres import PostgresServer


async def test_a_migrated_database_needs_none_and_any_other_does(
    postgres_server: PostgresServer, database: str
) -> None:
    assert await at_newest(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
        assert not await at_newest(database)
        connection.execute("DELETE FROM alembic_version")
        assert not await at_newest(database)
    empty = postgres_server.create()
    try:
        assert not await at_newest(postgres_server.dsn(empty))
    finally:
        postgres_server.drop(empty)
    assert not await at_newest("host=/nonexistent dbname=x")


@pytest.mark.parametrize("version", ["as it is", "0001"])
async def test_the_supervisor_asks_the_database_of_the_configuration(
    tmp_path: Path, database: str, version: str
) -> None:
    said = psycopg.conninfo.conninfo_to_dict(database)
    settings: dict[str, object] = {
        "host": said["host"],
        "user": said["user"],
        "database": said["dbname"],
    }
    if "port" in said:
        settings["port"] = int(str(said["port"]))
    paths = Paths(tmp_path / "data", tmp_path)
    paths.config("aidb").write_text(json.dumps({"postgres": settings}))
    if version != "as it is":
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("UPDATE alembic_version SET version_num = %s", [version])
    program = migrations(paths, "aidb")
    assert program.unneeded is not None
    assert await program.unneeded() is (version == "as it is")
    assert "postgres" in program.needs
