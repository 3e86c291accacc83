# The options that everything hangs on: the stack's table, one group per service, and what the
# modules say to each other.
#
# The table is read when the options are made, so it cannot be a setting: a test that adds a service
# passes its own as specialArgs.aistackStack.
{
  config,
  lib,
  pkgs,
  ...
}@args:
let
  inherit (lib)
    mkEnableOption
    mkOption
    types
    ;

  stack = args.aistackStack or (lib.importTOML ../../src/aistack/stack.toml);
  aistack = import ../lib.nix { inherit lib stack; };
  json = (pkgs.formats.json { }).type;
  packages = import ../packages { inherit pkgs; };

  size = types.strMatching "[0-9]+(\\.[0-9]+)?[KMGT]?|[0-9]+%|infinity";

  serviceOptions =
    name: entry:
    let
      limits = aistack.limitsOf name;
    in
    {
      enable = mkOption {
        type = types.bool;
        default = true;
        description = ''
          Whether to run ${name} on this machine: ${entry.summary}. Without it, and without
          {option}`services.aistack.replicas.${name}`, its routes are not served.
        '';
      };
      settings = mkOption {
        type = json;
        default = { };
        example = {
          log.level = "debug";
        };
        description = ''
          Settings of ${name} alone, over {option}`services.aistack.settings`. The build checks
          them: an unknown key or a wrong type fails it.
        '';
      };
      memoryHigh = mkOption {
        type = size;
        default = limits.memoryHigh;
        description = ''
          Memory of ${name} beyond which the kernel slows it down and takes pages back
          (`MemoryHigh=`; bytes with K, M, G, or a share of the machine's). The default is one and
          a half times the measured peak, and what processes that it begins for its work (parsers of
          documents) may take.
        '';
      };
      memoryMax = mkOption {
        type = size;
        default = limits.memoryMax;
        description = ''
          Memory of ${name} beyond which it is killed and started again (`MemoryMax=`). The default
          is twice the measured peak, and what processes that it begins for its work may take.
        '';
      };
      cpuWeight = mkOption {
        type = types.ints.between 1 10000;
        default = 100;
        description = "Share of the processor that ${name} gets under contention (`CPUWeight=`).";
      };
      tasksMax = mkOption {
        type = types.ints.positive;
        default = limits.tasksMax;
        description = "Most threads and processes of ${name} (`TasksMax=`).";
      };
      extraServiceConfig = mkOption {
        type = types.attrsOf types.unspecified;
        default = { };
        example = {
          Nice = 5;
        };
        description = "Added to `serviceConfig` of `aistack-${name}.service`, over what is there.";
      };
    };
in
{
  options.services.aistack = lib.mapAttrs serviceOptions stack.services // {
    enable = mkEnableOption "the AI stack: chat, documents, search and embeddings on this machine";

    package = mkOption {
      type = types.package;
      default = packages.aistack;
      defaultText = lib.literalMD "`aistack` of the flake, built with the system's nixpkgs";
      description = "The package with the services and the `aistack` command.";
    };

    embeddingModel = mkOption {
      type = types.either types.package types.path;
      default = "${packages.all-minilm-l6-v2}/all-minilm-l6-v2";
      defaultText = lib.literalMD "all-MiniLM-L6-v2 (384 dimensions) of the flake";
      description = ''
        Directory of the embedding model, as sentence-transformers writes it. Its last part is the
        name of the model in the API. A model with another dimension also needs
        {option}`services.aistack.settings.embeddings.dimension` and `aidb.dimension`.
      '';
    };

    rerankModel = mkOption {
      type = types.nullOr (types.either types.package types.path);
      default = null;
      example = "/var/lib/models/ms-marco-MiniLM-L6-v2";
      description = ''
        Directory of a cross-encoder with one label, as transformers writes it: then `/v1/rerank`
        answers, and a search puts its best hits into the order of that model where it is asked to
        (`aidb.rerank` in {option}`services.aistack.settings` asks always). Other models than BERT
        need the package with torch. Without a model there is no reranking.
      '';
    };

    settings = mkOption {
      type = json;
      default = { };
      example = {
        aidb.chunk_tokens = 256;
        log.level = "warning";
      };
      description = ''
        Settings of all services, as in `docs/configuration.md`. They are checked when the system
        is built. Nothing secret belongs here: it would be readable in the store.
      '';
    };

    stack = mkOption {
      type = types.raw;
      internal = true;
      readOnly = true;
      default = stack;
      description = "The table of services (`stack.toml`).";
    };

    lib = mkOption {
      type = types.raw;
      internal = true;
      readOnly = true;
      default = aistack;
      description = "What the modules share (`nix/lib.nix`).";
    };

    parts = mkOption {
      internal = true;
      default = { };
      description = ''
        What services stand on, by the name in their `needs`: each module enters its own. A service
        that needs the part gets its group, its units in `After=` and `Wants=`, its settings and its
        credentials, and at least its network.
      '';
      type = types.attrsOf (
        types.submodule {
          options = {
            group = mkOption {
              type = types.nullOr types.str;
              default = null;
              description = "Group whose members may connect to the part's socket.";
            };
            units = mkOption {
              type = types.listOf types.str;
              default = [ ];
              description = "Units that are started before a service which needs the part.";
            };
            network = mkOption {
              type = types.enum [
                "unix"
                "loopback"
                "egress"
              ];
              default = "unix";
              description = "What reaching the part takes.";
            };
            settings = mkOption {
              type = types.functionTo json;
              default = _: { };
              description = "Settings that reach the part, from the name of the unit that uses it.";
            };
            credentials = mkOption {
              type = types.attrsOf types.str;
              default = { };
              description = "Credentials that the part asks for, by name: the file of each.";
            };
            environment = mkOption {
              type = types.attrsOf types.str;
              default = { };
              description = "Environment variables that the part asks for.";
            };
          };
        }
      );
    };

    serviceGroups = mkOption {
      type = types.listOf types.str;
      internal = true;
      default = [ ];
      description = "Groups that every service is a member of.";
    };
  };
}
