"""The front door over HTTP, as any user has it: retries that the server asks for, errors as words.

429 and 503 mean that the request was not taken; it is sent again after `Retry-After` until
`patience` is used up. A connection that breaks is only tried again where the caller says that the
request may be repeated.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from aistack import __version__
from aistack.cli.errors import CliError, Failed, Refused, Unreachable

#: Seconds without a byte before a request counts as lost; answers of a model on a CPU are slow.
READ_SECONDS = 180.0
_LONGEST_WAIT = 30.0


@dataclass(frozen=True, slots=True)
class Problem:
    """An error answer, read from problem+json or from OpenAI's shape."""

    status: int
    message: str
    error_id: str | None

    def error(self) -> CliError:
        """As what the command ends with."""
        if self.status == 401:
            return Refused(
                f"the key was not accepted: {self.message}",
                status=self.status,
                error_id=self.error_id,
                fix="give a valid one with --key-file or in AISTACK_API_KEY; "
                "`aistack keys list` shows them",
            )
        if self.status == 403:
            return Refused(
                f"the key may not do this: {self.message}",
                status=self.status,
                error_id=self.error_id,
                fix="use a key with the scope (`aistack keys create --scope …`)",
            )
        return Failed(self.message, status=self.status, error_id=self.error_id)


def read_problem(status: int, body: Any) -> Problem:
    """The words of an error body; of its status alone where the body is not ours."""
    message = error_id = None
    if isinstance(body, dict):
        inner = body.get("error")
        source = inner if isinstance(inner, dict) else body
        message = source.get("message") or source.get("detail") or source.get("title")
        error_id = source.get("error_id") or body.get("error_id")
        faults = source.get("errors")
        if isinstance(faults, list):
            # The detail may be the first of them already.
            more = [words for fault in faults[:3] if (words := _fault(fault)) not in str(message)]
            message = f"{message} ({'; '.join(more)})" if more else message
    return Problem(
        status=status,
        message=str(message or f"the server answered HTTP {status}"),
        error_id=str(error_id) if error_id else None,
    )


def _fault(fault: Any) -> str:
    if not isinstance(fault, dict):
        return str(fault)
    where = fault.get("loc") or fault.get("field") or ""
    path = ".".join(map(str, where)) if isinstance(where, list) else str(where)
    what = fault.get("msg") or fault.get("message") or fault.get("detail") or ""
    return f"{path}: {what}" if path else str(what)


class Api:
    """A synchronous client; safe to share between threads."""

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        patience: float = 10.0,
        note: Callable[[str], None] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.base_url = base_url
        self.patience = patience
        self._note = note
        self._client = httpx.Client(
            base_url=base_url,
            headers={
                "authorization": f"Bearer {key}",
                "user-agent": f"aistack-cli/{__version__}",
                "accept": "application/json",
            },
            timeout=httpx.Timeout(READ_SECONDS, connect=5.0),
            transport=transport or TRANSPORT,
            # A proxy of the environment is not on the way to a stack on this machine; the
            # certificates that the user trusts (SSL_CERT_FILE) count there too.
            trust_env=not _is_local(base_url),
            verify=httpx.create_ssl_context() if base_url.startswith("https:") else True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def json(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        repeat: bool = False,
    ) -> Any:
        """The answer's JSON, None for an empty one. Raises CliError with the server's words."""
        return self.send(method, path, params=params, json=body, repeat=repeat)[1]

    def send(
        self, method: str, path: str, *, repeat: bool = False, **request: Any
    ) -> tuple[int, Any]:
        """Status and JSON of a good answer; `repeat` allows to send again after a broken one."""
        for wait in self._waits():
            with self._connection(wait if repeat else None) as lost:
                response = self._client.request(method, path, **request)
            if lost.again:
                continue
            if response.status_code in {429, 503} and wait(_retry_after(response)):
                continue
            body = _body(response)
            if response.is_success:
                return response.status_code, body
            raise read_problem(response.status_code, body).error()
        raise AssertionError("unreachable")  # pragma: no cover

    @contextmanager
    def stream(self, method: str, path: str, *, body: Any) -> Iterator[httpx.Response]:
        """A good answer whose body is still to be read; a broken body raises httpx's errors."""
        for wait in self._waits():
            request = self._client.build_request(method, path, json=body)
            with self._connection(None):
                response = self._client.send(request, stream=True)
            try:
                if response.is_success:
                    yield response
                    return
                with self._connection(None):
                    response.read()
            finally:
                response.close()
            if response.status_code in {429, 503} and wait(_retry_after(response)):
                continue
            raise read_problem(response.status_code, _body(response)).error()

    def pages(self, path: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Every record of a list that is cut into pages by `next_cursor`."""
        cursor: str | None = None
        while True:
            page = self.json(
                "GET", path, params={**params, **({"cursor": cursor} if cursor else {})},
                repeat=True,
            )  # fmt: skip
            yield from page["data"]
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def _waits(self) -> Iterator[Callable[[float | None], bool]]:
        """One waiter per attempt; it returns False when patience is used up."""
        deadline = time.monotonic() + self.patience
        attempt = 0
        told = False

        def wait(asked: float | None) -> bool:
            nonlocal told
            pause = min(asked if asked is not None else 0.25 * 2**attempt, _LONGEST_WAIT)
            # Jitter above what was asked, never below it: many clients, one server.
            pause *= 1 + 0.2 * random.random()
            if time.monotonic() + pause > deadline:
                return False
            if self._note and not told and pause >= 1:
                self._note(f"{self.base_url} asks to wait; trying again for {self.patience:.0f} s")
                told = True
            time.sleep(pause)
            return True

        while True:
            yield wait
            attempt += 1

    @contextmanager
    def _connection(self, wait: Callable[[float | None], bool] | None) -> Iterator[_Lost]:
        """Turn a lost connection into another attempt, or into what the command ends with."""
        lost = _Lost()
        try:
            yield lost
        except httpx.ConnectError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise Unreachable(
                    f"the certificate of {self.base_url} is not trusted here",
                    fix="name the file that makes it so: SSL_CERT_FILE=certificate.pem",
                ) from error
            if wait is not None and wait(None):
                lost.again = True
                return
            raise Unreachable(
                f"nothing answers at {self.base_url}",
                fix="start the stack with `aistack up`, or name another with --url",
            ) from error
        except httpx.TimeoutException as error:
            raise Unreachable(
                f"{self.base_url} did not answer in time", fix="see `aistack status`"
            ) from error
        except httpx.TransportError as error:
            if wait is not None and wait(None):
                lost.again = True
                return
            raise Unreachable(
                f"the connection to {self.base_url} broke ({type(error).__name__})",
                fix="see `aistack status` and try again",
            ) from error


class _Lost:
    again = False


#: None is httpx's own; tests put a transport here to stand at the edge of the process.
TRANSPORT: httpx.BaseTransport | None = None


def _is_local(url: str) -> bool:
    return httpx.URL(url).host in {"127.0.0.1", "localhost", "::1"}


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds that the server asks for (RFC 9110 §10.2.3; our services send seconds)."""
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def _body(response: httpx.Response) -> Any:
    if not response.content:
        return None
    try:
        return response.json()
    except ValueError:
        if response.is_success:
            raise Failed(
                "the answer is not JSON: is this the address of an aistack?",
                status=response.status_code,
            ) from None
        return None
