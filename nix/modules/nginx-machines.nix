# Between machines: mutual TLS, carried by nginx on both ends, so that no service needs a network.
#
#   coordinator ── /run/aistack-remote/aidb/aidb.sock ── nginx ══ TLS ══ nginx ── /run/aistack/aidb.sock ── aidb
#      machine 1                                        machine 1       machine 2
#
# The door of a machine answers only to a certificate of the stack's own authority, and tells services
# apart by the Host <service>.<name>. No SNI is sent: every certificate of the stack carries `name`, and
# that is what is verified. The internal keys of the services go along as on one machine.
{
  config,
  lib,
  ...
}:
let
  inherit (lib) mkIf;
  cfg = config.services.aistack;
  machines = cfg.machines;
  inherit (config.services) nginx;
  aistack = cfg.lib;
  errors = import ./nginx-errors.nix { inherit lib; };
  proxy = import ./nginx-proxy.nix { inherit lib; };
  stack = cfg.stack.services;

  file = name: aistack.credential "nginx" "aistack-machine-${name}";
  hostOf = name: "${name}.${machines.name}";
  llamaHere = cfg.llama.enable or false;
  doorSocket = "unix:/run/nginx/aistack-door.sock";

  # What this machine shows the others: name → socket.
  shown =
    lib.mapAttrs (name: _: aistack.socketPath name) (lib.filterAttrs (name: _: cfg.${name}.enable) stack)
    // lib.optionalAttrs llamaHere {
      llama = "/run/aistack-llama-${machines.llamaInstance}/llama.sock";
    };

  replicated = lib.filterAttrs (_: servers: servers != [ ]) cfg.replicas;

  # What services of this machine use on another: they find a socket as if it were here.
  usedHere =
    name:
    name == "llama"
    || lib.any (client: client != "front" && cfg.${client}.enable) (stack.${name}.clients or [ ]);
  remote = lib.filter (name: !(shown ? ${name}) && usedHere name) (lib.attrNames replicated);
  directory = name: "/run/aistack-remote/${name}";
  socket = name: "${directory name}/${name}.sock";

  seconds =
    name:
    if name == "llama" then machines.llamaSeconds else stack.${name}.limits.request_seconds + 10;
  body = name: if name == "llama" then 33554432 else stack.${name}.limits.body_bytes;

  location = name: scheme: server: host: extra: {
    "/" = {
      proxyPass = "${scheme}://${server}";
      recommendedProxySettings = lib.mkDefault false;
      extraConfig = ''
        client_max_body_size ${toString (body name)};
        proxy_read_timeout ${toString (seconds name)}s;
        proxy_send_timeout ${toString (seconds name)}s;
      ''
      + proxy.peerHeaders host
      + extra;
    };
  };

  # Errors keep the service's shape, so that a client on the far end reads them as the service's own.
  common = ''
    access_log off;
    merge_slashes off;
    ${proxy.settings}
    set $aistack_own_error_id "";
    set $aistack_retry_after "";
    add_header X-Error-Id $aistack_own_error_id always;
    add_header Retry-After $aistack_retry_after always;
    ${errors.pages "problem"}
  '';

  verified = ''
    proxy_ssl_certificate ${file "certificate"};
    proxy_ssl_certificate_key ${file "key"};
    proxy_ssl_trusted_certificate ${file "authority"};
    proxy_ssl_verify on;
    proxy_ssl_verify_depth 2;
    proxy_ssl_name ${machines.name};
    proxy_ssl_protocols TLSv1.3;
  '';

  doorTls = {
    onlySSL = true;
    sslCertificate = file "certificate";
    sslCertificateKey = file "key";
    listen =
      map (addr: {
        inherit addr;
        inherit (machines) port;
        ssl = true;
      }) machines.listenAddresses
      ++ [
        {
          addr = doorSocket;
          port = null;
          ssl = true;
        }
      ];
  };
  onlyOurs = ''
    ssl_client_certificate ${file "authority"};
    ssl_verify_client on;
    ssl_verify_depth 2;
    ssl_session_tickets off;
  '';

  door = name: path: {
    name = "aistack-door-${name}";
    value = doorTls // {
      serverName = hostOf name;
      locations = location name "http" "unix:${path}:" "localhost" "" // errors.locations;
      extraConfig = common + onlyOurs;
    };
  };

  window = name: {
    name = "aistack-remote-${name}";
    value = {
      serverName = "localhost";
      default = true;
      listen = [
        {
          addr = "unix:${socket name}";
          port = null;
          ssl = false;
        }
      ];
      locations =
        location name "https" cfg.upstreams.${name}.name (hostOf name) verified // errors.locations;
      extraConfig = common;
    };
  };
