"""Errors whose words may leave the process, and the two shapes they leave in.

    StackError
    ├── BadRequest 400          ├── Overloaded 429
    ├── Unauthorized 401        ├── NotImplementedHere 501
    ├── Forbidden 403           ├── Unavailable 503
    ├── NotFound 404            └── DeadlineExceeded 504
    ├── MethodNotAllowed 405
    ├── Conflict 409
    ├── TooLarge 413
    ├── UnsupportedMedia 415
    └── Unprocessable 422
    StartError                  the start ends: one line on stderr, exit code 78

Everything else that is raised becomes a 500 whose body says nothing but an `error_id`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, ClassVar

import orjson

#: sysexits.h EX_CONFIG; systemd's RestartPreventExitStatus can name it.
EX_CONFIG = 78

PROBLEM_BASE = "urn:aistack:problem:"


class StackError(Exception):
    """An error for the caller. `detail` must be safe to show: no exception text, no paths."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    openai_type: ClassVar[str] = "server_error"
    default_retry_after: ClassVar[float | None] = None

    def __init__(
        self,
        detail: str,
        *,
        retry_after: float | None = None,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = self.default_retry_after if retry_after is None else retry_after
        self.code = code
        self.param = param
        self.headers = headers or {}
        self.members = members


class BadRequest(StackError):
    """The request makes no sense as it is."""

    status = 400
    slug = "bad-request"
    title = "Bad request"
    openai_type = "invalid_request_error"


class Unauthorized(StackError):
    """No key, or one that is not (or no longer) good."""

    status = 401
    slug = "unauthorized"
    title = "A valid API key is needed"
    openai_type = "invalid_request_error"


class Forbidden(StackError):
    """A good key without the scope."""

    status = 403
    slug = "forbidden"
    title = "The key lacks the scope"
    openai_type = "invalid_request_error"


class NotFound(StackError):
    """No such thing."""

    status = 404
    slug = "not-found"
    title = "Not found"
    openai_type = "invalid_request_error"


class MethodNotAllowed(StackError):
    """The path exists, with other methods."""

    status = 405
    slug = "method-not-allowed"
    title = "Method not allowed"
    openai_type = "invalid_request_error"


class Conflict(StackError):
    """The thing is in a state that does not allow this."""

    status = 409
    slug = "conflict"
    title = "Conflict"
    openai_type = "invalid_request_error"


class TooLarge(StackError):
    """The body, or a part of it, is over the limit."""

    status = 413
    slug = "too-large"
    title = "Too large"
    openai_type = "invalid_request_error"


class UnsupportedMedia(StackError):
    """A content type that nothing here reads."""

    status = 415
    slug = "unsupported-media-type"
    title = "Unsupported media type"
    openai_type = "invalid_request_error"


class Unprocessable(StackError):
    """Well formed, and still not acceptable; `errors` names the fields."""

    status = 422
    slug = "unprocessable"
    title = "The request is not valid"
    openai_type = "invalid_request_error"


class Overloaded(StackError):
    """Too much at once; come back."""

    status = 429
    slug = "overloaded"
    title = "Too many requests at once"
    openai_type = "rate_limit_error"
    default_retry_after = 1.0


class NotImplementedHere(StackError):
    """An option that is switched off; the detail names it."""

    status = 501
    slug = "not-implemented"
    title = "Not available here"


class Unavailable(StackError):
    """A dependency is down or not ready; come back."""

    status = 503
    slug = "unavailable"
    title = "A dependency is not available"
    openai_type = "service_unavailable_error"
    default_retry_after = 2.0


class DeadlineExceeded(StackError):
    """Not done within the time allowed."""

    status = 504
    slug = "deadline-exceeded"
    title = "Not done in time"
    openai_type = "timeout_error"
    default_retry_after = 1.0


class StartError(Exception):
    """The start cannot go on; the text is the one line that says why and what to do."""


def error_id() -> str:
    """What joins an answer and its log line."""
    return "err_" + secrets.token_hex(8)


def problem_body(error: StackError, *, identifier: str, instance: str) -> bytes:
    """RFC 9457."""
    body: dict[str, Any] = {
        "type": PROBLEM_BASE + error.slug,
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "instance": instance,
        "error_id": identifier,
    }
    if error.code:
        body["code"] = error.code
    body.update(error.members)
    return orjson.dumps(body)


def openai_body(error: StackError, *, identifier: str) -> bytes:
    """The shape that OpenAI's clients parse."""
    return orjson.dumps(
        {
            "error": {
                "message": error.detail,
                "type": error.openai_type,
                "param": error.param,
                "code": error.code or error.slug.replace("-", "_"),
                "error_id": identifier,
                **error.members,
            }
        }
    )


def render(
    error: StackError, *, identifier: str, path: str, openai: bool
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body of an answer that carries `error`."""
    if openai:
        body, content_type = openai_body(error, identifier=identifier), b"application/json"
    else:
        body = problem_body(error, identifier=identifier, instance=path)
        content_type = b"application/problem+json"
    headers = [
        (b"content-type", content_type),
        (b"content-length", str(len(body)).encode()),
        (b"x-error-id", identifier.encode()),
    ]
    headers += [(name.encode(), value.encode()) for name, value in error.headers.items()]
    if error.retry_after is not None:
        headers.append((b"retry-after", str(max(1, round(error.retry_after))).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="aistack"'))
    return error.status, headers, body
