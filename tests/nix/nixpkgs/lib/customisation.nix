# Packages as functions: calling them with a package set, overriding their arguments.
{ lib }:
let
  inherit (builtins)
    functionArgs
    intersectAttrs
    isAttrs
    isFunction
    isPath
    isString
    ;
in
rec {
  makeOverridable =
    f: args:
    let
      result = f args;
      override = new: makeOverridable f (args // (if isFunction new then new args else new));
    in
    if isAttrs result then
      result
      // {
        override = lib.setFunctionArgs override (lib.genericFunctionArgs f);
      }
      // lib.optionalAttrs (result ? overrideAttrs) {
        overrideAttrs = g: makeOverridable (a: (f a).overrideAttrs g) args;
      }
    else
      result;
  callPackageWith =
    autoArgs: fn: args:
    let
      f = if isPath fn || isString fn then import fn else fn;
      wanted = lib.genericFunctionArgs f;
      given = intersectAttrs wanted autoArgs // args;
      missing = builtins.filter (name: !wanted.${name} && !(given ? ${name})) (builtins.attrNames wanted);
    in
    if missing == [ ] then
      makeOverridable f given
    else
      throw "lib.customisation.callPackageWith: Function called without required argument \"${builtins.head missing}\" at ${
        if isPath fn || isString fn then toString fn else "<unknown location>"
      }";
  callPackagesWith =
    autoArgs: fn: args:
    let
      f = if isFunction fn then fn else import fn;
    in
    f (intersectAttrs (functionArgs f) autoArgs // args);
  makeScope =
    newScope: f:
    let
      self = f self // {
        newScope = scope: newScope (self // scope);
        callPackage = self.newScope { };
        overrideScope = g: makeScope newScope (lib.extends g f);
        packages = f;
      };
    in
    self;
  hydraJob = drv: drv;
}
