# services.tempo.*
# Facts: nixos/modules/services/tracing/tempo.nix, read in the copy Swarsel/nixpkgs at
# 4aa6836a648ca76c68866decf0c8965e36ec2a3b.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.services.tempo;
  format = pkgs.formats.yaml { };
  file = if cfg.configFile != null then cfg.configFile else format.generate "config.yaml" cfg.settings;
in
{
  options.services.tempo = {
    enable = lib.mkEnableOption "Grafana Tempo";
    settings = mkOption {
      type = format.type;
      default = { };
    };
    configFile = mkOption {
      type = types.nullOr types.path;
      default = null;
    };
    extraFlags = mkOption {
      type = types.listOf types.str;
      default = [ ];
    };
  };
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = (cfg.settings == { }) != (cfg.configFile == null);
        message = "Please specify a configuration for Tempo with either 'services.tempo.settings' or 'services.tempo.configFile'.";
      }
    ];
    environment.systemPackages = [ pkgs.tempo ];
    systemd.services.tempo = {
      description = "Grafana Tempo Service Daemon";
      wantedBy = [ "multi-user.target" ];
      serviceConfig = {
        ExecStart = "${pkgs.tempo}/bin/tempo --config.file=${file} ${lib.escapeShellArgs cfg.extraFlags}";
        DynamicUser = true;
        Restart = "always";
        ProtectSystem = "full";
        DevicePolicy = "closed";
        NoNewPrivileges = true;
        WorkingDirectory = "/var/lib/tempo";
        StateDirectory = "tempo";
      };
    };
  };
}
