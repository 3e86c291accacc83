# services.restic.backups.*
# Facts: nixos/modules/services/backup/restic.nix, read in the copy faukah/nixpkgs at
# 3b20077cd82fd1f099e92e2792d73e3176d4869d; `command` and the nullable passwordFile as in the tree of
# July 2026.
{ config, lib, pkgs, utils, ... }:
let
  inherit (lib) mkOption types;
  plain = type: default: mkOption { inherit type default; };
  nullStr = plain (types.nullOr types.str) null;
  strings = plain (types.listOf types.str) [ ];
  unitOption = types.oneOf [
    types.bool
    types.int
    types.str
    (types.listOf types.str)
  ];
  backup = { config, ... }: {
   options = {
    passwordFile = nullStr;
    environmentFile = nullStr;
    repository = nullStr;
    repositoryFile = plain (types.nullOr types.path) null;
    paths = plain (types.nullOr (types.listOf types.str)) [ ];
    command = strings;
    exclude = strings;
    dynamicFilesFrom = nullStr;
    initialize = plain types.bool false;
    inhibitsSleep = plain types.bool false;
    timerConfig = plain (types.nullOr (types.attrsOf unitOption)) {
      OnCalendar = "daily";
      Persistent = true;
    };
    user = plain types.str "root";
    extraBackupArgs = strings;
    extraOptions = strings;
    pruneOpts = strings;
    runCheck = plain types.bool (config.checkOpts != [ ]);
    checkOpts = strings;
    backupPrepareCommand = nullStr;
    backupCleanupCommand = nullStr;
    package = lib.mkPackageOption pkgs "restic" { };
    createWrapper = plain types.bool true;
    progressFps = plain (types.nullOr types.numbers.nonnegative) null;
   };
  };
  service =
    name: b:
    let
      restic = "${b.package}/bin/restic${lib.concatMapStrings (o: " -o ${o}") b.extraOptions}";
      excluded = lib.optional (b.exclude != [ ]) "--exclude-file=${
        pkgs.writeText "exclude-patterns" (lib.concatStringsSep "\n" b.exclude)
      }";
      paths = lib.defaultTo [ ] b.paths;
      arguments = b.extraBackupArgs ++ excluded ++ [ "--files-from=/run/restic-backups-${name}/includes" ];
    in
    {
      environment = {
        RESTIC_CACHE_DIR = "/var/cache/restic-backups-${name}";
        RESTIC_PASSWORD_FILE = b.passwordFile;
        RESTIC_REPOSITORY = b.repository;
        RESTIC_REPOSITORY_FILE = b.repositoryFile;
      };
      path = [ pkgs.openssh ];
      restartIfChanged = false;
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      serviceConfig = {
        Type = "oneshot";
        ExecStart =
          lib.optional (paths != [ ] || b.dynamicFilesFrom != null) "${restic} backup ${toString arguments}"
          ++ lib.optionals (b.pruneOpts != [ ]) [
            "${restic} unlock"
            "${restic} forget --prune ${toString b.pruneOpts}"
          ]
          ++ lib.optional b.runCheck "${restic} check ${toString b.checkOpts}";
        User = b.user;
        RuntimeDirectory = "restic-backups-${name}";
        CacheDirectory = "restic-backups-${name}";
        CacheDirectoryMode = "0700";
        PrivateTmp = true;
      }
      // lib.optionalAttrs (b.environmentFile != null) { EnvironmentFile = b.environmentFile; };
      preStart = ''
        ${lib.optionalString (b.backupPrepareCommand != null) b.backupPrepareCommand}
        ${lib.optionalString b.initialize "${restic} cat config > /dev/null || ${restic} init"}
        ${lib.optionalString (paths != [ ]) ''
          cat ${pkgs.writeText "staticPaths" (lib.concatLines paths)} >> /run/restic-backups-${name}/includes
        ''}
        ${lib.optionalString (b.dynamicFilesFrom != null) ''
          ${pkgs.writeScript "dynamicFilesFromScript" b.dynamicFilesFrom} >> /run/restic-backups-${name}/includes
        ''}
      '';
      postStop = ''
        ${lib.optionalString (b.backupCleanupCommand != null) b.backupCleanupCommand}
        rm /run/restic-backups-${name}/includes
      '';
    };
  cfg = config.services.restic.backups;
  named = f: lib.mapAttrs' (name: b: lib.nameValuePair "restic-backups-${name}" (f name b));
in
{
  options.services.restic.backups = plain (types.attrsOf (types.submodule backup)) { };
  config = {
    assertions = lib.mapAttrsToList (name: b: {
      assertion = (b.repository == null) != (b.repositoryFile == null) || b.environmentFile != null;
      message = "services.restic.backups.${name}: exactly one of repository, repositoryFile or environmentFile should be set";
    }) cfg;
    systemd.services = named service cfg;
    systemd.timers = named (_: b: {
      wantedBy = [ "timers.target" ];
      inherit (b) timerConfig;
    }) (lib.filterAttrs (_: b: b.timerConfig != null) cfg);
  };
}
