# A small `lib`, written from the documented behaviour of nixpkgs' own, for machines where that
# cannot be had. It has what the project's Nix code and the stand-in use, under the same names;
# the same evaluations on nixpkgs' real `lib` give the same derivations (test_stand_in.py).
let
  call = file: import file { inherit lib; };
  trivial = call ./trivial.nix;
  lists = call ./lists.nix;
  attrsets = call ./attrsets.nix;
  strings = call ./strings.nix;
  options = call ./options.nix;
  properties = call ./properties.nix;
  renames = call ./renames.nix;
  modules = call ./modules.nix // properties // renames;
  customisation = call ./customisation.nix;
  meta = call ./meta.nix;
  types = call ./types.nix;
  lib =
    trivial
    // strings
    // lists
    // attrsets
    // options
    // modules
    // customisation
    // meta
    // {
      inherit
        trivial
        lists
        attrsets
        strings
        options
        modules
        customisation
        meta
        types
        ;
      inherit (types) mkOptionType;
      generators = call ./generators.nix;
      cli = call ./cli.nix;
      fileset = call ./fileset.nix;
      sources = call ./sources.nix;
      inherit (lib.sources) cleanSource cleanSourceWith cleanSourceFilter sourceByRegex;
      inherit (lib.cli) toGNUCommandLine toGNUCommandLineShell;
      inherit (lists) replicate toList;
      licenses = meta.licenses;
      version = "26.05stand-in";
      inherit (trivial) importJSON importTOML;
      versions = strings.versions;
      extend = overlay: lib // overlay lib lib;
    };
in
lib
