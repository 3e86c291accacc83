# The package set: names that nixpkgs has, so that another one fails, and versions where read.
{
  lib,
  system ? "x86_64-linux",
  config ? { },
  overlays ? [ ],
}:
let
  base =
    pkgs:
    {
      _type = "pkgs";
      inherit lib system config;
      inherit pkgs;
      path = ./..;
      callPackage = lib.callPackageWith (pkgs // { inherit pkgs; });
      newScope = extra: lib.callPackageWith (pkgs // extra);
      callPackages = lib.callPackagesWith pkgs;
      buildPackages = pkgs;
      stdenv = {
        hostPlatform = lib.systems.elaborate system;
        buildPlatform = lib.systems.elaborate system;
        inherit (pkgs) mkDerivation;
        inherit (lib.systems.elaborate system) isLinux isx86_64 isAarch64;
        cc = pkgs.gcc;
      };
      stdenvNoCC = pkgs.stdenv;
      runtimeShell = "${pkgs.bash}/bin/bash";
      formats = import ./formats.nix { inherit lib pkgs; };
      testers = import ./testers.nix { inherit lib pkgs; };
      nixosTests = { };
      extend = overlay: import ./. {
        inherit lib system config;
        overlays = overlays ++ [ overlay ];
      };
      appendOverlays = more: import ./. {
        inherit lib system config;
        overlays = overlays ++ more;
      };
    }
    // import ./builders.nix { inherit lib pkgs; }
    // import ./texts.nix { inherit lib pkgs; }
    // import ./sources.nix { inherit lib pkgs; }
    // import ./programs.nix { inherit lib pkgs; }
    // import ./python-env.nix { inherit lib pkgs; };
in
lib.fix (lib.foldl' (f: overlay: lib.extends overlay f) base overlays)
