# Declaring options, and reading a tree of them.
{ lib }:
let
  inherit (builtins)
    concatMap
    concatStringsSep
    head
    isAttrs
    isFunction
    isList
    length
    match
    tail
    tryEval
    ;
  inherit (lib) isDerivation showOption showFiles;
  isType = type: x: x._type or "" == type;
in
rec {
  isOption = x: isAttrs x && isType "option" x;
  mkOption = attributes: attributes // { _type = "option"; };
  mkEnableOption =
    name:
    mkOption {
      default = false;
      example = true;
      description = "Whether to enable ${name}.";
      type = lib.types.bool;
    };
  mkPackageOption =
    pkgs: name:
    {
      nullable ? false,
      default ? name,
      example ? null,
      extraDescription ? "",
      pkgsText ? "pkgs",
    }:
    let
      path = lib.toList default;
      text = lib.showAttrPath path;
    in
    mkOption (
      {
        description =
          "The ${concatStringsSep "." (lib.toList name)} package to use."
          + lib.optionalString (extraDescription != "") " ${extraDescription}";
        type = (if nullable then lib.types.nullOr else lib.id) lib.types.package;
      }
      // lib.optionalAttrs (default != null) {
        default = lib.attrByPath path (throw "${text} cannot be found in ${pkgsText}") pkgs;
        defaultText = literalExpression "${pkgsText}.${text}";
      }
      // lib.optionalAttrs (example != null) {
        example = literalExpression (
          if isList example then "${pkgsText}.${lib.showAttrPath example}" else example
        );
      }
    );
  mkSinkUndeclaredOptions =
    attributes:
    mkOption (
      {
        internal = true;
        visible = false;
        default = false;
        description = "Sink for option definitions.";
        type = lib.mkOptionType {
          name = "sink";
          check = _: true;
          merge = _: _: false;
        };
        apply = _: throw "Option value is not readable because the option is not declared.";
      }
      // attributes
    );

  literalExpression = text: {
    _type = "literalExpression";
    inherit text;
  };
  literalMD = text: {
    _type = "literalMD";
    inherit text;
  };
  mdDoc = text: text;
  literalCode =
    language: text:
    literalMD ''
      ```${language}
      ${text}
      ```'';

  getValues = map (x: x.value);
  getFiles = map (x: x.file);

  mergeDefaultOption =
    loc: defs:
    let
      values = getValues defs;
      each = test: builtins.all test values;
    in
    if length values == 1 then
      head values
    else if each isFunction then
      x: mergeDefaultOption loc (map (f: f x) values)
    else if each isList then
      builtins.concatLists values
    else if each isAttrs then
      lib.mergeAttrsList values
    else if each builtins.isBool then
      builtins.any lib.id values
    else if each builtins.isString then
      lib.concatStrings values
    else
      throw "Cannot merge definitions of `${showOption loc}'. Definition values:${showDefs defs}";
  mergeOneOption = mergeUniqueOption { message = ""; };
  mergeUniqueOption =
    {
      message,
      merge ? loc: defs: (head defs).value,
    }:
    loc: defs:
    if length defs == 1 then
      merge loc defs
    else
      throw "The option `${showOption loc}' is defined multiple times while it's expected to be unique.\n${message}\nDefinition values:${showDefs defs}";
  mergeEqualOption =
    loc: defs:
    if builtins.all (def: def.value == (head defs).value) (tail defs) then
      (head defs).value
    else
      throw "The option `${showOption loc}' has conflicting definition values:${showDefs defs}\nUse `lib.mkForce value` or `lib.mkDefault value` to change the priority on any of these definitions.";

  showOption =
    parts:
    concatStringsSep "." (
      map (
        part:
        if match "[a-zA-Z_*<][a-zA-Z0-9_'*> -]*" part != null then
          part
        else
          lib.strings.escapeNixIdentifier part
      ) parts
    );
  showFiles = files: lib.concatMapStringsSep " and " (f: "`${f}'") files;
  showDefs = lib.concatMapStrings (
    def:
    let
      shown = tryEval (builtins.deepSeq (printable def.value) (builtins.toJSON (printable def.value)));
    in
    "\n- In `${def.file}'${if shown.success then ": ${shown.value}" else ""}"
  );
  # What may be printed of a value: functions and packages are named only.
  printable =
    value:
    if isFunction value then
      "<function>"
    else if isDerivation value then
      "<derivation ${value.name or "?"}>"
    else if isAttrs value then
      lib.mapAttrs (_: printable) value
    else if isList value then
      map printable value
    else if builtins.isPath value then
      toString value
    else
      value;

  # The documentation's view of a tree: one record per option, submodules included.
  optionAttrSetToDocList = optionAttrSetToDocList' [ ];
  optionAttrSetToDocList' =
    _: options:
    concatMap (
      opt:
      let
        text = x: if x ? _type && x ? text then x else literalExpression (toText x);
        record = {
          inherit (opt) loc;
          name = showOption opt.loc;
          description = opt.description or null;
          declarations = builtins.filter (x: x != "<unknown-file>") opt.declarations;
          internal = opt.internal or false;
          visible = if opt.visible or true == "shallow" then true else opt.visible or true;
          readOnly = opt.readOnly or false;
          type = opt.type.description or "unspecified";
        }
        // lib.optionalAttrs (opt ? example) { example = text opt.example; }
        // lib.optionalAttrs (opt ? defaultText || opt ? default) {
          default = text (opt.defaultText or opt.default);
        };
        below =
          let
            found = opt.type.getSubOptions opt.loc;
          in
          if found != { } && opt.visible or true == true then optionAttrSetToDocList' opt.loc found else [ ];
      in
      if opt.internal or false then [ record ] else [ record ] ++ below
    ) (lib.collect isOption options);
  toText = value: lib.generators.toPretty { multiline = true; } value;
}
