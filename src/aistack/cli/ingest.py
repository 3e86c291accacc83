"""`aistack ingest`: files in, documents ready to be searched."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aistack.cli.errors import CliError, Usage
from aistack.cli.files import Candidate, Skipped, collisions, find
from aistack.cli.ingest_report import progress, report
from aistack.cli.ingest_upload import Outcome, known_documents, upload
from aistack.cli.ingest_watch import finish
from aistack.cli.session import Session, command

if TYPE_CHECKING:
    from aistack.cli.output import Output

_PATIENCE = 120.0


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "ingest", rich_help_panel="Documents")
    def ingest(
        session: Session,
        paths: Annotated[list[Path], typer.Argument(metavar="PATH...", show_default=False)],
        collection: Annotated[str, typer.Option("--collection", "-c")] = "default",
        include: Annotated[
            list[str] | None,
            typer.Option(help="Only files that match (may be repeated).", metavar="GLOB"),
        ] = None,
        metadata: Annotated[
            list[str] | None,
            typer.Option(help="A field for every document (may be repeated).", metavar="K=V"),
        ] = None,
        prefix: Annotated[
            str | None,
            typer.Option(
                help="Begin every source name with this, as `manual/`, not the directory's name.",
                show_default=False,
            ),
        ] = None,
        follow_links: Annotated[
            bool, typer.Option("--follow-links", help="Also links that lead out of PATH.")
        ] = False,
        no_ignore: Annotated[
            bool, typer.Option("--no-ignore", help="Also files that .gitignore leaves out.")
        ] = False,
        max_bytes: Annotated[
            int | None,
            typer.Option(
                help="Skip larger files [default: the server's own default limit].", min=1
            ),
        ] = None,
        wait_: Annotated[
            bool, typer.Option("--wait/--no-wait", help="Wait until they can be searched.")
        ] = True,
        timeout: Annotated[
            float, typer.Option(help="Longest wait without progress, seconds.", min=1)
        ] = 600,
    ) -> None:
        """Send files and directories (txt, md, html, pdf) and wait until they can be searched.

        A file is known by the name of its directory PATH and its path below it: `docs/guide/a.md`.
        What the collection has already is not sent again, so that a run which was broken off goes
        on where it was; changed bytes replace the document of that name.
        """
        fields = parse_metadata(metadata or [])
        found = find(
            paths,
            include=include or [],
            max_bytes=max_bytes or largest(),
            prefix=prefix,
            follow_links=follow_links,
            ignore=not no_ignore,
        )
        candidates, skipped, outcomes = sort_out(session.out, found)
        made = False
        with session.api(patience=_PATIENCE) as api:
            if candidates and collection != "default":
                # Idempotent; the default collection is made by the server.
                status, _ = api.send(
                    "POST", "/v1/collections", json={"name": collection}, repeat=True
                )
                made = status == 201
            known = {} if made else known_documents(api, candidates, collection)
            try:
                with progress(session.out, len(candidates), wait_) as bars:
                    sent = upload(api, candidates, collection, fields, known, bars.advance)
                    if wait_:
                        sent = finish(api, sent, collection, timeout, bars.advance, bars.underway)
                    outcomes += sent
            except KeyboardInterrupt:
                session.out.note(
                    "interrupted: what was sent is still taken in; the same command sends the rest"
                )
                raise
        report(session.out, collection, outcomes, skipped, made=made)
        if any(o.state == "failed" for o in outcomes) or any(s.asked for s in skipped):
            raise typer.Exit(1)


def largest() -> int:
    """Bytes of the largest document that a server takes which was not configured otherwise."""
    from aistack.config import AidbConfig  # not at the start: it loads pydantic

    limit: int = AidbConfig.model_fields["document_bytes"].default
    return limit


def parse_metadata(pairs: Sequence[str]) -> dict[str, Any]:
    """`k=v` pairs; true, false and numbers become what they look like, a repeated key a list."""
    fields: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise Usage(f"--metadata {pair} is not K=V", fix="write as --metadata team=docs")
        if name in fields:
            before = fields[name] if isinstance(fields[name], list) else [str(fields[name])]
            fields[name] = [*before, text]
        else:
            fields[name] = typed(text)
    return fields


def typed(text: str) -> str | float | int | bool:
    """A value as JSON reads it where it is a number or a truth, else the text itself."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) else text


def sort_out(
    out: Output, found: Iterable[Candidate | Skipped]
) -> tuple[list[Candidate], list[Skipped], list[Outcome]]:
    """What to send, what is left out (said on stderr), and what has failed already."""
    candidates: list[Candidate] = []
    skipped: list[Skipped] = []
    failed: list[Outcome] = []
    for item in found:
        if isinstance(item, Candidate):
            candidates.append(item)
        elif item.failed:
            failed.append(Outcome(str(item.path), str(item.path), "failed", reason=item.reason))
        else:
            skipped.append(item)
            out.note(f"skipped {item.path}: {item.reason}")
    if pairs := collisions(candidates):
        one, other = pairs[0]
        raise Usage(
            f"{one.path} and {other.path} would both be named {one.source}",
            fix="give their common parent, or send them apart with --prefix",
        )
    if not candidates and not failed:
        raise CliError(
            "nothing to ingest", fix="name files of type txt, md, html or pdf, or use --include"
        )
    return candidates, skipped, failed
