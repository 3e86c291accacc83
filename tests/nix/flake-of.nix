# The outputs of the checkout's flake on a given nixpkgs, without copying the checkout to the store.
{ root, nixpkgs }:
let
  flake = import (root + "/flake.nix");
  self = flake.outputs { inherit self nixpkgs; } // {
    outPath = root;
  };
in
if builtins.pathExists (root + "/flake.nix") then
  self
else
  { nixosModules.default = root + "/nix/modules/default.nix"; }
