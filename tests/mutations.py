"""`make mutations`: removes each safeguard once and shows which test notices.

Each mutation is applied to a copy of `src/`, which PYTHONPATH puts before the installed one, so
that the services that a test starts run it too. A mutation that no test notices is a failure of
this program. It writes docs/mutations.md.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "mutations.md"


@dataclass(frozen=True, slots=True)
class Mutation:
    """`old` in `file` becomes `new`; `test` must then fail, and pass without it."""

    safeguard: str
    removed: str
    file: str
    old: str
    new: str
    test: str


KIT = "tests/integration/test_kit_process.py"

MEMORY = "tests/integration/test_search_memory.py"

INDEX = "tests/integration/test_qdrant_search.py"

MUTATIONS = (
    Mutation(
        "derived index",
        "the documents that lag and are compared in PostgreSQL",
        "aidb/qdrant_engine.py",
        '"late": list(late)',
        '"late": []',
        f"{INDEX}::test_what_lags_is_compared_here_and_not_kept",
    ),
    Mutation(
        "derived index",
        "the refusal of points that are no chunks",
        "aidb/qdrant_engine.py",
        "if sum(not row[2] for row in rows) < len(ids):",
        "if False:",
        f"{INDEX}::test_points_that_postgresql_does_not_have_are_never_shown",
    ),
    Mutation(
        "derived index",
        "the open changes that pruning leaves alone",
        "aidb/upkeep.py",
        "AND NOT EXISTS (SELECT 1 FROM index_state)",
        "",
        "tests/integration/test_qdrant_sync.py"
        "::test_open_changes_are_kept_for_as_long_as_there_is_an_index",
    ),
    Mutation(
        "derived index",
        "the removal of the points of other versions and of gone documents",
        "aidb/qdrant_sync.py",
        "await self._qdrant.delete(layout.name, where)\n\n    async def _write",
        "pass\n\n    async def _write",
        "tests/integration/test_qdrant_sync.py"
        "::test_deleted_documents_and_collections_leave_no_point",
    ),
    Mutation(
        "breaker",
        "the call that counts a failure",
        "clients/resilience.py",
        "self.breaker.failure(probe)",
        "self.breaker.release(probe)",
        "tests/integration/test_chaos.py::test_killed_under_load[llama]",
    ),
    Mutation(
        "watchdog",
        "the check that every worker advanced",
        "service/lifecycle.py",
        "stuck = any(new == old for new, old in zip(now, seen, strict=True))",
        "stuck = False",
        f"{KIT}::test_watchdog_starves_when_the_worker_hangs",
    ),
    Mutation(
        "watchdog",
        "the keep-alive itself",
        "service/lifecycle.py",
        'self._notifier.send("WATCHDOG=1")',
        "pass",
        f"{KIT}::test_watchdog_is_fed_while_all_is_well",
    ),
    Mutation(
        "drain",
        "the announcement of the drain",
        "service/run.py",
        "        self._runtime.drain()\n",
        "",
        f"{KIT}::test_drain_finishes_what_runs_and_the_next_process_takes_over",
    ),
    Mutation(
        "drain",
        "its deadline",
        "service/run.py",
        "timeout_graceful_shutdown=int(effective_limits(entry, config).drain_seconds),",
        "",
        f"{KIT}::test_drain_has_a_deadline",
    ),
    Mutation(
        "key check",
        "the verification of the token",
        "service/keys.py",
        "if record is None or not good:",
        "if record is None:",
        "tests/integration/test_guarded_routes.py::test_forged_token_of_a_known_key_is_401",
    ),
    Mutation(
        "key check",
        "the middleware",
        "service/app.py",
        "    app.add_middleware(middleware.Authenticate, keys=keys, entry=entry)\n",
        "",
        "tests/integration/test_guarded_routes.py::test_without_a_key_every_route_is_401_on_its_own_socket",
    ),
    Mutation(
        "key check",
        "the scope",
        "service/app.py",
        "if principal is None or wanted not in principal.scopes:",
        "if principal is None:",
        "tests/integration/test_guarded_routes.py::test_without_the_scope_every_route_is_403",
    ),
    Mutation(
        "cache invalidation",
        "the epoch in the look for a cached search",
        "aidb/search_cache.py",
        "r.collection_id = c.id AND r.epoch = c.epoch AND r.set_id",
        "r.collection_id = c.id AND r.set_id",
        "tests/integration/test_search_cache.py::test_every_change_of_the_collection_is_seen_at_once",
    ),
    Mutation(
        "cache invalidation",
        "the rise of the epoch in the transaction of the change",
        "aidb/store.py",
        "SET epoch = epoch + 1, updated_at",
        "SET updated_at",
        "tests/integration/test_search_cache.py::test_every_change_of_the_collection_is_seen_at_once",
    ),
    Mutation(
        "cache invalidation",
        "the wait of a change for who holds its collection",
        "migrations/versions/0008_held_still.py",
        "    PERFORM pg_advisory_xact_lock_shared(10573741, OLD.id % 64);\n",
        "",
        f"{MEMORY}::test_every_confirmed_change_is_seen_by_the_next_search",
    ),
    Mutation(
        "cache invalidation",
        "the snapshot of its own of what is read under the lock",
        "migrations/versions/0008_held_still.py",
        "LANGUAGE plpgsql VOLATILE",
        "LANGUAGE plpgsql STABLE",
        "tests/integration/test_migrations_held.py::test_what_is_read_is_not_older_than_the_lock",
    ),
    Mutation(
        "cache invalidation",
        "the state that a result in memory was made from",
        "aidb/search_memory.py",
        " or kept.stamp != held.stamp",
        "",
        f"{MEMORY}::test_what_was_made_from_another_state_stays_unused",
    ),
    Mutation(
        "cache invalidation",
        "the look whether the server has ended the connection that holds",
        "aidb/search_memory.py",
        " or self._said.poll(0)",
        "",
        f"{MEMORY}::test_a_connection_that_was_ended_holds_nothing",
    ),
    Mutation(
        "atomic chunk swap",
        "the one transaction around the swap",
        "aidb/swap.py",
        "    await _hold_set(connection, table)\n",
        "    await _hold_set(connection, table)\n"
        "    await connection.commit()\n"
        "    await connection.set_autocommit(True)\n",
        "tests/integration/test_ingest_durability.py::test_a_reader_sees_one_edition_or_the_other",
    ),
    Mutation(
        "atomic chunk swap",
        "the removal of the chunks of the version before",
        "aidb/swap.py",
        'execute("DELETE FROM chunks WHERE document_id = ANY(%s)", [ids])',
        'execute("SELECT 1 WHERE false")',
        "tests/integration/test_ingest_durability.py::test_a_reader_sees_one_edition_or_the_other",
    ),
    Mutation(
        "atomic chunk swap",
        "the check that this version is still the wanted one",
        "aidb/swap.py",
        "wanted_ids = await _still_wanted(connection, there)",
        "wanted_ids = {swap.document_id for swap in there}",
        "tests/integration/test_ingest.py::test_an_older_version_never_overwrites_a_newer_one",
    ),
)


def source(mutation: Mutation) -> Path:
    """A copy of `src/` with the mutation in it."""
    copy = Path(tempfile.mkdtemp(prefix="aistack-mutation-")) / "src"
    shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
    target = copy / "aistack" / mutation.file
    text = target.read_text(encoding="utf-8")
    if mutation.old not in text:
        raise SystemExit(f"{mutation.file}: the text to remove is not there: {mutation.old!r}")
    target.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    return copy


def run(test: str, src: Path | None) -> tuple[int, str]:
    """pytest's exit code and its last lines, with the sources at `src`."""
    environment = dict(os.environ)
    if src is not None:
        environment["PYTHONPATH"] = str(src)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "--no-cov", "-p", "no:cacheprovider", test],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout[-2000:]


