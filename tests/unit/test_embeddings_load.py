"""Loading: what may pass is tried again a few times, what cannot is told at once."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aistack.config import Config, EmbeddingsConfig
from aistack.embeddings import app, engines
from aistack.embeddings.app import Embeddings
from aistack.models import ModelFiles
from aistack.service.errors import StartError, Unavailable
from aistack.service.lifecycle import Runtime
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
            embeddings={"state_dir": graph_state, "cache_seconds": 0},
            redis={"url": f"unix://{tmp_path}/none.sock"},
        )
    )


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FlakyLoad]:
    def install(*failures: Exception) -> FlakyLoad:
        flaky = FlakyLoad(*failures)
        monkeypatch.setattr(app, "open_encoder", flaky)
        monkeypatch.setattr(app, "LOAD_PAUSE_SECONDS", 0.001)
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
