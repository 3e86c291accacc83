# Evaluates a NixOS host: the stand-in's option tree with the given modules.
{
  lib,
  release ? "26.05",
  pkgs ? null,
}:
{
  modules,
  specialArgs ? { },
}:
lib.evalModules {
  class = "nixos";
  specialArgs = {
    modulesPath = toString ./nixos;
    inherit release;
  }
  // specialArgs;
  modules = [
    ./nixos
    { stand-in = { inherit release pkgs; }; }
  ]
  ++ modules;
}
