# assertions, warnings, meta, and the argument `utils`.
# Facts: names and types of nixos/modules/misc/{assertions,meta}.nix, not read again.
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