def main() -> int:
    """Runs every mutation whose safeguard or test contains an argument; writes the page for all."""
    wanted = sys.argv[1:]
    rows, missed = [], 0
    for mutation in MUTATIONS:
        if wanted and not any(w in mutation.safeguard or w in mutation.test for w in wanted):
            continue
        began = time.monotonic()
        intact, _ = run(mutation.test, None)
        copy = source(mutation)
        broken, output = run(mutation.test, copy)
        shutil.rmtree(copy.parent)
        # 0: all passed, 1: a test failed; anything else is an error of pytest's own.
        good = intact == 0 and broken == 1
        missed += not good
        verdict = "noticed" if good else f"NOT NOTICED (intact {intact}, mutated {broken})"
        seconds = time.monotonic() - began
        print(f"{verdict}: {mutation.safeguard}: {mutation.removed} [{seconds:.0f} s]")
        if not good:
            print(output)
        rows.append(
            f"| {mutation.safeguard} | {mutation.removed} (`{mutation.file}`) |"
            f" `{mutation.test.split('/')[-1]}` | passed | {'failed' if broken == 1 else broken} |"
        )
    if not wanted:
        PAGE.write_text(PAGE_HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    return 1 if missed else 0


PAGE_HEAD = """# Mutations

What happens when a safeguard is removed: the named test fails. `make mutations` removes each once
in a copy of the sources, runs its test on the intact and on the mutated copy, and writes this page.

| safeguard | removed | test | intact | mutated |
|---|---|---|---|---|
"""

if __name__ == "__main__":
    sys.exit(main())
