"""The rendered stack on real systemd as it comes up, in a guest that the tests use in their order.

`test_stack_faults` then breaks it.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shlex

import pytest

from system.assemble import RENDERED
from system.closure import REPOSITORY
from system.differences import Differences
from system.driver import Machine
from system.stack import (
    DATA,
    EARLY,
    KEYS,
    LLAMA,
    SERVICES,
    TLS,
    TRANSIENT,
    UNITS,
    Stack,
    complaints,
    services,
)

#: Fixtures, which download and build, have limits of their own.
pytestmark = pytest.mark.timeout(600, func_only=True)


def test_the_whole_target_is_up_from_cold(stack: Stack, machine: Machine) -> None:
    stack.wait()
    assert stack.failed_units() == []
    wanted = (*UNITS, LLAMA, *DATA, "nginx.service", "prometheus.service", "aistack.slice")
    assert stack.active(*wanted) == dict.fromkeys(wanted, "active")
    restarts = {unit: machine.get_unit_property(unit, "NRestarts") for unit in (*UNITS, LLAMA)}
    assert restarts == dict.fromkeys(restarts, "0")
    assert machine.succeed("systemctl is-system-running --wait").strip() == "running"
    machine.log(machine.succeed("systemd-analyze time | head -1").strip())


def test_the_journal_of_the_start_is_clean(stack: Stack, machine: Machine) -> None:
    messages = stack.journal()
    assert len(messages) > 50
    assert complaints(messages, machine.engine.name) == []


def test_the_migration_ran_once_and_before_the_services(stack: Stack, machine: Machine) -> None:
    lines = [one.text for one in stack.journal() if one.unit == "aistack-migrate.service"]
    assert sum(text.startswith("Finished ") for text in lines) == 1
    assert any("empty → " in text for text in lines)
    ended = machine.get_unit_property("aistack-migrate.service", "ExecMainExitTimestampMonotonic")
    begun = machine.get_unit_property("aistack-aidb.service", "ExecMainStartTimestampMonotonic")
    assert 0 < int(ended) <= int(begun)


def test_the_engine_that_compiles_may_under_its_unit(stack: Stack) -> None:
    # `auto` loads every engine of the package once and leaves out those that cannot be used.
    lines = [one.text for one in stack.journal() if one.unit == "aistack-embeddings.service"]
    (chosen,) = [json.loads(text) for text in lines if '"engine_chosen"' in text]
    assert {one.split()[0] for one in chosen["measured"]} == {"onnx", "openvino"}


def test_it_is_ready(stack: Stack) -> None:
    stack.check("ready")


def test_documents_in_cited_answers_out(stack: Stack) -> None:
    stack.check("story")
    stack.check("store", "--state", "/run/check-store.json")


def test_nobody_gets_in_without_the_right_key(stack: Stack, machine: Machine) -> None:
    machine.succeed(
        "AISTACK_DATA_DIR=/var/lib/aistack /usr/lib/aistack/bin/aistack keys create narrow"
        " --scope search --write /run/narrow.key"
    )
    # Every service has read the new key within a second.
    machine.wait_until_succeeds(
        stack.command("auth", "--narrow-key-file", "/run/narrow.key"), timeout=20
    )


def test_plain_http_leads_to_https(stack: Stack) -> None:
    stack.check("redirect")


def test_only_nginx_listens_beyond_loopback(stack: Stack) -> None:
    stack.check("ports")


def test_prometheus_reaches_every_target(stack: Stack) -> None:
    stack.check("metrics")


def test_traces_of_services_without_a_network_arrive(machine: Machine) -> None:
    machine.wait_until_succeeds(
        " && ".join(f"grep -q '\"{name}\"' /run/otlp.jsonl" for name in SERVICES), timeout=60
    )
    spans = [json.loads(line) for line in machine.succeed("cat /run/otlp.jsonl").splitlines()]
    traces: dict[str, set[str]] = {}
    for span in spans:
        traces.setdefault(span["trace"], set()).add(span["service"])
    # A question goes through all of them under one id.
    assert any(len(seen) == len(SERVICES) for seen in traces.values()), spans[:5]


def test_the_recipes_of_the_documentation_work(machine: Machine) -> None:
    page = (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- system test -->\n```console\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 5
    for block in blocks:
        lines = [line.removeprefix("# ") for line in block.splitlines() if line.startswith("# ")]
        assert lines
        machine.succeed("\n".join(lines), timeout=180)


def test_a_backup_is_restored_and_the_restore_undone(stack: Stack, machine: Machine) -> None:
    machine.succeed("systemctl start aistack-backup.service", timeout=180)
    assert len(machine.succeed("ls /var/backup/aistack").split()) == 1
    machine.succeed(
        "grep -qx 'aistack_backup_last_run_success 1' /var/lib/aistack-metrics/aistack_backup.prom"
    )
    late = ["--collection", "check-late", "--state", "/run/check-late.json"]
    stack.check("store", *late)
    machine.succeed("systemctl start aistack-restore@latest.service", timeout=180)
    stack.check("ready")
    stack.check("recall", "--state", "/run/check-store.json")
    assert "404" in stack.tried("recall", *late).stderr
    machine.succeed("systemctl start aistack-restore@undo.service", timeout=180)
    stack.check("ready")
    stack.check("recall", *late)
    assert stack.failed_units() == []


@pytest.mark.parametrize("name", SERVICES)
def test_a_client_that_comes_before_its_service_is_answered(
    stack: Stack, machine: Machine, name: str
) -> None:
    machine.succeed(f"systemctl stop aistack-{name}.service")
    status, text = stack.request(*EARLY[name])
    assert status == 200, text
    assert stack.active(f"aistack-{name}.service") == {f"aistack-{name}.service": "active"}


def as_service(machine: Machine, name: str) -> str:
    """What stands before a command so that it runs with the rights and the files of a service."""
    process = machine.get_unit_property(f"aistack-{name}.service", "MainPID")
    status = machine.succeed(f"cat /proc/{process}/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    user, group = fields["Uid"].split()[0], fields["Gid"].split()[0]
    groups = ",".join(fields["Groups"].split()) or group
    return (
        f"nsenter --target {process} --mount -- setpriv --reuid={user} --regid={group}"
        f" --groups={groups} --no-new-privs --bounding-set=-all --inh-caps=-all --"
    )


def test_a_service_reads_its_own_credentials_and_no_others(stack: Stack, machine: Machine) -> None:
    stack.check("ready")
    for name in SERVICES:
        prefix = as_service(machine, name)
        own = f"/run/credentials/aistack-{name}.service"
        assert "pepper" in machine.succeed(f"{prefix} ls {own}")
        machine.succeed(f"{prefix} cat {own}/pepper {own}/internal-key {KEYS}/keys.json >/dev/null")
        others = [other for other in SERVICES if other != name]
        forbidden = [f"/run/credentials/aistack-{other}.service/pepper" for other in others]
        forbidden += [f"{KEYS}/internal/{other}.key" for other in SERVICES]
        forbidden += [f"{KEYS}/pepper", f"{KEYS}/default.key", f"{TLS}/server.pem"]
        for other in others:
            process = machine.get_unit_property(f"aistack-{other}.service", "MainPID")
            forbidden.append(f"/proc/{process}/environ")
        for path in forbidden:
            machine.succeed(f"test -e {path}")
            machine.fail(f"{prefix} cat {path}")


def test_a_service_connects_to_the_sockets_that_the_table_says(
    stack: Stack, machine: Machine
) -> None:
    table = services()
    for name in SERVICES:
        prefix = as_service(machine, name)
        for other in SERVICES:
            code = (
                "import socket; s = socket.socket(socket.AF_UNIX);"
                f" s.connect('/run/aistack/{other}.sock')"
            )
            answer = machine.run(f"{prefix} python3 -c {shlex.quote(code)}")
            assert (answer.status == 0) == (name in table[other]["clients"]), (name, other, answer)
            if answer.status != 0:
                assert "PermissionError" in answer.stderr


def test_no_secret_is_in_the_store_the_journal_or_a_process(machine: Machine) -> None:
    """Each search must find the one secret that is planted for it, and nothing else."""
    planted = f"planted{secrets.token_hex(16)}"
    machine.succeed(
        "rm -rf /run/search; mkdir --mode=0700 /run/search",
        f"for file in {KEYS}/pepper {KEYS}/default.key {KEYS}/internal/*.key"
        " $(find /var/lib/aistack/secrets -type f); do cat $file; echo; done"
        " | sed '/^$/d' > /run/search/real",
        f"sed -n 2p {TLS}/server.pem >> /run/search/real",
        f"(cat /run/search/real; echo {planted}) > /run/search/patterns",
        f"echo {planted} | systemd-cat",
        f"{TRANSIENT} --unit=planted --setenv=SECRET={planted} sleep 600",
        f"echo {planted} > /etc/planted",
        "journalctl --sync",
    )
    assert int(machine.succeed("wc -l < /run/search/real")) >= 3 + len(SERVICES)
    haystacks = {
        "journal": "journalctl --boot --all --output=export --no-pager > /run/search/journal",
        "processes": (
            "(for file in /proc/[0-9]*/environ /proc/[0-9]*/cmdline; do"
            " cat $file 2> /dev/null || true; echo; done) | tr '\\0' '\\n' > /run/search/processes"
        ),
        "store": "tar -cf /run/search/store /nix/store /etc 2> /dev/null",
        "units": "systemctl show --all '*' > /run/search/units",
    }
    for name, collect in haystacks.items():
        machine.succeed(f"{collect}; test -s /run/search/{name}")
        found = machine.run(
            f"grep --text --only-matching --fixed-strings -f /run/search/patterns"
            f" /run/search/{name} | sort -u"
        ).stdout.split()
        assert found == [planted], f"{name}: {len(found)} secrets"
    machine.succeed("systemctl stop planted.service; rm -rf /run/search /etc/planted")


def test_the_units_run_confined_as_rendered(machine: Machine) -> None:
    """What the kernel says of each process, since systemd skips what a kernel cannot do."""
    unconfined = process_status(machine, "aistack-test-agent.service")
    assert machine.succeed("readlink /proc/1/ns/net")
    for unit in (*UNITS, LLAMA, "redis-aistack.service"):
        status = process_status(machine, unit)
        pid = machine.get_unit_property(unit, "MainPID")
        assert status["Seccomp"] == "2", unit
        assert int(status["Seccomp_filters"]) > int(unconfined["Seccomp_filters"]), unit
        assert status["NoNewPrivs"] == "1", unit
        assert [status[name].lstrip("0") for name in ("CapEff", "CapPrm", "CapBnd")] == [""] * 3
        assert status["Uid"].split()[0] != "0", unit
        if machine.get_unit_property(unit, "PrivateNetwork") == "yes":
            interfaces = machine.succeed(f"nsenter --target {pid} --net cat /proc/net/dev")
            names = {line.split(":")[0].strip() for line in interfaces.splitlines()[2:]}
            assert names - {"sit0"} == {"lo"}, unit
            ours, its = (machine.succeed(f"readlink /proc/{one}/ns/net") for one in (1, pid))
            assert ours != its, unit
        rights = f"nsenter --target {pid} --mount --"
        for path in ("/usr/bin/new", "/etc/new", "/var/lib/new", "/nix/store/new"):
            assert "Read-only file system" in machine.fail(f"{rights} touch {path}"), (unit, path)
        assert machine.succeed(f"{rights} ls /home /root").split() == ["/home:", "/root:"], unit


def process_status(machine: Machine, unit: str) -> dict[str, str]:
    """/proc/<main process>/status of a unit."""
    pid = machine.get_unit_property(unit, "MainPID")
    text = machine.succeed(f"cat /proc/{pid}/status")
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def test_the_guest_has_the_rendered_files_byte_for_byte(machine: Machine) -> None:
    places = {"units": "/etc/systemd/system", "store": "/nix/store", "etc": "/etc"}
    sums: dict[str, str] = {}
    for kind, place in places.items():
        for file in sorted((RENDERED / kind).rglob("*")):
            if file.is_file() and not file.is_symlink():
                path = f"{place}/{file.relative_to(RENDERED / kind)}"
                sums[path] = hashlib.sha256(file.read_bytes()).hexdigest()
    assert len(sums) > 50
    listing = "".join(f"{digest}  {path}\n" for path, digest in sums.items())
    machine.write_file("/run/sums", listing.encode())
    assert machine.run("sha256sum --quiet --strict --check /run/sums").stdout == ""
    machine.succeed("sha256sum --quiet --strict --check /run/sums")
    expected = Differences.read().drop_ins()
    units = [path.name for path in (RENDERED / "units").iterdir() if "@" not in path.name]
    for unit in units:
        wanted = f"/etc/systemd/system/{unit}.d/zz-guest.conf" if unit in expected else ""
        assert machine.get_unit_property(unit, "DropInPaths") == wanted, unit
        fragment = machine.get_unit_property(unit, "FragmentPath")
        assert fragment == f"/etc/systemd/system/{unit}", unit
