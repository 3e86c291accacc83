"""Settings of a collection: how its two legs are weighed, fused and thinned.

A collection stores only what differs from the configuration; the rest follows the configuration. A
change raises the collection's epoch, so that no cached search survives it. Members of the stored
object that are not known here belong to others and are left as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from psycopg.types.json import Jsonb

from aistack.aidb.analysis import ENGLISH
from aistack.aidb.bm25 import Bm25
from aistack.aidb.documents import Collection
from aistack.aidb.near_duplicates import Collapse
from aistack.aidb.store import get_collection, no_collection
from aistack.clients.postgres import Connection
from aistack.config import AidbConfig
from aistack.service.errors import Conflict

FusionMethod = Literal["rrf", "dbsf"]


@dataclass(frozen=True, slots=True)
class CollectionSettings:
    """What holds for a search of one collection. The weights are of the legs in both fusions."""

    fusion: FusionMethod
    rrf_k: float
    dense_weight: float
    lexical_weight: float
    bm25_k1: float
    bm25_b: float
    collapse: Collapse
    rerank: bool
    #: Of the collection alone: its documents' terms are made with it.
    language: str = ENGLISH

    @classmethod
    def of(cls, defaults: AidbConfig, stored: Mapping[str, Any]) -> CollectionSettings:
        """What the collection `stored`, over the configuration."""
        return cls(
            **{
                one.name: stored.get(one.name, getattr(defaults, one.name, one.default))
                for one in fields(cls)
            }
        )

    @property
    def bm25(self) -> Bm25:
        """The parameters of the lexical leg."""
        return Bm25(self.bm25_k1, self.bm25_b)

    @property
    def weights(self) -> dict[str, float]:
        """By the name of the leg."""
        return {"dense": self.dense_weight, "lexical": self.lexical_weight}

    def as_dict(self) -> dict[str, Any]:
        """For the wire."""
        return asdict(self)


async def update_collection(
    connection: Connection,
    name: str,
    *,
    description: str | None = None,
    changes: Mapping[str, Any],
) -> Collection:
    """Change what is given; a setting of None goes back to the configuration's.

    What changes nothing leaves the epoch as it is. `changes` are checked values. Raises NotFound,
    and Conflict where the language of documents would change.
    """
    cursor = await connection.execute(
        "SELECT settings, description FROM collections WHERE name = %s FOR NO KEY UPDATE", [name]
    )
    row = await cursor.fetchone()
    if row is None:
        raise no_collection(name)
    stored, described = row
    settings = {key: value for key, value in {**stored, **changes}.items() if value is not None}
    if settings.get("language", ENGLISH) != stored.get("language", ENGLISH):
        await _check_empty(connection, name)
    wanted = described if description is None else description
    if (settings, wanted) != (stored, described):
        await connection.execute(
            "UPDATE collections SET settings = %s, description = %s, epoch = epoch + %s,"
            " updated_at = now() WHERE name = %s",
            [Jsonb(settings), wanted, int(settings != stored), name],
        )
    return await get_collection(connection, name)


async def _check_empty(connection: Connection, name: str) -> None:
    """Raises Conflict where the collection has documents; none is added until the commit."""
    # A document that is being added holds the collection's key.
    await connection.execute("SELECT 1 FROM collections WHERE name = %s FOR UPDATE", [name])
    cursor = await connection.execute(
        "SELECT EXISTS (SELECT FROM documents d JOIN collections c ON c.id = d.collection_id"
        " WHERE c.name = %s)",
        [name],
    )
    row = await cursor.fetchone()
    if row is not None and row[0]:
        raise Conflict(
            f"The collection {name!r} has documents, whose words were analysed in its language:"
            " make another collection with the language and send them there, or delete them first."
        )
