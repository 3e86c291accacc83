"""Qdrant over REST, under a `Dependency`: named vectors, points by chunk id, typed conditions.

Only this module knows `qdrant-client`. What the server refuses as unknown is NotFound, a name that
is taken Conflict, too much at once Overloaded, a write that it can never take Refused; everything
else that is no answer, or is not Qdrant's own, is Unavailable.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, TypeVar

import httpx
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from aistack.clients.resilience import Breaker, Dependency, Transient
from aistack.config_vectors import QdrantConfig
from aistack.service.errors import Conflict, NotFound, Overloaded, Unprocessable
from aistack.service.private_files import read_secret

T = TypeVar("T")

#: The name of the one vector of a point.
VECTOR: Final = "text"
#: Candidates that are compared in full precision for each that is wanted, under quantization.
OVERSAMPLING: Final = 2.0
#: How many times `timeout_seconds` a write may take.
WRITE_TIMES: Final = 10

#: A write is split above it. Qdrant refuses requests of more than 32 MiB, and would for ever.
REQUEST_BYTES: Final = 16 * 1024 * 1024
#: A number of a vector and its comma, at most.
_NUMBER_BYTES: Final = 26

IndexKind = Literal["keyword", "integer", "float", "uuid"]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The field, or one element of it where it is a list, is one of `values`."""

    field: str
    values: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Between:
    """The field, or one element of it, is a number within the bounds that are given."""

    field: str
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None


@dataclass(frozen=True, slots=True)
class Ids:
    """The point has one of these ids."""

    ids: tuple[int, ...]


Clause = AnyOf | Between | Ids


@dataclass(frozen=True, slots=True)
class Where:
    """All of `must` and none of `must_not`."""

    must: tuple[Clause, ...] = ()
    must_not: tuple[Clause, ...] = ()


@dataclass(frozen=True, slots=True)
class Point:
    """`vector` has the dimension of the collection; `payload` is JSON."""

    id: int
    vector: Sequence[float]
    payload: Mapping[str, Any]


class Qdrant:
    """Collections of points; every call is bounded and guarded, reads are tried again."""

    def __init__(self, config: QdrantConfig) -> None:
        self._config = config
        #: Of the names of the collections that are ours.
        self.prefix = config.prefix
        headers = {}
        self._key: str | None = None
        if config.api_key_file is not None:
            # Not as api_key: the client would warn of http, which is how it is reached on loopback.
            self._key = read_secret("vectors.qdrant.api_key_file", config.api_key_file)
            headers["api-key"] = self._key
        self._client = AsyncQdrantClient(
            url=config.url,
            port=None,
            prefer_grpc=False,
            check_compatibility=False,
            headers=headers,
            # The guard's deadline comes first.
            timeout=math.ceil(config.timeout_seconds * WRITE_TIMES) + 1,
            trust_env=False,
            limits=httpx.Limits(max_connections=36, max_keepalive_connections=16),
        )
        self.dependency = Dependency(
            "qdrant",
            timeout=config.timeout_seconds,
            concurrency=32,
            queue_seconds=config.timeout_seconds,
            attempts=2,
            breaker=Breaker("qdrant", failures=3, window=30.0, cooldown=2.0),
        )

    async def probe(self) -> None:
        """Raises when it does not answer, or refuses our key."""
        await self._read("probe", self._client.get_collections)

    async def names(self) -> list[str]:
        """Of all collections."""
        found = await self._read("collections", self._client.get_collections)
        return [one.name for one in found.collections]

    async def create(self, name: str, dimension: int) -> None:
        """A collection as the configuration wants it. Raises Conflict where there is one."""
        config = self._config
        quantization = None
        if config.quantization == "int8":
            quantization = models.ScalarQuantization(
                scalar=models.ScalarQuantizationConfig(
                    type=models.ScalarType.INT8, quantile=0.99, always_ram=True
                )
            )
        await self._write(
            "create",
            lambda: self._client.create_collection(
                name,
                # Unit vectors: the inner product is the cosine, as in the vector tables.
                vectors_config={
                    VECTOR: models.VectorParams(size=dimension, distance=models.Distance.DOT)
                },
                quantization_config=quantization,
                shard_number=config.shards,
                replication_factor=config.replication_factor,
                write_consistency_factor=config.write_consistency_factor,
            ),
        )

    async def drop(self, name: str) -> None:
        """Remove a collection; one that is not there is no error."""
        await self._write("drop", lambda: self._client.delete_collection(name))

    async def index(self, name: str, field: str, kind: IndexKind) -> None:
        """An index of a payload field; one that exists stays."""
        schema: Any = models.PayloadSchemaType(kind)
        if kind == "integer":
            schema = models.IntegerIndexParams(
                type=models.IntegerIndexType.INTEGER, lookup=True, range=False
            )
        await self._write(
            "index", lambda: self._client.create_payload_index(name, field, schema, wait=True)
        )

    async def upsert(self, name: str, points: Sequence[Point]) -> None:
        """Write points over those of the same ids; done when a search would find them."""
        for some in requests(points):
            made = [
                models.PointStruct(
                    id=point.id, vector={VECTOR: list(point.vector)}, payload=dict(point.payload)
                )
                for point in some
            ]
            await self._write("upsert", partial(self._client.upsert, name, made, wait=True))

    async def delete(self, name: str, where: Where) -> None:
        """Remove the points that `where` holds for."""
        selector = models.FilterSelector(filter=_filter(where))
        await self._write("delete", lambda: self._client.delete(name, selector, wait=True))

    async def nearest(
        self,
        name: str,
        vector: Sequence[float],
        where: Where,
        *,
        limit: int,
        exact: bool,
        ef_search: int,
        timeout: float | None = None,
    ) -> list[int]:
        """Ids of the points with the largest inner products, best first; `timeout` in seconds."""
        quantization = None
        if self._config.quantization == "int8":
            quantization = models.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
        found = await self._read(
            "nearest",
            lambda: self._client.query_points(
                name,
                query=list(vector),
                using=VECTOR,
                query_filter=_filter(where),
                search_params=models.SearchParams(
                    exact=exact, hnsw_ef=ef_search, quantization=quantization
                ),
                limit=limit,
                with_payload=False,
                with_vectors=False,
            ),
            timeout=timeout,
        )
        return [int(point.id) for point in found.points]

    async def count(self, name: str) -> int:
        """Its points, counted and not estimated."""
        found = await self._read("count", lambda: self._client.count(name, exact=True))
        return found.count

    async def page(
        self, name: str, *, start: int | None, limit: int, field: str
    ) -> tuple[list[tuple[int, Any]], int | None]:
        """(id, payload field) of points from the id `start` on, and where the next page starts."""
        found, following = await self._read(
            "page",
            lambda: self._client.scroll(
                name, limit=limit, offset=start, with_payload=[field], with_vectors=False
            ),
        )
        rows = [(int(point.id), (point.payload or {}).get(field)) for point in found]
        return rows, None if following is None else int(str(following))

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def _read(
        self, operation: str, fn: Callable[[], Awaitable[T]], *, timeout: float | None = None
    ) -> T:
        return await self.dependency.call(
            operation, lambda: _answer(fn, self._key), retry=True, timeout=timeout
        )

    async def _write(self, operation: str, fn: Callable[[], Awaitable[T]]) -> T:
        # Not tried again here: whoever writes does so from a queue, which does.
        limit = self._config.timeout_seconds * WRITE_TIMES
        return await self.dependency.call(
            operation, lambda: _answer(fn, self._key, write=True), timeout=limit
        )


