"""The embeddings service: its routes, and what it starts and stops."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response

from aistack.clients.redis import Redis
from aistack.config import Config, EmbeddingsConfig
from aistack.embeddings import metrics, schemas
from aistack.embeddings.cache import VectorCache
from aistack.embeddings.embedder import Embedded, Embedder, Timings
from aistack.embeddings.encoder import Encoder
from aistack.embeddings.engines import open_encoder
from aistack.embeddings.scheduler import Pass, Scheduler
from aistack.models import EmbeddingSet, ModelFiles
from aistack.service.app import Need, Runtime, Service, scope, service_router
from aistack.service.disconnect import while_connected
from aistack.service.docs import example
from aistack.service.errors import BadRequest, NotFound, StartError, TooLarge, Unavailable

#: Attempts to load the model, and the pause before the second (doubled before the third), for
#: what may pass: a disk that is not mounted yet, memory that another service gives back.
LOAD_ATTEMPTS = 3
LOAD_PAUSE_SECONDS = 1.0
#: Seconds in which a stop finishes what is queued; the kit has drained the requests before.
STOP_SECONDS = 5.0
#: Encoded once before READY=1: it touches every weight.
WARM_UP = "The encoder has read this sentence before it says that it is ready."

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
    created: int

    @property
    def identity(self) -> EmbeddingSet:
        """The set that this process's vectors belong to."""
        return self.encoder.identity


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
        """The encoder thread's; 0 until there is one."""
        return self._loaded.scheduler.heartbeat() if self._loaded else 0

    async def start(self, runtime: Runtime) -> None:
        """Load the model, encode one text, report. Raises StartError."""
        runtime.status("loading the model")
        files, encoder = await self._load(runtime)
        identity = encoder.identity
        cache = None
        if self._cached:
            cache = VectorCache(
                self.redis, identity, settings=files.settings, seconds=self._config.cache_seconds
            )
        scheduler = Scheduler(
            encoder.encode,
            batch_tokens=self._config.batch_tokens,
            queue_texts=self._config.queue_texts,
            pass_tokens=encoder.pass_tokens,
            observe=_observe,
        )
        scheduler.start()
        metrics.QUEUE.set_function(lambda: scheduler.depth)
        metrics.MODEL.labels(
            identity.model,
            identity.revision[:16],
            identity.engine,
            identity.precision,
            str(identity.dimension),
        ).set(1)
        runtime.status(f"warming up {identity.model} ({identity.engine})")
        # Past the cache, so that the forward pass is real.
        await scheduler.submit(encoder.tokenize([WARM_UP]))
        self._loaded = Loaded(
            files=files,
            encoder=encoder,
            scheduler=scheduler,
            embedder=Embedder(encoder, scheduler, cache),
            created=int(files.weights.stat().st_mtime),
        )

    async def stop(self) -> None:
        """Finish what is queued, write what is to be cached, end the threads."""
        if self._loaded is not None:
            await self._loaded.scheduler.stop(STOP_SECONDS)
            await self._loaded.embedder.close()
        await self.redis.aclose()

    async def _load(self, runtime: Runtime) -> tuple[ModelFiles, Encoder]:
        pause = LOAD_PAUSE_SECONDS
        for attempt in range(1, LOAD_ATTEMPTS + 1):
            try:
                return await asyncio.to_thread(open_encoder, self._config)
            except (StartError, OSError, MemoryError) as error:
                if not _may_pass(error):
                    raise
                if attempt == LOAD_ATTEMPTS:
                    raise StartError(
                        f"embeddings.model: the model could not be loaded in {attempt} attempts"
                        f" ({type(error).__name__}: {error}): mend what it names and start again"
                    ) from error
                runtime.status(f"loading the model: attempt {attempt} failed, trying again")
                await asyncio.sleep(pause)
                pause *= 2
        raise AssertionError("unreachable: the loop returns or raises")


def _may_pass(error: BaseException) -> bool:
    """Whether a second attempt to load may do better: not for a missing or damaged file."""
    cause = error.__cause__ if isinstance(error, StartError) else error
    lasting = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
    return isinstance(cause, (OSError, MemoryError)) and not isinstance(cause, lasting)


def create(config: Config) -> Service:
    """The service's parts for the kit."""
    service = Embeddings(config)
    router = service_router()

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
        if body.dimensions not in (None, identity.dimension):
            raise BadRequest(
                f"This model gives {identity.dimension} dimensions and cannot give fewer or more.",
                param="dimensions",
            )
        texts = _texts(body.input, "input", service.config)
        embedded = await while_connected(request, loaded.embedder.embed(texts))
        return _answer(
            schemas.openai_body(embedded, identity, encode=body.encoding_format), embedded
        )

    @router.post("/embed", **_answering(list[list[float]], example(scope("embed"), EMBED_EXAMPLE)))
    async def embed(request: Request, body: schemas.EmbedRequest) -> Response:
        """Vectors of one text or many, in the shape of text-embeddings-inference."""
        loaded = service.loaded
        texts = _texts(body.inputs, "inputs", service.config)
        if not body.truncate:
            for index, tokens in enumerate(await loaded.embedder.tokenize(texts)):
                if tokens.truncated:
                    raise TooLarge(
                        f"inputs[{index}] has more than {loaded.encoder.max_tokens} tokens, and"
                        " truncate is false."
                    )
        embedded = await while_connected(request, loaded.embedder.embed(texts))
        return _answer(schemas.tei_body(embedded), embedded)

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
        start=service.start,
        stop=service.stop,
        needs=needs if config.embeddings.cache_seconds else (),
        heartbeats=[service.heartbeat],
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
        if len(text) > config.text_bytes or _utf8_length(text, where) > config.text_bytes:
            raise TooLarge(f"{where} is over {config.text_bytes} bytes.", param=field)
        checked.append(text)
    return checked


def _utf8_length(text: str, where: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        # JSON can spell half of a surrogate pair, which is no character.
        raise BadRequest(f"{where} is not valid Unicode.", param=where) from error


def _answering(model: Any, keywords: dict[str, Any]) -> dict[str, Any]:
    """`keywords` with the schema of the 200 that the route writes itself, without pydantic."""
    return {**keywords, "responses": {200: {"model": model}, **keywords["responses"]}}


def _answer(body: bytes, embedded: Embedded) -> Response:
    return Response(
        body,
        media_type="application/json",
        headers={"server-timing": _server_timing(embedded.timings)},
    )


def _server_timing(timings: Timings) -> str:
    parts = {
        "cache": timings.cache,
        "tokenize": timings.tokenize,
        "queue": timings.queue,
        "encode": timings.encode,
    }
    return ", ".join(f"{name};dur={seconds * 1000:.2f}" for name, seconds in parts.items())


def _observe(done: Pass) -> None:
    metrics.PASSES.labels("failed" if done.failed else "ok").inc()
    metrics.PASS_SECONDS.observe(done.seconds)
    metrics.PASS_TEXTS.observe(done.texts)
    metrics.TOKENS.inc(done.tokens)
    metrics.PADDED.inc(done.padded)
