# Qdrant on this machine, on loopback with a key: the engine of vectors.nix, where that is chosen.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkDefault mkOption types;
  cfg = config.services.aistack;
  own = cfg.qdrant;
  settings = config.services.qdrant.settings;
  json = (pkgs.formats.json { }).type;

  keyFile = cfg.lib.secretFile own.apiKeyFile "qdrant-api-key";
  environmentFile = "/run/aistack-qdrant/environment";

  used = lib.any (name: cfg.${name}.enable && cfg.stack.services.${name}.needs ? qdrant) (
    lib.attrNames cfg.stack.services
  );

  clustered = settings.cluster.enabled or false;
  here = lib.elem settings.service.host [
    "127.0.0.1"
    "::1"
    "localhost"
  ];
  everywhere = lib.elem settings.service.host [
    "0.0.0.0"
    "::"
  ];
  host = if everywhere then "127.0.0.1" else settings.service.host;
  secure = settings.service.enable_tls or false;
  url = "${if secure then "https" else "http"}://${
    if lib.hasInfix ":" host then "[${host}]" else host
  }:${toString settings.service.http_port}";

  # Active means ready here, and that nobody is let in without the key: an empty one would be none.
  ready = pkgs.writeShellScript "aistack-qdrant-ready" ''
    set -eu
    ask() {
      ${lib.getExe pkgs.curl} --silent --show-error --insecure --output /dev/null --max-time 5 "$@"
    }
    ask --fail --retry 120 --retry-delay 1 --retry-connrefused --retry-max-time 120 ${url}/readyz
    status=$(ask --write-out '%{http_code}' ${url}/collections)
    case $status in
      401 | 403) ;;
      *)
        echo "Qdrant answers $status without a key: see services.aistack.qdrant.apiKeyFile" >&2
        exit 1
        ;;
    esac
  '';
