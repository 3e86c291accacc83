"""The `aistack` command run in this process, against a transport that the test plays."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from aistack.cli import api, main

Answerer = Callable[[httpx.Request], httpx.Response]


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout, which must be one JSON document."""
        return json.loads(self.out)


@dataclass(slots=True)
class Edge:
    """The front door as the test plays it; every request is kept."""

    answer: Answerer = lambda request: httpx.Response(404)
    requests: list[httpx.Request] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def handle(self, request: httpx.Request) -> httpx.Response:
        """What httpx calls instead of a socket."""
        request.read()
        self.requests.append(request)
        return self.answer(request)

    def bodies(self) -> list[Any]:
        """The JSON of every request."""
        return [json.loads(request.content) for request in self.requests]


def on_empty_shelves(answer: Answerer) -> Answerer:
    """`answer`, but of no document that is asked for by its name."""

    def answers(request: httpx.Request) -> httpx.Response:
        if request.method == "GET" and "source" in request.url.params:
            return httpx.Response(200, json={"data": [], "next_cursor": None})
        return answer(request)

    return answers


@pytest.fixture
def edge(monkeypatch: pytest.MonkeyPatch) -> Edge:
    """A stack at http://stack.test; what it is asked to wait is noted and not waited."""
    played = Edge()
    monkeypatch.setattr(api, "TRANSPORT", httpx.MockTransport(played.handle))
    monkeypatch.setattr("aistack.cli.api.time.sleep", played.waits.append)
    monkeypatch.setenv("AISTACK_URL", "http://stack.test")
    monkeypatch.setenv("AISTACK_API_KEY", "ais_test_key")
    return played


@pytest.fixture
def aistack(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Ended]:
    """`aistack("search", "x")` as typed in a shell; the data directory is an empty one."""
    monkeypatch.setenv("AISTACK_DATA_DIR", str(tmp_path_factory.mktemp("data")))

    def run(*words: str) -> Ended:
        monkeypatch.setattr("sys.argv", ["aistack", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return Ended(code or 0, said.out, said.err)

    return run
