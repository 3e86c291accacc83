# Prometheus and its exporters, all on loopback. What else runs on this machine's Prometheus stays:
# our scrape jobs and rules are added, and every host-wide setting is a mkDefault, or is left alone
# where the host enables Prometheus itself.
{
  config,
  lib,
  options,
  ...
}:
let
  inherit (lib)
    mkDefault
    mkIf
    mkOption
    optional
    types
    ;
  cfg = config.services.aistack;
  own = cfg.prometheus;
  inherit (config.services.prometheus) exporters;

  loopback = "127.0.0.1";
  # What nginx serves to us on loopback: our services, and llama.cpp's instances as `llama-<name>`.
  behindNginx = cfg.nginx.scrape or [ ];
  scraped = lib.filter (entry: cfg.stack.services ? ${entry.service}) behindNginx;
  llama = lib.filter (
    entry: !(cfg.stack.services ? ${entry.service}) && lib.hasPrefix "llama-" entry.service
  ) behindNginx;
  # The site as the probe reaches it; there is none when it listens on unix sockets alone.
  tls = cfg.nginx.tls.mode != "off";
  addresses = lib.filter (address: !lib.hasPrefix "unix:" address) cfg.nginx.listenAddresses;
  anyAddress = {
    "0.0.0.0" = loopback;
    "[::]" = "[::1]";
    "[::0]" = "[::1]";
  };
  front = cfg.nginx.enable && addresses != [ ];
  site =
    let
      address = lib.head addresses;
    in
    "${if tls then "https" else "http"}://${anyAddress.${address} or address}:"
    + toString (if tls then cfg.nginx.httpsPort else cfg.nginx.httpPort);

  # A Prometheus that the host runs anyway keeps its address and its retention.
  theirs = options.services.prometheus.enable.highestPrio < (mkDefault true).priority;
  duration = types.strMatching "([0-9]+(ms|s|m|h|d|w|y))+";

  kinds = [
    "node"
    "systemd"
    "postgres"
    "redis"
    "nginx"
    "nvidia-gpu"
  ];

  job =
    name: attrs:
    {
      job_name = "aistack-${name}";
      scrape_interval = own.scrapeInterval;
    }
    // attrs;

  # "/aidb/2/metrics" -> "aidb-2"
  withId =
    entry:
    entry
    // {
      id = lib.replaceStrings [ "/" ] [ "-" ] (
        lib.removeSuffix "/metrics" (lib.removePrefix "/" entry.path)
      );
    };

  exporter = name: job name { static_configs = [ { targets = own.exporterTargets.${name}; } ]; };

  # One job for each path, because the path is the job's. The targets carry the common name as their
  # label `job`, which goes before the job's own, and `service` tells them apart.
  through =
    name:
    {
      id,
      address,
      path,
      labels,
    }:
    job (if name == "service" then "service-${id}" else id) {
      metrics_path = path;
      static_configs = [
        {
          targets = [ address ];
          labels = labels // {
            job = if name == "service" then "aistack" else "aistack-${name}";
          };
        }
      ];
    };

  # A probe by the blackbox exporter: the target becomes its parameter and the label `instance`.
  probe =
    name: module: targets:
    job name {
      metrics_path = "/probe";
      params.module = [ module ];
      scrape_interval = "30s";
      static_configs = map (entry: {
        targets = [ entry.url ];
        labels = { inherit (entry) service; };
      }) targets;
      relabel_configs = [
        {
          source_labels = [ "__address__" ];
          target_label = "__param_target";
        }
        {
          source_labels = [ "__param_target" ];
          target_label = "instance";
        }
        {
          target_label = "__address__";
          replacement = "${loopback}:${toString exporters.blackbox.port}";
        }
      ];
    };

  # What this site serves.
  routes = lib.filterAttrs (
    name: entry: entry.routes != [ ] && lib.any (route: route.service == name) cfg.nginx.routes
  ) cfg.stack.services;
in
{
  imports = [ ./exporters.nix ];

  options.services.aistack.prometheus = {
    enable = mkOption {
      type = types.bool;
      default = lib.elem "monitoring" (cfg.roles or [ "monitoring" ]);
      defaultText = lib.literalMD "whether this machine has the role `monitoring`";
      description = "Whether Prometheus watches the stack, with exporters and alerts, all on loopback.";
    };
    retention = mkOption {
      type = duration;
      default = "30d";
      example = "90d";
      description = ''
        How long metrics are kept, such as `30d`; the disk use grows with it. It is the default of
        {option}`services.prometheus.retentionTime`, unless the host enables Prometheus itself.
      '';
    };
    scrapeInterval = mkOption {
      type = duration;
      default = "15s";
      description = ''
        How often the stack's metrics are read, such as `15s`. Alerts see nothing shorter; twice as
        often takes twice the disk.
      '';
    };
    exporterTargets = mkOption {
      type = types.submodule {
        options = lib.genAttrs kinds (
          kind:
          mkOption {
            type = types.listOf (types.strMatching ".+:[0-9]+");
            default = [ ];
            description = "Addresses of ${kind} exporters, as `host:port`.";
          }
        );
      };
      default = { };
      example = {
        node = [
          "127.0.0.1:9100"
          "10.0.0.2:9100"
        ];
      };
      description = ''
        Addresses of exporters, by kind. The local ones are the default; naming a kind replaces its
        list.
      '';
    };
    textfileDirectory = mkOption {
      type = types.str;
      default = "/var/lib/aistack-metrics";
      description = ''
        Where metrics of oneshot units (backups) are put for the node exporter. A host whose node
        exporter already reads such a directory names that one here and sets
        {option}`services.aistack.prometheus.textfileFlag` to false.
      '';
    };
    textfileFlag = mkOption {
      type = types.bool;
      default = true;
      description = "Whether the node exporter is told to read the directory of metric files.";
    };
  };

  config = mkIf (cfg.enable && own.enable) {
    services.prometheus = {
      enable = mkDefault true;
      listenAddress = mkIf (!theirs) (mkDefault loopback);
      retentionTime = mkIf (!theirs) (mkDefault own.retention);

      scrapeConfigs =
        map (
          entry:
          through "service" {
            inherit (entry) id address path;
            labels = {
              inherit (entry) service instance;
            };
          }
        ) (map withId scraped)
        ++ map (
          entry:
          through "llama" {
            inherit (entry) id address path;
            labels = {
              llama = lib.removePrefix "llama-" entry.service;
              inherit (entry) instance;
            };
          }
        ) (map withId llama)
        ++ map exporter (
          lib.filter (name: own.exporterTargets.${name} != [ ]) kinds
        )
        ++ [
          (job "prometheus" {
            static_configs = [ { targets = [ "${loopback}:${toString config.services.prometheus.port}" ]; } ];
          })
          # The probe is also what makes each service look at its needs (`aistack_need_up`).
          (probe "ready" "ready" (
            map (entry: {
              url = "http://${entry.address}${lib.removeSuffix "metrics" entry.path}readyz";
              inherit (entry) service;
            }) scraped
          ))
        ]
        ++ optional front (
          probe "front" "front" (
            lib.mapAttrsToList (service: entry: {
              url = site + lib.head entry.routes;
              inherit service;
            }) routes
          )
        );
    };
  };
}
