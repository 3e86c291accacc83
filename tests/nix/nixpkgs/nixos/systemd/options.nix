# The options of a unit.
# Facts: nixos/lib/systemd-unit-options.nix, read in NixOS/nixpkgs at
# 515c8fb59bc189b54fc47113d6248cd45f607f65; its newer names (upholds, upheldBy, notSocketActivated,
# enableStrictShellChecks) as nixos/lib/systemd-lib.nix uses them in NixOS/nixpkgs at
# 013635633ffe11f70df1d639f563f21c42c1f778.
{ lib, units }:
let
  inherit (lib)
    mkIf
    mkMerge
    mkOption
    types
    ;
  inherit (units) checkService makeJobScript unitNameType;
  names = mkOption {
    type = types.listOf unitNameType;
    default = [ ];
  };
  lines = mkOption {
    type = types.lines;
    default = "";
  };
  flag =
    default:
    mkOption {
      type = types.bool;
      inherit default;
    };

  # A value of a unit file: several definitions of a list are joined, others must agree.
  unitOption = lib.mkOptionType {
    name = "systemd option";
    merge =
      loc: defs:
      let
        kept = lib.modules.filterOverrides defs;
      in
      if lib.any (def: builtins.isList def.value) kept then
        lib.concatMap (def: lib.toList def.value) kept
      else
        lib.options.mergeEqualOption loc kept;
  };
  section = mkOption {
    type = types.attrsOf unitOption;
    default = { };
  };

  common = {
    imports = [ units.unitSection ];
    options = {
      enable = flag true;
      name = mkOption {
        type = types.str;
        internal = true;
      };
      overrideStrategy = mkOption {
        type = types.enum [
          "asDropinIfExists"
          "asDropin"
        ];
        default = "asDropinIfExists";
      };
      description = mkOption {
        type = types.singleLineStr;
        default = "";
      };
      documentation = mkOption {
        type = types.listOf types.str;
        default = [ ];
      };
      startLimitBurst = mkOption { type = types.int; };
      startLimitIntervalSec = mkOption { type = types.int; };
      unitConfig = section;
      restartTriggers = mkOption {
        type = types.listOf types.unspecified;
        default = [ ];
      };
      reloadTriggers = mkOption {
        type = types.listOf unitOption;
        default = [ ];
      };
    }
    // lib.genAttrs [
      "after"
      "aliases"
      "before"
      "bindsTo"
      "conflicts"
      "onFailure"
      "onSuccess"
      "partOf"
      "requiredBy"
      "requires"
      "requisite"
      "upheldBy"
      "upholds"
      "wantedBy"
      "wants"
    ] (_: names);
  };
  script = name: text: field: mkIf (text != "") (
    let
      job = makeJobScript name text;
    in
    {
      jobScripts = [ job ];
      serviceConfig = field job;
    }
  );
in
{
  inherit common unitOption section;
  service =
    { name, config, ... }:
    {
      options = {
        environment = mkOption {
          type = types.attrsOf (
            types.nullOr (
              types.oneOf [
                types.str
                types.path
                types.package
              ]
            )
          );
          default = { };
        };
        path = mkOption {
          type = types.listOf (
            types.oneOf [
              types.package
              types.str
            ]
          );
          default = [ ];
        };
        serviceConfig = mkOption {
          type = types.addCheck (types.attrsOf unitOption) checkService;
          default = { };
        };
        script = lines;
        scriptArgs = mkOption {
          type = types.str;
          default = "";
        };
        preStart = lines;
        postStart = lines;
        reload = lines;
        preStop = lines;
        postStop = lines;
        jobScripts = mkOption {
          type = types.coercedTo types.path lib.singleton (types.listOf types.path);
          internal = true;
          default = [ ];
        };
        enableStrictShellChecks = flag false;
        enableDefaultPath = flag true;
        restartIfChanged = flag true;
        reloadIfChanged = flag false;
        stopIfChanged = flag true;
        notSocketActivated = flag false;
        startAt = mkOption {
          type = types.either types.str (types.listOf types.str);
          default = [ ];
          apply = lib.toList;
        };
      };
      config = mkMerge [
        (script "${name}-pre-start" config.preStart (job: { ExecStartPre = [ job ]; }))
        (script "${name}-start" config.script (job: { ExecStart = "${job} ${config.scriptArgs}"; }))
        (script "${name}-post-start" config.postStart (job: { ExecStartPost = [ job ]; }))
        (script "${name}-reload" config.reload (job: { ExecReload = job; }))
        (script "${name}-pre-stop" config.preStop (job: { ExecStop = job; }))
        (script "${name}-post-stop" config.postStop (job: { ExecStopPost = job; }))
        {
          environment.PATH = mkIf (
            config.path != [ ]
          ) "${lib.makeBinPath config.path}:${lib.makeSearchPathOutput "bin" "sbin" config.path}";
        }
      ];
    };
  socket.options = {
    listenStreams = mkOption {
      type = types.listOf types.str;
      default = [ ];
    };
    listenDatagrams = mkOption {
      type = types.listOf types.str;
      default = [ ];
    };
    socketConfig = section;
  };
  timer.options.timerConfig = section;
  path.options.pathConfig = section;
  slice.options.sliceConfig = section;
  mount =
    { config, ... }:
    {
      options = {
        what = mkOption { type = types.str; };
        where = mkOption { type = types.str; };
        type = mkOption {
          type = types.str;
          default = "";
        };
        options = mkOption {
          type = types.commas;
          default = "";
        };
        mountConfig = section;
      };
      config.mountConfig = {
        What = config.what;
        Where = config.where;
      }
      // lib.optionalAttrs (config.type != "") { Type = config.type; }
      // lib.optionalAttrs (config.options != "") { Options = config.options; };
    };
  target = { };
}
