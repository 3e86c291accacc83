# Python and its packages; the names are in ../python.nix.
{ lib, pkgs }:
let
  environment =
    packages:
    pkgs.package {
      pname = "python3-env";
      version = "3.13.9";
      name = "python3-3.13.9-env";
      meta.mainProgram = "python3";
      env.paths = map toString packages;
      passthru = {
        inherit packages;
        interpreter = "python3";
      };
    };
in
{
  python3 = pkgs.package {
    pname = "python3";
    version = "3.13.9";
    meta.mainProgram = "python3";
    passthru = {
      pkgs = pkgs.python3Packages;
      pythonVersion = "3.13";
      sitePackages = "lib/python3.13/site-packages";
      withPackages = f: environment (f pkgs.python3Packages);
      interpreter = "${pkgs.python3}/bin/python3";
    };
  };
  python313 = pkgs.python3;
  python3Packages = import ../python.nix { inherit lib pkgs; };
  python313Packages = pkgs.python3Packages;
}
