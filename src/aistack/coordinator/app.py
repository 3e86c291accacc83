"""The coordinator: its routes, and what it starts and stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson
from fastapi import Request, Response

from aistack.clients.aidb import AidbClient
from aistack.clients.http import PeerClient
from aistack.clients.llama import LlamaClient
from aistack.config import Config, CoordinatorConfig
from aistack.coordinator import examples, requests, schemas, wire
from aistack.coordinator.chat import Chat, Finished, Question
from aistack.coordinator.relay import EventStream, Relay
from aistack.coordinator.requests import AISTACK, LOCAL
from aistack.service.app import Need, Runtime, Service, scope, service_router
from aistack.service.disconnect import while_connected
from aistack.service.docs import example
from aistack.service.errors import StackError
from aistack.service.keys import read_key
from aistack.stack import load_stack

MODEL_WAIT_SECONDS = 10.0
"""How long a start waits for the model server; /readyz says not ready after that."""


class Coordinator:
    """The clients of one process and the routes over them."""

    def __init__(self, config: Config) -> None:
        key_file = config.auth.internal_key_file
        key = read_key(key_file) if key_file is not None else None
        self.config: CoordinatorConfig = config.coordinator
        self.llama = LlamaClient(config.llama)
        self.aidb = AidbClient(config.peers.aidb, key=key)
        self.embeddings = PeerClient("embeddings", config.peers.embeddings, key=key, timeout=10)
        self.chat = Chat(self.llama, self.aidb, self.config)

    async def start(self, runtime: Runtime) -> None:
        """Learn what the model server has loaded."""
        runtime.status("asking the model server what it has loaded")
        end = time.monotonic() + MODEL_WAIT_SECONDS
        while True:
            try:
                served = await self.chat.served()
            except StackError as error:
                if time.monotonic() >= end:
                    runtime.status(f"starting without the language model: {error.detail}")
                    return
                await asyncio.sleep(0.25)
            else:
                runtime.status(f"the language model is {served.name}")
                return

    async def stop(self) -> None:
        """Close the connections."""
        await self.llama.aclose()
        await self.aidb.aclose()
        await self.embeddings.aclose()

    def question(self, request: schemas.ChatRequest) -> Question:
        """The request as the domain sees it."""
        extension = request.aistack or schemas.Retrieval()
        return Question(
            turns=tuple(requests.turns(request)),
            collection=extension.collection or self.config.collection,
            top_k=extension.top_k or self.config.top_k,
            filters=extension.filters,
            answer_tokens=requests.answer_tokens(request, self.config.answer_tokens),
            sampling=requests.sampling(request),
        )

    async def whole(self, request: schemas.ChatRequest) -> dict[str, Any]:
        """An answer in one piece."""
        chunks = wire.Chunks(request.model)
        if request.model == LOCAL:
            return chunks.relabel(await self.chat.local(requests.passed_on(request)))
        question = self.question(request)
        async with aclosing(self.chat.answer(question)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    finished = event
        message = {"role": "assistant", "content": finished.answer.text}
        return {
            **chunks.head("chat.completion"),
            "choices": [{"index": 0, "message": message, "finish_reason": finished.finish_reason}],
            "usage": _usage(finished),
            "aistack": _extension(question, finished),
        }

    async def pieces(self, request: schemas.ChatRequest) -> AsyncGenerator[bytes, None]:
        """An answer as server-sent events."""
        chunks = wire.Chunks(request.model)
        with_usage = request.stream_options is not None and request.stream_options.include_usage
        if request.model == LOCAL:
            async with aclosing(self.chat.local_stream(requests.passed_on(request))) as relayed:
                async for chunk in relayed:
                    if chunk.get("choices") or with_usage:
                        yield wire.event(chunks.relabel(chunk))
            return
        question = self.question(request)
        begun = False
        async with aclosing(self.chat.answer(question)) as events:
            async for event in events:
                if not begun:
                    yield chunks.delta({"role": "assistant", "content": ""})
                    begun = True
                if isinstance(event, str):
                    yield chunks.delta({"content": event})
                    continue
                extension = _extension(question, event)
                if with_usage:
                    yield chunks.delta({}, finish=event.finish_reason)
                    yield chunks.usage(_usage(event), aistack=extension)
                else:
                    yield chunks.delta({}, finish=event.finish_reason, aistack=extension)

    async def models(self) -> list[dict[str, Any]]:
        """What can be named in a request now: chat models, then embedding models."""
        served = await self.llama.served()
        detail = {
            "kind": "chat",
            "served_model": served.name,
            "context_tokens": served.context_tokens,
        }
        listed = [
            {
                "id": name,
                "object": "model",
                "created": served.created,
                "owned_by": "aistack",
                "aistack": {**detail, "retrieval": name == AISTACK},
            }
            for name in (LOCAL, AISTACK)
        ]
        try:
            found = await self.embeddings.request_json("GET", "/v1/models", retry=True)
        except StackError:
            return listed  # it degrades: the chat models work without it
        return listed + list(found["data"])


def _json(body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")


def _usage(event: Finished) -> dict[str, int]:
    return {
        "prompt_tokens": event.prompt_tokens,
        "completion_tokens": event.completion_tokens,
        "total_tokens": event.prompt_tokens + event.completion_tokens,
    }


def _extension(question: Question, event: Finished) -> dict[str, Any]:
    answer, retrieved = event.answer, event.retrieved
    citations = []
    for citation in answer.citations:
        passage = retrieved.passages[citation.passage]
        citations.append(
            schemas.CitationOut(
                number=citation.number,
                document_id=passage.document_id,
                chunk_id=passage.chunk_id,
                source=passage.source,
                title=passage.title,
                quote=citation.quote,
                char_start=citation.char_start,
                char_end=citation.char_end,
                page_start=passage.page_start,
                line_start=passage.line_start,
                score=citation.score,
            )
        )
    extension = schemas.Extension(
        collection=question.collection,
        grounded=answer.grounded,
        not_in_documents=answer.not_in_documents,
        citations=citations,
        sentences=[
            schemas.SentenceOut(text=s.text, start=s.start, end=s.end, citations=list(s.citations))
            for s in answer.sentences
        ],
        retrieval=schemas.RetrievalOut(
            hits=len(retrieved.passages),
            took_ms=retrieved.took_ms,
            degraded=list(retrieved.degraded),
        ),
    )
    return extension.model_dump()


def create(config: Config) -> Service:
    """The service; nothing is connected before `start`."""
    coordinator = Coordinator(config)
    router = service_router()

    @router.post(
        "/v1/chat/completions",
        response_model=schemas.Completion,
        summary="Chat, with the local model or with answers from documents",
        tags=["chat"],
        **example(
            scope("chat", openai=True, also={404: "No such model or collection"}), examples.CHAT
        ),
    )
    async def chat_completions(body: schemas.ChatRequest, request: Request) -> Response:
        requests.check(body)
        if not body.stream:
            return _json(await while_connected(request, coordinator.whole(body)))
        relay = Relay(coordinator.pieces(body))
        try:
            await while_connected(request, relay.begin())
        except BaseException:
            await relay.aclose()
            raise
        return EventStream(relay)

    @router.get(
        "/v1/models",
        response_model=schemas.ModelList,
        summary="The models that can be named in a request",
        tags=["models"],
        **example(scope("models.read", openai=True), examples.MODELS),
    )
    async def models(request: Request) -> Response:
        listed = await while_connected(request, coordinator.models())
        return _json({"object": "list", "data": listed})

    needs = load_stack().services["coordinator"].needs
    embeddings = coordinator.embeddings

    async def embeddings_probe() -> None:
        await embeddings.request("GET", "/readyz")

    return Service(
        name="coordinator",
        router=router,
        start=coordinator.start,
        stop=coordinator.stop,
        needs=[
            Need(
                "llama",
                needs["llama"] == "required",
                coordinator.llama.probe,
                coordinator.llama.breaker,
            ),
            Need(
                "aidb",
                needs["aidb"] == "required",
                coordinator.aidb.probe,
                coordinator.aidb.breaker,
            ),
            Need(
                "embeddings",
                needs["embeddings"] == "required",
                embeddings_probe,
                lambda: embeddings.dependency.state,
            ),
        ],
        tags=[
            {"name": "chat", "description": "Conversation, streamed or whole"},
            {"name": "models", "description": "What is there"},
        ],
    )
