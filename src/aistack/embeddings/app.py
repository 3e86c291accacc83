"""The embeddings service: its routes, and what it starts and stops."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request, Response

from aistack.clients.redis import Redis
from aistack.config import Config, EmbeddingsConfig
from aistack.embeddings import metrics, schemas
from aistack.embeddings.cache import VectorCache
from aistack.embeddings.checks import check_text
from aistack.embeddings.embedder import Embedded, Embedder
from aistack.embeddings.encoder import Encoder, EncoderError
from aistack.embeddings.lanes import lane_count
from aistack.embeddings.loading import extended, load
from aistack.embeddings.rerank_service import Rerank, add_routes
from aistack.embeddings.scheduler import Pass, Scheduler
from aistack.embeddings.warm_up import warm_up
from aistack.models import EmbeddingSet, ModelFiles
from aistack.service.app import Need, Runtime, Service, scope, service_router
from aistack.service.disconnect import while_connected
from aistack.service.docs import example
from aistack.service.errors import BadRequest, NotFound, StartError, TooLarge, Unavailable
from aistack.service.timing import server_timing

_OK, _FAILED = (metrics.PASSES.labels(outcome) for outcome in ("ok", "failed"))

#: How long a lane that comes back from a pass waits for the interpreter while the event loop is
#: busy; the usual 5 ms are a third of a pass of short texts.
SWITCH_SECONDS = 0.0005
#: Seconds in which a stop finishes what is queued; the kit has drained the requests before.
STOP_SECONDS = 5.0

# In the API pages; a test runs them as they stand.
EMBEDDINGS_EXAMPLE = """
curl "$AISTACK_URL/v1/embeddings" \\
  -H "Authorization: Bearer $AISTACK_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"model": "all-minilm-l6-v2", "input": ["a lake in the mountains", "an alpine tarn"]}'
"""
EMBED_EXAMPLE = """
curl "$AISTACK_URL/embed" \\
  -H "Authorization: Bearer $AISTACK_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"inputs": ["a lake in the mountains", "an alpine tarn"]}'
"""
FORGET_EXAMPLE = """
curl "$AISTACK_URL/v1/embeddings/forget" \\
  -H "Authorization: Bearer $AISTACK_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"sha256": ["a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a447"]}'
"""
MODELS_EXAMPLE = """
curl "$AISTACK_URL/v1/models" -H "Authorization: Bearer $AISTACK_API_KEY"
"""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What exists between start and stop."""

    files: ModelFiles
    encoder: Encoder
    scheduler: Scheduler
    embedder: Embedder
    cache: VectorCache | None
    created: int
    dimensions: tuple[int, ...]

    @property
    def identity(self) -> EmbeddingSet:
        """The set that this process's vectors belong to."""
        return self.encoder.identity

    def cut(self, dimension: int | None) -> EmbeddingSet:
        """The set of vectors that are cut to `dimension`, if any. Raises BadRequest."""
        if dimension is None:
            return self.identity
        if dimension not in (*self.dimensions, self.identity.dimension):
            fewer = (
                f" or {', '.join(map(str, self.dimensions))}"
                if self.dimensions
                else " and cannot give fewer or more"
            )
            raise BadRequest(
                f"This model gives {self.identity.dimension} dimensions{fewer}.",
                param="dimensions",
            )
        return replace(self.identity, dimension=dimension)

    def prompted(self, texts: list[str], body: schemas.Prompted) -> list[str]:
        """`texts` with the prompt that was asked for, or the model's default one, before each.

        It is part of the text from here on: for the cache, for the tokens that are counted, for
        the length. Raises BadRequest.
        """
        prompts = self.files.prompts
        if body.prompt_name is not None and body.input_type is not None:
            raise BadRequest(
                "prompt_name and input_type say the same: send one.", param="prompt_name"
            )
        if body.prompt_name is not None and body.prompt_name not in prompts.texts:
            known = ", ".join(map(repr, prompts.texts)) or "none"
            raise BadRequest(
                f"The model has no prompt {body.prompt_name[:80]!r}; it has {known}.",
                param="prompt_name",
            )
        prompt = (
            prompts.text(body.prompt_name)
            if body.input_type is None
            else prompts.for_input(body.input_type)
        )
        return [prompt + text for text in texts] if prompt else texts


