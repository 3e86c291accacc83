"""A model server that fails in the middle: never a clean end, and the breaker sees it.

The failing server is scripted: the real one cannot be made to fail at a chosen byte.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Send

from fix_coordinator import Peer, answer, coordinator, search_peer, served

QUESTION = [{"role": "user", "content": "Is the NixOS firewall enabled by default?"}]
WORDS = ["The firewall ", "is enabled ", "by default. ", "And it ", "goes on"]


def chunk(text: str) -> bytes:
    body = {
        "id": "x",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
    }
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def llama_peer(how: str) -> Peer:
    """A model server that streams WORDS and then ends in one way or another."""

    async def chat(_: str, __: dict[str, Any], ___: Receive, send: Send) -> None:
        if how == "loading":
            await answer(send, 503, {"error": {"message": "Loading model", "code": 503}})
            return
        if how.startswith("500 "):
            said = how.removeprefix("500 ")
            await answer(send, 500, {"error": {"message": said, "code": 500}} if said else {})
            return
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream")],
            }
        )
        if how != "empty":
            for word in WORDS:
                body = chunk(word)
                await send({"type": "http.response.body", "body": body, "more_body": True})
                await asyncio.sleep(0)
        last = {
            "error event": b'data: {"error": {"message": "out of memory", "code": 500}}\n\n',
            "not json": b"data: {\n\n",
        }.get(how, b"")
        await send({"type": "http.response.body", "body": last})

    async def fixed(path: str, _: dict[str, Any], __: Receive, send: Send) -> None:
        await answer(
            send,
            200,
            {
                "/health": {"status": "ok"},
                "/v1/models": {"data": [{"id": "m", "created": 1}]},
                "/props": {"default_generation_settings": {"n_ctx": 4096}},
                "/tokenize": {"tokens": [1, 2, 3]},
            }[path],
        )

    return Peer(
        {
            "/v1/chat/completions": chat,
            **dict.fromkeys(("/health", "/v1/models", "/props", "/tokenize"), fixed),
        }
    )


async def read(response: httpx.Response) -> tuple[list[Any], bool]:
    """The events, and whether the body came to a clean end."""
    found: list[Any] = []
    try:
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                data = line.removeprefix("data: ")
                found.append(data if data == "[DONE]" else json.loads(data))
    except httpx.RemoteProtocolError:
        return found, False
    return found, True


@pytest.mark.parametrize("model", ["local", "aistack"])
@pytest.mark.parametrize("how", ["no [DONE]", "error event", "not json"])
async def test_a_stream_that_breaks_off_never_ends_cleanly(
    short_path: Path, model: str, how: str
) -> None:
    llama = f"unix:{short_path}/llama.sock"
    async with (
        served(llama_peer(how), short_path / "llama.sock", lifespan="off"),
        coordinator(short_path, llama=llama, aidb=search_peer(["firewall"])) as running,
        running.client.stream(
            "POST",
            "/v1/chat/completions",
            json={"model": model, "messages": QUESTION, "stream": True},
        ) as response,
    ):
        assert response.status_code == 200
        events, clean = await read(response)
    assert "[DONE]" not in events
    assert not clean
    assert events[-1]["error"]["type"] == "service_unavailable_error"
    assert events[-1]["error"]["error_id"]
    assert "out of memory" not in json.dumps(events)


@pytest.mark.parametrize("how", ["loading", "empty"])
@pytest.mark.parametrize("streamed", [True, False])
async def test_before_the_first_byte_it_is_503(short_path: Path, how: str, streamed: bool) -> None:
    llama = f"unix:{short_path}/llama.sock"
    async with (
        served(llama_peer(how), short_path / "llama.sock", lifespan="off"),
        coordinator(short_path, llama=llama, aidb=search_peer(["firewall"])) as running,
    ):
        response = await running.chat(model="aistack", messages=QUESTION, stream=streamed)
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["error"]["type"] == "service_unavailable_error"


async def test_broken_streams_open_the_breaker(short_path: Path) -> None:
    llama = f"unix:{short_path}/llama.sock"
    peer = llama_peer("no [DONE]")
    async with (
        served(peer, short_path / "llama.sock", lifespan="off"),
        coordinator(short_path, llama=llama, aidb=search_peer(["firewall"])) as running,
    ):
        for _ in range(5):
            async with running.client.stream(
                "POST",
                "/v1/chat/completions",
                json={"model": "local", "messages": QUESTION, "stream": True},
            ) as response:
                await read(response)
        before = len(peer.seen)
        refused = await running.chat(model="local", messages=QUESTION, stream=True)
        assert refused.status_code == 503
        assert not any(path == "/v1/chat/completions" for path, *_ in peer.seen[before:])
        ready = (await running.client.get("/readyz")).json()
        assert {n["name"]: n["breaker"] for n in ready["needs"]}["llama"] == "open"


async def test_a_marker_stands_behind_its_sentence_in_the_stream(short_path: Path) -> None:
    llama = f"unix:{short_path}/llama.sock"
    async with (
        served(llama_peer("error event"), short_path / "llama.sock", lifespan="off"),
        coordinator(short_path, llama=llama, aidb=search_peer(["firewall"])) as running,
        running.client.stream(
            "POST",
            "/v1/chat/completions",
            json={"model": "aistack", "messages": QUESTION, "stream": True},
        ) as response,
    ):
        events, _ = await read(response)
    said = "".join(
        choice["delta"].get("content") or "" for e in events for choice in e.get("choices", [])
    )
    assert said == "The firewall is enabled by default. [1] And it goes on"


async def _five_times(short_path: Path, how: str, *, streamed: bool) -> tuple[httpx.Response, str]:
    llama = f"unix:{short_path}/llama.sock"
    async with (
        served(llama_peer(how), short_path / "llama.sock", lifespan="off"),
        coordinator(short_path, llama=llama, aidb=search_peer(["firewall"])) as running,
    ):
        for _ in range(6):
            response = await running.chat(model="local", messages=QUESTION, stream=streamed)
        ready = (await running.client.get("/readyz")).json()
    return response, {n["name"]: n["breaker"] for n in ready["needs"]}["llama"]


@pytest.mark.parametrize("streamed", [True, False])
async def test_what_the_model_server_cannot_read_is_the_clients_fault(
    short_path: Path, streamed: bool
) -> None:
    response, breaker = await _five_times(
        short_path, "500 Missing tool: /secret", streamed=streamed
    )
    assert response.status_code == 400
    assert "secret" not in response.text
    assert breaker == "closed"


@pytest.mark.parametrize("how", ["500 Compute error.", "500 "])
async def test_a_fault_of_the_model_server_counts(short_path: Path, how: str) -> None:
    response, breaker = await _five_times(short_path, how, streamed=False)
    assert response.status_code == 503
    assert breaker == "open"


@pytest.mark.parametrize(
    ("said", "param", "detail"),
    [
        ("body.filters.a: Input should be an object", "aistack.filters", "aistack.filters.a: "),
        ("filters: unknown operator", "aistack.filters", "aistack.filters: "),
        ("body.collection: too long", "aistack.collection", "aistack.collection: "),
        ("collection: one word", "aistack.collection", "aistack.collection: "),
    ],
)
async def test_a_bad_filter_is_a_400_that_names_the_clients_field(
    short_path: Path, said: str, param: str, detail: str
) -> None:
    async def search(_: str, __: dict[str, Any], ___: Receive, send: Send) -> None:
        await answer(send, 422, {"detail": said, "error_id": "err_1", "status": 422})

    llama = f"unix:{short_path}/llama.sock"
    async with (
        served(llama_peer("no [DONE]"), short_path / "llama.sock", lifespan="off"),
        coordinator(short_path, llama=llama, aidb=Peer({"/v1/search": search})) as running,
    ):
        response = await running.chat(model="aistack", messages=QUESTION)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert error["message"].startswith(detail)


async def test_a_model_that_repeats_itself_is_ended_and_counted(short_path: Path) -> None:
    sent = 0

    async def chat(_: str, __: dict[str, Any], ___: Receive, send: Send) -> None:
        nonlocal sent
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while sent < 100_000:
            sent += 1
            timings = {"prompt_n": 5, "cache_n": 2, "predicted_n": sent}
            event = json.loads(chunk("The firewall is enabled by default. ").partition(b" ")[2])
            body = b"data: " + json.dumps({**event, "timings": timings}).encode() + b"\n\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await asyncio.sleep(0)

    llama = f"unix:{short_path}/llama.sock"
    peer = llama_peer("no [DONE]")
    peer.routes["/v1/chat/completions"] = chat
    async with (
        served(peer, short_path / "llama.sock", lifespan="off"),
        coordinator(short_path, llama=llama, aidb=search_peer(["firewall"])) as running,
    ):
        body = (await running.chat(model="aistack", messages=QUESTION)).json()
    sentence = "The firewall is enabled by default. [1]"
    assert body["choices"][0] == {
        "index": 0,
        "message": {"role": "assistant", "content": " ".join([sentence] * 3)},
        "finish_reason": "stop",
    }
    assert body["usage"]["prompt_tokens"] == 7
    assert 3 <= body["usage"]["completion_tokens"] <= 5
    assert sent < 100_000
