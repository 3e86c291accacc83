# A backup, its copy by restic, and the way back: documents that were deleted after the backup are
# found again, those made after it are gone, and a restore can itself be undone.
{ common, pkgs, ... }:
{
  name = "aistack-backup-restore";

  nodes.machine =
    { config, ... }:
    {
      imports = [ common.stack ];

      services.aistack.backup.restic = [ "offsite" ];

      # To another directory instead of another machine.
      services.restic.backups.offsite = {
        paths = config.services.aistack.backup.request.sourceDirectories;
        repository = "/var/lib/offsite";
        passwordFile = "${pkgs.writeText "restic-password" "for this test only"}";
        initialize = true;
      };
      environment.systemPackages = [ pkgs.restic ];
    };

  testScript = ''
    machine.start()
    machine.wait_for_unit("aistack.target")
    machine.wait_for_unit("nginx.service")
    machine.succeed("aistack-check ready --timeout 300")
    machine.succeed("aistack-check store --collection kept --state /root/kept.json")

    with subtest("a backup is one command, and nobody but root can read it"):
        machine.succeed("systemctl start aistack-backup.service")
        newest = machine.succeed("ls /var/backup/aistack | sort | tail --lines=1").strip()
        assert newest, "no backup was made"
        stranger = "setpriv --regid=nogroup --clear-groups --reuid=nobody"
        machine.fail(f"{stranger} ls /var/backup/aistack/{newest}")

    with subtest("what came after the backup is gone after a restore, what it holds is found"):
        machine.succeed("aistack-check store --collection later --state /root/later.json")
        machine.succeed("systemctl start aistack-restore@latest.service")
        machine.succeed("aistack-check ready --timeout 300")
        machine.succeed("aistack-check recall --collection kept --state /root/kept.json")
        machine.fail("aistack-check recall --collection later --state /root/later.json")

    with subtest("a restore can be undone"):
        machine.succeed("systemctl start aistack-restore@undo.service")
        machine.succeed("aistack-check ready --timeout 300")
        machine.succeed("aistack-check recall --collection later --state /root/later.json")

    with subtest("restic takes the backup elsewhere, and it can be restored from there"):
        machine.succeed("systemctl start restic-backups-offsite.service")
        machine.succeed("rm -r /var/backup/aistack")
        machine.succeed("restic-offsite restore latest --target /")
        machine.succeed(f"systemctl start aistack-restore@{newest}.service")
        machine.succeed("aistack-check ready --timeout 300")
        machine.succeed("aistack-check recall --collection kept --state /root/kept.json")

    with subtest("the key store comes back by hand"):
        machine.succeed("aistack keys create gone --write /root/gone")
        machine.succeed(f"systemctl start aistack-restore-keys@{newest}.service")
        machine.succeed("aistack-check ready --timeout 60")
        machine.fail("aistack keys list | grep gone")

    assert machine.succeed("systemctl list-units --state=failed --plain --no-legend") == ""
  '';
}
