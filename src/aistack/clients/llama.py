"""The local language model: llama.cpp's own HTTP server, on a unix socket or a port.

Two guards: generation has as many slots as are configured and its own breaker; what only asks for
the server's state never waits behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import structlog

from aistack.clients.http import PeerClient
from aistack.clients.resilience import Transient
from aistack.config import LlamaConfig
from aistack.service.errors import BadRequest, Unavailable

log = structlog.get_logger()

CONTROL_SECONDS = 5.0
#: What llama.cpp says when it is the model that cannot go on, not the request that cannot be done.
_OWN_FAULTS = frozenset({"Compute error.", "Invalid input batch."})
STREAM_SECONDS = 3600.0  # a stream ends by the request's own deadline, not by this


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model that the server has loaded."""

    name: str
    context_tokens: int
    """Of one slot: prompt and answer together."""
    created: int


class _Generation(PeerClient):
    """llama.cpp answers 500 to requests that it cannot read (tools, a chat template, a grammar).

    One client's bad request must not count against the model for everybody: a 500 that says what
    is wrong is a refusal. Its words quote the request and the template: they go to the log only.
    """

    def _check(self, response: httpx.Response) -> None:
        if response.status_code == 500:
            said = _said(response.content)
            if said is not None and said not in _OWN_FAULTS:
                log.warning("llama_refused", reason=said[:300])
                raise _refused()
        super()._check(response)


class LlamaClient:
    """Chat with the model that the server has loaded.

    Every call may raise Unavailable (down, loading, answered badly), Overloaded (all slots taken)
    or DeadlineExceeded; the request id and the caller's key id go along.
    """

    def __init__(self, config: LlamaConfig) -> None:
        self._first_byte = config.timeout_seconds
        # llama.cpp's server now and then closes a kept connection right after a stream, without
        # saying so (seen with xllamacpp 2026.10); the next request on it would fail for nothing.
        self._generation = _Generation(
            "llama",
            config.address,
            timeout=config.timeout_seconds,
            concurrency=config.concurrency,
            keepalive=False,
        )
        self._control = PeerClient(
            "llama-control", config.address, timeout=CONTROL_SECONDS, keepalive=False
        )

    def breaker(self) -> str:
        """The state of the generation breaker."""
        return self._generation.dependency.state

    async def probe(self) -> None:
        """Returns when the model is loaded and the server answers."""
        await self._control.request("GET", "/health")

    async def served(self) -> ServedModel:
        """What is loaded now."""
        listed = await self._control.request_json("GET", "/v1/models", retry=True)
        props = await self._control.request_json("GET", "/props", retry=True)
        model = listed["data"][0]
        return ServedModel(
            name=str(model["id"]),
            context_tokens=int(props["default_generation_settings"]["n_ctx"]),
            created=int(model.get("created", 0)),
        )

    async def count_tokens(self, text: str) -> int:
        """Tokens of `text` in the model's own vocabulary."""
        body = await self._control.request_json(
            "POST", "/tokenize", json={"content": text}, retry=True
        )
        return len(body["tokens"])

    async def chat(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """One complete answer, in OpenAI's shape as llama.cpp gives it."""
        try:
            answer = await self._generation.request_json(
                "POST", "/v1/chat/completions", json={**body, "stream": False}, operation="chat"
            )
        except BadRequest as error:
            raise _refused() from error
        return dict(answer)

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of an answer as they come, `[DONE]` left out.

        Run it to its end, or close it, in the task that began it. A server that ends without
        `[DONE]` counts as a failure for the breaker; an error that it sends does not, unless it is
        the model's own: Unavailable either way.
        """
        try:
            async with (
                self._generation.stream(
                    "POST",
                    "/v1/chat/completions",
                    json={**body, "stream": True},
                    timeout=STREAM_SECONDS,
                    operation="stream",
                ) as response,
                aclosing(_events(response)) as events,
            ):
                yield await _within(self._first_byte, anext(events))
                async for event in events:
                    yield event
        except BadRequest as error:
            raise _refused() from error

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._generation.aclose()
        await self._control.aclose()


async def _within(seconds: float, first: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    try:
        async with asyncio.timeout(seconds):
            return await first
    except TimeoutError as error:
        raise Transient("no first token in time") from error
    except StopAsyncIteration as error:
        raise Transient("an empty stream") from error


async def _events(response: httpx.Response) -> AsyncGenerator[dict[str, Any], None]:
    """Server-sent events of a chat completion. Raises Transient for a stream that is cut off."""
    async for line in response.aiter_lines():
        field, _, value = line.partition(":")
        value = value.strip()
        if field == "error":
            raise _broken_off(value)
        if field != "data":
            continue
        if value == "[DONE]":
            return
        try:
            event = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise Transient("an event that is not JSON") from error
        if not isinstance(event, dict) or "error" in event:
            raise _broken_off(value)
        yield event
    raise Transient("the stream ended without [DONE]")


def _said(body: bytes | str) -> str | None:
    """The message of llama.cpp's error shape; None for anything else."""
    try:
        error = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if isinstance(error, dict) and "error" in error:
        error = error["error"]
    said = error.get("message") if isinstance(error, dict) else error
    return said if isinstance(said, str) and said else None


def _broken_off(event: str) -> Transient | Unavailable:
    said = _said(event)
    if said is None or said in _OWN_FAULTS:
        return Transient("the server reported an error mid-stream")
    log.warning("llama_broke_off", reason=said[:300])
    return Unavailable("The language model could not finish its answer.")


def _refused() -> BadRequest:
    return BadRequest(
        "The language model refused the request: a parameter it does not know, or a conversation"
        " that is longer than its context."
    )
