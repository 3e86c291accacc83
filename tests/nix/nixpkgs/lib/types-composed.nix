# Option types made of other types.
{ lib, mkOptionType }:
let
  inherit (builtins)
    all
    concatLists
    filter
    foldl'
    head
    isAttrs
    isFunction
    isList
    mapAttrs
    tail
    zipAttrsWith
    ;
  inherit (lib)
    mergeDefinitions
    mergeOneOption
    showOption
    ;
  mergeTypes = lib.modules.mergeTypes;
  # A type around one other: merging two of them merges what is inside.
  around =
    make: inner: attributes:
    mkOptionType (
      {
        getSubOptions = prefix: inner.getSubOptions prefix;
        getSubModules = inner.getSubModules;
        nestedTypes.elemType = inner;
        typeMerge =
          other:
          let
            merged = mergeTypes inner other.nestedTypes.elemType;
          in
          if merged == null then null else make merged;
      }
      // attributes
    );
  named = type: if type.descriptionClass == "composite" then "(${type.description})" else type.description;
in
rec {
  listOf =
    inner:
    around listOf inner {
      name = "listOf";
      description = "list of ${named inner}";
      descriptionClass = "composite";
      check = isList;
      emptyValue.value = [ ];
      getSubOptions = prefix: inner.getSubOptions (prefix ++ [ "*" ]);
      merge =
        loc: defs:
        map (r: r.mergedValue) (
          filter (r: r.isDefined) (
            concatLists (
              lib.imap1 (
                n: def:
                lib.imap1 (
                  m: value:
                  mergeDefinitions
                    (loc ++ [ "[definition ${toString n}-entry ${toString m}]" ])
                    inner
                    [
                      {
                        inherit (def) file;
                        inherit value;
                      }
                    ]
                ) def.value
              ) defs
            )
          )
        );
    };
  nonEmptyListOf =
    inner:
    let
      list = addCheck (listOf inner) (x: x != [ ]);
    in
    list
    // {
      description = "non-empty ${list.description}";
      emptyValue = { };
    };

  attrsOf = inner: attrsWith { elemType = inner; };
  lazyAttrsOf =
    inner:
    attrsWith {
      elemType = inner;
      lazy = true;
    };
  attrsWith =
    {
      elemType,
      lazy ? false,
      placeholder ? "name",
    }:
    around
      (
        merged:
        attrsWith {
          elemType = merged;
          inherit lazy placeholder;
        }
      )
      elemType
      {
        name = if lazy then "lazyAttrsOf" else "attrsOf";
        description = "${lib.optionalString lazy "lazy "}attribute set of ${named elemType}";
        descriptionClass = "composite";
        check = isAttrs;
        emptyValue.value = { };
        getSubOptions = prefix: elemType.getSubOptions (prefix ++ [ "<${placeholder}>" ]);
        merge =
          loc: defs:
          let
            merged = zipAttrsWith (name: mergeDefinitions (loc ++ [ name ]) elemType) (
              map (def: mapAttrs (_: value: { inherit (def) file; inherit value; }) def.value) defs
            );
          in
          if lazy then
            mapAttrs (_: r: r.optionalValue.value or elemType.emptyValue.value or r.mergedValue) merged
          else
            mapAttrs (_: r: r.mergedValue) (lib.filterAttrs (_: r: r.isDefined) merged);
      };
  attrs = mkOptionType {
    name = "attrs";
    description = "attribute set";
    check = isAttrs;
    emptyValue.value = { };
    merge = _: foldl' (acc: def: acc // def.value) { };
  };

  nullOr =
    inner:
    around nullOr inner {
      name = "nullOr";
      description = "null or ${inner.description}";
      descriptionClass = "conjunction";
      check = x: x == null || inner.check x;
      emptyValue.value = null;
      merge =
        loc: defs:
        let
          nulls = builtins.length (filter (def: def.value == null) defs);
        in
        if nulls == builtins.length defs then
          null
        else if nulls > 0 then
          throw "The option `${showOption loc}` is defined both null and not null, in ${lib.showFiles (lib.getFiles defs)}."
        else
          inner.merge loc defs;
    };
  either =
    a: b:
    mkOptionType {
      name = "either";
      description = "${a.description} or ${b.description}";
      descriptionClass = "conjunction";
      check = x: a.check x || b.check x;
      nestedTypes = {
        left = a;
        right = b;
      };
      typeMerge =
        other:
        let
          left = mergeTypes a other.nestedTypes.left;
          right = mergeTypes b other.nestedTypes.right;
        in
        if left == null || right == null then null else either left right;
      merge =
        loc: defs:
        if all (def: a.check def.value) defs then
          a.merge loc defs
        else if all (def: b.check def.value) defs then
          b.merge loc defs
        else
          mergeOneOption loc defs;
    };
  oneOf = types: foldl' either (head types) (tail types);
  coercedTo =
    from: convert: to:
    mkOptionType {
      name = "coercedTo";
      description = "${to.description} or ${from.description} convertible to it";
      check = x: (from.check x && to.check (convert x)) || to.check x;
      inherit (to) emptyValue getSubOptions getSubModules;
      nestedTypes = {
        coercedType = from;
        finalType = to;
      };
      merge =
        loc: defs:
        to.merge loc (
          map (def: def // { value = if from.check def.value then convert def.value else def.value; }) defs
        );
    };
  addCheck = type: check: type // { check = x: type.check x && check x; };
  uniq =
    inner:
    inner
    // {
      name = "uniq";
      merge = mergeOneOption;
    };
  unique =
    { message }:
    inner:
    inner
    // {
      name = "unique";
      merge = loc: defs: lib.mergeUniqueOption {
        inherit message;
        merge = inner.merge;
      } loc defs;
    };
  functionTo =
    inner:
    around functionTo inner {
      name = "functionTo";
      description = "function that evaluates to a(n) ${inner.description}";
      check = x: isFunction x || x ? __functor;
      merge =
        loc: defs: x:
        (mergeDefinitions (loc ++ [ "<function body>" ]) inner (
          map (def: def // { value = def.value x; }) defs
        )).mergedValue;
    };
}
