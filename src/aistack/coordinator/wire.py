"""The bytes of a streamed chat completion."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

import orjson

from aistack.service.errors import StackError, openai_body

DONE = b"data: [DONE]\n\n"


def event(data: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


def error(failure: StackError, identifier: str) -> bytes:
    """The event that ends a stream which failed after its first byte; the log has its id too."""
    return b"data: " + openai_body(failure, identifier=identifier) + b"\n\n"


class Chunks:
    """The chunks of one answer: one id, one time, one model name."""

    def __init__(self, model: str) -> None:
        self.id = "chatcmpl-" + secrets.token_hex(12)
        self.created = int(time.time())
        self.model = model

    def head(self, kind: str) -> dict[str, Any]:
        """The members that every chunk and every whole answer begins with."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def delta(self, delta: Mapping[str, Any], *, finish: str | None = None, **more: Any) -> bytes:
        """A chunk with a piece of the answer."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return event({**self.head("chat.completion.chunk"), "choices": [choice], **more})

    def usage(self, usage: Mapping[str, Any], **more: Any) -> bytes:
        """The chunk without choices that OpenAI's `include_usage` asks for."""
        return event({**self.head("chat.completion.chunk"), "choices": [], "usage": usage, **more})

    def relabel(self, chunk: Mapping[str, Any]) -> dict[str, Any]:
        """Another server's chunk or answer under our id and model name."""
        kind = str(chunk.get("object", "chat.completion.chunk"))
        return {**chunk, **self.head(kind)}
