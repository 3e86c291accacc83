# Rules of Prometheus: what is recorded and what is an alert.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkDefault mkIf mkOption types;
  cfg = config.services.aistack;
  inherit (cfg.prometheus) slo;

  # Bytes of a systemd size, null of one that is no fixed number.
  bytesOf =
    size:
    let
      parts = builtins.match "([0-9]+)([KMGT]?)" size;
      factor = {
        "" = 1;
        K = 1024;
        M = 1024 * 1024;
        G = 1024 * 1024 * 1024;
        T = 1024 * 1024 * 1024 * 1024;
      };
    in
    if parts == null then null else lib.toIntBase10 (lib.head parts) * factor.${lib.elemAt parts 1};

  here = lib.filterAttrs (name: _: cfg.${name}.enable) cfg.stack.services;
  scraped = lib.filter (name: cfg.stack.services ? ${name}) (
    lib.unique (map (entry: entry.service) (cfg.nginx.scrape or [ ]))
  );
  services = if scraped == [ ] then lib.attrNames here else lib.sort lib.lessThan scraped;

  rules = import ../observability/rules.nix {
    inherit lib services;
    slo = {
      inherit (slo) availability latency minRequests;
      latencySeconds = lib.genAttrs services (name: slo.latencySeconds.${name} or 2.5);
    };
    memoryLimits = lib.filterAttrs (_: bytes: bytes != null) (
      lib.mapAttrs (name: _: bytesOf cfg.${name}.memoryMax) here
    );
    backupMaxAge = if cfg.backup.enable then cfg.backup.maxAgeHours * 3600 else null;
    certificates = cfg.nginx.enable or false && cfg.nginx.tls.mode or "off" != "off";
    runbookUrl = cfg.prometheus.runbookUrl;
  };

  ratio = types.numbers.between 0.5 0.99999;
in
{
  imports = [ ./alertmanager.nix ];

  options.services.aistack.prometheus = {
    slo = {
      availability = mkOption {
        type = ratio;
        default = 0.995;
        description = "Share of the requests of 30 days that must not end with a 5xx, per service; 0.995 allows one in 200.";
      };
      latency = mkOption {
        type = ratio;
        default = 0.95;
        description = "Share of the requests that must be answered within the service's seconds; 0.95 allows one in 20.";
      };
      latencySeconds = mkOption {
        # The buckets of the histogram (src/aistack/service/metrics.py): between them nothing is
        # known.
        type = types.attrsOf (
          types.enum [
            0.05
            0.1
            0.25
            0.5
            1
            2.5
            5
            10
            30
            60
            120
          ]
        );
        default = { };
        example = {
          aidb = 1;
        };
        description = ''
          Seconds to the last byte, by service: 60 for the coordinator, which streams, 2.5 for the
          others. A value must be a bucket of the histogram.
        '';
      };
      minRequests = mkOption {
        type = types.ints.positive;
        default = 20;
        description = "Requests in the long window below which an objective's alerts are quiet.";
      };
    };
    runbookUrl = mkOption {
      type = types.str;
      default = "docs/operations.md";
      example = "https://example.org/aistack/operations.html";
      description = "Where `runbook_url` of each alert leads; the alert's name is the anchor.";
    };
  };

  config = mkIf (cfg.enable && cfg.prometheus.enable) {
    assertions = map (name: {
      assertion = lib.elem name (lib.attrNames cfg.stack.services);
      message = ''
        services.aistack.prometheus.slo.latencySeconds.${name}: there is no such service; use one of
        ${lib.concatStringsSep ", " (lib.attrNames cfg.stack.services)}.
      '';
    }) (lib.attrNames slo.latencySeconds);

    services.aistack.prometheus.slo.latencySeconds.coordinator = mkDefault 60;
    # A file of its own: the texts in `rules` are joined into one file, where only one document may
    # be.
    services.prometheus.ruleFiles = [
      (pkgs.writeText "aistack-rules.json" (builtins.toJSON rules))
    ];
  };
}
