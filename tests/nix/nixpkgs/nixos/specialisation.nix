# specialisation.*: variants of a host, evaluated on top of it.
# Facts: nixos/modules/system/activation/specialisation.nix, read in NixOS/nixpkgs at
# 05e1dd327a87ef5e2bf4827d32b1792b74c355d9; isSpecialisation not read again. `evaluated` and the way
# a variant is made are the stand-in's own.
{ lib, extendModules, config, ... }:
let
  inherit (lib) mkOption types;
in
{
  options = {
    specialisation = mkOption {
      type = types.attrsOf (
        types.submodule (
          { config, ... }:
          let
            variant = extendModules {
              modules = lib.optional config.inheritParentConfig { } ++ [
                config.configuration
                { isSpecialisation = lib.mkForce true; }
              ];
            };
          in
          {
            options = {
              inheritParentConfig = mkOption {
                type = types.bool;
                default = true;
              };
              configuration = mkOption {
                type = types.deferredModule;
                default = { };
              };
              evaluated = mkOption {
                type = types.raw;
                internal = true;
                readOnly = true;
                default = variant.config;
              };
            };
          }
        )
      );
      default = { };
    };
    isSpecialisation = mkOption {
      type = types.bool;
      internal = true;
      default = false;
    };
  };
  # A variant is part of the system, so its assertions are.
  config.system.build.specialisations = lib.mapAttrs (
    _: variant: variant.evaluated.system.build.toplevel
  ) config.specialisation;
}
