# boot.*, hardware.*, fileSystems, and the little else that a host's own file sets.
# Facts: nixos/modules/config/sysctl.nix, read in the copy faukah/nixpkgs at
# 3b20077cd82fd1f099e92e2792d73e3176d4869d; nixos/modules/hardware/graphics.nix, read in
# NixOS/nixpkgs at 0009474fe6d7de65608118277fba2fdca125fb01. Names and types of all others
# (nixos/modules/hardware/video/nvidia.nix, tasks/filesystems.nix, services/x11/xserver.nix, …) not
# read again.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  flag =
    default:
    mkOption {
      type = types.bool;
      inherit default;
    };
  # One definition alone may hold: two modules that set the same parameter are an error.
  sysctlValue = lib.mkOptionType {
    name = "sysctl option value";
    check =
      value:
      let
        plain = x: builtins.isBool x || builtins.isString x || builtins.isInt x || x == null;
      in
      plain value || value._type or "" == "override" && plain value.content;
    merge = lib.options.mergeOneOption;
  };
in
{
  options = {
    boot = {
      kernel.sysctl = mkOption {
        type = types.submodule {
          freeformType = types.attrsOf sysctlValue;
        };
        default = { };
      };
      kernelParams = mkOption {
        type = types.listOf types.str;
        default = [ ];
      };
      loader.grub.enable = flag true;
      loader.grub.device = mkOption {
        type = types.str;
        default = "";
      };
      loader.systemd-boot.enable = flag false;
      loader.efi.canTouchEfiVariables = flag false;
      isContainer = flag false;
    };
    fileSystems = mkOption {
      type = types.attrsOf (
        types.submodule {
          options = {
            device = mkOption {
              type = types.nullOr types.nonEmptyStr;
              default = null;
            };
            fsType = mkOption {
              type = types.nonEmptyStr;
              default = "auto";
            };
            options = mkOption {
              type = types.nonEmptyListOf types.nonEmptyStr;
              default = [ "defaults" ];
            };
          };
        }
      );
      default = { };
    };
    hardware = {
      graphics = {
        enable = flag false;
        enable32Bit = flag false;
        extraPackages = mkOption {
          type = types.listOf types.package;
          default = [ ];
        };
      };
      nvidia.open = mkOption {
        type = types.nullOr types.bool;
        default = null;
      };
      nvidia.package = mkOption {
        type = types.package;
        default = pkgs.linuxPackages.nvidiaPackages.stable;
      };
      nvidia-container-toolkit.enable = flag false;
      enableRedistributableFirmware = flag false;
    };
    services.xserver.videoDrivers = mkOption {
      type = types.listOf types.str;
      default = [
        "modesetting"
        "fbdev"
      ];
    };
    services.openssh.enable = flag false;
    swapDevices = mkOption {
      type = types.listOf types.attrs;
      default = [ ];
    };
    zramSwap.enable = flag false;
    powerManagement.enable = flag true;
    security.pki.certificateFiles = mkOption {
      type = types.listOf types.path;
      default = [ ];
    };
    security.pki.certificates = mkOption {
      type = types.listOf types.str;
      default = [ ];
    };
  };
  config.assertions = [
    {
      assertion =
        !(lib.elem "nvidia" config.services.xserver.videoDrivers) || config.hardware.nvidia.open != null;
      message = "You must configure `hardware.nvidia.open` on NVIDIA driver versions >= 560.";
    }
  ];
}
