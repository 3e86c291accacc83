# Folders as filtered sources.
{ lib }:
let
  inherit (builtins) baseNameOf match;
in
rec {
  cleanSourceFilter =
    path: type:
    let
      name = baseNameOf (toString path);
    in
    !(
      name == ".git"
      && type == "directory"
      || lib.hasSuffix "~" name
      || match "^\\.sw[a-z]$" name != null
      || match "^\\..*\\.sw[a-z]$" name != null
      || lib.hasSuffix ".o" name
      || lib.hasSuffix ".so" name
      || type == "symlink" && lib.hasPrefix "result" name
      || type == "unknown"
    );
  cleanSource =
    src:
    cleanSourceWith {
      filter = cleanSourceFilter;
      inherit src;
    };
  cleanSourceWith =
    {
      filter ? _: _: true,
      src,
      name ? null,
    }:
    let
      nested = src ? _isLibCleanSourceWith;
      origin = if nested then src.origSrc else src;
      test = if nested then path: type: filter path type && src.filter path type else filter;
      called =
        if name != null then
          name
        else if nested then
          src.name
        else
          "source";
    in
    {
      _isLibCleanSourceWith = true;
      origSrc = origin;
      filter = test;
      name = called;
      outPath = builtins.path {
        filter = test;
        path = origin;
        name = called;
      };
    };
  sourceByRegex =
    src: expressions:
    cleanSourceWith {
      inherit src;
      filter =
        path: _:
        builtins.any (
          e: match e (lib.removePrefix (toString src + "/") (toString path)) != null
        ) expressions;
    };
}
