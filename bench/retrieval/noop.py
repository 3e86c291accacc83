"""A no-op route behind the whole kit, in the place of aidb: what a cached search is held against.

python -m bench.retrieval.noop CONFIG
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import Response

from aistack.config import Config
from aistack.service import app as kit
from aistack.service.run import serve
from bench.retrieval.stand import Stand

PATH = "/v1/noop"
START_SECONDS = 60.0


def create(_config: Config) -> kit.Service:
    """A service of one route, under the scope of a search."""
    router = kit.service_router()

    @router.post(PATH, **kit.scope("search"))
    async def noop() -> Response:
        return Response(b"{}", media_type="application/json")

    async def start(_runtime: kit.Runtime) -> None:
        return

    return kit.Service("aidb", router, start)


@contextmanager
def noop_service(stand: Stand, directory: Path) -> Iterator[Path]:
    """Its socket; its configuration is that of the stack's aidb, its keys are the stack's."""
    table = json.loads(stand.paths.config("aidb").read_text(encoding="utf-8"))
    path = directory / "n.sock"
    config = directory / "noop.json"
    config.write_text(json.dumps({**table, "listen": {"socket": str(path)}}), encoding="utf-8")
    log = directory / "noop.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.retrieval.noop", str(config)],
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        end = time.monotonic() + START_SECONDS
        while not path.exists():
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"the no-op service did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.02)
        yield path
    finally:
        process.terminate()
        process.wait(30)


if __name__ == "__main__":
    module = types.ModuleType("aistack.aidb.app")
    module.create = create  # type: ignore[attr-defined]
    sys.modules["aistack.aidb.app"] = module
    sys.exit(serve("aidb", Path(sys.argv[1])))
