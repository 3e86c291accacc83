# Modules that keep an old option's name alive, or say what replaced it.
{ lib }:
let
  inherit (lib)
    attrByPath
    getAttrFromPath
    mkIf
    mkMerge
    mkOption
    optionalAttrs
    setAttrByPath
    showOption
    ;
  rename =
    {
      from,
      to,
      visible,
      warn,
      use,
      withPriority ? true,
      condition ? true,
    }:
    { config, options, ... }:
    let
      source = getAttrFromPath from options;
      # Below a freeform option there is no declaration.
      target = attrByPath to { } options;
      move =
        if withPriority then
          lib.modules.mkAliasAndWrapDefinitions (setAttrByPath to) source
        else
          lib.modules.mkAliasAndWrapDefsWithPriority (setAttrByPath to) source;
    in
    {
      options = setAttrByPath from (
        mkOption {
          inherit visible;
          description = "Alias of {option}`${showOption to}`.";
          apply =
            _:
            use (attrByPath to (abort "Renaming error: option `${showOption to}' does not exist.") config);
        }
        // optionalAttrs (target ? type) { inherit (target) type; }
      );
      config = mkIf condition (mkMerge [
        (optionalAttrs (options ? warnings) {
          warnings = lib.optional (
            warn && source.isDefined
          ) "The option `${showOption from}' defined in ${lib.showFiles source.files} has been renamed to `${showOption to}'.";
        })
        move
      ]);
    };
in
rec {
  # A value made from another option's, with the priority of that one.
  mkDerivedConfig = option: f: lib.mkOverride (option.highestPrio or 100) (f option.value);
  mkAliasDefinitions = mkAliasAndWrapDefinitions lib.id;
  mkAliasAndWrapDefinitions = wrap: option: mkIf option.isDefined (wrap (mkMerge option.definitions));
  mkAliasAndWrapDefsWithPriority =
    wrap: option:
    mkIf option.isDefined (
      wrap (mkMerge (map (lib.mkOverride option.highestPrio) option.definitions))
    );

  mkRenamedOptionModule =
    from: to:
    rename {
      inherit from to;
      visible = false;
      warn = true;
      use = lib.id;
      withPriority = false;
    };
  mkAliasOptionModule =
    from: to:
    rename {
      inherit from to;
      visible = true;
      warn = false;
      use = lib.id;
      withPriority = false;
    };
  mkRemovedOptionModule =
    from: advice:
    { options, ... }:
    {
      options = setAttrByPath from (mkOption {
        visible = false;
        apply =
          _:
          throw "The option `${showOption from}' can no longer be used since it's been removed. ${advice}";
      });
      config.assertions =
        let
          removed = getAttrFromPath from options;
        in
        [
          {
            assertion = !removed.isDefined;
            message = ''
              The option definition `${showOption from}' in ${lib.showFiles removed.files} no longer has any effect; please remove it.
              ${advice}
            '';
          }
        ];
    };
}
