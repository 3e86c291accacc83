"""Conversation: the local model as it is, and answers made of the user's documents."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from opentelemetry.trace import Span

from aistack.clients.aidb import AidbClient, SearchHit
from aistack.clients.llama import LlamaClient, ServedModel
from aistack.config import CoordinatorConfig
from aistack.coordinator import metrics, prompts
from aistack.coordinator.answers import Answer, AnswerWriter, not_in_documents
from aistack.coordinator.evidence import Evidence, Passage
from aistack.coordinator.prompts import Turn
from aistack.coordinator.retrieval import Retrieved, end_of, relevant, search_query
from aistack.service.errors import BadRequest, StackError, Unprocessable
from aistack.service.tracing import tracer

log = structlog.get_logger()

SERVED_SECONDS = 30.0  # how long what the server has loaded is taken for granted


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation that is to be answered from documents."""

    turns: tuple[Turn, ...]
    collection: str
    top_k: int
    filters: Mapping[str, Any] | None
    answer_tokens: int
    sampling: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of an answer, after its last piece of text."""

    answer: Answer
    retrieved: Retrieved
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class Chat:
    """Answers of both models over the clients; knows no HTTP."""

    def __init__(self, llama: LlamaClient, aidb: AidbClient, config: CoordinatorConfig) -> None:
        self._llama = llama
        self._aidb = aidb
        self._config = config
        self._served: ServedModel | None = None
        self._served_until = 0.0

    async def served(self) -> ServedModel:
        """What the model server has loaded, asked again twice a minute."""
        if self._served is None or time.monotonic() >= self._served_until:
            self._served = await self._llama.served()
            self._served_until = time.monotonic() + SERVED_SECONDS
        return self._served

    async def local(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """llama.cpp's own answer to `body`."""
        with _span("local") as span, _outcome("local"):
            answer = await self._llama.chat(body)
            _count("local", answer.get("usage") or {}, span)
            return answer

    async def local_stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """llama.cpp's own chunks; the one with the usage comes last, always."""
        started = time.perf_counter()
        with _span("local") as span, _outcome("local"):
            asked = {**body, "stream_options": {"include_usage": True}}
            async with aclosing(self._llama.stream(asked)) as chunks:
                first = True
                async for chunk in chunks:
                    if first and _text(chunk):
                        metrics.FIRST_TOKEN.labels("local").observe(time.perf_counter() - started)
                        first = False
                    if chunk.get("usage"):
                        _count("local", chunk["usage"], span)
                    yield chunk

    async def answer(self, question: Question) -> AsyncGenerator[str | Finished, None]:
        """Pieces of the answer as they come, then Finished, exactly once."""
        started = time.perf_counter()
        with _span("aistack") as span:
            try:
                prompts.check_length(question.turns, (await self.served()).context_tokens)
                retrieved = await self._retrieve(question, span)
                if not relevant(
                    question.turns[-1].content, retrieved, self._config.relevance_floor
                ):
                    answer = not_in_documents()
                    yield answer.text
                    yield Finished(answer, retrieved, "stop", 0, 0)
                    metrics.ANSWERS.labels("aistack", "not_in_documents").inc()
                    return
                writer = AnswerWriter(
                    Evidence(retrieved.passages), end_of(question.turns[-1].content)
                )
                usage: dict[str, Any] = {}
                finish = "stop"
                first = True
                body = await self._body(question, retrieved)
                async with aclosing(self._llama.stream(body)) as chunks:
                    async for chunk in chunks:
                        usage = chunk.get("usage") or _usage_so_far(chunk) or usage
                        for choice in chunk.get("choices", ()):
                            finish = choice.get("finish_reason") or finish
                        if piece := writer.feed(_text(chunk)):
                            if first:
                                seconds = time.perf_counter() - started
                                metrics.FIRST_TOKEN.labels("aistack").observe(seconds)
                                first = False
                            yield piece
                        if writer.looping:
                            finish = "stop"
                            break
                tail, answer = writer.finish()
                if tail:
                    yield tail
                _count("aistack", usage, span)
                _observe(answer, span)
                yield Finished(
                    answer,
                    retrieved,
                    finish,
                    int(usage.get("prompt_tokens", 0)),
                    int(usage.get("completion_tokens", 0)),
                )
            except StackError:
                metrics.ANSWERS.labels("aistack", "failed").inc()
                raise
            except GeneratorExit:
                metrics.ANSWERS.labels("aistack", "abandoned").inc()
                raise

    async def _retrieve(self, question: Question, span: Span) -> Retrieved:
        said = [t.content for t in question.turns if t.role == "user" and t.content.strip()]
        try:
            found = await self._aidb.search(
                search_query(said),
                collection=question.collection,
                limit=question.top_k,
                filters=question.filters,
            )
        except Unprocessable as error:
            raise _of_the_chat(error) from error
        cosines = [hit.dense_score for hit in found.hits if hit.dense_score is not None]
        span.set_attribute("aistack.retrieval.hits", len(found.hits))
        if found.degraded:
            span.set_attribute("aistack.retrieval.degraded", found.degraded)
        return Retrieved(
            passages=_passages(found.hits),
            best_cosine=max(cosines, default=None),
            took_ms=found.took_ms,
            degraded=found.degraded,
        )

    async def _body(self, question: Question, retrieved: Retrieved) -> dict[str, Any]:
        served = await self.served()
        prompt = await prompts.fit(
            question.turns,
            retrieved.passages,
            self._llama.count_tokens,
            context_tokens=served.context_tokens,
            passage_tokens=self._config.context_tokens,
            answer_tokens=question.answer_tokens,
        )
        return {
            **question.sampling,
            "messages": [{"role": t.role, "content": t.content} for t in prompt.messages],
            "max_tokens": question.answer_tokens,
            "stream_options": {"include_usage": True},
            # The usage comes last, and an answer may be ended before that.
            "timings_per_token": True,
        }


