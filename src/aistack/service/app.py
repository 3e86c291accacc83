"""The app factory: what a service is made of, and what the kit puts around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from aistack import __version__
from aistack.config import Config
from aistack.service import docs, middleware
from aistack.service.context import caller_key
from aistack.service.errors import (
    BadRequest,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    Unprocessable,
)
from aistack.service.keys import KeyStore, Principal
from aistack.service.lifecycle import Runtime
from aistack.service.plain_route import plain
from aistack.service.readiness import Need, Readiness, summary
from aistack.stack import Limits, ServiceEntry, load_stack

__all__ = ["Need", "Runtime", "Service", "build", "caller", "scope", "service_router"]


async def _nothing() -> None:
    return


@dataclass(slots=True)
class Service:
    """What a service package gives to the kit; made by its `create(config)`."""

    name: str
    router: APIRouter
    #: Does the real work once (loads the model, opens pools); READY=1 follows its return.
    start: Callable[[Runtime], Awaitable[None]]
    stop: Callable[[], Awaitable[None]] = _nothing
    needs: Sequence[Need] = ()
    #: Counters of workers; each must advance within a third of the watchdog's time, idle too.
    heartbeats: Sequence[Callable[[], int]] = ()
    description: str = ""
    tags: list[dict[str, Any]] = field(default_factory=list)


_COMMON = {
    400: "The request makes no sense",
    401: "No valid key",
    403: "The key lacks the scope",
    413: "The body is too large",
    422: "The request is not valid",
    429: "Too many requests at once; `Retry-After` says when to come back",
    500: "An internal error, without its text; `error_id` is in the log",
    503: "A dependency is down or the service is starting; `Retry-After` says when to come back",
    504: "Not done in time",
}

_PROBLEM_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "error_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "error_id": {"type": "string"},
    },
}
_OPENAI_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code", "error_id"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
                "error_id": {"type": "string"},
            },
        }
    },
}


def scope(name: str, *, openai: bool = False, also: dict[int, str] | None = None) -> dict[str, Any]:
    """Keyword arguments of a route: the scope it needs and the errors it documents.

    `also` names further error statuses, such as `{404: "No such document"}`.
    """
    content = (
        {"application/json": {"schema": _OPENAI_SCHEMA}}
        if openai
        else {"application/problem+json": {"schema": _PROBLEM_SCHEMA}}
    )
    described = {**_COMMON, **(also or {})}
    if openai:
        # OpenAI's API knows no 422: what is not valid is a 400 there.
        del described[422]
    return {
        "openapi_extra": {"x-scope": name, "security": [{"key": []}]},
        "responses": {
            status: {"description": text, "content": content}
            for status, text in sorted(described.items())
        },
    }


class ScopedRoute(APIRoute):
    """A route whose scope is checked before its body is read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = plain(self, super().get_route_handler())
        wanted = (self.openapi_extra or {}).get("x-scope")
        if not isinstance(wanted, str):
            raise TypeError(f"{self.path}: a route without a scope; use **scope(…)")

        async def check(request: Request) -> Response:
            principal: Principal | None = getattr(request.state, "principal", None)
            if principal is None or wanted not in principal.scopes:
                raise Forbidden(f"This key lacks the scope `{wanted}`.", scope=wanted)
            return await handler(request)

        return check


def service_router() -> APIRouter:
    """The router of a service; every route on it needs a scope."""
    return APIRouter(route_class=ScopedRoute)


def caller(request: Request) -> str:
    """The id of the key on whose behalf the request runs; goes with every write."""
    found = caller_key.get()
    if found is None:
        raise Forbidden("This needs a key.")
    return found


