"""Waiting until documents that were sent can be searched."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aistack.cli.errors import Failed
from aistack.cli.ingest_upload import Advance, Outcome, settled

if TYPE_CHECKING:
    from aistack.cli.api import Api

_POLL_FIRST, _POLL_LONGEST = 0.2, 2.0
#: So many documents are asked for one by one; more by their list.
_HANDFUL = 8

#: Told how much of the documents under way is done, in documents.
Underway = Callable[[float], None]


def finish(
    api: Api,
    sent: Sequence[Outcome],
    collection: str,
    timeout: float,
    advance: Advance,
    underway: Underway,
) -> list[Outcome]:
    """Wait until every pending document is ready or failed; give up after `timeout` seconds
    without any progress."""
    done = [outcome for outcome in sent if outcome.state != "pending"]
    open_ = {o.document_id: o for o in sent if o.state == "pending" and o.document_id}
    for outcome in done:
        advance("done", outcome)
    pause, last, before = _POLL_FIRST, time.monotonic(), (len(open_), 0.0)
    while open_:
        shares = still_open(api, collection, len(open_))
        for identifier in sorted(open_.keys() - shares.keys()):
            document = _document(api, identifier)
            end = (
                settled(open_[identifier], document, unchanged=False)
                if document
                else replace(open_[identifier], state="failed", reason="deleted while waiting")
            )
            if end:
                del open_[identifier]
                done.append(end)
                advance("done", end)
            elif document:
                shares[identifier] = float(document.get("progress", 0.0))
        share = sum(shares[identifier] for identifier in open_)
        underway(share)
        if (now := (len(open_), share)) != before:
            pause, last, before = _POLL_FIRST, time.monotonic(), now
        elif time.monotonic() - last > timeout:
            reason = f"not ready after {timeout:.0f} s without progress; see `aistack status`"
            done += [replace(o, state="failed", reason=reason) for o in open_.values()]
            break
        if open_:
            time.sleep(pause)
            pause = min(pause * 1.5, _POLL_LONGEST)
    return sorted(done, key=lambda outcome: outcome.source)


def still_open(api: Api, collection: str, count: int) -> dict[str, float]:
    """Documents with a job before them, by id, and how far each is; for a handful nothing: they
    are asked one by one.

    One that goes back from processing to pending between the two lists is missed here and seen
    when it is asked for itself.
    """
    if count <= _HANDFUL:
        return {}
    return {
        str(document["id"]): float(document.get("progress", 0.0))
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
