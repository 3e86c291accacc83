# systemd.tmpfiles.*
# Facts: nixos/modules/system/boot/systemd/tmpfiles.nix, read in the copy faukah/nixpkgs at
# 3b20077cd82fd1f099e92e2792d73e3176d4869d.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  escape = lib.strings.escapeC [
    "\t"
    "\n"
    "\r"
    " "
    "\\"
  ];
  # mode, user, group and age are "-" for what systemd-tmpfiles chooses.
  entry =
    { name, ... }:
    {
      options = {
        type = mkOption {
          type = types.str;
          default = name;
        };
        argument = mkOption {
          type = types.str;
          default = "";
        };
      }
      // lib.genAttrs [ "mode" "user" "group" "age" ] (
        _:
        mkOption {
          type = types.str;
          default = "-";
        }
      );
    };
in
{
  options.systemd.tmpfiles = {
    rules = mkOption {
      type = types.listOf types.str;
      default = [ ];
    };
    settings = mkOption {
      type = types.attrsOf (types.attrsOf (types.attrsOf (types.submodule entry)));
      default = { };
    };
    lines = mkOption {
      type = types.listOf types.str;
      internal = true;
      readOnly = true;
    };
  };
  config.systemd.tmpfiles.lines =
    config.systemd.tmpfiles.rules
    ++ lib.concatLists (
      lib.mapAttrsToList (
        _: paths:
        lib.concatLists (
          lib.mapAttrsToList (
            path: entries:
            lib.mapAttrsToList (
              _: e:
              "'${e.type}' '${path}' '${e.mode}' '${e.user}' '${e.group}' '${e.age}' ${escape e.argument}"
            ) entries
          ) paths
        )
      ) config.systemd.tmpfiles.settings
    );
}