in
{
  options.services.aistack.qdrant = {
    enable = mkOption {
      type = types.bool;
      default = cfg.vectors.engine == "qdrant" && own.url == null && used;
      defaultText = lib.literalMD ''
        whether {option}`services.aistack.vectors.engine` is `"qdrant"`, no
        {option}`services.aistack.qdrant.url` is given and aidb runs here
      '';
      description = ''
        Whether to run Qdrant on this machine, with a key and on loopback. Nothing asks it unless
        {option}`services.aistack.vectors.engine` is `"qdrant"`.
      '';
    };
    localUrl = mkOption {
      type = types.str;
      internal = true;
      readOnly = true;
      default = url;
      description = "Where this machine's Qdrant answers.";
    };
    apiKeyFile = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/qdrant-api-key";
      description = ''
        File with the API key, one line of letters, digits and `. _ ~ + / = -`; that of the Qdrant
        at {option}`services.aistack.qdrant.url`, where one is named. For this machine's it is made
        once when not given, in {file}`/var/lib/aistack/secrets/qdrant-api-key`.
      '';
    };
    settings = mkOption {
      type = json;
      default = { };
      example = {
        cluster = {
          enabled = true;
          p2p.port = 6335;
        };
        service.host = "10.0.0.5";
      };
      description = ''
        Settings of Qdrant, over those of {option}`services.qdrant.settings`; no secrets, they are
        readable in the store.
      '';
    };
    cluster = {
      uri = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "http://10.0.0.5:6335";
        description = "Where the other nodes of a cluster reach this one; the first node needs it.";
      };
      bootstrap = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "http://10.0.0.5:6335";
        description = "A node of the cluster that this one joins; none on the first.";
      };
    };
    memoryHigh = mkOption {
      type = types.str;
      default = "3G";
      description = "Memory beyond which the kernel reclaims (`MemoryHigh=`).";
    };
    memoryMax = mkOption {
      type = types.str;
      default = "4G";
      description = "Memory beyond which Qdrant is killed and started again (`MemoryMax=`).";
    };
  };

  config = lib.mkIf (cfg.enable && own.enable) {
    assertions = [
      {
        assertion = !(own.settings ? service.api_key) && !(own.settings ? service.read_only_api_key);
        message = ''
          services.aistack.qdrant.settings.service.api_key would be readable in the store: put the key into
          a file and set services.aistack.qdrant.apiKeyFile = "/run/secrets/qdrant-api-key".
        '';
      }
      {
        assertion = clustered || (own.cluster.uri == null && own.cluster.bootstrap == null);
        message = ''
          services.aistack.qdrant.cluster.uri and cluster.bootstrap do nothing for a single node: set
          services.aistack.qdrant.settings.cluster.enabled = true, or remove them.
        '';
      }
      {
        assertion = clustered -> (own.cluster.uri != null || own.cluster.bootstrap != null);
        message = ''
          services.aistack.qdrant: a node of a cluster is either the first or joins one. Set
          services.aistack.qdrant.cluster.uri = "http://10.0.0.5:6335" on the first, and cluster.bootstrap to
          that address on the others.
        '';
      }
    ];

    warnings = lib.optional (!here && !secure) ''
      services.aistack.qdrant listens on ${settings.service.host} without TLS, so its key crosses the network in the
      clear: set settings.service.enable_tls and settings.tls, or keep it on 127.0.0.1.
    '';

    services.aistack.secrets.generate = lib.optional (own.apiKeyFile == null) "qdrant-api-key";
    services.aistack.secrets.watch.aistack-qdrant-key = lib.optional (own.apiKeyFile != null) keyFile;

    services.qdrant = {
      enable = true;
      settings = lib.mkMerge [
        {
          # Upstream has `true` by mkDefault; this stands over it and under anything of yours. With
          # it any web page could ask a Qdrant on the visitor's own machine.
          service.enable_cors = lib.mkOverride 900 false;
        }
        own.settings
      ];
    };

    # Qdrant takes a key from its configuration or its environment; this file is root's alone and
    # lives in memory. Without it Qdrant does not start, rather than start open.
    systemd.services.aistack-qdrant-key = {
      description = "API key of Qdrant";
      after = lib.optional (own.apiKeyFile == null) "aistack-secrets.service";
      requires = lib.optional (own.apiKeyFile == null) "aistack-secrets.service";
      script = ''
        key=$(cat "$CREDENTIALS_DIRECTORY/key")
        case $key in
          "" | *[!A-Za-z0-9._~+/=-]*)
            echo "${keyFile}: not one line of letters, digits and . _ ~ + / = -" >&2
            exit 1
            ;;
        esac
        echo "QDRANT__SERVICE__API_KEY=$key" > "$RUNTIME_DIRECTORY/environment"
      '';
      serviceConfig = cfg.lib.hardening { } // {
        Type = "oneshot";
        RemainAfterExit = true;
        LoadCredential = [ "key:${keyFile}" ];
        RuntimeDirectory = "aistack-qdrant";
        RuntimeDirectoryMode = "0700";
      };
    };

    systemd.services.qdrant = {
      # Required: when the key changes, Qdrant is started again with it.
      requires = [ "aistack-qdrant-key.service" ];
      after = [ "aistack-qdrant-key.service" ];
      environment = lib.filterAttrs (_: value: value != null) {
        QDRANT_URI = own.cluster.uri;
        QDRANT_BOOTSTRAP = own.cluster.bootstrap;
      };
      # What upstream sets stays; the rest of our confinement comes below it.
      serviceConfig =
        lib.mapAttrs (_: mkDefault) (
          cfg.lib.hardening { network = if clustered || !here then "egress" else "loopback"; }
        )
        // {
          EnvironmentFile = environmentFile;
          ExecStartPost = ready;
          TimeoutStartSec = 150;
          MemoryHigh = mkDefault own.memoryHigh;
          MemoryMax = mkDefault own.memoryMax;
          OOMPolicy = mkDefault "kill";
        };
    };
  };
}
