# Secrets: given as files outside the store, or made once by aistack-secrets.service. Units get them
# as credentials; nothing secret is in the store, in an argument, in an environment or in a log.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.aistack;
  own = cfg.secrets;
  inherit (cfg.lib) keysDirectory secretsDirectory stateDirectory;

  secretFile =
    example: description:
    mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      inherit example description;
    };

  # Given files and the units that read them, from every module.
  watched = lib.filterAttrs (_: files: files != [ ]) own.watch;

  # What the files of a unit hold, as one line: by it a restart is decided. Of a missing one, nothing.
  contentOf = unit: "cat ${lib.escapeShellArgs (lib.unique watched.${unit})} 2>/dev/null | sha256sum";
  # Root's own, and there as long as the machine runs.
  contents = {
    RuntimeDirectory = "aistack-secrets";
    RuntimeDirectoryMode = "0700";
    RuntimeDirectoryPreserve = true;
  };

  aistack = lib.getExe cfg.package;
  words = lib.escapeShellArgs (
    [
      "--stack"
      (pkgs.writeText "aistack-stack.json" (builtins.toJSON cfg.stack))
      "--group"
      "aistack"
    ]
    ++ lib.optionals (own.pepperFile != null) [
      "--pepper"
      own.pepperFile
    ]
    ++ lib.concatLists (
      lib.mapAttrsToList (name: file: [
        "--internal-key"
        "${name}=${file}"
      ]) own.internalKeyFiles
    )
  );
