# services.prometheus.exporters.*: the exporters that the project uses.
# Facts: nixos/modules/services/monitoring/prometheus/exporters.nix and exporters/{blackbox,nginx,
# node,nvidia-gpu,postgres,redis,systemd}.nix, read in the copies faukah/nixpkgs at
# 3b20077cd82fd1f099e92e2792d73e3176d4869d and Swarsel/nixpkgs at
# 4aa6836a648ca76c68866decf0c8965e36ec2a3b.
{ config, lib, pkgs, ... }:
let
  inherit (lib) concatStringsSep mkDefault mkIf mkOption optionals types;
  cfg = config.services.prometheus.exporters;
  plain = type: default: mkOption { inherit type default; };
  strings = plain (types.listOf types.str) [ ];
  address = name: "${cfg.${name}.listenAddress}:${toString cfg.${name}.port}";
  continued = name: concatStringsSep " \\\n  " cfg.${name}.extraFlags;
  joined = name: concatStringsSep " " cfg.${name}.extraFlags;
  telemetryPath = plain types.str "/metrics";

  exporters = {
    blackbox = {
      port = 9115;
      options = {
        configFile = mkOption { type = types.path; };
        enableConfigCheck = plain types.bool true;
      };
      service.serviceConfig = {
        AmbientCapabilities = [ "CAP_NET_RAW" ];
        ExecStart = ''
          ${pkgs.prometheus-blackbox-exporter}/bin/blackbox_exporter \
            --web.listen-address ${address "blackbox"} \
            --config.file ${lib.escapeShellArg cfg.blackbox.configFile} \
            ${continued "blackbox"}
        '';
        ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
      };
    };
    nginx = {
      port = 9113;
      options = {
        inherit telemetryPath;
        scrapeUri = plain types.str "http://localhost/nginx_status";
        sslVerify = plain types.bool true;
        constLabels = strings;
      };
      service = lib.mkMerge [
        {
          environment.CONST_LABELS = concatStringsSep "," cfg.nginx.constLabels;
          serviceConfig.ExecStart = ''
            ${pkgs.prometheus-nginx-exporter}/bin/nginx-prometheus-exporter \
              --nginx.scrape-uri='${cfg.nginx.scrapeUri}' \
              --${lib.optionalString (!cfg.nginx.sslVerify) "no-"}nginx.ssl-verify \
              --web.listen-address=${address "nginx"} \
              --web.telemetry-path=${cfg.nginx.telemetryPath} \
              ${continued "nginx"}
          '';
        }
        (mkIf config.services.nginx.enable {
          after = [ "nginx.service" ];
          requires = [ "nginx.service" ];
        })
      ];
    };
    node = {
      port = 9100;
      dynamic = false;
      options = {
        enabledCollectors = strings;
        disabledCollectors = strings;
      };
      service.serviceConfig =
        let
          on = name: lib.elem name cfg.node.enabledCollectors;
          off = name: lib.elem name cfg.node.disabledCollectors;
        in
        {
          DynamicUser = false;
          RuntimeDirectory = "prometheus-node-exporter";
          ExecStart = ''
            ${pkgs.prometheus-node-exporter}/bin/node_exporter \
              ${lib.concatMapStringsSep " " (x: "--collector." + x) cfg.node.enabledCollectors} \
              ${lib.concatMapStringsSep " " (x: "--no-collector." + x) cfg.node.disabledCollectors} \
              --web.listen-address ${address "node"} ${joined "node"}
          '';
          RestrictAddressFamilies =
            optionals (on "logind" || on "systemd") [ "AF_UNIX" ]
            ++ optionals (on "network_route" || on "wifi" || !off "netdev") [ "AF_NETLINK" ];
          ProtectClock = off "timex";
          ProtectHome = true;
        };
    };
    nvidia-gpu = {
      port = 9835;
      service = {
        wantedBy = [ "multi-user.target" ];
        serviceConfig = {
          ExecStart = ''
            ${pkgs.prometheus-nvidia-gpu-exporter}/bin/nvidia_gpu_exporter \
              --web.listen-address ${address "nvidia-gpu"} \
              --nvidia-smi-command ${config.hardware.nvidia.package.bin}/bin/nvidia-smi \
              ${joined "nvidia-gpu"}
          '';
          PrivateDevices = false;
        };
      };
    };
    postgres = {
      port = 9187;
      dynamic = false;
      options = {
        inherit telemetryPath;
        dataSourceName = plain types.str "user=postgres database=postgres host=/run/postgresql sslmode=disable";
        runAsLocalSuperUser = plain types.bool false;
        environmentFile = plain (types.nullOr types.path) null;
      };
      service = {
        environment.DATA_SOURCE_NAME = cfg.postgres.dataSourceName;
        serviceConfig = {
          DynamicUser = false;
          User = mkIf cfg.postgres.runAsLocalSuperUser (lib.mkForce "postgres");
          EnvironmentFile = mkIf (cfg.postgres.environmentFile != null) [ cfg.postgres.environmentFile ];
          ExecStart = ''
            ${pkgs.prometheus-postgres-exporter}/bin/postgres_exporter \
              --web.listen-address ${address "postgres"} \
              --web.telemetry-path ${cfg.postgres.telemetryPath} \
              ${continued "postgres"}
          '';
          RestrictAddressFamilies = [ "AF_UNIX" ];
        };
      };
    };
    redis = {
      port = 9121;
      service.serviceConfig = {
        RestrictAddressFamilies = [ "AF_UNIX" ];
        ExecStart = ''
          ${pkgs.prometheus-redis-exporter}/bin/redis_exporter \
            -web.listen-address ${address "redis"} \
            ${continued "redis"}
        '';
      };
    };
    systemd = {
      port = 9558;
      service.serviceConfig = {
        ExecStart = ''
          ${pkgs.prometheus-systemd-exporter}/bin/systemd_exporter \
            --web.listen-address ${address "systemd"} ${joined "systemd"}
        '';
        RestrictAddressFamilies = [ "AF_UNIX" ];
      };
    };
  };

  optionsOf =
    name: exporter:
    mkOption {
      internal = true;
      default = { };
      type = types.submodule {
        options = {
          enable = lib.mkEnableOption "the prometheus ${name} exporter";
          port = plain types.port exporter.port;
          listenAddress = plain types.str "0.0.0.0";
          extraFlags = strings;
          openFirewall = plain types.bool false;
          firewallFilter = plain (types.nullOr types.str) null;
          firewallRules = plain (types.nullOr types.lines) null;
          user = plain types.str "${name}-exporter";
          group = plain types.str "${name}-exporter";
        }
        // exporter.options or { };
      };
    };
  baseOf = name: dynamic: {
    wantedBy = [ "multi-user.target" ];
    after = [ "network.target" ];
    serviceConfig = {
      Restart = mkDefault "always";
      PrivateTmp = mkDefault true;
      WorkingDirectory = mkDefault "/tmp";
      DynamicUser = mkDefault dynamic;
      User = mkDefault cfg.${name}.user;
      Group = cfg.${name}.group;
      CapabilityBoundingSet = mkDefault [ "" ];
      DeviceAllow = [ "" ];
      LockPersonality = true;
      MemoryDenyWriteExecute = true;
      NoNewPrivileges = true;
      PrivateDevices = mkDefault true;
      ProtectClock = mkDefault true;
      ProtectControlGroups = true;
      ProtectHome = true;
      ProtectHostname = true;
      ProtectKernelLogs = true;
      ProtectKernelModules = true;
      ProtectKernelTunables = true;
      ProtectSystem = mkDefault "strict";
      RemoveIPC = true;
      RestrictAddressFamilies = [
        "AF_INET"
        "AF_INET6"
      ];
      RestrictNamespaces = true;
      RestrictRealtime = true;
      RestrictSUIDSGID = true;
      SystemCallArchitectures = "native";
      UMask = "0077";
    };
  };
  configOf =
    name: exporter:
    let
      dynamic = exporter.dynamic or true;
      own = "${name}-exporter";
    in
    mkIf cfg.${name}.enable {
      users.users.${own} = mkIf (cfg.${name}.user == own && !dynamic) {
        description = "Prometheus ${name} exporter service user";
        isSystemUser = true;
        inherit (cfg.${name}) group;
      };
      users.groups.${own} = mkIf (cfg.${name}.group == own && !dynamic) { };
      systemd.services."prometheus-${own}" = lib.mkMerge [
        (baseOf name dynamic)
        exporter.service
      ];
    };
in
{
  options.services.prometheus.exporters = mkOption {
    type = types.submodule { options = lib.mapAttrs optionsOf exporters; };
    default = { };
  };
  config = lib.mkMerge (lib.mapAttrsToList configOf exporters);
}
