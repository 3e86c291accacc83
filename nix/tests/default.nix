# The flake's checks of one system: packages, what the modules evaluate to, formatting, VM tests.
{
  lib,
  nixpkgs,
  pkgs,
  own,
}:
let
  inherit (pkgs.stdenv.hostPlatform) system;

  # A host that differs from a user's only by being a container: no boot loader, no disks.
  host =
    module:
    nixpkgs.lib.nixosSystem {
      modules = [
        ../modules
        module
        {
          boot.isContainer = true;
          nixpkgs.hostPlatform = system;
          system.stateVersion = "26.05";
        }
      ];
    };

  # The whole system is evaluated, assertions included, and nothing of it is built.
  evaluates =
    name: module:
    pkgs.writeText "evaluates-${name}" (
      builtins.unsafeDiscardStringContext (host module).config.system.build.toplevel.drvPath + "\n"
    );

  # CUDA's packages refuse to evaluate for some machines that are not x86_64.
  examples = removeAttrs (import ../examples) (
    lib.optionals (!pkgs.stdenv.hostPlatform.isx86_64) [
      "server"
      "three-machines-gpu"
    ]
  );

  common = import ./common.nix { inherit lib pkgs own; };

  # Written and evaluated; they need a machine with KVM to run.
  vmTests = lib.genAttrs [
    "stack"
    "auth"
    "resilience"
    "upgrade"
    "tls-acme"
    "backup-restore"
    "three-machines"
    "qdrant"
  ] (name: pkgs.testers.runNixOSTest (import (./. + "/${name}.nix") arguments));

  arguments = {
    inherit
      lib
      pkgs
      own
      common
      ;
  };

  nixFiles = lib.fileset.toSource {
    root = ../..;
    fileset = lib.fileset.unions [
      ../../flake.nix
      (lib.fileset.fileFilter (file: file.hasExt "nix") ../.)
    ];
  };
in
{
  package = own.aistack;
  inherit (own) procrastinate aistack-up;
  unit-tests = import ./unit-tests.nix { inherit lib pkgs own; };

  format = pkgs.runCommand "nix-format" { nativeBuildInputs = [ pkgs.nixfmt ]; } ''
    find ${nixFiles} -name '*.nix' -exec nixfmt --check {} +
    touch $out
  '';
}
// lib.mapAttrs' (
  name: module: lib.nameValuePair "example-${name}" (evaluates name module)
) examples
// lib.mapAttrs' (name: test: lib.nameValuePair "vm-${name}" test) vmTests
