# Option types that are modules.
{ lib, mkOptionType }:
let
  inherit (builtins) isAttrs isFunction;
  inherit (lib) optionalAttrs showOption;
in
rec {
  submodule =
    module:
    submoduleWith {
      shorthandOnlyDefinesConfig = true;
      modules = lib.toList module;
    };
  submoduleWith =
    given@{
      modules,
      specialArgs ? { },
      shorthandOnlyDefinesConfig ? false,
      description ? null,
      class ? null,
    }:
    let
      base = lib.evalModules { inherit modules specialArgs class; };
      freeform = base._module.freeformType or null;
    in
    mkOptionType {
      name = "submodule";
      description =
        if description != null then
          description
        else if freeform != null then
          "open submodule of ${freeform.description}"
        else
          "submodule";
      check = x: isAttrs x || isFunction x || builtins.isPath x;
      emptyValue.value = { };
      getSubModules = modules;
      inherit modules;
      getSubOptions =
        prefix:
        (lib.evalModules {
          inherit specialArgs class prefix;
          modules = [ { _module.args.name = lib.mkOptionDefault "‹name›"; } ] ++ modules;
        }).options
        // optionalAttrs (freeform != null) {
          _freeformOptions = freeform.getSubOptions prefix;
        };
      typeMerge = other: submoduleWith (given // { modules = modules ++ other.modules; });
      merge =
        loc: defs:
        (lib.evalModules {
          inherit specialArgs class;
          prefix = loc;
          modules =
            modules
            ++ [ { _module.args.name = lib.last loc; } ]
            ++ map (
              def:
              if isAttrs def.value && shorthandOnlyDefinesConfig then
                {
                  _file = def.file;
                  config = def.value;
                }
              else
                lib.modules.setDefaultModuleLocation def.file def.value
            ) defs;
        }).config;
    };
  deferredModule = mkOptionType {
    name = "deferredModule";
    description = "module";
    check = x: isAttrs x || isFunction x || builtins.isPath x;
    merge = loc: defs: {
      imports = map (
        def:
        lib.modules.setDefaultModuleLocation "${def.file}, via option ${showOption loc}" def.value
      ) defs;
    };
  };
}
