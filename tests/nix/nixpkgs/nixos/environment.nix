# environment.*, time, locale and programs of the shell.
# Facts: nixos/modules/system/etc/etc.nix, read in the copy faukah/nixpkgs at
# 3b20077cd82fd1f099e92e2792d73e3176d4869d; names and types of nixos/modules/config/{system-path,
# shells-environment,locale}.nix, not read again.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  file =
    { name, config, options, ... }:
    {
      options = {
        enable = mkOption {
          type = types.bool;
          default = true;
        };
        target = mkOption { type = types.str; };
        text = mkOption {
          type = types.nullOr types.lines;
          default = null;
        };
        source = mkOption { type = types.path; };
        mode = mkOption {
          type = types.str;
          default = "symlink";
        };
        uid = mkOption {
          type = types.int;
          default = 0;
        };
        gid = mkOption {
          type = types.int;
          default = 0;
        };
        user = mkOption {
          type = types.str;
          default = "+${toString config.uid}";
        };
        group = mkOption {
          type = types.str;
          default = "+${toString config.gid}";
        };
      };
      config.target = lib.mkDefault name;
      config.source = lib.mkIf (config.text != null) (
        lib.mkDerivedConfig options.text (pkgs.writeText "etc-${lib.replaceStrings [ "/" ] [ "-" ] name}")
      );
    };
in
{
  options = {
    environment = {
      etc = mkOption {
        type = types.attrsOf (types.submodule file);
        default = { };
      };
      systemPackages = mkOption {
        type = types.listOf types.package;
        default = [ ];
      };
      variables = mkOption {
        type = types.attrsOf (
          types.nullOr (
            types.oneOf [
              (types.listOf (types.oneOf [ types.int types.str types.path ]))
              types.int
              types.str
              types.path
            ]
          )
        );
        default = { };
      };
    };
    time.timeZone = mkOption {
      type = types.nullOr types.str;
      default = null;
    };
    i18n.defaultLocale = mkOption {
      type = types.str;
      default = "en_US.UTF-8";
    };
  };
}
