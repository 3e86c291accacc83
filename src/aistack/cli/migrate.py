"""`aistack migrate`: the schema of the database, up, down and where it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aistack.cli.endpoint import Running, running
from aistack.cli.errors import CliError, Usage
from aistack.cli.session import Session, agreed, command

if TYPE_CHECKING:
    from sqlalchemy.exc import DBAPIError

migrate_app = typer.Typer(no_args_is_help=True, help="The schema of the database.")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", help="Where [postgres] is (default: of the running stack).", metavar="FILE"
    ),
]
DsnOption = Annotated[
    str | None, typer.Option(help="The database, as libpq takes it, over --config.")
]


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(migrate_app, name="migrate", rich_help_panel="The stack")


@command(migrate_app, "up")
def up(session: Session, config: ConfigOption = None, dsn: DsnOption = None) -> None:
    """Bring the schema to what this version needs."""
    from aistack import migrations

    with database(session, config, dsn) as where:
        before = migrations.current(where)
        migrations.upgrade(where)
        report(session, before, migrations.current(where))


@command(migrate_app, "down")
def down(
    session: Session,
    revision: Annotated[
        str,
        typer.Argument(
            metavar="REVISION", help="A revision, or `base` for none.", show_default=False
        ),
    ],
    config: ConfigOption = None,
    dsn: DsnOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Take the schema back to REVISION. What later revisions hold is lost."""
    from aistack import migrations

    agreed(session, yes, f"What the schema holds after {revision} would be lost")
    with database(session, config, dsn) as where:
        before = migrations.current(where)
        migrations.downgrade(where, revision)
        report(session, before, migrations.current(where))


@command(migrate_app, "current")
def current(session: Session, config: ConfigOption = None, dsn: DsnOption = None) -> None:
    """Show the revision of the database; exit 1 when it is not the one that is needed."""
    from aistack import migrations

    with database(session, config, dsn) as where:
        found, head = migrations.current(where), migrations.newest()
    if session.out.as_json:
        session.out.document({"current": found, "head": head, "up_to_date": found == head})
    elif found == head:
        session.out.text(f"{found} (up to date)")
    else:
        session.out.text(f"{found or 'empty'}; {head} is needed: run `aistack migrate up`")
    if found != head:
        raise typer.Exit(1)


@contextmanager
def database(session: Session, config: Path | None, dsn: str | None) -> Iterator[str]:
    """The connection string; errors of the database as words."""
    from alembic.util import CommandError
    from sqlalchemy import exc

    from aistack.config import load_config

    try:
        yield dsn or load_config(config or of_running(session)).postgres.conninfo()
    except exc.OperationalError as error:
        raise CliError(
            f"the database does not answer ({said(error)})",
            fix="start it, and name it with --config or --dsn",
        ) from error
    except exc.DBAPIError as error:
        raise CliError(f"the database refuses ({said(error)})", fix="see its log") from error
    except CommandError as error:
        raise Usage(
            str(error).rstrip("."), fix="`aistack migrate current` shows the revisions"
        ) from error


def said(error: DBAPIError) -> str:
    """The database's own words on one line."""
    return " ".join(str(error.orig).split())[:300]


def of_running(session: Session) -> Path | None:
    """The configuration of the stack that runs on the data directory."""
    found = running(session.data_dir)
    return configuration_of(found) if found and found.alive() else None


def configuration_of(stack: Running) -> Path | None:
    """The file that `stack` gave to the service which owns the database."""
    from aistack.stack import load_stack

    return next(
        (
            path
            for name, entry in load_stack().services.items()
            if "postgres" in entry.needs and (path := stack.run_dir / f"{name}.json").exists()
        ),
        None,
    )


def report(session: Session, before: str | None, after: str | None) -> None:
    """From where to where."""
    if session.out.as_json:
        session.out.document({"before": before, "current": after})
    elif before == after:
        session.out.text(f"{after or 'empty'}: nothing to do")
    else:
        session.out.text(f"{before or 'empty'} → {after or 'empty'}")