in
{
  imports = [ ./nginx-machines-options.nix ];

  config = mkIf (cfg.enable && machines.enable) {
    assertions = [
      {
        assertion =
          machines.authority != null && machines.certificate != null && machines.certificateKey != null;
        message = ''
          services.aistack.replicas and machines: what passes between machines is encrypted and both ends are
          verified. Set services.aistack.machines.authority, machines.certificate and machines.certificateKey to
          files outside the store; the certificate carries the name ${machines.name}.
        '';
      }
      {
        assertion = llamaHere -> (cfg.llama.instances.${machines.llamaInstance}.enable or false);
        message = ''
          services.aistack.machines.llamaInstance = "${machines.llamaInstance}": there is no such instance here; use one of
          ${lib.concatStringsSep ", " (lib.attrNames (cfg.llama.instances or { }))}.
        '';
      }
      {
        assertion =
          !(lib.elem machines.port (
            lib.optionals cfg.nginx.enable [
              cfg.nginx.httpPort
              cfg.nginx.httpsPort
            ]
            ++ [ cfg.nginx.metricsPort ]
          ));
        message = ''
          services.aistack.machines.port = ${toString machines.port} is a port of nginx.httpPort, httpsPort or metricsPort
          too: choose another, the same on every machine.
        '';
      }
    ];

    services.aistack.secrets.watch.nginx = map toString [
      machines.authority
      machines.certificate
      machines.certificateKey
    ];

    services.aistack.upstreams = lib.mapAttrs (name: servers: {
      servers =
        map (server: "${server} max_fails=2 fail_timeout=5s") servers
        ++ lib.optional (shown ? ${name}) "${doorSocket} max_fails=2 fail_timeout=5s";
      scheme = "https";
      host = hostOf name;
      config = verified;
    }) replicated;

    services.aistack.parts = lib.genAttrs remote (name: {
      group = aistack.socketGroup name;
      units = [ "nginx.service" ];
      settings =
        _:
        if name == "llama" then
          { llama.address = "unix:${socket name}"; }
        else
          { peers.${name} = "unix:${socket name}"; };
    });

    users.groups = lib.genAttrs (map aistack.socketGroup remote) (_: { });

    services.nginx = {
      enable = true;
      virtualHosts =
        lib.mapAttrs' door shown
        // lib.listToAttrs (map window remote)
        // {
          # A request without one of the names above.
          aistack-door = doorTls // {
            serverName = "_";
            default = true;
            locations."/".return = "421";
            extraConfig = "access_log off;\n" + onlyOurs;
          };
        };
      # What a killed nginx left would keep it from listening again.
      preStart = lib.concatMapStrings (name: "rm -f ${socket name}\n") remote;
    };

    systemd.services.nginx.serviceConfig = {
      LoadCredential = [
        "aistack-machine-authority:${toString machines.authority}"
        "aistack-machine-certificate:${toString machines.certificate}"
        "aistack-machine-key:${toString machines.certificateKey}"
      ];
      ReadWritePaths = mkIf (remote != [ ]) [ "/run/aistack-remote" ];
      SupplementaryGroups = lib.optional llamaHere "aistack-llama-clients";
    };

    # nginx gives its sockets to everybody; the folder opens them to the service's clients alone.
    systemd.tmpfiles.rules = mkIf (remote != [ ]) (
      [ "d /run/aistack-remote 0755 root root -" ]
      ++ map (name: "d ${directory name} 0750 ${nginx.user} ${aistack.socketGroup name} -") remote
    );

    networking.firewall.allowedTCPPorts = mkIf machines.openFirewall [ machines.port ];
  };
}
