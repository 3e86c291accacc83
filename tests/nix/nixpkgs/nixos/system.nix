# system.*, and the top of the system: everything that a host would activate, as one derivation.
# Facts: names and types of nixos/modules/system/activation/{top-level,activation-script}.nix and
# nixos/modules/misc/version.nix, not read again. The top here
# holds the units, the files of /etc and a list of links, users and rules; upstream's also a kernel.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  inherit (config.systemd) units;
  enabled = lib.filterAttrs (_: unit: unit.enable) units;
  links =
    field:
    lib.concatLists (
      lib.mapAttrsToList (name: unit: map (target: [ target name ]) unit.${field}) enabled
    );
  manifest = {
    wants = links "wantedBy";
    requires = links "requiredBy";
    upholds = links "upheldBy";
    aliases = links "aliases";
    masked = lib.attrNames (lib.filterAttrs (_: unit: !unit.enable) units);
    inherit (config.users) users groups;
    tmpfiles = config.systemd.tmpfiles.lines;
    sysctl = lib.filterAttrs (_: value: value != null) config.boot.kernel.sysctl;
    activation = lib.mapAttrs (_: script: script.text or script) config.system.activationScripts;
    etc = lib.mapAttrs' (_: file: lib.nameValuePair file.target "${file.source}") (
      lib.filterAttrs (_: file: file.enable) config.environment.etc
    );
    systemPackages = map toString config.environment.systemPackages;
    firewall = {
      inherit (config.networking.firewall) enable allowedTCPPorts allowedUDPPorts;
    };
  };
  failed = map (a: a.message) (lib.filter (a: !a.assertion) config.assertions);
  top = derivation {
    name = "nixos-system-${config.networking.hostName}-${config.system.nixos.version}";
    inherit (pkgs) system;
    builder = "/bin/sh";
    args = [ "-c" "echo > $out" ];
    manifest = builtins.toJSON manifest;
    units = builtins.toJSON (lib.mapAttrs (_: unit: unit.text) enabled);
    checks = map toString config.system.checks;
  };
in
{
  options.system = {
    stateVersion = mkOption {
      type = types.str;
      default = config.system.nixos.release;
    };
    nixos.release = mkOption {
      type = types.str;
      readOnly = true;
      default = config.stand-in.release;
    };
    nixos.version = mkOption {
      type = types.str;
      internal = true;
      default = "${config.system.nixos.release}.stand-in";
    };
    checks = mkOption {
      type = types.listOf types.package;
      default = [ ];
    };
    activationScripts = mkOption {
      type = types.attrsOf (
        types.either types.str (
          types.submodule {
            options = {
              text = mkOption {
                type = types.lines;
                default = "";
              };
              deps = mkOption {
                type = types.listOf types.str;
                default = [ ];
              };
              supportsDryActivation = mkOption {
                type = types.bool;
                default = false;
              };
            };
          }
        )
      );
      default = { };
    };
    build = mkOption {
      type = types.submodule {
        freeformType = types.lazyAttrsOf (types.uniq types.unspecified);
        options = {
          toplevel = mkOption {
            type = types.package;
            readOnly = true;
          };
        };
      };
      default = { };
    };
  };
  config.system.build = {
    toplevel =
      if failed != [ ] then
        throw "\nFailed assertions:\n${lib.concatMapStringsSep "\n" (m: "- ${m}") failed}"
      else
        lib.showWarnings config.warnings top;
    # For tests: texts without a build.
    units = lib.mapAttrs (_: unit: unit.text) enabled;
    inherit manifest;
  };
}
