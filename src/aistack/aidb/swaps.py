"""Which finished documents share a transaction: small ones of the same collection."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from aistack.aidb.embedding_sets import VectorTable
from aistack.aidb.jobs import WAITING
from aistack.aidb.swap import Swap, swap_documents
from aistack.aidb.together import Together
from aistack.clients.postgres import Postgres

#: The swap of the largest document: thousands of vectors into an HNSW index, on a slow disk.
SWAP_SECONDS = 600.0
#: Chunks of one transaction for several documents: it holds up the others of its collection.
CHUNKS_TOGETHER = 64


class Swaps:
    """Swaps documents, those that are ready meanwhile together. Belongs to one event loop."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        # By collection, so that a locked one holds up no other, and by set.
        self._waiting: dict[tuple[int, int], Together[Swap, bool]] = {}

    async def put(self, collection_id: int, table: VectorTable, swap: Swap) -> bool:
        """As `swap_documents` for one document of this collection, in a transaction of ours."""
        if len(swap.chunks) > CHUNKS_TOGETHER:
            return (await self._swap(table, [swap]))[0]
        key = (collection_id, table.id)
        together = self._waiting.get(key)
        if together is None:
            together = self._waiting[key] = Together(
                partial(self._swap, table),
                weight=lambda one: len(one.chunks),
                most=CHUNKS_TOGETHER,
                of_all=lambda error: isinstance(error, WAITING),
                idle=lambda: self._waiting.pop(key, None),
            )
        return await together(swap)

    async def aclose(self) -> None:
        """Roll back what is under way."""
        for together in list(self._waiting.values()):
            await together.aclose()

    async def _swap(self, table: VectorTable, swaps: Sequence[Swap]) -> Sequence[bool]:
        # Of one document only the newest version can be wanted, and once.
        newest = {one.document_id: one for one in sorted(swaps, key=lambda one: one.version)}
        async with self._postgres.connection("ingest.swap", timeout=SWAP_SECONDS) as connection:
            swapped = await swap_documents(connection, list(newest.values()), table)
        done = {id(one) for one, wanted in zip(newest.values(), swapped, strict=True) if wanted}
        return [id(one) in done for one in swaps]
