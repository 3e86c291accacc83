# `import nixpkgs { … }`: the package set, as nixpkgs has it.
{
  lib ? import ./lib,
  system ? "x86_64-linux",
  localSystem ? { inherit system; },
  config ? { },
  overlays ? [ ],
}:
import ./pkgs {
  inherit lib config overlays;
  system = if builtins.isString localSystem then localSystem else localSystem.system;
}
