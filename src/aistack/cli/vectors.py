"""`aistack vectors`: the index that Qdrant keeps beside PostgreSQL."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aistack.cli.session import Session, command

if TYPE_CHECKING:
    from aistack.cli.api import Api

vectors_app = typer.Typer(no_args_is_help=True, help="The index of vectors beside PostgreSQL.")

#: Between two looks while something is waited for, seconds.
PAUSE = 1.0
_PATH = "/v1/vectors"
_SHOWN = (
    "model", "state", "done", "total", "points", "drift", "open_changes", "wanted", "breaker",
    "error", "started_at", "built_at", "reconciled_at",
)  # fmt: skip

Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(vectors_app, name="vectors", rich_help_panel="Documents")


@command(vectors_app, "status")
def status(session: Session) -> None:
    """Show what finds the nearest vectors, and where its index stands."""
    with session.api() as api:
        show(session, api.json("GET", _PATH, repeat=True))


@command(vectors_app, "reconcile")
def reconcile(session: Session, wait: Wait = True) -> None:
    """Compare Qdrant with PostgreSQL, id by id, and mend what differs."""
    _ask(session, "reconcile", "reconciled_at", wait)


@command(vectors_app, "rebuild")
def rebuild(session: Session, wait: Wait = True) -> None:
    """Make the index in Qdrant anew; searches go on without it meanwhile."""
    _ask(session, "rebuild", "built_at", wait)


def show(session: Session, answer: dict[str, Any]) -> None:
    """The answer of the route, for people or as it is."""
    if session.out.as_json:
        session.out.document(answer)
        return
    index = answer["index"] or {}
    said = [(name, str(index[name])) for name in _SHOWN if index.get(name) is not None]
    session.out.table(("", ""), [("engine", answer["engine"]), ("hnsw", _hnsw(answer)), *said])


def _hnsw(answer: dict[str, Any]) -> str:
    """The state of PostgreSQL's own index in words."""
    state: str = answer["hnsw"]["state"]
    if state == "building":
        return f"building, {answer['hnsw']['progress']:.0%}"
    return "none, search is exact" if state == "none" else state


def _ask(session: Session, what: str, until: str, wait: bool) -> None:
    """Ask for `what`; it is done when the time in `until` has changed."""
    with session.api() as api:
        before = api.json("GET", _PATH, repeat=True)["index"]
        # To ask twice is to ask once.
        answer = api.json("POST", f"{_PATH}/{what}", repeat=True)
        if wait:
            answer = _waited(session, api, answer, until, (before or {}).get(until))
    show(session, answer)


def _waited(
    session: Session, api: Api, answer: dict[str, Any], until: str, before: Any
) -> dict[str, Any]:
    said = ""
    while (index := answer["index"])["wanted"] or index[until] in (None, before):
        words = index["error"] or ""
        if not words and index["state"] == "building":
            words = f"{index['done']} of {index['total']} chunks"
        if words and words != said:
            said = words
            session.out.note(words)
        time.sleep(PAUSE)
        answer = api.json("GET", _PATH, repeat=True)
    return answer
