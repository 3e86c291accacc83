"""Collections of the embedded Qdrant engine in a directory, and what is done with them.

A directory per collection holds the body that made it (`collection.json`, written last, removed
first) and the shard. One node: cluster options are kept and told, and do nothing.
"""

from __future__ import annotations

import re
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import qdrant_edge as edge
from qdrant_client import models

import qdrant_edge_terms as terms


class Refused(Exception):
    """An answer that is an error, in Qdrant's shape."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class Collection:
    """One shard, used by one thread at a time."""

    shard: edge.EdgeShard
    made_by: models.CreateCollection
    lock: threading.Lock = field(default_factory=threading.Lock)
    operations: int = 0


class Collections:
    """The collections of a data directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "collections"
        self._held: dict[str, Collection] = {}
        self._lock = threading.Lock()

    def load(self) -> None:
        """Open all; what a crash left half made is removed."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for path in sorted(self._directory.iterdir()):
            described = path / "collection.json"
            if not described.exists():
                shutil.rmtree(path)
                continue
            made_by = models.CreateCollection.model_validate_json(described.read_bytes())
            self._held[path.name] = Collection(edge.EdgeShard.load(str(path / "shard")), made_by)

    def close(self) -> None:
        """Flush all and let go of them."""
        for collection in self._held.values():
            with collection.lock:
                collection.shard.close()

    def names(self) -> list[str]:
        """All there are."""
        return sorted(self._held)

    def get(self, name: str) -> Collection:
        """Raises 404."""
        try:
            return self._held[name]
        except KeyError:
            raise Refused(404, f"Not found: Collection `{name}` doesn't exist!") from None

    def create(self, name: str, body: models.CreateCollection, raw: bytes) -> None:
        """Raises 409 for one that is there. `raw` is the body as it came."""
        if re.search(r'[<>:"/\\|?*\0\x1f]', name) or name in (".", ".."):
            raise Refused(422, f"Validation error in path: invalid collection name {name!r}")
        config = edge.EdgeConfig(
            vectors=terms.vectors_config(body.vectors),
            hnsw_config=terms.hnsw(body.hnsw_config),
            quantization_config=terms.quantization(body.quantization_config),
            optimizers=terms.optimizers(body.optimizers_config),
        )
        if body.sparse_vectors:
            raise terms.NotSupported("sparse vectors")
        with self._lock:
            if name in self._held:
                raise Refused(409, f"Wrong input: Collection `{name}` already exists!")
            path = self._directory / name
            if path.exists():  # a creation that the engine refused
                shutil.rmtree(path)
            (path / "shard").mkdir(parents=True)
            shard = edge.EdgeShard.create(str(path / "shard"), config)
            written = path / "collection.json.new"
            written.write_bytes(raw)
            written.rename(path / "collection.json")
            self._held[name] = Collection(shard, body)

    def delete(self, name: str) -> bool:
        """Whether it was there."""
        with self._lock:
            collection = self._held.pop(name, None)
            if collection is None:
                return False
            (self._directory / name / "collection.json").unlink()
            with collection.lock:
                collection.shard.close()
            shutil.rmtree(self._directory / name)
            return True


def update(collection: Collection, *operations: edge.UpdateOperation) -> int:
    """Apply; the number of the last. Indexes what has become large enough, as the server does."""
    for operation in operations:
        collection.shard.update(operation)
        collection.operations += 1
    collection.shard.optimize()
    return collection.operations


def info(collection: Collection) -> dict[str, Any]:
    """What GET of a collection answers: what was asked for, and the shard's counts."""
    told = collection.shard.info()
    asked = collection.made_by.model_dump(mode="json", exclude_none=True)
    params = {
        "vectors": asked["vectors"],
        "shard_number": asked.get("shard_number", 1),
        "replication_factor": asked.get("replication_factor", 1),
        "write_consistency_factor": asked.get("write_consistency_factor", 1),
        "on_disk_payload": asked.get("on_disk_payload", True),
    }
    graph = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000}
    upkeep = {"default_segment_number": 0, "flush_interval_sec": 5}
    schema = {
        name: {"data_type": str(one.data_type).rsplit(".", 1)[-1].lower(), "points": one.points}
        for name, one in told.payload_schema.items()
    }
    return {
        "status": "green",
        "optimizer_status": "ok",
        "indexed_vectors_count": told.indexed_vectors_count,
        "points_count": told.points_count,
        "segments_count": told.segments_count,
        "config": {
            "params": params,
            "hnsw_config": {**graph, **asked.get("hnsw_config", {})},
            "optimizer_config": {**upkeep, **asked.get("optimizers_config", {})},
            "quantization_config": asked.get("quantization_config"),
        },
        "payload_schema": schema,
    }


