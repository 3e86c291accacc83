# Grafana with our data sources and dashboards; what else it shows stays.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  inherit (lib) mkDefault mkIf mkOption types;
  cfg = config.services.aistack;
  own = cfg.grafana;
  grafana = config.services.grafana.settings.server;

  scraped = lib.filter (name: cfg.stack.services ? ${name}) (
    lib.unique (map (entry: entry.service) (cfg.nginx.scrape or [ ]))
  );
  dashboards = import ../observability/dashboards.nix {
    inherit lib;
    services = if scraped == [ ] then lib.attrNames cfg.stack.services else scraped;
    tempo = cfg.tracing.enable && cfg.tracing.endpoint == null;
    gpu = cfg.llama.acceleration or "cpu" == "cuda";
  };
  folder = pkgs.linkFarm "aistack-dashboards" (
    lib.mapAttrsToList (name: dashboard: {
      name = "${name}.json";
      path = pkgs.writeText "aistack-dashboard-${name}.json" (builtins.toJSON dashboard);
    }) dashboards
  );

  # Without a name the stack answers to any; the machine's own is what links carry then.
  hostName =
    if cfg.nginx.hostName or null != null then cfg.nginx.hostName else config.networking.hostName;
  tls = cfg.nginx.tls.mode or "off" != "off";
  behindNginx = own.path != null && cfg.nginx.enable or false;

  # A Grafana that the host runs anyway keeps its address, its logins and its settings: it gets our
  # data sources and dashboards, nothing else.
  theirs = options.services.grafana.enable.highestPrio < (mkDefault true).priority;

  secret = name: "$__file{${cfg.lib.credential "grafana" name}}";
  secretFile =
    description:
    mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/grafana";
      inherit description;
    };
in
{
  options.services.aistack.grafana = {
    enable = mkOption {
      type = types.bool;
      default = cfg.prometheus.enable;
      defaultText = lib.literalExpression "config.services.aistack.prometheus.enable";
      description = ''
        Whether Grafana shows the stack, under {option}`services.aistack.grafana.path` of the stack's
        host. The user is `admin`; see {option}`services.aistack.grafana.adminPasswordFile`. A Grafana
        that the host enables itself ({option}`services.grafana.enable`) stays where and as it is,
        and gets data sources and dashboards.
      '';
    };
    path = mkOption {
      type = types.nullOr (types.strMatching "/[a-z0-9/-]*/");
      default = if theirs then null else "/grafana/";
      defaultText = lib.literalMD "`\"/grafana/\"`, or null where the host enables Grafana itself";
      description = ''
        Path of Grafana on the stack's host, `/…/`. With null it is reachable on loopback only
        (`http://127.0.0.1:3000`, for example through `ssh -L`).
      '';
    };
    adminPasswordFile = secretFile ''
      File with the first password of the user `admin`. Made once when not given:
      `sudo cat /var/lib/aistack/secrets/grafana-admin-password`. Grafana keeps the password in its
      own database; this one counts at its first start only.
    '';
    secretKeyFile = secretFile ''
      File with the key by which Grafana encrypts what it keeps. Made once when not given.
    '';
  };

  config = mkIf (cfg.enable && own.enable) {
    assertions = [
      {
        assertion = !theirs || !behindNginx || grafana.serve_from_sub_path;
        message = ''
          services.aistack.grafana.path shows the Grafana that this host enables itself under ${toString own.path}: set
          services.grafana.settings.server.serve_from_sub_path = true and its root_url to that address, or
          services.aistack.grafana.path = null.
        '';
      }
      {
        assertion = !theirs || (own.adminPasswordFile == null && own.secretKeyFile == null);
        message = ''
          services.aistack.grafana.adminPasswordFile and secretKeyFile are for a Grafana of the stack, and this host
          enables its own: set services.grafana.settings.security instead.
        '';
      }
    ];

    services.aistack.secrets.generate = mkIf (!theirs) (
      lib.optional (own.adminPasswordFile == null) "grafana-admin-password"
      ++ lib.optional (own.secretKeyFile == null) "grafana-secret-key"
    );
    services.aistack.secrets.watch.grafana = map toString (
      lib.filter (file: file != null) [
        own.adminPasswordFile
        own.secretKeyFile
      ]
    );

    services.grafana = {
      enable = mkDefault true;
      settings = mkIf (!theirs) {
        server = {
          http_addr = mkDefault "127.0.0.1";
          http_port = mkDefault 3000;
          domain = mkDefault hostName;
          root_url = mkDefault (
            if behindNginx then
              "${if tls then "https" else "http"}://${hostName}${own.path}"
            else
              "http://${grafana.http_addr}:${toString grafana.http_port}/"
          );
          serve_from_sub_path = mkDefault behindNginx;
        };
        security = {
          secret_key = mkDefault (secret "secret-key");
          admin_password = mkDefault (secret "admin-password");
          cookie_secure = mkDefault (behindNginx && tls);
          cookie_samesite = mkDefault "strict";
          disable_gravatar = mkDefault true;
        };
        "auth.anonymous".enabled = mkDefault false;
        users.allow_sign_up = mkDefault false;
        analytics = {
          reporting_enabled = mkDefault false;
          check_for_updates = mkDefault false;
          check_for_plugin_updates = mkDefault false;
          feedback_links_enabled = mkDefault false;
        };
        news.news_feed_enabled = mkDefault false;
        snapshots.external_enabled = mkDefault false;
      };
      provision = {
        enable = mkDefault true;
        datasources.settings.datasources = [
          {
            name = "aistack Prometheus";
            uid = "aistack-prometheus";
            type = "prometheus";
            access = "proxy";
            url = "http://127.0.0.1:${toString config.services.prometheus.port}";
            jsonData.timeInterval = cfg.prometheus.scrapeInterval;
          }
        ]
        ++ lib.optional (cfg.tracing.enable && cfg.tracing.endpoint == null) {
          name = "aistack Tempo";
          uid = "aistack-tempo";
          type = "tempo";
          access = "proxy";
          url = "http://127.0.0.1:${toString cfg.tracing.httpPort}";
        };
        dashboards.settings.providers = [
          {
            name = "aistack";
            folder = "aistack";
            disableDeletion = true;
            options.path = folder;
          }
        ];
      };
    };

    systemd.services.grafana = mkIf (!theirs) {
      wants = [ "aistack-secrets.service" ];
      after = [ "aistack-secrets.service" ];
      serviceConfig.LoadCredential = [
        "secret-key:${cfg.lib.secretFile own.secretKeyFile "grafana-secret-key"}"
        "admin-password:${cfg.lib.secretFile own.adminPasswordFile "grafana-admin-password"}"
      ];
    };
  };
}
