# `pkgs.formats`: the types and texts of configuration formats. YAML is written as JSON, which it
# contains; nixpkgs converts it in a build.
{ lib, pkgs }:
let
  inherit (lib) types;
  atom =
    with types;
    oneOf [
      bool
      int
      float
      str
    ];
  jsonValue =
    name:
    let
      value =
        with types;
        nullOr (oneOf [
          bool
          int
          float
          str
          path
          (attrsOf value)
          (listOf value)
        ])
        // {
          description = "${name} value";
        };
    in
    value;
in
{
  json = _: {
    type = jsonValue "JSON";
    generate = name: value: pkgs.writeText name (builtins.toJSON value);
  };
  yaml = _: {
    type = jsonValue "YAML 1.1";
    generate = name: value: pkgs.writeText name (builtins.toJSON value);
  };
  yaml_1_1 = _: {
    type = jsonValue "YAML 1.1";
    generate = name: value: pkgs.writeText name (builtins.toJSON value);
  };
  ini =
    {
      listsAsDuplicateKeys ? false,
      listToValue ? null,
      ...
    }@options:
    {
      type =
        with types;
        attrsOf (
          attrsOf (
            if listsAsDuplicateKeys then
              either (nullOr atom) (listOf (nullOr atom))
            else if listToValue != null then
              coercedTo (nonEmptyListOf (nullOr atom)) listToValue (nullOr atom)
            else
              nullOr atom
          )
        );
      generate =
        name: value:
        pkgs.writeText name (lib.generators.toINI (removeAttrs options [ "listToValue" ]) value);
    };
  keyValue = options: {
    type = types.attrsOf (types.nullOr (types.either atom (types.listOf atom)));
    generate = name: value: pkgs.writeText name (lib.generators.toKeyValue options value);
  };
}
