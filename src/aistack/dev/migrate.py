"""Brings the database to the newest schema.

    python -m aistack.dev.migrate --config FILE --after FILE

A process of its own, so that the supervisor does not carry Alembic about for the rest of its life,
and started together with PostgreSQL: it waits for the file that says that the database is there.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from alembic.util.exc import CommandError

from aistack.config import load_config
from aistack.migrations import upgrade
from aistack.service.errors import EX_CONFIG, StartError

#: How often the file is looked for; the supervisor's time limit for this process ends the wait.
_AGAIN_SECONDS = 0.05


def migrate(config: Path, *, after: Path | None) -> None:
    """Wait for the file `after`, then upgrade.

    Raises StartError when the database is of another kind or of a newer aistack.
    """
    conninfo = load_config(config).postgres.conninfo()
    while after is not None and not after.exists():
        time.sleep(_AGAIN_SECONDS)
    try:
        upgrade(conninfo)
    except CommandError as error:
        raise StartError(
            f"the database cannot be brought to this version ({error}):"
            " was it used by a newer aistack?"
        ) from error


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m aistack.dev.migrate")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--after", type=Path)
    arguments = parser.parse_args()
    try:
        migrate(arguments.config, after=arguments.after)
    except StartError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(EX_CONFIG)


if __name__ == "__main__":
    main()
