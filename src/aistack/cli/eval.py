"""`aistack eval`: how well a collection is searched, and whether a change helped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from aistack import __version__
from aistack.cli.errors import CliError, Failed, Usage
from aistack.cli.output import amount
from aistack.cli.search import Mode
from aistack.cli.session import Session, command

if TYPE_CHECKING:
    from aistack.cli.api import Api
    from aistack.cli.output import Output
    from aistack.evaluation.bootstrap import Interval
    from aistack.evaluation.labels import Labels
    from aistack.evaluation.metrics import Grades
    from aistack.evaluation.runs import Change, Run

eval_app = typer.Typer(no_args_is_help=True, help="How well documents are found.")

_HEADS = {"ndcg@10": "nDCG@10", "recall@10": "recall@10", "recall@100": "recall@100", "mrr": "MRR"}
_PATIENCE = 120.0
_NAMED = 5
_FAULTS = 20


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(eval_app, name="eval", rich_help_panel="Documents")


@command(eval_app, "run")
def run_labels(
    session: Session,
    labels: Annotated[
        Path, typer.Argument(metavar="LABELS", show_default=False, help="JSON lines or TREC qrels.")
    ],
    collection: Annotated[str, typer.Option("--collection", "-c")] = "default",
    topics: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Queries of TREC qrels: number<TAB>query, or <top>."),
    ] = None,
    mode: Annotated[
        list[Mode] | None,
        typer.Option(help="Repeat for more (default: dense, lexical and hybrid)."),
    ] = None,
    grades: Annotated[
        str | None,
        typer.Option(
            metavar="GRADE=GAIN,…",
            help="What each grade is worth (default: itself, 0 below 0), such as 1=3,2=2,3=1.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the run as JSON, to compare.")
    ] = None,
    rerank: Annotated[
        bool | None,
        typer.Option(
            "--rerank/--no-rerank",
            help="Each mode's best 20 by a cross-encoder (default: as the collection).",
        ),
    ] = None,
) -> None:
    """Search every labelled query: nDCG@10, recall, MRR and latency of each leg and of both.

    A line of LABELS is {"query": "…", "relevant": {"SOURCE or document id": GRADE}}. A document
    counts where its best chunk stands; the intervals are of 95 %, by bootstrap over the queries.
    """
    known = read_labels(session.out, labels, topics, _grades(grades))
    modes = list(dict.fromkeys(m.value for m in mode or (Mode.dense, Mode.lexical, Mode.hybrid)))
    if out is not None and not out.parent.is_dir():
        raise Usage(f"{out.parent} is not a directory", fix="make it, or name another with --out")
    with session.api(patience=_PATIENCE) as api:
        about = {"file": str(labels), "rerank": rerank}
        made = _run(session.out, api, known, collection, modes, about)
        missing = _missing(api, known, collection, made)
    if out is not None:
        try:
            made.save(out)
        except OSError as error:
            raise CliError(f"{out} cannot be written: {error.strerror}") from error
    if session.out.as_json:
        session.out.document(_document(made, known, missing))
    else:
        _show(session.out, made, known, missing)


@command(eval_app, "compare")
def compare_runs(
    session: Session,
    before: Annotated[Path, typer.Argument(metavar="BEFORE", show_default=False)],
    after: Annotated[Path, typer.Argument(metavar="AFTER", show_default=False)],
) -> None:
    """Say whether a change helped, from two runs that `eval run --out` kept.

    The same queries are compared in pairs; what is better or worse is so with an interval of 95 %
    that leaves out 0.
    """
    from aistack.evaluation.runs import compare

    try:
        changes = compare(_load(before), _load(after))
    except ValueError as error:
        raise Usage(str(error), fix="compare runs of one file of labels") from None
    if session.out.as_json:
        session.out.document(
            {"changes": [asdict(one) | {"verdict": one.verdict} for one in changes]}
        )
    else:
        _show_changes(session.out, changes)


def _grades(text: str | None) -> Grades:
    from aistack.evaluation.metrics import Grades

    try:
        return Grades.parse(text) if text is not None else Grades()
    except ValueError as error:
        raise Usage(f"--grades: {error}", fix="write as --grades 1=3,2=2,3=1") from None


def read_labels(out: Output, labels: Path, topics: Path | None, grades: Grades) -> Labels:
    """The labels; each fault is one line on stderr. Raises Usage."""
    from aistack.evaluation.labels import BadLabels, read_jsonl, read_trec

    try:
        return read_trec(labels, topics, grades) if topics else read_jsonl(labels, grades)
    except OSError as error:
        raise Usage(
            f"{error.filename} cannot be read: {error.strerror}", fix="name a file of labels"
        ) from None
    except BadLabels as bad:
        if len(bad.faults) == 1:
            raise Usage(str(bad.faults[0]), fix="put it right") from None
        for fault in bad.faults[:_FAULTS]:
            out.note(str(fault))
        more = len(bad.faults) - _FAULTS
        if more > 0:
            out.note(f"and {more} more")
        raise Usage(
            f"{amount(len(bad.faults), 'line')} of the labels cannot be used",
            fix="put them right; nothing was searched",
        ) from None


def _run(
    out: Output,
    api: Api,
    labels: Labels,
    collection: str,
    modes: Sequence[str],
    about: Mapping[str, Any],
) -> Run:
    from datetime import UTC, datetime

    from aistack.evaluation.ask import ask
    from aistack.evaluation.runs import Answer, Run

    last: Mapping[str, Any] = {}

    def search(query: str, mode: str, limit: int, offset: int) -> Mapping[str, Any]:
        nonlocal last
        body = {"query": query, "collection": collection, "mode": mode, "limit": limit}
        if about["rerank"] is not None:
            body["rerank"] = about["rerank"]
        last = api.json("POST", "/v1/search", body=body | {"offset": offset}, repeat=True)
        if without := last.get("degraded"):
            raise CliError(
                f"a {mode} search was answered without its {' and '.join(without)} leg",
                fix="run again when `aistack status` shows that every part is well",
            )
        return last

    legs: dict[str, dict[str, Answer]] = {mode: {} for mode in modes}
    with _progress(out, len(labels.queries)) as advance:
        for one in labels.queries:
            # Every mode of a query in turn: what else the machine does meets all of them.
            for mode in modes:
                legs[mode][one.id] = ask(search, one, mode)
            advance()
    told = {name: last.get(name) for name in ("epoch", "embedding_set")}
    return Run(
        labels=labels.digest,
        collection=collection,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        legs=legs,
        about={**about, **told, "version": __version__},
    )


def _missing(api: Api, labels: Labels, collection: str, run: Run) -> list[str]:
    """Relevant documents that are not in the collection; they count as not found."""
    from aistack.evaluation.ask import is_id, unfound

    missing = []
    for name in unfound(labels.queries, run.legs):
        params = {"collection": collection, "source": name, "limit": 1}
        there = bool(api.json("GET", "/v1/documents", params=params, repeat=True)["data"])
        if not there and is_id(name):
            there = _is_document(api, name, collection)
        if not there:
            missing.append(name)
    return missing


def _is_document(api: Api, identifier: str, collection: str) -> bool:
    try:
        found = api.json("GET", f"/v1/documents/{quote(identifier, safe='')}", repeat=True)
    except Failed as error:
        if error.status == 404:
            return False
        raise
    return bool(found["collection"] == collection)


@contextmanager
def _progress(out: Output, total: int) -> Iterator[Callable[[], None]]:
    if out.as_json or not out.messages.is_terminal:
        yield lambda: None
        return
    from rich.progress import Progress

    with Progress(console=out.messages, transient=True) as bars:
        task = bars.add_task("searching", total=total)
        yield lambda: bars.advance(task)


def _document(run: Run, labels: Labels, missing: Sequence[str]) -> dict[str, Any]:
    from aistack.evaluation.metrics import METRICS
    from aistack.evaluation.runs import fused_minus_best

    legs = {}
    for mode in run.legs:
        taken = run.latency(mode)
        legs[mode] = {
            **{name: asdict(run.interval(mode, name)) for name in METRICS},
            "latency_ms": {"p50": taken[0], "p95": taken[1]} if taken else None,
            "cached": sum(one.cached for one in run.legs[mode].values()),
        }
    gain = fused_minus_best(run)
    return {
        "collection": run.collection,
        "labels": run.labels,
        "queries": len(labels.queries),
        "unjudged": labels.unjudged,
        "missing": list(missing),
        "legs": legs,
        "fused_minus_best": {"best": gain[0], **asdict(gain[1])} if gain else None,
    }


def _show(out: Output, run: Run, labels: Labels, missing: Sequence[str]) -> None:
    from aistack.evaluation.metrics import METRICS
    from aistack.evaluation.runs import fused_minus_best

    rows = []
    for mode, answers in run.legs.items():
        taken = run.latency(mode)
        times = [f"{one:.0f}" for one in taken] if taken else ["cached", "cached"]
        rows.append([mode, *(_interval(run.interval(mode, name)) for name in METRICS), *times])
        if taken and (cached := sum(one.cached for one in answers.values())):
            out.note(f"{mode}: {cached} of {len(answers)} answers were cached; not in its times")
    out.table(("", *(_HEADS[name] for name in METRICS), "p50 ms", "p95 ms"), rows)
    if (gain := fused_minus_best(run)) is not None:
        out.text(f"hybrid minus {gain[0]}, nDCG@10: {_interval(gain[1], signed=True)}")
    remark = f"{amount(len(labels.queries), 'query', 'queries')} in collection {run.collection}"
    if labels.unjudged:
        remark += f"; {labels.unjudged} topics have no relevant document and are left out"
    out.note(remark)
    if missing:
        names = ", ".join(missing[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
        out.note(
            f"{amount(len(missing), 'relevant document')} not in {run.collection}, which count as"
            f" not found: {names}"
        )


def _interval(one: Interval, *, signed: bool = False) -> str:
    if signed:
        return f"{one.mean:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"
    return f"{one.mean:.3f} [{one.low:.3f}, {one.high:.3f}]"


def _load(path: Path) -> Run:
    from aistack.evaluation.runs import NotARun, load

    try:
        return load(path)
    except OSError as error:
        raise Usage(f"{path} cannot be read: {error.strerror}", fix="name a stored run") from None
    except NotARun as error:
        raise Usage(str(error), fix="make one with `aistack eval run --out`") from None


def _show_changes(out: Output, changes: Sequence[Change]) -> None:
    rows = [
        (
            one.mode,
            _HEADS[one.metric],
            f"{one.before:.3f}",
            f"{one.after:.3f}",
            _interval(one.difference, signed=True),
            one.verdict,
        )
        for one in changes
    ]
    out.table(("", "", "before", "after", "difference", ""), rows)
    # What users get is the last word: both legs fused where both runs have it.
    first = [one for one in changes if one.metric == changes[0].metric]
    word = next((one for one in first if one.mode == Mode.hybrid.value), first[0])
    said = {"better": "the change helped", "worse": "the change hurt"}.get(
        word.verdict, "no difference is shown"
    )
    out.text(f"{said}: {word.mode}, nDCG@10 {_interval(word.difference, signed=True)}")
