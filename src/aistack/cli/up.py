"""`aistack up`: the whole stack on embedded servers, in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aistack.cli.session import Session, command


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "up", rich_help_panel="The stack")
    def up(
        session: Session,
        port: Annotated[
            int | None,
            typer.Option(
                help="Of the front door on 127.0.0.1; 0 takes a free one [default: 8600]."
            ),
        ] = None,
        config: Annotated[
            Path | None,
            typer.Option(help="Settings over the computed ones, JSON or TOML.", metavar="FILE"),
        ] = None,
        model: Annotated[
            str | None,
            typer.Option(help="Language model, a GGUF file [default: the small packaged one]."),
        ] = None,
        verbose: Annotated[
            bool, typer.Option("--verbose", "-v", help="Show the log lines of every part.")
        ] = False,
    ) -> None:
        """Start the whole stack on this machine, with embedded servers; Ctrl-C ends it."""
        from aistack.dev.up import main

        # What was not said is not passed on: the defaults are the supervisor's.
        said: dict[str, Any] = {"port": port, "config": config, "model": model}
        chosen = {name: value for name, value in said.items() if value is not None}
        raise typer.Exit(main(data_dir=session.data_dir, verbose=verbose, **chosen))
