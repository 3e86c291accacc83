# services.nginx.virtualHosts.<name>.* and its locations.
# Facts: nixos/modules/services/web-servers/nginx/{vhost,location}-options.nix, read in the copy
# faukah/nixpkgs at 3b20077cd82fd1f099e92e2792d73e3176d4869d.
{ lib, cfg }:
let
  inherit (lib) mkOption types;
  plain = type: default: mkOption { inherit type default; };
  flag = plain types.bool;
  nullStr = plain (types.nullOr types.str) null;
  nullPath = plain (types.nullOr types.path) null;
  lines = plain types.lines "";
  location.options = {
    alias = nullPath;
    basicAuth = plain (types.attrsOf types.str) { };
    basicAuthFile = nullPath;
    extraConfig = lines;
    fastcgiParams = plain (types.attrsOf (types.either types.str types.path)) { };
    index = nullStr;
    priority = plain types.int 1000;
    proxyPass = nullStr;
    proxyWebsockets = flag false;
    recommendedProxySettings = flag cfg.recommendedProxySettings;
    recommendedUwsgiSettings = flag cfg.recommendedUwsgiSettings;
    return = plain (types.nullOr (types.oneOf [ types.str types.int ])) null;
    root = nullPath;
    tryFiles = nullStr;
    uwsgiPass = nullStr;
  };
  listen.options = {
    addr = mkOption { type = types.str; };
    port = plain (types.nullOr types.port) null;
    ssl = flag false;
    proxyProtocol = flag false;
    extraParameters = plain (types.listOf types.str) [ ];
  };
in
{
  options = {
    acmeFallbackHost = nullStr;
    acmeRoot = plain (types.nullOr types.str) "/var/lib/acme/acme-challenge";
    addSSL = flag false;
    basicAuth = plain (types.attrsOf types.str) { };
    basicAuthFile = nullPath;
    default = flag false;
    enableACME = flag false;
    extraConfig = lines;
    forceSSL = flag false;
    globalRedirect = nullStr;
    http2 = flag true;
    http3 = flag true;
    kTLS = flag false;
    listen = plain (types.listOf (types.submodule listen)) [ ];
    listenAddresses = plain (types.listOf types.str) [ ];
    locations = plain (types.attrsOf (types.submodule location)) { };
    onlySSL = flag false;
    quic = flag false;
    redirectCode = plain (types.ints.between 300 399) 301;
    rejectSSL = flag false;
    reuseport = flag false;
    root = nullPath;
    serverAliases = plain (types.listOf types.str) [ ];
    serverName = nullStr;
    sslCertificate = mkOption { type = types.path; };
    sslCertificateKey = mkOption { type = types.path; };
    sslTrustedCertificate = nullPath;
    useACMEHost = nullStr;
  };
}
