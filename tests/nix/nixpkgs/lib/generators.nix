# Values as text in common formats.
{ lib }:
let
  inherit (builtins)
    isAttrs
    isBool
    isFloat
    isFunction
    isInt
    isList
    isString
    typeOf
    ;
  inherit (lib)
    boolToString
    concatMapStrings
    concatStringsSep
    escape
    mapAttrsToList
    ;
in
rec {
  mkValueStringDefault =
    _: value:
    if isBool value then
      boolToString value
    else if value == null then
      "null"
    else if isString value || isInt value || lib.isDerivation value then
      toString value
    else if isFloat value then
      lib.strings.floatToString value
    else
      throw "generators.mkValueStringDefault: ${typeOf value} not supported: ${toPretty { } value}";
  mkKeyValueDefault =
    {
      mkValueString ? mkValueStringDefault { },
    }:
    separator: key: value:
    "${escape [ separator ] key}${separator}${mkValueString value}";
  toKeyValue =
    {
      mkKeyValue ? mkKeyValueDefault { } "=",
      listsAsDuplicateKeys ? false,
      indent ? "",
    }:
    set:
    concatMapStrings (line: "${indent}${line}\n") (
      lib.concatLists (
        mapAttrsToList (
          key: value:
          if listsAsDuplicateKeys && isList value then map (mkKeyValue key) value else [ (mkKeyValue key value) ]
        ) set
      )
    );
  toINI =
    {
      mkSectionName ? name: escape [ "[" "]" ] name,
      mkKeyValue ? mkKeyValueDefault { } "=",
      listsAsDuplicateKeys ? false,
    }:
    sections:
    concatStringsSep "\n" (
      mapAttrsToList (
        name: values: "[${mkSectionName name}]\n" + toKeyValue { inherit mkKeyValue listsAsDuplicateKeys; } values
      ) sections
    );
  toINIWithGlobalSection =
    options:
    {
      globalSection,
      sections ? { },
    }:
    (
      if globalSection == { } then
        ""
      else
        toKeyValue (removeAttrs options [ "mkSectionName" ]) globalSection + "\n"
    )
    + toINI options sections;
  toJSON = _: builtins.toJSON;
  toYAML = toJSON;
  toPretty =
    {
      multiline ? true,
      allowPrettyValues ? false,
      indent ? "",
    }:
    let
      go =
        indent: value:
        let
          space = if multiline then "\n${indent}  " else " ";
          close = if multiline then "\n${indent}" else " ";
        in
        if isInt value then
          toString value
        else if isFloat value then
          builtins.toJSON value
        else if isBool value then
          boolToString value
        else if value == null then
          "null"
        else if isString value then
          lib.strings.escapeNixString value
        else if builtins.isPath value then
          toString value
        else if isFunction value then
          "<function>"
        else if isList value then
          if value == [ ] then
            "[ ]"
          else
            "[${space}${concatStringsSep space (map (go (indent + "  ")) value)}${close}]"
        else if isAttrs value then
          if value == { } then
            "{ }"
          else if lib.isDerivation value then
            "<derivation ${value.name or "???"}>"
          else
            "{${space}${
              concatStringsSep space (
                mapAttrsToList (
                  name: inner: "${lib.strings.escapeNixIdentifier name} = ${go (indent + "  ") inner};"
                ) value
              )
            }${close}}"
        else
          abort "generators.toPretty: should never happen";
    in
    go indent;
}
