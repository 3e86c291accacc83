# What breaks comes back by itself, and takes nothing else with it; restarts lose no request.
{ common, ... }:
{
  name = "aistack-resilience";

  nodes.machine = common.stack;

  testScript = ''
    import json

    services = ${common.servicesLiteral}


    def unit(name: str) -> str:
        return f"aistack-{name}.service"


    def restarts(name: str) -> int:
        return int(machine.get_unit_property(unit(name), "NRestarts"))


    def back_by_itself(name: str, count: int) -> None:
        machine.wait_until_succeeds(
            f"test $(systemctl show --property=NRestarts --value {unit(name)}) -gt {count}"
            f" && systemctl is-active {unit(name)}"
        )


    start_all()
    machine.wait_for_unit("aistack.target")
    machine.wait_for_unit("nginx.service")
    machine.succeed("aistack-check ready --timeout 300")

    with subtest("a killed service is back by itself, and the others never noticed"):
        for name in services:
            counts = {other: restarts(other) for other in services}
            machine.succeed(f"systemctl kill --signal=KILL {unit(name)}")
            back_by_itself(name, counts[name])
            machine.succeed("aistack-check ready --timeout 120")
            for other in services:
                if other != name:
                    assert restarts(other) == counts[other], other

    with subtest("a hung event loop is killed by the watchdog"):
        for name in services:
            count = restarts(name)
            machine.succeed(f"kill -STOP $(systemctl show --property=MainPID --value {unit(name)})")
            back_by_itself(name, count)
            machine.succeed(f"journalctl --boot --unit={unit(name)} | grep 'Watchdog timeout'")
        machine.succeed("aistack-check ready --timeout 120")

    with subtest("the memory limit kills only the offender"):
        counts = {name: restarts(name) for name in services}
        limit = machine.get_unit_property(unit("embeddings"), "MemoryMax")
        change = f"systemctl set-property --runtime {unit('embeddings')}"
        machine.succeed(f"{change} MemoryMax=48M")
        machine.wait_until_succeeds(f"journalctl --boot --unit={unit('embeddings')} | grep oom-kill")
        machine.succeed(f"{change} MemoryMax={limit}")
        machine.succeed("aistack-check ready --timeout 120")
        for name in services:
            if name != "embeddings":
                assert restarts(name) == counts[name], name

    with subtest("ten restarts of each service under load lose no request"):
        machine.succeed(
            "rm -f /tmp/enough; systemd-run --unit=load --remain-after-exit"
            " $(command -v aistack-check) load --until /tmp/enough --report /tmp/report.json"
        )
        for name in services:
            for _ in range(10):
                machine.succeed(f"systemctl restart {unit(name)}")
        machine.succeed("touch /tmp/enough")
        machine.wait_until_fails("systemctl show --property=SubState load | grep running")
        report = json.loads(machine.succeed("cat /tmp/report.json"))
        print(report)
        assert report["requests"] > 10 * len(services)
        assert report["failed"] == 0
        assert machine.get_unit_property("load.service", "Result") == "success"
        machine.succeed("systemctl stop load.service")

    with subtest("without Redis everything still works"):
        machine.succeed("systemctl stop redis-aistack.service")
        machine.succeed("aistack-check story")
        machine.succeed("systemctl start redis-aistack.service")

    with subtest("without PostgreSQL its routes say 503, the others answer, and it comes back"):
        machine.succeed("systemctl stop postgresql.service")
        machine.succeed("aistack-check down --service aidb")
        machine.succeed("systemctl start postgresql.target")
        machine.succeed("aistack-check ready --timeout 120", "aistack-check story")

    with subtest("a service that is down is 503 with Retry-After, never 502"):
        for name in services:
            machine.succeed(f"systemctl stop aistack-{name}.socket {unit(name)}")
            machine.succeed(f"aistack-check down --service {name}")
            machine.succeed(f"systemctl start aistack-{name}.socket {unit(name)}")
            machine.succeed("aistack-check ready --timeout 120")

    assert machine.succeed("systemctl list-units --state=failed --plain --no-legend") == ""
  '';
}
