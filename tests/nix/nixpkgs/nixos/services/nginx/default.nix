# services.nginx.*: options, assertions, and what goes to other parts of the system.
# Facts: as configuration.nix says.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.services.nginx;
  plain = type: default: mkOption { inherit type default; };
  flag = plain types.bool;
  lines = plain types.lines "";
  nullCount = plain (types.nullOr types.ints.positive) null;
  nameOf = name: host: if host.serverName != null then host.serverName else name;
  certOf = name: host: if host.useACMEHost != null then host.useACMEHost else nameOf name host;
  certified = lib.filterAttrs (_: h: h.enableACME || h.useACMEHost != null) cfg.virtualHosts;
  hosts = lib.attrValues cfg.virtualHosts;
  upstreamServer = {
    freeformType = types.attrsOf (
      types.oneOf [
        types.bool
        types.int
        types.str
      ]
    );
    options.backup = flag false;
  };
in
{
  imports = [ ./unit.nix ];
  options.services.nginx = {
    enable = lib.mkEnableOption "Nginx Web Server";
    package = lib.mkPackageOption pkgs "nginxStable" { };
    user = plain types.str "nginx";
    group = plain types.str "nginx";
    statusPage = flag false;
    recommendedTlsSettings = flag false;
    recommendedOptimisation = flag false;
    recommendedBrotliSettings = flag false;
    recommendedGzipSettings = flag false;
    recommendedProxySettings = flag false;
    recommendedUwsgiSettings = flag false;
    proxyTimeout = plain types.str "60s";
    proxyResolveWhileRunning = flag false;
    defaultListenAddresses = plain (types.listOf types.str) [
      "0.0.0.0"
      "[::0]"
    ];
    defaultHTTPListenPort = plain types.port 80;
    defaultSSLListenPort = plain types.port 443;
    defaultMimeTypes = plain types.path "${pkgs.mailcap}/etc/nginx/mime.types";
    logError = plain types.str "stderr";
    preStart = lines;
    prependConfig = lines;
    appendConfig = lines;
    commonHttpConfig = lines;
    appendHttpConfig = lines;
    streamConfig = lines;
    eventsConfig = lines;
    enableReload = flag false;
    serverTokens = flag false;
    clientMaxBodySize = plain types.str "10m";
    sslCiphers = plain (types.nullOr (types.either types.str (types.listOf types.str))) [
      "ECDHE-ECDSA-AES128-GCM-SHA256"
      "ECDHE-RSA-AES128-GCM-SHA256"
      "ECDHE-ECDSA-AES256-GCM-SHA384"
      "ECDHE-RSA-AES256-GCM-SHA384"
      "ECDHE-ECDSA-CHACHA20-POLY1305"
      "ECDHE-RSA-CHACHA20-POLY1305"
    ];
    sslProtocols = plain types.str "TLSv1.2 TLSv1.3";
    typesHashMaxSize = plain types.ints.positive 2688;
    mapHashBucketSize = plain (types.nullOr (types.enum [ 32 64 128 ])) null;
    mapHashMaxSize = nullCount;
    serverNamesHashBucketSize = nullCount;
    serverNamesHashMaxSize = nullCount;
    resolver = {
      addresses = plain (types.listOf types.str) [ ];
      valid = plain types.str "";
      ipv4 = flag true;
      ipv6 = flag true;
    };
    validateConfigFile = flag true;
    upstreams = plain (types.attrsOf (
      types.submodule {
        options = {
          servers = plain (types.attrsOf (types.submodule upstreamServer)) { };
          extraConfig = lines;
        };
      }
    )) { };
    virtualHosts = plain (types.attrsOf (
      types.submodule (import ./host-options.nix { inherit lib cfg; })
    )) { localhost = { }; };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = lib.all (
          host: lib.all (l: l.root == null || l.alias == null) (lib.attrValues host.locations)
        ) hosts;
        message = "Only one of nginx root or alias can be specified on a location.";
      }
      {
        assertion = lib.all (
          host:
          lib.count lib.id [
            host.addSSL
            host.onlySSL
            host.forceSSL
            host.rejectSSL
          ] <= 1
        ) hosts;
        message = ''
          Options services.nginx.service.virtualHosts.<name>.addSSL,
          services.nginx.virtualHosts.<name>.onlySSL,
          services.nginx.virtualHosts.<name>.forceSSL and
          services.nginx.virtualHosts.<name>.rejectSSL are mutually exclusive.
        '';
      }
      {
        assertion = lib.all (host: !(host.enableACME && host.useACMEHost != null)) hosts;
        message = ''
          Options services.nginx.service.virtualHosts.<name>.enableACME and
          services.nginx.virtualHosts.<name>.useACMEHost are mutually exclusive.
        '';
      }
    ]
    ++ map (
      name:
      let
        cert = config.security.acme.certs.${name};
        unit = config.systemd.services.nginx.serviceConfig;
        groups = [
          cfg.group
        ]
        ++ config.users.users.${cfg.user}.extraGroups or [ ]
        ++ lib.toList (unit.SupplementaryGroups or [ ])
        ++ lib.filter (group: lib.elem cfg.user config.users.groups.${group}.members) (
          lib.attrNames config.users.groups
        );
      in
      {
        assertion = lib.elem cert.group groups;
        message = "Certificate ${cert.domain} (group=${cert.group}) must be readable by service(s) nginx.service (user=${cfg.user} groups=${toString groups})";
      }
    ) (lib.unique (lib.mapAttrsToList certOf certified));
    services.nginx.virtualHosts.localhost = lib.mkIf cfg.statusPage {
      serverAliases = [
        "127.0.0.1"
        "[::1]"
      ];
      listenAddresses = lib.mkDefault [
        "0.0.0.0"
        "[::]"
      ];
      locations."/nginx_status".extraConfig = ''
        stub_status on;
        access_log off;
        allow 127.0.0.1;
        allow ::1;
        deny all;
      '';
    };
    security.acme.certs = lib.mapAttrs' (
      name: host:
      lib.nameValuePair (nameOf name host) {
        reloadServices = [ "nginx.service" ];
        group = lib.mkDefault cfg.group;
        webroot = lib.mkOverride (if host.acmeRoot != null then 1000 else 2000) host.acmeRoot;
        dnsProvider = lib.mkOverride (if host.acmeRoot != null then 1000 else 2000) null;
        extraDomainNames = host.serverAliases;
      }
    ) (lib.filterAttrs (_: host: host.useACMEHost == null) certified);
    users.users = lib.optionalAttrs (cfg.user == "nginx") {
      nginx = {
        inherit (cfg) group;
        isSystemUser = true;
        uid = 60;
      };
    };
    users.groups = lib.optionalAttrs (cfg.group == "nginx") { nginx.gid = 60; };
    systemd.tmpfiles.rules = [ "X /tmp/systemd-private-%b-nginx.service-*/tmp/nginx_*" ];
  };
}
