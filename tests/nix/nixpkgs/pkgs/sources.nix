# Downloads, which the stand-in describes and does not make; development shells; option documents.
{ lib, pkgs }:
let
  inherit (pkgs.stdenv.hostPlatform) system;
  shell = "/bin/sh";
in
{
  fetchurl =
    {
      url ? lib.head urls,
      urls ? [ url ],
      hash ? "",
      sha256 ? "",
      name ? baseNameOf url,
      meta ? { },
      passthru ? { },
      curlOptsList ? [ ],
      ...
    }:
    let
      file = builtins.head (builtins.split "[?#]" name);
    in
    derivation {
      name = lib.strings.sanitizeDerivationName file;
      inherit system url urls;
      builder = shell;
      args = [ "-c" "echo the stand-in downloads nothing >&2; exit 1" ];
      outputHash = if hash != "" then hash else sha256;
      outputHashMode = "flat";
      outputHashAlgo = if hash != "" then null else "sha256";
    }
    // {
      inherit meta url urls;
    }
    // passthru;
  fetchPypi =
    {
      pname,
      version,
      format ? "setuptools",
      hash,
      dist ? "py2.py3",
      python ? "py2.py3",
      abi ? "none",
      platform ? "any",
      extension ? "tar.gz",
    }:
    pkgs.fetchurl {
      inherit hash;
      url =
        if format == "wheel" then
          "mirror://pypi-wheels/${dist}/${lib.substring 0 1 pname}/${pname}/${pname}-${version}-${python}-${abi}-${platform}.whl"
        else
          "mirror://pypi/${lib.substring 0 1 pname}/${pname}/${pname}-${version}.${extension}";
    };
  mkShell =
    {
      name ? "nix-shell",
      packages ? [ ],
      inputsFrom ? [ ],
      shellHook ? "",
      env ? { },
      ...
    }@given:
    derivation {
      inherit name system shellHook;
      builder = shell;
      args = [ "-c" "echo > $out" ];
      packages = map toString packages;
      environment = builtins.toJSON env;
    }
    // {
      inherit packages inputsFrom;
    };
  nixosOptionsDoc =
    {
      options,
      transformOptions ? lib.id,
      warningsAreErrors ? true,
      ...
    }:
    let
      list = map transformOptions (lib.filter (o: o.visible && !o.internal) (lib.optionAttrSetToDocList options));
      nix = lib.listToAttrs (map (o: lib.nameValuePair o.name (removeAttrs o [ "name" "visible" "internal" ])) list);
    in
    {
      optionsNix = nix;
      optionsJSON = pkgs.writeTextDir "share/doc/nixos/options.json" (builtins.toJSON nix);
    };
}
