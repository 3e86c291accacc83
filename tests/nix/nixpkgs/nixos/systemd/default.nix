# systemd.*: units of every kind, their texts, and the links between them.
# Facts: nixos/lib/systemd-lib.nix, read in NixOS/nixpkgs at
# 013635633ffe11f70df1d639f563f21c42c1f778; names and types of
# nixos/modules/system/boot/systemd.nix, not read again: timers from startAt, the refused restarts of a
# oneshot, and the wish for network-online.target.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.systemd;
  units = import ./lib.nix { inherit lib pkgs config; };
  shapes = import ./options.nix { inherit lib units; };
  kinds = {
    services = "service";
    sockets = "socket";
    timers = "timer";
    paths = "path";
    slices = "slice";
    targets = "target";
  };
  unitsOf =
    kind: suffix:
    lib.mapAttrs' (
      name: unit:
      lib.nameValuePair "${name}.${suffix}" {
        inherit (unit)
          aliases
          enable
          overrideStrategy
          requiredBy
          upheldBy
          wantedBy
          ;
        text = units.textOf suffix unit;
      }
    ) cfg.${kind};
  typeOf =
    suffix: more:
    types.attrsOf (
      types.submodule [
        shapes.common
        shapes.${suffix}
        ({ name, ... }: { config.name = "${name}.${suffix}"; })
        more
      ]
    );
  withDefaultPath =
    { config, ... }:
    {
      # As lean as upstream's.
      config.path = lib.mkIf config.enableDefaultPath (
        lib.mkAfter [
          pkgs.coreutils
          pkgs.findutils
          pkgs.gnugrep
          pkgs.gnused
          cfg.package
        ]
      );
    };
in
{
  imports = [ ./tmpfiles.nix ];

  options.systemd =
    lib.mapAttrs (
      _: suffix:
      mkOption {
        type = typeOf suffix (if suffix == "service" then withDefaultPath else { });
        default = { };
      }
    ) kinds
    // {
      package = lib.mkPackageOption pkgs "systemd" { };
      packages = mkOption {
        type = types.listOf types.package;
        default = [ ];
      };
      globalEnvironment = mkOption {
        type = types.attrsOf (
          types.nullOr (
            types.oneOf [
              types.str
              types.path
              types.package
            ]
          )
        );
        default = { };
      };
      enableStrictShellChecks = mkOption {
        type = types.bool;
        default = false;
      };
      defaultUnit = mkOption {
        type = units.unitNameType;
        default = "multi-user.target";
      };
      mounts = mkOption {
        type = types.listOf (
          types.submodule [
            shapes.common
            shapes.mount
          ]
        );
        default = [ ];
      };
      units = mkOption {
        type = types.attrsOf (
          types.submodule {
            options = {
              text = mkOption {
                type = types.nullOr types.str;
                default = null;
              };
              enable = mkOption {
                type = types.bool;
                default = true;
              };
              overrideStrategy = mkOption {
                type = types.enum [
                  "asDropinIfExists"
                  "asDropin"
                ];
                default = "asDropinIfExists";
              };
            }
            // lib.genAttrs [
              "aliases"
              "requiredBy"
              "upheldBy"
              "wantedBy"
            ] (
              _:
              mkOption {
                type = types.listOf units.unitNameType;
                default = [ ];
              }
            );
          }
        );
        default = { };
      };
    };

  config = {
    systemd.units = lib.mkMerge (lib.mapAttrsToList unitsOf kinds);
    systemd.timers = lib.mapAttrs (_: service: {
      wantedBy = [ "timers.target" ];
      timerConfig.OnCalendar = service.startAt;
    }) (lib.filterAttrs (_: service: service.enable && service.startAt != [ ]) cfg.services);
    systemd.globalEnvironment = {
      LOCALE_ARCHIVE = "${pkgs.glibcLocales}/lib/locale/locale-archive";
      TZDIR = "/etc/zoneinfo";
    };

    assertions = lib.concatLists (
      lib.mapAttrsToList (
        name: service:
        let
          type = service.serviceConfig.Type or "";
          restart = service.serviceConfig.Restart or "no";
        in
        [
          {
            assertion = !(type == "oneshot" && (restart == "always" || restart == "on-success"));
            message = "Service '${name}.service' with 'Type=oneshot' cannot have 'Restart=always' or 'Restart=on-success'";
          }
          {
            assertion = !(service.startAt != [ ] && service.serviceConfig.RemainAfterExit or false == true);
            message = "Service '${name}.service' with 'startAt' cannot have 'RemainAfterExit=true'";
          }
          {
            assertion = service.restartIfChanged || !service.reloadIfChanged;
            message = "Service '${name}.service' has reloadIfChanged set, so restartIfChanged = false is ignored";
          }
          {
            assertion =
              !(lib.elem "network-online.target" service.after)
              || lib.elem "network-online.target" (service.wants ++ service.requires ++ service.bindsTo);
            message = "Service '${name}.service' is ordered after 'network-online.target' but doesn't depend on it";
          }
        ]
      ) cfg.services
    );
  };
}
