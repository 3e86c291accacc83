"""kill -9 of each part under load: nothing acknowledged is lost or doubled, no false answer.

Before the first byte a client sees a good answer, or 503 or 429 with `Retry-After`; after it an
error event or an aborted body, never a clean end that is not one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fix_stack import RunningStack, started

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(420)]

#: What is killed, and the services whose breaker must open and close for it.
TARGETS = {
    "postgres": ("postgres", ["aidb"]),
    "redis": ("redis", ["embeddings"]),
    "llama": ("llama", ["coordinator"]),
    "embeddings": ("embeddings", ["aidb"]),
    "aidb": ("aidb", ["coordinator"]),
    "coordinator": ("coordinator", []),
}
RECOVER_SECONDS = 90.0


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack of its own, to be beaten."""
    with started(tmp_path_factory.mktemp("chaos") / "data") as stack:
        yield stack


@dataclass
class Load:
    """Clients that go on until told, and what they saw."""

    name: str
    base_url: str
    key: str
    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    acknowledged: dict[str, str] = field(default_factory=dict)
    attempted: set[str] = field(default_factory=set)
    running: bool = True

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.base_url,
            headers={"authorization": f"Bearer {self.key}"},
            timeout=120,
            trust_env=False,
        )

    def judge(self, kind: str, answer: httpx.Response, good: set[int]) -> bool:
        """Notes the status; a wrong one is a fault. True when the answer is good."""
        self.statuses[f"{kind} {answer.status_code}"] += 1
        if answer.status_code in good:
            return True
        if answer.status_code not in (429, 503):
            self.faults.append(f"{kind}: {answer.status_code} {answer.text[:200]}")
        elif not answer.headers.get("retry-after", "").isdigit():
            self.faults.append(f"{kind}: {answer.status_code} without Retry-After")
        return False

    async def ingest(self, worker: int) -> None:
        number = 0
        async with self.client() as http:
            while self.running:
                number += 1
                word = spell(f"{self.name}{worker}n{number}")
                source = f"{self.name}/{worker}/{number}.txt"
                self.attempted.add(source)
                try:
                    answer = await http.post(
                        "/v1/documents",
                        json={"source": source, "text": f"The unique word is {word}. " * 3},
                    )
                except httpx.TransportError as error:
                    self.faults.append(f"ingest: {type(error).__name__} before the first byte")
                    continue
                if self.judge("ingest", answer, {202}):
                    self.acknowledged[source] = word
                await asyncio.sleep(0.05)

    async def search(self, worker: int) -> None:
        number = 0
        async with self.client() as http:
            while self.running:
                number += 1
                # Never the same query twice: the cache would hide the parts behind it.
                body = {"query": f"unique word {worker} {number} {self.name}"}
                try:
                    answer = await http.post("/v1/search", json=body)
                except httpx.TransportError as error:
                    self.faults.append(f"search: {type(error).__name__} before the first byte")
                    continue
                # 404: the collection is made by the first document.
                self.judge("search", answer, {200, 404})
                await asyncio.sleep(0.02)

    async def embed(self, worker: int) -> None:
        number = 0
        async with self.client() as http:
            while self.running:
                number += 1
                body = {"model": "all-minilm-l6-v2", "input": f"{self.name} {worker} {number}"}
                try:
                    answer = await http.post("/v1/embeddings", json=body)
                except httpx.TransportError as error:
                    self.faults.append(f"embed: {type(error).__name__} before the first byte")
                    continue
                self.judge("embed", answer, {200})
                await asyncio.sleep(0.02)

    async def chat(self, model: str) -> None:
        async with self.client() as http:
            while self.running:
                body = {
                    "model": model,
                    "stream": True,
                    "max_tokens": 24,
                    "messages": [{"role": "user", "content": "What is the unique word?"}],
                }
                seen: list[str] = []
                begun = False
                try:
                    async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                        if answer.status_code != 200:
                            await answer.aread()
                            self.judge(f"chat {model}", answer, set())
                            await asyncio.sleep(0.1)
                            continue
                        begun = True
                        async for line in answer.aiter_lines():
                            if line.startswith("data: "):
                                seen.append(line.removeprefix("data: "))
                except httpx.TransportError as error:
                    self.statuses[f"chat {model} aborted"] += 1
                    if not begun:
                        self.faults.append(f"chat: {type(error).__name__} before the first byte")
                    continue
                if seen and seen[-1] == "[DONE]":
                    self.statuses[f"chat {model} done"] += 1
                elif seen and "error" in json.loads(seen[-1]):
                    self.statuses[f"chat {model} error event"] += 1
                else:
                    self.faults.append(f"chat {model}: a clean end that is none: {seen[-1:]}")


