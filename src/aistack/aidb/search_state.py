"""The state of a collection in a search's snapshot, and what tells two states apart."""

from __future__ import annotations

from typing import Final, NamedTuple

from aistack.aidb.dense import State
from aistack.clients.postgres import Connection
from aistack.models import EmbeddingSet

_STATE: Final = """
SELECT c.id, c.epoch, c.chunk_count, c.total_length, s.id, s.table_name,
       s.model, s.revision, s.engine, s.precision, s.dimension, s.normalized, c.settings
  FROM collections c LEFT JOIN embedding_sets s ON s.state = 'active' WHERE c.name = %s
"""


class Stamp(NamedTuple):
    """What a result was made from: two results with equal stamps are of the same state."""

    collection_id: int
    epoch: int
    set_id: int | None

    @classmethod
    def of(cls, state: State) -> Stamp:
        """Of a snapshot."""
        return cls(state.id, state.epoch, state.set_id)


class Look(NamedTuple):
    """A collection at one moment: its state, its number of chunks, the stored result if any."""

    stamp: Stamp
    chunks: int
    wire: bytes | None


async def read(connection: Connection, name: str) -> State | None:
    """The state in the snapshot of the transaction; None for a collection that is not there."""
    cursor = await connection.execute(_STATE, [name])
    row = await cursor.fetchone()
    if row is None:
        return None
    identifier, epoch, chunks, total_length, set_id, vectors = row[:6]
    identity = None if set_id is None else EmbeddingSet(*row[6:12])
    return State(identifier, epoch, chunks, total_length, set_id, vectors, identity, row[12])
