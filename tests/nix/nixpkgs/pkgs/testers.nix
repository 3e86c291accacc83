# `pkgs.testers`: a NixOS test with its nodes evaluated and its script as text.
{ lib, pkgs }:
let
  inherit (lib) mkOption types;
  framework =
    { config, ... }:
    let
      nodeType = types.lazyAttrsOf types.deferredModule;
      # As upstream: numbered in the order of their names, on one network.
      addressOf =
        name:
        "192.168.1.${
          toString (1 + lib.lists.findFirstIndex (n: n == name) 0 (lib.attrNames config.nodes))
        }";
      evaluate =
        name: module:
        (import ../nixos.nix {
          inherit lib;
          inherit pkgs;
        })
          {
            modules = [
              ../nixos/virtual-machine.nix
              config.defaults
              module
              {
                networking.hostName = lib.mkDefault name;
                networking.primaryIPAddress = addressOf name;
              }
            ];
            specialArgs = config.node.specialArgs // {
              nodes = config.evaluated;
            };
          };
    in
    {
      options = {
        name = mkOption { type = types.str; };
        nodes = mkOption {
          type = nodeType;
          default = { };
        };
        defaults = mkOption {
          type = types.deferredModule;
          default = { };
        };
        nodeDefaults = mkOption {
          type = types.deferredModule;
          default = { };
        };
        testScript = mkOption { type = types.either types.str (types.functionTo types.str); };
        globalTimeout = mkOption {
          type = types.ints.unsigned;
          default = 3600;
        };
        extraPythonPackages = mkOption {
          type = types.functionTo (types.listOf types.package);
          default = _: [ ];
        };
        skipTypeCheck = mkOption {
          type = types.bool;
          default = false;
        };
        skipLint = mkOption {
          type = types.bool;
          default = false;
        };
        enableOCR = mkOption {
          type = types.bool;
          default = false;
        };
        node.pkgsReadOnly = mkOption {
          type = types.bool;
          default = true;
        };
        node.specialArgs = mkOption {
          type = types.lazyAttrsOf types.raw;
          default = { };
        };
        interactive = mkOption {
          type = types.deferredModule;
          default = { };
        };
        meta = mkOption {
          type = types.lazyAttrsOf types.raw;
          default = { };
        };
        passthru = mkOption {
          type = types.lazyAttrsOf types.raw;
          default = { };
        };
        evaluated = mkOption {
          type = types.raw;
          internal = true;
        };
        script = mkOption {
          type = types.str;
          internal = true;
        };
      };
      config = {
        evaluated = lib.mapAttrs (name: module: (evaluate name module).config) config.nodes;
        script =
          if builtins.isString config.testScript then
            config.testScript
          else
            config.testScript { nodes = config.evaluated; };
      };
    };
  runNixOSTest =
    module:
    let
      evaluated = lib.evalModules {
        modules = [
          framework
          module
        ];
        specialArgs = {
          hostPkgs = pkgs;
          inherit pkgs;
        };
      };
      inherit (evaluated) config;
      drv = derivation {
        name = "vm-test-run-${config.name}";
        inherit (pkgs) system;
        builder = "/bin/sh";
        args = [ "-c" "echo the stand-in boots nothing >&2; exit 1" ];
        script = config.script;
        nodes = builtins.toJSON (
          lib.mapAttrs (_: node: node.system.build.toplevel.outPath) config.evaluated
        );
      };
    in
    drv
    // {
      inherit config;
      nodes = config.evaluated;
      testScript = config.script;
      driverInteractive = drv;
      meta = config.meta;
    }
    // config.passthru;
in
{
  inherit runNixOSTest;
  nixosTest = runNixOSTest;
}