def spell(name: str) -> str:
    """One word without digits: the analyser finds identifiers by their parts, too."""
    return "zq" + "".join(chr(ord("a") + int(c)) + "x" if c.isdigit() else c for c in name)


@contextlib.asynccontextmanager
async def under_load(load: Load) -> AsyncIterator[None]:
    jobs = [load.ingest(n) for n in range(2)]
    jobs += [load.search(n) for n in range(4)]
    jobs += [load.embed(n) for n in range(3)]
    jobs += [load.chat("local"), load.chat("aistack")]
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        yield
    finally:
        load.running = False
        async with asyncio.timeout(150):
            await asyncio.gather(*tasks)


def breaker_changes(stack: RunningStack, service: str, dependency: str) -> dict[str, float]:
    transport = httpx.HTTPTransport(uds=str(stack.run_dir / f"{service}.sock"))
    with httpx.Client(transport=transport, base_url="http://localhost") as client:
        text = client.get("/metrics").text
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if (
                sample.name == "aistack_dependency_breaker_changes_total"
                and sample.labels["dependency"] == dependency
            ):
                found[sample.labels["to"]] = sample.value
    return found


async def wait_for(what: str, probe: Any, seconds: float = RECOVER_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not await probe():
        assert time.monotonic() < end, f"not in time: {what}"
        await asyncio.sleep(0.1)


async def kill_until(stack: RunningStack, unit: str, enough: Any) -> int:
    """SIGKILLs `unit` each time that it is there, until `enough()`; how often it was killed."""
    kills, end = 0, time.monotonic() + 60
    last: int | None = None
    while time.monotonic() < end:
        pid = stack.pids.get(unit)
        if pid is not None and pid != last:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                last, kills = pid, kills + 1
        if kills and enough():
            return kills
        await asyncio.sleep(0.05)
    pytest.fail(f"{unit} was killed {kills} times and its breaker did not open")


@pytest.mark.parametrize("target", TARGETS)
async def test_killed_under_load(victim: RunningStack, target: str) -> None:
    unit, watchers = TARGETS[target]
    before = {name: breaker_changes(victim, name, target) for name in watchers}
    load = Load(target, victim.base_url, victim.key)

    def opened() -> bool:
        return all(
            breaker_changes(victim, name, target).get("open", 0) > before[name].get("open", 0)
            for name in watchers
        )

    async def all_done() -> bool:
        with psycopg.connect(postgres(victim)) as connection:
            row = connection.execute(
                "SELECT count(*) FROM documents WHERE state = 'ready' AND source = ANY(%s)",
                (list(load.acknowledged),),
            ).fetchone()
        assert row is not None
        return bool(row[0] == len(load.acknowledged))

    async def well_again() -> bool:
        async with load.client() as http:
            body = {"query": f"well again {time.monotonic_ns()}"}
            found = (await http.post("/v1/search", json=body)).status_code == 200
            chat = await http.post(
                "/v1/chat/completions",
                json={
                    "model": "local",
                    "max_tokens": 4,
                    "messages": [{"role": "user", "content": "Hi."}],
                },
            )
            # Uses what stands behind the coordinator too: a breaker closes by a call.
            answer = await http.post(
                "/v1/chat/completions",
                json={
                    "model": "aistack",
                    "max_tokens": 4,
                    "messages": [{"role": "user", "content": "What is the unique word?"}],
                },
            )
            return found and chat.status_code == 200 and answer.status_code == 200

    async with under_load(load):
        await wait_for("first acknowledged", lambda: enough(len(load.acknowledged) >= 5))
        await kill_until(victim, unit, opened)
        count = len(load.acknowledged)
        await wait_for("well again", well_again)
        await wait_for("acknowledged after", lambda: enough(len(load.acknowledged) >= count + 5))

    assert load.faults == [], load.faults[:10]
    await wait_for("every acknowledged document ready", all_done)
    for name in watchers:

        async def closed(name: str = name) -> bool:
            await well_again()
            now = breaker_changes(victim, name, target)
            return now.get("closed", 0) > before[name].get("closed", 0)

        await wait_for(f"the breaker of {name} closed", closed)
    check_nothing_lost_or_doubled(victim, load)


async def enough(condition: bool) -> bool:
    return condition


def postgres(stack: RunningStack) -> str:
    return f"host={stack.run_dir / 'postgres'} user=aistack dbname=aistack"


def check_nothing_lost_or_doubled(stack: RunningStack, load: Load) -> None:
    """Documents, chunks, vectors, postings and statistics agree with what was acknowledged."""
    with psycopg.connect(postgres(stack)) as connection:

        def rows(query: str, *values: Any) -> list[tuple[Any, ...]]:
            return connection.execute(query, values).fetchall()

        sources = [
            row[0]
            for row in rows("SELECT source FROM documents WHERE source LIKE %s", f"{load.name}/%")
        ]
        assert len(sources) == len(set(sources))
        assert set(load.acknowledged) <= set(sources) <= load.attempted
        per_document = dict(
            rows(
                "SELECT d.source, count(*) FROM documents d JOIN chunks c ON c.document_id = d.id"
                " WHERE d.source = ANY(%s) GROUP BY d.source",
                list(load.acknowledged),
            )
        )
        assert per_document == dict.fromkeys(load.acknowledged, 1)
        (table,) = rows("SELECT table_name FROM embedding_sets WHERE state = 'active'")[0]
        assert rows(
            f"SELECT count(*) FROM chunks c LEFT JOIN {table} v ON v.chunk_id = c.id"
            " WHERE v.chunk_id IS NULL"
        ) == [(0,)]
        assert rows(
            "SELECT count(*) FROM collections k WHERE chunk_count <>"
            " (SELECT count(*) FROM chunks c WHERE c.collection_id = k.id)"
        ) == [(0,)]
        assert rows(
            "SELECT count(*) FROM terms t WHERE document_frequency <>"
            " (SELECT count(*) FROM postings p WHERE p.term_id = t.id)"
        ) == [(0,)]
    with httpx.Client(
        base_url=stack.base_url, headers={"authorization": f"Bearer {stack.key}"}, timeout=60
    ) as http:
        for source, word in list(load.acknowledged.items())[
            :: max(1, len(load.acknowledged) // 10)
        ]:
            hits = http.post("/v1/search", json={"query": word, "mode": "lexical"}).json()["hits"]
            assert [hit["source"] for hit in hits] == [source]


def test_supervisor_killed_leaves_nothing_behind_and_data_survive(tmp_path: Path) -> None:
    from fix_stack import descendants, launch, left_over, wait_until

    data = tmp_path / "data"
    stack = launch(data, tmp_path / "first.out")
    processes = descendants(stack.process.pid)
    with httpx.Client(
        base_url=stack.base_url, headers={"authorization": f"Bearer {stack.key}"}, timeout=60
    ) as http:
        answer = http.post("/v1/documents", json={"source": "kept.txt", "text": "A word: quokka."})
        assert answer.status_code == 202
    stack.process.kill()
    stack.process.wait()
    wait_until(lambda: left_over(processes) == [], 30, str(left_over(processes)))
    with (
        started(data) as again,
        httpx.Client(
            base_url=again.base_url, headers={"authorization": f"Bearer {again.key}"}, timeout=60
        ) as http,
    ):
        wait_until(
            lambda: http.get(f"/v1/documents/{answer.json()['id']}").json()["state"] == "ready", 60
        )
        hits = http.post("/v1/search", json={"query": "quokka"}).json()["hits"]
        assert [hit["source"] for hit in hits] == ["kept.txt"]
