"""`aistack search`: ranked passages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aistack.cli.errors import Usage
from aistack.cli.ingest import typed
from aistack.cli.output import amount, clean
from aistack.cli.session import Session, command

if TYPE_CHECKING:
    from rich.text import Text

    from aistack.cli.output import Output

_SNIPPET = 320
_FILTER = re.compile(r"^(?P<field>[^=<>]+?)\s*(?P<sign>>=|<=|=|>|<)\s*(?P<value>.*)$", re.DOTALL)
_OPERATORS = {"=": "eq", ">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}


class Mode(StrEnum):
    """Which legs answer."""

    hybrid = "hybrid"
    dense = "dense"
    lexical = "lexical"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "search", rich_help_panel="Documents")
    def search(
        session: Session,
        query: Annotated[str, typer.Argument(metavar="QUERY", show_default=False)],
        collection: Annotated[str, typer.Option("--collection", "-c")] = "default",
        mode: Annotated[Mode, typer.Option(help="Both legs, vectors only, or words only.")] = (
            Mode.hybrid
        ),
        limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100)] = 10,
        offset: Annotated[int, typer.Option(min=0)] = 0,
        filter_: Annotated[
            list[str] | None,
            typer.Option(
                "--filter",
                metavar="FIELD=VALUE",
                help="By metadata: = > >= < <=; repeat for more fields, a repeated = means any of.",
            ),
        ] = None,
        rerank: Annotated[
            bool | None,
            typer.Option(
                "--rerank/--no-rerank",
                help="The best 20 in the order of a cross-encoder (default: as the collection).",
            ),
        ] = None,
    ) -> None:
        """Find passages, best first, with the score of each leg."""
        if not query.strip():
            raise Usage("the query is empty", fix="write it after `aistack search`")
        body: dict[str, Any] = {
            "query": query,
            "collection": collection,
            "mode": mode.value,
            "limit": limit,
            "offset": offset,
        }
        if filter_:
            body["filters"] = parse_filters(filter_)
        if rerank is not None:
            body["rerank"] = rerank
        with session.api() as api:
            answer = api.json("POST", "/v1/search", body=body, repeat=True)
        if session.out.as_json:
            session.out.document(answer)
        else:
            show(session.out, answer, query)


def parse_filters(conditions: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`field=value` and its kin as the filters of `/v1/search`."""
    filters: dict[str, dict[str, Any]] = {}
    for condition in conditions:
        match = _FILTER.match(condition)
        if match is None:
            raise Usage(
                f"--filter {condition} is not FIELD=VALUE", fix="write as --filter year>=2020"
            )
        field, sign = match["field"].strip(), match["sign"]
        value = typed(match["value"])
        operators = filters.setdefault(field, {})
        if sign == "=" and ("eq" in operators or "in" in operators):
            first = [operators.pop("eq")] if "eq" in operators else operators["in"]
            operators["in"] = [*first, value]
        else:
            operators[_OPERATORS[sign]] = value
    return filters


def show(out: Output, answer: dict[str, Any], query: str) -> None:
    """Hits for people."""
    from rich.text import Text

    hits = answer["hits"]
    if not hits:
        out.text(f"nothing found in collection {answer['collection']}")
        return
    for hit in hits:
        head = Text(f"{hit['rank']:>3}. ", style="bold")
        title = hit.get("title") or hit["source"]
        head.append(clean(title), style="bold cyan")
        if hit["source"] != title:
            head.append(f"  {clean(hit['source'])}", style="dim")
        if place := where(hit):
            head.append(f"  {place}", style="dim")
        out.show(head)
        if path := hit.get("heading_path"):
            names = path if isinstance(path, list) else [path]
            out.indented(Text(clean(" › ".join(names)), style="italic"), by=5)
        out.indented(highlighted(snippet(hit["text"], query), query), by=5)
        said = scores(hit)
        if duplicates := hit.get("duplicates"):
            said += f"  +{amount(duplicates, 'duplicate')}"
        out.indented(Text(said, style="dim"), by=5)
    remark = f"{amount(len(hits), 'hit')} of {answer['total']}, {answer['took_ms']:.0f} ms"
    if answer.get("cached"):
        remark += ", cached"
    if degraded := answer.get("degraded"):
        remark += f"; without {' and '.join(degraded)}, which could not be asked"
    if answer.get("next_offset") is not None:
        remark += f"; more with --offset {answer['next_offset']}"
    out.note(remark)


def where(place: dict[str, Any]) -> str:
    """`p. 3` or `line 12` or `lines 12–15`; empty when neither is known."""
    if (page := place.get("page_start")) is not None:
        end = place.get("page_end")
        return f"p. {page}" if end in {None, page} else f"pp. {page}–{end}"
    if (line := place.get("line_start")) is not None:
        end = place.get("line_end")
        return f"line {line}" if end in {None, line} else f"lines {line}–{end}"
    return ""


def scores(hit: dict[str, Any]) -> str:
    """The fused score and each leg's rank and score; `–` for a leg that has none."""
    parts = [f"score {hit['score']:.4f}"]
    for name, leg in (hit.get("legs") or {}).items():
        parts.append(f"{name} #{leg['rank']} {leg['score']:.3f}" if leg else f"{name} –")
    return "  ".join(parts)


def _terms(query: str) -> list[str]:
    return [word for word in re.findall(r"\w+", query.casefold()) if len(word) > 2]


def snippet(text: str, query: str) -> str:
    """About 320 characters on one line, where most words of the query stand."""
    flat = " ".join(clean(text).split())
    if len(flat) <= _SNIPPET:
        return flat
    found = [
        match.start()
        for term in _terms(query)
        for match in re.finditer(re.escape(term), flat, re.I)
    ]
    starts = sorted(found) or [0]
    best = max(starts, key=lambda start: sum(start <= at < start + _SNIPPET for at in found))
    start = max(0, min(best - 40, len(flat) - _SNIPPET))
    if start:  # begin at a word
        start = flat.find(" ", start) + 1
    end = start + _SNIPPET
    if end < len(flat):
        end = flat.rfind(" ", start, end)
    return ("… " if start else "") + flat[start:end] + (" …" if end < len(flat) else "")


def highlighted(text: str, query: str) -> Text:
    """`text` with the words of the query marked, their longer forms too."""
    from rich.text import Text

    marked = Text(text)
    terms = sorted({term[: max(3, len(term) - 2)] for term in _terms(query)})
    if terms:
        pattern = r"\b(?:" + "|".join(map(re.escape, terms)) + r")\w*"
        marked.highlight_regex(re.compile(pattern, re.I), "bold yellow")
    return marked
