"""Loading: tried again where it may help, waited for while it advances, proven by real passes."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aistack.config import Config, EmbeddingsConfig
from aistack.embeddings import engines, loading
from aistack.embeddings.app import Embeddings
from aistack.embeddings.encoder import Encoder, EncoderError, Tokens, Vectors
from aistack.embeddings.warm_up import shapes, warm_up
from aistack.models import ModelFiles
from aistack.service.errors import StartError, Unavailable
from aistack.service.lifecycle import EXTEND_MARGIN, Runtime
from aistack.service.notify import Notifier


class FlakyLoad:
    """The real loader behind a disk that fails a few times first."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls = 0

    def __call__(self, config: EmbeddingsConfig) -> Any:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return engines.open_encoder(config)


def unreadable() -> StartError:
    error = StartError("model.safetensors: cannot be read (Input/output error)")
    error.__cause__ = OSError(errno.EIO, "Input/output error")
    return error


@pytest.fixture
def service(graph_state: Path, model_files: ModelFiles, tmp_path: Path) -> Embeddings:
    return Embeddings(
        Config(
            embeddings={"state_dir": graph_state, "cache_seconds": 0, "encoder": "onnx"},
            redis={"url": f"unix://{tmp_path}/none.sock"},
        )
    )


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FlakyLoad]:
    def install(*failures: Exception) -> FlakyLoad:
        flaky = FlakyLoad(*failures)
        monkeypatch.setattr(loading, "open_encoder", flaky)
        monkeypatch.setattr(loading, "LOAD_PAUSE_SECONDS", 0.001)
        return flaky

    return install


def runtime() -> Runtime:
    return Runtime(Notifier(None, None), start_seconds=60)


async def test_passing_failures_are_tried_again(
    service: Embeddings, load: Callable[..., FlakyLoad]
) -> None:
    flaky = load(OSError(errno.EIO, "Input/output error"), unreadable())
    await service.start(runtime())
    assert flaky.calls == 3
    assert service.loaded.identity.dimension == 384
    assert service.heartbeat() > 0
    await service.stop()


async def test_attempts_are_bounded(service: Embeddings, load: Callable[..., FlakyLoad]) -> None:
    flaky = load(*[OSError(errno.EIO, "Input/output error") for _ in range(9)])
    with pytest.raises(StartError, match="in 3 attempts"):
        await service.start(runtime())
    assert flaky.calls == 3
    await service.stop()


@pytest.mark.parametrize(
    "failure", [StartError("embeddings.dimension: wrong"), FileNotFoundError(2, "No such file")]
)
async def test_lasting_failures_are_told_at_once(
    service: Embeddings, load: Callable[..., FlakyLoad], failure: Exception
) -> None:
    flaky = load(failure)
    with pytest.raises(type(failure)):
        await service.start(runtime())
    assert flaky.calls == 1
    await service.stop()


async def test_nothing_is_served_before_the_start_has_ended(service: Embeddings) -> None:
    assert service.heartbeat() == 0
    with pytest.raises(Unavailable):
        _ = service.loaded
    await service.stop()


# -- slow disks --------------------------------------------------------------------------------


class SlowLoad:
    """The real loader behind a disk that gives a little at a time, or nothing at all."""

    def __init__(self, *, dead: bool) -> None:
        self.dead = dead
        self.end = threading.Event()

    def __call__(self, config: EmbeddingsConfig) -> Any:
        if self.dead:
            self.end.wait()
        self.work()
        return engines.open_encoder(config)

    def work(self) -> None:
        """Uses CPU time until the end."""
        part = bytes(1_000_000)
        while not self.end.wait(0.001):
            hashlib.sha256(part).digest()


