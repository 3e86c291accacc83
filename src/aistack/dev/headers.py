"""What of a request's and an answer's headers crosses the front door."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, MutableMapping
from typing import Any

from aistack.service.errors import BadRequest, NotImplementedHere

Scope = MutableMapping[str, Any]
Headers = list[tuple[bytes, bytes]]

#: RFC 9110 §7.6.1, and what only makes sense on one connection.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"expect",
    }
)
#: Said by this door, or between the services behind it, and by nobody before it.
_OURS = frozenset(
    {
        b"x-request-id",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"forwarded",
        b"x-aistack-key-id",
    }
)
#: Meant for the other end, whatever a Connection header says (RFC 9110 §7.6.1 forbids naming them).
_END_TO_END = frozenset(
    {b"host", b"content-length", b"content-type", b"content-encoding", b"authorization"}
)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


def request_headers(scope: Scope, identifier: bytes) -> Headers:
    """What the service is told. Raises BadRequest where nobody says which host is meant."""
    headers: Headers = scope["headers"]
    dropped = _dropped(headers)
    chunked = is_chunked(headers)
    if chunked:
        dropped |= {b"content-length"}  # RFC 9112 §6.3: the framing that wins is the only one
    kept = [(name, value) for name, value in headers if name not in dropped]
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and scope.get("http_version") != "1.0"):
        raise BadRequest("A request has one Host header.")
    if not hosts:
        kept.append((b"host", b"localhost"))  # HTTP/1.0 knows none, and we ask with 1.1
    kept.append((b"x-request-id", identifier))
    kept.append((b"x-forwarded-proto", b"http"))
    kept.extend((b"x-forwarded-host", host) for host in hosts)
    if client := scope.get("client"):
        kept.append((b"x-forwarded-for", str(client[0]).encode()))
    if chunked:
        kept.append((b"transfer-encoding", b"chunked"))
    return kept


def response_headers(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """What the client is told."""
    lowered = [(name.lower(), value) for name, value in headers]
    dropped = _dropped(lowered) | {b"date", b"server"}
    return [(name, value) for name, value in lowered if name not in dropped]


def is_chunked(headers: Headers) -> bool:
    """Whether the body comes in chunks. Raises NotImplementedHere for any other coding."""
    codings = _words(headers, b"transfer-encoding")
    if codings in ([], [b"chunked"]):
        return bool(codings)
    raise NotImplementedHere("Of transfer codings only `chunked` is understood.")


def first(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    """The value of the first header `wanted` (in lower case)."""
    return next((value for name, value in headers if name == wanted), None)


def request_id(headers: Headers) -> bytes:
    """The client's where it is a decent one, else a new one."""
    given = first(headers, b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return secrets.token_hex(16).encode()


def _dropped(headers: Headers) -> frozenset[bytes]:
    named = frozenset(_words(headers, b"connection")) - _END_TO_END
    return _HOP_BY_HOP | _OURS | named


def _words(headers: Headers, wanted: bytes) -> list[bytes]:
    """The comma-separated words of every header `wanted`, in lower case."""
    joined = b",".join(value for name, value in headers if name == wanted)
    return [word for part in joined.split(b",") if (word := part.strip().lower())]
