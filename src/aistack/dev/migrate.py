"""Brings the database to the newest schema.

    python -m aistack.dev.migrate --config FILE

A process of its own, so that the supervisor does not carry Alembic about for the rest of its life;
`at_newest` is what the supervisor asks before it starts one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from aistack.config import load_config
from aistack.service.errors import EX_CONFIG, StartError


async def at_newest(conninfo: str) -> bool:
    """Whether the schema is the one that this code needs. Loads neither Alembic nor SQLAlchemy.

    Whatever stands in the way is a no: the migration then says what it is.
    """
    import psycopg

    from aistack.migrations import HEAD

    try:
        async with await psycopg.AsyncConnection.connect(
            conninfo, connect_timeout=5, autocommit=True
        ) as connection:
            cursor = await connection.execute("SELECT version_num FROM alembic_version")
            return await cursor.fetchall() == [(HEAD,)]
    except psycopg.Error:
        return False


def migrate(config: Path) -> None:
    """Upgrade. Raises StartError when the database is of another kind or of a newer aistack."""
    from alembic.util.exc import CommandError

    from aistack.migrations import upgrade

    try:
        upgrade(load_config(config).postgres.conninfo())
    except CommandError as error:
        raise StartError(
            f"the database cannot be brought to this version ({error}):"
            " was it used by a newer aistack?"
        ) from error


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m aistack.dev.migrate")
    parser.add_argument("--config", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        migrate(arguments.config)
    except StartError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(EX_CONFIG)


if __name__ == "__main__":
    main()
