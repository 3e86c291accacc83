"""A small HTTP client and the frame of a check."""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


class CheckError(Exception):
    """The stack did not do what it must; one line."""


@dataclass(frozen=True)
class Answer:
    """One answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON; raises CheckError when it is none."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise CheckError(f"status {self.status} with a body that is no JSON: {self}") from error

    def __str__(self) -> str:
        return f"{self.status} {self.body[:400].decode('utf-8', 'replace')}"


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket's path."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass
class Client:
    """Where the stack is and how we show ourselves; a connection for each request, or kept."""

    base_url: str
    key: str | None = None
    context: ssl.SSLContext | None = None
    timeout: float = 120.0
    keep: bool = False
    _kept: http.client.HTTPConnection | None = field(default=None, repr=False)

    def connection(self) -> http.client.HTTPConnection:
        """A new connection, not yet made."""
        parts = urlsplit(self.base_url)
        if parts.scheme == "unix":
            return UnixConnection(parts.path, self.timeout)
        host = parts.hostname or ""
        if parts.scheme == "https":
            return http.client.HTTPSConnection(
                host, parts.port or 443, timeout=self.timeout, context=self.context
            )
        return http.client.HTTPConnection(host, parts.port or 80, timeout=self.timeout)

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request; `body` is sent as JSON, `key` replaces ours ("" sends none)."""
        sent = {"accept": "application/json", **(headers or {})}
        shown = self.key if key is None else key
        if shown:
            sent["authorization"] = f"Bearer {shown}"
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            sent["content-type"] = "application/json"
        if not self.keep:
            sent["connection"] = "close"
        connection = self._kept or self.connection()
        self._kept = None
        try:
            connection.request(method, path, data, sent)
            response = connection.getresponse()
            answer = Answer(
                response.status,
                {name.lower(): value for name, value in response.getheaders()},
                response.read(),
            )
            if self.keep and not response.will_close:
                self._kept = connection
                return answer
        except BaseException:
            connection.close()
            raise
        connection.close()
        return answer

    def expect(self, status: int, method: str, path: str, body: object = None) -> Any:
        """The JSON of an answer that must have this status."""
        answer = self.request(method, path, body)
        if answer.status != status:
            raise CheckError(f"{method} {path}: {status} was expected, it is {answer}")
        return answer.json() if answer.body else None


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every check has."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--base-url", required=True, help="https://host[:port], or unix:///path")
    made.add_argument("--key-file", type=Path, help="a file with a key")
    made.add_argument("--ca", type=Path, help="certificates to trust, PEM")
    made.add_argument("--insecure", action="store_true", help="trust any certificate")
    return made


def client(asked: argparse.Namespace) -> Client:
    """What the options say."""
    context = ssl.create_default_context(cafile=str(asked.ca) if asked.ca else None)
    if asked.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    key = asked.key_file.read_text(encoding="utf-8").strip() if asked.key_file else None
    return Client(asked.base_url, key, context)


def until(what: Callable[[], bool], seconds: float, complaint: Callable[[], str]) -> None:
    """Ask again until it is so; CheckError with `complaint()` after `seconds`."""
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise CheckError(f"after {seconds:g} s: {complaint()}")
        time.sleep(0.25)


def run(check: Callable[[], str]) -> None:
    """The check as a program: one line either way."""
    try:
        line = check()
    except CheckError as error:
        sys.exit(f"{sys.argv[0]}: {error}")
    print(line)
