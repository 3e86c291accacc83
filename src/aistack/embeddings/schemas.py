"""The wire of the embeddings service: OpenAI's shape and text-embeddings-inference's."""

from __future__ import annotations

import base64
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from aistack.embeddings.embedder import Embedded
from aistack.models import EmbeddingSet

#: Token ids are parsed so that they can be refused with words that say what to do instead.
TokenIds = list[int] | list[list[int]]


class Wire(BaseModel):
    """A body from outside; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class EmbeddingsRequest(Wire):
    """OpenAI's `POST /v1/embeddings`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "all-minilm-l6-v2", "input": "How do I enable SSH?"},
                {
                    "model": "all-minilm-l6-v2",
                    "input": ["eating food", "having a meal"],
                    "encoding_format": "base64",
                },
            ]
        }
    )

    model: str = Field(max_length=200, description="the name that `/v1/models` lists")
    input: str | list[str] | TokenIds = Field(
        description="one text or a list of texts; token ids are refused with a 400"
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="numbers, or the little-endian float32 bytes in base64"
    )
    dimensions: int | None = Field(None, description="only the model's own number is accepted")
    user: str | None = Field(None, max_length=200, description="accepted, and not used")


class EmbedRequest(Wire):
    """text-embeddings-inference's `POST /embed`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"inputs": ["eating food", "having a meal"]}]}
    )

    inputs: str | list[str] = Field(description="one text or a list of texts")
    truncate: bool = Field(
        True, description="cut a text that is too long for the model; false refuses it with a 413"
    )
    normalize: Literal[True] = Field(True, description="vectors always have unit length")


class EmbeddingObject(BaseModel):
    """One vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens that the model reads, special tokens included, after the cut at its length."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsExtension(BaseModel):
    """What OpenAI's shape has no place for."""

    embedding_set: str = Field(description="id of the set that these vectors belong to")
    truncated: list[int] = Field(description="indices of the texts that were cut")


class EmbeddingsResponse(BaseModel):
    """OpenAI's list of embeddings."""

    object: Literal["list"] = "list"
    model: str
    data: list[EmbeddingObject]
    usage: Usage
    aistack: EmbeddingsExtension


class EmbeddingSetDescription(BaseModel):
    """The identity of the vectors."""

    id: str
    model: str
    revision: str
    engine: str
    precision: str
    dimension: int
    normalized: bool


class ModelExtension(BaseModel):
    """What a client must know before it stores vectors."""

    kind: Literal["embedding"] = "embedding"
    dimension: int
    max_tokens: int
    client_batch: int
    embedding_set: EmbeddingSetDescription


class ModelObject(BaseModel):
    """One model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "aistack"
    aistack: ModelExtension


class ModelList(BaseModel):
    """OpenAI's list of models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


def describe(identity: EmbeddingSet) -> EmbeddingSetDescription:
    """The wire form of an embedding set."""
    return EmbeddingSetDescription(
        id=identity.id,
        model=identity.model,
        revision=identity.revision,
        engine=identity.engine,
        precision=identity.precision,
        dimension=identity.dimension,
        normalized=identity.normalized,
    )


def openai_body(embedded: Embedded, identity: EmbeddingSet, *, encode: str) -> bytes:
    """An EmbeddingsResponse as bytes. No float becomes a Python object on the way."""
    vectors = embedded.vectors
    rows: list[Any] = (
        [base64.b64encode(row).decode() for row in vectors.astype("<f4", copy=False)]
        if encode == "base64"
        else list(vectors)
    )
    return orjson.dumps(
        {
            "object": "list",
            "model": identity.model,
            "data": [
                {"object": "embedding", "index": index, "embedding": row}
                for index, row in enumerate(rows)
            ],
            "usage": {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens},
            "aistack": {"embedding_set": identity.id, "truncated": list(embedded.truncated)},
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def tei_body(embedded: Embedded) -> bytes:
    """[[float]] as bytes."""
    return orjson.dumps(embedded.vectors, option=orjson.OPT_SERIALIZE_NUMPY)
