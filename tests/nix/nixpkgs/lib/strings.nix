# Strings.
{ lib }:
let
  inherit (builtins)
    concatStringsSep
    elem
    filter
    genList
    isAttrs
    isBool
    isFloat
    isInt
    isList
    isPath
    isString
    length
    match
    replaceStrings
    split
    stringLength
    substring
    toJSON
    ;
  lowerChars = stringToCharacters "abcdefghijklmnopqrstuvwxyz";
  upperChars = stringToCharacters "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  keywords = [ "assert" "else" "if" "in" "inherit" "let" "or" "rec" "then" "with" ];
  stringToCharacters = s: genList (i: substring i 1 s) (stringLength s);
in
rec {
  inherit (builtins)
    compareVersions
    concatStringsSep
    fromJSON
    isString
    match
    readFile
    replaceStrings
    split
    stringLength
    substring
    toJSON
    unsafeDiscardStringContext
    ;
  inherit stringToCharacters lowerChars upperChars;

  concatStrings = concatStringsSep "";
  concatMapStrings = f: xs: concatStrings (map f xs);
  concatMapStringsSep =
    separator: f: xs:
    concatStringsSep separator (map f xs);
  concatImapStrings = f: xs: concatStrings (lib.imap1 f xs);
  concatImapStringsSep =
    separator: f: xs:
    concatStringsSep separator (lib.imap1 f xs);
  concatMapAttrsStringSep =
    separator: f: set:
    concatStringsSep separator (lib.mapAttrsToList f set);
  concatLines = concatMapStrings (line: line + "\n");
  optionalString = condition: s: if condition then s else "";
  join = concatStringsSep;
  intersperse =
    separator: xs:
    if length xs < 2 then
      xs
    else
      builtins.tail (
        builtins.concatMap (x: [
          separator
          x
        ]) xs
      );
  replicate = n: s: concatStrings (lib.lists.replicate n s);

  hasPrefix = prefix: s: substring 0 (stringLength prefix) s == prefix;
  hasSuffix =
    suffix: s:
    stringLength s >= stringLength suffix
    && substring (stringLength s - stringLength suffix) (-1) s == suffix;
  hasInfix = infix: s: length (split (escapeRegex infix) "${s}") > 1;
  removePrefix =
    prefix: s: if hasPrefix prefix s then substring (stringLength prefix) (-1) s else s;
  removeSuffix =
    suffix: s:
    if hasSuffix suffix s then substring 0 (stringLength s - stringLength suffix) s else s;
  trim = trimWith { start = true; end = true; };
  trimWith =
    {
      start ? false,
      end ? false,
    }:
    s:
    let
      left = if start then builtins.head (match "[ \t\r\n]*(.*)" s) else s;
      right = match "(.*[^ \t\r\n])[ \t\r\n]*" left;
    in
    if end then (if right == null then "" else builtins.head right) else left;
  splitString = separator: s: filter isString (split (escapeRegex separator) s);
  toLower = replaceStrings upperChars lowerChars;
  toUpper = replaceStrings lowerChars upperChars;
  toSentenceCase = s: toUpper (substring 0 1 s) + toLower (substring 1 (-1) s);
  fixedWidthString =
    width: filler: s:
    if stringLength s >= width then s else fixedWidthString width filler (filler + s);
  fixedWidthNumber = width: n: fixedWidthString width "0" (toString n);

  escape = chars: replaceStrings chars (map (c: "\\${c}") chars);
  escapeRegex = escape (stringToCharacters "\\[{()^$?*+|.");
  # As in C: a backslash, x and the two hexadecimal digits of an ASCII character.
  escapeC =
    chars:
    let
      codes = {
        "\t" = "\\x09";
        "\n" = "\\x0a";
        "\r" = "\\x0d";
        " " = "\\x20";
        "\\" = "\\x5c";
      };
    in
    replaceStrings chars (map (c: codes.${c}) chars);
  escapeShellArg =
    value:
    let
      s = toString value;
    in
    if match "[[:alnum:],._+:@%/-]+" s != null then
      s
    else
      "'${replaceStrings [ "'" ] [ "'\\''" ] s}'";
  escapeShellArgs = concatMapStringsSep " " escapeShellArg;
  escapeNixString = s: escape [ "$" ] (toJSON s);
  escapeNixIdentifier =
    s:
    if match "[a-zA-Z_][a-zA-Z0-9_'-]*" s != null && !(elem s keywords) then s else escapeNixString s;
  escapeXML = replaceStrings [ "\"" "'" "<" ">" "&" ] [ "&quot;" "&apos;" "&lt;" "&gt;" "&amp;" ];
  toShellVar =
    name: value:
    if isAttrs value && !(isStringLike value) then
      "declare -A ${name}=(${
        concatMapAttrsStringSep " " (n: v: "[${escapeShellArg n}]=${escapeShellArg v}") value
      })"
    else if isList value then
      "declare -a ${name}=(${escapeShellArgs value})"
    else
      "${name}=${escapeShellArg value}";
  toShellVars = set: concatStringsSep "\n" (lib.mapAttrsToList toShellVar set);

  isStringLike = x: isString x || isPath x || x ? outPath || x ? __toString;
  isConvertibleWithToString =
    x:
    isStringLike x
    || x == null
    || isInt x
    || isFloat x
    || isBool x
    || (isList x && builtins.all isConvertibleWithToString x);
  isStorePath =
    x:
    isStringLike x
    && (
      let
        s = toString x;
      in
      substring 0 1 s == "/" && builtins.dirOf s == builtins.storeDir
    );
  boolToString = b: if b then "true" else "false";
  boolToYesNo = b: if b then "yes" else "no";
  floatToString =
    f:
    if isFloat f then toString f else throw "floatToString: ${toString f} is not a float";
  toInt =
    s:
    let
      digits = match "[[:space:]]*(-?)0*([0-9]+)[[:space:]]*" s;
    in
    if digits == null then
      throw "toInt: Could not convert ${escapeNixString s} to int."
    else
      builtins.fromJSON (concatStrings digits);
  toIntBase10 =
    s:
    let
      digits = match "[[:space:]]*0*([0-9]+)[[:space:]]*" s;
    in
    if digits == null then
      throw "toIntBase10: Could not convert ${escapeNixString s} to int."
    else
      builtins.fromJSON (builtins.head digits);
  sanitizeDerivationName =
    s:
    let
      kept = split "[^[:alnum:]+._?=-]+" (unsafeDiscard (toString s));
      clean = concatMapStrings (part: if isList part then "-" else part) kept;
      named = removePrefix "." clean;
    in
    if named == "" then "unknown" else substring (lib.max (stringLength named - 207) 0) (-1) named;
  unsafeDiscard = builtins.unsafeDiscardStringContext;
  nameFromURL =
    url: separator:
    builtins.head (splitString separator (lib.last (splitString "/" url)));
  versionOlder = a: b: builtins.compareVersions b a == 1;
  versionAtLeast = a: b: !(versionOlder a b);
  getVersion = x: if isString x then (builtins.parseDrvName x).version else x.version;
  getName = x: if isString x then (builtins.parseDrvName x).name else x.pname or (builtins.parseDrvName x.name).name;
  versions = {
    major = v: builtins.elemAt (builtins.splitVersion v) 0;
    majorMinor = v: concatStringsSep "." (lib.take 2 (builtins.splitVersion v));
  };
  makeSearchPath =
    folder: packages: concatStringsSep ":" (map (p: "${p}/${folder}") (filter (p: p != null) packages));
  makeSearchPathOutput =
    output: folder: packages:
    makeSearchPath folder (map (lib.getOutput output) packages);
  makeBinPath = makeSearchPathOutput "bin" "bin";
  makeLibraryPath = makeSearchPathOutput "lib" "lib";
}
