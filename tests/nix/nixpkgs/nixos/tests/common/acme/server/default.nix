# The test certificate authority that VM tests import, with the options that they read.
# Facts: nixos/tests/common/acme/server/default.nix, read in NixOS/nixpkgs at
# 05924f714f31ff83bd10ed1710638688999c3725: caDomain, caCert.
{ lib, pkgs, config, ... }:
let
  inherit (lib) mkOption types;
in
{
  options.test-support.acme = {
    caDomain = mkOption {
      type = types.str;
      readOnly = true;
      default = "acme.test";
    };
    caCert = mkOption {
      type = types.path;
      readOnly = true;
      default = pkgs.writeText "ca.cert.pem" "the stand-in has no certificate authority\n";
    };
  };
  config = {
    networking.firewall.allowedTCPPorts = [
      80
      443
      15000
      4002
    ];
    systemd.services.pebble = {
      description = "Pebble ACME server";
      wantedBy = [ "network.target" ];
      script = "exec pebble";
      serviceConfig.Restart = "on-failure";
    };
  };
}
