# A new generation under load: nothing is lost on the way there or back, documents stay, and a
# migration that has nothing to do does nothing.
{
  common,
  own,
  pkgs,
  ...
}:
{
  name = "aistack-upgrade";

  nodes.machine = {
    imports = [ common.stack ];

    # The same program in another place, with another setting: every unit changes.
    specialisation.newer.configuration.services.aistack = {
      package =
        pkgs.symlinkJoin {
          name = "aistack-newer";
          paths = [ own.aistack ];
        }
        // {
          inherit (own.aistack) meta;
        };
      settings.aidb.candidates = 50;
    };
  };

  testScript =
    { nodes, ... }:
    ''
      import json

      services = ${common.servicesLiteral}
      older = "${nodes.machine.system.build.toplevel}"
      newer = f"{older}/specialisation/newer"


      def programs() -> set[str]:
          pids = [
              machine.get_unit_property(f"aistack-{name}.service", "ExecStart") for name in services
          ]
          return {line.split("path=")[1].split(" ")[0] for line in pids}


      def switch_under_load(system: str) -> None:
          machine.succeed(
              "rm -f /tmp/enough; systemd-run --unit=load --remain-after-exit"
              " $(command -v aistack-check) load --until /tmp/enough --report /tmp/report.json"
          )
          machine.succeed(f"{system}/bin/switch-to-configuration test")
          machine.succeed("aistack-check ready --timeout 300")
          machine.succeed("touch /tmp/enough")
          machine.wait_until_fails("systemctl show --property=SubState load | grep running")
          report = json.loads(machine.succeed("cat /tmp/report.json"))
          print(report)
          assert report["requests"] > 0
          assert report["failed"] == 0
          machine.succeed("systemctl stop load.service")


      start_all()
      machine.wait_for_unit("aistack.target")
      machine.wait_for_unit("nginx.service")
      machine.succeed("aistack-check ready --timeout 300")
      machine.succeed("aistack-check store --collection kept --state /root/kept.json")
      before = programs()

      with subtest("the new generation takes over without a lost request"):
          switch_under_load(newer)
          after = programs()
          assert before.isdisjoint(after), (before, after)

      with subtest("documents are still found"):
          machine.succeed("aistack-check recall --collection kept --state /root/kept.json")
          machine.succeed("aistack-check story")

      with subtest("and back"):
          switch_under_load(older)
          assert programs() == before
          machine.succeed("aistack-check recall --collection kept --state /root/kept.json")

      assert machine.succeed("systemctl list-units --state=failed --plain --no-legend") == ""
    '';
}
