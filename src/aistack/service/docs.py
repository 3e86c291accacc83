"""The API pages of a service under `/docs/<service>`, and the examples in them.

The page and its assets are open, since they say nothing; `openapi.json` is behind a key with the
scope `openapi.read`, and the page asks for one. Everything is served from this package: no CDN,
no file system path is ever made from a request.
"""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi

from aistack.service.errors import Forbidden, NotFound
from aistack.service.keys import Principal
from aistack.stack import load_stack

SCOPE = "openapi.read"

#: Name below `assets/` → file below `static/` and its type. What is not here does not exist.
ASSETS = {
    "api.js": ("api.js", "text/javascript; charset=utf-8"),
    "api.css": ("api.css", "text/css; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
    "swagger-ui-bundle.js": (
        "swagger-ui/swagger-ui-bundle.js",
        "text/javascript; charset=utf-8",
    ),
    "swagger-ui.css": ("swagger-ui/swagger-ui.css", "text/css; charset=utf-8"),
    "LICENSE.txt": ("swagger-ui/LICENSE", "text/plain; charset=utf-8"),
}

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",  # the viewer's stylesheet carries its arrows as data: images
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}

#: The JSON body in an example.
_SENT = re.compile(r"-d '(\{.*\})'", re.DOTALL)

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that is served as it is; `tag` is its strong ETag."""

    content: bytes
    media_type: str
    tag: str


def example(route: dict[str, Any], curl: str) -> dict[str, Any]:
    """The keyword arguments of a route, as `scope(…)` gives them, with a curl command that works.

    The command reads the address and the key from AISTACK_URL and AISTACK_API_KEY. It goes into
    the document as `x-codeSamples` and into the text that the page shows; a test runs it.
    """
    sample = {"lang": "Shell", "label": "curl", "source": curl.strip()}
    extra = {**route.get("openapi_extra", {}), "x-codeSamples": [sample]}
    return {**route, "openapi_extra": extra}


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of `app`: key scheme, server, scopes and examples in the text."""
    schema = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
        servers=[{"url": "/"}],
    )
    schemes = schema.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["key"] = {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, as `aistack keys create` makes it.",
    }
    for path in schema.get("paths", {}).values():
        for operation in path.values():
            operation.setdefault("tags", [app.title.removeprefix("aistack ")])
            _describe(operation)
            _only_our_errors(operation)
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"].get("schemas", {}).pop(name, None)
    return schema


def _describe(operation: dict[str, Any]) -> None:
    """Scope and example as text: the viewer shows descriptions, not extensions."""
    parts = [operation.get("description", "")]
    if name := operation.get("x-scope"):
        parts.append(f"Scope of the key: `{name}`.")
    for sample in operation.get("x-codeSamples", []):
        parts.append(f"```sh\n{sample['source']}\n```")
        body = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if body is not None and (sent := _SENT.search(sample["source"])):
            # The viewer's form begins with what works instead of with "string".
            body["example"] = orjson.loads(sent[1])
    operation["description"] = "\n\n".join(part for part in parts if part)


def _only_our_errors(operation: dict[str, Any]) -> None:
    """Drop the framework's own 422: the kit answers none of that shape."""
    content = operation["responses"].get("422", {}).get("content", {})
    if "HTTPValidationError" in str(content.get("application/json", {}).get("schema", {})):
        del operation["responses"]["422"]


def mount(app: FastAPI, service: str) -> None:
    """Add the page, its assets and the document of `service` to `app`."""
    base = f"/docs/{service}"
    page = _made(_page(service, base), "text/html; charset=utf-8")
    for path in (base, base + "/"):
        app.add_route(path, _serving(page, "no-cache"), include_in_schema=False)
    app.add_route(f"{base}/assets/{{name:path}}", _asset, include_in_schema=False)
    app.add_route(f"{base}/openapi.json", _openapi(app), include_in_schema=False)


def _openapi(app: FastAPI) -> Handler:
    made: list[Asset] = []

    async def openapi(request: Request) -> Response:
        principal: Principal | None = getattr(request.state, "principal", None)
        if principal is None or SCOPE not in principal.scopes:
            raise Forbidden(f"This key lacks the scope `{SCOPE}`.", scope=SCOPE)
        if not made:
            made.append(_made(orjson.dumps(document(app)), "application/json"))
        return _respond(request, made[0], "private, no-cache")

    return openapi


async def _asset(request: Request) -> Response:
    found = assets().get(request.path_params["name"])
    if found is None:
        raise NotFound("There is no such file.")
    # Revalidated by its tag, so that an upgrade shows at once and a reload costs 304s.
    return _respond(request, found, "public, no-cache")


@cache
def assets() -> dict[str, Asset]:
    """Every asset, read once."""
    static = files("aistack.service").joinpath("static")
    return {
        name: _made(static.joinpath(path).read_bytes(), media_type)
        for name, (path, media_type) in ASSETS.items()
    }


def _page(service: str, base: str) -> bytes:
    template = files("aistack.service").joinpath("static/api.html").read_text(encoding="utf-8")
    stack = load_stack()
    here = ' aria-current="page"'
    links = "".join(
        f'<a href="{html.escape(entry.docs_path)}"{here if name == service else ""}>'
        f"{html.escape(name)}</a>"
        for name, entry in stack.services.items()
    )
    for name, value in (
        ("service", html.escape(service)),
        ("base", html.escape(base)),
        ("summary", html.escape(stack.services[service].summary)),
        ("links", links),
    ):
        template = template.replace("{{" + name + "}}", value)
    return template.encode()


def _serving(asset: Asset, cache_control: str) -> Handler:
    async def serve(request: Request) -> Response:
        return _respond(request, asset, cache_control)

    return serve


def _made(content: bytes, media_type: str) -> Asset:
    return Asset(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def _respond(request: Request, asset: Asset, cache_control: str) -> Response:
    """The asset, or 304 where the client has it (RFC 9110 §13.1.2)."""
    headers = {**_HEADERS, "etag": asset.tag, "cache-control": cache_control}
    known = {tag.strip().removeprefix("W/") for tag in
             request.headers.get("if-none-match", "").split(",")}  # fmt: skip
    if asset.tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(asset.content, media_type=asset.media_type, headers=headers)
