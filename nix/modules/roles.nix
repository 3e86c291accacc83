# What this machine runs of the stack, and where the rest is.
#
# On one machine nothing here is set. On several, each says its roles, and `replicas` says where the
# services are that it uses; nginx carries what passes between machines (nginx-machines.nix).
{
  config,
  lib,
  options,
  ...
}@args:
let
  inherit (lib) mkDefault mkOption types;
  cfg = config.services.aistack;
  here = options.services.aistack;
  # Read as in options.nix: definitions cannot be named after an option's value.
  stack = args.aistackStack or (lib.importTOML ../../src/aistack/stack.toml);
  services = lib.attrNames stack.services;

  has = role: lib.elem role cfg.roles;
  when = role: mkDefault (has role);
in
{
  imports = [ ./nginx-machines.nix ];

  options.services.aistack = {
    roles = mkOption {
      type = types.listOf (
        types.enum (
          services
          ++ [
            "data"
            "llama"
            "front"
            "monitoring"
          ]
        )
      );
      default = services ++ [
        "data"
        "llama"
        "front"
        "monitoring"
      ];
      defaultText = lib.literalMD "all of them";
      example = [
        "front"
        "coordinator"
      ];
      description = ''
        What this machine runs: services by their names, `data` (PostgreSQL and Redis), `llama` (the
        language model), `front` (the public site), `monitoring` (Prometheus, Alertmanager, Grafana).
        A role sets the defaults of the `enable` and `createLocally` options of its parts.
      '';
    };

    replicas = mkOption {
      type = types.attrsOf (types.listOf (types.strMatching "[^[:space:]/;{}]+:[0-9]+"));
      default = { };
      example = {
        embeddings = [
          "10.0.0.2:9443"
          "10.0.0.3:9443"
        ];
        llama = [ "10.0.0.4:9443" ];
      };
      description = ''
        Other machines that run a service, as address and {option}`services.aistack.machines.port`.
        nginx shares requests out among them, and among them and this machine where it runs the
        service too. A name is looked up once, when nginx starts; put it into
        {option}`networking.hosts` or give the address.
      '';
    };
  };

  config = {
    services.aistack =
      lib.genAttrs services (name: {
        enable = when name;
      })
      // lib.optionalAttrs (here ? nginx) { nginx.enable = when "front"; }
      // lib.optionalAttrs (here ? llama) { llama.enable = when "llama"; }
      // lib.optionalAttrs (here ? postgresql) { postgresql.createLocally = when "data"; }
      // lib.optionalAttrs (here ? redis) { redis.createLocally = when "data"; }
      // lib.optionalAttrs (here ? prometheus) { prometheus.enable = when "monitoring"; }
      // lib.optionalAttrs (here ? grafana) {
        grafana.enable = mkDefault (has "monitoring" && cfg.prometheus.enable);
      };

    warnings = lib.mkIf (cfg.enable && cfg.nginx.enable && cfg.nginx.routes != [ ]) (
      let
        missing = lib.filter (
          name:
          lib.elem "front" stack.services.${name}.clients
          && !(lib.any (route: route.service == name) cfg.nginx.routes)
        ) services;
      in
      lib.optional (missing != [ ]) ''
        services.aistack: the site serves nothing of ${lib.concatStringsSep ", " missing}: not on this machine, and
        services.aistack.replicas does not say where.
      ''
    );

    assertions = lib.mkIf cfg.enable (
      map (name: {
        assertion = lib.elem name services || name == "llama";
        message = ''
          services.aistack.replicas.${name}: there is no such service; use one of ${lib.concatStringsSep ", " services} or llama.
        '';
      }) (lib.attrNames cfg.replicas)
      ++ lib.optional cfg.nginx.enable {
        assertion = cfg.nginx.routes != [ ];
        message = ''
          services.aistack.nginx.enable: this machine runs no service and knows of no other that does, so the
          site would serve nothing. Say where they are: services.aistack.replicas.coordinator = [ "10.0.0.2:9443" ],
          and so on for ${lib.concatStringsSep ", " services}.
        '';
      }
    );
  };
}
