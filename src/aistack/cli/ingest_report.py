"""What `aistack ingest` says: bars while it works, and the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from aistack.cli.files import Skipped
from aistack.cli.ingest_upload import Advance, Outcome, State
from aistack.cli.ingest_watch import Underway
from aistack.cli.output import amount

if TYPE_CHECKING:
    from rich.progress import Progress

    from aistack.cli.output import Output


@dataclass(frozen=True, slots=True)
class Bars:
    """Where the work says how far it is."""

    advance: Advance
    underway: Underway


@contextmanager
def progress(out: Output, total: int, waits: bool) -> Iterator[Bars]:
    """Two bars on stderr with rate and failures where that is a terminal, else nothing."""
    if out.as_json or total == 0 or not out.messages.is_terminal:
        yield Bars(lambda _, __: None, lambda _: None)
        return
    with bars(out) as shown:
        tasks = {"sent": shown.add_task("uploading", total=total, failed="")}
        if waits:
            tasks["done"] = shown.add_task("indexing", total=total, failed="")
        failed: Counter[str] = Counter()
        finished: Counter[str] = Counter()

        def advance(name: str, outcome: Outcome) -> None:
            finished[name] += 1
            failed[name] += outcome.state == "failed"
            words = f"{failed[name]} failed" if failed[name] else ""
            shown.update(tasks[name], completed=finished[name], failed=words)

        def underway(share: float) -> None:
            shown.update(tasks["done"], completed=finished["done"] + share)

        yield Bars(advance, underway)


def bars(out: Output) -> Progress:
    """Bars with count, documents per second and time."""
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed
    from rich.text import Text

    class Count(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{int(task.completed)}/{int(task.total or 0)}")

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.1f}/s")

    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        Count(),
        Rate(),
        Elapsed(),
        TextColumn("{task.fields[failed]}", style="red"),
        console=out.messages,
        transient=True,
    )


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
                    "sent": sum(outcome.sent for outcome in outcomes),
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
