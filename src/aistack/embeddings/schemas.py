"""The wire of the embeddings service: OpenAI's shape and text-embeddings-inference's."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from aistack.embeddings.embedder import Embedded
from aistack.embeddings.encoder import Vectors, normalized
from aistack.model_prompts import InputType
from aistack.models import FORGET_TEXTS, EmbeddingSet

#: Token ids are parsed so that they can be refused with words that say what to do instead.
TokenIds = list[int] | list[list[int]]


DIMENSIONS = "the model's own number, or one of the fewer that `/v1/models` lists"


class Wire(BaseModel):
    """A body from outside; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Prompted(Wire):
    """Which of the model's prompts goes before each text; without both, its default one, if any."""

    prompt_name: str | None = Field(
        None, max_length=200, description="a prompt of the model's own, by its name"
    )
    input_type: InputType | None = Field(
        None,
        description="the model's prompt for a query or for a document (`document`, `passage` or"
        " `corpus`), where it has one",
    )


class EmbeddingsRequest(Prompted):
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
    dimensions: int | None = Field(None, description=DIMENSIONS)
    user: str | None = Field(None, max_length=200, description="accepted, and not used")


class ForgetRequest(Wire):
    """Texts whose vectors shall not be kept."""

    sha256: list[Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = Field(
        min_length=1,
        max_length=FORGET_TEXTS,
        description="hexadecimal SHA-256 of the UTF-8 of each text, with the prompt before it",
    )


class EmbedRequest(Prompted):
    """text-embeddings-inference's `POST /embed`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"inputs": ["eating food", "having a meal"]}]}
    )

    inputs: str | list[str] = Field(description="one text or a list of texts")
    truncate: bool = Field(
        True, description="cut a text that is too long for the model; false refuses it with a 413"
    )
    dimensions: int | None = Field(None, description=DIMENSIONS)
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
    dimensions: list[int] = Field(description="fewer ones that a request may ask for")
    prompts: list[str] = Field(description="names for `prompt_name`")
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


def shortened(vectors: Vectors, dimension: int) -> Vectors:
    """(n, dimension) float32 of unit length: the first numbers of `vectors`."""
    if vectors.shape[1] == dimension:
        return vectors
    return normalized(vectors[:, :dimension])


def openai_body(embedded: Embedded, given: EmbeddingSet, *, encode: str) -> bytes:
    """An EmbeddingsResponse as bytes, cut to the dimension of `given`.

    No float becomes a Python object on the way.
    """
    vectors = shortened(embedded.vectors, given.dimension)
    rows: list[Any] = (
        [base64.b64encode(row).decode() for row in vectors.astype("<f4", copy=False)]
        if encode == "base64"
        else list(vectors)
    )
    return orjson.dumps(
        {
            "object": "list",
            "model": given.model,
            "data": [
                {"object": "embedding", "index": index, "embedding": row}
                for index, row in enumerate(rows)
            ],
            "usage": {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens},
            "aistack": {"embedding_set": given.id, "truncated": list(embedded.truncated)},
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def tei_body(embedded: Embedded, given: EmbeddingSet) -> bytes:
    """[[float]] as bytes, cut to the dimension of `given`."""
    vectors = shortened(embedded.vectors, given.dimension)
    return orjson.dumps(vectors, option=orjson.OPT_SERIALIZE_NUMPY)
