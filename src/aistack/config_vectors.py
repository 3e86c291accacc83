"""The configuration of the engine that finds the nearest vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from aistack.config_section import Section


class QdrantConfig(Section):
    """The Qdrant server or cluster, asked where vectors.engine is `qdrant`."""

    url: str = Field(
        "http://127.0.0.1:6333",
        pattern=r"^https?://[^\s/@]+(/[^\s?#]*)?$",
        description="of its REST interface",
    )
    api_key_file: Path | None = None
    prefix: str = Field(
        "aistack",
        pattern=r"^[a-z0-9_-]{1,32}$",
        description="of the collections' names; each installation on one Qdrant needs its own",
    )
    timeout_seconds: float = Field(
        3, gt=0, description="of one search; a write may take ten times as long"
    )
    quantization: Literal["none", "int8"] = Field(
        "none",
        description="`int8` keeps one byte per dimension in memory; what it finds is compared in"
        " full precision. Takes effect when the index is rebuilt",
    )
    shards: int = Field(1, ge=1, le=1024, description="of a collection; when the index is rebuilt")
    replication_factor: int = Field(
        1, ge=1, le=32, description="nodes that hold each shard; when the index is rebuilt"
    )
    write_consistency_factor: int = Field(
        1, ge=1, le=32, description="of them, how many must have a write before it counts"
    )

    @field_validator("write_consistency_factor")
    @classmethod
    def _within_the_replicas(cls, factor: int, info: ValidationInfo) -> int:
        if factor > info.data.get("replication_factor", factor):
            raise ValueError("more than vectors.qdrant.replication_factor can never be reached")
        return factor


class VectorsConfig(Section):
    """What finds the nearest vectors; they are kept in PostgreSQL in either case."""

    engine: Literal["pgvector", "qdrant"] = Field(
        "pgvector",
        description="`qdrant` is an index that aidb keeps beside PostgreSQL and can make again",
    )
    qdrant: QdrantConfig = QdrantConfig()
