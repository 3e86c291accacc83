"""Reranking in the embeddings service: its life beside the encoder's, and its route."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from aistack.config import EmbeddingsConfig
from aistack.embeddings import rerank_metrics as metrics
from aistack.embeddings import rerank_schemas as schemas
from aistack.embeddings.checks import check_text
from aistack.embeddings.encoder import EncoderError
from aistack.embeddings.loading import extended, tried
from aistack.embeddings.rerank import Reranker, observe, warm_up
from aistack.embeddings.rerank_engines import PairTokenizer, Scorer, open_scorer
from aistack.embeddings.rerank_model import OPTION, RerankFiles, open_files
from aistack.embeddings.scheduler import Scheduler
from aistack.service.app import Runtime, scope
from aistack.service.disconnect import while_connected
from aistack.service.docs import example
from aistack.service.errors import (
    BadRequest,
    NotFound,
    NotImplementedHere,
    StartError,
    TooLarge,
    Unavailable,
)
from aistack.service.timing import server_timing

#: Seconds in which a stop finishes what is queued; the kit has drained the requests before.
STOP_SECONDS = 5.0
#: What a caller without a reranking model is told.
NO_MODEL = (
    "This installation has no reranking model: set embeddings.rerank_model to the directory of a"
    " cross-encoder (on NixOS services.aistack.rerankModel)."
)

# In the API pages; a test runs it as it stands.
RERANK_EXAMPLE = """
curl "$AISTACK_URL/v1/rerank" \\
  -H "Authorization: Bearer $AISTACK_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"query": "a lake", "documents": ["an alpine tarn", "a tax form"], "top_n": 1}'
"""


@dataclass(frozen=True, slots=True)
class _Loaded:
    name: str
    scheduler: Scheduler
    reranker: Reranker


class Rerank:
    """The life of the reranker: nothing of it is made where no model is configured."""

    def __init__(self, config: EmbeddingsConfig) -> None:
        self.config = config
        self._loaded: _Loaded | None = None

    @property
    def loaded(self) -> _Loaded:
        """The parts. Raises NotImplementedHere, or Unavailable before the start's end."""
        if self.config.rerank_model is None:
            raise NotImplementedHere(NO_MODEL, code="no_rerank_model")
        if self._loaded is None:
            raise Unavailable("The reranking model is still being loaded.")
        return self._loaded

    @property
    def heartbeats(self) -> list[Callable[[], int]]:
        """The lane's, which is 0 until there is one; none where there will be none."""
        return [] if self.config.rerank_model is None else [self._heartbeat]

    def _heartbeat(self) -> int:
        return self._loaded.scheduler.heartbeat() if self._loaded else 0

    async def start(self, runtime: Runtime) -> None:
        """Load the configured model, if any, and run passes of every shape. Raises StartError."""
        directory = self.config.rerank_model
        if directory is None:
            return
        runtime.status("loading the reranking model")

        def opened() -> tuple[RerankFiles, str, PairTokenizer, Scorer]:
            files, revision = open_files(self.config, directory)
            tokenizer = PairTokenizer(files.tokenizer, files.max_tokens)
            return files, revision, tokenizer, open_scorer(files, revision, self.config)

        async with extended(runtime, self.config.load_seconds):
            files, revision, tokenizer, scorer = await tried(opened, runtime, option=OPTION)
            scheduler = Scheduler(
                scorer.score,
                batch_tokens=self.config.batch_tokens,
                queue_texts=self.config.queue_texts,
                cost=scorer.cost,
                observe=observe,
            )
            runtime.status(f"warming up {files.name} ({scorer.engine})")
            ready = partial(warm_up, scorer, tokenizer, self.config.batch_tokens)
            try:
                await scheduler.start(ready)
            except EncoderError as error:
                why = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
                raise StartError(
                    f"{OPTION}: the {scorer.engine} engine cannot use the model {files.name}"
                    f" ({why}): choose another model, or another embeddings.rerank_encoder"
                ) from error
        metrics.QUEUE.set_function(lambda: scheduler.depth)
        metrics.LANES.set_function(lambda: scheduler.alive)
        metrics.MODEL.labels(files.name, revision[:16], scorer.engine).set(1)
        self._loaded = _Loaded(files.name, scheduler, Reranker(tokenizer, scheduler))

    async def stop(self) -> None:
        """Finish what is queued, end the threads."""
        if self._loaded is not None:
            await self._loaded.scheduler.stop(STOP_SECONDS)
            self._loaded.reranker.close()


def add_routes(router: APIRouter, service: Rerank) -> None:
    """The route `/v1/rerank`."""
    described = example(
        scope("rerank", also={404: "No such model", 501: "No reranking model is configured"}),
        RERANK_EXAMPLE,
    )
    responses: dict[int | str, Any] = {
        200: {"model": schemas.RerankResponse},
        **described["responses"],
    }

    @router.post("/v1/rerank", **{**described, "responses": responses})
    async def rerank(request: Request, body: schemas.RerankRequest) -> Response:
        """Put documents into the order of their relevance to a query, by a cross-encoder.

        `usage` counts the tokens that the model reads of all pairs, the query with each document.
        `aistack.truncated` names the documents that were cut; the query never is.
        """
        loaded = service.loaded
        if body.model not in (None, loaded.name):
            raise NotFound(
                f"The reranking model {body.model[:80]!r} does not exist here; use"
                f" {loaded.name!r}, or leave it out.",
                code="model_not_found",
            )
        query = _checked(body.query, "query", service.config)
        texts = _documents(body, service.config)
        scored = await while_connected(request, loaded.reranker.score(query, texts))
        return Response(
            schemas.body(body, texts, scored, loaded.name),
            media_type="application/json",
            headers={"server-timing": server_timing(asdict(scored.timings))},
        )


def _documents(body: schemas.RerankRequest, config: EmbeddingsConfig) -> list[str]:
    """The texts. Raises BadRequest or TooLarge with the index of the first bad one."""
    if not body.documents:
        raise BadRequest("documents: the list is empty.", param="documents")
    if len(body.documents) > config.rerank_documents:
        raise TooLarge(
            f"{len(body.documents)} documents in one request; at most {config.rerank_documents}"
            " are taken. Send them in several.",
            param="documents",
        )
    return [
        _checked(given if isinstance(given, str) else given.text, f"documents[{index}]", config)
        for index, given in enumerate(body.documents)
    ]


def _checked(text: str, where: str, config: EmbeddingsConfig) -> str:
    if not text or text.isspace():
        raise BadRequest(f"{where} is an empty text.", param=where)
    check_text(text, where, most=config.text_bytes, param=where)
    return text
