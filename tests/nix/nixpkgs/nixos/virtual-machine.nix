# The options of a test's node (virtualisation.*) that the VM tests set.
# Facts: names and types of nixos/modules/virtualisation/qemu-vm.nix, not read again.
{ lib, ... }:
let
  inherit (lib) mkOption types;
  count =
    default:
    mkOption {
      type = types.ints.positive;
      inherit default;
    };
in
{
  options.virtualisation = {
    memorySize = count 1024;
    cores = count 1;
    diskSize = mkOption {
      type = types.either (types.enum [ "auto" ]) types.ints.positive;
      default = 1024;
    };
    vlans = mkOption {
      type = types.listOf types.ints.unsigned;
      default = [ 1 ];
    };
    useNixStoreImage = mkOption {
      type = types.bool;
      default = false;
    };
    writableStore = mkOption {
      type = types.bool;
      default = true;
    };
    graphics = mkOption {
      type = types.bool;
      default = true;
    };
  };
}
