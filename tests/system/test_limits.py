"""What the kernel enforces, in a guest with a kernel of its own."""

from __future__ import annotations

import shlex

import pytest

from system.stack import LLAMA, UNITS, Stack

pytestmark = pytest.mark.timeout(600)

OFFENDER = "aistack-embeddings.service"


def test_a_unit_over_its_memory_is_killed_alone_and_comes_back(limited: Stack) -> None:
    machine = limited.machine
    limited.wait()
    limited.check("ready")
    others = [unit for unit in (*UNITS, LLAMA, "redis-aistack.service") if unit != OFFENDER]
    before, untouched = limited.invocations(OFFENDER), limited.invocations(*others)
    show = machine.show(OFFENDER, "ControlGroup", "MemoryMax", "NRestarts")
    group = f"/sys/fs/cgroup{show['ControlGroup']}"
    limit = int(show["MemoryMax"])
    assert machine.succeed(f"cat {group}/memory.max").strip() == str(limit)
    since = machine.cursor()
    # One more process of the unit, as a leak in it would be, takes more than the unit may have.
    code = f"x = bytearray({limit}); x[::4096] = b'x' * len(x[::4096])"
    hog = f"echo $$ > {group}/cgroup.procs; exec python3 -c {shlex.quote(code)}"
    answer = machine.run(f"bash -c {shlex.quote(hog)}", timeout=120)
    assert answer.status in {-9, 137}, answer
    limited.wait_restarted(OFFENDER, before[OFFENDER], timeout=200)
    texts = [one.text for one in limited.journal(since) if one.unit == OFFENDER]
    assert any("oom-kill" in text for text in texts), texts
    limited.check("ready")
    assert limited.invocations(*others) == untouched
    assert limited.failed_units() == []
