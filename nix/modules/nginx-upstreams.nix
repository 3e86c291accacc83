# Where each service answers: its socket on this machine, or the doors of other machines
# (nginx-machines.nix). Locations ask for `scheme`, `name` and `config` and know no more.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.services.aistack;
  aistack = cfg.lib;

  local = lib.filter (name: cfg.${name}.enable) (lib.attrNames cfg.stack.services);
  sockets = map (name: "aistack-${name}.socket") local;
in
{
  options.services.aistack.upstreams = mkOption {
    internal = true;
    default = { };
    description = "Where nginx finds each service, by name.";
    type = types.attrsOf (
      types.submodule (
        { name, ... }:
        {
          options = {
            name = mkOption {
              type = types.str;
              default = "aistack-${name}";
              description = "Name of the group of servers.";
            };
            servers = mkOption {
              type = types.listOf types.str;
              description = "Each with its parameters.";
            };
            scheme = mkOption {
              type = types.enum [
                "http"
                "https"
              ];
              default = "http";
              description = "How they are asked.";
            };
            host = mkOption {
              type = types.str;
              default = "$host";
              description = "The Host that they are asked for.";
            };
            config = mkOption {
              type = types.lines;
              default = "";
              description = "Added to each location.";
            };
          };
        }
      )
    );
  };

  config = lib.mkIf cfg.nginx.active {
    services.aistack.upstreams = lib.mapAttrs (
      name: _:
      lib.mkIf (cfg.${name}.enable && (cfg.replicas.${name} or [ ]) == [ ]) {
        # Twice the same socket: a safe request whose connection died is asked once more, of the
        # process that systemd starts next. Neither is ever taken out of use.
        servers = lib.genList (_: "unix:${aistack.socketPath name} max_fails=0") 2;
      }
    ) cfg.stack.services;

    # Each socket has its own group, and nginx is a member of those that it may open.
    systemd.services.nginx = {
      after = sockets;
      wants = sockets;
      serviceConfig = {
        SupplementaryGroups = map aistack.socketGroup local;
        LimitNOFILE = lib.mkDefault 16384;
      };
    };

    # A request takes two connections, a stream holds them for minutes; nginx's own 512 are few.
    services.nginx.eventsConfig = lib.mkDefault "worker_connections 4096;";

    services.nginx.upstreams = lib.mapAttrs' (
      _: upstream:
      lib.nameValuePair upstream.name {
        # A list, because the option's set has no place for the same server twice.
        extraConfig = lib.concatMapStrings (server: "server ${server};\n") upstream.servers;
      }
    ) cfg.upstreams;
  };
}
