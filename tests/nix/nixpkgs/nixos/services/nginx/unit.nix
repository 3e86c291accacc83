# services.nginx.*: nginx.service and the reload after a certificate changed.
# Facts: as configuration.nix says: acme-<name>.service is the self-signed baseline that nginx waits
# for, or that waits for no restart of it where the configuration is reloaded.
{ config, lib, pkgs, ... }:
let
  cfg = config.services.nginx;
  certNames = lib.unique (
    lib.mapAttrsToList (
      name: host:
      if host.useACMEHost != null then
        host.useACMEHost
      else if host.serverName != null then
        host.serverName
      else
        name
    ) (lib.filterAttrs (_: h: h.enableACME || h.useACMEHost != null) cfg.virtualHosts)
  );
  baselines = map (name: "acme-${name}.service") certNames;
  renewals = map (name: "acme-order-renew-${name}.service") certNames;
  file = pkgs.writeText "nginx.conf" (import ./configuration.nix { inherit config lib pkgs; });
  command = "${cfg.package}/bin/nginx -c '${
    if cfg.enableReload then "/etc/nginx/nginx.conf" else file
  }'";
in
{
  config = lib.mkIf cfg.enable {
    environment.etc."nginx/nginx.conf".source = file;
    systemd.services.nginx = {
      description = "Nginx Web Server";
      wantedBy = [ "multi-user.target" ];
      wants = lib.optionals (!cfg.enableReload) baselines;
      after = [ "network.target" ] ++ lib.optionals (!cfg.enableReload) baselines;
      before = lib.optionals (!cfg.enableReload) renewals;
      stopIfChanged = false;
      preStart = ''
        ${cfg.preStart}
        ${command} -t
      '';
      startLimitIntervalSec = 60;
      serviceConfig = {
        ExecStart = command;
        ExecReload = [
          "${command} -t"
          "${pkgs.coreutils}/bin/kill -HUP $MAINPID"
        ];
        Restart = "always";
        RestartSec = "10s";
        User = cfg.user;
        Group = cfg.group;
        RuntimeDirectory = "nginx";
        RuntimeDirectoryMode = "0750";
        CacheDirectory = "nginx";
        CacheDirectoryMode = "0750";
        LogsDirectory = "nginx";
        LogsDirectoryMode = "0750";
        ProcSubset = "pid";
        ProtectProc = "invisible";
        UMask = "0027";
        AmbientCapabilities = [
          "CAP_NET_BIND_SERVICE"
          "CAP_SYS_RESOURCE"
        ];
        CapabilityBoundingSet = [
          "CAP_NET_BIND_SERVICE"
          "CAP_SYS_RESOURCE"
        ];
        NoNewPrivileges = true;
        ProtectSystem = "strict";
        ProtectHome = lib.mkDefault true;
        PrivateTmp = true;
        PrivateDevices = true;
        ProtectHostname = true;
        ProtectClock = true;
        ProtectKernelTunables = true;
        ProtectKernelModules = true;
        ProtectKernelLogs = true;
        ProtectControlGroups = true;
        RestrictAddressFamilies = [
          "AF_UNIX"
          "AF_INET"
          "AF_INET6"
        ];
        RestrictNamespaces = true;
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        RemoveIPC = true;
        PrivateMounts = true;
        SystemCallArchitectures = "native";
        SystemCallFilter = [ "~@cpu-emulation @debug @keyring @mount @obsolete @privileged @setuid" ];
      };
    };
    systemd.services.nginx-config-reload = lib.mkIf (cfg.enableReload || certNames != [ ]) {
      wants = lib.optional cfg.enableReload "nginx.service";
      wantedBy = [ "multi-user.target" ] ++ lib.optionals cfg.enableReload baselines;
      after = lib.optionals cfg.enableReload baselines;
      before = lib.optionals cfg.enableReload renewals;
      restartTriggers = lib.optional cfg.enableReload file;
      unitConfig = {
        ConditionPathExists = map (
          name: "${config.security.acme.certs.${name}.directory}/fullchain.pem"
        ) certNames;
        StartLimitIntervalSec = 0;
      };
      serviceConfig = {
        Type = "oneshot";
        TimeoutSec = 60;
        ExecCondition = "/run/current-system/systemd/bin/systemctl -q is-active nginx.service";
        ExecStart = "/run/current-system/systemd/bin/systemctl reload nginx.service";
      };
    };
    system.build.nginxConfiguration = file;
  };
}
