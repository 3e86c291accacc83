"""`aistack keys`: the key store, as a file; no service needs to run and none is restarted."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aistack.cli.errors import CliError, Misconfigured, Usage
from aistack.cli.session import Session, command

if TYPE_CHECKING:
    from aistack.service.keys import KeyEditor, KeyRecord
    from aistack.stack import Stack

keys_app = typer.Typer(no_args_is_help=True, help="API keys.")

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="Key files as this configuration names them.", metavar="FILE"),
]
WriteOption = Annotated[
    Path | None,
    typer.Option("--write", help="Put the key into this file (0600), not on the screen."),
]


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(keys_app, name="keys", rich_help_panel="The stack")


@command(keys_app, "init")
def init_keys(
    session: Session,
    group: Annotated[
        str | None,
        typer.Option(help="Group that may read the hashed keys: that of the services."),
    ] = None,
    pepper: Annotated[
        Path | None, typer.Option(help="The pepper, made elsewhere.", metavar="FILE")
    ] = None,
    internal_key: Annotated[
        list[str] | None,
        typer.Option(help="A service's own key, made elsewhere (repeat).", metavar="SERVICE=FILE"),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option("--stack", help="The table of services (default: ours).", metavar="FILE"),
    ] = None,
) -> None:
    """Make the key store of the data directory with a first key; keep what is there."""
    from aistack.service.key_setup import Given, init_store

    paths = init_store(
        session.data_dir / "keys",
        the_stack(table),
        group=group,
        given=Given(pepper, dict(pair(text) for text in internal_key or ())),
    )
    if session.out.as_json:
        session.out.document(
            {"keys_file": str(paths.keys_file), "default_key_file": str(paths.default_key_file)}
        )
    else:
        session.out.text(f"key store {paths.keys_file}")
        if paths.default_key_file.exists():
            session.out.text(f"first key {paths.default_key_file}")


@command(keys_app, "list")
def list_keys(
    session: Session,
    config: ConfigOption = None,
    internal: Annotated[
        bool, typer.Option("--internal", help="The services' own keys too.")
    ] = False,
) -> None:
    """List the keys; their secrets are known to nobody."""
    records = [r for r in editor(session, config).records() if internal or r.kind == "user"]
    if session.out.as_json:
        session.out.document({"data": [described(record) for record in records]})
        return
    rows = [
        (r.id, r.name, ", ".join(r.scopes), day(r.created), expiry(r))
        for r in sorted(records, key=lambda record: record.created)
    ]
    session.out.table(("id", "name", "scopes", "created", "expires"), rows)


@command(keys_app, "create")
def create_key(
    session: Session,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="For whom or what.", show_default=False)
    ],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="What it may do (repeat, or separate by commas; default: all)."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="After this long: 12h, 30d, 8w.", metavar="DURATION")
    ] = None,
    write: WriteOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a key. The key itself is shown this once."""
    from aistack.stack import load_stack

    known = load_stack().scopes()
    scopes = frozenset(s.strip() for item in scope or () for s in item.split(",")) or known
    if unknown := scopes - known:
        raise Usage(
            f"no such scope: {', '.join(sorted(unknown))}", fix=f"use {', '.join(sorted(known))}"
        )
    until = None if expires is None else time.time() + seconds(expires)
    refuse_existing(write)
    record, token = editor(session, config).create(name, scopes, expires=until)
    hand_over(session, record, token, write)


@command(keys_app, "rotate")
def rotate_key(
    session: Session,
    key: Annotated[str, typer.Argument(metavar="ID|NAME", show_default=False)],
    overlap: Annotated[
        str, typer.Option(help="How long the old secret stays good.", metavar="DURATION")
    ] = "1h",
    write: WriteOption = None,
    config: ConfigOption = None,
) -> None:
    """Give a key a new secret; the old one stays good for a while."""
    refuse_nowhere(write)
    store = editor(session, config)
    wanted = find(store.records(), key)
    record, token = store.rotate(wanted.id, overlap_seconds=seconds(overlap))
    hand_over(session, record, token, write)


@command(keys_app, "revoke")
def revoke_key(
    session: Session,
    key: Annotated[str, typer.Argument(metavar="ID|NAME", show_default=False)],
    config: ConfigOption = None,
) -> None:
    """Refuse a key from the next second on, in every service."""
    store = editor(session, config)
    record = find(store.records(), key)
    store.revoke(record.id)
    if session.out.as_json:
        session.out.document({"revoked": record.id})
    else:
        session.out.text(f"revoked {record.id} ({record.name})")


