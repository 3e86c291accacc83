"""What every command has: the options that hold everywhere, the output, the stack's address.

`command(app)` registers a function whose first parameter is a `Session`; `--json`, `--url`,
`--key-file`, `--data-dir` and `--debug` are understood before the subcommand and after it, and
what is nearer to the end of the line wins.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aistack.cli.endpoint import address, default_data_dir, key
from aistack.cli.errors import Usage
from aistack.cli.output import Output

if TYPE_CHECKING:
    from aistack.cli.api import Api

_PANEL = "Everywhere"

JsonOption = Annotated[
    bool | None,
    typer.Option("--json", help="Machine output: JSON on stdout.", rich_help_panel=_PANEL),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        help="Address of the stack (or AISTACK_URL).", metavar="URL", rich_help_panel=_PANEL
    ),
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        help="File with the API key (or the key itself in AISTACK_API_KEY).",
        metavar="FILE",
        rich_help_panel=_PANEL,
    ),
]
DataDirOption = Annotated[
    Path | None,
    typer.Option(
        help="Data directory of the stack (or AISTACK_DATA_DIR).",
        metavar="DIR",
        rich_help_panel=_PANEL,
    ),
]
DebugOption = Annotated[
    bool | None,
    typer.Option("--debug", help="Show tracebacks of errors.", rich_help_panel=_PANEL),
]


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `Everywhere`; None is 'not said'."""

    json: bool | None = None
    url: str | None = None
    key_file: Path | None = None
    data_dir: Path | None = None
    debug: bool | None = None

    def over(self, other: Options) -> Options:
        """These where said, else `other`'s."""
        chosen = {}
        for field in fields(self):
            mine = getattr(self, field.name)
            chosen[field.name] = getattr(other, field.name) if mine is None else mine
        return Options(**chosen)


class Session:
    """One run of one command."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.out = Output(as_json=bool(options.json))

    @property
    def data_dir(self) -> Path:
        """The data directory that is meant."""
        return self.options.data_dir or default_data_dir()

    @cached_property
    def base_url(self) -> str:
        """Raises Unreachable when no stack runs and no address is given."""
        return address(self.options.url, self.data_dir)

    def api(self, *, patience: float = 10.0) -> Api:
        """A client of the front door; `patience` is how long it waits out 429 and 503, seconds."""
        from aistack.cli.api import Api  # httpx costs 80 ms; --help needs none of it

        return Api(
            self.base_url,
            key(self.options.key_file, self.base_url, self.data_dir),
            patience=patience,
            note=self.out.note,
        )


def common(
    json: JsonOption = None,
    url: UrlOption = None,
    key_file: KeyFileOption = None,
    data_dir: DataDirOption = None,
    debug: DebugOption = None,
) -> Options:
    """The options that every command takes."""
    return Options(json=json, url=url, key_file=key_file, data_dir=data_dir, debug=debug)


_COMMON = inspect.signature(common, eval_str=True).parameters


def command(
    app: typer.Typer, name: str | None = None, **settings: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function `(session, …)` as a command that takes the common options too."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

        @wraps(function)
        def run(**values: Any) -> None:
            context: typer.Context = values.pop("ctx")
            said = Options(**{field: values.pop(field) for field in _COMMON})
            function(Session(said.over(context.obj or Options())), **values)

        context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        parameters = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in (context, *own, *_COMMON.values())
        ]
        # typer reads a function's parameters through these two.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        app.command(name, **settings)(run)
        return function

    return register


def agreed(session: Session, yes: bool, loss: str) -> None:
    """Ask before something is lost; where nobody can answer, only `--yes` does."""
    if yes:
        return
    if session.out.as_json or not session.out.messages.is_terminal:
        raise Usage(loss, fix="say so with --yes")
    typer.confirm(f"{loss}. Go on?", abort=True, err=True)
