# The outputs that nixpkgs' flake has. `release` is the NixOS release whose options hosts get, where
# the two that the project supports differ (26.05 or 26.11).
{
  release ? "26.05",
}:
let
  lib = import ./lib;
  systems = [
    "aarch64-linux"
    "x86_64-linux"
  ];
  nixosSystem =
    {
      modules,
      system ? null,
      specialArgs ? { },
      pkgs ? null,
    }:
    import ./nixos.nix { inherit lib release pkgs; } {
      inherit specialArgs;
      modules = modules ++ lib.optional (system != null) { nixpkgs.system = lib.mkDefault system; };
    };
in
{
  outPath = toString ./.;
  lib = lib // {
    inherit nixosSystem;
  };
  legacyPackages = lib.genAttrs systems (system: import ./. { inherit lib system; });
}
