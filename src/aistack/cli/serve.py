"""`aistack serve`, `aistack up`, `aistack config`: what runs the stack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aistack.cli.errors import Usage
from aistack.cli.session import Session, command

config_app = typer.Typer(no_args_is_help=True, help="The configuration of the services.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(config_app, name="config", rich_help_panel="The stack")

    @command(app, "serve", rich_help_panel="The stack")
    def serve(
        session: Session,
        service: Annotated[str, typer.Argument(metavar="SERVICE", show_default=False)],
        config: Annotated[
            Path | None, typer.Option("--config", help="JSON or TOML.", metavar="FILE")
        ] = None,
    ) -> None:
        """Run one service in the foreground; systemd and `aistack up` call this."""
        from aistack.service.run import serve as run
        from aistack.stack import load_stack

        names = load_stack().services
        if service not in names:
            raise Usage(f"there is no service {service}", fix=f"use {', '.join(names)}")
        raise typer.Exit(run(service, config))


@command(config_app, "schema")
def schema(session: Session) -> None:
    """Print the JSON schema of the configuration file."""
    from aistack.config import Config

    session.out.document(Config.model_json_schema())


@command(config_app, "check")
def check(
    session: Session, file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)]
) -> None:
    """Check a configuration file; one line says what is wrong. Exit 78 when something is."""
    from aistack.config import load_config

    load_config(file)
    if session.out.as_json:
        session.out.document({"file": str(file), "valid": True})
    else:
        session.out.text(f"{file} is valid")


@command(config_app, "reference")
def reference(session: Session) -> None:
    """Print every setting as Markdown; docs/configuration.md is this."""
    from aistack.cli.reference import markdown

    session.out.text(markdown().rstrip("\n"))
