# networking.*
# Facts: nixos/modules/services/networking/firewall.nix, read in the copy faukah/nixpkgs at
# 3b20077cd82fd1f099e92e2792d73e3176d4869d; names and types of nixos/modules/tasks/network-interfaces.nix,
# config/networking.nix and services/networking/nftables.nix, not read again.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  range.options = {
    from = mkOption { type = types.port; };
    to = mkOption { type = types.port; };
  };
  ports = mkOption {
    type = types.listOf types.port;
    default = [ ];
    apply = ports: lib.unique (builtins.sort builtins.lessThan ports);
  };
  ranges = mkOption {
    type = types.listOf (types.attrsOf types.port);
    default = [ ];
  };
  opened = {
    allowedTCPPorts = ports;
    allowedUDPPorts = ports;
    allowedTCPPortRanges = ranges;
    allowedUDPPortRanges = ranges;
  };
  address.options = {
    address = mkOption { type = types.str; };
    prefixLength = mkOption { type = types.ints.between 0 32; };
  };
  nullStr = mkOption {
    type = types.nullOr types.str;
    default = null;
  };
in
{
  options.networking = {
    hostName = mkOption {
      type = types.strMatching "^$|^[[:alnum:]]([[:alnum:]_-]{0,61}[[:alnum:]])?$";
      default = "nixos";
    };
    domain = nullStr;
    fqdn = mkOption {
      type = types.str;
      default =
        if config.networking.domain == null then
          config.networking.hostName
        else
          "${config.networking.hostName}.${config.networking.domain}";
    };
    enableIPv6 = mkOption {
      type = types.bool;
      default = true;
    };
    primaryIPAddress = mkOption {
      type = types.str;
      internal = true;
      default = "";
    };
    primaryIPv6Address = mkOption {
      type = types.str;
      internal = true;
      default = "";
    };
    useDHCP = mkOption {
      type = types.bool;
      default = true;
    };
    nameservers = mkOption {
      type = types.listOf types.str;
      default = [ ];
    };
    extraHosts = mkOption {
      type = types.lines;
      default = "";
    };
    hosts = mkOption {
      type = types.attrsOf (types.listOf types.str);
      default = { };
    };
    proxy = {
      default = nullStr;
      envVars = mkOption {
        type = types.attrsOf types.str;
        internal = true;
        default = { };
      };
    };
    interfaces = mkOption {
      type = types.attrsOf (
        types.submodule {
          options.ipv4.addresses = mkOption {
            type = types.listOf (types.submodule address);
            default = [ ];
          };
        }
      );
      default = { };
    };
    nftables.enable = mkOption {
      type = types.bool;
      default = false;
    };
    firewall = {
      enable = mkOption {
        type = types.bool;
        default = true;
      };
      interfaces = mkOption {
        type = types.attrsOf (types.submodule { options = opened; });
        default = { };
      };
      trustedInterfaces = mkOption {
        type = types.listOf types.str;
        default = [ ];
      };
      extraCommands = mkOption {
        type = types.lines;
        default = "";
      };
      extraInputRules = mkOption {
        type = types.lines;
        default = "";
      };
    }
    // opened;
  };
  config.assertions = [
    {
      assertion = config.networking.nftables.enable -> config.networking.firewall.extraCommands == "";
      message = "extraCommands is incompatible with the nftables based firewall: ${config.networking.firewall.extraCommands}";
    }
    {
      assertion = config.networking.firewall.extraInputRules == "" || config.networking.nftables.enable;
      message = "extraInputRules only works with the nftables based firewall";
    }
  ];
}