class Refused(Unprocessable):
    """A write that the server understood and will never take; it is no failure of the server."""


async def _answer(fn: Callable[[], Awaitable[T]], key: str | None, *, write: bool = False) -> T:
    """What `fn` gives, with the client's errors as ours; `key` is kept out of their words."""
    try:
        return await fn()
    except ResourceExhaustedResponse as error:
        raise Overloaded("qdrant is busy.", retry_after=error.retry_after_s) from error
    except QdrantException as error:
        # A 429 whose Retry-After is a date.
        raise Overloaded("qdrant is busy.") from error
    except ResponseHandlingException as error:
        broken = not isinstance(error.source, httpx.TransportError)
        raise Transient(f"{type(error.source).__name__}", again=not broken) from error
    except UnexpectedResponse as error:
        status = error.status_code or 0
        if status == 429:
            raise Overloaded("qdrant is busy.") from error
        if status in (401, 403):
            raise Transient(f"the key is refused (status {status})", again=False) from error
        own = _reason(error.content)
        if own is not None and status == 404:
            raise NotFound("qdrant has no such collection.") from error
        if own is not None and status == 409:
            raise Conflict("qdrant has a collection of that name.") from error
        said = error.content.decode("utf-8", "replace") if own is None else own
        if key:
            said = said.replace(key, "***")
        said = f"status {status}: {said}"[:200]
        # The only one that what stands before Qdrant may say: for this request it is as final.
        if write and (status == 413 or (own is not None and status in (400, 422))):
            raise Refused(said) from error
        raise Transient(said, again=status in (502, 503, 504)) from error


def _reason(body: bytes) -> str | None:
    """Why Qdrant itself refuses; None where the body is not of its form."""
    try:
        reason = json.loads(body)["status"]["error"]
    except (ValueError, TypeError, LookupError):
        return None
    return reason if isinstance(reason, str) else None


def requests(points: Sequence[Point], most: int = REQUEST_BYTES) -> Iterator[list[Point]]:
    """`points` in lists of at most `most` bytes of JSON each, or of one point."""
    some: list[Point] = []
    size = 0
    for point in points:
        # Escaped, so an upper bound of what is sent.
        own = len(json.dumps(point.payload)) + _NUMBER_BYTES * len(point.vector)
        if some and size + own > most:
            yield some
            some, size = [], 0
        some.append(point)
        size += own
    if some:
        yield some


def _filter(where: Where) -> models.Filter:
    return models.Filter(
        must=[_condition(clause) for clause in where.must] or None,
        must_not=[_condition(clause) for clause in where.must_not] or None,
    )


def _condition(clause: Clause) -> models.FieldCondition | models.HasIdCondition:
    if isinstance(clause, Ids):
        return models.HasIdCondition(has_id=list(clause.ids))
    if isinstance(clause, Between):
        bounds = models.Range(gt=clause.gt, gte=clause.gte, lt=clause.lt, lte=clause.lte)
        return models.FieldCondition(key=clause.field, range=bounds)
    values: Any = list(clause.values)
    match = models.MatchAny(any=values) if len(values) > 1 else models.MatchValue(value=values[0])
    return models.FieldCondition(key=clause.field, match=match)
