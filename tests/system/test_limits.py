"""What the kernel enforces, in a guest with a kernel of its own."""

from __future__ import annotations

import shlex

import pytest

from system.stack import LLAMA, UNITS, Stack

#: Fixtures, which download and build, have limits of their own.
pytestmark = pytest.mark.timeout(600, func_only=True)

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
    machine.succeed(f"setsid bash -c {shlex.quote(hog)} > /dev/null 2>&1 < /dev/null &")
    # First it is slowed down at MemoryHigh, it alone.
    machine.wait_until_succeeds(f"grep -qE '^high [1-9]' {group}/memory.events", timeout=60)
    assert limited.request("GET", "/v1/collections")[0] == 200
    # Without that brake it runs into MemoryMax at once, not after minutes.
    machine.succeed(f"systemctl set-property --runtime {OFFENDER} MemoryHigh=infinity")
    limited.wait_restarted(OFFENDER, before[OFFENDER], timeout=200)
    texts = [one.text for one in limited.journal(since) if one.unit == OFFENDER]
    assert any("oom-kill" in text for text in texts), texts
    machine.succeed(f"systemctl revert {OFFENDER}")
    limited.check("ready")
    assert limited.invocations(*others) == untouched
    assert limited.failed_units() == []
