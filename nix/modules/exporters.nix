# Exporters of what the stack stands on, all on loopback, and where each is read.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkDefault mkIf optional;
  cfg = config.services.aistack;
  own = cfg.prometheus;
  inherit (config.services.prometheus) exporters;

  loopback = "127.0.0.1";
  behindNginx = cfg.nginx.scrape or [ ];
  internal = if behindNginx == [ ] then "${loopback}:9180" else (lib.head behindNginx).address;
  tls = cfg.nginx.tls.mode or "off" != "off";
  # The site's server_name: any other could be another site's.
  hostName = if cfg.nginx.hostName != null then cfg.nginx.hostName else "localhost";

  local = {
    postgres = cfg.postgresql.createLocally;
    redis = cfg.redis.createLocally;
    nginx = cfg.nginx.enable or false;
    # The exporter runs the driver's own nvidia-smi: where this system has no driver (WSL, a
    # container), it would be brought in for that alone.
    gpu =
      cfg.llama.enable or false
      && cfg.llama.acceleration == "cuda"
      && lib.elem "nvidia" config.services.xserver.videoDrivers;
  };

  blackbox = (pkgs.formats.yaml { }).generate "aistack-blackbox.yml" {
    modules = {
      ready = {
        prober = "http";
        timeout = "8s";
        http = {
          valid_status_codes = [ 200 ];
          preferred_ip_protocol = "ip4";
        };
      };
      # A route without a key: 401 comes from the service itself, so nginx, the socket and the key
      # store all work. The name in the certificate is not checked here, only that it is in date.
      front = {
        prober = "http";
        timeout = "8s";
        http = {
          valid_status_codes = [ 401 ];
          preferred_ip_protocol = "ip4";
          follow_redirects = false;
          headers.Host = hostName;
        }
        // lib.optionalAttrs tls {
          tls_config = {
            insecure_skip_verify = true;
            server_name = hostName;
          };
        };
      };
    };
  };
in
{
  config = mkIf (cfg.enable && own.enable) {
    services.aistack.prometheus.exporterTargets = {
      node = mkDefault [ "${loopback}:${toString exporters.node.port}" ];
      systemd = mkDefault [ "${loopback}:${toString exporters.systemd.port}" ];
      postgres = mkDefault (optional local.postgres "${loopback}:${toString exporters.postgres.port}");
      redis = mkDefault (optional local.redis "${loopback}:${toString exporters.redis.port}");
      nginx = mkDefault (optional local.nginx "${loopback}:${toString exporters.nginx.port}");
      nvidia-gpu = mkDefault (
        optional local.gpu "${loopback}:${toString exporters.nvidia-gpu.port}"
      );
    };

    services.prometheus.exporters = {
      node = {
        enable = mkDefault true;
        listenAddress = mkDefault loopback;
        extraFlags = optional own.textfileFlag "--collector.textfile.directory=${own.textfileDirectory}";
      };
      systemd = {
        enable = mkDefault true;
        listenAddress = mkDefault loopback;
        extraFlags = [ "--systemd.collector.enable-restart-count" ];
      };
      blackbox = {
        enable = mkDefault true;
        listenAddress = mkDefault loopback;
        configFile = mkDefault blackbox;
      };
      postgres = mkIf local.postgres {
        enable = mkDefault true;
        listenAddress = mkDefault loopback;
        # As its own role with pg_monitor, never as the superuser.
        dataSourceName = mkDefault "user=postgres-exporter host=/run/postgresql port=${toString cfg.postgresql.port} dbname=${cfg.postgresql.database} sslmode=disable";
      };
      redis = mkIf local.redis {
        enable = mkDefault true;
        listenAddress = mkDefault loopback;
        extraFlags = [ "-redis.addr=unix://${toString config.services.redis.servers.aistack.unixSocket}" ];
      };
      nginx = mkIf local.nginx {
        enable = mkDefault true;
        listenAddress = mkDefault loopback;
        scrapeUri = mkDefault "http://${internal}/nginx_status";
      };
      nvidia-gpu = mkIf local.gpu {
        enable = mkDefault true;
        listenAddress = mkDefault loopback;
      };
    };

    services.postgresql.ensureUsers = mkIf local.postgres [ { name = "postgres-exporter"; } ];
    services.aistack.postgresql.superuserSql = mkIf local.postgres ''
      GRANT pg_monitor TO "postgres-exporter";
    '';

    systemd.services = {
      prometheus-postgres-exporter = mkIf local.postgres {
        wants = [ "postgresql.target" ];
        after = [ "postgresql.target" ];
      };
      prometheus-redis-exporter = mkIf local.redis {
        after = [ "redis-aistack.service" ];
        serviceConfig.SupplementaryGroups = [ config.services.redis.servers.aistack.group ];
      };
    };

    systemd.tmpfiles.rules = [ "d ${own.textfileDirectory} 0755 root root -" ];
  };
}