def point(found: Any) -> dict[str, Any]:
    """A record or a scored point, as JSON."""
    told = {"id": point_key(found.id), "payload": found.payload, "vector": found.vector}
    if isinstance(found, edge.ScoredPoint):
        told |= {"version": found.version, "score": found.score}
    return told


def point_key(given: Any) -> int | str | None:
    """An id on the wire."""
    return given if given is None or isinstance(given, int) else str(given)


def query(collection: Collection, body: models.QueryRequest) -> dict[str, Any]:
    """The points nearest to a vector."""
    if body.prefetch or body.lookup_from:
        raise terms.NotSupported("prefetch and lookup")
    if body.limit is not None and body.limit < 1:
        raise Refused(422, "Validation error in JSON body: limit: must be 1 or larger")
    wanted = edge.Query.Nearest(terms.query_vector(body.query), using=body.using)
    found = collection.shard.query(
        edge.QueryRequest(
            limit=10 if body.limit is None else body.limit,
            offset=body.offset,
            query=wanted,
            with_vector=body.with_vector or False,
            with_payload=terms.payload_selector(body.with_payload, False),
            filter=terms.filtering(body.filter),
            score_threshold=body.score_threshold,
            params=terms.search_params(body.params),
        )
    )
    return {"points": [point(one) for one in found]}


def query_batch(collection: Collection, body: models.QueryRequestBatch) -> list[dict[str, Any]]:
    """Several at once."""
    return [query(collection, one) for one in body.searches]


def scroll(collection: Collection, body: models.ScrollRequest) -> dict[str, Any]:
    """Points in the order of their ids, or of a field."""
    found, following = collection.shard.scroll(
        edge.ScrollRequest(
            offset=None if body.offset is None else terms.point_id(body.offset),
            limit=10 if body.limit is None else body.limit,
            filter=terms.filtering(body.filter),
            with_payload=terms.payload_selector(body.with_payload, True),
            with_vector=body.with_vector or False,
            order_by=terms.order_by(body.order_by),
        )
    )
    return {"points": [point(one) for one in found], "next_page_offset": point_key(following)}


def count(collection: Collection, body: models.CountRequest) -> dict[str, int]:
    """How many pass a filter."""
    asked = edge.CountRequest(exact=body.exact is not False, filter=terms.filtering(body.filter))
    return {"count": collection.shard.count(asked)}


def retrieve(collection: Collection, body: models.PointRequest) -> list[dict[str, Any]]:
    """Points by id; those that are not there are left out."""
    found = collection.shard.retrieve(
        [terms.point_id(one) for one in body.ids],
        with_payload=terms.payload_selector(body.with_payload, True),
        with_vector=body.with_vector or False,
    )
    return [point(one) for one in found]


def upsertion(body: models.PointsList | models.PointsBatch) -> edge.UpdateOperation:
    """Insert points, or replace them."""
    mode = None
    if body.update_mode is not None:
        words = body.update_mode.value.split("_")
        mode = getattr(edge.UpdateMode, "".join(word.capitalize() for word in words))
    condition = terms.filtering(body.update_filter)
    return edge.UpdateOperation.upsert_points(terms.points(body), condition, mode)


def deletion(body: models.PointIdsList | models.FilterSelector) -> edge.UpdateOperation:
    """Delete points by id or by filter."""
    if isinstance(body, models.PointIdsList):
        ids = [terms.point_id(one) for one in body.points]
        return edge.UpdateOperation.delete_points(ids)
    chosen = terms.known(terms.filtering(body.filter), "no filter")
    return edge.UpdateOperation.delete_points_by_filter(chosen)


def payload_change(body: models.SetPayload, kind: str = "set") -> edge.UpdateOperation:
    """Set or overwrite payload fields of points by id or by filter."""
    change = edge.UpdateOperation
    if body.points is not None:
        by_id = change.set_payload if kind == "set" else change.overwrite_payload
        return by_id(
            [terms.point_id(one) for one in body.points], terms.payload(body.payload), body.key
        )
    by_filter = (
        change.set_payload_by_filter if kind == "set" else change.overwrite_payload_by_filter
    )
    chosen = terms.known(terms.filtering(body.filter), "neither points nor filter")
    return by_filter(chosen, terms.payload(body.payload), body.key)


def batch(body: models.UpdateOperations) -> list[edge.UpdateOperation]:
    """Several changes, in their order."""
    made = []
    for one in body.operations:
        match one:
            case models.UpsertOperation():
                made.append(upsertion(one.upsert))
            case models.DeleteOperation():
                made.append(deletion(one.delete))
            case models.SetPayloadOperation():
                made.append(payload_change(one.set_payload))
            case models.OverwritePayloadOperation():
                made.append(payload_change(one.overwrite_payload, "overwrite"))
            case _:
                raise terms.NotSupported(type(one).__name__)
    return made
