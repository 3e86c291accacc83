"""The real `aistack up`, as a subprocess on an empty data directory.

`stack` runs for the session; `started(data_dir)` is for tests that need one of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from aistack.models import ModelFiles
from fix_reranker import write_plain_reranker

START_SECONDS = 180.0
STOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class RunningStack:
    """A stack that answers."""

    process: subprocess.Popen[bytes]
    output: Path
    base_url: str
    key: str
    key_file: Path
    run_dir: Path
    data_dir: Path
    ready_seconds: float

    def state(self) -> dict[str, dict[str, object]]:
        """What the supervisor says of its programs."""
        table: dict[str, dict[str, object]] = json.loads((self.run_dir / "state.json").read_text())
        return table

    @property
    def pids(self) -> dict[str, int]:
        """The process of each program that runs now."""
        return {
            name: pid for name, row in self.state().items() if isinstance(pid := row["pid"], int)
        }

    def said(self) -> str:
        """What it printed so far."""
        return self.output.read_text(encoding="utf-8", errors="replace")

    def kill(self, name: str) -> int:
        """SIGKILL one program; its process id."""
        pid = self.pids[name]
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_restarted(self, name: str, old_pid: int, seconds: float = 60.0) -> None:
        """Until `name` is ready again as another process."""
        wait_until(
            lambda: self.state()[name]["state"] == "ready" and self.pids.get(name) != old_pid,
            seconds,
            f"{name} was not started again:\n{self.said()}",
        )


def wait_until(probe: Callable[[], bool], seconds: float, otherwise: str = "not in time") -> None:
    """Poll `probe` until it is true; fails the test with `otherwise`."""
    deadline = time.monotonic() + seconds
    while not probe():
        if time.monotonic() > deadline:
            pytest.fail(otherwise)
        time.sleep(0.02)


def up_command(data_dir: Path, *arguments: str) -> list[str]:
    """What a user types."""
    port = () if "--port" in arguments else ("--port", "0")
    words = ("-m", "aistack", "up", "--data-dir", str(data_dir), *port, *arguments)
    return [sys.executable, *words]


def clean_environment() -> dict[str, str]:
    """Ours, without what would reach into the stack."""
    return {
        name: value for name, value in os.environ.items() if not name.upper().startswith("AISTACK")
    }


def launch(
    data_dir: Path, output: Path, *arguments: str, environment: dict[str, str] | None = None
) -> RunningStack:
    """Start a stack and wait until it says that it is ready."""
    data_dir.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with output.open("wb") as stream:
        process = subprocess.Popen(
            up_command(data_dir, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**clean_environment(), **(environment or {})},
        )
    endpoint = data_dir / "endpoint.json"

    def announced() -> bool:
        if process.poll() is not None:
            pytest.fail(f"the stack ended with {process.returncode}:\n{output.read_text()}")
        return endpoint.exists() and json.loads(endpoint.read_text())["pid"] == process.pid

    try:
        wait_until(announced, START_SECONDS, "not ready")
    except BaseException:
        sys.stderr.write(output.read_text(encoding="utf-8", errors="replace"))
        process.kill()
        process.wait()
        raise
    seconds = time.monotonic() - began
    said = json.loads(endpoint.read_text())
    key_file = Path(said["key_file"])
    return RunningStack(
        process=process,
        output=output,
        base_url=said["base_url"],
        key=key_file.read_text().strip(),
        key_file=key_file,
        run_dir=Path(said["run_dir"]),
        data_dir=data_dir,
        ready_seconds=seconds,
    )


def descendants(pid: int) -> list[psutil.Process]:
    """Every process below `pid`, itself too."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def left_over(processes: list[psutil.Process]) -> list[str]:
    """Those that still run; psutil knows a process number that was given to another."""
    running = []
    for process in processes:
        # Any of these calls may find that the process ended since the one before.
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                running.append(f"{process.pid} {' '.join(process.cmdline())}")
    return running


def end(stack: RunningStack) -> None:
    """Ctrl-C; asserts a clean end with nothing left running."""
    if stack.process.poll() is not None:
        pytest.fail(f"the stack had ended with {stack.process.returncode}:\n{stack.said()}")
    processes = descendants(stack.process.pid)
    stack.process.send_signal(signal.SIGINT)
    try:
        status = stack.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        stack.process.kill()
        pytest.fail(f"Ctrl-C did not end the stack:\n{stack.said()}")
    assert status == 0, stack.said()
    assert left_over(processes) == []
    assert not stack.run_dir.exists()
    assert not (stack.data_dir / "endpoint.json").exists()


@contextlib.contextmanager
def started(
    data_dir: Path, *arguments: str, environment: dict[str, str] | None = None
) -> Iterator[RunningStack]:
    """A stack for the length of a `with`, ended by Ctrl-C."""
    output = data_dir.with_name(f"{data_dir.name}-{time.monotonic_ns()}.out")
    stack = launch(data_dir, output, *arguments, environment=environment)
    try:
        yield stack
    except BaseException:
        stack.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            stack.process.wait(STOP_SECONDS)
        stack.process.kill()
        raise
    end(stack)


@pytest.fixture(scope="session")
def stack(
    tmp_path_factory: pytest.TempPathFactory, model_files: ModelFiles
) -> Iterator[RunningStack]:
    """One real stack for the whole session; killed parts must be waited back by who killed them.

    It reranks, with a model that knows nothing.
    """
    directory = tmp_path_factory.mktemp("stack")
    reranker = write_plain_reranker(directory / "reranker", model_files)
    said = {"AISTACK__EMBEDDINGS__RERANK_MODEL": str(reranker)}
    with started(directory / "data", environment=said) as running:
        yield running
