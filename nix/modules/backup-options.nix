# What is said about backups.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  own = config.services.aistack.backup;
  local = config.services.aistack.postgresql.createLocally;
in
{
  options.services.aistack.backup = {
    enable = mkOption {
      type = types.bool;
      default = local;
      defaultText = lib.literalMD "whether the database is on this machine";
      description = ''
        Whether backups are made: of the database, the key store, secrets and the state of other
        parts, into {option}`services.aistack.backup.directory`.
      '';
    };
    directory = mkOption {
      type = types.str;
      default = "/var/backup/aistack";
      description = "Where backups are kept, one directory each. Best on another disk.";
    };
    startAt = mkOption {
      type = types.str;
      default = "*-*-* 02:30:00";
      example = "hourly";
      description = "When a backup is made, as in systemd.time(7); missed ones are made at the next start.";
    };
    keep = mkOption {
      type = types.ints.positive;
      default = 7;
      description = "How many good backups are kept; when one more succeeds, the oldest is deleted.";
    };
    maxAgeHours = mkOption {
      type = types.ints.positive;
      default = 36;
      description = "Age of the newest good backup above which an alert fires.";
    };
    compression = mkOption {
      type = types.ints.between 0 9;
      default = 6;
      description = "Compression of the dump. 0 suits a provider that finds equal parts, such as restic.";
    };
    extraDirectories = mkOption {
      type = types.attrsOf (types.strMatching "/.+");
      default = { };
      example = {
        notes = "/var/lib/notes";
      };
      description = "More directories to copy into each backup, by name.";
    };
    postgresqlPackage = mkOption {
      type = types.package;
      # Upstream gives its option a value only where the server runs.
      default = if local then config.services.postgresql.package else pkgs.postgresql;
      defaultText = lib.literalMD ''
        that of this machine's server; `pkgs.postgresql` where the database is elsewhere
      '';
      description = ''
        PostgreSQL whose `pg_dump` and `pg_restore` are used. It must not be older than the server:
        pg_dump refuses a newer one, and the backup fails.
      '';
    };
    restic = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "offsite" ];
      description = ''
        Names of `services.restic.backups` that carry these backups away: each runs after a fresh
        one. Give it `paths = config.services.aistack.backup.request.sourceDirectories`.
      '';
    };
    request = mkOption {
      type = types.raw;
      readOnly = true;
      default = {
        user = "root";
        sourceDirectories = [ own.directory ];
        excludePatterns = [
          "${own.directory}/.partial-*"
          "${own.directory}/.deleting-*"
          "${own.directory}/.lock"
        ];
      };
      defaultText = lib.literalMD "made from {option}`services.aistack.backup.directory`";
      description = ''
        What a provider that carries backups away is asked to take: `user` who can read it,
        `sourceDirectories`, and `excludePatterns` of what is not a finished backup.
      '';
    };
    result = mkOption {
      type = types.raw;
      readOnly = true;
      default = {
        backupUnit = "aistack-backup.service";
        restoreUnit = "aistack-restore@.service";
      };
      defaultText = lib.literalMD "the names of the units";
      description = ''
        How a backup is made and how one is restored: `backupUnit`, to start before it is carried
        away, and the template `restoreUnit`, whose instance is the name of a backup or `latest`.
      '';
    };
  };
}
