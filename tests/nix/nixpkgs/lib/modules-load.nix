# Whatever stands for a module -> plain records, with all that they import.
{ lib }:
let
  inherit (builtins)
    attrNames
    concatMap
    elem
    filter
    functionArgs
    genericClosure
    head
    isAttrs
    isFunction
    isPath
    isString
    mapAttrs
    removeAttrs
    ;
  inherit (lib) isType optionalAttrs;

  # Attributes that a module in long form may have.
  longForm = [
    "_class"
    "_file"
    "config"
    "disabledModules"
    "freeformType"
    "imports"
    "key"
    "meta"
    "options"
    "require"
  ];

  # Whatever stands for a module -> a set; functions get the arguments that they name.
  load =
    args: file: key: m:
    if isPath m || isString m then
      unify (toString m) (toString m) (apply args (toString m) (import m))
    else if isType "merge" m || isType "if" m then
      unify file key { config = m; }
    else
      unify file key (apply args file m);
  apply =
    args: file: m:
    if isFunction m || m ? __functor then
      let
        wanted = if m ? __functor then m.__functionArgs or { } else functionArgs m;
        extra = mapAttrs (
          name: _: args.${name} or args.config._module.args.${name}
        ) wanted;
      in
      apply args file (m (args // extra))
    else
      m;
  unify =
    file: key: m:
    if !(isAttrs m) then
      throw "Module `${file}' is not a set or a function."
    else if isType "merge" m || isType "if" m then
      unify file key { config = m; }
    else if m ? config || m ? options then
      let
        wrong = filter (name: !(elem name longForm)) (attrNames m);
      in
      if wrong != [ ] then
        throw "Module `${key}' has an unsupported attribute `${head wrong}'. This is caused by introducing a top-level `config' or `options' attribute. Add configuration attributes immediately on the top level instead, or move all of them (namely: ${toString wrong}) into the explicit `config' attribute."
      else
        {
          _file = toString m._file or file;
          key = toString m.key or key;
          disabledModules = m.disabledModules or [ ];
          imports = m.imports or [ ];
          options = m.options or { };
          config = if m ? freeformType then lib.mkMerge [ (m.config or { }) { _module.freeformType = m.freeformType; } ] else m.config or { };
        }
    else
      {
        _file = toString m._file or file;
        key = toString m.key or key;
        disabledModules = m.disabledModules or [ ];
        imports = m.require or [ ] ++ m.imports or [ ];
        options = { };
        config =
          removeAttrs m [ "_class" "_file" "disabledModules" "freeformType" "imports" "key" "require" ]
          // optionalAttrs (m ? freeformType) { _module.freeformType = m.freeformType; };
      };

  # The modules and all that they import, breadth first, each key once, in nixpkgs' order.
  collect =
    args: modulesPath: initial:
    let
      node =
        parentFile: parentKey: n: m:
        let
          module = load args parentFile "${parentKey}:anon-${toString n}" m;
          imported = lib.imap1 (node module._file module.key) module.imports;
        in
        {
          inherit (module) key;
          inherit module imported;
          disabled =
            map (d: if isString d && !(lib.hasPrefix "/" d) then "${toString modulesPath}/${d}" else toString (d.key or d)) module.disabledModules
            ++ concatMap (i: i.disabled) imported;
        };
      start = lib.imap1 (node "<unknown-file>" "") initial;
      disabled = concatMap (n: n.disabled) start;
      enabled = filter (n: !(elem n.key disabled));
    in
    map (n: n.module) (genericClosure {
      startSet = enabled start;
      operator = n: enabled n.imported;
    });
in
{
  inherit collect;
}
