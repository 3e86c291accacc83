"""nginx in front of real services: keys, streams, restarts under load, limits, certificates."""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from aistack.service.key_setup import KeyPaths, init_store
from aistack.service.keys import make_token
from aistack.stack import load_stack
from fix_site import Activated, Site, running
from fix_stack import RunningStack
from nix.debian import Prefix
from nix.toolchain import Nix

TESTS = Path(__file__).resolve().parents[1]
RESTARTS = 10

#: A small service on the real kit, in its own process: what drains is the kit, not its routes.
SERVICE = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from fix_kit import make
from aistack.service import run
run.create = lambda module, config: make()
sys.exit(run.serve("embeddings", Path({config!r})))
"""


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    # Not pytest's own: the path of a unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ais-") as made:
        yield Path(made)


@pytest.fixture(scope="module")
def keys(directory: Path) -> KeyPaths:
    return init_store(directory / "keys", load_stack())


@pytest.fixture(scope="module")
def site(nix_tool: Nix, nginx_prefix: Prefix, directory: Path) -> Iterator[Site]:
    """Without a limit per key: one client asks as fast as it can."""
    (directory / "run").mkdir()
    module = "{ services.aistack.nginx.limits.perKey.enable = false; }"
    with running(nix_tool, nginx_prefix, directory, directory / "run", module) as started:
        yield started


@pytest.fixture
def service(site: Site, keys: KeyPaths) -> Iterator[Activated]:
    config = site.directory / "config.json"
    auth = {"keys_file": str(keys.keys_file), "pepper_file": str(keys.pepper_file)}
    config.write_text(json.dumps({"auth": auth}), encoding="utf-8")
    code = SERVICE.format(tests=str(TESTS), config=str(config))
    with Activated.listening_at(site.sockets / "embeddings.sock", code) as made:
        yield made
        made.stop()


async def test_ten_restarts_under_load_fail_no_request(
    site: Site, service: Activated, keys: KeyPaths
) -> None:
    answers: Counter[tuple[str, int]] = Counter()
    failed: list[str] = []
    done = asyncio.Event()
    key = keys.default_key_file.read_text().strip()
    async with httpx.AsyncClient(
        base_url=f"https://localhost:{site.https}", verify=site.context(), timeout=60,
        headers={"authorization": f"Bearer {key}"},
    ) as client:  # fmt: skip

        async def ask(method: str) -> None:
            while not done.is_set():
                body = {"number": 1} if method == "POST" else None
                path = "/embed" if method == "POST" else "/docs/embeddings/openapi.json"
                response = await client.request(method, path, json=body)
                answers[method, response.status_code] += 1
                if response.status_code != 200:
                    failed.append(response.text)

        service.start()
        asking = [asyncio.create_task(ask(method)) for method in ["POST"] * 6 + ["GET"] * 2]
        try:
            for _ in range(RESTARTS):
                before = answers.total()
                while answers.total() < before + 20:  # the load has reached this process
                    await asyncio.sleep(0.01)
                    assert not any(task.done() for task in asking), failed
                await asyncio.to_thread(service.stop)
                service.start()
            done.set()
            await asyncio.gather(*asking)
        finally:
            for task in asking:
                task.cancel()
    assert failed == []
    assert answers["POST", 200] > 20 * RESTARTS / 2
    assert answers["GET", 200] > 0


def test_client_that_comes_before_the_service_is_answered(
    site: Site, keys: KeyPaths, service: Activated
) -> None:
    began = time.monotonic()
    service.start()  # nobody listens yet: the connection waits in the socket's queue
    with site.client(headers=_bearer(keys)) as client:
        assert client.post("/embed", json={"number": 1}).status_code == 200
    assert time.monotonic() - began < 30


def _bearer(keys: KeyPaths) -> dict[str, str]:
    return {"authorization": f"Bearer {keys.default_key_file.read_text().strip()}"}


@pytest.fixture(scope="module")
def strict(
    nix_tool: Nix, nginx_prefix: Prefix, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A given certificate, and limits that a test can reach."""
    directory = tmp_path_factory.mktemp("strict")
    credentials = directory / "credentials"
    credentials.mkdir()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:ai.example.org,DNS:localhost",
         "-keyout", credentials / "aistack-certificate-key",
         "-out", credentials / "aistack-certificate"],
        check=True, capture_output=True,
    )  # fmt: skip
    (directory / "tls").mkdir()
    (directory / "tls/certificate.pem").symlink_to(credentials / "aistack-certificate")
    module = """{ services.aistack.nginx = {
      hostName = "ai.example.org";
      tls = { mode = "files"; certificate = "/run/a.pem"; certificateKey = "/run/a.key"; };
      limits.exemptAddresses = [ ];
      limits.perKey = { rate = 1; burst = 3; };
      limits.perAddress = { rate = 1; burst = 12; };
    }; }"""
    sockets = tmp_path_factory.mktemp("t")
    with running(nix_tool, nginx_prefix, directory, sockets, module) as started:
        yield started


