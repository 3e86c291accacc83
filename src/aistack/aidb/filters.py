"""Filters of a search: typed JSON to a condition in SQL, applied before the candidates are cut.

    {"field": {"eq": v} | {"in": [v, …]} | {"gt"|"gte"|"lt"|"lte": v, …} | {"exists": true|false}}

All fields and all operators must hold. A field is one of the document's own (`document_id`,
`source`, `title`, `content_type`) or a key of its metadata; `metadata.KEY` names a metadata key
that is also the name of a document field. Values are typed as JSON is: 1 does not equal "1", and a
range compares numbers with numbers and strings with strings (by code point). Against a list, `eq`
and ranges ask for any element. A metadata key that no document of the collection has is a mistake,
except for `exists`, which asks just that.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from psycopg import AsyncConnection, sql
from psycopg.types.json import Jsonb

from aistack.aidb.documents import check_text
from aistack.service.errors import Unprocessable

Value = str | int | float | bool
Operator = Literal["eq", "in", "gt", "gte", "lt", "lte", "exists"]

MAX_CONDITIONS: Final = 32
MAX_VALUES: Final = 256
MAX_VALUE_CHARS: Final = 2048
MAX_FIELD_CHARS: Final = 128
#: Known fields that a refusal names.
MAX_NAMED: Final = 20

_COMPARE: Final[dict[str, str]] = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_COLUMNS: Final[dict[str, str]] = {
    "document_id": "d.id",
    "source": "d.source",
    "title": "coalesce(d.title, d.parsed_title, d.source)",
    "content_type": "d.content_type",
}
_OPERATORS: Final = ("eq", "in", "gt", "gte", "lt", "lte", "exists")


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator on one field; `metadata` says which of the two kinds the field is."""

    field: str
    metadata: bool
    operator: Operator
    value: Value | tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions that must all hold; in canonical order, so that equal filters are equal."""

    conditions: tuple[Condition, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.conditions)

    def where(self) -> tuple[sql.Composed, dict[str, Any]]:
        """A condition over `documents d`, and its arguments (named f0, f1, …)."""
        parts: list[sql.Composable] = []
        arguments: dict[str, Any] = {}
        for condition in self.conditions:
            column = _metadata if condition.metadata else _column
            parts.append(column(condition, arguments))
        return sql.SQL(" AND ").join(parts or [sql.SQL("true")]), arguments

    def metadata_keys(self) -> list[str]:
        """The metadata keys that must be known: all but those only asked for by `exists`."""
        return sorted({c.field for c in self.conditions if c.metadata and c.operator != "exists"})


async def check_fields(
    connection: AsyncConnection[Any], collection_id: int, collection: str, filters: Filter
) -> None:
    """Raises Unprocessable for a metadata key that no document of the collection has or had."""
    asked = filters.metadata_keys()
    if not asked:
        return
    cursor = await connection.execute(
        "SELECT a.field FROM unnest(%s::text[]) AS a(field) WHERE NOT EXISTS"
        " (SELECT 1 FROM metadata_fields m WHERE m.collection_id = %s AND m.field = a.field)"
        ' ORDER BY a.field COLLATE "C" LIMIT 1',
        [asked, collection_id],
    )
    missing = await cursor.fetchone()
    if missing is None:
        return
    cursor = await connection.execute(
        "SELECT field FROM metadata_fields WHERE collection_id = %s GROUP BY field"
        ' ORDER BY field COLLATE "C" LIMIT %s',
        [collection_id, MAX_NAMED + 1],
    )
    known = [*_COLUMNS, *(str(row[0]) for row in await cursor.fetchall())]
    more = ", …" if len(known) > MAX_NAMED + len(_COLUMNS) else ""
    named = ", ".join(known[: MAX_NAMED + len(_COLUMNS)]) + more
    raise Unprocessable(
        f"filters.{missing[0]}: no document of the collection {collection!r} has this field;"
        f" known are {named}."
    )


def parse(raw: Mapping[str, Any] | None) -> Filter:
    """Read `filters` of a request. Raises Unprocessable with the field and what is allowed."""
    conditions: list[Condition] = []
    for name, operators in (raw or {}).items():
        if not name or len(name) > MAX_FIELD_CHARS:
            raise Unprocessable(f"filters: a field name has 1 to {MAX_FIELD_CHARS} characters.")
        check_text("filters: a field name", name)
        where = f"filters.{name}"
        if not isinstance(operators, Mapping) or not operators:
            raise Unprocessable(f"{where}: give an object with one of {', '.join(_OPERATORS)}.")
        metadata = name not in _COLUMNS
        field = name.removeprefix("metadata.") if metadata else name
        if not field:
            raise Unprocessable(f"{where}: the metadata key is missing.")
        for operator, value in operators.items():
            if operator not in _OPERATORS:
                raise Unprocessable(f"{where}: unknown operator; use {', '.join(_OPERATORS)}.")
            checked = _check(where, metadata, field, operator, value)
            conditions.append(Condition(field, metadata, cast(Operator, operator), checked))
    if len(conditions) > MAX_CONDITIONS:
        raise Unprocessable(f"filters: at most {MAX_CONDITIONS} conditions.")
    conditions.sort(key=lambda c: (c.metadata, c.field, c.operator, json.dumps(c.value)))
    return Filter(tuple(conditions))


def _check(
    where: str, metadata: bool, field: str, operator: str, value: Any
) -> Value | tuple[Value, ...]:
    if operator == "exists":
        if not isinstance(value, bool):
            raise Unprocessable(f"{where}.exists: true or false.")
        return value
    if operator == "in":
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_VALUES:
            raise Unprocessable(f"{where}.in: a list of 1 to {MAX_VALUES} values.")
        # Keyed by type as well: 1 and true are equal in Python and not in JSON.
        values = [_scalar(f"{where}.in", metadata, field, one) for one in value]
        distinct = {(type(one).__name__, one): one for one in values}
        return tuple(distinct[key] for key in sorted(distinct))
    scalar = _scalar(f"{where}.{operator}", metadata, field, value)
    if operator in _COMPARE and (isinstance(scalar, bool) or field == "document_id"):
        raise Unprocessable(f"{where}.{operator}: only numbers and strings have an order.")
    return scalar


def _scalar(where: str, metadata: bool, field: str, given: Any) -> Value:
    value: Value = given
    if not isinstance(given, (str, int, float, bool)):
        raise Unprocessable(f"{where}: a string, number or boolean.")
    if isinstance(value, str):
        if len(value) > MAX_VALUE_CHARS:
            raise Unprocessable(f"{where}: at most {MAX_VALUE_CHARS} characters.")
        check_text(where, value)
    if isinstance(value, float) and not math.isfinite(value):
        raise Unprocessable(f"{where}: a finite number.")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise Unprocessable(f"{where}: a number of at most 64 bits.")
    if not metadata:
        if not isinstance(value, str):
            raise Unprocessable(f"{where}: {field} is a string.")
        if field == "document_id":
            try:
                return str(uuid.UUID(value))
            except ValueError:
                raise Unprocessable(f"{where}: not a document id.") from None
    return value


def _bind(arguments: dict[str, Any], value: Any) -> sql.Placeholder:
    name = f"f{len(arguments)}"
    arguments[name] = value
    return sql.Placeholder(name)


def _column(condition: Condition, arguments: dict[str, Any]) -> sql.Composable:
    column = sql.SQL(_COLUMNS[condition.field])
    if condition.operator == "exists":
        # Every document has all of these fields.
        return sql.SQL("true") if condition.value else sql.SQL("false")
    kind = sql.SQL("uuid" if condition.field == "document_id" else "text")
    if condition.operator == "in":
        bound = _bind(arguments, list(cast(tuple[Value, ...], condition.value)))
        return sql.SQL("{} = ANY({}::{}[])").format(column, bound, kind)
    operator = sql.SQL("=" if condition.operator == "eq" else _COMPARE[condition.operator])
    bound = _bind(arguments, condition.value)
    collate = sql.SQL("" if condition.operator == "eq" else ' COLLATE "C"')
    return sql.SQL("{} {} {}::{}{}").format(column, operator, bound, kind, collate)


def _metadata(condition: Condition, arguments: dict[str, Any]) -> sql.Composable:
    key = condition.field
    if condition.operator == "exists":
        bound = _bind(arguments, key)
        held = sql.SQL("jsonb_exists(d.metadata, {})").format(bound)
        return held if condition.value else sql.SQL("NOT {}").format(held)
    if condition.operator in ("eq", "in"):
        values = condition.value if isinstance(condition.value, tuple) else (condition.value,)
        # Containment is what the GIN index on metadata answers; a list contains its elements.
        forms = [
            sql.SQL("d.metadata @> {}").format(_bind(arguments, Jsonb({key: form})))
            for value in values
            for form in ((value, [value]) if isinstance(value, str) else (value,))
        ]
        return sql.SQL("({})").format(sql.SQL(" OR ").join(forms))
    # jsonpath compares like with like and finds nothing otherwise: no cast that could fail.
    path = sql.Literal(f"$[*] ? (@ {_COMPARE[condition.operator]} $bound)")
    return sql.SQL("jsonb_path_exists(d.metadata -> {}, {}, {})").format(
        _bind(arguments, key), path, _bind(arguments, Jsonb({"bound": condition.value}))
    )
