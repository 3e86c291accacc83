# One machine, from cold: every unit comes up, documents go in, cited answers come out over TLS, a
# reboot keeps them, and the target stops in order.
{ common, ... }:
{
  name = "aistack-stack";

  nodes.machine = common.stack;

  testScript = ''
    services = ${common.servicesLiteral}


    def units(state: str) -> list[str]:
        listed = machine.succeed(f"systemctl list-units --state={state} --plain --no-legend")
        return [line.split()[0] for line in listed.splitlines()]


    def started(unit: str) -> int:
        return int(machine.get_unit_property(unit, "ExecMainStartTimestampMonotonic"))


    machine.start()

    with subtest("the target comes up from cold, and no unit has failed"):
        machine.wait_for_unit("aistack.target")
        machine.wait_for_unit("nginx.service")
        machine.succeed("aistack-check ready --timeout 300")
        assert units("failed") == []
        for name in services:
            machine.require_unit_state(f"aistack-{name}.service")

    with subtest("the journal of the services has no error"):
        assert machine.succeed("journalctl --boot --priority=err --quiet --unit='aistack-*'") == ""

    with subtest("documents in, cited answers out"):
        machine.succeed("aistack-check story")

    with subtest("metrics are on loopback only, and nothing else listens beyond it"):
        machine.succeed("aistack-check metrics", "aistack-check ports")

    with subtest("plain HTTP is sent to HTTPS"):
        machine.succeed("aistack-check redirect")

    with subtest("the migration ran once"):
        before = started("aistack-migrate.service")
        assert before > 0
        machine.succeed("systemctl restart aistack-aidb.service")
        machine.succeed("aistack-check ready --timeout 120")
        assert started("aistack-migrate.service") == before

    with subtest("secrets are for those who need them"):
        stranger = "setpriv --regid=nogroup --clear-groups --reuid"
        for path in (
            "/var/lib/aistack/keys/pepper",
            "${common.defaultKey}",
            "/run/credentials/aistack-aidb.service/pepper",
        ):
            machine.succeed(f"head --bytes=1 {path}")
            for user in ("nobody", "nginx", "aistack-embeddings"):
                machine.fail(f"{stranger}={user} head --bytes=1 {path}")
        search = "grep --fixed-strings --file=${common.defaultKey}"
        machine.fail(f"journalctl --boot | {search}")
        machine.fail(f"{search} --recursive /etc /run/systemd")

    with subtest("documents are still there after a reboot"):
        machine.succeed("aistack-check store --collection kept --state /root/kept.json")
        machine.shutdown()
        machine.start()
        machine.wait_for_unit("aistack.target")
        machine.succeed("aistack-check ready --timeout 300")
        machine.succeed("aistack-check recall --collection kept --state /root/kept.json")

    with subtest("the target stops in order and starts again"):
        machine.succeed("systemctl stop aistack.target")
        for name in services:
            unit = f"aistack-{name}.service"
            # systemctl waits for the target alone; the services are still draining.
            machine.wait_until_succeeds(
                f"test $(systemctl show --property=ActiveState --value {unit}) = inactive"
            )
            assert machine.get_unit_property(unit, "Result") == "success", unit
        machine.succeed("systemctl start aistack.target")
        machine.succeed("aistack-check ready --timeout 300")
        assert units("failed") == []
  '';
}
