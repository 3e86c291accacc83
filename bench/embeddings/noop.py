"""What `kit` measures: the embeddings service with a no-op encoder, and a bare FastAPI route.

python -m bench.embeddings.noop CONFIG          the service, only its encoder replaced
AISTACK_BENCH_WITHOUT=NAME python -m …          the same without one part of the kit
AISTACK_BENCH_WITHOUT=kit python -m …           the bare route
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from aistack.config import EmbeddingsConfig
from aistack.embeddings import schemas
from aistack.embeddings.cut import Cost
from aistack.embeddings.embedder import Embedded, Embedder, Timings
from aistack.embeddings.encoder import Encoder, Tokens, Vectors
from aistack.models import EmbeddingSet, ModelFiles, find_model
from aistack.service import middleware, run
from aistack.service.context import caller_key
from aistack.service.keys import Principal
from aistack.stack import load_stack

DIMENSION = 384
#: Parts of the kit that can be taken out.
KIT = ("RequestContext", "Errors", "Authenticate", "LimitRequests", "Gate", "log line")
#: What goes on between the route and the encoder: cache, flights, tokenizers, lanes.
EMBEDDER = "Embedder"
WITHOUT = "AISTACK_BENCH_WITHOUT"


class NoopEncoder:
    """Every text is the same unit vector of 384 dimensions, at once."""

    def __init__(self, identity: EmbeddingSet, max_tokens: int) -> None:
        self.identity = identity
        self.max_tokens = max_tokens
        self.cost = Cost(16)
        self._vectors = np.zeros((4096, DIMENSION), dtype=np.float32)
        self._vectors[:, 0] = 1.0
        self._tokens = Tokens(np.arange(12, dtype=np.int32))

    def tokenize(self, texts: Sequence[str], **_options: Any) -> list[Tokens]:
        return [self._tokens] * len(texts)

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        return self._vectors[: len(batch)]


def noop_encoder(config: EmbeddingsConfig) -> tuple[ModelFiles, Encoder]:
    """In the place of `open_encoder`."""
    files = find_model(config.model)
    identity = EmbeddingSet(files.name, "0" * 64, "noop", "fp32", DIMENSION, normalized=True)
    return files, NoopEncoder(identity, files.max_tokens)


class _Passes:
    """In the place of a middleware: calls the application."""

    def __init__(self, app: ASGIApp, **_options: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class _Everybody(_Passes):
    """In the place of `Authenticate`: whoever asks is one principal with every scope."""

    principal = Principal("anybody", "anybody", load_stack().scopes(), internal=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope.setdefault("state", {})["principal"] = self.principal
            caller_key.set("anybody")
        await self.app(scope, receive, send)


def answer() -> Embedded:
    """One text's no-op vector."""
    vectors = np.zeros((1, DIMENSION), dtype=np.float32)
    vectors[0, 0] = 1.0
    return Embedded(vectors, 12, (), 0, Timings())


async def _at_once(embedder: Any, given: Sequence[str], *_more: Any, **_options: Any) -> Embedded:
    encoder = embedder._encoder
    vectors = encoder.encode(encoder.tokenize(given))
    return Embedded(vectors, 12 * len(given), (), 0, Timings())


def take_out(names: str) -> None:
    """Make the service work without these parts."""
    for name in filter(None, names.split(",")):
        _take_out(name)


def _take_out(name: str) -> None:
    if name == "log line":
        middleware.log = _Silent()
    elif name == EMBEDDER:
        setattr(Embedder, "embed", _at_once)  # noqa: B010 - its signature is another one
    elif name == "Authenticate":
        setattr(middleware, name, _Everybody)
    else:
        setattr(middleware, name, _Passes)


class _Silent:
    def __getattr__(self, name: str) -> Any:
        return lambda *_given, **_fields: None


def bare(config_path: Path) -> int:
    """One FastAPI route with the service's request and the service's answer, nothing around it."""
    from fastapi import FastAPI, Response

    given = json.loads(config_path.read_text(encoding="utf-8"))
    app = FastAPI()
    identity = EmbeddingSet(
        "all-minilm-l6-v2", "0" * 64, "noop", "fp32", DIMENSION, normalized=True
    )

    @app.post("/v1/embeddings")
    async def embeddings(body: schemas.EmbeddingsRequest) -> Response:
        content = schemas.openai_body(answer(), identity, encode=body.encoding_format)
        return Response(content, media_type="application/json")

    @app.get("/readyz")
    async def readyz() -> str:
        return "ready"

    uvicorn.run(
        app, uds=given["listen"]["socket"], http="httptools", loop="uvloop", ws="none",
        access_log=False, server_header=False, log_level="warning",
    )  # fmt: skip
    return 0


def main() -> int:
    """Serve until SIGTERM."""
    config = Path(sys.argv[1])
    without = os.environ.get(WITHOUT, "")
    if without == "kit":
        return bare(config)
    # Wherever a module of the service knows it by name.
    importlib.import_module("aistack.embeddings.app")
    for name, module in list(sys.modules.items()):
        if name.startswith("aistack.embeddings.") and hasattr(module, "open_encoder"):
            setattr(module, "open_encoder", noop_encoder)  # noqa: B010 - of some module
    take_out(without)
    return run.serve("embeddings", config)


if __name__ == "__main__":
    sys.exit(main())