def _of_the_chat(error: Unprocessable) -> BadRequest:
    """aidb's refusal of a search in terms of the chat request that it was made from."""
    detail = error.detail.removeprefix("body.")
    field = next((f for f in ("filters", "collection") if detail.startswith(f)), None)
    if field is None:
        return BadRequest(detail, param="aistack")
    return BadRequest(f"aistack.{detail}", param=f"aistack.{field}")


def _passages(hits: Sequence[SearchHit]) -> tuple[Passage, ...]:
    passages = []
    for hit in hits:
        passage = Passage(
            document_id=hit.document_id,
            chunk_id=hit.chunk_id,
            source=hit.source,
            title=hit.title,
            text=hit.text,
            char_start=hit.char_start,
            char_end=hit.char_end,
            heading_path=hit.heading_path,
            page_start=hit.page_start,
            line_start=hit.line_start,
            score=hit.score,
        )
        if not passage.exact:
            # A quote from it could not be found again in the document.
            metrics.INEXACT.inc()
            log.error("inexact_passage", chunk_id=hit.chunk_id, document_id=hit.document_id)
            continue
        passages.append(passage)
    return tuple(passages)


def _usage_so_far(chunk: Mapping[str, Any]) -> dict[str, int] | None:
    """llama.cpp's own count up to this chunk."""
    timings = chunk.get("timings")
    if not isinstance(timings, dict):
        return None
    return {
        "prompt_tokens": int(timings.get("prompt_n", 0)) + int(timings.get("cache_n", 0)),
        "completion_tokens": int(timings.get("predicted_n", 0)),
    }


def _text(chunk: Mapping[str, Any]) -> str:
    return "".join(
        (choice.get("delta") or {}).get("content") or "" for choice in chunk.get("choices", ())
    )


@contextmanager
def _span(model: str) -> Iterator[Span]:
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "llama.cpp",
        "gen_ai.request.model": model,
    }
    with tracer.start_as_current_span(f"chat {model}", attributes=attributes) as span:
        yield span


@contextmanager
def _outcome(model: str) -> Iterator[None]:
    outcome = "abandoned"
    try:
        yield
        outcome = "complete"
    except StackError:
        outcome = "failed"
        raise
    finally:
        metrics.ANSWERS.labels(model, outcome).inc()


def _count(model: str, usage: Mapping[str, Any], span: Span) -> None:
    taken, given = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
    metrics.TOKENS.labels(model, "in").inc(taken)
    metrics.TOKENS.labels(model, "out").inc(given)
    span.set_attribute("gen_ai.usage.input_tokens", taken)
    span.set_attribute("gen_ai.usage.output_tokens", given)


def _observe(answer: Answer, span: Span) -> None:
    outcome = "complete" if answer.grounded else "untraced"
    metrics.ANSWERS.labels("aistack", outcome).inc()
    metrics.CITATIONS.inc(len(answer.citations))
    if answer.grounded is not None:
        metrics.GROUNDED.observe(answer.grounded)
        span.set_attribute("aistack.answer.grounded", answer.grounded)
