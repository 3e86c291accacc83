# What finds the nearest vectors: PostgreSQL itself, or Qdrant, an index beside it that aidb fills
# and can make again.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.services.aistack;
  own = cfg.vectors;
  inherit (cfg) qdrant;

  chosen = own.engine == "qdrant";
  url = if qdrant.url != null then qdrant.url else qdrant.localUrl;
  loopback =
    builtins.match "https?://(localhost|127\\.[0-9.]+|\\[::1])(:[0-9]+)?(/.*)?" url != null;

  used = lib.any (name: cfg.${name}.enable && cfg.stack.services.${name}.needs ? qdrant) (
    lib.attrNames cfg.stack.services
  );

  # The settings of every service and those shared, as far as they are about vectors.
  said = map (all: all.vectors or { }) (
    [ cfg.settings ] ++ map (name: cfg.${name}.settings) (lib.attrNames cfg.stack.services)
  );
in
{
  options.services.aistack.vectors = {
    engine = mkOption {
      type = types.enum [
        "pgvector"
        "qdrant"
      ];
      default = "pgvector";
      description = ''
        What finds the nearest vectors. They are kept in PostgreSQL in either case. `qdrant` fills a
        Qdrant beside it, on this machine unless {option}`services.aistack.qdrant.url` names
        another, and searches in PostgreSQL while it is away. When to choose which is in
        `docs/qdrant.md`.
      '';
    };
    quantization = mkOption {
      type = types.enum [
        "none"
        "int8"
      ];
      default = "none";
      description = ''
        What Qdrant keeps in memory: `int8` is one byte per dimension, and what is found is compared in full
        precision. Takes effect when the index is rebuilt (`aistack vectors rebuild`).
      '';
    };
    shards = mkOption {
      type = types.ints.between 1 1024;
      default = 1;
      description = "Shards of a collection of Qdrant. Takes effect when the index is rebuilt.";
    };
    replicationFactor = mkOption {
      type = types.ints.between 1 32;
      default = 1;
      description = ''
        Nodes of a cluster of Qdrant that hold each shard. Takes effect when the index is rebuilt.
      '';
    };
    writeConsistencyFactor = mkOption {
      type = types.ints.between 1 32;
      default = 1;
      description = "Nodes, of those that hold a shard, that must have a write before it counts.";
    };
  };

  options.services.aistack.qdrant.url = mkOption {
    type = types.nullOr types.str;
    default = null;
    example = "https://qdrant.example.org:6333";
    description = ''
      Address of the REST interface of another Qdrant, or of a node of its cluster, for
      {option}`services.aistack.vectors.engine`. Its key is in
      {option}`services.aistack.qdrant.apiKeyFile`.
    '';
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = lib.all (vectors: !(vectors ? engine)) said;
        message = ''
          services.aistack.settings.vectors.engine: the units of Qdrant, its key and the network of
          aidb follow from an option. Set services.aistack.vectors.engine = "qdrant"; instead.
        '';
      }
      {
        assertion = lib.all (
          vectors:
          lib.intersectLists [ "url" "api_key_file" ] (lib.attrNames (vectors.qdrant or { })) == [ ]
        ) said;
        message = ''
          services.aistack.settings.vectors.qdrant: where Qdrant is and its key are options. Set
          services.aistack.qdrant.{url,apiKeyFile} instead.
        '';
      }
      {
        assertion = chosen && used && qdrant.url == null -> qdrant.enable;
        message = ''
          services.aistack.vectors.engine = "qdrant"; and this machine runs no Qdrant. Say where one is,
          services.aistack.qdrant.url = "https://qdrant.example.org:6333"; or set services.aistack.qdrant.enable = true;
        '';
      }
      {
        assertion = qdrant.url == null || !qdrant.enable;
        message = ''
          services.aistack.qdrant.url names another Qdrant, but one is run on this machine too. Set
          services.aistack.qdrant.enable = false; or remove url.
        '';
      }
      {
        assertion = qdrant.url == null || builtins.match "https?://[^/@?# ]+(/[^?# ]*)?" qdrant.url != null;
        message = ''
          services.aistack.qdrant.url = "${toString qdrant.url}" is no address of a Qdrant: write
          "https://host:6333", without a user, a password or a query.
        '';
      }
      {
        assertion = chosen && qdrant.url != null -> qdrant.apiKeyFile != null;
        message = ''
          services.aistack.qdrant.url: aidb asks no Qdrant without its key. Set
          services.aistack.qdrant.apiKeyFile = "/run/secrets/qdrant-api-key";
        '';
      }
      {
        assertion = own.writeConsistencyFactor <= own.replicationFactor;
        message = ''
          services.aistack.vectors.writeConsistencyFactor (${toString own.writeConsistencyFactor}) is above
          replicationFactor (${toString own.replicationFactor}), so no write would ever count. Lower it.
        '';
      }
      {
        assertion =
          chosen && qdrant.enable && own.replicationFactor > 1 -> qdrant.settings.cluster.enabled or false;
        message = ''
          services.aistack.vectors.replicationFactor is above 1, and this machine's Qdrant is a single node. Set
          services.aistack.qdrant.settings.cluster.enabled = true; or leave it at 1.
        '';
      }
    ];

    warnings = lib.optional (chosen && qdrant.url != null && lib.hasPrefix "http:" url && !loopback) ''
      services.aistack.qdrant.url is ${url}: without TLS, its key and what documents say cross the network in the
      clear. Write https://.
    '';

    services.aistack.parts.qdrant = lib.mkIf (chosen && (qdrant.enable || qdrant.url != null)) {
      units = lib.optional qdrant.enable "qdrant.service";
      network = if loopback then "loopback" else "egress";
      settings = unit: {
        vectors = {
          inherit (own) engine;
          qdrant = {
            inherit url;
            inherit (own) quantization shards;
            replication_factor = own.replicationFactor;
            write_consistency_factor = own.writeConsistencyFactor;
            api_key_file = cfg.lib.credential unit "qdrant-api-key";
          };
        };
      };
      credentials.qdrant-api-key = cfg.lib.secretFile qdrant.apiKeyFile "qdrant-api-key";
    };
  };
}
