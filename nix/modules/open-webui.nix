# Open WebUI: chat in a browser, on nixpkgs' own module, opt-in because its licence is not free.
#
# It speaks to our API as any client does, with a key of its own, over a listener of nginx on
# loopback (it knows no unix sockets). It does not work below a path, so it has a name of its own.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkDefault mkOption types;
  cfg = config.services.aistack;
  own = cfg.openWebui;
  tls = cfg.nginx.tls.mode != "off";
  port = if tls then cfg.nginx.httpsPort else cfg.nginx.httpPort;
  usualPort = if tls then 443 else 80;
  proxy = import ./nginx-proxy.nix { inherit lib; };

  environmentFile = "/run/aistack-open-webui/environment";
  package = config.services.open-webui.package;
  licenses = lib.toList (package.meta.license or [ ]);
  isFree = lib.all (license: license.free or true) licenses;

  # As nixpkgs decides; reading meta does not evaluate the package itself.
  allowed =
    (pkgs.config.allowUnfree or false)
    || (pkgs.config.allowUnfreePredicate or (_: false)) package
    || lib.elem (lib.getName package) (pkgs.config.allowUnfreePackages or [ ]);

  apiKey =
    if own.apiKeyFile != null then
      own.apiKeyFile
    else
      "${cfg.lib.secretsDirectory}/open-webui-api-key";
