"""Settings of a collection over HTTP: what is kept, what is refused, what is read back."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from aistack.aidb.collection_schemas import SettingsIn, SettingsOut
from aistack.config import AidbConfig
from fix_aidb import AidbProcess

DEFAULTS = {
    # The language is a collection's alone.
    name: getattr(AidbConfig(), name, "english")
    for name in SettingsOut.model_fields
}


def change(aidb: AidbProcess, collection: str, /, **body: Any) -> Any:
    with aidb.client() as client:
        return client.patch(f"/v1/collections/{collection}", json=body)


def read(aidb: AidbProcess, name: str) -> Any:
    with aidb.client() as client:
        return client.get(f"/v1/collections/{name}").json()


@pytest.fixture(scope="module")
def named(aidb: AidbProcess) -> str:
    """A collection with one setting of its own."""
    with aidb.client() as client:
        made = client.post(
            "/v1/collections", json={"name": "settings", "settings": {"rrf_k": 20, "fusion": None}}
        )
    assert made.status_code == 201, made.text
    assert made.json()["settings"] == {**DEFAULTS, "rrf_k": 20}
    return "settings"


def test_the_limits_are_those_of_the_configuration() -> None:
    for name, field in SettingsIn.model_fields.items():
        if name == "language":
            continue
        configured = AidbConfig.model_fields[name]
        assert field.metadata == configured.metadata, name
        if not field.metadata:
            kinds, _ = get_args(field.annotation)
            assert get_args(kinds) == get_args(configured.annotation), name


def test_a_change_is_kept_and_raises_the_epoch(aidb: AidbProcess, named: str) -> None:
    before = read(aidb, named)
    answer = change(aidb, named, settings={"fusion": "dbsf", "dense_weight": 2})
    assert answer.status_code == 200, answer.text
    wanted = {**DEFAULTS, "rrf_k": 20, "fusion": "dbsf", "dense_weight": 2}
    assert answer.json()["settings"] == read(aidb, named)["settings"] == wanted
    assert answer.json()["epoch"] == before["epoch"] + 1
    with aidb.client() as client:
        listed = client.get("/v1/collections").json()["data"]
    assert next(one for one in listed if one["name"] == named)["settings"] == wanted


def test_null_goes_back_to_the_configuration(aidb: AidbProcess, named: str) -> None:
    change(aidb, named, settings={"bm25_b": 0.5})
    again = change(aidb, named, settings={"bm25_b": None})
    assert again.json()["settings"]["bm25_b"] == DEFAULTS["bm25_b"]


def test_what_changes_nothing_leaves_the_epoch(aidb: AidbProcess, named: str) -> None:
    first = change(aidb, named, settings={"collapse": "near"}).json()
    for body in ({}, {"settings": {"collapse": "near"}}, {"description": "Said."}):
        assert change(aidb, named, **body).json()["epoch"] == first["epoch"], body
    assert read(aidb, named)["description"] == "Said."


@pytest.mark.parametrize(
    "body",
    [
        {"settings": {"fusion": "sum"}},
        {"settings": {"rrf_k": 0}},
        {"settings": {"rrf_k": "20"}},
        {"settings": {"dense_weight": -1}},
        {"settings": {"bm25_b": 1.5}},
        {"settings": {"collapse": True}},
        {"settings": {"unknown": 1}},
        {"settings": None},
        {"name": "other"},
        {"description": "\0"},
        {"description": "x" * 3000},
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    aidb: AidbProcess, named: str, body: dict[str, Any]
) -> None:
    before = read(aidb, named)
    answer = change(aidb, named, **body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"]
    assert read(aidb, named) == before


def test_a_collection_that_is_not_there_is_404(aidb: AidbProcess) -> None:
    assert change(aidb, "nowhere", settings={"rrf_k": 5}).status_code == 404
    assert change(aidb, "no name", settings={"rrf_k": 5}).status_code == 422
