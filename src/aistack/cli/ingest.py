"""`aistack ingest`: files in, documents ready to be searched."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from aistack.cli.errors import CliError, Failed, Usage
from aistack.cli.files import Candidate, Skipped, collisions, find
from aistack.cli.output import amount
from aistack.cli.session import Session, command

if TYPE_CHECKING:
    from aistack.cli.api import Api
    from aistack.cli.output import Output

State = Literal["ready", "unchanged", "pending", "failed"]

#: Uploads at once. The work behind them is a queue: more only fills it.
UPLOADS = 4
_PATIENCE = 120.0
_POLL_FIRST, _POLL_LONGEST = 0.2, 2.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file."""

    source: str
    path: str
    state: State
    document_id: str | None = None
    chunks: int | None = None
    reason: str | None = None
    #: Whether the name was there already with other bytes.
    replaced: bool = False


Advance = Callable[[str, int], None]


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
        The same bytes again are no work; changed bytes replace the document of that name.
        """
        fields = parse_metadata(metadata or [])
        found = find(
            paths,
            include=include or [],
            max_bytes=max_bytes or largest(),
            prefix=prefix,
            follow_links=follow_links,
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
            with progress(session.out, len(candidates), wait_) as advance:
                sent = upload(api, candidates, collection, fields, advance)
                outcomes += finish(api, sent, collection, timeout, advance) if wait_ else sent
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


def upload(
    api: Api,
    candidates: Sequence[Candidate],
    collection: str,
    metadata: dict[str, Any],
    advance: Advance,
) -> list[Outcome]:
    """Send every file, a few at a time; a file that fails stops no other.

    A stack that is gone, or a key that is refused, stops them all: raised as CliError.
    """
    outcomes: list[Outcome] = []
    queue = iter(candidates)
    with ThreadPoolExecutor(UPLOADS, thread_name_prefix="upload") as pool:
        running = {
            pool.submit(_send, api, candidate, collection, metadata)
            for candidate in islice(queue, UPLOADS)
        }
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                outcomes.append(future.result())
                advance("sent", 1)
                if (candidate := next(queue, None)) is not None:
                    running.add(pool.submit(_send, api, candidate, collection, metadata))
    return sorted(outcomes, key=lambda outcome: outcome.source)


def _send(api: Api, candidate: Candidate, collection: str, metadata: dict[str, Any]) -> Outcome:
    try:
        content = candidate.path.read_bytes()
    except OSError as error:
        return _failed(candidate, f"cannot be read ({error.strerror})")
    form = {"collection": collection, "source": candidate.source}
    if metadata:
        form["metadata"] = json.dumps(metadata)
    try:
        # Content-addressed at the other end: sending it twice does no work twice.
        status, document = api.send(
            "POST",
            "/v1/documents",
            data=form,
            files={"file": (candidate.path.name, content, candidate.content_type)},
            repeat=True,
        )
    except Failed as error:
        return _failed(candidate, error.said)
    outcome = Outcome(
        candidate.source,
        str(candidate.path),
        "pending",
        str(document["id"]),
        # The first version is a new document; 200 is one that is there already as it is.
        replaced=status == 202 and document.get("version", 1) > 1,
    )
    return settled(outcome, document, unchanged=status == 200) or outcome


def _failed(candidate: Candidate, reason: str) -> Outcome:
    return Outcome(candidate.source, str(candidate.path), "failed", reason=reason)


def settled(outcome: Outcome, document: dict[str, Any], *, unchanged: bool) -> Outcome | None:
    """The end of `outcome` where `document` has come to one."""
    if document["state"] == "ready":
        state: State = "unchanged" if unchanged else "ready"
        return replace(outcome, state=state, chunks=document.get("chunk_count"))
    if document["state"] == "failed":
        reason = document.get("error") or "no reason given"
        return replace(outcome, state="failed", reason=str(reason))
    return None


def finish(
    api: Api, sent: Sequence[Outcome], collection: str, timeout: float, advance: Advance
) -> list[Outcome]:
    """Wait until every pending document is ready or failed; give up after `timeout` seconds
    without any progress."""
    done = [outcome for outcome in sent if outcome.state != "pending"]
    open_ = {o.document_id: o for o in sent if o.state == "pending" and o.document_id}
    advance("done", len(done))
    pause, last = _POLL_FIRST, time.monotonic()
    while open_:
        before = len(open_)
        for identifier in sorted(open_.keys() - still_open(api, collection, len(open_))):
            document = _document(api, identifier)
            end = (
                settled(open_[identifier], document, unchanged=False)
                if document
                else replace(open_[identifier], state="failed", reason="deleted while waiting")
            )
            if end:
                del open_[identifier]
                done.append(end)
                advance("done", 1)
        if len(open_) < before:
            pause, last = _POLL_FIRST, time.monotonic()
        elif time.monotonic() - last > timeout:
            reason = f"not ready after {timeout:.0f} s without progress; see `aistack status`"
            done += [replace(o, state="failed", reason=reason) for o in open_.values()]
            break
        elif open_:
            time.sleep(pause)
            pause = min(pause * 1.5, _POLL_LONGEST)
    return sorted(done, key=lambda outcome: outcome.source)


def still_open(api: Api, collection: str, count: int) -> set[str]:
    """Ids of documents with a job before them; for a handful nothing, they are asked one by one.

    One that goes back from processing to pending between the two lists is missed here and seen
    when it is asked for itself.
    """
    if count <= 8:
        return set()
    return {
        str(document["id"])
        for state in ("pending", "processing")
        for document in api.pages(
            "/v1/documents", {"collection": collection, "state": state, "limit": 100}
        )
    }


def _document(api: Api, identifier: str) -> dict[str, Any] | None:
    try:
        document: dict[str, Any] = api.json("GET", f"/v1/documents/{identifier}", repeat=True)
    except Failed as error:
        if error.status == 404:
            return None
        raise
    return document


@contextmanager
def progress(out: Output, total: int, waits: bool) -> Iterator[Advance]:
    """Two bars on stderr where that is a terminal, else nothing."""
    if out.as_json or total == 0 or not out.messages.is_terminal:
        yield lambda _, __: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=out.messages,
        transient=True,
    ) as bars:
        tasks = {"sent": bars.add_task("uploading", total=total)}
        if waits:
            tasks["done"] = bars.add_task("indexing", total=total)
        yield lambda name, count: bars.advance(tasks[name], count)


def report(
    out: Output,
    collection: str,
    outcomes: Sequence[Outcome],
    skipped: Sequence[Skipped],
    *,
    made: bool,
) -> None:
    """The end: how many of each, and every failure with its reason."""
    counts = Counter(outcome.state for outcome in outcomes)
    replaced = sum(outcome.replaced for outcome in outcomes)
    states: tuple[State, ...] = ("ready", "unchanged", "pending", "failed")
    if out.as_json:
        out.document(
            {
                "collection": collection,
                "collection_created": made,
                "summary": {
                    **{s: counts[s] for s in states},
                    "skipped": len(skipped),
                    "replaced": replaced,
                },
                "documents": [asdict(outcome) for outcome in outcomes],
                "skipped": [{"path": str(s.path), "reason": s.reason} for s in skipped],
            }
        )
        return
    chunks = sum(outcome.chunks or 0 for outcome in outcomes if outcome.state == "ready")
    rows: list[tuple[str, str, str]] = []
    for state in states:
        if counts[state] or state == "ready":
            remark = amount(chunks, "chunk") if state == "ready" else ""
            rows.append((state, str(counts[state]), remark))
    if skipped:
        rows.append(("skipped", str(len(skipped)), ""))
    if replaced:
        rows.append(("replaced", str(replaced), "of these; the names were there with other bytes"))
    out.text(f"collection {collection}{' (new)' if made else ''}")
    out.table(("state", "documents", ""), rows)
    for outcome in outcomes:
        if outcome.state == "failed":
            out.text(f"failed {outcome.source}: {outcome.reason}")
