# Lists.
{ lib }:
let
  inherit (builtins)
    concatLists
    concatMap
    elem
    elemAt
    filter
    foldl'
    genList
    head
    isList
    length
    tail
    ;
in
rec {
  inherit (builtins)
    all
    any
    concatLists
    concatMap
    elem
    elemAt
    filter
    foldl'
    genList
    groupBy
    head
    isList
    length
    map
    partition
    sort
    tail
    ;

  singleton = x: [ x ];
  toList = x: if isList x then x else [ x ];
  optional = condition: x: if condition then [ x ] else [ ];
  optionals = condition: xs: if condition then xs else [ ];
  last = xs: elemAt xs (length xs - 1);
  init = xs: take (length xs - 1) xs;
  take = n: sublist 0 n;
  drop = n: xs: sublist n (length xs) xs;
  sublist =
    start: count: xs:
    let
      rest = length xs - start;
      size = if rest < count then rest else count;
    in
    genList (i: elemAt xs (start + i)) (if size < 0 then 0 else size);
  reverseList =
    xs:
    let
      n = length xs;
    in
    genList (i: elemAt xs (n - 1 - i)) n;
  range = from: to: if from > to then [ ] else genList (i: from + i) (to - from + 1);
  replicate = n: x: genList (_: x) n;
  flatten = x: if isList x then concatMap flatten x else [ x ];
  unique = foldl' (seen: x: if elem x seen then seen else seen ++ [ x ]) [ ];
  allUnique = xs: length (unique xs) == length xs;
  imap0 = f: xs: genList (i: f i (elemAt xs i)) (length xs);
  imap1 = f: imap0 (i: f (i + 1));
  foldr =
    op: nul: xs:
    if xs == [ ] then nul else op (head xs) (foldr op nul (tail xs));
  findFirst =
    test: default: xs:
    let
      found = filter test xs;
    in
    if found == [ ] then default else head found;
  findFirstIndex =
    test: default: xs:
    findFirst (i: test (elemAt xs i)) default (genList lib.id (length xs));
  count = test: xs: length (filter test xs);
  remove = x: filter (y: y != x);
  subtractLists = unwanted: filter (x: !(elem x unwanted));
  intersectLists = wanted: filter (x: elem x wanted);
  crossLists = f: foldl' (fs: args: concatMap (g: map g args) fs) [ f ];
  zipLists = zipListsWith (fst: snd: { inherit fst snd; });
  zipListsWith =
    f: a: b:
    genList (i: f (elemAt a i) (elemAt b i)) (
      if length a < length b then length a else length b
    );
  catAttrs = builtins.catAttrs;
  naturalSort = builtins.sort (a: b: builtins.compareVersions a b < 0);
  sortOn =
    f: xs:
    map (pair: pair.value) (
      builtins.sort (a: b: a.key < b.key) (
        map (value: {
          inherit value;
          key = f value;
        }) xs
      )
    );
  mutuallyExclusive = a: b: !(builtins.any (x: elem x b) a);
  concatMapLists = f: xs: concatLists (map f xs);
}
