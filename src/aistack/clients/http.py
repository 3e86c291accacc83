"""HTTP to the other services and servers, over unix sockets or TCP, under a `Dependency`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import orjson

from aistack.clients.resilience import Dependency, Transient
from aistack.service.context import caller_key, request_id
from aistack.service.errors import (
    BadRequest,
    Conflict,
    NotFound,
    NotImplementedHere,
    Overloaded,
    StackError,
    TooLarge,
    Unavailable,
    Unprocessable,
    UnsupportedMedia,
)
from aistack.service.tracing import outgoing_headers

READY_SECONDS = 2.0

#: Answers of a dependency that a later attempt may better.
_TRANSIENT = frozenset({502, 503, 504})
_REFUSALS: Mapping[int, type[StackError]] = {
    400: BadRequest,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    415: UnsupportedMedia,
    422: Unprocessable,
    429: Overloaded,
}


class PeerClient:
    """One HTTP dependency. `address` is `unix:/path/to.sock` or `http://host:port`.

    The request id, the trace context, the caller's key id and our internal key go along.
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        key: str | None = None,
        timeout: float = 30.0,
        attempts: int = 3,
        concurrency: int = 64,
        keepalive: bool = True,
        dependency: Dependency | None = None,
    ) -> None:
        self.name = name
        self.dependency = dependency or Dependency(
            name,
            timeout=timeout,
            transient=(httpx.TransportError,),
            attempts=attempts,
            concurrency=concurrency,
        )
        limits = httpx.Limits(
            max_connections=concurrency + 4, max_keepalive_connections=16 if keepalive else 0
        )
        transport, base = _transport(address, limits)
        self._client = httpx.AsyncClient(
            transport=transport,
            base_url=base,
            headers={"authorization": f"Bearer {key}"} if key else {},
            # The guard's deadline bounds the whole; this one bounds only the connecting.
            timeout=httpx.Timeout(None, connect=5.0),
            trust_env=False,
        )

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        retry: bool = False,
        timeout: float | None = None,
        operation: str | None = None,
    ) -> httpx.Response:
        """One exchange. Raises a StackError for anything but a 2xx."""

        async def send() -> httpx.Response:
            response = await self._client.send(self._build(method, path, json, params))
            self._check(response)
            return response

        return await self.dependency.call(
            operation or f"{method} {path}", send, retry=retry, timeout=timeout
        )

    async def request_json(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        retry: bool = False,
        timeout: float | None = None,
        operation: str | None = None,
    ) -> Any:
        """The decoded JSON body of one exchange."""
        response = await self.request(
            method,
            path,
            json=json,
            params=params,
            retry=retry,
            timeout=timeout,
            operation=operation,
        )
        try:
            return orjson.loads(response.content)
        except orjson.JSONDecodeError as error:
            raise Unavailable(f"{self.name} gave an answer that cannot be read.") from error

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        timeout: float | None = None,
        operation: str | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """An answer whose body is read as it comes; `timeout` bounds the whole stream."""
        async with self.dependency.guard(operation or f"{method} {path}", timeout=timeout):
            response = await self._client.send(self._build(method, path, json, None), stream=True)
            try:
                if response.status_code >= 300:
                    await response.aread()
                self._check(response)
                yield response
            finally:
                await response.aclose()

    async def ready(self) -> bool:
        """Whether it answers, and not that it is still starting: for waiting until it has started.

        Outside the guard: that a service is not there yet says nothing about how it will answer,
        and must not open the breaker.
        """
        try:
            response = await self._client.get("/readyz", timeout=READY_SECONDS)
        except httpx.TransportError:
            return False
        # Not 200 alone: over TCP the probes of a service may be refused to us.
        return response.status_code not in _TRANSIENT

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    def _build(
        self, method: str, path: str, json: Any, params: Mapping[str, Any] | None
    ) -> httpx.Request:
        headers = outgoing_headers()
        if (found := request_id.get()) is not None:
            headers["x-request-id"] = found
        if (found := caller_key.get()) is not None:
            headers["x-aistack-key-id"] = found
        content = None
        if json is not None:
            content = orjson.dumps(json, option=orjson.OPT_SERIALIZE_NUMPY)
            headers["content-type"] = "application/json"
        return self._client.build_request(
            method, path, content=content, params=params, headers=headers
        )

    def _check(self, response: httpx.Response) -> None:
        status = response.status_code
        if status < 300:
            return
        retry_after = _retry_after(response)
        if status in _TRANSIENT:
            raise Transient(f"status {status}", retry_after=retry_after)
        if status == 501 and (detail := _detail(response)) is not None:
            # An option of our own that is switched off there; a foreign server's 501 is a fault.
            raise NotImplementedHere(detail)
        if (refusal := _REFUSALS.get(status)) is not None:
            detail = _detail(response) or f"{self.name} refused the request ({status})."
            raise refusal(detail, retry_after=retry_after)
        # 401 and 403 mean that our own key is bad there, 5xx that it is broken: not the caller's.
        raise Transient(f"status {status}", again=False)


def _transport(address: str, limits: httpx.Limits) -> tuple[httpx.AsyncHTTPTransport, str]:
    if address.startswith("unix:"):
        path = address.removeprefix("unix:").removeprefix("//")
        return httpx.AsyncHTTPTransport(uds=path, limits=limits), "http://localhost"
    return httpx.AsyncHTTPTransport(limits=limits), address


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdigit() else None


def _detail(response: httpx.Response) -> str | None:
    """The words of our own services' errors; a foreign server's are not passed on."""
    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(body, dict):
        return None
    if isinstance(body.get("error_id"), str) and isinstance(body.get("detail"), str):
        return str(body["detail"])
    error = body.get("error")
    if isinstance(error, dict) and isinstance(error.get("error_id"), str):
        return str(error.get("message"))
    return None
