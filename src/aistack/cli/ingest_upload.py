"""Sending files: what the collection has already is not sent again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from aistack.cli.errors import Failed
from aistack.cli.files import Candidate

if TYPE_CHECKING:
    from aistack.cli.api import Api

State = Literal["ready", "unchanged", "pending", "failed"]

#: Uploads at once. The work behind them is a queue: more only fills it.
UPLOADS = 4
#: Names of one question for documents, and their length in a URL: servers take 8 KiB of it.
_NAMES, _URL_BYTES = 50, 4000


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
    #: Whether its bytes were sent now, and not there already.
    sent: bool = False


#: Told of every file that is finished with: `("sent" | "done", its outcome)`.
Advance = Callable[[Literal["sent", "done"], Outcome], None]
Known = Mapping[str, Mapping[str, Any]]


def known_documents(api: Api, candidates: Sequence[Candidate], collection: str) -> Known:
    """The documents of these names that the collection has, by name."""
    found: dict[str, Mapping[str, Any]] = {}
    for names in _questions([candidate.source for candidate in candidates]):
        try:
            page = api.json(
                "GET",
                "/v1/documents",
                params={"collection": collection, "source": names, "limit": _NAMES},
                repeat=True,
            )
        except Failed as error:
            if error.status == 404:  # the default collection, which the first document makes
                return {}
            raise
        found |= {str(document["source"]): document for document in page["data"]}
    return found


def _questions(names: Sequence[str]) -> Iterator[list[str]]:
    """`names` cut so that each part fits into one URL."""
    part: list[str] = []
    length = 0
    for name in names:
        more = len(quote(name, safe="")) + len("&source=")
        if part and (len(part) == _NAMES or length + more > _URL_BYTES):
            yield part
            part, length = [], 0
        part.append(name)
        length += more
    if part:
        yield part


def upload(
    api: Api,
    candidates: Sequence[Candidate],
    collection: str,
    metadata: dict[str, Any],
    known: Known,
    advance: Advance,
) -> list[Outcome]:
    """Send every file that is not among `known` as it is, a few at a time.

    A file that fails stops no other. A stack that is gone, or a key that is refused, stops them
    all: raised as CliError.
    """

    def one(candidate: Candidate) -> Outcome:
        return _send(api, candidate, collection, metadata, known.get(candidate.source))

    outcomes: list[Outcome] = []
    queue = iter(candidates)
    with ThreadPoolExecutor(UPLOADS, thread_name_prefix="upload") as pool:
        running = {pool.submit(one, candidate) for candidate in islice(queue, UPLOADS)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                outcomes.append(future.result())
                advance("sent", outcomes[-1])
                if (candidate := next(queue, None)) is not None:
                    running.add(pool.submit(one, candidate))
    return sorted(outcomes, key=lambda outcome: outcome.source)


def _send(
    api: Api,
    candidate: Candidate,
    collection: str,
    metadata: dict[str, Any],
    there: Mapping[str, Any] | None,
) -> Outcome:
    try:
        content = candidate.path.read_bytes()
    except OSError as error:
        return _failed(candidate, f"cannot be read ({error.strerror})")
    if there is not None and _same(there, candidate, metadata, content):
        outcome = Outcome(candidate.source, str(candidate.path), "pending", str(there["id"]))
        return settled(outcome, there, unchanged=True) or outcome
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
        sent=True,
    )
    return settled(outcome, document, unchanged=status == 200) or outcome


def _same(
    there: Mapping[str, Any], candidate: Candidate, metadata: dict[str, Any], content: bytes
) -> bool:
    """Whether sending the file would change nothing. One that failed is sent: it is tried again."""
    newest = there.get("pending") or there
    return bool(
        there["state"] != "failed"
        and there["sha256"] == hashlib.sha256(content).hexdigest()
        and newest["content_type"] == candidate.content_type
        and newest["metadata"] == metadata
    )


def _failed(candidate: Candidate, reason: str) -> Outcome:
    return Outcome(candidate.source, str(candidate.path), "failed", reason=reason)


def settled(outcome: Outcome, document: Mapping[str, Any], *, unchanged: bool) -> Outcome | None:
    """The end of `outcome` where `document` has come to one."""
    if document["state"] == "ready":
        state: State = "unchanged" if unchanged else "ready"
        return replace(outcome, state=state, chunks=document.get("chunk_count"))
    if document["state"] == "failed":
        reason = document.get("error") or "no reason given"
        return replace(outcome, state="failed", reason=str(reason))
    return None