def the_stack(table: Path | None) -> Stack:
    """The table in a file, else the package's."""
    from aistack.config import read_table
    from aistack.stack import load_stack, parse_stack

    if table is None:
        return load_stack()
    try:
        return parse_stack(read_table(table))
    except (ValueError, KeyError, AttributeError) as error:
        said = str(error) if type(error) is ValueError else type(error).__name__
        raise Usage(
            f"{table} is no table of services ({said})",
            fix="give one that is written as stack.toml is",
        ) from error


def pair(text: str) -> tuple[str, Path]:
    """`SERVICE=FILE` in its parts."""
    name, separator, file = text.partition("=")
    if not (name and separator and file):
        raise Usage(f"{text} is not SERVICE=FILE", fix="write as aidb=/run/secrets/aidb.key")
    return name, Path(file)


def editor(session: Session, config: Path | None) -> KeyEditor:
    """The store of a configuration, else of the data directory."""
    from aistack.service.key_setup import KeyPaths
    from aistack.service.keys import KeyEditor

    if config is not None:
        from aistack.config import load_config

        auth = load_config(config).auth
        return KeyEditor(auth.keys_file, auth.pepper_file)
    paths = KeyPaths(session.data_dir / "keys")
    if not paths.keys_file.exists():
        raise Misconfigured(
            f"there is no key store {paths.keys_file}",
            fix="make it with `aistack keys init`, or name another with --data-dir or --config",
        )
    return KeyEditor(paths.keys_file, paths.pepper_file)


def find(records: tuple[KeyRecord, ...], wanted: str) -> KeyRecord:
    """The user key with this id, or with this name where only one has it."""
    mine = [record for record in records if record.kind == "user"]
    found = [r for r in mine if r.id == wanted] or [r for r in mine if r.name == wanted]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(record.id for record in found)
        raise Usage(f"several keys are named {wanted}", fix=f"name one by its id: {ids}")
    raise CliError(f"there is no key {wanted}", fix="`aistack keys list` shows them")


def seconds(text: str) -> float:
    """`90s`, `15m`, `12h`, `30d`, `8w` in seconds."""
    match = re.fullmatch(r"(\d+)([smhdw])", text.strip())
    if match is None:
        raise Usage(f"{text} is not a duration", fix="write as 12h or 30d")
    return float(int(match[1]) * _UNITS[match[2]])


def refuse_existing(path: Path | None) -> None:
    """Stop before a key is made that could not be written down."""
    if path is not None and path.exists():
        raise Usage(f"{path} exists", fix="name a new file with --write")
    refuse_nowhere(path)


def refuse_nowhere(path: Path | None) -> None:
    """Stop before a secret is made that has no place to go."""
    if path is not None and not path.parent.is_dir():
        raise Usage(f"{path.parent} is not a directory", fix="make it, or name another file")


def hand_over(session: Session, record: KeyRecord, token: str, path: Path | None) -> None:
    """The only time that the key is seen."""
    from aistack.service.private_files import write_private

    if path is not None:
        write_private(path, token.encode() + b"\n")
    if session.out.as_json:
        where = {"written": str(path)} if path else {"key": token}
        session.out.document({**described(record), **where})
        return
    if path is not None:
        session.out.text(f"key {record.id} ({record.name}) written to {path}")
        return
    session.out.note(f"key {record.id} ({record.name}); it is shown only now:")
    session.out.text(token)


def described(record: KeyRecord) -> dict[str, Any]:
    """A record for machines; no hashes."""
    return {
        "id": record.id,
        "name": record.name,
        "kind": record.kind,
        "scopes": list(record.scopes),
        "created": record.created,
        "expires": record.secrets[0].expires,
        "secrets_alive": sum(s.expires is None or s.expires > time.time() for s in record.secrets),
    }


def day(stamp: float) -> str:
    """A date, UTC."""
    return datetime.fromtimestamp(stamp, UTC).strftime("%Y-%m-%d")


def expiry(record: KeyRecord) -> str:
    """When the newest secret ends."""
    until = record.secrets[0].expires
    if until is None:
        return "never"
    return f"{day(until)}{' (over)' if until < time.time() else ''}"