in
{
  options.services.aistack.secrets = {
    pepperFile = secretFile "/run/secrets/aistack-pepper" ''
      File with the pepper of the key store, one line of at least 32 bytes; the stored hash of every
      key depends on it, so it stays what it is. Made once when not given.
    '';

    keysFile = secretFile "/run/secrets/aistack-keys.json" ''
      File with the key store itself, where several machines share one; readable by the group
      `aistack`. It needs {option}`services.aistack.secrets.pepperFile` and every one of
      {option}`services.aistack.secrets.internalKeyFiles` beside it. Made once when not given, and
      edited with `aistack keys`.
    '';

    internalKeyFiles = mkOption {
      type = types.attrsOf types.externalPath;
      default = { };
      example = {
        aidb = "/run/secrets/aistack-aidb.key";
      };
      description = ''
        Files with the keys that services show to each other, by service. Made once where not given;
        several machines need the same ones.
      '';
    };

    generate = mkOption {
      type = types.listOf (types.strMatching "[a-z0-9-]+");
      internal = true;
      default = [ ];
      description = ''
        Names of random secrets to make in ${secretsDirectory}: 64 hexadecimal digits each.
      '';
    };

    apiKeys = mkOption {
      type = types.attrsOf (types.listOf types.str);
      internal = true;
      default = { };
      description = ''
        Keys of our own API to make in ${secretsDirectory}/<name>-api-key, with these scopes.
      '';
    };

    watch = mkOption {
      type = types.attrsOf (types.listOf types.str);
      internal = true;
      default = { };
      description = "Given files by the unit that reads them: it is restarted when one changes.";
    };

    files = mkOption {
      type = types.raw;
      internal = true;
      readOnly = true;
      default = {
        keys = if own.keysFile != null then own.keysFile else "${keysDirectory}/keys.json";
        pepper = if own.pepperFile != null then own.pepperFile else "${keysDirectory}/pepper";
        internalKeys = lib.mapAttrs (
          name: _: own.internalKeyFiles.${name} or "${keysDirectory}/internal/${name}.key"
        ) cfg.stack.services;
      };
      description = "Where each file of the key store is.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = own.keysFile != null -> own.pepperFile != null;
        message = ''
          services.aistack.secrets.keysFile cannot be read without the pepper that its keys were
          made with: set services.aistack.secrets.pepperFile too.
        '';
      }
      {
        assertion =
          own.keysFile != null
          -> lib.all (name: own.internalKeyFiles ? ${name}) (lib.attrNames cfg.stack.services);
        message = ''
          services.aistack.secrets.keysFile is given, so no internal key is made here: set
          services.aistack.secrets.internalKeyFiles.<service> for each of
          ${lib.concatStringsSep ", " (lib.attrNames cfg.stack.services)}.
        '';
      }
      {
        assertion = own.keysFile != null -> own.apiKeys == { };
        message = ''
          services.aistack.secrets.keysFile is given, so no key can be made here for
          ${lib.concatStringsSep ", " (lib.attrNames own.apiKeys)}: give that part its own key file.
        '';
      }
    ]
    ++ map (name: {
      assertion = cfg.stack.services ? ${name};
      message = ''
        services.aistack.secrets.internalKeyFiles.${name}: there is no such service. Use
        ${lib.concatStringsSep ", " (lib.attrNames cfg.stack.services)}.
      '';
    }) (lib.attrNames own.internalKeyFiles);

    users.groups.aistack = { };

    services.aistack.secrets.watch.aistack-secrets =
      lib.optional (own.pepperFile != null) own.pepperFile ++ lib.attrValues own.internalKeyFiles;

    # A given file is no part of the configuration, so a rebuild does not see it change.
    systemd.paths = lib.mapAttrs' (
      unit: files:
      lib.nameValuePair "${unit}-watch" {
        description = "Given secrets of ${unit}";
        wantedBy = [ "aistack.target" ];
        partOf = [ "aistack.target" ];
        pathConfig.PathChanged = lib.unique files;
      }
    ) watched;

    # A path unit does not see that a link on the way leads elsewhere (sops-nix, agenix), as long as
    # the file exists before and after.
    systemd.timers = lib.mapAttrs' (
      unit: _:
      lib.nameValuePair "${unit}-watch" {
        description = "Given secrets of ${unit}, behind links";
        wantedBy = [ "aistack.target" ];
        partOf = [ "aistack.target" ];
        timerConfig = {
          OnActiveSec = 60;
          OnUnitInactiveSec = 60;
          AccuracySec = 10;
        };
      }
    ) watched;

    systemd.services = lib.mapAttrs' (
      unit: _:
      lib.nameValuePair "${unit}-watch" {
        description = "Restart of ${unit} after a change of its secrets";
        # sops-nix and agenix write every file anew at each rebuild: only another content counts.
        # It is noted after the restart, so one that fails is tried again with the next change.
        script = ''
          now=$(${contentOf unit})
          if [ "$now" != "$(cat "$RUNTIME_DIRECTORY/${unit}")" ]; then
            ${config.systemd.package}/bin/systemctl try-restart ${unit}.service
            printf '%s\n' "$now" >"$RUNTIME_DIRECTORY/${unit}"
          fi
        '';
        serviceConfig = cfg.lib.hardening { exceptions = [ "files" ]; } // contents // {
          Type = "oneshot";
          Slice = "aistack.slice";
          # Not two lines in the journal every minute.
          LogLevelMax = "notice";
        };
      }
    ) watched
    // {
    aistack-secrets = {
      description = "Secrets of the AI stack that were not given";
      wantedBy = [ "aistack.target" ];
      environment.AISTACK_DATA_DIR = stateDirectory;
      # Each is made in a file of its own and put in place whole; what is there stays. The key store
      # comes last: what is wrong with a given key holds up nothing else.
      script = ''
        umask 0077
        mkdir -p ${secretsDirectory}
      ''
      + lib.concatMapStrings (file: ''
        if [ ! -r ${lib.escapeShellArg file} ]; then
          echo ${lib.escapeShellArg "${file} is missing: put the secret there; its units wait"} >&2
        fi
      '') (lib.unique (lib.concatLists (lib.attrValues watched)))
      # Before any unit has read them; what is there is what the unit's watch has noted.
      + lib.concatMapStrings (unit: ''
        if [ ! -e "$RUNTIME_DIRECTORY/${unit}" ]; then
          ${contentOf unit} >"$RUNTIME_DIRECTORY/${unit}"
        fi
      '') (lib.attrNames watched)
      + lib.concatMapStrings (name: ''
        if [ ! -s ${secretsDirectory}/${name} ]; then
          od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n' >${secretsDirectory}/${name}.new
          chmod 0400 ${secretsDirectory}/${name}.new
          mv ${secretsDirectory}/${name}.new ${secretsDirectory}/${name}
        fi
      '') (lib.unique own.generate)
      + lib.optionalString (own.keysFile == null) (
        ''
          ${aistack} keys init ${words}
        ''
        + lib.concatStrings (
          lib.mapAttrsToList (name: scopes: ''
            if [ ! -s ${secretsDirectory}/${name}-api-key ]; then
              ${aistack} keys create ${name} --scope ${lib.concatStringsSep "," scopes} \
                --write ${secretsDirectory}/${name}-api-key
              chmod 0400 ${secretsDirectory}/${name}-api-key
            fi
          '') own.apiKeys
        )
      );
      serviceConfig = cfg.lib.hardening { exceptions = [ "files" ]; } // contents // {
        Type = "oneshot";
        RemainAfterExit = true;
        Slice = "aistack.slice";
        # The services' group, which may enter and read the hashed keys, nothing more.
        Group = "aistack";
        StateDirectory = "aistack";
        StateDirectoryMode = "0750";
        # A given file that comes late is seen at once (above); this is for everything else.
        Restart = "on-failure";
        RestartSec = "500ms";
        RestartSteps = 8;
        RestartMaxDelaySec = 300;
      };
      inherit (cfg.lib.never) unitConfig;
    };
    };
  };
}
