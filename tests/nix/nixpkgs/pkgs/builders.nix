# Builders of programs, commands and folders. A program is a name and a version: its path does not
# depend on sources, so that rendered units change only when they must.
{ lib, pkgs }:
let
  inherit (builtins)
    isFunction
    isList
    removeAttrs
    ;
  inherit (pkgs.stdenv.hostPlatform) system;
  shell = "/bin/sh";

  checkMeta =
    meta: name: value:
    let
      licences = lib.toList (meta.license or { });
      unfree = lib.any (l: !(l.free or true)) licences;
      allowed =
        pkgs.config.allowUnfree or false || pkgs.config.allowUnfreePredicate or (_: false) { inherit name; pname = name; inherit meta; };
    in
    if unfree && !allowed then
      throw "Package ‘${name}’ has an unfree license (‘${(lib.head licences).shortName or "unfree"}’), refusing to evaluate."
    else
      value;
  # A program: what is said of it, and a path.
  package =
    {
      pname,
      version,
      name ? "${pname}-${version}",
      meta ? { },
      passthru ? { },
      outputs ? [ "out" ],
      env ? { },
    }:
    let
      drv = derivation (
        env
        // {
          inherit
            name
            pname
            version
            system
            outputs
            ;
          builder = shell;
          args = [ "-c" (lib.concatMapStrings (o: "echo > \"\$${o}\"; ") outputs) ];
        }
      );
      checked = checkMeta meta pname;
    in
    drv
    // {
      inherit pname version;
      meta = {
        mainProgram = pname;
      }
      // meta;
      drvPath = checked drv.drvPath;
      outPath = checked drv.outPath;
    }
    // passthru
    // {
      inherit passthru;
    };

  # Arguments as a set, or as a function of the finished ones; more may be laid over them.
  finished =
    make: given:
    let
      f = lib.toFunction given;
      arguments = lib.fix (final: f (final // { finalPackage = make arguments; }));
    in
    make arguments
    // {
      overrideAttrs =
        more:
        finished make (
          final:
          let
            before = f final;
            over = lib.toFunction more;
            once = over final;
          in
          before // (if isFunction once then once before else if isFunction more then more before else once)
        );
    };
  mkDerivation = finished (
    arguments:
    package {
      pname = arguments.pname or (builtins.parseDrvName arguments.name).name;
      version = arguments.version or "0";
      name = arguments.name or "${arguments.pname}-${arguments.version}";
      meta = arguments.meta or { };
      outputs = arguments.outputs or [ "out" ];
      env = arguments.env or { };
      passthru = {
        src = arguments.src or null;
        inherit arguments;
      }
      // arguments.passthru or { };
    }
  );
  # A command that a build runs; `arguments` is its environment.
  runCommand =
    name: arguments: command:
    derivation (
      {
        PATH = "/usr/bin:/bin";
      }
      // removeAttrs arguments [ "passthru" "meta" "preferLocalBuild" "allowSubstitutes" "nativeBuildInputs" "buildInputs" "derivationArgs" ]
      // arguments.derivationArgs or { }
      // {
        inherit name system;
        builder = shell;
        buildCommand = command;
        args = [ "-eu" "-c" command ];
      }
    )
    // {
      meta = arguments.meta or { };
    }
    // arguments.passthru or { };
in
{
  inherit package mkDerivation runCommand;
  runCommandLocal = runCommand;
  runCommandCC = runCommand;

  concatText =
    name: files:
    runCommand name { } "cat ${toString files} > $out";
  linkFarm =
    name: entries:
    let
      pairs =
        if isList entries then entries else lib.mapAttrsToList (name: path: { inherit name path; }) entries;
    in
    runCommand name
      {
        entries = builtins.toJSON (map (e: { inherit (e) name; path = "${e.path}"; }) pairs);
        passthru.entries = lib.listToAttrs (map (e: lib.nameValuePair e.name e.path) pairs);
      }
      (
        "mkdir -p $out\n"
        + lib.concatMapStrings (e: ''
          mkdir -p "$out/$(dirname ${lib.escapeShellArg e.name})"
          ln -s ${lib.escapeShellArg "${e.path}"} $out/${lib.escapeShellArg e.name}
        '') pairs
      );
  symlinkJoin =
    {
      name ? "${pname}-${version}",
      pname ? name,
      version ? "0",
      paths,
      postBuild ? "",
      meta ? { },
      passthru ? { },
      nativeBuildInputs ? [ ],
    }:
    package {
      inherit
        name
        pname
        version
        meta
        passthru
        ;
      env.paths = map toString paths;
    };
  buildEnv =
    {
      name,
      paths,
      pathsToLink ? [ "/" ],
      ...
    }:
    package {
      inherit name;
      pname = name;
      version = "0";
      env.paths = map toString paths;
    };
}
