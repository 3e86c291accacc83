# services.redis.*
# Facts: nixos/modules/services/databases/redis.nix, read in the copies faukah/nixpkgs at
# 3b20077cd82fd1f099e92e2792d73e3176d4869d and Swarsel/nixpkgs at
# 4aa6836a648ca76c68866decf0c8965e36ec2a3b.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.services.redis;
  unitName = name: "redis" + lib.optionalString (name != "") "-${name}";
  enabled = lib.filterAttrs (_: server: server.enable) cfg.servers;
  plain = type: default: mkOption { inherit type default; };
  nullStr = plain (types.nullOr types.str) null;
  nullPath = plain (types.nullOr types.path) null;
  text =
    settings:
    pkgs.writeText "redis.conf" (
      lib.generators.toKeyValue {
        listsAsDuplicateKeys = true;
        mkKeyValue = lib.generators.mkKeyValueDefault {
          mkValueString =
            value:
            if builtins.isBool value then
              (if value then "yes" else "no")
            else
              lib.generators.mkValueStringDefault { } value;
        } " ";
      } settings
    );

  server =
    { config, name, ... }:
    {
      options = {
        enable = lib.mkEnableOption "Redis server";
        user = plain types.str (unitName name);
        group = plain types.str config.user;
        port = plain types.port (if name == "" then 6379 else 0);
        openFirewall = plain types.bool false;
        extraParams = plain (types.listOf types.str) [ ];
        bind = plain (types.nullOr types.str) "127.0.0.1";
        unixSocket = plain (types.nullOr types.path) "/run/${unitName name}/redis.sock";
        unixSocketPerm = plain types.int 660;
        logLevel = plain types.str "notice";
        logfile = plain types.str "/dev/null";
        syslog = plain types.bool true;
        databases = plain types.int 16;
        maxclients = plain types.int 10000;
        save = plain (types.listOf (types.listOf types.int)) [
          [ 900 1 ]
          [ 300 10 ]
          [ 60 10000 ]
        ];
        slaveOf = plain (types.nullOr (
          types.submodule {
            options.ip = mkOption { type = types.str; };
            options.port = plain types.port 6379;
          }
        )) null;
        masterAuth = nullStr;
        masterAuthFile = nullPath;
        requirePass = nullStr;
        requirePassFile = nullPath;
        appendOnly = plain types.bool false;
        appendFsync = plain types.str "everysec";
        slowLogLogSlowerThan = plain types.int 10000;
        slowLogMaxLen = plain types.int 128;
        settings = plain (types.attrsOf (
          types.oneOf [
            types.bool
            types.int
            types.str
            (types.listOf types.str)
          ]
        )) { };
      };
      config.settings = lib.mkMerge [
        {
          inherit (config)
            port
            logfile
            databases
            maxclients
            appendOnly
            ;
          daemonize = false;
          supervised = "systemd";
          loglevel = config.logLevel;
          syslog-enabled = config.syslog;
          save =
            if config.save == [ ] then
              ''""''
            else
              map (rule: "${toString (lib.head rule)} ${toString (lib.last rule)}") config.save;
          dbfilename = "dump.rdb";
          dir = "/var/lib/${unitName name}";
          appendfsync = config.appendFsync;
          slowlog-log-slower-than = config.slowLogLogSlowerThan;
          slowlog-max-len = config.slowLogMaxLen;
        }
        (lib.mkIf (config.bind != null) { inherit (config) bind; })
        (lib.mkIf (config.unixSocket != null) {
          unixsocket = config.unixSocket;
          unixsocketperm = toString config.unixSocketPerm;
        })
        (lib.mkIf (config.slaveOf != null) {
          slaveof = "${config.slaveOf.ip} ${toString config.slaveOf.port}";
        })
        (lib.mkIf (config.masterAuth != null) { masterauth = config.masterAuth; })
        (lib.mkIf (config.requirePass != null) { requirepass = config.requirePass; })
      ];
    };

  service = name: server: {
    description = "Redis Server - ${unitName name}";
    wantedBy = [ "multi-user.target" ];
    after = [ "network.target" ];
    serviceConfig = {
      ExecStart = "${cfg.package}/bin/${cfg.package.serverBin or "redis-server"} /var/lib/${unitName name}/redis.conf ${lib.escapeShellArgs server.extraParams}";
      ExecStartPre =
        let
          kept = "/var/lib/${unitName name}/redis.conf";
          made = "/run/${unitName name}/nixos.conf";
          secret =
            word: file:
            lib.optionalString (
              file != null
            ) "echo \"${word} $(cat ${lib.escapeShellArg file})\" >> ${made}\n";
        in
        "+"
        + pkgs.writeShellScript "${unitName name}-prep-conf" (
          ''
            for file in ${kept} ${made}; do
              touch $file
              chmod 0600 $file
              chown ${server.user}:${server.group} $file
            done
            test -s ${kept} || echo 'include "${made}"' > ${kept}
            echo 'include "${text server.settings}"' > ${made}
          ''
          + secret "requirepass" server.requirePassFile
          + secret "masterauth" server.masterAuthFile
        );
      Type = "notify";
      User = server.user;
      Group = server.group;
      RuntimeDirectory = unitName name;
      RuntimeDirectoryMode = "0750";
      StateDirectory = unitName name;
      StateDirectoryMode = "0700";
      UMask = "0077";
      CapabilityBoundingSet = "";
      NoNewPrivileges = true;
      LimitNOFILE = lib.mkDefault "${toString (server.maxclients + 32)}";
      ProtectSystem = "strict";
      ProtectHome = true;
      PrivateTmp = true;
      PrivateDevices = true;
      PrivateUsers = true;
      ProtectClock = true;
      ProtectHostname = true;
      ProtectKernelLogs = true;
      ProtectKernelModules = true;
      ProtectKernelTunables = true;
      ProtectControlGroups = true;
      RestrictAddressFamilies = [
        "AF_INET"
        "AF_INET6"
        "AF_UNIX"
      ];
      RestrictNamespaces = true;
      LockPersonality = true;
      MemoryDenyWriteExecute = true;
      RestrictRealtime = true;
      RestrictSUIDSGID = true;
      PrivateMounts = true;
      SystemCallArchitectures = "native";
      SystemCallFilter = "~@cpu-emulation @debug @keyring @memlock @mount @obsolete @privileged @resources @setuid";
    };
  };
