# What follows from the options of one server of llama.cpp, for other modules and the tests.
{
  lib,
  models,
  pkgs,
}:
let
  inherit (lib) mkOption types;

  # Without a query.
  fileOf = url: lib.head (lib.splitString "?" (baseNameOf url));
in
{ name, config, ... }:
let
  preset = if config.preset == null then null else models.presets.${config.preset} or null;
in
{
  options = {
    memoryMib = mkOption {
      type = types.int;
      internal = true;
      readOnly = true;
      default =
        2048 + (preset.size + preset.kvBytes * config.contextSize * config.parallel) / 1024 / 1024;
      description = "Estimate of the memory that a preset takes, MiB.";
    };

    unit = mkOption {
      type = types.str;
      internal = true;
      readOnly = true;
      default = "aistack-llama-${name}";
      description = "Name of the unit.";
    };

    socket = mkOption {
      type = types.str;
      internal = true;
      readOnly = true;
      default = "/run/${config.unit}/llama.sock";
      description = "Where the server listens.";
    };

    source = mkOption {
      type = types.nullOr (types.attrsOf types.unspecified);
      internal = true;
      readOnly = true;
      default =
        if config.model != null then
          null
        else if config.url != null then
          { inherit (config) url hash size; }
        else if preset != null then
          {
            inherit (preset) url;
            hash = if config.hash != null then config.hash else preset.hash;
            size = if config.size != null then config.size else preset.size;
          }
        else
          null;
      description = "Where the model comes from, if it is not there: url, hash, size.";
    };

    download = mkOption {
      type = types.nullOr (types.attrsOf types.unspecified);
      internal = true;
      readOnly = true;
      default = if config.fetch == "start" then config.source else null;
      description = "What the unit aistack-model-<name> downloads.";
    };

    modelFile = mkOption {
      type = types.str;
      internal = true;
      readOnly = true;
      default =
        if config.model != null then
          "${config.model}"
        else if config.download != null then
          "/var/lib/aistack-models/${name}/${fileOf config.download.url}"
        else if config.source != null && config.source.hash != null then
          "${pkgs.fetchurl {
            inherit (config.source) url hash;
            name = lib.strings.sanitizeDerivationName (fileOf config.source.url);
          }}"
        else
          # Refused by an assertion.
          "/var/empty";
      description = "The file that the server opens.";
    };

    presetArgs = mkOption {
      type = types.listOf types.str;
      internal = true;
      readOnly = true;
      default = if preset == null then [ ] else preset.args;
      description = "Arguments that the preset asks for.";
    };
  };
}