class Embeddings:
    """The life of the service's parts."""

    def __init__(self, config: Config) -> None:
        self._config = config.embeddings
        self._cached = self._config.cache_seconds > 0
        self.redis = Redis(config.redis)
        self._loaded: Loaded | None = None

    @property
    def loaded(self) -> Loaded:
        """The parts. Raises Unavailable before the start has come to its end."""
        if self._loaded is None:
            raise Unavailable("The model is still being loaded.")
        return self._loaded

    @property
    def config(self) -> EmbeddingsConfig:
        """This service's section."""
        return self._config

    def heartbeat(self) -> int:
        """The lanes'; 0 until there are some."""
        return self._loaded.scheduler.heartbeat() if self._loaded else 0

    async def start(self, runtime: Runtime) -> None:
        """Load the model, run passes of every shape in every lane, report. Raises StartError."""
        lanes = lane_count(self._config)
        runtime.status("loading the model")
        async with extended(runtime, self._config.load_seconds):
            files, encoder = await load(self._config, runtime)
            identity = encoder.identity
            scheduler = Scheduler(
                encoder.encode,
                batch_tokens=self._config.batch_tokens,
                queue_texts=self._config.queue_texts,
                cost=encoder.cost,
                lanes=lanes,
                cores=self._config.lane_cores,
                observe=_observe,
            )
            runtime.status(f"warming up {identity.model} ({identity.engine})")
            await self._start_lanes(scheduler, encoder)
        cache = None
        if self._cached:
            cache = VectorCache(
                self.redis, identity, settings=files.settings, seconds=self._config.cache_seconds
            )
        metrics.QUEUE.set_function(lambda: scheduler.depth)
        metrics.LANES.set_function(lambda: scheduler.alive)
        metrics.MODEL.labels(
            identity.model,
            identity.revision[:16],
            identity.engine,
            identity.precision,
            str(identity.dimension),
        ).set(1)
        self._loaded = Loaded(
            files=files,
            encoder=encoder,
            scheduler=scheduler,
            embedder=Embedder(encoder, scheduler, cache),
            cache=cache,
            created=int(files.weights.stat().st_mtime),
            dimensions=tuple(sorted({*files.matryoshka, *self._config.dimensions})),
        )

    async def _start_lanes(self, scheduler: Scheduler, encoder: Encoder) -> None:
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            await scheduler.start(lambda: warm_up(encoder, self._config.batch_tokens))
        except EncoderError as error:
            why = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
            raise StartError(
                f"embeddings.encoder: the {encoder.identity.engine} engine"
                f" ({encoder.identity.precision}) cannot be used here ({why}): choose another"
                " engine or precision"
            ) from error

    async def stop(self) -> None:
        """Finish what is queued, write what is to be cached, end the threads."""
        if self._loaded is not None:
            await self._loaded.scheduler.stop(STOP_SECONDS)
            await self._loaded.embedder.close()
        await self.redis.aclose()