in
{
  options.services.redis = {
    package = lib.mkPackageOption pkgs "redis" { };
    vmOverCommit = plain types.bool true;
    servers = plain (types.attrsOf (types.submodule server)) { };
  };
  config = lib.mkIf (enabled != { }) {
    assertions = lib.mapAttrsToList (name: server: {
      assertion = server.requirePass != null -> server.requirePassFile == null;
      message = "You can only set one services.redis.servers.${name}.requirePass or services.redis.servers.${name}.requirePassFile";
    }) enabled;
    boot.kernel.sysctl = lib.mkIf cfg.vmOverCommit { "vm.overcommit_memory" = "1"; };
    networking.firewall.allowedTCPPorts = lib.concatMap (
      server: lib.optional server.openFirewall server.port
    ) (lib.attrValues enabled);
    environment.systemPackages = [ cfg.package ];
    users.users = lib.mapAttrs' (
      name: _:
      lib.nameValuePair (unitName name) {
        description = "System user for the redis-server instance ${name}";
        isSystemUser = true;
        group = unitName name;
      }
    ) enabled;
    users.groups = lib.mapAttrs' (name: _: lib.nameValuePair (unitName name) { }) enabled;
    systemd.services = lib.mapAttrs' (
      name: server: lib.nameValuePair (unitName name) (service name server)
    ) enabled;
  };
}
