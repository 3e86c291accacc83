"""The programs of one stack, from stack.toml and the servers it stands on."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Mapping

from aistack.config import load_config
from aistack.dev.llama_server import Llama
from aistack.dev.migrate import at_newest
from aistack.dev.paths import Paths
from aistack.dev.postgres import Postgres
from aistack.dev.process import LineSink
from aistack.dev.program import Program
from aistack.dev.valkey import Valkey
from aistack.stack import INFRASTRUCTURE, ServiceEntry, Stack

MIGRATIONS = "migrations"
FRONT = "front"

#: Ends after the services' own limits, so that their words about it are heard.
_MARGIN = 5.0
_FRONT_WATCHDOG = 15.0
_SERVE = (
    "import sys; from pathlib import Path; from aistack.service.run import serve;"
    " sys.exit(serve(sys.argv[1], Path(sys.argv[2])))"
)


def servers(paths: Paths, *, model: str, sink: LineSink) -> Iterator[Program]:
    """PostgreSQL, Valkey and llama.cpp. Raises StartError when one is not installed."""
    yield Postgres(paths.postgres, paths.postgres_socket, sink=sink).program("postgres")
    yield Valkey(paths.socket("redis")).program("redis")
    yield Llama(paths.socket("llama"), model=model).program("llama")


def migrations(paths: Paths, service: str) -> Program:
    """The schema, brought up to date once per start, with the configuration of `service`.

    Where it is up to date already, which is every start but the first, no process is started:
    loading Alembic takes as long as starting everything else.
    """

    async def newest() -> bool:
        return await at_newest(load_config(paths.config(service)).postgres.conninfo())

    return Program(
        name=MIGRATIONS,
        command=(
            *(sys.executable, "-m", "aistack.dev.migrate"),
            *("--config", str(paths.config(service))),
        ),
        needs=frozenset({"postgres"}),
        oneshot=True,
        unneeded=newest,
        start_seconds=600.0,
    )


def services(
    stack: Stack, paths: Paths, listening: Mapping[str, socket.socket]
) -> Iterator[Program]:
    """Our services; each is started when what it requires has been ready once.

    What merely degrades it is not waited for: its socket is there already, and an early call
    waits in the kernel's queue.
    """
    for name, entry in stack.services.items():
        yield Program(
            name=name,
            # Not the `aistack` command: a service has no use for a terminal's libraries.
            command=(sys.executable, "-c", _SERVE, name, str(paths.config(name))),
            environment={"PYTHONUNBUFFERED": "1"},
            needs=_needs(entry),
            calls=frozenset(entry.needs),
            notifies=True,
            watchdog_seconds=entry.limits.watchdog_seconds,
            listen=listening[name],
            start_seconds=entry.limits.start_seconds + _MARGIN,
            stop_seconds=entry.limits.drain_seconds + _MARGIN,
            stop_rank=1,
        )


def _needs(entry: ServiceEntry) -> frozenset[str]:
    required = {name for name, kind in entry.needs.items() if kind == "required"}
    if "postgres" in entry.needs:
        required.add(MIGRATIONS)
    # A required service answers 503 itself until it is ready; a server must have been up once.
    return frozenset(required & (INFRASTRUCTURE | {MIGRATIONS}))


def front(paths: Paths, listening: socket.socket, *, body_bytes: int | None) -> Program:
    """The front door; it stops first."""
    more = () if body_bytes is None else ("--body-bytes", str(body_bytes))
    return Program(
        name=FRONT,
        command=(
            *(sys.executable, "-m", "aistack.dev.front_server"),
            *("--run-directory", str(paths.run), *more),
        ),
        environment={"PYTHONUNBUFFERED": "1"},
        notifies=True,
        watchdog_seconds=_FRONT_WATCHDOG,
        listen=listening,
        start_seconds=60.0,
        stop_seconds=10.0,
        stop_rank=2,
    )
