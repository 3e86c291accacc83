# What the stand-in's `lib` must do as nixpkgs' own does: each case is evaluated on both.
{ lib }:
let
  inherit (lib) mkOption types;
  evaluate = modules: (lib.evalModules { inherit modules; }).config;
  option = type: { options.x = mkOption { inherit type; }; };
  # The value of an option `x` of a type with these definitions.
  merged = type: values: (evaluate ([ (option type) ] ++ map (x: { config.x = x; }) values)).x;
  # Whether that is refused.
  refused = type: values: !(builtins.tryEval (builtins.deepSeq (merged type values) true)).success;
  server = types.submodule (
    { name, config, ... }:
    {
      options = {
        name = mkOption {
          type = types.str;
          default = name;
        };
        port = mkOption {
          type = types.port;
          default = 1;
        };
        address = mkOption {
          type = types.str;
          default = "${config.name}:${toString config.port}";
        };
      };
    }
  );
  open = types.submodule {
    freeformType = types.attrsOf (types.either types.int types.str);
    options.known = mkOption {
      type = types.bool;
      default = true;
    };
  };
in
{
  # priorities and order
  plainBeatsDefault = merged types.int [ (lib.mkDefault 1) 2 ];
  forceBeatsPlain = merged types.int [ (lib.mkForce 3) 2 ];
  optionDefaultIsWeakest = merged types.int [ (lib.mkOptionDefault 1) (lib.mkDefault 2) ];
  nestedOverride = merged types.int [ (lib.mkIf true (lib.mkForce 4)) 2 ];
  conflictIsRefused = refused types.int [ 1 2 ];
  equalIsFine = merged types.int [ 1 1 ];
  laterModuleComesFirst = merged (types.listOf types.str) [ [ "a" ] [ "b" ] ];
  ordered = merged (types.listOf types.str) [
    (lib.mkAfter [ "z" ])
    [ "m" ]
    (lib.mkBefore [ "a" ])
    (lib.mkOrder 1200 [ "n" ])
  ];
  linesInOrder = merged types.lines [ "b" (lib.mkBefore "a") (lib.mkAfter "c") ];
  commas = merged types.commas [ "b" "a" ];
  mergeOfConditions = merged (types.attrsOf types.int) [
    (lib.mkMerge [
      { a = 1; }
      (lib.mkIf false { b = 2; })
      (lib.mkIf true { c = lib.mkDefault 3; })
    ])
    { c = 4; }
  ];
  conditionalElement = merged (types.attrsOf types.int) [ { a = lib.mkIf false 1; b = 2; } ];
  importsBreadthFirst =
    let
      leaf = name: imports: {
        inherit imports;
        config.x = [ name ];
      };
    in
    (evaluate [
      (option (types.listOf types.str))
      (leaf "a" [ (leaf "b" [ (leaf "c" [ ]) ]) (leaf "d" [ ]) ])
      (leaf "e" [ ])
    ]).x;
  importedOnce =
    let
      shared = {
        key = "shared";
        config.x = [ "once" ];
      };
    in
    (evaluate [ (option (types.listOf types.str)) shared { imports = [ shared ]; } ]).x;
  disabled =
    (evaluate [
      (option (types.listOf types.str))
      {
        key = "gone";
        config.x = [ "gone" ];
      }
      { disabledModules = [ { key = "gone"; } ]; config.x = [ "here" ]; }
    ]).x;
  argumentsOfModules =
    (evaluate [
      (option types.str)
      { _module.args.word = "said"; }
      ({ word, ... }: { x = word; })
    ]).x;

  # types
  submoduleDefaults = merged (types.attrsOf server) [ { a.port = 2; } { b = { }; } { a.name = "c"; } ];
  submoduleFunction = merged (types.attrsOf server) [ { a = { name, ... }: { port = 9; }; } ];
  freeform = merged open [ { known = false; } { other = 1; more = "x"; } ];
  freeformDefault = merged open [ { other = lib.mkDefault 1; } { other = 2; } ];
  freeformChecks = refused open [ { other = [ ]; } ];
  unknownIsRefused = refused server [ { prot = 1; } ];
  listOfSubmodules = merged (types.listOf server) [ [ { name = "a"; } ] [ { name = "b"; } ] ];
  eitherFirst = merged (types.either types.int types.str) [ 1 ];
  eitherSecond = merged (types.either types.int types.str) [ "s" ];
  eitherRefuses = refused (types.either types.int types.str) [ true ];
  eitherList = merged (types.either (types.listOf types.int) types.int) [ [ 1 ] [ 2 ] ];
  nullOrNull = merged (types.nullOr types.int) [ null ];
  nullOrMixed = refused (types.nullOr types.int) [ null 1 ];
  nullOrWrong = refused (types.nullOr types.int) [ "s" ];
  coerced = merged (types.coercedTo types.int toString types.str) [ 7 ];
  coercedList = merged (types.coercedTo types.str lib.singleton (types.listOf types.str)) [ "a" [ "b" ] ];
  enumeration = merged (types.enum [ "a" "b" ]) [ "b" ];
  enumerationRefuses = refused (types.enum [ "a" "b" ]) [ "c" ];
  portTooLarge = refused types.port [ 65536 ];
  positiveZero = refused types.ints.positive [ 0 ];
  betweenRefuses = refused (types.ints.between 1 3) [ 4 ];
  numbersBetween = merged (types.numbers.between 0 1) [ 0.5 ];
  matching = merged (types.strMatching "[a-z]+") [ "abc" ];
  matchingRefuses = refused (types.strMatching "[a-z]+") [ "ABC" ];
  nonEmpty = refused types.nonEmptyStr [ " " ];
  nonEmptyList = refused (types.nonEmptyListOf types.int) [ [ ] ];
  singleLine = refused types.singleLineStr [ "a\nb" ];
  externalPath = merged types.externalPath [ "/run/secrets/x" ];
  externalPathLiteral = refused types.externalPath [ ./conformance.nix ];
  externalPathRelative = refused types.externalPath [ "secrets/x" ];
  externalPathInStore = refused types.externalPath [ "${builtins.storeDir}/00000000000000000000000000000000-x" ];
  pathString = merged types.path [ "/a/b" ];
  pathRelative = refused types.path [ "a/b" ];
  function = (merged (types.functionTo (types.listOf types.int)) [ (x: [ x ]) (x: [ (x + 1) ]) ]) 1;
  anythingSets = merged types.anything [ { a.b = 1; } { a.c = 2; } ];
  anythingConflict = refused types.anything [ { a = 1; } { a = 2; } ];
  rawTwice = refused types.raw [ 1 1 ];
  attrsShallow = merged types.attrs [ { a = { b = 1; }; } { a = { c = 2; }; } ];
  # A priority on one undeclared key of plain attrs is not resolved.
  attrsKeepPriority = (merged types.attrs [ { a = lib.mkDefault 1; } ]).a._type;
  lazySet = (merged (types.lazyAttrsOf types.int) [ { a = 1; b = throw "unused"; } ]).a;
  emptyList = (evaluate [ { options.x = mkOption { type = types.listOf types.int; }; } ]).x;
  checked = refused (types.addCheck types.int (x: x > 5)) [ 3 ];
  unique = refused (types.uniq types.int) [ 1 1 ];
  readOnly =
    (builtins.tryEval
      (evaluate [
        { options.x = mkOption { type = types.int; default = 1; readOnly = true; }; }
        { x = 2; }
      ]).x
    ).success;
  apply =
    (evaluate [ { options.x = mkOption { type = types.int; apply = toString; }; } { x = 1; } ]).x;
  typesMerge =
    (evaluate [
      (option (types.enum [ "a" ]))
      (option (types.enum [ "b" ]))
      { x = "b"; }
    ]).x;
  submodulesExtend =
    (evaluate [
      { options.x = mkOption { type = types.submodule { options.a = mkOption { default = 1; }; }; default = { }; }; }
      { options.x = mkOption { type = types.submodule { options.b = mkOption { default = 2; }; }; }; }
    ]).x;
  renamed =
    let
      config = evaluate [
        (option types.int)
        { options.warnings = mkOption { type = types.listOf types.str; }; }
        (lib.mkRenamedOptionModule [ "old" ] [ "x" ])
        { old = 5; }
      ];
    in
    [
      config.x
      config.old
      (builtins.length config.warnings)
    ];
  renamedPriority =
    (evaluate [
      (option types.int)
      { options.warnings = mkOption { type = types.listOf types.str; }; }
      (lib.mkRenamedOptionModule [ "old" ] [ "x" ])
      { old = lib.mkForce 5; }
      { x = 6; }
    ]).x;
  removed =
    (evaluate [
      { options.assertions = mkOption { type = types.listOf types.raw; }; }
      (lib.mkRemovedOptionModule [ "old" ] "Use the new one.")
      { old = 5; }
    ]).assertions;
  defined =
    let
      evaluated = lib.evalModules { modules = [ (option types.int) { x = lib.mkDefault 5; } ]; };
    in
    [
      evaluated.options.x.isDefined
      evaluated.options.x.highestPrio
      (evaluated.options ? y)
    ];
  extended =
    ((lib.evalModules { modules = [ (option types.int) { x = 1; } ]; }).extendModules {
      modules = [ { x = lib.mkForce 2; } ];
    }).config.x;
  packageOption =
    (evaluate [
      { options.x = lib.mkPackageOption { a.b = derivation { name = "p"; system = "x86_64-linux"; builder = "/b"; }; } "p" { default = [ "a" "b" ]; }; }
    ]).x.name;

  # text
  shell = lib.escapeShellArgs [ "plain" "two words" "it's" "" "a=b" "$x" ];
  names = map lib.strings.sanitizeDerivationName [ "a b" ".x" "" "ok-1.0+_?=" "é" ];
  identifiers = map lib.strings.escapeNixIdentifier [ "a" "a-b" "1a" "if" "a b" ];
  pretty = lib.generators.toPretty { } { a = [ 1 2.5 "s" null true ]; b = { }; };
  prettyLine = lib.generators.toPretty { multiline = false; } { a = [ 1 ]; };
  ini = lib.generators.toINI { } { section = { a = 1; b = true; c = "x=y"; }; other.z = 0.5; };
  iniLists = lib.generators.toINI { listsAsDuplicateKeys = true; } { s.k = [ 1 2 ]; };
  keyValue = lib.generators.toKeyValue { } { b = "x"; a = 1; };
  gnu = lib.cli.toGNUCommandLine { } { v = true; long = "x y"; no = false; none = null; many = [ 1 2 ]; };
  integers = [ (lib.toIntBase10 "010") (lib.toInt "12") ];
  splitting = lib.splitString "/" "a//b";
  trimming = lib.trim "  a b\n";
  versions = [ (lib.versionAtLeast "26.05" "25.11") (lib.versionOlder "0.8.4" "0.8.10") (lib.versions.major "17.7") ];
  sentence = lib.toSentenceCase "hello World";
  escapedC = lib.strings.escapeC [ " " "\t" "\\" "\n" ] "a b\t\\\n";
  regex = lib.escapeRegex "a.b*[c]";
  infix = map (s: lib.hasInfix "a.c" s) [ "xa.cx" "abc" ];
  shown = lib.showOption [ "services" "a.b" "<name>" "x" ];
  paths = lib.makeBinPath [ "/a" "/b" ];

  # lists and sets
  lists = {
    unique = lib.unique [ 1 2 1 ];
    flat = lib.flatten [ 1 [ 2 [ 3 ] ] ];
    sorted = lib.sortOn (x: 0 - x) [ 1 3 2 ];
    sub = lib.sublist 1 5 [ 1 2 3 ];
    taken = lib.take 2 [ 1 2 3 ];
    dropped = lib.drop 2 [ 1 2 3 ];
    found = lib.findFirst (x: x > 1) null [ 1 2 3 ];
    index = lib.lists.findFirstIndex (x: x > 5) null [ 1 2 3 ];
    subtracted = lib.subtractLists [ 1 ] [ 1 2 1 ];
    imapped = lib.imap1 (i: x: i * x) [ 1 2 ];
    folded = lib.foldr (x: acc: x - acc) 0 [ 1 2 3 ];
    natural = lib.naturalSort [ "v10" "v9" ];
    zipped = lib.zipListsWith (a: b: a + b) [ 1 2 3 ] [ 10 20 ];
    common = lib.intersectLists [ 1 2 ] [ 3 2 ];
  };
  sets = {
    updated = lib.recursiveUpdate { a.b = 1; a.c = 2; } { a.b = 3; };
    filtered = lib.filterAttrs (_: v: v > 1) { a = 1; b = 2; };
    by = lib.attrByPath [ "a" "b" ] 0 { a.b = 5; };
    missing = lib.attrByPath [ "a" "x" ] 0 { a.b = 5; };
    generated = lib.genAttrs [ "a" ] (n: n + n);
    concatenated = lib.concatMapAttrs (n: v: { ${n + "1"} = v; }) { a = 1; };
    recursive = lib.mapAttrsRecursive (path: v: "${lib.concatStringsSep "." path}=${toString v}") { a.b = 1; };
    folded = lib.foldlAttrs (acc: n: v: acc + n + toString v) "" { b = 2; a = 1; };
    product = lib.cartesianProduct { a = [ 1 2 ]; b = [ 3 ]; };
    collected = lib.collect builtins.isInt { a = 1; b.c = 2; };
    zip = lib.zipAttrs [ { a = 1; } { a = 2; } ];
  };
  overlays = lib.fix (lib.extends (final: prev: { a = prev.a + 1; c = final.a; }) (self: { a = 1; b = self.a; }));
  overriding =
    let
      made = lib.makeOverridable ({ a, b ? 2 }: { sum = a + b; }) { a = 1; };
    in
    [
      made.sum
      (made.override { b = 5; }).sum
      (made.override (old: { a = old.a + 1; })).sum
    ];
  called = (lib.callPackageWith { a = 1; } ({ a, b ? 3 }: { sum = a + b; }) { b = 4; }).sum;
  documented =
    map
      (o: {
        inherit (o) name readOnly;
        default = o.default.text or null;
      })
      (
        lib.filter (o: !o.internal && !(lib.hasPrefix "_module" o.name)) (
          lib.optionAttrSetToDocList
            (lib.evalModules {
              modules = [
                {
                  options.a = mkOption { type = types.attrsOf server; default = { }; };
                  options.b = lib.mkEnableOption "b";
                }
              ];
            }).options
        )
      );
}
