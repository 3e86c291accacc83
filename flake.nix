{
  description = "aistack: a complete, private AI stack on your own machine";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;

      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];

      # `f` gets nixpkgs and our own packages for one system.
      eachSystem =
        f:
        lib.genAttrs systems (
          system:
          let
            pkgs = nixpkgs.legacyPackages.${system};
          in
          f pkgs (import ./nix/packages { inherit pkgs; })
        );
    in
    {
      nixosModules = rec {
        aistack = ./nix/modules;
        default = aistack;
      };

      overlays.default = import ./nix/packages/overlay.nix;

      packages = eachSystem (_: own: own // { default = own.aistack; });

      # CUDA is not free software: among `packages`, `nix flake check` would refuse it.
      legacyPackages = lib.genAttrs systems (
        system:
        let
          pkgs = import nixpkgs {
            inherit system;
            config = {
              cudaSupport = true;
              allowUnfreePredicate = pkgs._cuda.lib.allowUnfreeCudaPredicate;
            };
          };
        in
        {
          cuda = import ./nix/packages { inherit pkgs; };
        }
      );

      apps = eachSystem (
        _: own: rec {
          up = {
            type = "app";
            program = lib.getExe own.aistack-up;
            meta.description = "The whole stack on this machine, in the foreground";
          };
          default = up;
        }
      );

      devShells = eachSystem (
        pkgs: own: {
          default = import ./nix/packages/dev-shell.nix { inherit pkgs own; };
        }
      );

      checks = eachSystem (pkgs: own: import ./nix/tests { inherit lib nixpkgs pkgs own; });

      formatter = eachSystem (pkgs: _: pkgs.nixfmt-tree);
    };
}