def create(config: Config) -> Service:
    """The service's parts for the kit."""
    service = Embeddings(config)
    rerank = Rerank(config.embeddings)
    router = service_router()
    add_routes(router, rerank)

    async def start(runtime: Runtime) -> None:
        await service.start(runtime)
        await rerank.start(runtime)

    async def stop() -> None:
        await rerank.stop()
        await service.stop()

    @router.post(
        "/v1/embeddings",
        **_answering(
            schemas.EmbeddingsResponse,
            example(scope("embed", openai=True, also={404: "No such model"}), EMBEDDINGS_EXAMPLE),
        ),
    )
    async def embeddings(request: Request, body: schemas.EmbeddingsRequest) -> Response:
        """Vectors of one text or many, in OpenAI's shape.

        `usage` counts the tokens that the model reads of each text: its special tokens included,
        what is beyond its length not. `aistack.truncated` names the texts that were cut.
        """
        loaded = service.loaded
        identity = loaded.identity
        if body.model != identity.model:
            raise NotFound(
                f"The model {body.model[:80]!r} does not exist here; use {identity.model!r}.",
                code="model_not_found",
                param="model",
            )
        given = loaded.cut(body.dimensions)
        texts = loaded.prompted(_texts(body.input, "input", service.config), body)
        embedded = await while_connected(request, loaded.embedder.embed(texts))
        return _answer(schemas.openai_body(embedded, given, encode=body.encoding_format), embedded)

    @router.post("/embed", **_answering(list[list[float]], example(scope("embed"), EMBED_EXAMPLE)))
    async def embed(request: Request, body: schemas.EmbedRequest) -> Response:
        """Vectors of one text or many, in the shape of text-embeddings-inference."""
        loaded = service.loaded
        given = loaded.cut(body.dimensions)
        texts = loaded.prompted(_texts(body.inputs, "inputs", service.config), body)
        if not body.truncate:
            truncated = await while_connected(request, loaded.embedder.truncated(texts))
            if truncated:
                raise TooLarge(
                    f"inputs[{truncated[0]}] has more than {loaded.encoder.max_tokens} tokens, and"
                    " truncate is false."
                )
        embedded = await while_connected(request, loaded.embedder.embed(texts))
        return _answer(schemas.tei_body(embedded, given), embedded)

    @router.post(
        "/v1/embeddings/forget",
        status_code=204,
        **example(scope("embed", openai=True), FORGET_EXAMPLE),
    )
    async def forget(body: schemas.ForgetRequest) -> None:
        """Remove cached vectors of texts, named by their hash; unknown ones are no error.

        For a service that deletes a document. Nothing else uses the hash: the next request for
        such a text encodes it again.
        """
        if (cache := service.loaded.cache) is not None:
            await cache.forget([bytes.fromhex(one) for one in body.sha256])

    @router.get(
        "/v1/models",
        response_model=schemas.ModelList,
        **example(scope("models.read", openai=True), MODELS_EXAMPLE),
    )
    async def models() -> schemas.ModelList:
        """The model that is loaded, and the identity of its vectors."""
        loaded = service.loaded
        extension = schemas.ModelExtension(
            dimension=loaded.identity.dimension,
            max_tokens=loaded.encoder.max_tokens,
            dimensions=list(loaded.dimensions),
            prompts=list(loaded.files.prompts.texts),
            client_batch=service.config.client_batch,
            embedding_set=schemas.describe(loaded.identity),
        )
        model = schemas.ModelObject(
            id=loaded.identity.model, created=loaded.created, aistack=extension
        )
        return schemas.ModelList(data=[model])

    needs = [Need("redis", False, service.redis.probe, lambda: service.redis.dependency.state)]
    return Service(
        name="embeddings",
        router=router,
        start=start,
        stop=stop,
        needs=needs if config.embeddings.cache_seconds else (),
        heartbeats=[service.heartbeat, *rerank.heartbeats],
    )


def _texts(
    given: str | schemas.TokenIds | list[str], field: str, config: EmbeddingsConfig
) -> list[str]:
    """The texts of a request. Raises BadRequest or TooLarge with the index of the first bad one."""
    texts = [given] if isinstance(given, str) else given
    if not texts:
        raise BadRequest("The list of texts is empty.", param=field)
    if len(texts) > config.client_batch:
        raise TooLarge(
            f"{len(texts)} texts in one request; at most {config.client_batch} are taken."
            " Send them in several.",
            param=field,
        )
    checked: list[str] = []
    for index, text in enumerate(texts):
        where = field if isinstance(given, str) else f"{field}[{index}]"
        if not isinstance(text, str):
            raise BadRequest("Token ids are not accepted: send the text itself.", param=field)
        if not text:
            raise BadRequest(f"{where} is an empty text.", param=field)
        check_text(text, where, most=config.text_bytes, param=field)
        checked.append(text)
    return checked


def _answering(model: Any, keywords: dict[str, Any]) -> dict[str, Any]:
    """`keywords` with the schema of the 200 that the route writes itself, without pydantic."""
    return {**keywords, "responses": {200: {"model": model}, **keywords["responses"]}}


def _answer(body: bytes, embedded: Embedded) -> Response:
    timing = server_timing(embedded.timings.phases())
    return Response(body, media_type="application/json", headers={"server-timing": timing})


def _observe(done: Pass) -> None:
    (_FAILED if done.failed else _OK).inc()
    metrics.PASS_SECONDS.observe(done.seconds)
    metrics.PASS_TEXTS.observe(done.texts)
    metrics.TOKENS.inc(done.tokens)
    metrics.PADDED.inc(done.padded)
