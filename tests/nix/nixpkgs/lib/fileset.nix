# `lib.fileset` as far as the packages use it. A set says which files it contains, and which
# directories can have some of them, so that others (a virtual environment) are not walked.
{ lib }:
let
  inherit (builtins)
    any
    attrNames
    isPath
    pathExists
    readDir
    readFileType
    ;

  isAtOrBelow = path: directory: path == directory || lib.hasPrefix "${directory}/" path;

  # A path is the set of everything at or below it.
  coerce =
    value:
    if isPath value then
      if pathExists value then
        {
          contains = path: isAtOrBelow path (toString value);
          touches =
            path: isAtOrBelow path (toString value) || isAtOrBelow (toString value) path;
        }
      else
        throw "lib.fileset: ${toString value} is not there: use maybeMissing where that is meant"
    else if value ? contains then
      value
    else
      throw "lib.fileset: a path or a file set is wanted";

  # Every file below a directory, as strings.
  filesBelow =
    path:
    let
      entries = readDir (/. + path);
    in
    lib.concatMap (
      name:
      let
        below = "${path}/${name}";
      in
      if entries.${name} == "directory" then filesBelow below else [ below ]
    ) (attrNames entries);
in
rec {
  unions = values: {
    contains = path: any (value: (coerce value).contains path) values;
    touches = path: any (value: (coerce value).touches path) values;
  };

  union = a: b: unions [ a b ];

  difference = a: b: {
    contains = path: (coerce a).contains path && !(coerce b).contains path;
    inherit (coerce a) touches;
  };

  intersection = a: b: {
    contains = path: (coerce a).contains path && (coerce b).contains path;
    touches = path: (coerce a).touches path && (coerce b).touches path;
  };

  maybeMissing =
    path:
    if pathExists path then
      path
    else
      {
        contains = _: false;
        touches = _: false;
      };

  fileFilter = predicate: directory: {
    contains =
      path:
      (coerce directory).contains path
      && predicate rec {
        name = baseNameOf path;
        type = readFileType (/. + path);
        hasExt = extension: lib.hasSuffix ".${extension}" name;
      };
    inherit (coerce directory) touches;
  };

  # Directories without a file of the set are left out, as in nixpkgs.
  toSource =
    { root, fileset }:
    let
      set = coerce fileset;
      wanted =
        path: type:
        if type == "directory" then
          set.touches path && any set.contains (filesBelow path)
        else
          set.contains path;
    in
    {
      origSrc = root;
      outPath = builtins.path {
        name = "source";
        path = root;
        filter = wanted;
      };
    };
}
