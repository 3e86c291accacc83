# The module argument `utils`.
# Facts: nixos/lib/utils.nix: escaping of one argument, not read again.
{ lib, pkgs, config }:
let
  inherit (builtins) isFloat isInt isPath isString;
  escapeSystemdExecArg =
    arg:
    let
      s =
        if isPath arg then
          "${arg}"
        else if isString arg then
          arg
        else if isInt arg || isFloat arg || lib.isDerivation arg then
          toString arg
        else
          throw "escapeSystemdExecArg only allows strings, paths, numbers and derivations";
    in
    builtins.replaceStrings [ "%" "$" ] [ "%%" "$$" ] (builtins.toJSON s);
in
{
  inherit escapeSystemdExecArg;
  escapeSystemdExecArgs = lib.concatMapStringsSep " " escapeSystemdExecArg;
  escapeSystemdPath =
    path:
    let
      trimmed = lib.removePrefix "/" (lib.removeSuffix "/" path);
    in
    if trimmed == "" then
      "-"
    else
      builtins.replaceStrings [ "-" "/" " " ] [ "\\x2d" "-" "\\x20" ] trimmed;
  toShellPath = x: if x ? shellPath then "${x}${x.shellPath}" else toString x;
}
