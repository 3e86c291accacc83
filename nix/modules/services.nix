# One socket and one service for each entry of stack.toml.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.aistack;
  aistack = cfg.lib;
  inherit (aistack) hardening socketGroup socketPath;
  inherit (cfg.stack) services;
  of = import ./service-settings.nix { inherit cfg lib pkgs; };

  enabled = lib.filterAttrs (name: _: cfg.${name}.enable) services;
  each = f: lib.mapAttrs' (name: entry: lib.nameValuePair "aistack-${name}" (f name entry)) enabled;

  encoder = name: (of.settings name).embeddings.encoder or "auto";

  # "auto" of the reranker takes torch for every model that is no BERT, and where there is a GPU.
  reranksWithTorch =
    name:
    let
      said = (of.settings name).embeddings;
      engine = said.rerank_encoder or "auto";
    in
    said.rerank_model or null != null
    && (engine == "torch" || (engine == "auto" && cfg.package.withTorch or false));

  # "auto" takes OpenVINO where it is there and may compile.
  compiles =
    name:
    lib.elem (encoder name) [
      "openvino"
      "torch"
    ]
    || (encoder name == "auto" && cfg.package.withOpenvino or false)
    || reranksWithTorch name;

  # Exceptions from the hardening of single services; the reasons are in hardening.nix.
  exceptionsOf =
    name:
    {
      embeddings = [ "cpuinfo" ] ++ lib.optional (compiles name) "jit";
    }
    .${name} or [ ];
  usesGpu =
    name:
    name == "embeddings"
    && (encoder name == "torch" || reranksWithTorch name)
    && (pkgs.config.cudaSupport or false);

  # Sockets that it may connect to: those of services that list it as a client, those of the parts
  # that it needs, and those that every service may use.
  groupsOf =
    name:
    lib.unique (
      map socketGroup (aistack.socketsOf name)
      ++ lib.filter (group: group != null) (map (part: part.group) (of.partsOf name))
      ++ cfg.serviceGroups
    );

  socketFor = name: entry: {
    description = "${entry.summary} (socket)";
    wantedBy = [
      "sockets.target"
      "aistack.target"
    ];
    partOf = [ "aistack.target" ];
    listenStreams = [ (socketPath name) ];
    socketConfig = {
      SocketMode = "0660";
      SocketGroup = socketGroup name;
      DirectoryMode = "0755";
      Backlog = 2048;
      # The service is never given up (lib.nix), so neither is its socket.
      TriggerLimitIntervalSec = 0;
    };
  };

  serviceFor =
    name: entry:
    let
      own = cfg.${name};
      unit = "aistack-${name}";
      network = of.network name;
      limits = entry.limits // (of.settings name).limits or { };
      # Wanted, not required: a start whose requirement failed is no failed start to systemd, and
      # the socket would ask for the next one at once. The service itself waits for what it needs.
      before =
        lib.concatMap (part: part.units) (of.partsOf name)
        ++ [ "aistack-secrets.service" ]
        ++ lib.optional (network == "egress") "network-online.target";
    in
    lib.recursiveUpdate aistack.never {
      description = entry.summary;
      wantedBy = [ "aistack.target" ];
      partOf = [ "aistack.target" ];
      requires = [ "${unit}.socket" ];
      wants = before;
      after = [ "${unit}.socket" ] ++ before;

      # Stopped and started by a rebuild, the socket would be stopped with it and refuse
      # connections meanwhile; restarted, it stays.
      stopIfChanged = false;

      environment = of.fromParts name "environment";

      serviceConfig =
        hardening {
          inherit network;
          gpu = usesGpu name;
          exceptions = exceptionsOf name;
        }
        // {
          Type = "notify";
          NotifyAccess = "main";
          ExecStart = "${lib.getExe cfg.package} serve ${name} --config ${of.configFile name}";
          Slice = "aistack.slice";

          # The name is fixed, so that PostgreSQL's ident map knows it; the number is not.
          DynamicUser = true;
          User = unit;
          # Reads the key store.
          Group = "aistack";
          SupplementaryGroups = groupsOf name;
          inherit (aistack.loadCredentials (of.credentials name)) LoadCredential SetCredential;

          # The service ends a start by itself after start_seconds, and a drain after
          # drain_seconds, and says so; systemd's own limits are for one that cannot.
          TimeoutStartSec = limits.start_seconds + 10;
          TimeoutStopSec = limits.drain_seconds + 10;
          WatchdogSec = limits.watchdog_seconds;
          KillMode = "mixed";

          MemoryHigh = own.memoryHigh;
          MemoryMax = own.memoryMax;
          CPUWeight = own.cpuWeight;
          TasksMax = own.tasksMax;
          OOMPolicy = "kill";
        }
        // lib.optionalAttrs (entry.state == "cache") {
          CacheDirectory = unit;
          CacheDirectoryMode = "0700";
        }
        // lib.optionalAttrs (entry.state == "data") {
          StateDirectory = unit;
          StateDirectoryMode = "0700";
        }
        // own.extraServiceConfig;
    };
in
{
  config = lib.mkIf cfg.enable {
    services.aistack.parts = lib.mapAttrs (name: _: {
      # The socket is enough: who connects early waits in its queue. The group comes with `clients`
      # of the table.
      units = [ "aistack-${name}.socket" ];
      settings = _: { peers.${name} = "unix:${socketPath name}"; };
    }) enabled;

    services.aistack.secrets.watch = each (
      name: _:
      lib.filter (file: file != null) [
        cfg.secrets.pepperFile
        (cfg.secrets.internalKeyFiles.${name} or null)
      ]
      ++ lib.attrValues (of.fromParts name "credentials")
    );

    users.groups = lib.mapAttrs' (name: _: lib.nameValuePair (socketGroup name) { }) services;

    systemd.sockets = each socketFor;
    systemd.services = each serviceFor;

    systemd.targets.aistack = {
      description = "The AI stack";
      wantedBy = [ "multi-user.target" ];
    };

    systemd.slices.aistack.description = "The AI stack";

    # The services refuse a wrong configuration at their start; this refuses it at the rebuild.
    system.checks = lib.optional (pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform) (
      pkgs.runCommand "aistack-check-config" { } (
        lib.concatMapStrings (name: ''
          ${lib.getExe cfg.package} config check ${of.configFile name}
        '') (lib.attrNames enabled)
        + "touch $out\n"
      )
    );
  };
}
