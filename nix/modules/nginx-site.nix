# The site itself: locations by the routes of stack.toml, headers, limits, and what nginx may open.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkDefault;
  cfg = config.services.aistack;
  site = cfg.nginx;
  inherit (site) tls limits;
  errors = import ./nginx-errors.nix { inherit lib; };
  proxy = import ./nginx-proxy.nix { inherit lib; };

  # After the time that a service has for its first byte, and between two pieces of a stream.
  readMargin = 10;

  limitOf =
    name: key:
    cfg.${name}.settings.limits.${key} or cfg.settings.limits.${key}
      or cfg.stack.services.${name}.limits.${key};

  under = path: prefix: path == prefix || lib.hasPrefix "${prefix}/" path;

  served = lib.filterAttrs (
    name: entry: lib.elem "front" entry.clients && cfg.upstreams ? ${name}
  ) cfg.stack.services;

  # An OpenAI route below a route is a location of its own: its errors have another shape.
  prefixesOf =
    name: entry:
    lib.unique (
      entry.routes
      ++ lib.filter (path: lib.any (under path) entry.routes) entry.openai_routes
      ++ [ "/docs/${name}" ]
    );

  routesOf =
    name: entry:
    map (prefix: {
      inherit prefix;
      service = name;
      bodyBytes = limitOf name "body_bytes";
      seconds = limitOf name "request_seconds" + readMargin;
      openai = lib.any (under prefix) entry.openai_routes;
      docs = prefix == "/docs/${name}";
    }) (prefixesOf name entry);

  # A segment border: the prefix itself, and what lies below it.
  locationsOf =
    route:
    let
      upstream = cfg.upstreams.${route.service};
      location = {
        proxyPass = "${upstream.scheme}://${upstream.name}";
        # Upstream's set of headers would replace ours.
        recommendedProxySettings = mkDefault false;
        extraConfig = ''
          client_max_body_size ${toString route.bodyBytes};
          proxy_read_timeout ${toString route.seconds}s;
          proxy_send_timeout ${toString route.seconds}s;
        ''
        + proxy.clientHeaders { inherit (upstream) host; }
        + errors.pages (if route.openai then "openai" else "problem")
        + upstream.config
        + lib.optionalString route.docs ''
          proxy_buffering on;
          gzip on;
          gzip_types text/css text/javascript image/svg+xml;
          gzip_vary on;
        '';
      };
    in
    {
      "= ${route.prefix}" = location;
      "^~ ${route.prefix}/" = location;
    };

  prefixes = lib.concatStringsSep ", " (
    [ "/" ]
    ++ lib.sort lib.lessThan (lib.concatMap (entry: entry.routes) (lib.attrValues served))
    ++ [ "/docs/<service>" ]
  );

  index = pkgs.linkFarm "aistack-index" {
    "index.json" = pkgs.writeText "index.json" (
      builtins.toJSON {
        name = "aistack";
        services = lib.mapAttrs (name: entry: {
          inherit (entry) summary routes;
          docs = "/docs/${name}";
        }) served;
      }
    );
    "index.html" = pkgs.writeText "index.html" (
      ''<!doctype html><html lang="en"><meta charset="utf-8"><title>aistack</title>''
      + "<h1>aistack</h1><p>API pages of the services:</p><ul>"
      + lib.concatStrings (
        lib.mapAttrsToList (
          name: entry: ''<li><a href="/docs/${name}">${name}</a>: ${lib.escapeXML entry.summary}</li>''
        ) served
      )
      + "</ul></html>"
    );
  };

  grafana = lib.optionalAttrs (site.grafanaPath != null) {
    "^~ ${site.grafanaPath}" = {
      proxyPass = "http://127.0.0.1:${toString config.services.grafana.settings.server.http_port}";
      recommendedProxySettings = mkDefault false;
      extraConfig =
        "client_max_body_size 10m;\n"
        + proxy.clientHeaders {
          # It compares the Origin with the Host, port and all; the site was chosen by that Host.
          host = "$aistack_host";
          connection = "$connection_upgrade";
          extra.Upgrade = "$http_upgrade";
        };
    };
  };

  counted =
    name: limit:
    lib.optionalString limit.enable ''
      limit_req zone=aistack_${name}_rate burst=${toString limit.burst} nodelay;
      limit_conn aistack_${name}_connections ${toString limit.connections};
    '';
in
{
  config = lib.mkMerge [
    { services.aistack.nginx.routes = lib.concatLists (lib.mapAttrsToList routesOf served); }
    (lib.mkIf (cfg.enable && site.enable) {
      services.nginx = {
        enable = true;
        virtualHosts = site.virtualHost "aistack" {
          serverName = if site.hostName == null then "localhost" else site.hostName;
          # Who speaks to this machine itself need not know its public name.
          serverAliases = lib.optional (site.hostName != null && tls.mode != "acme") "localhost";
          default = mkDefault (site.hostName == null);
          locations =
            lib.mergeAttrsList (map locationsOf site.routes)
            // errors.locations
            // grafana
            // {
              "= /" = {
                root = index;
                tryFiles = "/index.$aistack_index =404";
                extraConfig = ''
                  types {
                    application/json json;
                    text/html html;
                  }
                  charset utf-8;
                  # Two pages at one address: neither is kept without asking.
                  expires -1;
                  etag off;
                  if_modified_since off;
                '';
              };
              "/".extraConfig = errors.nothing "Nothing answers here; ${prefixes} do.";
            };
          extraConfig = ''
            merge_slashes off;
            client_max_body_size 1m;
            ${proxy.settings}
            limit_req_status 429;
            limit_conn_status 429;
            ${counted "key" limits.perKey}${counted "address" limits.perAddress}
            # Headers are added in one place: a location with one of its own would lose these.
            set $aistack_own_error_id "";
            set $aistack_retry_after "";
            proxy_hide_header X-Request-Id;
            add_header X-Request-Id $aistack_request_id always;
            add_header X-Error-Id $aistack_own_error_id always;
            add_header Retry-After $aistack_retry_after always;
            add_header Content-Security-Policy $aistack_policy always;
            add_header X-Content-Type-Options $aistack_nosniff always;
            add_header Referrer-Policy $aistack_referrer always;
            ${lib.optionalString (tls.mode != "off" && tls.hstsSeconds > 0)
              ''add_header Strict-Transport-Security "max-age=${toString tls.hstsSeconds}" always;''
            }
            ${errors.pages "problem"}
          '';
        };
      };

      networking.firewall.allowedTCPPorts = lib.mkIf site.openFirewall (
        [ site.httpPort ] ++ lib.optional (tls.mode != "off") site.httpsPort
      );
    })
  ];
}
