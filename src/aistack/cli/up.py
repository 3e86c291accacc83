"""`aistack up`: the whole stack on embedded servers, in the foreground."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aistack.cli.endpoint import default_data_dir
from aistack.cli.errors import Usage
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
        """Start the whole stack on this machine, with embedded servers; Ctrl-C ends it.

        Its screen is for people: there is no --json. A machine waits for DATA/endpoint.json and
        asks `aistack status --json`.
        """
        if session.out.as_json:
            raise Usage(
                "`aistack up` has no machine output",
                fix="wait for endpoint.json in the data directory, or ask `aistack status --json`",
            )
        from aistack.dev.screen import Own
        from aistack.dev.up import main

        # What was not said is not passed on: the defaults are the supervisor's.
        said: dict[str, Any] = {"port": port, "config": config, "model": model}
        chosen = {name: value for name, value in said.items() if value is not None}
        own = Own(program(), stack_options(session.data_dir))
        raise typer.Exit(main(data_dir=session.data_dir, verbose=verbose, own=own, **chosen))


def program() -> str:
    """How this program is called in a shell here: what is on PATH need not be this one."""
    beside = Path(sys.executable).with_name("aistack")
    script = next(
        (p for p in (Path(sys.argv[0]), beside) if p.name == "aistack" and p.exists()), None
    )
    if script is None:
        return f"{shlex.quote(_here(Path(sys.executable)))} -m aistack"
    found = shutil.which("aistack")
    if found is not None and Path(found).samefile(script):
        return "aistack"
    return shlex.quote(_here(script))


def stack_options(data_dir: Path) -> str:
    """What another terminal must say to mean the stack on `data_dir`; nothing for the usual one.

    AISTACK_DATA_DIR does not count: the other terminal may not have it.
    """
    chosen = Path(os.path.abspath(data_dir.expanduser()))
    environment = {k: v for k, v in os.environ.items() if k != "AISTACK_DATA_DIR"}
    if chosen == Path(os.path.abspath(default_data_dir(environment))):
        return ""
    return f"--data-dir {shlex.quote(str(chosen))}"


def _here(path: Path) -> str:
    """`path` from the working directory when it is below it, else in full."""
    absolute, here = Path(os.path.abspath(path)), Path.cwd()
    if not absolute.is_relative_to(here):
        return str(absolute)
    # A bare name would be looked for on PATH.
    return str(absolute.relative_to(here)) if absolute.parent != here else f"./{absolute.name}"
