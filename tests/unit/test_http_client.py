"""What a peer's answers become for those who call it."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from aistack.clients.http import PeerClient
from aistack.service.context import caller_key, request_id
from aistack.service.errors import (
    BadRequest,
    NotFound,
    Overloaded,
    StackError,
    Unavailable,
    Unprocessable,
)


def peer(answer: Callable[[httpx.Request], httpx.Response]) -> PeerClient:
    client = PeerClient("peer", "http://peer", key="ais_x", timeout=2)
    client._client = httpx.AsyncClient(
        transport=httpx.MockTransport(answer),
        base_url="http://peer",
        headers=client._client.headers,
    )
    return client


def problem(status: int, detail: str, **headers: str) -> httpx.Response:
    return httpx.Response(
        status, json={"detail": detail, "error_id": "err_1", "status": status}, headers=headers
    )


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, BadRequest), (404, NotFound), (422, Unprocessable), (429, Overloaded)],
)
async def test_refusal_of_our_own_service_keeps_its_words(
    status: int, kind: type[StackError]
) -> None:
    client = peer(lambda _: problem(status, "Because."))
    with pytest.raises(kind, match=r"Because\.") as error:
        await client.request_json("POST", "/x", json={})
    assert error.value.status == status
    assert client.dependency.state == "closed"


async def test_words_of_a_foreign_server_are_not_passed_on() -> None:
    client = peer(lambda _: httpx.Response(400, json={"error": {"message": "/secret/path"}}))
    with pytest.raises(BadRequest) as error:
        await client.request_json("POST", "/x", json={})
    assert "secret" not in error.value.detail
    client = peer(lambda _: httpx.Response(404, content=b"<html>secret"))
    with pytest.raises(NotFound) as missing:
        await client.request_json("POST", "/x", json={})
    assert "secret" not in missing.value.detail


async def test_openai_shaped_refusal_keeps_its_words() -> None:
    body = {"error": {"message": "Too long.", "error_id": "err_2"}}
    client = peer(lambda _: httpx.Response(400, json=body))
    with pytest.raises(BadRequest, match=r"Too long\."):
        await client.request_json("POST", "/x", json={})


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_transient_answer_is_tried_again_and_then_is_503(status: int) -> None:
    calls = 0

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        return problem(status, "later", **{"retry-after": "7"})

    with pytest.raises(Unavailable) as error:
        await peer(answer).request_json("GET", "/x", retry=True)
    assert calls == 3
    assert error.value.retry_after == 7


@pytest.mark.parametrize("status", [401, 403, 500])
async def test_fault_of_the_peer_is_503_and_not_tried_again(status: int) -> None:
    calls = 0

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        return problem(status, "no")

    client = peer(answer)
    with pytest.raises(Unavailable):
        await client.request_json("GET", "/x", retry=True)
    assert calls == 1


async def test_lost_connection_is_503() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(Unavailable):
        await peer(answer).request_json("GET", "/x")


async def test_unreadable_answer_is_503() -> None:
    with pytest.raises(Unavailable):
        await peer(lambda _: httpx.Response(200, content=b"{")).request_json("GET", "/x")


async def test_request_id_caller_and_key_go_along() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={})

    tokens = request_id.set("req_1"), caller_key.set("user1")
    try:
        await peer(answer).request_json("POST", "/x", json={"a": 1})
    finally:
        request_id.reset(tokens[0])
        caller_key.reset(tokens[1])
    headers = seen[0].headers
    assert headers["x-request-id"] == "req_1"
    assert headers["x-aistack-key-id"] == "user1"
    assert headers["authorization"] == "Bearer ais_x"


async def test_stream_that_is_refused_raises_before_its_body() -> None:
    client = peer(lambda _: problem(429, "busy", **{"retry-after": "3"}))
    with pytest.raises(Overloaded) as error:
        async with client.stream("POST", "/x", json={}):
            pytest.fail("a refused stream was entered")
    assert error.value.retry_after == 3
