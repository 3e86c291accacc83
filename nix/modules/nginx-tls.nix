# Certificates: what a site needs to speak TLS as `nginx.tls.mode` says, and the redirect to it.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkIf mkOption types;
  cfg = config.services.aistack;
  site = cfg.nginx;
  inherit (site) tls;
  group = config.services.nginx.group;

  directory = "/var/lib/aistack-tls";
  credential = cfg.lib.credential "nginx";

  listen =
    ssl: port:
    map (addr: {
      inherit addr port ssl;
    }) site.listenAddresses;

  certificate = {
    self-signed = {
      sslCertificate = "${directory}/server.pem";
      sslCertificateKey = "${directory}/server.pem";
    };
    files = {
      sslCertificate = credential "aistack-certificate";
      sslCertificateKey = credential "aistack-certificate-key";
    };
    acme.enableACME = true;
  };

  portOf = port: standard: lib.optionalString (port != standard) ":${toString port}";
  here = "https://$host${portOf site.httpsPort 443}$request_uri";

  log = {
    journal = "access_log syslog:server=unix:/run/systemd/journal/dev-log,tag=aistack_nginx,nohostname aistack;\n";
    file = "access_log /var/log/nginx/aistack.log aistack;\n";
    off = "access_log off;\n";
  };

  virtualHost =
    name: host:
    if tls.mode == "off" then
      {
        ${name} = host // {
          listen = listen false site.httpPort;
          extraConfig = log.${site.accessLog} + host.extraConfig or "";
        };
      }
    else
      {
        ${name} =
          host
          // certificate.${tls.mode}
          // {
            onlySSL = true;
            listen = listen true site.httpsPort;
            extraConfig = log.${site.accessLog} + ''
              ssl_session_cache shared:aistack_tls:10m;
              ssl_session_timeout 1d;
              ssl_session_tickets off;
              # Plain HTTP on the port of HTTPS.
              error_page 497 =308 ${here};
            ''
            + host.extraConfig or "";
          };
        # forceSSL would forget a port other than 443. 308 keeps the method, so that a client's POST
        # does not arrive as a GET.
        "${name}-redirect" = {
          serverName = host.serverName or name;
          serverAliases = host.serverAliases or [ ];
          default = host.default or false;
          listen = listen false site.httpPort;
          locations."/".return = "308 ${here}";
          extraConfig = log.${site.accessLog};
        }
        # The challenge arrives on port 80.
        // lib.optionalAttrs (tls.mode == "acme") { useACMEHost = host.serverName or name; };
      };

  # The names are in the request file: another name makes another file, and so a new certificate.
  request = pkgs.writeText "aistack-certificate.cnf" ''
    [req]
    distinguished_name = subject
    x509_extensions = extensions
    prompt = no
    [subject]
    CN = ${subject}
    [extensions]
    basicConstraints = critical, CA:FALSE
    keyUsage = critical, digitalSignature
    extendedKeyUsage = serverAuth
    subjectKeyIdentifier = hash
    subjectAltName = ${lib.concatMapStringsSep ", " (name: "DNS:${name}") names}, IP:127.0.0.1, IP:::1
  '';
  names = lib.unique (
    lib.filter (name: name != null && name != "") (
      [
        site.hostName
        config.networking.hostName
        "localhost"
      ]
      ++ tls.names
    )
  );
  # A common name holds at most 64 characters (RFC 5280, ub-common-name); nobody reads it.
  subject = if lib.stringLength (lib.head names) <= 64 then lib.head names else "aistack";
in
{
  options.services.aistack.nginx.virtualHost = mkOption {
    type = types.raw;
    internal = true;
    readOnly = true;
    default = virtualHost;
    description = ''
      Of a name and a site (`serverName`, `locations`, `extraConfig`, …): the entries of
      {option}`services.nginx.virtualHosts` that serve it with the stack's certificate.
    '';
  };

  options.services.aistack.nginx.tls.names = mkOption {
    type = types.listOf types.str;
    default = [ ];
    example = [ "chat.example.org" ];
    description = "Further names in the self-signed certificate.";
  };

  options.services.aistack.nginx.tls.selfSigned = mkOption {
    type = types.str;
    internal = true;
    readOnly = true;
    default = "${directory}/certificate.pem";
    description = "The self-signed certificate, for clients that are to trust it.";
  };

  config = mkIf (cfg.enable && site.enable) {
    services.aistack.secrets.watch.nginx = mkIf (tls.mode == "files") [
      (toString tls.certificate)
      (toString tls.certificateKey)
    ];

    systemd.services.nginx = lib.mkMerge [
      (mkIf (tls.mode == "self-signed") {
        wants = [ "aistack-tls.service" ];
        after = [ "aistack-tls.service" ];
      })
      (mkIf (tls.mode == "files") {
        serviceConfig.LoadCredential = [
          "aistack-certificate:${toString tls.certificate}"
          "aistack-certificate-key:${toString tls.certificateKey}"
        ];
      })
    ];

    systemd.services.aistack-tls = mkIf (tls.mode == "self-signed") {
      description = "Self-signed certificate of the AI stack";
      path = [
        pkgs.openssl
        pkgs.diffutils
        pkgs.coreutils
      ];
      # One file holds key and certificate, so that they change together; certificate.pem is what
      # clients may be given to trust.
      script = ''
        cd "$STATE_DIRECTORY"
        if [ -s server.pem ] && cmp -s request.cnf ${request} &&
          openssl x509 -in server.pem -noout -checkend 2592000; then
          chmod 0644 certificate.pem
          exit 0
        fi
        openssl req -x509 -config ${request} -newkey ec -pkeyopt ec_paramgen_curve:P-256 \
          -noenc -days 397 -keyout new.key -out certificate.pem.new
        cat new.key certificate.pem.new > server.pem.new
        rm new.key
        chmod 0644 certificate.pem.new
        mv server.pem.new server.pem
        mv certificate.pem.new certificate.pem
        cp ${request} request.cnf
        touch "$RUNTIME_DIRECTORY/renewed"
      '';
      serviceConfig = cfg.lib.hardening { } // {
        Type = "oneshot";
        # Root makes it; nginx's group reads the key, everybody the certificate.
        Group = group;
        UMask = "0027";
        StateDirectory = "aistack-tls";
        StateDirectoryMode = "0755";
        RuntimeDirectory = "aistack-tls";
        # Outside the sandbox (+), since it speaks to systemd. At boot nginx waits for this unit.
        ExecStartPost = "+${pkgs.writeShellScript "aistack-tls-reload" ''
          if [ -e /run/aistack-tls/renewed ] && ${config.systemd.package}/bin/systemctl -q is-active nginx.service; then
            ${config.systemd.package}/bin/systemctl reload nginx.service
          fi
        ''}";
      };
    };

    systemd.timers.aistack-tls = mkIf (tls.mode == "self-signed") {
      description = "Renewal of the self-signed certificate of the AI stack";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnCalendar = "daily";
        Persistent = true;
        RandomizedDelaySec = "1h";
      };
    };
  };
}
