# assertions, warnings, meta, and the argument `utils`.
# Facts: nixos/modules/misc/assertions.nix, read in NixOS/nixpkgs at
# 08062fccc11d1bf6e5e6a7bdc1e86eba3fb0c0bf; nixos/modules/misc/meta.nix, read in NixOS/nixpkgs at
# 13dccba1afcf884c5bd2aec01eeec486dea15885 (meta.doc has a default here, meta.maintainers is in
# another file upstream and was not read again).
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
in
{
  options = {
    assertions = mkOption {
      type = types.listOf types.unspecified;
      internal = true;
      default = [ ];
    };
    warnings = mkOption {
      type = types.listOf types.str;
      internal = true;
      default = [ ];
    };
    meta = {
      maintainers = mkOption {
        type = types.listOf types.unspecified;
        internal = true;
        default = [ ];
      };
      doc = mkOption {
        type = types.nullOr types.pathInStore;
        internal = true;
        default = null;
      };
      buildDocsInSandbox = mkOption {
        type = types.bool;
        internal = true;
        default = true;
      };
    };
    # The stand-in's own: which release's options a host has, and a ready package set.
    stand-in = mkOption {
      type = types.attrsOf types.raw;
      internal = true;
      visible = false;
    };
  };
  config._module.args.utils = import ./utils.nix { inherit lib pkgs config; };
}
