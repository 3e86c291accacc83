"""A search's filters as Qdrant's conditions, where both mean exactly the same.

Equality, `in` and `exists` of metadata become tokens (`qdrant_layout.terms`), those of the
document's own fields become matches of strings. A range becomes Qdrant's where its bound is a
number that a double holds exactly and the key needs no quoting: every stored number lies on the
same side of such a bound, rounded or not. Ranges of strings, titles and what can never hold are
left to PostgreSQL: the whole search is, because a part of a filter would not cut the candidates.
"""

from __future__ import annotations

from typing import Final

from aistack.aidb.filters import Condition, Filter
from aistack.aidb.qdrant_layout import PLAIN_KEY, key_term, value_term
from aistack.clients.qdrant import AnyOf, Between, Clause, Where

#: Integers below it, and all doubles, are exact in a double.
EXACT: Final = 2.0**53
#: Fields of the document that are in the payload as they are.
_FIELDS: Final = ("document_id", "source", "content_type")


def translate(filters: Filter, collection_id: int) -> Where | None:
    """What holds for the collection's points that pass `filters`; None: PostgreSQL must say."""
    must: list[Clause] = [AnyOf("collection_id", (collection_id,))]
    must_not: list[Clause] = []
    for condition in filters.conditions:
        if condition.operator == "exists":
            if condition.metadata:
                wanted = must if condition.value else must_not
                wanted.append(AnyOf("terms", (key_term(condition.field),)))
            elif not condition.value:
                return None
            continue
        clause = _metadata(condition) if condition.metadata else _field(condition)
        if clause is None:
            return None
        must.append(clause)
    return Where(tuple(must), tuple(must_not))


def _field(condition: Condition) -> Clause | None:
    if condition.field not in _FIELDS or condition.operator not in ("eq", "in"):
        return None
    value = condition.value
    values = value if isinstance(value, tuple) else (value,)
    return AnyOf(condition.field, tuple(str(one) for one in values))


def _metadata(condition: Condition) -> Clause | None:
    value = condition.value
    if condition.operator in ("eq", "in"):
        values = value if isinstance(value, tuple) else (value,)
        return AnyOf("terms", tuple(value_term(condition.field, one) for one in values))
    if isinstance(value, (str, bool, tuple)) or abs(value) >= EXACT:
        return None
    if not PLAIN_KEY.fullmatch(condition.field):
        return None
    return Between(f"metadata.{condition.field}", **{condition.operator: float(value)})
