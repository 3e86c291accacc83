# services.prometheus.*
# Facts: nixos/modules/services/monitoring/prometheus/default.nix, the options read in the copy
# faukah/nixpkgs at 3b20077cd82fd1f099e92e2792d73e3176d4869d, the unit in Swarsel/nixpkgs at
# 4aa6836a648ca76c68866decf0c8965e36ec2a3b. Upstream checks the files with promtool in the build;
# the tests do that here.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.services.prometheus;
  plain = type: default: mkOption { inherit type default; };
  optional = type: plain (types.nullOr type) null;
  strings = types.listOf types.str;
  tls = types.submodule {
    options = {
      ca_file = optional types.str;
      cert_file = optional types.str;
      key_file = optional types.str;
      server_name = optional types.str;
      insecure_skip_verify = optional types.bool;
    };
  };
  basicAuth = types.submodule {
    options = {
      username = mkOption { type = types.str; };
      password = optional types.str;
      password_file = optional types.str;
    };
  };
  relabel = types.submodule {
    options = {
      source_labels = optional strings;
      separator = optional types.str;
      target_label = optional types.str;
      regex = optional types.str;
      modulus = optional types.int;
      replacement = optional types.str;
      action = optional (
        types.enum [
          "replace"
          "lowercase"
          "uppercase"
          "keep"
          "drop"
          "hashmod"
          "labelmap"
          "labeldrop"
          "labelkeep"
        ]
      );
    };
  };
  target = types.submodule {
    options = {
      targets = mkOption { type = strings; };
      labels = plain (types.attrsOf types.str) { };
    };
  };
  fileTarget = types.submodule {
    options = {
      files = mkOption { type = strings; };
      refresh_interval = optional types.str;
    };
  };
  scrape = types.submodule {
    options = {
      job_name = mkOption { type = types.str; };
      scrape_interval = optional types.str;
      scrape_timeout = optional types.str;
      scrape_protocols = optional strings;
      fallback_scrape_protocol = optional types.str;
      metrics_path = optional types.str;
      honor_labels = optional types.bool;
      honor_timestamps = optional types.bool;
      scheme = optional (types.enum [ "http" "https" ]);
      params = optional (types.attrsOf strings);
      authorization = optional types.attrs;
      basic_auth = optional basicAuth;
      bearer_token = optional types.str;
      bearer_token_file = optional types.str;
      tls_config = optional tls;
      proxy_url = optional types.str;
      file_sd_configs = optional (types.listOf fileTarget);
      static_configs = optional (types.listOf target);
      relabel_configs = optional (types.listOf relabel);
      metric_relabel_configs = optional (types.listOf relabel);
      body_size_limit = optional types.str;
      sample_limit = optional types.int;
      label_limit = optional types.int;
      target_limit = optional types.int;
    };
  };
  global = types.submodule {
    options = {
      scrape_interval = optional types.str;
      scrape_timeout = optional types.str;
      evaluation_interval = optional types.str;
      external_labels = optional (types.attrsOf types.str);
      query_log_file = optional types.str;
    };
  };
  # Unset fields are left out of the file.
  set =
    x:
    if builtins.isAttrs x then
      lib.mapAttrs (_: set) (lib.filterAttrs (name: value: value != null && name != "_module") x)
    else if builtins.isList x then
      map set x
    else
      x;
  rules = cfg.ruleFiles ++ [ (pkgs.writeText "prometheus.rules" (lib.concatStringsSep "\n" cfg.rules)) ];
  file =
    if cfg.configText != null then
      pkgs.writeText "prometheus.yml" cfg.configText
    else
      (pkgs.formats.yaml { }).generate "prometheus.yml" {
        global = set cfg.globalConfig;
        scrape_configs = set cfg.scrapeConfigs;
        remote_write = [ ];
        remote_read = [ ];
        rule_files = map toString rules;
        alerting.alertmanagers = cfg.alertmanagers;
      };
  folder = "/var/lib/${cfg.stateDir}";
  arguments =
    cfg.extraFlags
    ++ [
      "--config.file=${if cfg.enableReload then "/etc/prometheus/prometheus.yaml" else file}"
      "--web.listen-address=${cfg.listenAddress}:${toString cfg.port}"
      "--alertmanager.notification-queue-capacity=${toString cfg.alertmanagerNotificationQueueCapacity}"
      "--storage.tsdb.path=${folder}/data/"
    ]
    ++ lib.optional (cfg.webExternalUrl != null) "--web.external-url=${cfg.webExternalUrl}"
    ++ lib.optional (cfg.retentionTime != null) "--storage.tsdb.retention.time=${cfg.retentionTime}"
    ++ lib.optional (cfg.webConfigFile != null) "--web.config.file=${cfg.webConfigFile}";
in
{
  options.services.prometheus = {
    enable = lib.mkEnableOption "Prometheus monitoring daemon";
    package = lib.mkPackageOption pkgs "prometheus" { };
    port = plain types.port 9090;
    listenAddress = plain types.str "0.0.0.0";
    stateDir = plain types.str "prometheus2";
    extraFlags = plain strings [ ];
    enableReload = plain types.bool false;
    configText = optional types.lines;
    globalConfig = plain global { };
    rules = plain strings [ ];
    ruleFiles = plain (types.listOf types.path) [ ];
    scrapeConfigs = plain (types.listOf scrape) [ ];
    alertmanagers = plain (types.listOf types.attrs) [ ];
    alertmanagerNotificationQueueCapacity = plain types.int 10000;
    webExternalUrl = optional types.str;
    webConfigFile = optional types.path;
    checkConfig = plain (types.either types.bool (types.enum [ "syntax-only" ])) true;
    retentionTime = optional types.str;
  };
  config = lib.mkIf cfg.enable {
    assertions =
      let
        legacy = builtins.match "(.*\\..*|.*]):([[:digit:]]+)" cfg.listenAddress;
      in
      [
        {
          assertion = legacy == null;
          message = "Do not specify the port for Prometheus to listen on in the listenAddress option; use the port option instead.";
        }
      ];
    users.groups.prometheus.gid = 255;
    users.users.prometheus = {
      description = "Prometheus daemon user";
      uid = 255;
      group = "prometheus";
    };
    environment.etc."prometheus/prometheus.yaml" = lib.mkIf cfg.enableReload { source = file; };
    system.build.prometheus = {
      configuration = file;
      inherit rules;
    };
    systemd.services.prometheus = {
      wantedBy = [ "multi-user.target" ];
      after = [ "network.target" ];
      serviceConfig = {
        ExecStart = "${cfg.package}/bin/prometheus \\\n  ${lib.concatStringsSep " \\\n  " arguments}";
        User = "prometheus";
        Restart = "always";
        RuntimeDirectory = "prometheus";
        RuntimeDirectoryMode = "0700";
        WorkingDirectory = folder;
        StateDirectory = cfg.stateDir;
        StateDirectoryMode = "0700";
        CapabilityBoundingSet = [ "" ];
        DeviceAllow = [ "/dev/null rw" ];
        DevicePolicy = "strict";
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        NoNewPrivileges = true;
        PrivateDevices = true;
        PrivateTmp = true;
        PrivateUsers = true;
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHome = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectProc = "invisible";
        ProtectSystem = "full";
        RemoveIPC = true;
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_INET6"
          "AF_UNIX"
        ];
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
        SystemCallFilter = [
          "@system-service"
          "~@privileged"
        ];
      };
    };
  };
}
