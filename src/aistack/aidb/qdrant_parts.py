"""What aidb is made of beyond the rest where vectors.engine is `qdrant`."""

from __future__ import annotations

from dataclasses import dataclass

from aistack.aidb.dense import Pgvector
from aistack.aidb.qdrant_engine import QdrantEngine
from aistack.aidb.qdrant_reconcile import TURN_SECONDS, Reconciler
from aistack.aidb.qdrant_sync import IndexSync, Layouts
from aistack.aidb.upkeep import Loop
from aistack.clients.postgres import Postgres
from aistack.clients.qdrant import Qdrant
from aistack.config import Config


@dataclass(frozen=True, slots=True)
class QdrantParts:
    """The client, what searches by it, what tells it of changes, and what keeps it right."""

    client: Qdrant
    engine: QdrantEngine
    sync: IndexSync
    keeper: Reconciler
    loop: Loop


def qdrant_parts(config: Config, postgres: Postgres) -> QdrantParts:
    """Made and not yet begun. Raises StartError where the key cannot be read."""
    client = Qdrant(config.vectors.qdrant)
    layouts = Layouts(client)
    sync = IndexSync(postgres, client, layouts)
    keeper = Reconciler(postgres, client, layouts, sync)
    engine = QdrantEngine(
        client,
        Pgvector(config.aidb),
        config.aidb,
        seconds=config.vectors.qdrant.timeout_seconds,
    )
    loop = Loop("qdrant", keeper.turn, TURN_SECONDS)
    return QdrantParts(client, engine, sync, keeper, loop)
