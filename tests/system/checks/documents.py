"""Three documents whose answers are told apart by a number, and what is done with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .client import CheckError, Client, until


@dataclass(frozen=True)
class Document:
    """A source, its text, and a question that only it answers with `words`."""

    source: str
    text: str
    question: str
    words: str


DOCUMENTS = (
    Document(
        "lighthouse.md",
        "# The lighthouse of Varn\n\nThe lighthouse of Varn was built in 1874 from red granite. It"
        " is 43 metres tall, and its lamp can be seen from 21 nautical miles away.\n",
        "How tall is the lighthouse of Varn?",
        "43 metres",
    ),
    Document(
        "bakery.md",
        "# Rules of the bakery\n\nThe ovens are lit at four in the morning. Rye bread rests for"
        " nine hours before it is baked at 240 degrees.\n",
        "How long does rye bread rest before it is baked?",
        "nine hours",
    ),
    Document(
        "telescope.md",
        "# Using the telescope\n\nThe mirror of the telescope has a diameter of 320 millimetres."
        " Collimate it before every observation, and never point it at the sun.\n",
        "What diameter does the mirror of the telescope have?",
        "320 millimetres",
    ),
)


def put(stack: Client, collection: str, seconds: float = 120.0) -> dict[str, str]:
    """Upload all of them and wait until they are ready; source → id."""
    made = stack.request("POST", "/v1/collections", {"name": collection})
    if made.status not in {200, 201}:
        raise CheckError(f"the collection {collection} was not made: {made}")
    identities = {}
    for document in DOCUMENTS:
        body = {"collection": collection, "source": document.source, "text": document.text}
        answer = stack.request("POST", "/v1/documents", body)
        if answer.status not in {200, 202}:
            raise CheckError(f"{document.source} was not accepted: {answer}")
        identities[document.source] = str(answer.json()["id"])
    for source, identity in identities.items():
        wait_ready(stack, source, identity, seconds)
    return identities


def wait_ready(stack: Client, source: str, identity: str, seconds: float) -> None:
    """Until the document is ready; at once when it has failed."""
    last: dict[str, Any] = {}

    def ready() -> bool:
        last.update(stack.expect(200, "GET", f"/v1/documents/{identity}"))
        if last["state"] == "failed":
            raise CheckError(f"{source} failed: {last.get('error')}")
        return bool(last["state"] == "ready")

    until(ready, seconds, lambda: f"{source} is {last.get('state')}")


def find(stack: Client, collection: str, document: Document) -> dict[str, Any]:
    """The first hit for the document's question, which must be in the document."""
    body = {"query": document.question, "collection": collection, "limit": 3}
    hits = stack.expect(200, "POST", "/v1/search", body)["hits"]
    if not hits or hits[0]["source"] != document.source or document.words not in hits[0]["text"]:
        sources = [hit["source"] for hit in hits]
        raise CheckError(f"{document.question!r} finds {sources}, not {document.source}")
    first: dict[str, Any] = hits[0]
    return first