def build(service: Service, config: Config, runtime: Runtime) -> FastAPI:
    """The application of `service`, everything on its default path."""
    entry = load_stack().services[service.name]
    limits = effective_limits(entry, config)
    keys = KeyStore(config.auth.keys_file, config.auth.pepper_file)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with runtime.running(service.start, service.stop, service.heartbeats):
            yield

    app = FastAPI(
        title=f"aistack {service.name}",
        version=__version__,
        description=service.description or entry.summary,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        openapi_tags=service.tags or None,
        lifespan=lifespan,
        # A redirect would repeat the client's Host; the path without the slash is the only one.
        redirect_slashes=False,
        # RequestContext does this; the framework's own spans would carry paths and query strings.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    for route in service.router.routes:
        if not isinstance(route, ScopedRoute):
            raise TypeError(f"{route}: not made by service_router(), so nothing guards it")
        if (route.openapi_extra or {}).get("x-scope") not in entry.scopes:
            raise TypeError(f"{route.path}: its scope is not among stack.toml's for {entry.name}")
    # As they are: a router that is included is asked for its match as well as each of its routes.
    app.router.routes.extend(service.router.routes)
    docs.mount(app, entry.name)
    _probes(app, service, runtime)
    _errors(app, entry)
    app.add_middleware(
        middleware.Gate,
        started=runtime.wait_started,
        status=lambda: runtime.progress,
        hold_seconds=config.limits.hold_seconds,
    )
    app.add_middleware(middleware.LimitRequests, limits=limits)
    app.add_middleware(middleware.Authenticate, keys=keys, entry=entry)
    app.add_middleware(middleware.Errors, entry=entry, draining=lambda: runtime.draining)
    app.add_middleware(middleware.RequestContext, draining=lambda: runtime.draining)
    return app


def effective_limits(entry: ServiceEntry, config: Config) -> Limits:
    """stack.toml's limits under the overrides of this configuration."""
    given = config.limits.model_dump(exclude_none=True, exclude={"hold_seconds"})
    return entry.limits.model_copy(update=given)


def _probes(app: FastAPI, service: Service, runtime: Runtime) -> None:
    readiness = Readiness(service.needs)

    async def livez(_request: Request) -> Response:
        return Response("ok\n", media_type="text/plain")

    async def readyz(_request: Request) -> Response:
        states = await readiness.states() if runtime.started else []
        code, body = summary(
            states, started=runtime.started, draining=runtime.draining, progress=runtime.progress
        )
        body = {
            "service": service.name,
            "version": __version__,
            "uptime_seconds": round(runtime.uptime(), 1),
            **body,
        }
        headers = {} if code == 200 else {"retry-after": "2"}
        return Response(
            orjson.dumps(body), status_code=code, media_type="application/json", headers=headers
        )

    async def metrics(_request: Request) -> Response:
        body = await asyncio.to_thread(generate_latest)
        return Response(body, headers={"content-type": CONTENT_TYPE_LATEST})

    app.add_route("/livez", livez, include_in_schema=False)
    app.add_route("/readyz", readyz, include_in_schema=False)
    app.add_route("/metrics", metrics, include_in_schema=False)


def _errors(app: FastAPI, entry: ServiceEntry) -> None:
    """Turns the framework's own errors into ours; the Errors middleware answers them."""

    async def http_exception(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            raise NotFound("There is nothing at this path.") from error
        if error.status_code == 405:
            raise MethodNotAllowed("This path has other methods.", headers=error.headers) from error
        raise BadRequest("The request cannot be read.") from error

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        if any(fault["type"] == "json_invalid" for fault in error.errors()):
            raise BadRequest("The body is not valid JSON.") from None
        # The given values are not repeated: they may be secrets, or ten megabytes.
        faults = [
            {"field": ".".join(str(part) for part in fault["loc"])[:200], "message": fault["msg"]}
            for fault in error.errors()[:20]
        ]
        first = faults[0]
        detail = f"{first['field']}: {first['message']}"[:500]
        if entry.speaks_openai(request.url.path):
            raise BadRequest(detail, param=first["field"].removeprefix("body.")) from None
        raise Unprocessable(detail, errors=faults) from None

    app.add_exception_handler(HTTPException, http_exception)
    app.add_exception_handler(RequestValidationError, invalid)
