# Properties of definitions (mkIf, mkForce, …) and how the definitions of one option are merged.
{ lib }:
let
  inherit (builtins)
    concatMap
    filter
    foldl'
    isAttrs
    isBool
    mapAttrs
    ;
  isType = type: x: isAttrs x && x._type or "" == type;
in
rec {
  inherit isType;
  setType = type: x: x // { _type = type; };
  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };
  mkAssert =
    condition: message: content:
    mkIf (if condition then true else throw "\nFailed assertion: ${message}") content;
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };
  mkOptionDefault = mkOverride 1500;
  mkDefault = mkOverride 1000;
  mkImageMediaOverride = mkOverride 60;
  mkForce = mkOverride 50;
  mkVMOverride = mkOverride 10;
  defaultOverridePriority = 100;
  mkOrder = priority: content: {
    _type = "order";
    inherit priority content;
  };
  mkBefore = mkOrder 500;
  mkAfter = mkOrder 1500;
  defaultOrderPriority = 1000;
  mkDefinition = attributes: attributes // { _type = "definition"; };

  # One definition of a set -> its plain sets, with conditions and priorities moved onto the leaves.
  pushDownProperties =
    value:
    if isType "merge" value then
      concatMap pushDownProperties value.contents
    else if isType "if" value then
      map (mapAttrs (_: mkIf value.condition)) (pushDownProperties value.content)
    else if isType "override" value then
      map (mapAttrs (_: mkOverride value.priority)) (pushDownProperties value.content)
    else
      [ value ];
  # One definition of an option -> the values that hold.
  dischargeProperties =
    value:
    if isType "merge" value then
      concatMap dischargeProperties value.contents
    else if isType "if" value then
      if !(isBool value.condition) then
        throw "'mkIf' called with a non-Boolean condition"
      else if value.condition then
        dischargeProperties value.content
      else
        [ ]
    else
      [ value ];
  filterOverrides = defs: (filterOverrides' defs).values;
  filterOverrides' =
    defs:
    let
      priority = def: if isType "override" def.value then def.value.priority else defaultOverridePriority;
      highestPrio = foldl' (least: def: lib.min (priority def) least) 9999 defs;
    in
    {
      inherit highestPrio;
      values = map (
        def: if isType "override" def.value then def // { value = def.value.content; } else def
      ) (filter (def: priority def == highestPrio) defs);
    };
  sortProperties =
    defs:
    let
      strip =
        def:
        if isType "order" def.value then
          def
          // {
            value = def.value.content;
            inherit (def.value) priority;
          }
        else
          def;
      stripped = map strip defs;
    in
    if builtins.any (def: isType "order" def.value) defs then
      builtins.sort (
        a: b: (a.priority or defaultOrderPriority) < (b.priority or defaultOrderPriority)
      ) stripped
    else
      defs;

  # All definitions of an option -> its value.
  mergeDefinitions =
    loc: type: defs:
    let
      discharged = concatMap (
        def: map (value: { inherit (def) file; inherit value; }) (dischargeProperties def.value)
      ) defs;
      overridden = filterOverrides' discharged;
      values = sortProperties overridden.values;
      wrong = filter (def: !(type.check def.value)) values;
      isDefined = values != [ ];
      merged =
        if wrong != [ ] then
          throw "A definition for option `${lib.showOption loc}' is not of type `${type.description}'. Definition values:${lib.showDefs wrong}"
        else
          type.merge loc values;
    in
    {
      inherit isDefined;
      inherit (overridden) highestPrio;
      defsFinal = values;
      optionalValue = lib.optionalAttrs isDefined { value = merged; };
      mergedValue =
        if isDefined then
          merged
        else
          type.emptyValue.value
            or (throw "The option `${lib.showOption loc}' was accessed but has no value defined. Try setting the option.");
    };
}
