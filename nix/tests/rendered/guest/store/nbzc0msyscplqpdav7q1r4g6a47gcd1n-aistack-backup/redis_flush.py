"""Empty a Redis: `unix:///path`, `redis://host:port/db` or `rediss://…` (TLS)."""

from __future__ import annotations

import socket
import ssl
from urllib.parse import parse_qs, urlsplit

from settings import Refused

SECONDS = 10


def flush(url: str, password: str = "") -> None:
    """FLUSHDB. Raises Refused when it did not happen."""
    parts = urlsplit(url)
    commands: list[list[str]] = []
    try:
        if parts.scheme == "unix":
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(SECONDS)
            connection.connect(parts.path)
            number = parse_qs(parts.query).get("db", ["0"])[0]
        else:
            host, port = parts.hostname or "localhost", parts.port or 6379
            connection = socket.create_connection((host, port), timeout=SECONDS)
            if parts.scheme == "rediss":
                connection = ssl.create_default_context().wrap_socket(
                    connection, server_hostname=host
                )
            number = parts.path.lstrip("/") or "0"
        if password:
            commands.append(["AUTH", password])
        commands += [["SELECT", number], ["FLUSHDB"]]
        with connection, connection.makefile("rb") as answers:
            for command in commands:
                connection.sendall(_encoded(command))
                answer = answers.readline().decode(errors="replace").strip()
                if answer != "+OK":
                    raise Refused(f"Redis refuses {command[0]}: {answer or 'no answer'}")
    except OSError as error:
        raise Refused(
            f"Redis cannot be emptied ({error}), and old searches in it would be wrong: start it"
        ) from error


def _encoded(command: list[str]) -> bytes:
    words = [word.encode() for word in command]
    return b"".join(
        [b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)]
    )
