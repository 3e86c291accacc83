"""Documents in, search, embeddings, an answer with citations out, plain and streamed."""

from __future__ import annotations

import json
from typing import Any

from .client import CheckError, Client, client, parser, run
from .documents import DOCUMENTS, find, put


def question(text: str, collection: str, *, stream: bool = False) -> dict[str, Any]:
    """A chat request to the documents."""
    return {
        "model": "aistack",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 60,
        "stream": stream,
        "aistack": {"collection": collection},
    }


def cited(stack: Client, extra: dict[str, Any], identities: dict[str, str]) -> int:
    """How many citations there are; each must be the document's own text."""
    for citation in extra["citations"]:
        if citation["document_id"] not in identities.values():
            raise CheckError(f"a citation of a document that was not put in: {citation}")
        text = stack.expect(200, "GET", f"/v1/documents/{citation['document_id']}/text")["text"]
        if text[citation["char_start"] : citation["char_end"]] != citation["quote"]:
            raise CheckError(f"a quote that is not the text at its span: {citation}")
    return len(extra["citations"])


def streamed(stack: Client, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The text of a streamed answer and its `aistack` object."""
    answer = stack.request("POST", "/v1/chat/completions", body)
    if answer.status != 200:
        raise CheckError(f"a streamed answer: {answer}")
    text, done = "", False
    extra: dict[str, Any] = {}
    for line in answer.body.decode().splitlines():
        if line == "data: [DONE]":
            done = True
        elif line.startswith("data: "):
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise CheckError(f"the stream broke off: {chunk['error']}")
            for choice in chunk.get("choices", []):
                text += choice["delta"].get("content") or ""
            extra = chunk.get("aistack") or extra
    if not done or not extra:
        raise CheckError(f"the stream has no end: {answer.body[-300:]!r}")
    return text, extra


def check() -> str:
    """The story."""
    options = parser(__doc__)
    options.add_argument("--collection", default="check-story")
    asked = options.parse_args()
    stack, collection = client(asked), asked.collection
    identities = put(stack, collection)
    again = {
        "collection": collection,
        "source": DOCUMENTS[0].source,
        "text": DOCUMENTS[0].text,
    }
    if str(stack.expect(200, "POST", "/v1/documents", again)["id"]) not in identities.values():
        raise CheckError("the same bytes again made another document")
    for document in DOCUMENTS:
        find(stack, collection, document)
    body = {"model": "all-minilm-l6-v2", "input": ["one text", "another text"]}
    vectors = stack.expect(200, "POST", "/v1/embeddings", body)["data"]
    if [len(entry["embedding"]) for entry in vectors] != [384, 384]:
        raise CheckError("two texts do not give two vectors of 384 numbers")
    citations = 0
    for document in DOCUMENTS:
        request = question(document.question, collection)
        answer = stack.expect(200, "POST", "/v1/chat/completions", request)
        citations += cited(stack, answer["aistack"], identities)
    text, extra = streamed(stack, question(DOCUMENTS[0].question, collection, stream=True))
    citations += cited(stack, extra, identities)
    if not text.strip() or citations == 0:
        raise CheckError(f"no answer cites a document; the last was {text!r}")
    far = question("Who won the football world cup in 1998?", collection)
    honest = stack.expect(200, "POST", "/v1/chat/completions", far)["aistack"]
    if not honest["not_in_documents"] or honest["citations"]:
        raise CheckError("a question that no document answers was answered from them")
    return f"story: {len(identities)} documents, {citations} citations"


if __name__ == "__main__":
    run(check)
