"""The engine of the nearest vectors over HTTP: where its index stands, and work on it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from aistack.aidb import examples, index_state, vector_index
from aistack.aidb.parts import Parts
from aistack.service.app import scope
from aistack.service.docs import example
from aistack.service.errors import Conflict, Unavailable

_NOT_HERE = (
    "vectors.engine is pgvector, which needs no index outside PostgreSQL: set it to qdrant for one."
)


class IndexOut(BaseModel):
    """The index in Qdrant, of the embedding set that is searched."""

    embedding_set: int
    model: str
    state: Literal["waiting", "building", "ready"] = Field(
        description="searches use it when it is ready; waiting: nobody has begun"
    )
    done: int = Field(description="chunks that are in, of `total`")
    total: int
    points: int | None = Field(description="that Qdrant had when they were last counted")
    drift: int | None = Field(description="points that the last comparison had to mend")
    open_changes: int = Field(description="changes that Qdrant has not been told of yet")
    wanted: Literal["reconcile", "rebuild"] | None = Field(
        description="what was asked for and has not begun"
    )
    breaker: str = Field(description="closed, half_open or open: whether Qdrant is asked")
    error: str | None = Field(description="why it does not get on")
    started_at: datetime | None
    built_at: datetime | None
    reconciled_at: datetime | None = Field(description="when all ids were last compared")


class HnswOut(BaseModel):
    """PostgreSQL's own index, of the embedding set that is searched."""

    state: Literal["none", "building", "ready"] = Field(
        description="none: every vector is compared, as there are few or no build has begun"
    )
    progress: float | None = Field(description="of the build, 0 to 1; null: there is none")


class VectorsOut(BaseModel):
    """What finds the nearest vectors; `index` is null for pgvector, and before any document."""

    engine: Literal["pgvector", "qdrant"]
    hnsw: HnswOut
    index: IndexOut | None


def add_routes(router: APIRouter, parts: Parts) -> None:
    """The routes below `/v1/vectors`."""

    @router.get("/v1/vectors", **example(scope("documents.read"), examples.GET_VECTORS))
    async def get_vectors() -> VectorsOut:
        """The engine, and where the indexes stand."""
        return await read()

    @router.post("/v1/vectors/reconcile", **_asking(examples.RECONCILE_VECTORS))
    async def reconcile_vectors() -> VectorsOut:
        """Ask for a comparison of Qdrant with PostgreSQL, id by id; what differs is mended."""
        return await ask("reconcile")

    @router.post("/v1/vectors/rebuild", **_asking(examples.REBUILD_VECTORS))
    async def rebuild_vectors() -> VectorsOut:
        """Ask for the index in Qdrant to be made anew; pgvector answers searches meanwhile."""
        return await ask("rebuild")

    async def read() -> VectorsOut:
        engine = parts.config.vectors.engine
        async with parts.postgres.connection("vectors.get") as connection:
            found = await vector_index.index_state(connection)
            hnsw = HnswOut(state=found.state, progress=found.progress)
            if parts.qdrant is None:
                return VectorsOut(engine=engine, hnsw=hnsw, index=None)
            target = await index_state.target(connection)
            lines, _ = await index_state.open_lines(connection)
        if target is None:
            return VectorsOut(engine=engine, hnsw=hnsw, index=None)
        breaker = parts.qdrant.client.dependency.state
        return VectorsOut(engine=engine, hnsw=hnsw, index=_index(target, lines, breaker))

    async def ask(what: Literal["reconcile", "rebuild"]) -> VectorsOut:
        if parts.qdrant is None:
            raise Conflict(_NOT_HERE)
        async with parts.postgres.connection("vectors.ask") as connection:
            known = await index_state.want(connection, what)
        if not known:
            raise Unavailable("There is no index yet: it begins with the first document.")
        return await read()


def _asking(sample: str) -> dict[str, Any]:
    described = example(scope("documents.write", also={409: "The engine is pgvector"}), sample)
    return {**described, "status_code": 202}


def _index(target: index_state.Target, lines: int, breaker: str) -> IndexOut:
    progress = target.progress
    return IndexOut(
        embedding_set=target.set_id,
        model=target.model,
        state=progress.state if progress else "waiting",
        done=progress.done if progress else 0,
        total=progress.total if progress else 0,
        points=progress.points if progress else None,
        drift=progress.drift if progress else None,
        open_changes=lines,
        wanted=progress.wanted if progress else None,
        breaker=breaker,
        error=progress.error if progress else None,
        started_at=progress.started_at if progress else None,
        built_at=progress.built_at if progress else None,
        reconciled_at=progress.reconciled_at if progress else None,
    )
