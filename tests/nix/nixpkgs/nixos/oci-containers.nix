# virtualisation.oci-containers.*
# Facts: nixos/modules/virtualisation/oci-containers.nix, read in the copy
# faukah/nixpkgs at 3b20077cd82fd1f099e92e2792d73e3176d4869d.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.virtualisation.oci-containers;
  plain = type: default: mkOption { inherit type default; };
  strings = plain (types.listOf types.str) [ ];
  container =
    { name, ... }:
    {
      options = {
        image = mkOption { type = types.str; };
        imageFile = plain (types.nullOr types.package) null;
        autoStart = plain types.bool true;
        cmd = strings;
        entrypoint = plain (types.nullOr types.str) null;
        environment = plain (types.attrsOf types.str) { };
        environmentFiles = plain (types.listOf types.path) [ ];
        ports = strings;
        volumes = strings;
        devices = strings;
        networks = strings;
        user = plain (types.nullOr types.str) null;
        workdir = plain (types.nullOr types.str) null;
        hostname = plain (types.nullOr types.str) null;
        dependsOn = strings;
        extraOptions = strings;
        labels = plain (types.attrsOf types.str) { };
        capabilities = plain (types.lazyAttrsOf (types.nullOr types.bool)) { };
        privileged = plain types.bool false;
        autoRemoveOnStop = plain types.bool true;
        pull = plain (types.enum [ "always" "missing" "never" "newer" ]) "missing";
        log-driver = plain types.str "journald";
        serviceName = plain types.str "${cfg.backend}-${name}";
        preRunExtraOptions = strings;
        podman = plain (types.nullOr (
          types.submodule {
            options.user = plain types.str "root";
            options.sdnotify = plain (types.enum [ "conmon" "healthy" "container" ]) "conmon";
          }
        )) (if cfg.backend == "podman" then { } else null);
      };
    };
  service =
    name: c:
    let
      q = lib.escapeShellArg;
      each = option: map (value: "${option}${q value}");
      pairs = option: lib.mapAttrsToList (key: value: "${option} ${q key}=${q value}");
      given = option: value: lib.optional (value != null) "${option}${q value}";
      before = pkgs.writeShellApplication {
        name = "pre-start";
        text = ''
          ${cfg.backend} rm -f ${name} || true
          ${lib.optionalString (c.imageFile != null) "${cfg.backend} load -i ${c.imageFile}"}
          ${lib.optionalString (cfg.backend == "podman") "rm -f /run/${q name}/ctr-id"}
        '';
      };
      words = [
        "exec ${cfg.backend} "
      ]
      ++ map q c.preRunExtraOptions
      ++ [
        "run"
        "--name=${q name}"
        "--log-driver=${c.log-driver}"
      ]
      ++ given "--entrypoint=" c.entrypoint
      ++ given "--hostname=" c.hostname
      ++ lib.optionals (cfg.backend == "podman") [
        "--cidfile=/run/${q name}/ctr-id"
        "--cgroups=enabled"
        "--sdnotify=${c.podman.sdnotify}"
        "-d"
        "--replace"
      ]
      ++ pairs "-e" c.environment
      ++ each "--env-file " c.environmentFiles
      ++ each "-p " c.ports
      ++ given "-u " c.user
      ++ each "-v " c.volumes
      ++ pairs "-l" c.labels
      ++ given "-w " c.workdir
      ++ lib.optional c.privileged "--privileged"
      ++ lib.optional c.autoRemoveOnStop "--rm"
      ++ each "--cap-add=" (lib.attrNames (lib.filterAttrs (_: on: on == true) c.capabilities))
      ++ each "--cap-drop=" (lib.attrNames (lib.filterAttrs (_: on: on == false) c.capabilities))
      ++ each "--device=" c.devices
      ++ each "--network=" c.networks
      ++ [ "--pull ${q c.pull}" ]
      ++ map q c.extraOptions
      ++ [ c.image ]
      ++ map q c.cmd;
      online = lib.optional (c.imageFile == null) "network-online.target";
      others = map (other: "${cfg.backend}-${other}.service") c.dependsOn;
    in
    {
      wantedBy = lib.optional c.autoStart "multi-user.target";
      wants = online;
      after =
        lib.optionals (cfg.backend == "docker") [
          "docker.service"
          "docker.socket"
        ]
        ++ online
        ++ others;
      requires = others;
      environment = config.networking.proxy.envVars;
      path = lib.optional (cfg.backend == "podman") pkgs.podman;
      script = lib.concatStringsSep " \\\n  " words;
      preStop =
        if cfg.backend == "podman" then
          "podman stop --ignore --cidfile=/run/${q name}/ctr-id"
        else
          "${cfg.backend} stop ${name} || true";
      postStop =
        if cfg.backend == "podman" then
          "podman rm -f --ignore --cidfile=/run/${q name}/ctr-id"
        else
          "${cfg.backend} rm -f ${name} || true";
      serviceConfig = {
        ExecStartPre = [ "${before}/bin/pre-start" ];
        TimeoutStartSec = 0;
        TimeoutStopSec = 120;
        Restart = "always";
      }
      // lib.optionalAttrs (cfg.backend == "podman") {
        Environment = "PODMAN_SYSTEMD_UNIT=podman-${name}.service";
        Type = "notify";
        NotifyAccess = "all";
        Delegate = lib.mkIf (c.podman.sdnotify == "healthy") true;
        User = c.podman.user;
        RuntimeDirectory = q name;
      };
    };
in
{
  options.virtualisation = {
    oci-containers = {
      backend = plain (types.enum [ "podman" "docker" ]) "podman";
      containers = plain (types.attrsOf (types.submodule container)) { };
    };
    podman.enable = plain types.bool false;
    docker.enable = plain types.bool false;
  };
  config = lib.mkIf (cfg.containers != { }) {
    systemd.services = lib.mapAttrs' (
      name: c: lib.nameValuePair c.serviceName (service name c)
    ) cfg.containers;
    virtualisation.podman.enable = lib.mkIf (cfg.backend == "podman") true;
    virtualisation.docker.enable = lib.mkIf (cfg.backend == "docker") true;
  };
}
