"""What Qdrant's REST bodies say, in the terms of the embedded engine (`qdrant-edge-py`).

The bodies are read by the models of `qdrant-client`, so that what the client may send is what is
understood. What the engine or this file does not know raises `NotSupported`: an answer is never
made up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import qdrant_edge as edge
from pydantic import BaseModel
from qdrant_client import models

Known = TypeVar("Known")


class NotSupported(Exception):
    """A request that Qdrant knows and the test server does not."""


def known(value: Known | None, what: str) -> Known:
    """The value; raises NotSupported for None."""
    if value is None:
        raise NotSupported(what)
    return value


def vectors_config(given: models.VectorsConfig | None) -> dict[str, edge.EdgeVectorParams]:
    """Dense vectors by name; the unnamed one is called ''."""
    if given is None:
        raise NotSupported("a collection without dense vectors")
    named = given if isinstance(given, dict) else {"": given}
    return {name: _vector_params(params) for name, params in named.items()}


def _vector_params(given: models.VectorParams) -> edge.EdgeVectorParams:
    if given.multivector_config is not None:
        raise NotSupported("multivectors")
    return edge.EdgeVectorParams(
        size=given.size,
        distance=getattr(edge.Distance, given.distance.value),
        on_disk=given.on_disk,
        quantization_config=quantization(given.quantization_config),
        hnsw_config=hnsw(given.hnsw_config),
    )


def hnsw(given: models.HnswConfigDiff | None) -> edge.HnswIndexConfig | None:
    """With the server's defaults for what is not said."""
    if given is None:
        return None
    return edge.HnswIndexConfig(
        m=16 if given.m is None else given.m,
        ef_construct=given.ef_construct or 100,
        full_scan_threshold=10_000
        if given.full_scan_threshold is None
        else given.full_scan_threshold,
        payload_m=given.payload_m,
    )


def quantization(given: Any) -> edge.ScalarQuantizationConfig | None:
    """Scalar int8 is the only kind known here."""
    if given is None:
        return None
    if not isinstance(given, models.ScalarQuantization):
        raise NotSupported("a quantization other than scalar")
    return edge.ScalarQuantizationConfig(
        type=edge.ScalarType.Int8,
        quantile=given.scalar.quantile,
        always_ram=given.scalar.always_ram,
    )


def optimizers(given: models.OptimizersConfigDiff | None) -> edge.EdgeOptimizersConfig | None:
    """When segments are indexed."""
    if given is None:
        return None
    return edge.EdgeOptimizersConfig(
        deleted_threshold=given.deleted_threshold,
        vacuum_min_vector_number=given.vacuum_min_vector_number,
        default_segment_number=given.default_segment_number,
        indexing_threshold=given.indexing_threshold,
    )


def index_schema(given: models.PayloadFieldSchema | None) -> Any:
    """A payload index's type, or its parameters."""
    if given is None:
        raise NotSupported("an index without a schema")
    if isinstance(given, models.PayloadSchemaType):
        return getattr(edge.PayloadSchemaType, given.value.capitalize())
    made = getattr(edge, type(given).__name__)
    fields = given.model_dump(exclude_none=True, exclude={"type"})
    try:
        return made(**fields)
    except TypeError as error:
        raise NotSupported(f"index parameters: {error}") from error


def points(given: models.PointsList | models.PointsBatch) -> list[edge.Point]:
    """Points to upsert."""
    if isinstance(given, models.PointsList):
        return [
            edge.Point(point_id(point.id), vectors(point.vector), payload(point.payload or {}))
            for point in given.points
        ]
    batch = given.batch
    count = len(batch.ids)
    payloads: Sequence[dict[str, Any] | None] = batch.payloads or [None] * count
    if isinstance(batch.vectors, dict):
        rows: list[Any] = [
            {name: column[row] for name, column in batch.vectors.items()} for row in range(count)
        ]
    else:
        rows = list(batch.vectors)
    return [
        edge.Point(point_id(one), vectors(row), payload(said or {}))
        for one, row, said in zip(batch.ids, rows, payloads, strict=True)
    ]


def payload(given: Any) -> Any:
    """As the server's JSON parser reads it: an integer of more than 64 bits is a float."""
    if isinstance(given, dict):
        return {key: payload(value) for key, value in given.items()}
    if isinstance(given, list):
        return [payload(value) for value in given]
    if isinstance(given, int) and not -(2**63) <= given < 2**64:
        return float(given)
    return given


def vectors(given: Any) -> Any:
    """The vectors of one point: a list, or lists by name."""
    named = given if isinstance(given, dict) else {"": given}
    for one in named.values():
        if not isinstance(one, list) or (one and not isinstance(one[0], float)):
            raise NotSupported("vectors that are not dense")
    return given


