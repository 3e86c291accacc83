# services.prometheus.alertmanager.*
# Facts: nixos/modules/services/monitoring/prometheus/alertmanager.nix, read in the copy
# faukah/nixpkgs at 3b20077cd82fd1f099e92e2792d73e3176d4869d.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.services.prometheus.alertmanager;
  plain = type: default: mkOption { inherit type default; };
  file = pkgs.writeText "alertmanager.yml" (
    if cfg.configText != null then cfg.configText else builtins.toJSON cfg.configuration
  );
  arguments =
    cfg.extraFlags
    ++ [
      "--config.file /tmp/alert-manager-substituted.yaml"
      "--web.listen-address ${cfg.listenAddress}:${toString cfg.port}"
      "--log.level ${cfg.logLevel}"
      "--storage.path /var/lib/alertmanager"
      (toString (map (peer: "--cluster.peer ${peer}:9094") cfg.clusterPeers))
    ]
    ++ lib.optional (cfg.webExternalUrl != null) "--web.external-url ${cfg.webExternalUrl}"
    ++ lib.optional (cfg.logFormat != null) "--log.format ${cfg.logFormat}";
in
{
  options.services.prometheus.alertmanager = {
    enable = lib.mkEnableOption "Prometheus Alertmanager";
    package = lib.mkPackageOption pkgs "prometheus-alertmanager" { };
    configuration = plain (types.nullOr types.attrs) null;
    configText = plain (types.nullOr types.lines) null;
    checkConfig = plain types.bool true;
    logFormat = plain (types.nullOr types.str) null;
    logLevel = plain (types.enum [ "debug" "info" "warn" "error" "fatal" ]) "warn";
    webExternalUrl = plain (types.nullOr types.str) null;
    listenAddress = plain types.str "";
    port = plain types.port 9093;
    openFirewall = plain types.bool false;
    clusterPeers = plain (types.listOf types.str) [ ];
    extraFlags = plain (types.listOf types.str) [ ];
    environmentFile = plain (types.nullOr types.path) null;
  };
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.configuration != null || cfg.configText != null;
        message = "Can not enable alertmanager without a configuration. Set either the `configuration` or `configText` attribute.";
      }
    ];
    networking.firewall.allowedTCPPorts = lib.optional cfg.openFirewall cfg.port;
    system.build.alertmanagerConfiguration = file;
    systemd.services.alertmanager = {
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      preStart = ''
        ${lib.getBin pkgs.envsubst}/bin/envsubst -o "/tmp/alert-manager-substituted.yaml" \
                                                 -i "${file}"
      '';
      serviceConfig = {
        ExecStart = "${cfg.package}/bin/alertmanager \\\n  ${lib.concatStringsSep " \\\n  " arguments}";
        ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
        EnvironmentFile = lib.mkIf (cfg.environmentFile != null) cfg.environmentFile;
        CapabilityBoundingSet = [ "" ];
        DeviceAllow = [ "" ];
        DynamicUser = true;
        NoNewPrivileges = true;
        MemoryDenyWriteExecute = true;
        LockPersonality = true;
        ProtectProc = "invisible";
        ProtectSystem = "strict";
        ProtectHome = "tmpfs";
        PrivateTmp = true;
        PrivateDevices = true;
        PrivateIPC = true;
        ProcSubset = "pid";
        ProtectHostname = true;
        ProtectClock = true;
        ProtectKernelTunables = true;
        ProtectKernelModules = true;
        ProtectKernelLogs = true;
        ProtectControlGroups = true;
        Restart = "always";
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_INET6"
          "AF_NETLINK"
        ];
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        StateDirectory = "alertmanager";
        SystemCallFilter = [
          "@system-service"
          "~@cpu-emulation"
          "~@privileged"
          "~@reboot"
          "~@setuid"
          "~@swap"
        ];
        WorkingDirectory = "/tmp";
      };
    };
  };
}
