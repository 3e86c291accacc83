"""`aistack documents` and `aistack collections`."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote
from uuid import UUID

import typer

from aistack.cli import collection_settings
from aistack.cli.errors import CliError, Usage
from aistack.cli.output import amount, clean, size
from aistack.cli.session import Session, agreed, command

if TYPE_CHECKING:
    from aistack.cli.api import Api

documents_app = typer.Typer(no_args_is_help=True, help="What is stored.")
collections_app = typer.Typer(no_args_is_help=True, help="Where it is stored.")

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def register(app: typer.Typer) -> None:
    """Add the two groups."""
    collection_settings.register(collections_app)
    app.add_typer(documents_app, name="documents", rich_help_panel="Documents")
    app.add_typer(collections_app, name="collections", rich_help_panel="Documents")


@command(documents_app, "list")
def list_documents(
    session: Session,
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", help="Of one collection (default: of all).")
    ] = None,
    state: Annotated[str | None, typer.Option(help="pending, processing, ready or failed.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1)] = 1000,
) -> None:
    """List documents, the newest first."""
    said = {"collection": collection, "state": state}
    params = {name: value for name, value in said.items() if value is not None}
    with session.api() as api:
        found = list(
            islice(api.pages("/v1/documents", {**params, "limit": min(limit, 100)}), limit)
        )
    if session.out.as_json:
        session.out.document({"data": found})
        return
    if not found:
        session.out.note("no documents")
        return
    rows = [
        (
            str(d["id"]),
            d["state"],
            str(d.get("chunk_count") or 0),
            size(d["bytes"]),
            d["collection"],
            d.get("source") or d.get("title") or "",
            d.get("error") or "",
        )
        for d in found
    ]
    session.out.table(("id", "state", "chunks", "size", "collection", "source", ""), rows)


@command(documents_app, "show")
def show_document(
    session: Session,
    document_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)],
    text: Annotated[bool, typer.Option("--text", help="Its text instead of its record.")] = False,
) -> None:
    """Show one document."""
    with session.api() as api:
        answer = _one(api, "GET", document_id, "/text" if text else "", repeat=True)
    if session.out.as_json:
        session.out.document(answer)
    elif text:
        session.out.text(clean(answer["text"]))
    else:
        session.out.table(("", ""), [(k, _plain(v)) for k, v in answer.items() if v is not None])


@command(documents_app, "delete")
def delete_document(
    session: Session,
    document_ids: Annotated[list[str], typer.Argument(metavar="ID...", show_default=False)],
) -> None:
    """Delete documents with their chunks."""
    with session.api() as api:
        for identifier in document_ids:
            _one(api, "DELETE", identifier)
            session.out.note(f"deleted {identifier}")
    if session.out.as_json:
        session.out.document({"deleted": document_ids})


@command(documents_app, "retry")
def retry_documents(
    session: Session,
    document_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID...]", show_default=False)
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that failed.")] = False,
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", help="With --failed: of one collection.")
    ] = None,
) -> None:
    """Try failed documents again, from the bytes that are stored."""
    if bool(document_ids) == failed:
        raise Usage("name documents, or say --failed", fix="as `aistack documents retry --failed`")
    if collection is not None and not failed:
        raise Usage("--collection goes with --failed", fix="leave it out: an id is enough")
    count = 0
    with session.api() as api:
        if failed:
            body = {} if collection is None else {"collection": collection}
            count = int(api.json("POST", "/v1/documents/retry", body=body, repeat=True)["retried"])
        for identifier in document_ids or ():
            _one(api, "POST", identifier, "/retry", repeat=True)
            session.out.note(f"queued {identifier}")
            count += 1
    if session.out.as_json:
        session.out.document({"retried": count})
    elif failed:
        session.out.text(f"{amount(count, 'document')} queued again")


def _one(api: Api, method: str, identifier: str, below: str = "", *, repeat: bool = False) -> Any:
    """Ask for one document. Raises CliError for what is not even an id."""
    try:
        known = UUID(identifier)
    except ValueError:
        raise CliError(
            f"there is no document {identifier}",
            fix="an id looks like one of `aistack documents list`",
        ) from None
    return api.json(method, f"/v1/documents/{known}{below}", repeat=repeat)


@command(collections_app, "list")
def list_collections(session: Session) -> None:
    """List the collections."""
    with session.api() as api:
        found = list(api.pages("/v1/collections", {"limit": 100}))
    if session.out.as_json:
        session.out.document({"data": found})
        return
    rows = [
        (
            c["name"],
            _plain(c.get("document_count", "")),
            _plain(c.get("chunk_count", "")),
            c.get("description") or "",
        )
        for c in found
    ]
    session.out.table(("name", "documents", "chunks", "description"), rows)


@command(collections_app, "create")
def create_collection(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    description: Annotated[str | None, typer.Option()] = None,
    language: Annotated[
        str | None, typer.Option(help="Of the words, such as german, or none (default: english).")
    ] = None,
) -> None:
    """Make a collection; one that is there already stays as it is."""
    body: dict[str, Any] = {"name": name} | ({"description": description} if description else {})
    if language is not None:
        body["settings"] = {"language": language}
    with session.api() as api:
        status, answer = api.send("POST", "/v1/collections", json=body, repeat=True)
    if session.out.as_json:
        session.out.document(answer)
    else:
        session.out.text(f"{'created' if status == 201 else 'already there:'} {name}")


@command(collections_app, "delete")
def delete_collection(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    yes: Yes = False,
) -> None:
    """Delete a collection with all its documents."""
    agreed(session, yes, f"All documents of {name} would be deleted")
    with session.api() as api:
        api.json("DELETE", f"/v1/collections/{quote(name, safe='')}")
    if session.out.as_json:
        session.out.document({"deleted": [name]})
    else:
        session.out.text(f"deleted {name}")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={_plain(v)}" for k, v in value.items() if v is not None)
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return str(value)
