# Option types: plain values.
{ lib }:
let
  inherit (builtins)
    elem
    head
    isAttrs
    isBool
    isFloat
    isFunction
    isInt
    isString
    match
    ;
  inherit (lib)
    isDerivation
    mergeEqualOption
    mergeOneOption
    ;

  mkOptionType =
    attributes:
    {
      _type = "option-type";
      description = attributes.name;
      descriptionClass = null;
      check = _: true;
      merge = lib.mergeDefaultOption;
      emptyValue = { };
      getSubOptions = _: { };
      getSubModules = null;
      substSubModules = _: null;
      nestedTypes = { };
      typeMerge = other: if other.name == attributes.name then attributes.self or other else null;
      deprecationMessage = null;
    }
    // attributes;
  plain =
    name: description: check:
    mkOptionType {
      inherit name description check;
      merge = mergeEqualOption;
    };
  between =
    from: to:
    plain "intBetween" "integer between ${toString from} and ${toString to} (both inclusive)" (
      x: isInt x && x >= from && x <= to
    );
  sized =
    bits: name:
    let
      limit = builtins.foldl' (n: _: n * 2) 1 (lib.range 1 bits);
    in
    between 0 (limit - 1)
    // {
      inherit name;
      description = "${toString bits} bit unsigned integer; between 0 and ${toString (limit - 1)} (both inclusive)";
    };
  numberBetween =
    test: from: to:
    plain "numberBetween" "integer or floating point number between ${builtins.toJSON from} and ${builtins.toJSON to} (both inclusive)" (
      x: test x && x >= from && x <= to
    );
  isNumber = x: isInt x || isFloat x;
  composed =
    import ./types-composed.nix { inherit lib mkOptionType; }
    // import ./types-submodule.nix { inherit lib mkOptionType; };

  types = composed // {
    inherit mkOptionType;

    unspecified = mkOptionType {
      name = "unspecified";
      description = "unspecified value";
    };
    raw = mkOptionType {
      name = "raw";
      description = "raw value";
      merge = mergeOneOption;
    };
    optionType = mkOptionType {
      name = "optionType";
      check = x: x._type or null == "option-type";
      merge =
        loc: defs:
        builtins.foldl' (
          a: b:
          let
            merged = lib.modules.mergeTypes a b;
          in
          if merged == null then throw "The types of `${lib.showOption loc}' cannot be merged." else merged
        ) (head defs).value (map (def: def.value) (builtins.tail defs));
    };
    anything = mkOptionType {
      name = "anything";
      merge =
        loc: defs:
        let
          values = lib.getValues defs;
          each = test: builtins.all test values;
        in
        if each (x: isAttrs x && !(isDerivation x) && !(lib.isStringLike x)) then
          (types.lazyAttrsOf types.anything).merge loc defs
        else if each builtins.isList then
          mergeOneOption loc defs
        else if each (x: isFunction x) then
          x: types.anything.merge (loc ++ [ "<function body>" ]) (map (d: d // { value = d.value x; }) defs)
        else
          mergeEqualOption loc defs;
    };

    bool = plain "bool" "boolean" isBool;
    boolByOr = mkOptionType {
      name = "boolByOr";
      description = "boolean (merged using or)";
      check = isBool;
      merge = _: builtins.any (def: def.value);
    };
    int = plain "int" "signed integer" isInt;
    float = plain "float" "floating point number" isFloat;
    number = composed.either types.int types.float;
    ints = {
      inherit between;
      unsigned = plain "unsignedInt" "unsigned integer, meaning >=0" (x: isInt x && x >= 0);
      positive = plain "positiveInt" "positive integer, meaning >0" (x: isInt x && x > 0);
      u8 = sized 8 "unsignedInt8";
      u16 = sized 16 "unsignedInt16";
      u32 = sized 32 "unsignedInt32";
    };
    numbers = {
      between = numberBetween isNumber;
      nonnegative = plain "numberNonnegative" "nonnegative integer or floating point number, meaning >=0" (
        x: isNumber x && x >= 0
      );
      positive = plain "numberPositive" "positive integer or floating point number, meaning >0" (
        x: isNumber x && x > 0
      );
    };
    port = types.ints.u16;

    str = plain "str" "string" isString;
    singleLineStr = mkOptionType {
      name = "singleLineStr";
      description = "(optionally newline-terminated) single-line string";
      check = x: isString x && match "[^\n\r]*\n?" x != null;
      merge = loc: defs: lib.removeSuffix "\n" (mergeEqualOption loc defs);
    };
    nonEmptyStr = plain "nonEmptyStr" "non-empty string" (
      x: isString x && match "[ \t\n]*" x == null
    );
    strMatching =
      pattern:
      plain "strMatching ${lib.strings.escapeNixString pattern}" "string matching the pattern ${pattern}" (
        x: isString x && match pattern x != null
      );
    separatedString =
      separator:
      mkOptionType {
        name = "separatedString";
        description =
          if separator == "" then
            "Concatenated string"
          else
            "strings concatenated with ${builtins.toJSON separator}";
        check = isString;
        merge = _: defs: lib.concatMapStringsSep separator (def: def.value) defs;
      };
    lines = types.separatedString "\n";
    commas = types.separatedString ",";
    envVar = types.separatedString ":";
    passwdEntry =
      inner:
      inner
      // {
        name = "passwdEntry ${inner.name}";
        description = "${inner.description}, not containing newlines or colons";
        check = x: inner.check x && match ".*[:\n].*" x == null;
      };

    package = mkOptionType {
      name = "package";
      check = x: isDerivation x || lib.isStorePath x;
      merge = mergeOneOption;
    };
    pkgs = mkOptionType {
      name = "pkgs";
      description = "Nixpkgs package set";
      check = x: x._type or null == "pkgs";
      merge = mergeOneOption;
    };
    path = types.pathWith { absolute = true; };
    pathInStore = types.pathWith { inStore = true; };
    externalPath = types.pathWith {
      absolute = true;
      inStore = false;
    };
    pathWith =
      {
        inStore ? null,
        absolute ? null,
      }:
      plain "path"
        (
          (
            if absolute == null then
              ""
            else if absolute then
              "absolute "
            else
              "relative "
          )
          + "path"
          + (
            if inStore == null then
              ""
            else if inStore then
              " in the Nix store"
            else
              " not in the Nix store"
          )
        )
        (
          x:
          let
            text = toString x;
            below =
              match "${lib.escapeRegex builtins.storeDir}/[0-9a-z]{32}-.*" (
                builtins.unsafeDiscardStringContext text
              ) != null;
          in
          # A path value would be copied to the store, so it is none outside it.
          (if inStore == null || inStore then lib.isStringLike x else isString x)
          && (inStore == null || inStore == below)
          && (absolute == null || absolute == lib.hasPrefix "/" text)
        );
    enum =
      values:
      mkOptionType {
        name = "enum";
        description =
          if values == [ ] then
            "impossible (empty enum)"
          else if builtins.length values == 1 then
            "value ${lib.generators.toPretty { } (head values)} (singular enum)"
          else
            "one of ${lib.concatMapStringsSep ", " (lib.generators.toPretty { }) values}";
        check = x: elem x values;
        merge = mergeEqualOption;
        inherit values;
        functor.payload = { inherit values; };
        typeMerge = other: types.enum (lib.unique (values ++ other.values));
      };
  };
in
types
