"""What the kit puts around every service, on a small service of the test's own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import structlog
import structlog.testing

from aistack.config import Config
from aistack.service import app as kit
from aistack.service.errors import StartError
from aistack.service.key_setup import init_store
from aistack.service.keys import KeyEditor, parse_token
from aistack.service.lifecycle import Runtime
from aistack.stack import load_stack
from fix_kit import SILENT, Probe, Running, make, run, until_started


async def test_without_a_key_nothing_is_told(running: Running) -> None:
    for path in ("/v1/embeddings", "/embed", "/nothing", "/docs/embeddings/openapi.json"):
        answer = await running.client.get(path)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "error" in (await running.client.post("/v1/embeddings")).json()
    problem = await running.client.post("/embed")
    assert problem.headers["content-type"] == "application/problem+json"
    assert problem.json()["error_id"] == problem.headers["x-error-id"]


async def test_scope_is_checked_before_the_body_is_read(running: Running) -> None:
    editor = KeyEditor(running.paths.keys_file, running.paths.pepper_file)
    _, token = editor.create("narrow", frozenset({"search"}))
    async with asyncio.timeout(1):  # a changed store is noticed within a second
        while True:
            answer = await running.client.post(
                "/embed", content=b"{not json", headers={"authorization": f"Bearer {token}"}
            )
            if answer.status_code != 401:
                break
            await asyncio.sleep(0.05)
    assert answer.status_code == 403
    assert answer.json()["scope"] == "embed"


async def test_caller_is_the_key_and_only_internal_keys_speak_for_others(running: Running) -> None:
    own = (await running.post("/v1/embeddings", {"number": 1})).json()["key"]
    forged = await running.post("/v1/embeddings", {"number": 1}, **{"x-aistack-key-id": "boss"})
    assert forged.json()["key"] == own
    internal = running.paths.internal_key_file("aidb").read_text()
    answer = await running.client.post(
        "/v1/embeddings",
        json={"number": 1},
        headers={"authorization": f"Bearer {internal}", "x-aistack-key-id": "user1"},
    )
    assert answer.json()["key"] == "user1"


async def test_faults_have_the_shape_of_their_route(running: Running) -> None:
    wrong = await running.post("/embed", {"number": "x", "more": 1})
    assert wrong.status_code == 422
    assert {fault["field"] for fault in wrong.json()["errors"]} == {"body.number", "body.more"}
    openai = await running.post("/v1/embeddings", {"number": "x"})
    assert openai.status_code == 400
    assert openai.json()["error"]["param"] == "number"
    assert openai.json()["error"]["type"] == "invalid_request_error"
    broken = await running.client.post(
        "/embed", content=b"{", headers={**running.auth, "content-type": "application/json"}
    )
    assert broken.status_code == 400


async def test_unknown_path_and_method(running: Running) -> None:
    assert (await running.get("/nothing")).status_code == 404
    answer = await running.client.delete("/embed", headers=running.auth)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"


async def test_surprise_tells_only_its_error_id(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await running.get("/embed/broken")
    assert answer.status_code == 500
    assert "hunter2" not in answer.text
    assert "ValueError" not in answer.text
    assert answer.json()["error_id"].startswith("err_")


async def test_own_errors_carry_their_words_and_retry_after(running: Running) -> None:
    assert (await running.get("/embed/missing")).json()["detail"] == "No such thing."
    busy = await running.get("/embed/busy")
    assert (busy.status_code, busy.headers["retry-after"]) == (429, "7")


async def test_error_after_the_first_byte_breaks_the_body_off(tmp_path: Path) -> None:
    async with run(make(), tmp_path) as found:
        await until_started(found)
        transport = httpx.ASGITransport(app=found.client._transport.app)  # type: ignore[attr-defined]
        async with httpx.AsyncClient(transport=transport, base_url="http://kit") as client:
            with pytest.raises(ValueError, match="after the first byte"):
                await client.get("/embed/stream", headers=found.auth)
        metrics = (await found.client.get("/metrics")).text
        assert 'aistack_http_aborted_total{route="/embed/stream"} ' in metrics
        assert 'route="/embed/stream",status="aborted"' in metrics


async def test_request_id_and_trace_go_in_and_out(running: Running) -> None:
    given = await running.get("/embed/missing", **{"x-request-id": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"
    bad = await running.get("/embed/missing", **{"x-request-id": "a b" * 100})
    assert bad.headers["x-request-id"].startswith("req_")


async def test_access_line_names_the_key_and_the_route(running: Running) -> None:
    with structlog.testing.capture_logs() as lines:
        await running.get("/embed/missing")
    line = next(line for line in lines if line["event"] == "request")
    assert (line["route"], line["status"]) == ("/embed/missing", 404)
    assert line["key_id"] == parse_token(running.auth["authorization"].removeprefix("Bearer "))


async def test_metrics_are_labelled_by_route_template(running: Running) -> None:
    await running.get("/embed/missing")
    await running.get("/some/random/path")
    text = (await running.client.get("/metrics")).text
    assert 'route="/embed/missing",status="404"' in text
    assert 'route="unmatched"' in text
    assert "/some/random/path" not in text


async def test_body_over_the_limit_is_413_with_and_without_a_length(tmp_path: Path) -> None:
    async with run(make(), tmp_path, body_bytes=100) as found:
        await until_started(found)
        told = await found.post("/embed", {"number": "1" * 200})
        assert told.status_code == 413

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(10):
                yield b"x" * 50

        untold = await found.client.post("/embed", content=chunks(), headers=found.auth)
        assert untold.status_code == 413


async def test_too_many_at_once_is_429(tmp_path: Path) -> None:
    async with run(make(), tmp_path, concurrency=1, request_seconds=30) as found:
        await until_started(found)
        hanging = asyncio.create_task(found.get("/embed/hang"))
        async with asyncio.timeout(5):
            while (answer := await found.get("/embed/missing")).status_code != 429:
                await asyncio.sleep(0)
        assert answer.headers["retry-after"] == "1"
        hanging.cancel()


async def test_no_answer_in_time_is_504(tmp_path: Path) -> None:
    async with run(make(), tmp_path, request_seconds=0.05) as found:
        await until_started(found)
        answer = await found.get("/embed/hang")
        assert answer.status_code == 504
        assert (await found.post("/embed", {"number": 1})).json()["left"] <= 0.05


async def test_while_starting_routes_say_503_and_readyz_too(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def start(runtime: Runtime) -> None:
        runtime.status("loading the model")
        await go.wait()

    async with run(make(start=start), tmp_path, hold_seconds=0.05) as found:
        async with asyncio.timeout(5):
            while found.runtime.progress == "starting":
                await asyncio.sleep(0)
        answer = await found.post("/embed", {"number": 1})
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "2"
        ready = await found.client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["progress"] == "loading the model"
        assert (await found.client.get("/livez")).status_code == 200
        go.set()
        await until_started(found)
        assert (await found.post("/embed", {"number": 1})).status_code == 200


async def test_a_request_waits_for_a_short_start(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def start(_runtime: Runtime) -> None:
        await go.wait()

    async with run(make(start=start), tmp_path) as found:
        early = asyncio.create_task(found.post("/embed", {"number": 1}))
        assert (await found.client.get("/readyz")).status_code == 503  # the probes are not held
        assert not early.done()
        go.set()
        assert (await early).status_code == 200


async def test_nobody_waits_for_a_service_that_ends(tmp_path: Path) -> None:
    async def start(_runtime: Runtime) -> None:
        await asyncio.Event().wait()

    async with run(make(start=start), tmp_path, hold_seconds=3600) as found:
        early = asyncio.create_task(found.post("/embed", {"number": 1}))
        assert (await found.client.get("/livez")).status_code == 200
        found.runtime.drain()
        assert (await early).status_code == 503


async def test_readyz_is_503_only_for_a_required_need(tmp_path: Path) -> None:
    required, optional = Probe(), Probe()
    needs = [kit.Need("postgres", True, required), kit.Need("redis", False, optional)]
    async with run(make(needs), tmp_path) as found:
        await until_started(found)
        optional.good = False
        degraded = await found.client.get("/readyz")
        assert (degraded.status_code, degraded.json()["status"]) == (200, "degraded")
        assert "secret address" not in degraded.text


async def test_readyz_turns_503_when_a_required_need_is_away(tmp_path: Path) -> None:
    required = Probe()
    required.good = False
    async with run(make([kit.Need("postgres", True, required)]), tmp_path) as found:
        await until_started(found)
        answer = await found.client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "not_ready")


async def test_probes_are_cached_for_a_second(tmp_path: Path) -> None:
    probe = Probe()
    async with run(make([kit.Need("redis", False, probe)]), tmp_path) as found:
        await until_started(found)
        await asyncio.gather(*(found.client.get("/readyz") for _ in range(20)))
        assert probe.asked == 1


async def test_probes_answer_only_near(running: Running) -> None:
    app = running.client._transport.app  # type: ignore[attr-defined]
    far = httpx.ASGITransport(app=app, client=("203.0.113.9", 1234))
    async with httpx.AsyncClient(transport=far, base_url="http://kit") as client:
        for path in ("/livez", "/readyz", "/metrics"):
            assert (await client.get(path)).status_code == 403


async def test_draining_closes_connections_and_is_not_ready(running: Running) -> None:
    running.runtime.drain()
    answer = await running.get("/embed/missing")
    assert answer.headers["connection"] == "close"
    assert (await running.client.get("/readyz")).json()["status"] == "draining"


async def test_failed_start_ends_the_process_with_its_line(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def start(runtime: Runtime) -> None:
        runtime.on_failure = ended.set
        raise StartError("embeddings.dimension: 3 is wrong")

    async with run(make(start=start), tmp_path) as found:
        await asyncio.wait_for(ended.wait(), 5)
        assert str(found.runtime.failure) == "embeddings.dimension: 3 is wrong"
        assert not found.runtime.started


async def test_start_that_takes_too_long_names_what_it_was_doing(tmp_path: Path) -> None:
    runtime = Runtime(SILENT, start_seconds=0.02)
    ended = asyncio.Event()
    runtime.on_failure = ended.set

    async def start(it: Runtime) -> None:
        it.status("waiting for PostgreSQL")
        await asyncio.Event().wait()

    async def stop() -> None:
        return

    async with runtime.running(start, stop, ()):
        await asyncio.wait_for(ended.wait(), 5)
    assert "waiting for PostgreSQL" in str(runtime.failure)


def test_route_without_a_scope_fails_the_start() -> None:
    router = kit.service_router()
    with pytest.raises(TypeError, match="scope"):

        @router.get("/embed")
        async def naked() -> None:
            return


def test_route_with_a_foreign_scope_fails_the_start(tmp_path: Path) -> None:
    router = kit.service_router()

    @router.get("/embed", **kit.scope("search"))
    async def foreign() -> None:
        return

    service = make()
    service.router = router
    paths = init_store(tmp_path / "keys", load_stack())
    config = Config(auth={"keys_file": paths.keys_file, "pepper_file": paths.pepper_file})
    with pytest.raises(TypeError, match=r"stack\.toml"):
        kit.build(service, config, Runtime(SILENT, start_seconds=1))


def test_without_a_key_store_there_is_no_start(tmp_path: Path) -> None:
    config = Config(auth={"keys_file": tmp_path / "none", "pepper_file": tmp_path / "none"})
    with pytest.raises(StartError):
        kit.build(make(), config, Runtime(SILENT, start_seconds=1))


def test_logs_of_libraries_are_quiet() -> None:
    from aistack.config import Log
    from aistack.service import logs

    root = logging.getLogger()
    before = root.handlers, root.level
    try:
        logs.configure("kit", Log(level="debug"))
        assert logging.getLogger("httpx").level == logging.WARNING
    finally:
        root.handlers, root.level = before[0], before[1]
