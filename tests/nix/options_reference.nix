# The options below `services.aistack` of an evaluated host, as JSON-like records. Internal ones are
# left out, and an option of submodules is followed by theirs.
{ lib, options }:
let
  isOption = value: lib.isAttrs value && value._type or null == "option";

  # What a value looks like in a configuration; text that is meant as Markdown stays apart.
  shown =
    value:
    if value ? _type && value ? text then
      {
        markdown = value._type == "literalMD";
        inherit (value) text;
      }
    else
      {
        markdown = false;
        text = written "" value;
      };

  quoted =
    text:
    ''"${lib.replaceStrings [ "\\" "\"" "\${" "\n" ] [ "\\\\" "\\\"" "\\\${" "\\n" ] text}"'';
  name = key: if builtins.match "[a-zA-Z_][a-zA-Z0-9_'-]*" key != null then key else quoted key;

  # A set with one member is written `a.b = 1`, as one writes it.
  path =
    key: value:
    if lib.isAttrs value && lib.length (lib.attrNames value) == 1 && !(lib.isDerivation value) then
      let
        inner = lib.head (lib.attrNames value);
      in
      path "${key}.${name inner}" value.${inner}
    else
      {
        inherit key value;
      };

  written =
    indent: value:
    let
      deeper = "${indent}  ";
      lines = open: close: items: "${open}\n${lib.concatMapStrings (item: "${deeper}${item}\n") items}${indent}${close}";
    in
    if value == null then
      "null"
    else if lib.isBool value then
      if value then "true" else "false"
    else if lib.isString value then
      quoted value
    else if lib.isInt value then
      toString value
    else if builtins.isFloat value then
      builtins.toJSON value
    else if lib.isDerivation value then
      throw "a package as a default needs defaultText"
    else if lib.isList value then
      if value == [ ] then
        "[ ]"
      else if lib.length value == 1 then
        "[ ${written indent (lib.head value)} ]"
      else
        lines "[" "]" (map (written deeper) value)
    else if lib.isAttrs value then
      if value == { } then
        "{ }"
      else
        lines "{" "}" (
          lib.mapAttrsToList (
            key: inner:
            let
              entry = path (name key) inner;
            in
            "${entry.key} = ${written deeper entry.value};"
          ) value
        )
    else
      throw "a default of type ${builtins.typeOf value} needs defaultText";

  # Put together here, because the wording of composed types differs between releases of `lib`. A
  # type that was given a description of its own (JSON's value) keeps it.
  typed =
    type:
    let
      inner = type.nestedTypes.elemType;
      values = type.functor.payload.values or type.values;
      named = {
        nullOr = if lib.hasPrefix "null or " type.description then "null or ${typed inner}" else null;
        listOf = "list of ${typed inner}";
        attrsOf = "attribute set of ${typed inner}";
        either =
          if lib.hasInfix " or " type.description then
            "${typed type.nestedTypes.left} or ${typed type.nestedTypes.right}"
          else
            null;
        enum = "one of ${lib.concatMapStringsSep ", " (written "") values}";
        submodule = "submodule";
      };
      own = named.${type.name} or null;
    in
    if own == null then type.description else own;

  record = option: {
    name = lib.concatStringsSep "." option.loc;
    path = option.loc;
    type = typed option.type;
    description = option.description or null;
    readOnly = option.readOnly or false;
    default =
      if option ? defaultText then
        shown option.defaultText
      else if option ? default then
        shown option.default
      else
        null;
    example = if option ? example then shown option.example else null;
  };

  inside =
    option:
    walk (removeAttrs (option.type.getSubOptions option.loc) [ "_module" "_freeformOptions" ]);

  walk =
    tree:
    lib.concatLists (
      lib.mapAttrsToList (
        _: node:
        if !isOption node then
          lib.optionals (lib.isAttrs node) (walk node)
        else if node.internal or false || !(node.visible or true) then
          [ ]
        else
          [ (record node) ] ++ inside node
      ) tree
    );
in
walk options.services.aistack
