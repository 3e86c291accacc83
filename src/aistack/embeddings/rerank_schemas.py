"""The wire of `POST /v1/rerank`: the shape that Cohere's and Jina's clients speak."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import uuid4

import orjson
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from aistack.embeddings.rerank import Scores
from aistack.embeddings.schemas import Usage, Wire


class DocumentIn(Wire):
    """A document as an object."""

    text: str


def _kind(given: object) -> str:
    return "text" if isinstance(given, str) else "object"


#: Told apart before they are read, so that a fault is one of the form that was meant.
Document = Annotated[
    Annotated[str, Tag("text")] | Annotated[DocumentIn, Tag("object")], Discriminator(_kind)
]


class RerankRequest(Wire):
    """A query, and the documents to be put into order."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "query": "How do I enable SSH?",
                    "documents": ["Set services.openssh.enable.", {"text": "A tarn is a lake."}],
                    "top_n": 1,
                }
            ]
        }
    )

    model: str | None = Field(
        None, max_length=200, description="the name of the reranking model; without it that one"
    )
    query: str = Field(description="never cut: one of too many tokens is a 413")
    documents: list[Document] = Field(description="texts; one that is too long is cut at its end")
    top_n: Annotated[int, Field(ge=1)] | None = Field(
        None, description="results that are answered; without it, and beyond their number, all"
    )
    return_documents: bool = Field(False, description="the text with each result")


class DocumentOut(BaseModel):
    """The text that was given."""

    text: str


class ResultOut(BaseModel):
    """One document."""

    index: int = Field(description="in `documents` of the request")
    relevance_score: float = Field(description="0..1, the sigmoid of the model's logit")
    document: DocumentOut | None = None


class MetaTokens(BaseModel):
    """As Cohere has it."""

    input_tokens: int


class Meta(BaseModel):
    """As Cohere has it."""

    tokens: MetaTokens


class RerankExtension(BaseModel):
    """What the shape has no place for."""

    truncated: list[int] = Field(description="indices of the documents that were cut")


class RerankResponse(BaseModel):
    """Results, best first; equal scores by index. Tokens are those that the model reads."""

    id: str
    model: str
    results: list[ResultOut]
    usage: Usage
    meta: Meta
    aistack: RerankExtension


def body(given: RerankRequest, texts: list[str], scored: Scores, model: str) -> bytes:
    """A RerankResponse as bytes."""
    results: list[dict[str, Any]] = []
    for index in scored.order[: given.top_n]:
        result: dict[str, Any] = {"index": index, "relevance_score": scored.scores[index]}
        if given.return_documents:
            result["document"] = {"text": texts[index]}
        results.append(result)
    return orjson.dumps(
        {
            "id": str(uuid4()),
            "model": model,
            "results": results,
            "usage": {"prompt_tokens": scored.tokens, "total_tokens": scored.tokens},
            "meta": {"tokens": {"input_tokens": scored.tokens}},
            "aistack": {"truncated": list(scored.truncated)},
        }
    )
