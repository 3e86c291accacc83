# Attribute sets.
{ lib }:
let
  inherit (builtins)
    attrNames
    concatMap
    elem
    filter
    foldl'
    head
    isAttrs
    isList
    listToAttrs
    mapAttrs
    removeAttrs
    tail
    ;
in
rec {
  inherit (builtins)
    attrNames
    attrValues
    catAttrs
    hasAttr
    intersectAttrs
    isAttrs
    listToAttrs
    mapAttrs
    removeAttrs
    zipAttrsWith
    ;

  nameValuePair = name: value: { inherit name value; };
  optionalAttrs = condition: set: if condition then set else { };
  genAttrs = names: f: genAttrs' names (name: nameValuePair name (f name));
  genAttrs' = xs: f: listToAttrs (map f xs);
  mapAttrs' = f: set: listToAttrs (mapAttrsToList f set);
  mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
  attrsToList = mapAttrsToList nameValuePair;
  attrVals = names: set: map (name: set.${name}) names;
  getAttrs = names: set: genAttrs names (name: set.${name});
  filterAttrs = test: set: removeAttrs set (filter (name: !(test name set.${name})) (attrNames set));
  concatMapAttrs = f: set: mergeAttrsList (mapAttrsToList f set);
  mergeAttrsList = foldl' (a: b: a // b) { };
  foldlAttrs =
    f: start: set:
    foldl' (acc: name: f acc name set.${name}) start (attrNames set);
  isDerivation = x: isAttrs x && x.type or null == "derivation";
  recurseIntoAttrs = set: set // { recurseForDerivations = true; };

  attrByPath =
    path: default: set:
    if path == [ ] then
      set
    else if isAttrs set && set ? ${head path} then
      attrByPath (tail path) default set.${head path}
    else
      default;
  hasAttrByPath =
    path: set:
    path == [ ] || (isAttrs set && set ? ${head path} && hasAttrByPath (tail path) set.${head path});
  setAttrByPath =
    path: value: if path == [ ] then value else { ${head path} = setAttrByPath (tail path) value; };
  getAttrFromPath =
    path: set:
    attrByPath path (throw "cannot find attribute '${builtins.concatStringsSep "." path}'") set;

  recursiveUpdateUntil =
    stop: a: b:
    let
      go =
        path: l: r:
        l
        // mapAttrs (
          name: value:
          if l ? ${name} && !(stop (path ++ [ name ]) l.${name} value) then
            go (path ++ [ name ]) l.${name} value
          else
            value
        ) r;
    in
    go [ ] a b;
  recursiveUpdate = recursiveUpdateUntil (
    _: l: r:
    !(isAttrs l && isAttrs r)
  );
  mapAttrsRecursive = mapAttrsRecursiveCond (_: true);
  mapAttrsRecursiveCond =
    descend: f: set:
    let
      go =
        path:
        mapAttrs (
          name: value:
          if isAttrs value && descend value then
            go (path ++ [ name ]) value
          else
            f (path ++ [ name ]) value
        );
    in
    go [ ] set;
  collect =
    test: x:
    if test x then
      [ x ]
    else if isAttrs x then
      concatMap (collect test) (builtins.attrValues x)
    else
      [ ];
  filterAttrsRecursive =
    test: set:
    mapAttrs (_: value: if isAttrs value then filterAttrsRecursive test value else value) (
      filterAttrs test set
    );
  zipAttrs = builtins.zipAttrsWith (_: values: values);
  foldAttrs =
    op: nul: sets:
    mapAttrs (_: foldl' (acc: v: op v acc) nul) (zipAttrs (lib.reverseList sets));
  cartesianProduct =
    sets:
    foldl' (
      acc: name: concatMap (set: map (value: set // { ${name} = value; }) sets.${name}) acc
    ) [ { } ] (attrNames sets);
  matchAttrs =
    pattern: set:
    builtins.all (
      name:
      set ? ${name}
      && (
        if isAttrs pattern.${name} then
          isAttrs set.${name} && matchAttrs pattern.${name} set.${name}
        else
          pattern.${name} == set.${name}
      )
    ) (attrNames pattern);

  getOutput =
    output: package:
    if !(package ? outputSpecified) || !package.outputSpecified then
      package.${output} or package.out or package
    else
      package;
  getBin = getOutput "bin";
  getLib = getOutput "lib";
  getDev = getOutput "dev";
  chooseDevOutputs = map getDev;
  showAttrPath =
    path:
    if path == [ ] then
      "<root attribute path>"
    else
      builtins.concatStringsSep "." (map lib.strings.escapeNixIdentifier path);
  unionOfDisjoint =
    a: b:
    let
      twice = filter (name: elem name (attrNames b)) (attrNames a);
    in
    a // b // mapAttrs (name: _: throw "unionOfDisjoint: `${name}' is in both") (getAttrs twice a);
  isAttrsOrList = x: isAttrs x || isList x;
}
