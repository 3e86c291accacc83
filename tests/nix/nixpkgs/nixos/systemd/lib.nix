# How unit options become unit files.
# Facts: nixos/lib/systemd-lib.nix at 013635633ffe11f70df1d639f563f21c42c1f778.
{ lib, pkgs, config }:
let
  inherit (builtins) elem isList;
  inherit (lib)
    concatMapStrings
    concatStringsSep
    mapAttrsToList
    optional
    optionalAttrs
    optionalString
    ;
  oneOf =
    name: values: group: attrs:
    optional (
      attrs ? ${name} && !(elem attrs.${name} values)
    ) "Systemd ${group} field `${name}' cannot have value `${toString attrs.${name}}'.";
  plain =
    value: if value._type or "" == "override" || value._type or "" == "if" then value.content else value;
in
rec {
  unitNameType = lib.types.strMatching "[a-zA-Z0-9@%:_.\\-]+[.](service|socket|device|mount|automount|swap|target|path|timer|scope|slice)";

  checkUnitConfig =
    group: checks: attrs:
    let
      errors = lib.concatMap (check: check group (lib.mapAttrs (_: plain) attrs)) checks;
    in
    errors == [ ] || builtins.trace (concatStringsSep "\n" errors) false;
  checkService = checkUnitConfig "Service" [
    (oneOf "Type" [ "exec" "simple" "forking" "oneshot" "dbus" "notify" "notify-reload" "idle" ])
    (oneOf "Restart" [ "no" "on-success" "on-failure" "on-abnormal" "on-abort" "on-watchdog" "always" ])
  ];

  shown =
    value:
    if value == true then
      "true"
    else if value == false then
      "false"
    else
      toString value;
  attrsToSection =
    attrs:
    lib.concatStrings (
      mapAttrsToList (
        name: value:
        concatMapStrings (x: "${name}=${shown x}\n") (if isList value then value else [ value ])
      ) attrs
    );

  makeJobScript =
    name: text:
    let
      file = builtins.replaceStrings [ "\\" "@" ] [ "-" "_" ] name;
    in
    lib.getExe (
      pkgs.textFile {
        name = "unit-script-${file}";
        executable = true;
        destination = "/bin/${file}";
        content = "#!${pkgs.runtimeShell}\nset -e\n\n${text}\n\n";
      }
      // {
        meta.mainProgram = file;
      }
    );

  # The options that become lines of [Unit].
  unitSection =
    { config, name, options, ... }:
    let
      joined = {
        Requires = config.requires;
        Wants = config.wants;
        Upholds = config.upholds;
        After = config.after;
        Before = config.before;
        BindsTo = config.bindsTo;
        PartOf = config.partOf;
        Conflicts = config.conflicts;
        Requisite = config.requisite;
        Documentation = config.documentation;
        OnFailure = config.onFailure;
        OnSuccess = config.onSuccess;
      };
      triggers =
        kind: items:
        "${pkgs.writeText "X-${kind}-Triggers-${name}" (
          toString (map (x: if builtins.isPath x then "${x}" else x) (lib.flatten items))
        )}";
    in
    {
      config.unitConfig =
        lib.mapAttrs (_: toString) (lib.filterAttrs (_: names: names != [ ]) joined)
        // optionalAttrs (config.restartTriggers != [ ]) {
          X-Restart-Triggers = triggers "Restart" config.restartTriggers;
        }
        // optionalAttrs (config.reloadTriggers != [ ]) {
          X-Reload-Triggers = triggers "Reload" config.reloadTriggers;
        }
        // optionalAttrs (config.description != "") { Description = config.description; }
        // optionalAttrs options.startLimitIntervalSec.isDefined {
          StartLimitIntervalSec = toString config.startLimitIntervalSec;
        }
        // optionalAttrs options.startLimitBurst.isDefined {
          StartLimitBurst = toString config.startLimitBurst;
        };
    };

  unitText =
    unit: lines:
    "[Unit]\n${attrsToSection unit.unitConfig}\n${lines}"
    + optionalString (unit.wantedBy != [ ]) "\n[Install]\nWantedBy=${concatStringsSep " " unit.wantedBy}\n";
  sectionOf = {
    service =
      unit:
      "[Service]\n"
      + lib.concatStrings (
        mapAttrsToList (
          name: value:
          optionalString (value != null) "Environment=${builtins.toJSON "${name}=${value}"}\n"
        ) (config.systemd.globalEnvironment // unit.environment)
      )
      + (
        if unit.reloadIfChanged then
          "X-ReloadIfChanged=true\n"
        else
          optionalString (!unit.restartIfChanged) "X-RestartIfChanged=false\n"
      )
      + optionalString (!unit.stopIfChanged) "X-StopIfChanged=false\n"
      + optionalString unit.notSocketActivated "X-NotSocketActivated=true\n"
      + attrsToSection unit.serviceConfig;
    socket =
      unit:
      "[Socket]\n${attrsToSection unit.socketConfig}\n"
      + concatStringsSep "\n" (map (s: "ListenStream=${s}") unit.listenStreams)
      + "\n"
      + concatStringsSep "\n" (map (s: "ListenDatagram=${s}") unit.listenDatagrams)
      + "\n";
    timer = unit: "[Timer]\n${attrsToSection unit.timerConfig}\n";
    path = unit: "[Path]\n${attrsToSection unit.pathConfig}\n";
    slice = unit: "[Slice]\n${attrsToSection unit.sliceConfig}\n";
    mount = unit: "[Mount]\n${attrsToSection unit.mountConfig}\n";
  };
  textOf =
    kind: unit:
    if kind == "target" then
      "[Unit]\n${attrsToSection unit.unitConfig}\n"
    else
      unitText unit (sectionOf.${kind} unit);
}
