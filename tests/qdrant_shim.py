"""A test-only server that speaks the REST of Qdrant over its embedded engine.

    python -m qdrant_shim --data DIRECTORY --port PORT      (with tests/ on the path)

There is no Qdrant server outside Nix; `qdrant-edge-py` is its engine for one process. This serves
what `qdrant-client` asks of collections, payload indexes and points, so that the unchanged client
runs against real filters, a real write-ahead log and a real index. A request that is known to
Qdrant and not to this server is answered 501.

The key is in QDRANT__SERVICE__API_KEY, as the server's own.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import orjson
import qdrant_edge as edge
import uvicorn
from pydantic import TypeAdapter, ValidationError
from qdrant_client import models
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

import qdrant_edge_store as store
from qdrant_edge_store import Collection, Collections, Refused
from qdrant_edge_terms import NotSupported, index_schema

#: The server whose answers these are modelled on.
VERSION = "1.18.2"
#: As `service.max_request_size_mb`.
MAX_BODY = 32 * 1024 * 1024
#: What needs no key in Qdrant.
OPEN = ("/", "/healthz", "/livez", "/readyz")

Form = TypeVar("Form")
#: What a handler of one collection does, in a thread, with its shard locked.
Work = Callable[[Collection], Any]


def answer(result: Any, started: float) -> Response:
    """200 in Qdrant's shape."""
    body = {"result": result, "status": "ok", "time": time.perf_counter() - started}
    return Response(orjson.dumps(body), media_type="application/json")


def refusal(status: int, message: str) -> Response:
    """An error in Qdrant's shape."""
    body = {"status": {"error": message}, "time": 0.0}
    return Response(orjson.dumps(body), status, media_type="application/json")


async def read(request: Request, form: type[Form] | Any) -> Any:
    """The body of a request; raises 400 where it is not of the form, 413 where it is too large."""
    body = await request.body()
    if len(body) > MAX_BODY:
        raise Refused(413, f"Payload error: JSON payload is larger than {MAX_BODY} bytes")
    try:
        return TypeAdapter(form).validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused(400, f"Format error in JSON body: {where}: {first['msg']}") from error


def engine_refusal(error: Exception) -> Refused:
    """What the engine's message means in HTTP."""
    message = str(error)
    if message.startswith("Service "):
        return Refused(500, message)
    if isinstance(error, (ValueError, TypeError)):
        return Refused(400, f"Format error in JSON body: {message}")
    return Refused(400, f"Wrong input: {message}")


def of_the_engine(work: Callable[[], Any]) -> Any:
    """What `work` returns; what the engine refuses is an answer."""
    try:
        return work()
    except (Refused, NotSupported):
        raise
    except Exception as error:
        raise engine_refusal(error) from error


async def worked(request: Request, work: Work) -> Any:
    """Do it with the collection of the path."""
    collections: Collections = request.app.state.collections
    name = request.path_params["name"]
    collection = collections.get(name)

    def locked() -> Any:
        with collection.lock:
            # Deleted while this waited: a closed shard answers nothing.
            if collections.get(name) is not collection:
                raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
            return work(collection)

    return await asyncio.to_thread(of_the_engine, locked)


def reads(form: Any, work: Callable[[Collection, Any], Any]) -> Any:
    """A route that asks something of a collection."""

    async def handle(request: Request) -> Response:
        started = time.perf_counter()
        body = await read(request, form)
        return answer(await worked(request, lambda held: work(held, body)), started)

    return handle


def writes(form: Any, operations: Callable[[Any], Sequence[edge.UpdateOperation]]) -> Any:
    """A route that changes a collection; the change is in the log when it is answered."""

    async def handle(request: Request) -> Response:
        started = time.perf_counter()
        body = await read(request, form)
        number = await worked(request, lambda held: store.update(held, *operations(body)))
        waited = request.query_params.get("wait") == "true"
        status = "completed" if waited else "acknowledged"
        return answer({"operation_id": number, "status": status}, started)

    return handle


def batch_writes() -> Any:
    """Several changes; an answer for each."""

    async def handle(request: Request) -> Response:
        started = time.perf_counter()
        body = await read(request, models.UpdateOperations)

        def work(held: Collection) -> list[int]:
            return [store.update(held, one) for one in store.batch(body)]

        numbers = await worked(request, work)
        done = [{"operation_id": number, "status": "completed"} for number in numbers]
        return answer(done, started)

    return handle


async def list_collections(request: Request) -> Response:
    names = request.app.state.collections.names()
    return answer({"collections": [{"name": name} for name in names]}, time.perf_counter())


async def create_collection(request: Request) -> Response:
    started = time.perf_counter()
    body = await read(request, models.CreateCollection)
    raw = await request.body()
    collections: Collections = request.app.state.collections
    name = request.path_params["name"]
    await asyncio.to_thread(of_the_engine, lambda: collections.create(name, body, raw))
    return answer(True, started)


async def delete_collection(request: Request) -> Response:
    started = time.perf_counter()
    delete = request.app.state.collections.delete
    return answer(await asyncio.to_thread(delete, request.path_params["name"]), started)


