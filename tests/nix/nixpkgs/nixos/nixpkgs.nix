# nixpkgs.*: where `pkgs` comes from.
# Facts: nixos/modules/misc/nixpkgs.nix, read in NixOS/nixpkgs at
# 026ffb9e7abfb4626926cc252fa69bcba85960ef: overlays apply to a given `pkgs` too, settings with a
# given `pkgs` are refused. The platforms have a default here.
{ config, lib, options, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.nixpkgs;
  overlay = lib.mkOptionType {
    name = "nixpkgs-overlay";
    description = "nixpkgs overlay";
    check = lib.isFunction;
    merge = lib.options.mergeOneOption;
  };
  # Settings of a package set: nested sets merge; predicates are functions, so just one may hold.
  configType = lib.mkOptionType {
    name = "nixpkgs-config";
    description = "nixpkgs config";
    check = x: builtins.isAttrs x || lib.isFunction x;
    merge = _: defs: lib.foldr (def: acc: lib.recursiveUpdate acc def.value) { } defs;
  };
  given = config.stand-in.pkgs;
in
{
  options.nixpkgs = {
    config = mkOption {
      type = configType;
      default = { };
    };
    overlays = mkOption {
      type = types.listOf overlay;
      default = [ ];
    };
    pkgs = mkOption { type = types.pkgs; };
    system = mkOption {
      type = types.str;
      default = "x86_64-linux";
    };
    hostPlatform = mkOption {
      type = types.either types.str types.attrs;
      default = cfg.system;
    };
    buildPlatform = mkOption {
      type = types.either types.str types.attrs;
      default = cfg.hostPlatform;
    };
  };
  config = {
    assertions = [
      {
        assertion = given == null || cfg.config == { };
        message = "Your system configures nixpkgs with an externally created instance. `nixpkgs.config` options should be passed when creating the instance instead.";
      }
    ];
    _module.args.pkgs =
      let
        ready =
          if options.nixpkgs.pkgs.isDefined then
            cfg.pkgs
          else if given != null then
            given
          else
            import ./.. {
              inherit lib;
              inherit (cfg) config;
              system = if builtins.isString cfg.hostPlatform then cfg.hostPlatform else cfg.hostPlatform.system;
            };
      in
      if cfg.overlays == [ ] then ready else ready.appendOverlays cfg.overlays;
  };
}
