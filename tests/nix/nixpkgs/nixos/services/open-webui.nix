# services.open-webui.*
# Facts: nixos/modules/services/misc/open-webui.nix, read in the copy
# faukah/nixpkgs at 3b20077cd82fd1f099e92e2792d73e3176d4869d.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.services.open-webui;
  plain = type: default: mkOption { inherit type default; };
in
{
  options.services.open-webui = {
    enable = lib.mkEnableOption "Open-WebUI server";
    package = lib.mkPackageOption pkgs "open-webui" { };
    stateDir = plain types.path "/var/lib/open-webui";
    host = plain types.str "127.0.0.1";
    port = plain types.port 8080;
    # A definition replaces these; they are the default of the option, not of its keys.
    environment = plain (types.attrsOf types.str) {
      SCARF_NO_ANALYTICS = "True";
      DO_NOT_TRACK = "True";
      ANONYMIZED_TELEMETRY = "False";
    };
    environmentFile = plain (types.nullOr types.path) null;
    openFirewall = plain types.bool false;
  };
  config = lib.mkIf cfg.enable {
    networking.firewall.allowedTCPPorts = lib.optional cfg.openFirewall cfg.port;
    systemd.services.open-webui = {
      description = "User-friendly WebUI for LLMs";
      wantedBy = [ "multi-user.target" ];
      after = [ "network.target" ];
      environment = {
        STATIC_DIR = ".";
        DATA_DIR = ".";
        HF_HOME = ".";
        SENTENCE_TRANSFORMERS_HOME = ".";
        WEBUI_URL = "http://localhost:${toString cfg.port}";
      }
      // cfg.environment;
      serviceConfig = {
        ExecStart = "${lib.getExe cfg.package} serve --host \"${cfg.host}\" --port ${toString cfg.port}";
        EnvironmentFile = lib.optional (cfg.environmentFile != null) cfg.environmentFile;
        WorkingDirectory = cfg.stateDir;
        StateDirectory = "open-webui";
        RuntimeDirectory = "open-webui";
        RuntimeDirectoryMode = "0755";
        PrivateTmp = true;
        DynamicUser = true;
        DevicePolicy = "closed";
        DeviceAllow = [
          "char-nvidiactl"
          "char-nvidia-caps"
          "char-nvidia-frontend"
          "char-nvidia-uvm"
          "char-drm"
          "char-fb"
          "char-kfd"
          "/dev/dxg"
        ];
        LockPersonality = true;
        MemoryDenyWriteExecute = false;
        PrivateUsers = true;
        ProtectHome = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectControlGroups = true;
        ProcSubset = "all";
        RestrictNamespaces = true;
        RestrictRealtime = true;
        SystemCallArchitectures = "native";
        UMask = "0077";
        CapabilityBoundingSet = "";
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_INET6"
          "AF_UNIX"
        ];
        ProtectClock = true;
        ProtectProc = "invisible";
        SystemCallFilter = [
          "@system-service"
          "~@privileged"
        ];
        SupplementaryGroups = [ "render" ];
      };
    };
  };
}