async def collection_exists(request: Request) -> Response:
    exists = request.path_params["name"] in request.app.state.collections.names()
    return answer({"exists": exists}, time.perf_counter())


async def collection_info(request: Request) -> Response:
    started = time.perf_counter()
    return answer(await worked(request, store.info), started)


async def get_point(request: Request) -> Response:
    started = time.perf_counter()
    key = request.path_params["id"]
    asked = models.PointRequest(
        ids=[int(key) if key.isdigit() else key], with_payload=True, with_vector=True
    )
    found = await worked(request, lambda held: store.retrieve(held, asked))
    if not found:
        raise Refused(404, f"Not found: Point with id {key} does not exists!")
    return answer(found[0], started)


async def delete_index(request: Request) -> Response:
    started = time.perf_counter()
    name = request.path_params["field"]
    change = edge.UpdateOperation.delete_field_index(name)
    number = await worked(request, lambda held: store.update(held, change))
    return answer({"operation_id": number, "status": "completed"}, started)


async def version(request: Request) -> Response:
    told = {"title": "qdrant - vector search engine", "version": VERSION}
    return Response(orjson.dumps(told), media_type="application/json")


async def healthy(request: Request) -> Response:
    return PlainTextResponse("healthz check passed")


async def ready(request: Request) -> Response:
    return PlainTextResponse("all shards are ready")


def index(body: models.CreateFieldIndex) -> list[edge.UpdateOperation]:
    """Index a field of the payload."""
    schema = index_schema(body.field_schema)
    return [edge.UpdateOperation.create_field_index(body.field_name, schema)]


C = "/collections/{name}"
Points = models.PointsList | models.PointsBatch
Chosen = models.PointIdsList | models.FilterSelector
SetPayload = models.SetPayload
ROUTES = [
    Route("/", version),
    Route("/healthz", healthy),
    Route("/livez", healthy),
    Route("/readyz", ready),
    Route("/collections", list_collections),
    Route(C, create_collection, methods=["PUT"]),
    Route(C, delete_collection, methods=["DELETE"]),
    Route(C, collection_info, methods=["GET"]),
    Route(f"{C}/exists", collection_exists),
    Route(f"{C}/index", writes(models.CreateFieldIndex, index), methods=["PUT"]),
    Route(f"{C}/index/{{field}}", delete_index, methods=["DELETE"]),
    Route(f"{C}/points", writes(Points, lambda b: [store.upsertion(b)]), methods=["PUT"]),
    Route(f"{C}/points", reads(models.PointRequest, store.retrieve), methods=["POST"]),
    Route(f"{C}/points/delete", writes(Chosen, lambda b: [store.deletion(b)]), methods=["POST"]),
    Route(f"{C}/points/batch", batch_writes(), methods=["POST"]),
    Route(
        f"{C}/points/payload",
        writes(SetPayload, lambda b: [store.payload_change(b)]),
        methods=["POST"],
    ),
    Route(
        f"{C}/points/payload",
        writes(SetPayload, lambda b: [store.payload_change(b, "overwrite")]),
        methods=["PUT"],
    ),
    Route(f"{C}/points/query", reads(models.QueryRequest, store.query), methods=["POST"]),
    Route(
        f"{C}/points/query/batch",
        reads(models.QueryRequestBatch, store.query_batch),
        methods=["POST"],
    ),
    Route(f"{C}/points/scroll", reads(models.ScrollRequest, store.scroll), methods=["POST"]),
    Route(f"{C}/points/count", reads(models.CountRequest, store.count), methods=["POST"]),
    Route(f"{C}/points/{{id}}", get_point, methods=["GET"]),
]


class ApiKey:
    """Refuses who does not bring the key; an empty key lets everybody in, as Qdrant does."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._key and scope["path"] not in OPEN:
            headers = dict(scope["headers"])
            given = headers.get(b"api-key") or headers.get(b"authorization", b"").removeprefix(
                b"Bearer "
            )
            if not hmac.compare_digest(given, self._key):
                message = "Invalid API key or JWT" if given else "Must provide an API key"
                await PlainTextResponse(message, 401)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def application(directory: Path, key: str) -> Starlette:
    """The server over `directory`."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.collections = Collections(directory)
        await asyncio.to_thread(app.state.collections.load)
        try:
            yield
        finally:
            await asyncio.to_thread(app.state.collections.close)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return refusal(error.status, str(error))

    async def not_supported(request: Request, error: Exception) -> Response:
        return refusal(501, f"the test server does not know {error}")

    async def unknown(request: Request, error: Exception) -> Response:
        return refusal(501, f"the test server does not know {request.method} {request.url.path}")

    return Starlette(
        routes=ROUTES,
        lifespan=lifespan,
        middleware=[Middleware(ApiKey, key=key)],
        exception_handlers={
            404: unknown,
            405: unknown,
            Refused: refused,
            NotSupported: not_supported,
        },
    )


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    app = application(arguments.data, os.environ.get("QDRANT__SERVICE__API_KEY", ""))
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
