"""The short way of a route: good requests take it, all others get the framework's answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import orjson
import pytest
from fastapi import Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field

from aistack.service import app as kit
from aistack.service.plain_route import plain
from fix_kit import Running, make, run, until_started


class Text(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    text: str = Field(max_length=20)
    many: list[int] | None = None


def answer(body: Text) -> Response:
    return Response(orjson.dumps(body.model_dump()), media_type="application/json")


def service() -> kit.Service:
    made = make()
    router = kit.service_router()

    @router.post("/embed", **kit.scope("embed"))
    async def short(request: Request, body: Text) -> Response:
        assert request.url.path == "/embed"
        return answer(body)

    # The query parameter makes the framework's whole way necessary.
    @router.post("/whole", **kit.scope("embed"))
    async def whole(body: Text, unused: Annotated[int, Query()] = 0) -> Response:
        return answer(body)

    made.router = router
    return made


def routes() -> dict[str, APIRoute]:
    found = service().router.routes
    return {route.path: route for route in found if isinstance(route, APIRoute)}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Running]:
    async with run(service(), tmp_path, body_bytes=100_000) as found:
        await until_started(found)
        yield found


async def framework(_request: Request) -> Response:
    raise LookupError("the framework was asked")


def asked(body: bytes, content_type: str = "application/json") -> Request:
    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", content_type.encode())]
    path = {"path": "/embed", "query_string": b"", "server": ("kit", 80), "scheme": "http"}
    return Request({"type": "http", "method": "POST", "headers": headers, **path}, receive)


async def test_a_good_body_needs_no_framework() -> None:
    handler = plain(routes()["/embed"], framework)
    response = await handler(asked(b'{"text": "x", "many": [1]}'))
    assert orjson.loads(response.body) == {"text": "x", "many": [1]}
    with pytest.raises(LookupError):
        await handler(asked(b'{"text": 1}'))


def test_a_route_with_more_than_a_body_has_no_short_way() -> None:
    assert plain(routes()["/whole"], framework) is framework


def test_a_route_whose_answer_is_serialized_has_no_short_way() -> None:
    for route in make().router.routes:
        assert isinstance(route, APIRoute)
        assert plain(route, framework) is framework


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"text": "x"}', "application/json"),
        (b'{"text": "x"}', "application/json; charset=utf-8"),
        (b'{"text": "x"}', "application/merge-patch+json"),
        (b'{"text": "x"}', "text/plain"),
        (b'{"text": "x"}', None),
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"null", "application/json"),
        (b'["x"]', "application/json"),
        (b'{"text": 1}', "application/json"),
        (b'{"text": "x", "more": 1}', "application/json"),
        (b'{"text": "' + b"x" * 21 + b'"}', "application/json"),
        (b'{"text": "x", "many": [1.5]}', "application/json"),
        (b'{"text": "x", "many": [NaN]}', "application/json"),
        (b'{"text": "\xff"}', "application/json"),
        (b'{"text": "\\ud800"}', "application/json"),
        (b'{"many": ' + b"[" * 40_000 + b"]" * 40_000 + b"}", "application/json"),
        (b'{"text": "x", "text": "y"}', "application/json"),
    ],
)
async def test_both_ways_answer_alike(
    served: Running, body: bytes, content_type: str | None
) -> None:
    headers = served.auth | ({"content-type": content_type} if content_type else {})
    found = []
    for path in ("/embed", "/whole"):
        got = await served.client.post(path, content=body, headers=headers)
        found.append((got.status_code, shape(got)))
    assert found[0] == found[1]
    assert found[0][0] != 500


def shape(got: httpx.Response) -> Any:
    told = got.json()
    return {name: told[name] for name in told if name not in ("error_id", "instance")}


async def test_a_body_over_the_limit_is_413_on_the_short_way(served: Running) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield b"x" * 1000

    headers = {**served.auth, "content-type": "application/json"}
    got = await served.client.post("/embed", content=chunks(), headers=headers)
    assert got.status_code == 413


async def test_the_scope_is_checked_before_the_short_way(served: Running) -> None:
    internal = served.paths.internal_key_file("embeddings").read_text()
    headers = {"authorization": f"Bearer {internal}", "content-type": "application/json"}
    got = await served.client.post("/embed", content=b"{", headers=headers)
    assert (got.status_code, got.json()["scope"]) == (403, "embed")
