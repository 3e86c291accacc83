# The text of nginx.conf, in upstream's order of directives.
# Facts: nixos/modules/services/web-servers/nginx/default.nix, read in the copies faukah/nixpkgs at
# 3b20077cd82fd1f099e92e2792d73e3176d4869d and Swarsel/nixpkgs at
# 4aa6836a648ca76c68866decf0c8965e36ec2a3b.
{ config, lib, pkgs }:
let
  inherit (lib) concatMap hasPrefix optional optionals;
  cfg = config.services.nginx;
  certs = config.security.acme.certs;
  onOff = b: if b then "on" else "off";
  textLines = text: lib.filter (line: lib.trim line != "") (lib.splitString "\n" text);
  block = head: body: [ "${head} {" ] ++ map (line: "  ${line}") body ++ [ "}" ];
  when = optionals;

  proxyHeaders = pkgs.writeText "nginx-recommended-proxy_set_header-headers.conf" ''
    proxy_set_header        Host $host;
    proxy_set_header        X-Real-IP $remote_addr;
    proxy_set_header        X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header        X-Forwarded-Proto $scheme;
    proxy_set_header        X-Forwarded-Host $host;
    proxy_set_header        X-Forwarded-Server $hostname;
  '';
  compressible = "application/atom+xml application/geo+json application/javascript application/json application/ld+json application/manifest+json application/rdf+xml application/vnd.ms-fontobject application/wasm application/x-rss+xml application/x-web-app-manifest+json application/xhtml+xml application/xliff+xml application/xml font/collection font/otf font/ttf image/bmp image/svg+xml image/vnd.microsoft.icon text/cache-manifest text/calendar text/css text/csv text/javascript text/markdown text/plain text/vcard text/vnd.rim.location.xloc text/vtt text/x-component text/xml";

  upstream =
    name: u:
    block "upstream ${name}" (
      lib.mapAttrsToList (
        address: parameters:
        lib.concatStringsSep " " (
          [ "server ${address}" ]
          ++ lib.filter (p: p != "") (
            lib.mapAttrsToList (
              key: value: if builtins.isBool value then lib.optionalString value key else "${key}=${toString value}"
            ) parameters
          )
        )
        + ";"
      ) u.servers
      ++ textLines u.extraConfig
    );

  location =
    l:
    block "location ${l.location}" (
      optional (l.proxyPass != null) "proxy_pass ${l.proxyPass};"
      ++ when l.proxyWebsockets [
        "proxy_http_version 1.1;"
        "proxy_set_header Upgrade $http_upgrade;"
        "proxy_set_header Connection $connection_upgrade;"
      ]
      ++ optional (l.index != null) "index ${l.index};"
      ++ optional (l.tryFiles != null) "try_files ${l.tryFiles};"
      ++ optional (l.root != null) "root ${l.root};"
      ++ optional (l.alias != null) "alias ${l.alias};"
      ++ optional (l.return != null) "return ${toString l.return};"
      ++ textLines l.extraConfig
      ++ optional (l.proxyPass != null && l.recommendedProxySettings) "include ${proxyHeaders};"
      ++ basicAuth l
    );
  locations =
    set:
    concatMap location (
      lib.sortOn (l: l.priority) (lib.mapAttrsToList (name: l: l // { location = name; }) set)
    );
  basicAuth =
    zone:
    when (zone.basicAuthFile != null) [
      "auth_basic secured;"
      "auth_basic_user_file ${zone.basicAuthFile};"
    ];

  server =
    name: host:
    let
      serverName = if host.serverName != null then host.serverName else name;
      acme = host.enableACME || host.useACMEHost != null;
      certName = if host.useACMEHost != null then host.useACMEHost else serverName;
      certificate =
        if acme then
          {
            chain = "${certs.${certName}.directory}/fullchain.pem";
            key = "${certs.${certName}.directory}/key.pem";
            trusted =
              if host.sslTrustedCertificate != null then
                host.sslTrustedCertificate
              else
                "${certs.${certName}.directory}/chain.pem";
          }
        else
          {
            chain = host.sslCertificate;
            key = host.sslCertificateKey;
            trusted = host.sslTrustedCertificate;
          };
      hasSSL = host.onlySSL || host.addSSL || host.forceSSL;
      withPorts =
        addresses:
        let
          on =
            ssl: default:
            map (addr: {
              inherit addr ssl;
              port = if hasPrefix "unix:" addr then null else default;
              proxyProtocol = false;
              extraParameters = [ ];
            }) addresses;
        in
        when (hasSSL || host.rejectSSL) (on true cfg.defaultSSLListenPort)
        ++ when (!host.onlySSL) (on false cfg.defaultHTTPListenPort);
      all =
        if host.listen != [ ] then
          host.listen
        else
          withPorts (
            if host.listenAddresses != [ ] then host.listenAddresses else cfg.defaultListenAddresses
          );
      listen =
        l:
        lib.concatStringsSep " " (
          [ "listen ${l.addr}${lib.optionalString (l.port != null) ":${toString l.port}"}" ]
          ++ optional l.ssl "ssl"
          ++ optional host.default "default_server"
          ++ optional (host.reuseport && !hasPrefix "unix:" l.addr) "reuseport"
          ++ optional l.proxyProtocol "proxy_protocol"
          ++ l.extraParameters
        )
        + ";";
      names = "server_name ${toString ([ serverName ] ++ host.serverAliases)};";
      challenge = when (acme && certs.${certName}.dnsProvider == null) (
        block "location ^~ /.well-known/acme-challenge/" (
          optional (host.acmeRoot != null) "root ${host.acmeRoot};"
          ++ [
            "auth_basic off;"
            "auth_request off;"
          ]
        )
      );
      redirect = block "server" (
        map listen (lib.filter (l: !l.ssl) all)
        ++ [ names ]
        ++ block "location /" [ "return ${toString host.redirectCode} https://$host$request_uri;" ]
        ++ challenge
      );
      main = block "server" (
        map listen (if host.forceSSL then lib.filter (l: l.ssl) all else all)
        ++ [ names ]
        ++ optional (hasSSL && host.http2) "http2 on;"
        ++ when hasSSL [
          "ssl_certificate ${certificate.chain};"
          "ssl_certificate_key ${certificate.key};"
        ]
        ++ optional (hasSSL && certificate.trusted != null) "ssl_trusted_certificate ${certificate.trusted};"
        ++ optional host.rejectSSL "ssl_reject_handshake on;"
        ++ optional (hasSSL && host.kTLS) "ssl_conf_command Options KTLS;"
        ++ basicAuth host
        ++ optional (host.root != null) "root ${host.root};"
        ++ when (host.globalRedirect != null) (
          block "location /" [
            "return ${toString host.redirectCode} http${lib.optionalString hasSSL "s"}://${host.globalRedirect}$request_uri;"
          ]
        )
        ++ challenge
        ++ locations host.locations
        ++ textLines host.extraConfig
      );
    in
    when host.forceSSL redirect ++ main;

  http = [
    "include ${cfg.defaultMimeTypes};"
    "types_hash_max_size ${toString cfg.typesHashMaxSize};"
    "include ${cfg.package}/conf/fastcgi.conf;"
    "include ${cfg.package}/conf/uwsgi_params;"
    "default_type application/octet-stream;"
  ]
  ++ optional (cfg.resolver.addresses != [ ]) "resolver ${toString cfg.resolver.addresses}${
    lib.optionalString (cfg.resolver.valid != "") " valid=${cfg.resolver.valid}"
  };"
  ++ concatMap (name: upstream name cfg.upstreams.${name}) (lib.attrNames cfg.upstreams)
  ++ when cfg.recommendedOptimisation [
    "sendfile on;"
    "tcp_nopush on;"
    "tcp_nodelay on;"
    "keepalive_timeout 65;"
  ]
  ++ [ "ssl_protocols ${cfg.sslProtocols};" ]
  ++ optional (
    cfg.sslCiphers != null
  ) "ssl_ciphers ${lib.concatStringsSep ":" (lib.toList cfg.sslCiphers)};"
  ++ when cfg.recommendedTlsSettings [
    "ssl_conf_command Groups \"X25519MLKEM768:X25519:P-256:P-384\";"
    "ssl_session_timeout 1d;"
    "ssl_session_cache shared:SSL:10m;"
    "ssl_session_tickets off;"
    "ssl_prefer_server_ciphers off;"
  ]
  ++ when cfg.recommendedGzipSettings [
    "gzip on;"
    "gzip_static on;"
    "gzip_vary on;"
    "gzip_comp_level 5;"
    "gzip_min_length 256;"
    "gzip_proxied expired no-cache no-store private auth;"
    "gzip_types ${compressible};"
  ]
  ++ when cfg.recommendedProxySettings [
    "proxy_redirect          off;"
    "proxy_connect_timeout   ${cfg.proxyTimeout};"
    "proxy_send_timeout      ${cfg.proxyTimeout};"
    "proxy_read_timeout      ${cfg.proxyTimeout};"
    "proxy_http_version      1.1;"
    "proxy_set_header        \"Connection\" \"\";"
    "include ${proxyHeaders};"
  ]
  ++ optional (cfg.mapHashBucketSize != null) "map_hash_bucket_size ${toString cfg.mapHashBucketSize};"
  ++ optional (cfg.mapHashMaxSize != null) "map_hash_max_size ${toString cfg.mapHashMaxSize};"
  ++ optional (
    cfg.serverNamesHashBucketSize != null
  ) "server_names_hash_bucket_size ${toString cfg.serverNamesHashBucketSize};"
  ++ block "map $http_upgrade $connection_upgrade" [
    "default upgrade;"
    "''      close;"
  ]
  ++ [
    "client_max_body_size ${cfg.clientMaxBodySize};"
    "server_tokens ${onOff cfg.serverTokens};"
  ]
  ++ textLines cfg.commonHttpConfig
  ++ concatMap (name: server name cfg.virtualHosts.${name}) (lib.attrNames cfg.virtualHosts)
  ++ textLines cfg.appendHttpConfig;
in
lib.concatLines (
  textLines cfg.prependConfig
  ++ [
    "pid /run/nginx/nginx.pid;"
    "error_log ${cfg.logError};"
    "daemon off;"
  ]
  ++ block "events" (textLines cfg.eventsConfig)
  ++ block "http" http
  ++ when (cfg.streamConfig != "") (block "stream" (textLines cfg.streamConfig))
  ++ textLines cfg.appendConfig
)
