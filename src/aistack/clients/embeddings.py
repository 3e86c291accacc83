"""The embeddings service, for the services that store and compare vectors."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aistack.clients.http import PeerClient
from aistack.model_prompts import InputType
from aistack.models import FORGET_TEXTS, UNIT_TOLERANCE, EmbeddingSet
from aistack.service.errors import NotFound, Unavailable

Vectors = NDArray[np.float32]

#: UTF-8 bytes of the texts of one request: well under the service's body limit when escaped.
REQUEST_BYTES = 1_048_576
#: Seconds of one request to forget: a delete waits for it.
FORGET_SECONDS = 2.0


class BadVectors(Unavailable):
    """The vectors of an answer cannot be used; a single text may be to blame."""


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """What the service says of its model. `client_batch` is the most texts of one request."""

    identity: EmbeddingSet
    max_tokens: int
    client_batch: int


class EmbeddingsClient:
    """Texts to checked vectors. A bad vector is an error here and never reaches a caller."""

    def __init__(self, peer: PeerClient) -> None:
        self._peer = peer
        self._model: EmbeddingModel | None = None

    async def describe(self, *, seconds: float | None = None) -> EmbeddingModel:
        """Ask the service what it has loaded now. Raises Unavailable, also after `seconds`."""
        body = await self._peer.request_json("GET", "/v1/models", retry=True, timeout=seconds)
        try:
            model = _model(body)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise Unavailable("embeddings describes its model in a form unknown here.") from error
        self._model = model
        return model

    async def embedding_set(self) -> EmbeddingSet:
        """The set that vectors of this moment belong to. Raises Unavailable."""
        return (await self.describe()).identity

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """(n, d) float32, unit length, in the order of `texts`.

        All rows belong to the set that was described last. When the service has another model by
        now, the call ends with Unavailable and the next one asks anew. Raises Overloaded too.
        """
        return (await self.embed_in_set(texts))[1]

    async def embed_in_set(
        self,
        texts: Sequence[str],
        input_type: InputType | None = None,
        *,
        seconds: float | None = None,
    ) -> tuple[EmbeddingSet, Vectors]:
        """As `embed`, with the set of the rows: one request where the model is known.

        `input_type` chooses among the prompts of a model that has some. `seconds` are of the whole:
        after them Unavailable is raised, and the service has failed for its breaker.
        """
        end = None if seconds is None else time.monotonic() + seconds
        model = self._model or await self.describe(seconds=seconds)
        parts = [
            await self._request(part, model, input_type, _left(end))
            for part in _parts(texts, model.client_batch)
        ] or [np.empty((0, model.identity.dimension), dtype=np.float32)]
        return model.identity, np.concatenate(parts)

    async def forget(self, digests: Sequence[str]) -> None:
        """Have cached vectors removed, of texts named by hexadecimal SHA-256 of their UTF-8 (with
        their prompt). Raises a StackError."""
        for start in range(0, len(digests), FORGET_TEXTS):
            await self._peer.request(
                "POST",
                "/v1/embeddings/forget",
                json={"sha256": list(digests[start : start + FORGET_TEXTS])},
                retry=True,
                timeout=FORGET_SECONDS,
            )

    def of(self, input_type: InputType) -> TypedEmbeddings:
        """The same service for texts of one kind."""
        return TypedEmbeddings(self, input_type)

    async def ready(self) -> bool:
        """Whether the service has started; costs the breaker nothing."""
        return await self._peer.ready()

    async def probe(self) -> None:
        """Raises when the service does not answer as it should."""
        await self.describe()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._peer.aclose()

    async def _request(
        self,
        texts: Sequence[str],
        model: EmbeddingModel,
        input_type: InputType | None,
        seconds: float | None,
    ) -> Vectors:
        asked = {} if input_type is None else {"input_type": input_type}
        try:
            body = await self._peer.request_json(
                "POST",
                "/v1/embeddings",
                json={
                    "model": model.identity.model,
                    "input": list(texts),
                    "encoding_format": "base64",
                    **asked,
                },
                retry=True,
                timeout=seconds,
            )
        except NotFound as error:
            raise self._changed() from error
        try:
            answered = str(body["aistack"]["embedding_set"])
            rows = sorted(body["data"], key=lambda row: int(row["index"]))
            encoded = [base64.b64decode(row["embedding"], validate=True) for row in rows]
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise Unavailable("embeddings gave an answer that cannot be read.") from error
        if answered != model.identity.id:
            raise self._changed()
        return _checked(encoded, len(texts), model.identity.dimension)

    def _changed(self) -> Unavailable:
        # Forgotten, so that the next call asks what there is now.
        self._model = None
        return Unavailable("The embedding model has just changed; try again.")


class TypedEmbeddings:
    """The embeddings service for queries, or for documents: see `EmbeddingsClient.of`."""

    def __init__(self, client: EmbeddingsClient, input_type: InputType) -> None:
        self._client = client
        self._input_type = input_type

    async def embed_in_set(
        self, texts: Sequence[str], *, seconds: float | None = None
    ) -> tuple[EmbeddingSet, Vectors]:
        """As the client's, with the model's prompt for this kind of text."""
        return await self._client.embed_in_set(texts, self._input_type, seconds=seconds)

    async def embedding_set(self) -> EmbeddingSet:
        """As the client's."""
        return await self._client.embedding_set()


def _left(end: float | None) -> float | None:
    if end is None:
        return None
    left = end - time.monotonic()
    if left <= 0:
        raise Unavailable("embeddings has not answered in time.")
    return left


def _checked(encoded: Sequence[bytes], count: int, dimension: int) -> Vectors:
    if len(encoded) != count or any(len(row) != 4 * dimension for row in encoded):
        raise BadVectors("embeddings gave vectors of a wrong number or length.")
    vectors = np.frombuffer(b"".join(encoded), dtype="<f4").reshape(count, dimension)
    squares = np.einsum("nd,nd->n", vectors, vectors)
    # Written so that a NaN, which compares false, fails as well.
    if not bool(np.all(np.abs(squares - 1.0) <= UNIT_TOLERANCE)):
        raise BadVectors("embeddings gave a vector that is not of unit length.")
    return vectors.astype(np.float32, copy=False)


def _parts(texts: Sequence[str], most: int) -> Iterator[Sequence[str]]:
    """`texts` in requests of at most `most` texts and, but for a lone text, REQUEST_BYTES."""
    start, size = 0, 0
    for index, text in enumerate(texts):
        length = len(text.encode())
        if index > start and (index - start == most or size + length > REQUEST_BYTES):
            yield texts[start:index]
            start, size = index, 0
        size += length
    if start < len(texts):
        yield texts[start:]


def _model(body: Any) -> EmbeddingModel:
    extension = body["data"][0]["aistack"]
    given = extension["embedding_set"]
    identity = EmbeddingSet(
        model=str(given["model"]),
        revision=str(given["revision"]),
        engine=str(given["engine"]),
        precision=str(given["precision"]),
        dimension=int(given["dimension"]),
        normalized=bool(given["normalized"]),
    )
    if identity.id != given["id"]:
        raise ValueError("the id does not follow from the fields")
    return EmbeddingModel(identity, int(extension["max_tokens"]), int(extension["client_batch"]))
