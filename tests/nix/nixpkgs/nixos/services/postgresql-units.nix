# services.postgresql.*: postgresql.service, postgresql-setup.service and postgresql.target.
# Facts: as postgresql.nix says.
{ config, lib, pkgs, ... }:
let
  cfg = config.services.postgresql;
  shown =
    value:
    if value == true then
      "yes"
    else if value == false then
      "no"
    else if builtins.isString value then
      "'${lib.replaceStrings [ "'" ] [ "''" ] value}'"
    else
      toString value;
  configuration = pkgs.writeTextDir "postgresql.conf" (
    lib.concatStringsSep "\n" (
      lib.mapAttrsToList (name: value: "${name} = ${shown value}") (
        lib.filterAttrs (_: value: value != null) cfg.settings
      )
    )
  );
  defaultData = "/var/lib/postgresql/${cfg.package.psqlSchema}";
  filter = map (f: f.name) (
    lib.sortOn (f: f.priority) (
      lib.filter (f: f.enable) (lib.mapAttrsToList (name: f: f // { inherit name; }) cfg.systemCallFilter)
    )
  );
  # Names are identifiers of the configuration's author; each is made where it is missing.
  ensureDatabase = database: ''
    found=$(psql -tAc "SELECT 1 FROM pg_database WHERE datname = '${database}'")
    test -n "$found" || psql -tAc 'CREATE DATABASE "${database}"'
  '';
  clauseOf =
    name: value:
    let
      word = lib.toUpper (lib.replaceStrings [ "_" ] [ " " ] name);
    in
    if builtins.isBool value then
      (if value then word else "NO${word}")
    else if builtins.isString value then
      "${word} '${value}'"
    else
      "${word} ${toString value}";
  ensureUser =
    user:
    let
      clauses = lib.mapAttrsToList clauseOf (lib.filterAttrs (_: value: value != null) user.ensureClauses);
      statement = "ALTER ROLE \"${user.name}\" ${lib.concatStringsSep " " clauses};";
    in
    ''
      found=$(psql -tAc "SELECT 1 FROM pg_roles WHERE rolname = '${user.name}'")
      test -n "$found" || psql -tAc 'CREATE USER "${user.name}"'
    ''
    + lib.optionalString (clauses != [ ]) "psql -tAc ${lib.escapeShellArg statement}\n"
    + lib.optionalString user.ensureDBOwnership ''
      psql -tAc 'ALTER DATABASE "${user.name}" OWNER TO "${user.name}";'
    '';
in
{
  config = lib.mkIf cfg.enable {
    systemd.targets.postgresql = {
      description = "PostgreSQL";
      wantedBy = [ "multi-user.target" ];
      requires = [
        "postgresql.service"
        "postgresql-setup.service"
      ];
    };
    systemd.services.postgresql = {
      description = "PostgreSQL Server";
      after = [ "network.target" ];
      partOf = [ "postgresql.target" ];
      # So that starting the service alone makes databases and roles too.
      wants = [ "postgresql.target" ];
      environment.PGDATA = cfg.dataDir;
      path = [ cfg.finalPackage ];
      preStart = ''
        if [ ! -e ${cfg.dataDir}/PG_VERSION ]; then
          rm -f ${cfg.dataDir}/*.conf
          initdb -U ${cfg.superUser} ${lib.escapeShellArgs cfg.initdbArgs}
          touch ${cfg.dataDir}/.first_startup
        fi
        ln -sfn ${configuration}/postgresql.conf ${cfg.dataDir}/postgresql.conf
      '';
      serviceConfig = lib.mkMerge [
        {
          ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
          User = "postgres";
          Group = "postgres";
          RuntimeDirectory = "postgresql";
          Type = "notify";
          KillSignal = "SIGINT";
          KillMode = "mixed";
          TimeoutSec = 120;
          Restart = "always";
          ExecStart = "${cfg.finalPackage}/bin/postgres";
          CapabilityBoundingSet = [ "" ];
          DevicePolicy = "closed";
          PrivateTmp = true;
          ProtectHome = true;
          ProtectSystem = "strict";
          MemoryDenyWriteExecute = lib.mkDefault (cfg.settings.jit == "off");
          NoNewPrivileges = true;
          LockPersonality = true;
          PrivateDevices = true;
          PrivateMounts = true;
          ProcSubset = "pid";
          ProtectClock = true;
          ProtectControlGroups = true;
          ProtectHostname = true;
          ProtectKernelLogs = true;
          ProtectKernelModules = true;
          ProtectKernelTunables = true;
          ProtectProc = "invisible";
          RemoveIPC = true;
          RestrictAddressFamilies = [
            "AF_INET"
            "AF_INET6"
            "AF_NETLINK"
            "AF_UNIX"
          ];
          RestrictNamespaces = true;
          RestrictRealtime = true;
          RestrictSUIDSGID = true;
          SystemCallArchitectures = "native";
          SystemCallFilter = filter;
          UMask = "0027";
        }
        (lib.mkIf (cfg.dataDir != defaultData) { ReadWritePaths = [ cfg.dataDir ]; })
        (lib.mkIf (cfg.dataDir == defaultData) {
          StateDirectory = "postgresql postgresql/${cfg.package.psqlSchema}";
          StateDirectoryMode = "0750";
        })
      ];
      unitConfig = {
        RequiresMountsFor = "${cfg.dataDir}";
        StartLimitIntervalSec = 605;
        StartLimitBurst = 5;
      };
    };
    systemd.services.postgresql-setup = {
      description = "PostgreSQL Setup Scripts";
      requires = [ "postgresql.service" ];
      after = [ "postgresql.service" ];
      environment.PGPORT = toString cfg.settings.port;
      path = [ cfg.finalPackage ];
      serviceConfig = {
        User = "postgres";
        Group = "postgres";
        Type = "oneshot";
        RemainAfterExit = true;
      };
      script = ''
        if [ -f ${cfg.dataDir}/standby.signal ]; then
          echo "a standby: nothing is set up"
          exit 0
        fi
        until [ "$(psql -d postgres -tAc 'SELECT pg_is_in_recovery()' 2> /dev/null)" = f ]; do
          systemctl is-active --quiet postgresql.service
          sleep 0.1
        done
        if [ -e ${cfg.dataDir}/.first_startup ]; then
          ${lib.optionalString (cfg.initialScript != null) "psql -d postgres -f ${cfg.initialScript}"}
          rm -f ${cfg.dataDir}/.first_startup
        fi
      ''
      + lib.concatMapStrings ensureDatabase cfg.ensureDatabases
      + lib.concatMapStrings ensureUser cfg.ensureUsers;
    };
  };
}
