# Functions, messages, files and what fits nowhere else.
{ lib }:
rec {
  inherit (builtins)
    abort
    add
    bitAnd
    bitOr
    ceil
    deepSeq
    div
    floor
    functionArgs
    fromJSON
    isBool
    isFloat
    isFunction
    isInt
    isPath
    lessThan
    pathExists
    readDir
    readFile
    seq
    sub
    throw
    toJSON
    trace
    tryEval
    ;

  id = x: x;
  const = x: _: x;
  pipe = builtins.foldl' (x: f: f x);
  flip =
    f: a: b:
    f b a;
  mapNullable = f: x: if x == null then null else f x;
  defaultTo = default: x: if x == null then default else x;
  min = a: b: if a < b then a else b;
  max = a: b: if a > b then a else b;
  mod = base: int: base - (int * (base / int));
  xor = a: b: a != b;
  importJSON = path: fromJSON (readFile path);
  importTOML = path: builtins.fromTOML (readFile path);
  setFunctionArgs = f: args: {
    __functor = _: f;
    __functionArgs = args;
  };
  toFunction = x: if isFunction x || x ? __functor then x else _: x;
  isFunctionOrFunctor = f: isFunction f || (f ? __functor);
  genericFunctionArgs = f: f.__functionArgs or (functionArgs f);

  throwIf =
    condition: message: if condition then throw message else id;
  throwIfNot = condition: throwIf (!condition);
  warn = message: trace "evaluation warning: ${message}";
  warnIf = condition: message: if condition then warn message else id;
  warnIfNot = condition: warnIf (!condition);
  showWarnings = warnings: result: builtins.foldl' (acc: w: warn w acc) result warnings;
  assertMsg = condition: message: condition || throw message;
  assertOneOf =
    name: value: allowed:
    assertMsg (builtins.elem value allowed)
      "${name} must be one of ${lib.generators.toPretty { } allowed}, but is: ${
        lib.generators.toPretty { } value
      }";
  toHexString =
    n:
    let
      digits = lib.stringToCharacters "0123456789ABCDEF";
      digit = builtins.elemAt digits (mod n 16);
    in
    if n < 16 then digit else toHexString (n / 16) + digit;

  fix =
    f:
    let
      x = f x;
    in
    x;
  extends =
    overlay: f: final:
    let
      previous = f final;
    in
    previous // overlay final previous;
  composeExtensions =
    f: g: final: prev:
    let
      first = f final prev;
    in
    first // g final (prev // first);
  composeManyExtensions = lib.foldr composeExtensions (_: _: { });
  makeExtensible =
    f:
    fix f
    // {
      extend = overlay: makeExtensible (extends overlay f);
    };
}
