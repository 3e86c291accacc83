# Alertmanager, once there is somebody to tell.
{ config, lib, ... }:
let
  inherit (lib) mkDefault mkIf mkOption types;
  cfg = config.services.aistack;
  own = cfg.alertmanager;
  receivers = own.receivers;

  credential = name: "/run/credentials/alertmanager.service/${name}";
  credentials =
    lib.concatLists (
      lib.imap0 (
        index: email: lib.optional (email.passwordFile != null) "email-${toString index}:${email.passwordFile}"
      ) receivers.email
    )
    ++ lib.concatLists (
      lib.imap0 (
        index: hook:
        lib.optional (hook.urlFile != null) "webhook-url-${toString index}:${hook.urlFile}"
        ++ lib.optional (hook.tokenFile != null) "webhook-token-${toString index}:${hook.tokenFile}"
      ) receivers.webhook
    )
    ++ lib.concatLists (
      lib.imap0 (
        index: topic: lib.optional (topic.tokenFile != null) "ntfy-${toString index}:${topic.tokenFile}"
      ) receivers.ntfy
    );

  bearer = file: {
    http_config.authorization = {
      type = "Bearer";
      credentials_file = file;
    };
  };

  configuration = {
    route = {
      receiver = "aistack";
      group_by = [
        "alertname"
        "service"
      ];
      group_wait = "30s";
      group_interval = "5m";
      repeat_interval = own.repeatInterval;
    };
    # What follows from a part that is down is not told as well.
    inhibit_rules = [
      {
        source_matchers = [ ''alertname="AistackServiceDown"'' ];
        target_matchers = [ ''alertname=~"AistackServiceNotReady|AistackFrontDown"'' ];
        equal = [ "service" ];
      }
    ];
    receivers = [
      {
        name = "aistack";
        email_configs = lib.imap0 (
          index: email:
          {
            inherit (email) to from smarthost;
            require_tls = email.requireTls;
            send_resolved = true;
          }
          // lib.optionalAttrs (email.username != null) { auth_username = email.username; }
          // lib.optionalAttrs (email.passwordFile != null) {
            auth_password_file = credential "email-${toString index}";
          }
        ) receivers.email;
        webhook_configs =
          lib.imap0 (
            index: hook:
            {
              send_resolved = true;
            }
            // (
              if hook.urlFile != null then
                { url_file = credential "webhook-url-${toString index}"; }
              else
                { inherit (hook) url; }
            )
            // lib.optionalAttrs (hook.tokenFile != null) (
              bearer (credential "webhook-token-${toString index}")
            )
          ) receivers.webhook
          ++ lib.imap0 (
            index: topic:
            {
              send_resolved = true;
              # ntfy turns Alertmanager's JSON into a readable message by its own template.
              url = "${topic.url}?template=alertmanager";
            }
            // lib.optionalAttrs (topic.tokenFile != null) (bearer (credential "ntfy-${toString index}"))
          ) receivers.ntfy;
      }
    ];
  };

  # The NixOS unit passes the file through envsubst, where `$` begins a variable.
  escaped =
    value:
    if lib.isString value then
      lib.replaceStrings [ "$" ] [ "$$" ] value
    else if lib.isList value then
      map escaped value
    else if lib.isAttrs value then
      lib.mapAttrs (_: escaped) value
    else
      value;

  listOfSubmodules =
    description: options:
    mkOption {
      type = types.listOf (types.submodule { inherit options; });
      default = [ ];
      inherit description;
    };
  str = description: mkOption {
    type = types.str;
    inherit description;
  };
  file =
    description:
    mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/alertmanager";
      inherit description;
    };
  # No password before the host: what is written here is readable in the store.
  url = types.strMatching "https?://[^/@?#]+(/[^?#]*)?";
in
{
  options.services.aistack.alertmanager = {
    repeatInterval = mkOption {
      type = types.strMatching "([0-9]+(s|m|h|d|w))+";
      default = "4h";
      description = "After how long an alert that goes on is told again.";
    };
    receivers = {
      email = listOfSubmodules "People to write to. Alertmanager runs as soon as there is any receiver." {
        to = str "Address of the person, such as `ops@example.org`.";
        from = str "Address of the sender, such as `alerts@example.org`.";
        smarthost = mkOption {
          type = types.strMatching ".+:[0-9]+";
          example = "mail.example.org:587";
          description = "Mail server, as `host:port`.";
        };
        username = mkOption {
          type = types.nullOr types.str;
          default = null;
          description = "User at the mail server.";
        };
        passwordFile = file "File with the password at the mail server.";
        requireTls = mkOption {
          type = types.bool;
          default = true;
          description = "Whether to send only over TLS.";
        };
      };
      webhook = listOfSubmodules "Addresses that get Alertmanager's JSON." {
        url = mkOption {
          type = types.nullOr url;
          default = null;
          example = "https://hooks.example.org/aistack";
          description = "Address, when it is no secret.";
        };
        urlFile = file "File with the address, when it is a secret.";
        tokenFile = file "File with a bearer token.";
      };
      ntfy = listOfSubmodules "Topics of an ntfy server (2.14 or newer, for its template)." {
        url = mkOption {
          type = url;
          example = "https://ntfy.example.org/aistack";
          description = "Address of the topic.";
        };
        tokenFile = file "File with an access token.";
      };
    };
    enable = mkOption {
      type = types.bool;
      readOnly = true;
      default = receivers.email != [ ] || receivers.webhook != [ ] || receivers.ntfy != [ ];
      defaultText = lib.literalMD "whether there is a receiver";
      description = "Whether Alertmanager runs, which it does as soon as there is anybody to tell.";
    };
  };

  config = mkIf cfg.enable (
    lib.mkMerge [
      {
        assertions = [
          {
            assertion = own.enable -> cfg.prometheus.enable;
            message = ''
              services.aistack.alertmanager.receivers is set on a machine without Prometheus, so nobody
              would be told anything. Set it on the machine with services.aistack.prometheus.enable = true.
            '';
          }
        ];
      }
      (mkIf (cfg.prometheus.enable && own.enable) {
        assertions = map (hook: {
          assertion = (hook.url == null) != (hook.urlFile == null);
          message = ''
            services.aistack.alertmanager.receivers.webhook: give either url or urlFile, for example
            { urlFile = "/run/secrets/webhook"; }.
          '';
        }) receivers.webhook;

        services.prometheus = {
          alertmanagers = [
            {
              static_configs = [
                { targets = [ "127.0.0.1:${toString config.services.prometheus.alertmanager.port}" ]; }
              ];
            }
          ];
          scrapeConfigs = [
            {
              job_name = "aistack-alertmanager";
              scrape_interval = cfg.prometheus.scrapeInterval;
              static_configs = [
                { targets = [ "127.0.0.1:${toString config.services.prometheus.alertmanager.port}" ]; }
              ];
            }
          ];
          alertmanager = {
            enable = mkDefault true;
            listenAddress = mkDefault "127.0.0.1";
            # One instance gossips with nobody; the port would be open on every address.
            extraFlags = [ "--cluster.listen-address=" ];
            configuration = escaped configuration;
          };
        };
        systemd.services.alertmanager.serviceConfig.LoadCredential = credentials;
        services.aistack.secrets.watch.alertmanager = map (
          credential: lib.concatStringsSep ":" (lib.tail (lib.splitString ":" credential))
        ) credentials;
      })
    ]
  );
}
