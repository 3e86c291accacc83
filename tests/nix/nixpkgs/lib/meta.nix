# Packages' metadata, platforms and licences.
{ lib }:
let
  licence = shortName: fullName: {
    inherit shortName fullName;
    spdxId = fullName;
    free = true;
    deprecated = false;
    redistributable = true;
  };
  linux = [ "aarch64-linux" "x86_64-linux" ];
in
{
  getExe =
    package:
    lib.getExe' package (
      package.meta.mainProgram
        or (lib.warn "getExe: Package ${lib.strings.escapeNixIdentifier (package.name or "?")} does not have the meta.mainProgram attribute." (
          package.pname or (builtins.parseDrvName package.name).name
        ))
    );
  getExe' =
    package: program:
    if lib.hasInfix "/" program then
      throw "lib.meta.getExe': The second argument ${builtins.toJSON program} is a nested path with a \"/\" character, but it should just be the name of the executable instead."
    else
      "${lib.getBin package}/bin/${program}";
  addMetaAttrs = new: drv: drv // { meta = drv.meta or { } // new; };
  setName = name: drv: drv // { inherit name; };
  lowPrio = drv: drv;
  hiPrio = drv: drv;
  licenses = {
    asl20 = licence "asl20" "Apache-2.0";
    bsd3 = licence "bsd3" "BSD-3-Clause";
    gpl3Only = licence "gpl3Only" "GPL-3.0-only";
    agpl3Only = licence "agpl3Only" "AGPL-3.0-only";
    mit = licence "mit" "MIT";
    postgresql = licence "postgresql" "PostgreSQL";
    unfree = licence "unfree" "Unfree" // {
      free = false;
    };
  };
  sourceTypes = {
    fromSource = {
      shortName = "fromSource";
      isSource = true;
    };
    binaryBytecode = {
      shortName = "binaryBytecode";
      isSource = false;
    };
    binaryNativeCode = {
      shortName = "binaryNativeCode";
      isSource = false;
    };
  };
  platforms = {
    inherit linux;
    unix = linux ++ [ "aarch64-darwin" "x86_64-darwin" ];
    all = linux ++ [ "aarch64-darwin" "x86_64-darwin" ];
    x86_64 = [ "x86_64-linux" ];
  };
  maintainers = { };
  teams = { };
  systems = {
    flakeExposed = linux;
    elaborate =
      system:
      let
        name = if builtins.isString system then system else system.system;
        cpu = builtins.head (builtins.split "-" name);
      in
      {
        system = name;
        isLinux = lib.hasSuffix "-linux" name;
        isDarwin = lib.hasSuffix "-darwin" name;
        isx86_64 = cpu == "x86_64";
        isAarch64 = cpu == "aarch64";
        is64bit = true;
        canExecute = other: other.system == name;
        parsed.cpu.name = cpu;
      };
  };
  fakeHash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
  fakeSha256 = lib.concatStrings (lib.replicate 64 "0");
}
