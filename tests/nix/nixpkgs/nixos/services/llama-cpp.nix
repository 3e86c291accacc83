# services.llama-cpp.* in the two shapes that the project supports.
# Facts: nixos/modules/services/misc/llama-cpp.nix, read in the copies Swarsel/nixpkgs at
# 4aa6836a648ca76c68866decf0c8965e36ec2a3b (26.11pre) and faukah/nixpkgs at
# 3b20077cd82fd1f099e92e2792d73e3176d4869d (before); the options of 26.05 between them.
{ config, lib, pkgs, utils, options, ... }:
let
  cfg = config.services.llama-cpp;
  newer = options.services.llama-cpp ? settings;
  arguments =
    if newer then
      lib.cli.toGNUCommandLine { } cfg.settings
    else
      [
        "--log-disable"
        "--host"
        cfg.host
        "--port"
        (toString cfg.port)
      ]
      ++ lib.optionals (cfg.model != null) [ "-m" "${cfg.model}" ]
      ++ lib.optionals (cfg.modelsDir != null) [ "--models-dir" "${cfg.modelsDir}" ]
      ++ cfg.extraFlags;
in
{
  imports = [ ./llama-cpp-options.nix ];
  config = lib.mkIf cfg.enable {
    systemd.services.llama-cpp = {
      description = "LLaMA C++ server";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network.target" ];
      after = [ "network.target" ];
      serviceConfig = {
        Type = lib.mkIf (!newer) "idle";
        AmbientCapabilities = lib.mkIf newer [ "" ];
        KillSignal = lib.mkIf (!newer) "SIGINT";
        Environment = [ "LLAMA_CACHE=/var/cache/llama-cpp" ];
        # Values are escaped in 26.05 and not in 26.11.
        ExecStart =
          lib.getExe' cfg.package "llama-server"
          + " "
          + (if newer then toString arguments else utils.escapeSystemdExecArgs arguments);
        ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
        Restart = "on-failure";
        RestartSec = 300;
        DynamicUser = true;
        StateDirectory = "llama-cpp";
        CacheDirectory = "llama-cpp";
        WorkingDirectory = "/var/lib/llama-cpp";
        PrivateDevices = false;
        CapabilityBoundingSet = [ "" ];
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_INET6"
          "AF_UNIX"
        ];
        NoNewPrivileges = true;
        PrivateMounts = true;
        PrivateTmp = true;
        PrivateUsers = true;
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHome = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectSystem = "strict";
        MemoryDenyWriteExecute = true;
        LockPersonality = true;
        RemoveIPC = true;
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
        SystemCallFilter = [
          "@system-service"
          "~@privileged"
        ];
        SystemCallErrorNumber = "EPERM";
        ProtectProc = "invisible";
        ProtectHostname = true;
        ProcSubset = "pid";
      };
    };
    networking.firewall.allowedTCPPorts = lib.optional cfg.openFirewall (
      if newer then cfg.settings.port else cfg.port
    );
  };
}
