"""No-op routes behind the whole kit, in the place of aidb: what a cached search is held against.

python -m bench.retrieval.noop CONFIG
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fastapi import Response

from aistack.clients.postgres import Postgres
from aistack.config import Config
from aistack.service import app as kit
from aistack.service.run import serve
from bench.process import listening
from bench.retrieval.stand import Stand

PATH = "/v1/noop"
#: A no-op but for one round trip to PostgreSQL, which is the least that a shared epoch costs.
ASKING = "/v1/asking"


def create(config: Config) -> kit.Service:
    """A service of two routes, under the scope of a search."""
    router = kit.service_router()
    postgres = Postgres(config.postgres)

    @router.post(PATH, **kit.scope("search"))
    async def noop() -> Response:
        return Response(b"{}", media_type="application/json")

    @router.post(ASKING, **kit.scope("search"))
    async def asking() -> Response:
        await postgres.reads.row("SELECT 1", [])
        return Response(b"{}", media_type="application/json")

    async def start(_runtime: kit.Runtime) -> None:
        return

    return kit.Service("aidb", router, start, postgres.reads.aclose)


@contextmanager
def beside(stand: Stand, directory: Path, name: str, command: Sequence[str]) -> Iterator[Path]:
    """The socket of another service with the configuration and the keys of the stack's aidb.

    Its log goes into a file. That of the stack's own goes to the supervisor, whom each line wakes:
    services that are compared are both started here.
    """
    table = json.loads(stand.paths.config("aidb").read_text(encoding="utf-8"))
    path = directory / f"{name}.sock"
    config = directory / f"{name}.json"
    config.write_text(json.dumps({**table, "listen": {"socket": str(path)}}), encoding="utf-8")
    with listening([*command, str(config)], path, directory / f"{name}.log"):
        yield path


if __name__ == "__main__":
    module = types.ModuleType("aistack.aidb.app")
    module.create = create  # type: ignore[attr-defined]
    sys.modules["aistack.aidb.app"] = module
    sys.exit(serve("aidb", Path(sys.argv[1])))
