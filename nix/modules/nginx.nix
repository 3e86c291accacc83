# The public door of this machine: one site over TLS, built from the routes in stack.toml.
{
  config,
  lib,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.aistack;
  nginx = config.services.nginx;

  limit =
    {
      rate,
      burst,
      connections,
    }:
    what: {
      enable = mkOption {
        type = types.bool;
        default = true;
        description = "Whether requests are limited per ${what}.";
      };
      rate = mkOption {
        type = types.ints.positive;
        default = rate;
        description = "Requests per second and ${what}, as a long-term mean.";
      };
      burst = mkOption {
        type = types.ints.positive;
        default = burst;
        description = "Requests that one ${what} may be ahead of its rate before it gets 429.";
      };
      connections = mkOption {
        type = types.ints.positive;
        default = connections;
        description = "Requests that one ${what} may have open at once.";
      };
    };

  path = types.externalPath;
in
{
  imports = [
    ./nginx-http.nix
    ./nginx-upstreams.nix
    ./nginx-tls.nix
    ./nginx-site.nix
    ./nginx-metrics.nix
    ./nginx-assertions.nix
  ];

  options.services.aistack.nginx = {
    enable = mkOption {
      type = types.bool;
      default = true;
      description = "Whether nginx serves the stack's API on this machine.";
    };

    hostName = mkOption {
      type = types.nullOr (types.strMatching "[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?");
      default = null;
      example = "ai.example.org";
      description = ''
        Name under which clients reach the site. Without one the site answers to every name, as
        nginx's default site.
      '';
    };

    tls = {
      mode = mkOption {
        type = types.enum [
          "self-signed"
          "acme"
          "files"
          "off"
        ];
        default = "self-signed";
        description = ''
          Where the certificate comes from: `self-signed` is made at first start and renewed in
          time, `acme` is got by {option}`security.acme` (Let's Encrypt), `files` is
          yours. `off` is plain HTTP, for a machine behind another TLS server.
        '';
      };
      certificate = mkOption {
        type = types.nullOr path;
        default = null;
        example = "/var/lib/secrets/ai.example.org.pem";
        description = "With `files`: the certificate and its chain, PEM, outside the store.";
      };
      certificateKey = mkOption {
        type = types.nullOr path;
        default = null;
        example = "/run/secrets/ai.example.org.key";
        description = ''
          With `files`: the private key, PEM, outside the store. Root alone need be able to read it:
          nginx gets it as a credential, at its start; it is restarted when the file changes.
        '';
      };
      hstsSeconds = mkOption {
        type = types.ints.unsigned;
        default =
          if
            lib.elem cfg.nginx.tls.mode [
              "acme"
              "files"
            ]
          then
            15552000
          else
            0;
        defaultText = lib.literalMD "15552000 with `acme` and `files`, else 0";
        description = ''
          How long browsers refuse plain HTTP to this name (`Strict-Transport-Security`); 0 is off.
          It holds for every port of the name, so it is off for a certificate that nobody trusts.
        '';
      };
    };

    httpPort = mkOption {
      type = types.port;
      default = nginx.defaultHTTPListenPort;
      defaultText = lib.literalExpression "config.services.nginx.defaultHTTPListenPort";
      description = "Port of plain HTTP, which redirects to HTTPS unless `tls.mode` is `off`.";
    };
    httpsPort = mkOption {
      type = types.port;
      default = nginx.defaultSSLListenPort;
      defaultText = lib.literalExpression "config.services.nginx.defaultSSLListenPort";
      description = "Port of HTTPS.";
    };
    listenAddresses = mkOption {
      type = types.listOf types.str;
      default = nginx.defaultListenAddresses;
      defaultText = lib.literalExpression "config.services.nginx.defaultListenAddresses";
      example = [ "127.0.0.1" ];
      description = "Addresses of the site.";
    };
    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether the ports of the site are opened in the firewall.";
    };

    accessLog = mkOption {
      type = types.enum [
        "journal"
        "file"
        "off"
      ];
      default = "journal";
      description = ''
        Where a line of JSON per request goes: the journal (`journalctl SYSLOG_IDENTIFIER=aistack_nginx`),
        `/var/log/nginx/aistack.log`, or nowhere. It holds no query, body or key, only the key's id.
      '';
    };

    limits = {
      perKey = limit {
        rate = 200;
        burst = 400;
        connections = 256;
      } "key";
      perAddress = limit {
        rate = 400;
        burst = 800;
        connections = 512;
      } "address";
      exemptAddresses = mkOption {
        type = types.listOf types.str;
        default = [
          "127.0.0.0/8"
          "::1/128"
        ];
        description = "Ranges that are not limited per address; a proxy in front of nginx belongs here.";
      };
    };

    grafanaPath = mkOption {
      type = types.nullOr types.str;
      internal = true;
      default = if cfg.grafana.enable or false then cfg.grafana.path or null else null;
      description = "Where Grafana is shown on the site; it asks for its own password.";
    };

    active = mkOption {
      type = types.bool;
      internal = true;
      readOnly = true;
      default = cfg.enable && (cfg.nginx.enable || cfg.machines.enable);
      description = "Whether nginx runs for the stack: for clients, or for the stack's other machines.";
    };

    routes = mkOption {
      type = types.listOf types.raw;
      internal = true;
      readOnly = true;
      description = "What the site serves: { prefix, service, bodyBytes, seconds, openai, docs }.";
    };

    metricsPort = mkOption {
      type = types.port;
      default = 9180;
      description = "Port on 127.0.0.1 with `/<service>/metrics` and `/nginx_status` for Prometheus.";
    };
    scrape = mkOption {
      type = types.listOf types.raw;
      internal = true;
      readOnly = true;
      description = "What Prometheus can scrape through nginx: { service, instance, address, path }.";
    };
  };
}
