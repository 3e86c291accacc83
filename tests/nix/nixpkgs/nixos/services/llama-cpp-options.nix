# services.llama-cpp.*: the options of the release that the host has.
# Facts: as llama-cpp.nix says.
{ config, lib, pkgs, release ? "26.05", ... }:
let
  inherit (lib) mkOption types;
  plain = type: default: mkOption { inherit type default; };
  common = {
    enable = lib.mkEnableOption "LLaMA C++ server";
    package = lib.mkPackageOption pkgs "llama-cpp" { };
    openFirewall = plain types.bool false;
  };
  at = name: [ "services" "llama-cpp" name ];
  moved =
    name:
    lib.mkRenamedOptionModule (at name) [
      "services"
      "llama-cpp"
      "settings"
      name
    ];
in
if lib.versionAtLeast release "26.11" then
  {
    imports = [
      (lib.mkRenamedOptionModule (at "modelsDir") [
        "services"
        "llama-cpp"
        "settings"
        "models-dir"
      ])
      (moved "host")
      (moved "port")
      (moved "model")
      (lib.mkRemovedOptionModule (at "extraFlags") "Use services.llama-cpp.settings instead.")
      (lib.mkRemovedOptionModule (at "modelsPreset") "Use services.llama-cpp.settings.models-preset instead.")
    ];
    options.services.llama-cpp = common // {
      settings = plain (types.submodule {
        freeformType = types.attrs;
        options = {
          host = plain types.str "127.0.0.1";
          port = plain types.port 8080;
        };
      }) { };
    };
  }
else
  {
    options.services.llama-cpp = common // {
      model = plain (types.nullOr types.path) null;
      modelsDir = plain (types.nullOr types.path) null;
      modelsPreset = plain (types.nullOr (types.attrsOf types.attrs)) null;
      extraFlags = plain (types.listOf types.str) [ ];
      host = plain types.str "127.0.0.1";
      port = plain types.port 8080;
    };
  }
