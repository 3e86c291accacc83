# Settings of the site that cannot work, each with what to write instead.
{ config, lib, ... }:
let
  cfg = config.services.aistack;
  inherit (cfg.nginx) tls;
  inherit (config.services) nginx;

  # Where a site listens, as upstream has it: what it says itself, or the defaults.
  listens =
    host:
    if host.listen != [ ] then
      map (entry: "${entry.addr}:${toString entry.port}") host.listen
    else
      lib.concatMap
        (
          address:
          map (port: "${address}:${toString port}") [
            nginx.defaultHTTPListenPort
            nginx.defaultSSLListenPort
          ]
        )
        (if host.listenAddresses != [ ] then host.listenAddresses else nginx.defaultListenAddresses);
  ours = lib.filter (name: nginx.virtualHosts ? ${name} && nginx.virtualHosts.${name}.default) [
    "aistack"
    "aistack-redirect"
  ];
  taken = lib.concatMap (name: listens nginx.virtualHosts.${name}) ours;
  otherDefaults = lib.attrNames (
    lib.filterAttrs (
      name: host:
      host.default && !lib.elem name ours && lib.any (place: lib.elem place taken) (listens host)
    ) nginx.virtualHosts
  );

  loopback = address: lib.hasPrefix "127." address || address == "[::1]";
in
{
  config = lib.mkIf (cfg.enable && cfg.nginx.enable) {
    assertions = [
      {
        assertion = tls.mode != "acme" || cfg.nginx.hostName != null;
        message = ''
          services.aistack.nginx.tls.mode = "acme" needs a public name: set
          services.aistack.nginx.hostName = "ai.example.org", or tls.mode = "self-signed".
        '';
      }
      {
        assertion = tls.mode != "acme" || lib.hasInfix "." (toString cfg.nginx.hostName);
        message = ''
          services.aistack.nginx.hostName = "${toString cfg.nginx.hostName}" is no public name, and no
          authority certifies it: set a full domain name, or tls.mode = "self-signed".
        '';
      }
      {
        assertion = tls.mode != "acme" || config.security.acme.acceptTerms;
        message = ''
          services.aistack.nginx.tls.mode = "acme": read the terms of your certificate authority, then set
          security.acme.acceptTerms = true.
        '';
      }
      {
        assertion = tls.mode != "acme" || config.security.acme.defaults.email != null;
        message = ''
          services.aistack.nginx.tls.mode = "acme": set security.acme.defaults.email = "you@example.org", where
          the authority writes to when a certificate is about to end.
        '';
      }
      {
        assertion = tls.mode != "files" || (tls.certificate != null && tls.certificateKey != null);
        message = ''
          services.aistack.nginx.tls.mode = "files" needs both files: set
          services.aistack.nginx.tls.certificate and tls.certificateKey to paths outside the store, such as
          "/run/secrets/ai.example.org.key".
        '';
      }
      {
        assertion = tls.mode == "files" || (tls.certificate == null && tls.certificateKey == null);
        message = ''
          services.aistack.nginx.tls.certificate and tls.certificateKey are given but not used: set
          services.aistack.nginx.tls.mode = "files", or remove them.
        '';
      }
      {
        assertion = tls.mode != "off" || tls.hstsSeconds == 0;
        message = ''
          services.aistack.nginx.tls.hstsSeconds tells browsers to refuse plain HTTP, and tls.mode = "off" serves
          nothing else: set hstsSeconds = 0, or another tls.mode.
        '';
      }
      {
        assertion = tls.mode == "off" || cfg.nginx.httpPort != cfg.nginx.httpsPort;
        message = ''
          services.aistack.nginx.httpPort and httpsPort are both ${toString cfg.nginx.httpPort}: choose two ports.
        '';
      }
      {
        assertion =
          !(lib.elem cfg.nginx.metricsPort (
            [ cfg.nginx.httpPort ] ++ lib.optional (tls.mode != "off") cfg.nginx.httpsPort
          ));
        message = ''
          services.aistack.nginx.metricsPort = ${toString cfg.nginx.metricsPort} is the site's httpPort or httpsPort too:
          choose another.
        '';
      }
      {
        assertion = otherDefaults == [ ];
        message = ''
          services.nginx.virtualHosts.${lib.concatStringsSep ", " otherDefaults} is the default site of this machine, and
          without a name the stack's site is too, which nginx refuses: set
          services.aistack.nginx.hostName = "ai.example.org", or a port of its own with nginx.httpPort and httpsPort.
        '';
      }
      {
        assertion = cfg.nginx.listenAddresses != [ ];
        message = ''
          services.aistack.nginx.listenAddresses is empty: name an address, such as "127.0.0.1", or set
          services.aistack.nginx.enable = false.
        '';
      }
    ];

    warnings = lib.optional (tls.mode == "off" && !lib.all loopback cfg.nginx.listenAddresses) ''
      services.aistack.nginx.tls.mode = "off" sends API keys in the clear to
      ${lib.concatStringsSep ", " cfg.nginx.listenAddresses}: set listenAddresses = [ "127.0.0.1" ] behind a TLS server
      on this machine, or another tls.mode.
    '';
  };
}
