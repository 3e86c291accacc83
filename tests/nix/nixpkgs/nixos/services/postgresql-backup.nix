# services.postgresqlBackup.*
# Facts: nixos/modules/services/backup/postgresql-backup.nix, read in the copy faukah/nixpkgs at
# 3b20077cd82fd1f099e92e2792d73e3176d4869d; it requires postgresql.target in the tree of July 2026.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.services.postgresqlBackup;
  plain = type: default: mkOption { inherit type default; };
  suffix =
    if cfg.compression == "gzip" then
      ".gz"
    else if cfg.compression == "zstd" then
      ".zstd"
    else
      "";
  compress =
    if cfg.compression == "gzip" then
      "${pkgs.gzip}/bin/gzip -c -${toString cfg.compressionLevel} --rsyncable"
    else if cfg.compression == "zstd" then
      "${pkgs.zstd}/bin/zstd -c -${toString cfg.compressionLevel} --rsyncable"
    else
      "cat";
  service = database: dump: {
    enable = true;
    description = "Backup of ${database} database(s)";
    requires = [ "postgresql.target" ];
    path = [
      pkgs.coreutils
      config.services.postgresql.package
    ];
    script = ''
      set -o pipefail
      umask 0077
      cd ${cfg.location}
      if [ -e ${database}.sql${suffix} ]; then
        rm -f ${database}.prev.sql*
        mv ${database}.sql${suffix} ${database}.prev.sql${suffix}
      fi
      ${dump} | ${compress} > ${database}.in-progress.sql${suffix}
      mv ${database}.in-progress.sql${suffix} ${database}.sql${suffix}
    '';
    serviceConfig = {
      Type = "oneshot";
      User = "postgres";
    };
    startAt = cfg.startAt;
  };
in
{
  options.services.postgresqlBackup = {
    enable = lib.mkEnableOption "PostgreSQL dumps";
    startAt = plain (types.either types.str (types.listOf types.str)) "*-*-* 01:15:00";
    backupAll = mkOption {
      type = types.bool;
      default = cfg.databases == [ ];
    };
    databases = plain (types.listOf types.str) [ ];
    location = plain types.path "/var/backup/postgresql";
    pgdumpOptions = plain (types.separatedString " ") "-C";
    pgdumpAllOptions = plain types.str "";
    compression = plain (types.enum [ "none" "gzip" "zstd" ]) "gzip";
    compressionLevel = plain (types.ints.between 1 19) 6;
  };
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.backupAll -> cfg.databases == [ ];
        message = "config.services.postgresqlBackup.backupAll cannot be used together with config.services.postgresqlBackup.databases";
      }
      {
        assertion = cfg.compression != "gzip" || cfg.compressionLevel <= 9;
        message = "config.services.postgresqlBackup.compressionLevel must be set between 1 and 9";
      }
    ];
    systemd.tmpfiles.rules = [ "d '${cfg.location}' 0700 postgres - - -" ];
    systemd.services =
      if cfg.backupAll then
        { postgresqlBackup = service "all" "pg_dumpall ${cfg.pgdumpAllOptions}"; }
      else
        lib.listToAttrs (
          map (
            database:
            lib.nameValuePair "postgresqlBackup-${database}" (
              service database "pg_dump ${cfg.pgdumpOptions} ${database}"
            )
          ) cfg.databases
        );
  };
}
