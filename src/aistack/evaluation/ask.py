"""Ask every labelled query in every mode, over whatever answers as `POST /v1/search` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from aistack.evaluation.labels import Labelled
from aistack.evaluation.metrics import DEPTH, best_first, score
from aistack.evaluation.runs import Answer

#: Hits of one page, and how far pages go (the bounds of `/v1/search`).
PAGE: Final = 100
LAST_OFFSET: Final = 2000

#: (query, mode, limit, offset) to the JSON of an answer.
Search = Callable[[str, str, int, int], Mapping[str, Any]]


def ask(search: Search, one: Labelled, mode: str) -> Answer:
    """Documents by their best chunk, as deep as `DEPTH` where the modes' candidates go so far."""
    first = page = search(one.query, mode, PAGE, 0)
    named = Names(one.gains)
    found = [named.of(hit) for hit in page["hits"]]
    while len(set(found)) < DEPTH and (offset := page.get("next_offset")) is not None:
        if offset > LAST_OFFSET:
            break
        page = search(one.query, mode, PAGE, offset)
        found += [named.of(hit) for hit in page["hits"]]
    ranking = best_first(found)[:DEPTH]
    metrics = score(ranking, named.gains)
    return Answer(metrics, float(first["took_ms"]), bool(first["cached"]), tuple(ranking))


class Names:
    """How a label names a document: by its source, or by its id in any spelling of a UUID."""

    def __init__(self, gains: Mapping[str, float]) -> None:
        self.gains = {canonical(name): gain for name, gain in gains.items()}

    def of(self, hit: Mapping[str, Any]) -> str:
        """The label's name of the document of `hit`; its source where no label has it."""
        identifier = str(hit["document_id"])
        return identifier if identifier in self.gains else str(hit["source"])


def canonical(name: str) -> str:
    """A UUID as the service writes it; anything else as it is."""
    return str(UUID(name)) if is_id(name) else name


def is_id(name: str) -> bool:
    """Whether a label's name can be the id of a document."""
    try:
        UUID(name)
    except ValueError:
        return False
    return True


def unfound(queries: Sequence[Labelled], legs: Mapping[str, Mapping[str, Answer]]) -> Iterator[str]:
    """Relevant documents that no answer had: each may be one that is not in the collection."""
    seen = {name for answers in legs.values() for one in answers.values() for name in one.ranking}
    wanted = {canonical(n) for one in queries for n, gain in one.gains.items() if gain > 0}
    yield from sorted(wanted - seen)
