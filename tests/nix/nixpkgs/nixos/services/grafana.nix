# services.grafana.*
# Facts: nixos/modules/services/monitoring/grafana.nix, the unit, the assertions and the warnings read
# in the copy Swarsel/nixpkgs at
# 4aa6836a648ca76c68866decf0c8965e36ec2a3b; names and types of options not read again.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.services.grafana;
  plain = type: default: mkOption { inherit type default; };
  ini = pkgs.formats.ini {
    listToValue = lib.concatMapStringsSep " " (lib.generators.mkValueStringDefault { });
  };
  yaml = pkgs.formats.yaml { };
  file = ini.generate "config.ini" (
    lib.mapAttrs (_: lib.filterAttrs (_: value: value != null)) cfg.settings
  );
  # A provisioning file: lists under some keys.
  fileOf = keys: plain (types.nullOr (types.submodule { options = keys; })) null;
  entries =
    options:
    plain (types.listOf (
      types.submodule {
        freeformType = yaml.type;
        inherit options;
      }
    )) [ ];
  datasource = {
    name = mkOption { type = types.str; };
    type = mkOption { type = types.str; };
    access = plain (types.enum [ "proxy" "direct" ]) "proxy";
    uid = plain (types.nullOr types.str) null;
    url = plain types.str "";
    editable = plain types.bool false;
    jsonData = plain (types.nullOr types.attrs) null;
    secureJsonData = plain (types.nullOr types.attrs) null;
  };
  provider = {
    name = plain types.str "default";
    type = plain types.str "file";
    options.path = mkOption { type = types.path; };
  };
  clean =
    x:
    if builtins.isAttrs x then
      lib.mapAttrs (_: clean) (lib.filterAttrs (_: value: value != null) x)
    else if builtins.isList x then
      map clean x
    else
      x;
  provisioned = name: value: pkgs.writeText "${name}.yaml" (builtins.toJSON (clean value));
  part =
    name: option:
    if option.path != null then
      option.path
    else
      pkgs.linkFarm "grafana-${name}" {
        "${name}.yaml" = provisioned name (if option.settings == null then { apiVersion = 1; } else option.settings);
      };
  provisioning = pkgs.linkFarm "grafana-provisioning" {
    datasources = part "datasources" cfg.provision.datasources;
    dashboards = part "dashboards" cfg.provision.dashboards;
  };
in
{
  options.services.grafana = {
    enable = lib.mkEnableOption "grafana";
    package = lib.mkPackageOption pkgs "grafana" { };
    dataDir = plain types.path "/var/lib/grafana";
    declarativePlugins = plain (types.nullOr (types.listOf types.path)) null;
    openFirewall = plain types.bool false;
    settings = plain (types.submodule {
      freeformType = ini.type;
      options = {
        server = {
          protocol = plain (types.enum [ "http" "https" "h2" "socket" ]) "http";
          http_addr = plain types.str "127.0.0.1";
          http_port = plain types.port 3000;
          domain = plain types.str "localhost";
          root_url = plain types.str "%(protocol)s://%(domain)s:%(http_port)s/";
          serve_from_sub_path = plain types.bool false;
          socket = plain types.str "/run/grafana/grafana.sock";
        };
        database = {
          type = plain (types.enum [ "mysql" "sqlite3" "postgres" ]) "sqlite3";
          path = plain types.path "${cfg.dataDir}/data/grafana.db";
          password = plain types.str "";
        };
        security = {
          admin_user = plain types.str "admin";
          admin_password = plain types.str "admin";
          disable_initial_admin_creation = plain types.bool false;
          secret_key = plain (types.nullOr types.str) null;
          disable_gravatar = plain types.bool false;
          cookie_secure = plain types.bool false;
        };
        users = {
          allow_sign_up = plain types.bool false;
          allow_org_create = plain types.bool false;
          default_theme = plain types.str "dark";
        };
        analytics = {
          reporting_enabled = plain types.bool true;
          check_for_updates = plain types.bool false;
          check_for_plugin_updates = plain types.bool false;
          feedback_links_enabled = plain types.bool true;
        };
        paths = {
          plugins = plain types.path "${cfg.dataDir}/plugins";
          provisioning = mkOption {
            type = types.path;
            default = provisioning;
          };
        };
      };
    }) { };
    provision = {
      enable = plain types.bool false;
      datasources = {
        path = plain (types.nullOr types.path) null;
        settings = fileOf {
          apiVersion = plain types.int 1;
          datasources = entries datasource;
          deleteDatasources = plain (types.listOf types.attrs) [ ];
          prune = plain types.bool false;
        };
      };
      dashboards = {
        path = plain (types.nullOr types.path) null;
        settings = fileOf {
          apiVersion = plain types.int 1;
          providers = entries provider;
        };
      };
    };
  };
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.settings.security.secret_key != null;
        message = "services.grafana.settings.security.secret_key must be set: it has no default any more.";
      }
      {
        assertion = lib.all (d: d.type != "prometheus" || d.access != "direct") (
          if cfg.provision.datasources.settings == null then
            [ ]
          else
            cfg.provision.datasources.settings.datasources
        );
        message = "For datasources of type `prometheus`, the `direct` access mode is not supported anymore (since Grafana 9.2.0)";
      }
    ];
    # A password is the default, or read by Grafana from a file or its environment.
    warnings =
      let
        stored =
          value: default:
          builtins.match "^${default}$|^\\$__(file|env)\\{.*}$|^\\$[^_\\$][^ ]+$" value == null;
      in
      lib.optional
        (
          stored cfg.settings.database.password "" || stored cfg.settings.security.admin_password "admin"
        )
        ''
          Grafana passwords will be stored as plaintext in the Nix store!
          Use file provider or an env-var instead.
        '';
    networking.firewall.allowedTCPPorts = lib.optional cfg.openFirewall cfg.settings.server.http_port;
    system.build.grafanaConfiguration = file;
    users.users.grafana = {
      uid = 196;
      description = "Grafana user";
      home = cfg.dataDir;
      createHome = true;
      group = "grafana";
    };
    users.groups.grafana = { };
    systemd.services.grafana = {
      description = "Grafana Service Daemon";
      wantedBy = [ "multi-user.target" ];
      after = [
        "network.target"
      ]
      ++ lib.optional (cfg.settings.database.type == "postgres") "postgresql.target";
      script = "exec ${lib.getExe cfg.package} server -homepath ${cfg.dataDir} -config ${file}";
      serviceConfig = {
        WorkingDirectory = cfg.dataDir;
        User = "grafana";
        Restart = "on-failure";
        RuntimeDirectory = "grafana";
        RuntimeDirectoryMode = "0755";
        AmbientCapabilities = lib.mkIf (
          cfg.settings.server.http_port < 1024
        ) [ "CAP_NET_BIND_SERVICE" ];
        CapabilityBoundingSet =
          if cfg.settings.server.http_port < 1024 then [ "CAP_NET_BIND_SERVICE" ] else [ "" ];
        DeviceAllow = [ "" ];
        LockPersonality = true;
        NoNewPrivileges = true;
        PrivateDevices = true;
        PrivateTmp = true;
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
        ]
        ++ lib.optionals (cfg.settings.server.protocol == "socket") [ "@chown" ];
        UMask = "0027";
      };
      preStart = ''
        ln -fs ${cfg.package}/share/grafana/conf ${cfg.dataDir}
        ln -fs ${cfg.package}/share/grafana/tools ${cfg.dataDir}
      '';
    };
  };
}
