"""The coordinator over HTTP with a real llama.cpp server; search is scripted where it must be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fix_coordinator import Peer, Running, coordinator, passages, search_peer

FIREWALL = [{"role": "user", "content": "Is the NixOS firewall enabled by default?"}]
HELLO = [{"role": "user", "content": "Say hello."}]
DOCUMENTS = ["firewall", "ssh", "container"]


@pytest.fixture
async def running(llama_address: str, short_path: Path) -> AsyncIterator[Running]:
    async with coordinator(short_path, llama=llama_address, aidb=search_peer(DOCUMENTS)) as served:
        yield served


async def events(response: httpx.Response) -> list[dict[str, Any] | str]:
    found: list[dict[str, Any] | str] = []
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
    return found


async def stream(running: Running, **body: Any) -> list[Any]:
    async with running.client.stream(
        "POST", "/v1/chat/completions", json={"stream": True, **body}
    ) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return await events(response)


def text_of(chunks: list[Any]) -> str:
    return "".join(
        choice["delta"].get("content") or ""
        for chunk in chunks
        if isinstance(chunk, dict)
        for choice in chunk["choices"]
    )


async def test_an_answer_cites_what_the_documents_say(running: Running) -> None:
    response = await running.chat(model="aistack", messages=FIREWALL, max_tokens=60)
    assert response.status_code == 200, response.text
    body = response.json()
    content = body["choices"][0]["message"]["content"]
    extension = body["aistack"]
    assert body["model"] == "aistack"
    assert body["usage"]["completion_tokens"] > 0
    assert extension["not_in_documents"] is False
    assert extension["collection"] == "default"
    assert extension["retrieval"]["hits"] == 3
    assert extension["retrieval"]["degraded"] == []
    assert extension["citations"], content
    known = {p["source"]: p for p in passages()}
    for citation in extension["citations"]:
        passage = known[citation["source"]]
        offset = passage["char_start"]
        start, end = citation["char_start"] - offset, citation["char_end"] - offset
        assert passage["text"][start:end] == citation["quote"]
        assert f"[{citation['number']}]" in content
    for sentence in extension["sentences"]:
        assert content[sentence["start"] : sentence["end"]] == sentence["text"]


async def test_a_stream_says_what_the_whole_answer_says(running: Running) -> None:
    asked = {"model": "aistack", "messages": FIREWALL, "max_tokens": 60}
    whole = (await running.chat(**asked)).json()
    chunks = await stream(running, **asked, stream_options={"include_usage": True})
    assert chunks[-1] == "[DONE]"
    assert text_of(chunks) == whole["choices"][0]["message"]["content"]
    last = chunks[-2]
    assert last["usage"] == whole["usage"]
    assert last["aistack"]["citations"] == whole["aistack"]["citations"]
    assert len({chunk["id"] for chunk in chunks[:-1]}) == 1


async def test_the_last_chunk_carries_the_extension_without_usage_too(running: Running) -> None:
    chunks = await stream(running, model="aistack", messages=FIREWALL, max_tokens=20)
    assert "usage" not in chunks[-2]
    assert chunks[-2]["choices"][0]["finish_reason"] in ("stop", "length")
    assert chunks[-2]["aistack"]["retrieval"]["hits"] == 3


async def test_local_is_the_model_as_it_is(running: Running, llama_address: str) -> None:
    asked = {"messages": HELLO, "max_tokens": 12, "temperature": 0, "seed": 1}
    body = (await running.chat(model="local", **asked)).json()
    async with httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=llama_address.removeprefix("unix:")),
        base_url="http://llama",
        timeout=60,
    ) as direct:
        same = (await direct.post("/v1/chat/completions", json=asked)).json()
    assert body["choices"][0]["message"]["content"] == same["choices"][0]["message"]["content"]
    assert body["usage"]["completion_tokens"] == same["usage"]["completion_tokens"]
    assert body["model"] == "local"
    assert "aistack" not in body


@pytest.mark.parametrize("usage", [True, False])
async def test_local_streams_usage_only_when_asked(running: Running, usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if usage else {}
    chunks = await stream(running, model="local", messages=HELLO, max_tokens=8, **options)
    assert chunks[-1] == "[DONE]"
    assert text_of(chunks)
    assert any("usage" in c and not c["choices"] for c in chunks[:-1]) is usage


async def test_models_are_those_that_are_there(running: Running) -> None:
    listed = (await running.client.get("/v1/models")).json()
    assert [model["id"] for model in listed["data"]] == ["local", "aistack"]
    assert listed["data"][0]["aistack"]["context_tokens"] > 1000


async def test_far_from_the_documents_no_model_is_asked(
    llama_address: str, short_path: Path
) -> None:
    aidb = search_peer(DOCUMENTS, cosine=0.12)
    async with coordinator(short_path, llama=llama_address, aidb=aidb) as running:
        body = (
            await running.chat(
                model="aistack", messages=[{"role": "user", "content": "Who won the cup in 2014?"}]
            )
        ).json()
    assert body["aistack"]["not_in_documents"] is True
    assert body["aistack"]["citations"] == []
    assert body["aistack"]["grounded"] is None
    assert body["usage"]["prompt_tokens"] == 0
    assert "could not find" in body["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("messages", "found"), [(FIREWALL, True), ([{"role": "user", "content": "Who won?"}], False)]
)
async def test_a_search_without_vectors_is_said_and_judged_by_its_words(
    llama_address: str, short_path: Path, messages: list[dict[str, str]], found: bool
) -> None:
    aidb = search_peer(DOCUMENTS, cosine=None)
    async with coordinator(short_path, llama=llama_address, aidb=aidb) as running:
        body = (await running.chat(model="aistack", messages=messages, max_tokens=20)).json()
    assert body["aistack"]["retrieval"]["degraded"] == ["dense"]
    assert body["aistack"]["not_in_documents"] is not found


async def test_the_caller_and_the_request_reach_aidb(llama_address: str, short_path: Path) -> None:
    aidb = search_peer(DOCUMENTS, cosine=0.1)
    async with coordinator(short_path, llama=llama_address, aidb=aidb) as running:
        await running.client.post(
            "/v1/chat/completions",
            json={
                "model": "aistack",
                "messages": HELLO,
                "aistack": {"collection": "notes", "top_k": 3, "filters": {"a": {"eq": 1}}},
            },
            headers={"x-request-id": "req-of-mine"},
        )
    path, body, headers = aidb.seen[-1]
    assert path == "/v1/search"
    assert (body["collection"], body["limit"], body["filters"]) == ("notes", 3, {"a": {"eq": 1}})
    assert headers["x-request-id"] == "req-of-mine"
    assert headers["x-aistack-key-id"]
    assert headers["authorization"].startswith("Bearer ais_")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "gpt-4", "messages": HELLO}, 404, "model"),
        ({"model": "aistack", "messages": []}, 400, "messages"),
        ({"model": "aistack", "messages": HELLO, "wishes": 1}, 400, "wishes"),
        ({"model": "aistack", "messages": HELLO, "n": 2}, 400, "n"),
        ({"model": "aistack", "messages": HELLO, "tools": [{}]}, 400, "tools.0.type"),
        ({"model": "local", "messages": HELLO, "max_tokens": 10**9}, 400, "max_tokens"),
        ({"model": "local", "messages": [{"role": "user", "content": "\0"}]}, 400, None),
        ({"model": "aistack", "messages": [{"role": "user", "content": "why " * 9000}]}, 400, None),
    ],
)
async def test_bad_requests_have_openais_shape(
    running: Running, body: dict[str, Any], status: int, param: str | None
) -> None:
    response = await running.client.post("/v1/chat/completions", json=body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    if param:
        assert error["param"] == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'"tools": [{"a": 1}]', "tools"),
        (b'"messages": [{"role": "assistant", "tool_calls": [{"a": 1}]}]', "messages"),
        (b'"tools": [{"type": "function", "function": {"name": "\\ud800"}}]', "tools"),
        (b'"logit_bias": {"\\ud800": 1}', "logit_bias"),
        (b'"response_format": {"a": 123456789012345678901234567890}', "response_format"),
    ],
)
async def test_what_the_model_server_cannot_read_names_its_field(
    running: Running, body: bytes, param: str
) -> None:
    content = b'{"model": "local", "messages": [{"role": "user", "content": "x"}], ' + body + b"}"
    for _ in range(6):
        response = await running.client.post(
            "/v1/chat/completions",
            content=content,
            headers={"content-type": "application/json"},
        )
        assert response.status_code == 400, response.text
        assert response.json()["error"]["param"].startswith(param)
    assert (await running.chat(model="local", messages=HELLO, max_tokens=3)).status_code == 200


async def test_two_megabytes_do_not_hold_the_others(running: Running) -> None:
    messages = [{"role": "user", "content": "`" * 1_900_000}]
    async with asyncio.timeout(15):
        response = await running.chat(model="aistack", messages=messages)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_without_a_key_nothing_is_read(running: Running) -> None:
    assert (await running.keyless.post("/v1/chat/completions", content=b"{")).status_code == 401
    assert (await running.keyless.get("/v1/models")).status_code == 401


async def test_a_client_that_goes_away_ends_the_generation(
    running: Running, llama_address: str
) -> None:
    async with httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=llama_address.removeprefix("unix:")),
        base_url="http://llama",
        timeout=60,
    ) as direct:

        async def busy() -> int:
            slots = (await direct.get("/slots")).json()
            return sum(slot["is_processing"] for slot in slots)

        async with running.client.stream(
            "POST",
            "/v1/chat/completions",
            json={
                "model": "local",
                "stream": True,
                "max_tokens": 3000,
                "logit_bias": {"2": -100},  # the token that ends an answer: it would go on and on
                "messages": [{"role": "user", "content": "Count from one to a thousand."}],
            },
        ) as response:
            async for line in response.aiter_lines():
                if "content" in line:
                    break
            end = asyncio.get_running_loop().time() + 10
            while await busy() == 0:
                assert asyncio.get_running_loop().time() < end, "it ended before anybody left"
                await asyncio.sleep(0.02)
        end = asyncio.get_running_loop().time() + 10
        while await busy():
            assert asyncio.get_running_loop().time() < end, "the model goes on for nobody"
            await asyncio.sleep(0.02)


async def test_search_down_is_503_before_the_first_byte(
    llama_address: str, short_path: Path
) -> None:
    async with coordinator(short_path, llama=llama_address) as running:
        for streamed in (False, True):
            response = await running.chat(model="aistack", messages=HELLO, stream=streamed)
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) >= 1
            assert response.json()["error"]["type"] == "service_unavailable_error"
        ready = (await running.client.get("/readyz")).json()
        needs = {need["name"]: need for need in ready["needs"]}
        assert (ready["status"], needs["aidb"]["up"], needs["llama"]["up"]) == (
            "degraded",
            False,
            True,
        )
        assert (await running.chat(model="local", messages=HELLO, max_tokens=3)).status_code == 200


async def test_readiness_falls_with_the_model_server(short_path: Path) -> None:
    aidb: Peer = search_peer(DOCUMENTS)
    async with coordinator(
        short_path, llama=f"unix:{short_path}/nobody-llama.sock", aidb=aidb
    ) as running:
        ready = await running.client.get("/readyz")
        assert ready.status_code == 503
        for model in ("local", "aistack"):
            response = await running.chat(model=model, messages=FIREWALL)
            assert response.status_code == 503, model
            assert "retry-after" in response.headers
        assert (await running.client.get("/v1/models")).status_code == 503