in
{
  options.services.aistack.openWebui = {
    enable = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether to run Open WebUI. Its licence is not free (it keeps its brand), so it must be
        allowed; see the assertion. The first account that is made is the administrator's.
      '';
    };

    hostName = mkOption {
      type = types.nullOr (types.strMatching "[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?");
      default = null;
      example = "chat.example.org";
      description = ''
        Name of its site, another one than {option}`services.aistack.nginx.hostName`. With
        `nginx.tls.mode = "files"` the certificate must hold it too.
      '';
    };

    port = mkOption {
      type = types.port;
      default = 8380;
      description = "Port of Open WebUI on 127.0.0.1.";
    };

    apiPort = mkOption {
      type = types.port;
      default = 8381;
      description = "Port on 127.0.0.1 on which nginx gives it our chat API.";
    };

    apiKeyFile = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/open-webui-api-key";
      description = ''
        File with a key of our API that carries the scopes `chat` and `models.read`. Made at first
        start when not given.
      '';
    };

    secretKeyFile = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/open-webui-secret-key";
      description = "File with the secret that signs sessions. Made at first start when not given.";
    };
  };

  config = lib.mkIf (cfg.enable && own.enable) {
    assertions = [
      {
        assertion = isFree || allowed;
        message = ''
          services.aistack.openWebui.enable: the licence of Open WebUI is not free. Allow it with
            nixpkgs.config.allowUnfreePredicate = pkg: builtins.elem (lib.getName pkg) [ "open-webui" ];
          or set services.aistack.openWebui.enable = false.
        '';
      }
      {
        assertion = cfg.nginx.enable;
        message = ''
          services.aistack.openWebui.enable needs nginx, over which it reaches the API and is
          reached: set services.aistack.nginx.enable = true.
        '';
      }
      {
        assertion = own.hostName != null;
        message = ''
          services.aistack.openWebui.enable: Open WebUI does not work below a path, so it needs a
          name of its own: set services.aistack.openWebui.hostName = "chat.example.org".
        '';
      }
      {
        assertion = own.hostName == null || own.hostName != cfg.nginx.hostName;
        message = ''
          services.aistack.openWebui.hostName and nginx.hostName are both
          "${toString own.hostName}": give Open WebUI another name, such as "chat.${toString own.hostName}".
        '';
      }
    ];

    # In the certificate that is made here; one that is given must hold it.
    services.aistack.nginx.tls.names = lib.optional (own.hostName != null) own.hostName;

    services.aistack.secrets = {
      generate = lib.optional (own.secretKeyFile == null) "open-webui-secret-key";
      apiKeys = lib.optionalAttrs (own.apiKeyFile == null) {
        open-webui = [
          "chat"
          "models.read"
        ];
      };
      watch.aistack-open-webui-environment = lib.filter (file: file != null) [
        own.apiKeyFile
        own.secretKeyFile
      ];
    };

    services.open-webui = {
      enable = true;
      host = mkDefault "127.0.0.1";
      port = mkDefault own.port;
      environmentFile = mkDefault environmentFile;
      environment = lib.mapAttrs (_: mkDefault) {
        # The first three are the option's default upstream, which any definition replaces.
        ANONYMIZED_TELEMETRY = "False";
        DO_NOT_TRACK = "True";
        SCARF_NO_ANALYTICS = "True";

        # What is configured here holds; without it the first start's values stay for ever.
        ENABLE_PERSISTENT_CONFIG = "False";

        OFFLINE_MODE = "True";
        HF_HUB_OFFLINE = "1";
        ENABLE_VERSION_UPDATE_CHECK = "False";
        ENABLE_COMMUNITY_SHARING = "False";
        ENABLE_OLLAMA_API = "False";
        ENABLE_OPENAI_API = "True";
        OPENAI_API_BASE_URL = "http://127.0.0.1:${toString own.apiPort}/v1";
        WEBUI_URL =
          "http${lib.optionalString tls "s"}://${toString own.hostName}"
          + lib.optionalString (port != usualPort) ":${toString port}";

        # No embedding model of its own: it would be downloaded, and documents belong to aidb.
        RAG_EMBEDDING_MODEL = "";
        BYPASS_EMBEDDING_AND_RETRIEVAL = "True";

        # Each is another request for every answer, which a processor feels.
        ENABLE_FOLLOW_UP_GENERATION = "False";
        ENABLE_TAGS_GENERATION = "False";
        ENABLE_AUTOCOMPLETE_GENERATION = "False";
        ENABLE_EVALUATION_ARENA_MODELS = "False";
      };
    };

    systemd.services.aistack-open-webui-environment = {
      description = "Secrets of Open WebUI as its environment file";
      requiredBy = [ "open-webui.service" ];
      before = [ "open-webui.service" ];
      wants = [ "aistack-secrets.service" ];
      after = [ "aistack-secrets.service" ];
      # printf is the shell's own: nothing secret is an argument of a process.
      script = ''
        umask 0077
        {
          printf 'WEBUI_SECRET_KEY=%s\n' "$(<"$CREDENTIALS_DIRECTORY/secret-key")"
          printf 'OPENAI_API_KEY=%s\n' "$(<"$CREDENTIALS_DIRECTORY/api-key")"
        } >${environmentFile}
      '';
      serviceConfig = cfg.lib.hardening { } // {
        Type = "oneshot";
        RemainAfterExit = true;
        Slice = "aistack.slice";
        LoadCredential = [
          "secret-key:${cfg.lib.secretFile own.secretKeyFile "open-webui-secret-key"}"
          "api-key:${apiKey}"
        ];
        # Root reads it for the unit (EnvironmentFile=); memory only.
        RuntimeDirectory = "aistack-open-webui";
        RuntimeDirectoryMode = "0700";
      };
    };

    systemd.services.open-webui = {
      wantedBy = [ "aistack.target" ];
      partOf = [ "aistack.target" ];
      serviceConfig = {
        Slice = mkDefault "aistack.slice";
        Restart = mkDefault "always";
        RestartSec = mkDefault 5;
        NoNewPrivileges = mkDefault true;
        # Whatever it would tell whom: it reaches this machine alone.
        IPAddressAllow = mkDefault "localhost";
        IPAddressDeny = mkDefault "any";
      };
    };

    services.nginx.virtualHosts = lib.mkIf (cfg.nginx.enable && own.hostName != null) (
      cfg.nginx.virtualHost own.hostName {
        serverName = own.hostName;
        locations."/" = {
          proxyPass = "http://127.0.0.1:${toString own.port}";
          proxyWebsockets = true;
          recommendedProxySettings = true;
          extraConfig = ''
            proxy_buffering off;
            proxy_read_timeout 610s;
            proxy_send_timeout 610s;
            client_max_body_size 64m;
            gzip off;
          '';
        };
      }
      // {
        aistack-open-webui-api = {
          listen = [
            {
              addr = "127.0.0.1";
              port = own.apiPort;
            }
          ];
          extraConfig = proxy.settings;
          locations = lib.genAttrs [ "/v1/chat/" "/v1/models" ] (_: {
            proxyPass = "http://unix:${cfg.lib.socketPath "coordinator"}";
            recommendedProxySettings = false;
            extraConfig = ''
              ${proxy.clientHeaders { }}
              proxy_read_timeout 610s;
              proxy_send_timeout 610s;
              client_max_body_size 2m;
            '';
          });
        };
      }
    );
  };
}
