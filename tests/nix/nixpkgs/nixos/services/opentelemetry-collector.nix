# services.opentelemetry-collector.*
# Facts: nixos/modules/services/monitoring/opentelemetry-collector.nix, read in the copy Swarsel/nixpkgs at
# 4aa6836a648ca76c68866decf0c8965e36ec2a3b.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.services.opentelemetry-collector;
  format = pkgs.formats.yaml { };
  file =
    if cfg.configFile == null then format.generate "config.yaml" cfg.settings else cfg.configFile;
in
{
  options.services.opentelemetry-collector = {
    enable = lib.mkEnableOption "Opentelemetry Collector";
    package = lib.mkPackageOption pkgs "opentelemetry-collector" { };
    settings = mkOption {
      type = format.type;
      default = { };
    };
    configFile = mkOption {
      type = types.nullOr types.path;
      default = null;
    };
    validateConfigFile = mkOption {
      type = types.bool;
      default = false;
    };
  };
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = (cfg.settings == { }) != (cfg.configFile == null);
        message = "Please specify a configuration for Opentelemetry Collector with either 'services.opentelemetry-collector.settings' or 'services.opentelemetry-collector.configFile'.";
      }
    ];
    systemd.services.opentelemetry-collector = {
      description = "Opentelemetry Collector Service Daemon";
      wantedBy = [ "multi-user.target" ];
      serviceConfig = {
        ExecStart = "${lib.getExe cfg.package} --config=file:${file}";
        DynamicUser = true;
        Restart = "always";
        ProtectSystem = "full";
        DevicePolicy = "closed";
        NoNewPrivileges = true;
        WorkingDirectory = "%S/opentelemetry-collector";
        StateDirectory = "opentelemetry-collector";
        SupplementaryGroups = [ "systemd-journal" ];
      };
    };
  };
}