def point_id(given: Any) -> Any:
    """A number, or a UUID's text."""
    return given if isinstance(given, int) else str(given)


def query_vector(given: Any) -> list[float]:
    """The vector of a nearest-neighbour query."""
    if isinstance(given, models.NearestQuery) and given.mmr is None:
        given = given.nearest
    if not isinstance(given, list) or (given and not isinstance(given[0], float)):
        raise NotSupported("a query other than the nearest to a dense vector")
    return given


def search_params(given: models.SearchParams | None) -> edge.SearchParams | None:
    """How to search."""
    if given is None:
        return None
    said = given.quantization
    return edge.SearchParams(
        hnsw_ef=given.hnsw_ef,
        exact=bool(given.exact),
        indexed_only=bool(given.indexed_only),
        quantization=None
        if said is None
        else edge.QuantizationSearchParams(
            ignore=bool(said.ignore), rescore=said.rescore, oversampling=said.oversampling
        ),
    )


def payload_selector(given: Any, otherwise: bool) -> Any:
    """Which payload fields to answer with."""
    if isinstance(given, models.PayloadSelectorInclude):
        return edge.PayloadSelector.Include(given.include)
    if isinstance(given, models.PayloadSelectorExclude):
        return edge.PayloadSelector.Exclude(given.exclude)
    return otherwise if given is None else given


def order_by(given: Any) -> edge.OrderBy | None:
    """By which field to scroll."""
    if given is None:
        return None
    if isinstance(given, str):
        return edge.OrderBy(given)
    direction = None if given.direction is None else given.direction.value.capitalize()
    return edge.OrderBy(
        given.key,
        None if direction is None else getattr(edge.Direction, direction),
        given.start_from,
    )


def filtering(given: models.Filter | None) -> edge.Filter | None:
    """A filter; None stays None."""
    if given is None:
        return None
    least = given.min_should
    return edge.Filter(
        must=_conditions(given.must),
        should=_conditions(given.should),
        must_not=_conditions(given.must_not),
        min_should=None
        if least is None
        else edge.MinShould([_condition(one) for one in least.conditions], least.min_count),
    )


def _conditions(given: Any) -> list[Any] | None:
    if given is None:
        return None
    return [_condition(one) for one in (given if isinstance(given, Sequence) else [given])]


def _condition(given: BaseModel) -> Any:
    if isinstance(given, models.Filter):
        return filtering(given)
    if isinstance(given, models.HasIdCondition):
        return edge.HasIdCondition({point_id(one) for one in given.has_id})
    if isinstance(given, models.IsEmptyCondition):
        return edge.IsEmptyCondition(given.is_empty.key)
    if isinstance(given, models.IsNullCondition):
        return edge.IsNullCondition(given.is_null.key)
    if isinstance(given, models.HasVectorCondition):
        return edge.HasVectorCondition(given.has_vector)
    if isinstance(given, models.NestedCondition):
        inner = known(filtering(given.nested.filter), "an empty nested condition")
        return edge.NestedCondition(given.nested.key, inner)
    if isinstance(given, models.FieldCondition):
        return _field(given)
    raise NotSupported(type(given).__name__)


def _field(given: models.FieldCondition) -> edge.FieldCondition:
    if given.geo_bounding_box or given.geo_radius or given.geo_polygon:
        raise NotSupported("geographical conditions")
    counted = given.values_count
    return edge.FieldCondition(
        given.key,
        match=_match(given.match),
        range=_range(given.range),
        values_count=None if counted is None else edge.ValuesCount(**counted.model_dump()),
        is_empty=given.is_empty,
        is_null=given.is_null,
    )


def _match(given: Any) -> Any:
    if given is None:
        return None
    if isinstance(given, models.MatchValue):
        # The binding reads Python's `True` as the number 1; NumPy's is no number.
        return edge.MatchValue(
            np.bool_(given.value) if isinstance(given.value, bool) else given.value  # type: ignore[arg-type]
        )
    if isinstance(given, models.MatchAny):
        return edge.MatchAny(given.any)
    if isinstance(given, models.MatchExcept):
        return edge.MatchExcept(given.except_)
    if isinstance(given, models.MatchText):
        return edge.MatchText(given.text)
    raise NotSupported(type(given).__name__)


def _range(given: models.RangeInterface | None) -> Any:
    if given is None:
        return None
    if isinstance(given, models.Range):
        return edge.RangeFloat(**given.model_dump())
    moments = {key: value and value.isoformat() for key, value in given.model_dump().items()}
    return edge.RangeDateTime(**moments)
