"""`aistack migrate` on a real database."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from aistack import migrations
from fix_cli import Ended
from fix_postgres import PostgresServer

Cli = Callable[..., Ended]


@pytest.fixture
def empty_database(postgres_server: PostgresServer) -> Iterator[str]:
    """A database in which no migration has run."""
    name = postgres_server.create()
    yield postgres_server.dsn(name)
    postgres_server.drop(name)


def test_up_current_down(aistack: Cli, empty_database: str) -> None:
    dsn = ("--dsn", empty_database)
    ended = aistack("migrate", "current", *dsn, "--json")
    assert ended.code == 1
    assert ended.json == {"current": None, "head": migrations.newest(), "up_to_date": False}
    assert aistack("migrate", "up", *dsn).out == f"empty → {migrations.newest()}\n"
    assert aistack("migrate", "up", *dsn).out == f"{migrations.newest()}: nothing to do\n"
    assert aistack("migrate", "current", *dsn).code == 0
    refused = aistack("migrate", "down", "base", *dsn)
    assert refused.code == 2
    assert "--yes" in refused.err
    assert migrations.current(empty_database) == migrations.newest()
    assert aistack("migrate", "down", "base", "--yes", *dsn).code == 0
    assert migrations.current(empty_database) is None
    unknown = aistack("migrate", "down", "9999", "--yes", *dsn)
    assert unknown.code == 2
    assert unknown.err.count("\n") == 1


def test_a_database_that_is_away_is_one_line(aistack: Cli) -> None:
    ended = aistack("migrate", "current", "--dsn", "host=/nonexistent dbname=x")
    assert ended.code == 1
    assert ended.err.startswith("aistack: the database does not answer")
    assert ended.err.count("\n") == 1
