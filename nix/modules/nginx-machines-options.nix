# What a machine needs to speak to the others of its stack (nginx-machines.nix).
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.services.aistack;
in
{
  options.services.aistack.machines = {
    enable = mkOption {
      type = types.bool;
      default = lib.any (servers: servers != [ ]) (lib.attrValues cfg.replicas);
      defaultText = lib.literalMD "whether {option}`services.aistack.replicas` names any";
      description = ''
        Whether this machine speaks to others of the stack. A machine that only serves, and names no
        replicas itself, sets it.
      '';
    };
    name = mkOption {
      type = types.strMatching "[A-Za-z0-9.-]+";
      default = "aistack.internal";
      description = "The name that the certificate of every machine of the stack carries.";
    };
    port = mkOption {
      type = types.port;
      default = 9443;
      description = "Port on which machines of the stack ask each other.";
    };
    listenAddresses = mkOption {
      type = types.listOf types.str;
      default = config.services.nginx.defaultListenAddresses;
      defaultText = lib.literalExpression "config.services.nginx.defaultListenAddresses";
      example = [ "10.0.0.2" ];
      description = "Addresses on which the others reach this machine.";
    };
    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether that port is opened in the firewall.";
    };
    authority = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/aistack-ca.pem";
      description = "Certificate of the stack's own authority, PEM, outside the store.";
    };
    certificate = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/aistack-machine.pem";
      description = "Certificate of this machine by that authority, for servers and clients.";
    };
    certificateKey = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/aistack-machine.key";
      description = "Its key; root alone need be able to read it.";
    };
    llamaInstance = mkOption {
      type = types.str;
      default = "chat";
      description = "Instance of llama.cpp that the other machines may use.";
    };
    llamaSeconds = mkOption {
      type = types.ints.positive;
      default = 600;
      description = "Longest silence of a language model on another machine, in seconds.";
    };
  };
}
