# The module system: collects modules, matches definitions with declarations, merges.
{ lib }:
let
  inherit (builtins)
    attrNames
    concatMap
    filter
    foldl'
    head
    isAttrs
    length
    mapAttrs
    removeAttrs
    ;
  inherit (lib)
    isOption
    mergeDefinitions
    optional
    optionalAttrs
    pushDownProperties
    showDefs
    showOption
    ;
  types = lib.types;

  inherit (import ./modules-load.nix { inherit lib; }) collect;

  # What every evaluation declares of itself.
  internals =
    { config, ... }:
    {
      _file = "lib/modules.nix";
      key = "lib/modules.nix";
      options._module = {
        args = lib.mkOption {
          type = types.lazyAttrsOf types.raw;
          internal = true;
          description = "Additional arguments passed to each module.";
        };
        check = lib.mkOption {
          type = types.bool;
          internal = true;
          default = true;
          description = "Whether to refuse definitions without a declaration.";
        };
        freeformType = lib.mkOption {
          type = types.nullOr types.optionType;
          internal = true;
          default = null;
          description = "The type of definitions without a declaration.";
        };
        specialArgs = lib.mkOption {
          internal = true;
          readOnly = true;
          description = "Arguments that do not depend on the configuration.";
        };
      };
    };

  # One level of the tree: declarations and definitions below `loc`.
  level =
    loc: decls: defs:
    let
      declared = builtins.zipAttrsWith (_: trees: trees) (
        map (d: mapAttrs (_: tree: { inherit (d) file; inherit tree; }) d.tree) decls
      );
      defined = builtins.zipAttrsWith (_: values: values) (
        map (
          d:
          if isAttrs d.value then
            mapAttrs (_: value: { inherit (d) file; inherit value; }) d.value
          else
            throw "The option `${showOption loc}' is a prefix of options, so it cannot have a value that is no set; it is defined in `${d.file}'."
        ) defs
      );
      one =
        name: trees:
        let
          here = loc ++ [ name ];
          given = defined.${name} or [ ];
          leaves = filter (t: isOption t.tree) trees;
          groups = filter (t: !(isOption t.tree)) trees;
        in
        if leaves != [ ] && groups == [ ] then
          leaf here leaves given
        else if leaves != [ ] then
          let
            # An option of submodules may be extended by plain declarations beside it.
            extended = map (
              t: t // { tree = lib.mkOption { type = types.submodule { options = t.tree; }; }; }
            ) groups;
          in
          leaf here (leaves ++ extended) given
        else
          level here trees (
            concatMap (d: map (value: { inherit (d) file; inherit value; }) (pushDownProperties d.value)) given
          );
      results = mapAttrs one declared;
      stray = removeAttrs defined (attrNames declared);
    in
    {
      config = mapAttrs (_: r: r.config) results;
      options = mapAttrs (_: r: r.options) results;
      unmatched =
        concatMap (name: map (d: d // { path = loc ++ [ name ]; }) stray.${name}) (attrNames stray)
        ++ concatMap (name: results.${name}.unmatched) (attrNames results);
    };

  # One option: its declarations merged, its value from the definitions and the default.
  leaf =
    loc: decls: defs:
    let
      merged = foldl' (
        acc: d:
        if
          acc ? default && d.tree ? default
          || acc ? apply && d.tree ? apply
          || acc ? type && d.tree ? type && mergeTypes acc.type d.tree.type == null
        then
          throw "The option `${showOption loc}' in `${d.file}' is already declared in ${lib.showFiles (lib.getFiles decls)}."
        else
          acc
          // d.tree
          // optionalAttrs (acc ? type && d.tree ? type) { type = mergeTypes acc.type d.tree.type; }
      ) { } decls;
      type = merged.type or types.unspecified;
      all =
        optional (merged ? default) {
          inherit (head decls) file;
          value = lib.mkOptionDefault merged.default;
        }
        ++ defs;
      result = mergeDefinitions loc type all;
      readOnly =
        merged.readOnly or false && length (filter (d: true) all) > 1;
      value =
        if readOnly then
          throw "The option `${showOption loc}' is read-only, but it's set multiple times. Definition values:${showDefs all}"
        else
          (merged.apply or lib.id) result.mergedValue;
    in
    {
      config = value;
      unmatched = [ ];
      options = merged // {
        _type = "option";
        inherit loc type value;
        inherit (result) isDefined highestPrio;
        declarations = map (d: d.file) decls;
        definitions = lib.getValues result.defsFinal;
        definitionsWithLocations = result.defsFinal;
        files = lib.getFiles result.defsFinal;
        __toString = _: showOption loc;
      };
    };
  mergeTypes =
    a: b:
    if a.name == b.name && a ? typeMerge then a.typeMerge b else null;
in
rec {
  inherit mergeTypes;
  evalModules =
    given@{
      modules,
      prefix ? [ ],
      specialArgs ? { },
      class ? null,
    }:
    let
      args = {
        inherit
          lib
          config
          options
          specialArgs
          extendModules
          ;
        _class = class;
        _prefix = prefix;
      }
      // specialArgs;
      collected = lib.reverseList (
        collect args (specialArgs.modulesPath or "") (modules ++ [ internals { config._module.specialArgs = specialArgs; } ])
      );
      decls = map (m: {
        file = m._file;
        tree = m.options;
      }) collected;
      defs = concatMap (
        m:
        map (value: {
          file = m._file;
          inherit value;
        }) (pushDownProperties m.config)
      ) collected;
      extendModules =
        {
          modules ? [ ],
          specialArgs ? { },
          prefix ? given.prefix or [ ],
        }:
        evalModules (
          given
          // {
            inherit prefix;
            modules = given.modules ++ modules;
            specialArgs = given.specialArgs or { } // specialArgs;
          }
        );
      result = level prefix decls defs;
      declared = result.config;
      freeform = declared._module.freeformType;
      inherit (result) unmatched;
      free = freeform.merge prefix (
        map (d: {
          inherit (d) file;
          value = lib.setAttrByPath (lib.drop (length prefix) d.path) d.value;
        }) unmatched
      );
      config =
        if freeform != null && unmatched != [ ] then lib.recursiveUpdate free declared else declared;
      options = result.options;
      stray = head unmatched;
      check =
        x:
        if declared._module.check && freeform == null && unmatched != [ ] then
          throw "The option `${showOption stray.path}' does not exist. Definition values:${showDefs [ stray ]}"
        else
          x;
    in
    {
      _type = "configuration";
      inherit class;
      options = check options;
      config = check (removeAttrs config [ "_module" ]);
      _module = check config._module;
      inherit extendModules;
      type = types.submoduleWith { inherit modules specialArgs class; };
    };
  setDefaultModuleLocation = file: m: {
    _file = file;
    imports = [ m ];
  };
}