class Disk:
    """Starts a service whose model comes from a slow disk; hears what its supervisor hears."""

    def __init__(
        self, service: Embeddings, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.service = service
        self.path = directory / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.setblocking(False)
        self.patch = monkeypatch
        self.asked: list[float] = []

    def load(self, *, dead: bool) -> SlowLoad:
        slow = SlowLoad(dead=dead)
        self.patch.setattr(loading, "open_encoder", slow)
        self.patch.setattr(loading, "LOOK_SECONDS", 0.01)
        return slow

    def hear(self) -> list[float]:
        """Seconds that were asked for, each time."""
        name = "EXTEND_TIMEOUT_USEC="
        while True:
            try:
                line = self.socket.recv(4096).decode()
            except BlockingIOError:
                return self.asked
            if line.startswith(name):
                self.asked.append(int(line.removeprefix(name)) / 1e6 - EXTEND_MARGIN)


@pytest.fixture
def disk(service: Embeddings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk(service, tmp_path, monkeypatch)
    yield made
    made.socket.close()


async def test_slow_load_is_waited_for_while_it_advances(disk: Disk) -> None:
    slow = disk.load(dead=False)
    runtime = Runtime(Notifier(str(disk.path), None), start_seconds=1.0)
    async with runtime.running(disk.service.start, disk.service.stop, ()):
        loop = asyncio.get_running_loop()
        end = loop.time() + 1.2
        while loop.time() < end:
            await asyncio.sleep(0.01)
            disk.hear()
        slow.end.set()
        assert await runtime.wait_started(30)
    assert len(disk.asked) > 1
    assert set(disk.asked) == {loading.EXTEND_SECONDS}


@pytest.mark.parametrize("dead", [True, False], ids=["no advance", "bound reached"])
async def test_load_that_stands_still_or_takes_too_long_is_ended(disk: Disk, dead: bool) -> None:
    disk.service.config.__dict__["load_seconds"] = 60 if dead else 0.2
    slow = disk.load(dead=dead)
    runtime = Runtime(Notifier(str(disk.path), None), start_seconds=0.4)
    # As an exporter of traces or a scrape of the metrics does: no sign that loading advances.
    other = threading.Thread(target=SlowLoad.work, args=(slow,))
    other.start()
    try:
        async with runtime.running(disk.service.start, disk.service.stop, ()):
            assert not await runtime.wait_started(10)
            assert str(runtime.failure) == "not ready within 0.4 s; last: loading the model"
            assert all(seconds <= 0.2 for seconds in disk.hear())
            assert not (dead and disk.asked)
    finally:
        slow.end.set()
        other.join()


# -- warm-up -----------------------------------------------------------------------------------


class Recorder:
    """The real encoder; notes each pass with its thread, and may spoil it."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.passes: list[tuple[str, int, int]] = []
        self.spoil: Callable[[Vectors], Vectors] = lambda vectors: vectors

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        self.passes.append((threading.current_thread().name, len(batch), max(map(len, batch))))
        return self.spoil(self.encoder.encode(batch))


@pytest.fixture
def recorder(service: Embeddings, monkeypatch: pytest.MonkeyPatch, graph_state: Path) -> Recorder:
    files, encoder = engines.open_encoder(service.config)
    made = Recorder(encoder)
    monkeypatch.setattr(loading, "open_encoder", lambda config: (files, made))
    return made


async def test_every_lane_has_run_every_shape_before_the_start_ends(
    service: Embeddings, recorder: Recorder
) -> None:
    service.config.__dict__["lanes"] = 2
    await service.start(runtime())
    wanted = shapes(service.config.batch_tokens, recorder.max_tokens)
    for lane in ("lane-0", "lane-1"):
        assert [(n, length) for name, n, length in recorder.passes if name == lane] == wanted
    assert len(recorder.passes) == 2 * len(wanted)
    await service.stop()


def fail(vectors: Vectors) -> Vectors:
    raise EncoderError("the engine failed") from RuntimeError("no such instruction")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (fail, "the engine failed: no such instruction"),
        (lambda v: v * np.float32("nan"), "1 texts of 16 tokens gave no vectors of unit length"),
        (lambda v: v * 0, "gave no vectors of unit length"),
        (lambda v: v[:-1], "gave no vectors of unit length"),
    ],
    ids=["fails", "nan", "zero", "too few"],
)
async def test_engine_that_cannot_be_used_ends_the_start_with_one_line(
    service: Embeddings,
    recorder: Recorder,
    spoil: Callable[[Vectors], Vectors],
    why: str,
) -> None:
    recorder.spoil = spoil
    with pytest.raises(StartError) as raised:
        await service.start(runtime())
    line = str(raised.value)
    assert line.startswith("embeddings.encoder: the onnx engine (fp32) cannot be used here (")
    assert why in line
    assert "\n" not in line
    with pytest.raises(Unavailable):
        _ = service.loaded
    await service.stop()


@pytest.mark.parametrize(
    ("batch_tokens", "max_tokens", "wanted"),
    [
        (512, 256, [(1, 16), (32, 16), (8, 64), (4, 128), (2, 256)]),
        (512, 128, [(1, 16), (32, 16), (8, 64), (4, 128)]),
        (512, 8192, [(1, 16), (32, 16), (8, 64), (4, 128), (2, 256), (1, 8192)]),
        (512, 8, [(1, 8), (64, 8)]),
    ],
)
def test_shapes_are_those_of_full_batches(
    batch_tokens: int, max_tokens: int, wanted: list[tuple[int, int]]
) -> None:
    assert shapes(batch_tokens, max_tokens) == wanted


def test_warm_up_takes_the_model_as_it_is(recorder: Recorder) -> None:
    warm_up(recorder, 512)
    assert len(recorder.passes) == len(shapes(512, recorder.max_tokens))