def test_too_many_requests_of_a_key_then_of_an_address_are_429(strict: Site) -> None:
    """In one test: the second counter is spent by what the first one lets through."""
    mine, other = (make_token(name) for name in ("aaaaaaaaaa", "bbbbbbbbbb"))
    with strict.client() as client:

        def ask(token: str | None, path: str = "/v1/models") -> httpx.Response:
            headers = {"authorization": f"Bearer {token}"} if token else {}
            return client.get(path, headers=headers)

        statuses = [ask(mine).status_code for _ in range(6)]
        assert statuses[:4] == [503] * 4  # nothing is behind this site
        assert 429 in statuses[4:]
        # Who only knows the id of a key uses up nothing of its share, nor gains any.
        assert ask(other).status_code == 503
        assert ask(mine[:-7] + "AAAAAAA").status_code == 503
        refused = next(
            r for r in iter(lambda: ask(None, "/v1/search"), None) if r.status_code == 429
        )
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["type"] == "urn:aistack:problem:overloaded"
        openai = next(r for r in iter(lambda: ask(None), None) if r.status_code == 429)
        assert openai.json()["error"]["code"] == "overloaded"
        assert openai.json()["error"]["type"] == "rate_limit_error"
    assert mine not in strict.log() + strict.errors()


def test_given_certificate_and_strict_transport_security(strict: Site) -> None:
    with strict.client() as client:
        answer = client.get("/nope")
    assert answer.headers["strict-transport-security"] == "max-age=15552000"
    assert answer.status_code == 404


def test_real_stack_through_nginx(
    stack: RunningStack, nix_tool: Nix, nginx_prefix: Prefix, tmp_path: Path
) -> None:
    """Keys, an answer of the model as a stream, and a service that was killed."""
    auth = {"authorization": f"Bearer {stack.key}"}
    with (
        running(nix_tool, nginx_prefix, tmp_path, stack.run_dir) as site,
        site.client() as client,
    ):
        refused = client.post("/v1/search", json={"query": "x"})
        assert refused.status_code == 401
        assert refused.json()["error_id"] == refused.headers["x-error-id"]
        found = client.post(
            "/v1/embeddings", json={"input": "hello", "model": "all-minilm-l6-v2"}, headers=auth
        )
        assert len(found.json()["data"][0]["embedding"]) == 384
        page = client.get("/docs/aidb")
        assert "script-src 'self'" in page.headers["content-security-policy"]
        bundle = client.get("/docs/aidb/assets/swagger-ui-bundle.js")
        assert bundle.headers["content-encoding"] == "gzip"
        assert bundle.headers["x-content-type-options"] == "nosniff"

        chat = {
            "model": client.get("/v1/models", headers=auth).json()["data"][0]["id"],
            "messages": [{"role": "user", "content": "Count from one to twenty."}],
            "max_tokens": 24,
            "stream": True,
        }
        arrived = []
        with client.stream("POST", "/v1/chat/completions", json=chat, headers=auth) as answer:
            assert answer.status_code == 200, answer.read()
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    arrived.append(time.monotonic())
        assert len(arrived) > 5
        assert arrived[-1] - arrived[0] > 0.01  # made one after the other, and not held back

        assert client.get("/metrics").status_code == 404
        metrics = httpx.get(f"http://127.0.0.1:{site.metrics}/aidb/metrics")
        assert "aistack_ready 1.0" in metrics.text
        ready = httpx.get(f"http://127.0.0.1:{site.metrics}/embeddings/readyz").json()
        assert ready["service"] == "embeddings"
