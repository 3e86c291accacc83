"""The schema of the database and its only owner: Alembic migrations, written in SQL by hand.

    upgrade(dsn)          to the newest revision; one transaction, all or nothing
    downgrade(dsn, "0001")
    current(dsn)          the revision a database is at, None for an empty one
    HEAD                  the revision this code needs

`dsn` is what libpq takes: a URL or `host=/run/postgresql dbname=aistack`. Two runners of one
database wait for each other (an advisory lock). Everything is inside the package, so that a wheel,
an editable install and a Nix build find it alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

#: A test compares it with the newest file in versions/. Kept as a constant, and Alembic imported
#: only where it runs, because every start of aidb asks for it and Alembic takes half a second to
#: load.
HEAD = "0008"
HERE = Path(__file__).parent


def upgrade(dsn: str, to: str = "head") -> None:
    """Bring the database to revision `to`. Raises psycopg.OperationalError where there is none."""
    from alembic import command

    with _connected(dsn) as connection:
        command.upgrade(_config(connection), to)


def downgrade(dsn: str, to: str) -> None:
    """Take the database back to revision `to`; `base` removes every table, with its rows."""
    from alembic import command

    with _connected(dsn) as connection:
        command.downgrade(_config(connection), to)


def current(dsn: str) -> str | None:
    """The revision the database is at, None where no migration has run."""
    from alembic.runtime.migration import MigrationContext

    with _connected(dsn) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def newest() -> str | None:
    """The newest revision among the files."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config(None)).get_current_head()


def _config(connection: Connection | None) -> Config:
    from alembic.config import Config

    config = Config()
    # Config interpolates "%" in values; a path may hold one.
    config.set_main_option("script_location", str(HERE).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def _connected(dsn: str) -> Iterator[Connection]:
    from sqlalchemy import create_engine, pool

    # A creator instead of a URL: SQLAlchemy's URLs cannot say all that libpq's can (sockets,
    # services).
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(dsn),
        poolclass=pool.NullPool,
    )
    try:
        with engine.connect() as connection:
            yield connection
            connection.commit()
    finally:
        engine.dispose()
