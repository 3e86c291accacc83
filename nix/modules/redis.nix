# Redis: the caches of vectors and searches. Nothing in it needs to be kept, and the services go on
# without it.
{ config, lib, ... }:
let
  inherit (lib) mkDefault mkOption types;
  cfg = config.services.aistack;
  own = cfg.redis;
  server = config.services.redis.servers.aistack;

  url = if own.createLocally then "unix://${toString server.unixSocket}" else own.url;
  overSocket = own.createLocally || (own.url != null && lib.hasPrefix "unix:" own.url);
  used = lib.any (name: cfg.${name}.enable && cfg.stack.services.${name}.needs ? redis) (
    lib.attrNames cfg.stack.services
  );

  # What upstream's unit sets otherwise or not at all. Its own settings win where both have one:
  # lists would be merged in an order that depends on the modules', so those stay upstream's.
  hardened = lib.filterAttrs (_: value: !lib.isList value) (cfg.lib.hardening { });
in
{
  options.services.aistack.redis = {
    createLocally = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether to run a Redis of the stack's own, `services.redis.servers.aistack`, on a socket and
        on no port.
      '';
    };
    url = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "rediss://cache.example.org:6380/0";
      description = ''
        Address of another Redis or Valkey (`rediss://` with TLS, `redis://`, `unix://`), without
        its password. While it is away, vectors and searches are computed again.
      '';
    };
    passwordFile = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/aistack-redis";
      description = ''
        File with the password of the other Redis, on one line, outside the store; read by root when
        a service starts.
      '';
    };
    maxMemory = mkOption {
      type = types.ints.between 16 1048576;
      default = 256;
      description = ''
        MiB that the caches may take; beyond it the least used entries go. The unit's limit lies
        half again above it.
      '';
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = own.createLocally -> own.url == null;
        message = ''
          services.aistack.redis.url names another Redis, but one is made on this machine too. Set
          services.aistack.redis.createLocally = false; or remove url.
        '';
      }
      {
        assertion = !own.createLocally && used -> own.url != null;
        message = ''
          services.aistack.redis.createLocally = false; needs the address of another Redis: set
          services.aistack.redis.url = "rediss://host:6380/0";
        '';
      }
      {
        assertion = own.url == null || builtins.match "(rediss?|unix)://.+" own.url != null;
        message = ''
          services.aistack.redis.url = "${toString own.url}" is no address of a Redis: write
          "rediss://host:6380/0" (TLS), "redis://host:6379/0" or "unix:///path/of/its.sock".
        '';
      }
      {
        assertion = own.url == null || builtins.match "[a-z]+://[^/@]*:[^/@]*@.*" own.url == null;
        message = ''
          services.aistack.redis.url holds a password, which would be readable in the store. Write
          it without, and set services.aistack.redis.passwordFile = "/run/secrets/...";
        '';
      }
      {
        assertion = own.createLocally -> own.passwordFile == null;
        message = ''
          services.aistack.redis.passwordFile is for another Redis: the local one knows its clients
          by their group. Remove it, or set services.aistack.redis.createLocally = false;
        '';
      }
    ];

    services.redis.servers.aistack = lib.mkIf own.createLocally {
      enable = true;
      port = mkDefault 0;
      save = mkDefault [ ];
      settings = {
        maxmemory = mkDefault "${toString own.maxMemory}mb";
        maxmemory-policy = mkDefault "allkeys-lfu";
      };
    };

    systemd.services.redis-aistack = lib.mkIf own.createLocally {
      wantedBy = [ "aistack.target" ];
      partOf = [ "aistack.target" ];
      unitConfig = lib.mapAttrs (_: mkDefault) cfg.lib.never.unitConfig;
      serviceConfig = lib.mapAttrs (_: mkDefault) (
        hardened
        // cfg.lib.never.serviceConfig
        // {
          Slice = "aistack.slice";
          # Above what Redis keeps to: fragmentation and the buffers of its clients.
          MemoryMax = "${toString (own.maxMemory * 3 / 2 + 64)}M";
          TasksMax = 32;
          OOMPolicy = "kill";
        }
      )
      // {
        # It listens on a socket only. After upstream's list, from which this takes away.
        RestrictAddressFamilies = lib.mkAfter [ "~AF_INET AF_INET6" ];
      };
    };

    services.aistack.parts.redis = lib.mkIf (own.createLocally || own.url != null) {
      group = lib.mkIf own.createLocally server.group;
      units = lib.optional own.createLocally "redis-aistack.service";
      network = if overSocket then "unix" else "egress";
      settings = unit: {
        redis = {
          inherit url;
        }
        // lib.optionalAttrs (own.passwordFile != null) {
          password_file = cfg.lib.credential unit "redis-password";
        };
      };
      credentials = lib.optionalAttrs (own.passwordFile != null) {
        redis-password = own.passwordFile;
      };
    };
  };
}
