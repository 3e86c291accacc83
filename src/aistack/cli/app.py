"""The root of `aistack`: what every command takes, and the groups. See `errors` for exit codes."""

from __future__ import annotations

from typing import Annotated

import typer

from aistack import __version__
from aistack.cli import (
    ask,
    doctor,
    documents,
    ingest,
    keys,
    migrate,
    models,
    search,
    serve,
    status,
    up,
    vectors,
)
from aistack.cli import eval as evaluate
from aistack.cli.session import (
    DataDirOption,
    DebugOption,
    JsonOption,
    KeyFileOption,
    UrlOption,
    common,
)

_EPILOG = (
    "Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 no stack answers, 4 the key was refused,"
    " 78 a configuration file is wrong."
)

app = typer.Typer(
    name="aistack",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aistack {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    json: JsonOption = None,
    url: UrlOption = None,
    key_file: KeyFileOption = None,
    data_dir: DataDirOption = None,
    debug: DebugOption = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A private AI stack on your own machine: documents in, cited answers out."""
    ctx.obj = common(json, url, key_file, data_dir, debug)


for group in (
    ingest,
    search,
    ask,
    documents,
    vectors,
    evaluate,
    status,
    up,
    serve,
    keys,
    models,
    migrate,
    doctor,
):
    group.register(app)
