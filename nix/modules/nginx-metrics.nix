# Prometheus cannot ask a socket: nginx passes the metrics of each service on, on loopback alone.
# The public site knows none of these paths.
{ config, lib, ... }:
let
  cfg = config.services.aistack;
  proxy = import ./nginx-proxy.nix { inherit lib; };
  address = "127.0.0.1:${toString cfg.nginx.metricsPort}";

  local = lib.filter (name: cfg.${name}.enable) (lib.attrNames cfg.stack.services);
  llama = cfg.llama or { enable = false; };
  instances = lib.optionals llama.enable (
    lib.attrNames (lib.filterAttrs (_: instance: instance.enable) llama.instances)
  );

  # `url` ends in the path that is asked for, so nothing of the request's own path goes on.
  to = url: {
    proxyPass = url;
    recommendedProxySettings = lib.mkDefault false;
    extraConfig = proxy.peerHeaders "localhost";
  };

  ofService = name: {
    "= /${name}/metrics" = to "http://unix:${cfg.lib.socketPath name}:/metrics";
    "= /${name}/readyz" = to "http://unix:${cfg.lib.socketPath name}:/readyz";
  };
  # Of another machine: its own nginx shows it through the door (nginx-machines.nix).
  far = lib.concatLists (
    lib.mapAttrsToList (
      name: servers: lib.imap0 (number: server: { inherit name number server; }) servers
    ) (lib.filterAttrs (name: _: cfg.stack.services ? ${name}) cfg.replicas)
  );
  farPath = replica: "/replicas/${replica.name}/${toString replica.number}/metrics";
  ofReplica = replica: {
    "= ${farPath replica}" = {
      proxyPass = "https://${replica.server}/metrics";
      recommendedProxySettings = lib.mkDefault false;
      extraConfig =
        proxy.peerHeaders cfg.upstreams.${replica.name}.host + cfg.upstreams.${replica.name}.config;
    };
  };
  ofLlama =
    name:
    let
      socket = "/run/aistack-llama-${name}/llama.sock";
    in
    {
      "= /llama-${name}/metrics" = to "http://unix:${socket}:/metrics";
      "= /llama-${name}/readyz" = to "http://unix:${socket}:/health";
    };
in
{
  services.aistack.nginx.scrape = lib.optionals cfg.nginx.active (
    map (name: {
      service = name;
      instance = "localhost";
      inherit address;
      path = "/${name}/metrics";
    }) local
    ++ map (name: {
      service = "llama-${name}";
      instance = "localhost";
      inherit address;
      path = "/llama-${name}/metrics";
    }) instances
    ++ map (replica: {
      service = replica.name;
      instance = replica.server;
      inherit address;
      path = farPath replica;
    }) far
  );

  services.nginx = lib.mkIf cfg.nginx.active {
    enable = true;
    virtualHosts.aistack-metrics = {
      serverName = "localhost";
      listen = [
        {
          addr = "127.0.0.1";
          port = cfg.nginx.metricsPort;
          ssl = false;
        }
      ];
      locations = lib.mergeAttrsList (map ofService local ++ map ofLlama instances ++ map ofReplica far) // {
        "= /nginx_status".extraConfig = "stub_status;";
        "/".return = "404";
      };
      extraConfig = ''
        access_log off;
        # A browser that was led here under another name (DNS rebinding) is not answered.
        if ($host !~ "^(localhost|127\.0\.0\.1)$") {
          return 421;
        }
        proxy_http_version 1.1;
        proxy_connect_timeout 2s;
        proxy_read_timeout 10s;
      '';
    };
  };

  systemd.services.nginx.serviceConfig.SupplementaryGroups = lib.mkIf (
    cfg.nginx.active && instances != [ ]
  ) [ "aistack-llama-clients" ];
}
