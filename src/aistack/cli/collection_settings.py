"""`aistack collections show` and `aistack collections set`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from aistack.cli.errors import Usage
from aistack.cli.session import Session, command

if TYPE_CHECKING:
    from aistack.cli.output import Output

_NAMES = (
    "fusion",
    "rrf_k",
    "dense_weight",
    "lexical_weight",
    "bm25_k1",
    "bm25_b",
    "collapse",
    "rerank",
    "language",
)


class FusionMethod(StrEnum):
    """How the two legs become one list."""

    rrf = "rrf"
    dbsf = "dbsf"


class Collapse(StrEnum):
    """Which hits that say the same as a better one are left out."""

    off = "off"
    exact = "exact"
    near = "near"


def register(collections: typer.Typer) -> None:
    """Add the commands to `aistack collections`."""

    @command(collections, "show")
    def show(
        session: Session,
        name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    ) -> None:
        """Show a collection and how it is searched."""
        with session.api() as api:
            answer = api.json("GET", _path(name), repeat=True)
        _print(session.out, answer)

    @command(collections, "set")
    def change(
        session: Session,
        name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
        description: Annotated[str | None, typer.Option()] = None,
        fusion: Annotated[
            FusionMethod | None,
            typer.Option(help="By reciprocal rank, or by the distribution of the scores."),
        ] = None,
        rrf_k: Annotated[float | None, typer.Option(help="Of reciprocal rank fusion.")] = None,
        dense_weight: Annotated[float | None, typer.Option()] = None,
        lexical_weight: Annotated[float | None, typer.Option()] = None,
        bm25_k1: Annotated[
            float | None, typer.Option("--bm25-k1", help="How soon repetition stops to count.")
        ] = None,
        bm25_b: Annotated[
            float | None, typer.Option("--bm25-b", help="How much length counts.")
        ] = None,
        collapse: Annotated[
            Collapse | None, typer.Option(help="Hits that say the same as a better one.")
        ] = None,
        rerank: Annotated[
            bool | None,
            typer.Option("--rerank/--no-rerank", help="The best hits by a cross-encoder."),
        ] = None,
        language: Annotated[
            str | None,
            typer.Option(help="Of the words, such as german, or none; before there are documents."),
        ] = None,
        reset: Annotated[
            list[str] | None,
            typer.Option("--reset", metavar="SETTING", help="Back to the configuration's; or all."),
        ] = None,
    ) -> None:
        """Change how a collection is searched."""
        given: dict[str, Any] = {
            "fusion": fusion,
            "rrf_k": rrf_k,
            "dense_weight": dense_weight,
            "lexical_weight": lexical_weight,
            "bm25_k1": bm25_k1,
            "bm25_b": bm25_b,
            "collapse": collapse,
            "rerank": rerank,
            "language": language,
        }
        settings = {key: value for key, value in given.items() if value is not None}
        for key in _resets(reset or []):
            settings.setdefault(key, None)
        body: dict[str, Any] = {"settings": settings} if settings else {}
        if description is not None:
            body["description"] = description
        if not body:
            raise Usage("nothing to change", fix="see `aistack collections set --help`")
        with session.api() as api:
            answer = api.json("PATCH", _path(name), body=body, repeat=True)
        _print(session.out, answer)


def _resets(named: list[str]) -> list[str]:
    wanted = [one.strip().replace("-", "_") for one in named]
    if "all" in wanted:
        return list(_NAMES)
    for one in wanted:
        if one not in _NAMES:
            raise Usage(f"--reset {one}: no such setting", fix=f"use {', '.join(_NAMES)} or all")
    return wanted


def _path(name: str) -> str:
    return f"/v1/collections/{quote(name, safe='')}"


def _print(out: Output, answer: dict[str, Any]) -> None:
    if out.as_json:
        out.document(answer)
        return
    flat = {key: value for key, value in answer.items() if key != "settings"}
    rows = [(key, str(value)) for key, value in {**flat, **answer["settings"]}.items()]
    out.table(("", ""), rows)
