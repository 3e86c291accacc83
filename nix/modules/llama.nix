# llama.cpp: one server for each instance, on a unix socket, without network. Its model is in the
# store, is a file that is there, or is downloaded by a unit of its own (llama-download.nix).
{
  config,
  lib,
  pkgs,
  utils,
  ...
}:
let
  cfg = config.services.aistack;
  own = cfg.llama;
  aistack = cfg.lib;
  inherit (utils) escapeSystemdExecArgs;

  # A static group: clients of every instance are members through SupplementaryGroups=.
  group = "aistack-llama-clients";

  enabled = lib.filterAttrs (_: instance: instance.enable) own.instances;
  gpu = own.acceleration != "cpu";

  guard = command: [
    (lib.getExe pkgs.python3)
    "${../llama-guard.py}"
    command
  ];

  set = flag: value: lib.optionals (value != null) [ flag value ];

  # The program's name in the package is another one: getExe would give `llama`.
  arguments =
    instance:
    [
      (lib.getExe' own.package "llama-server")
      "--model"
      instance.modelFile
      "--alias"
      instance.alias
      "--host"
      instance.socket
      "--ctx-size"
      # The server divides it among its slots.
      (instance.contextSize * instance.parallel)
      "--parallel"
      instance.parallel
      "--cache-type-k"
      instance.cacheTypeK
      "--cache-type-v"
      instance.cacheTypeV
      "--flash-attn"
      instance.flashAttention
    ]
    # A build without a GPU warns of the flag.
    ++ lib.optionals gpu (set "--n-gpu-layers" instance.gpuLayers)
    ++ set "--threads" instance.threads
    ++ set "--batch-size" instance.batchSize
    ++ set "--ubatch-size" instance.microBatchSize
    ++ lib.optional (instance.mode == "embedding") "--embedding"
    ++ lib.optional (instance.mode == "reranking") "--reranking"
    ++ [
      "--metrics"
      # Shows what others ask.
      "--no-slots"
      "--no-webui"
      # It has no network to look for models on.
      "--offline"
    ]
    ++ instance.presetArgs
    ++ instance.extraArgs;

  service =
    name: instance:
    lib.nameValuePair instance.unit (
      lib.recursiveUpdate aistack.never {
        description = "llama.cpp (${name}: ${lib.replaceStrings [ "%" ] [ "%%" ] instance.alias})";
        documentation = [ "https://github.com/ggml-org/llama.cpp/tree/master/tools/server" ];
        wantedBy = [ "aistack.target" ];
        partOf = [ "aistack.target" ];
        unitConfig = lib.optionalAttrs (instance.download != null) {
          # Not there yet is no failure: the download starts the server when it is done.
          ConditionPathExists = lib.replaceStrings [ "%" ] [ "%%" ] instance.modelFile;
        };
        environment = {
          LLAMA_CACHE = "/var/cache/${instance.unit}";
          XDG_CACHE_HOME = "/var/cache/${instance.unit}";
        }
        // lib.optionalAttrs instance.mlock {
          # Not by flags: --mlock became --load-mode in 2026, and each is an error to the other
          # version. A variable that it does not know is none.
          LLAMA_ARG_MLOCK = "1";
          LLAMA_ARG_LOAD_MODE = "mmap+mlock";
        }
        // lib.optionalAttrs (own.acceleration == "cuda") {
          CUDA_CACHE_PATH = "/var/cache/${instance.unit}/cuda";
        };

        serviceConfig =
          aistack.hardening {
            network = "unix";
            inherit gpu;
          }
          // {
            Type = "exec";
            ExecStart = escapeSystemdExecArgs (
              guard "serve"
              ++ [
                "--name"
                name
                "--model"
                instance.modelFile
                "--socket"
                instance.socket
                "--"
              ]
              ++ arguments instance
            );
            # Loading takes minutes at times, and neither a boot nor a rebuild waits for it: a target
            # is ordered after what it wants (systemd.target(5)), and a rebuild waits for the start
            # of what it restarts. So the unit is active while the model is loaded.
            ExecStartPost = escapeSystemdExecArgs (
              guard "watch"
              ++ [
                "--socket"
                instance.socket
                "--seconds"
                instance.startTimeout
              ]
            );
            TimeoutStopSec = 30;
            # The guard's word that this model cannot be served: another try would say it again.
            RestartPreventExitStatus = 78;
            Slice = "aistack.slice";

            DynamicUser = true;
            User = instance.unit;
            Group = group;
            # The mode of the socket: 0770, in a directory that the group may enter.
            UMask = "0007";
            RuntimeDirectory = instance.unit;
            RuntimeDirectoryMode = "0750";
            CacheDirectory = instance.unit;
            CacheDirectoryMode = "0700";

            # Under memory pressure it is the one to go: it holds most, and comes back by itself.
            OOMScoreAdjust = 300;
            OOMPolicy = "kill";
          }
          // lib.optionalAttrs (instance.memoryMax != null) { MemoryMax = instance.memoryMax; }
          // lib.optionalAttrs instance.mlock { LimitMEMLOCK = "infinity"; }
          // lib.optionalAttrs gpu {
            # Its members may use the render nodes.
            SupplementaryGroups = [ "render" ];
          };
      }
    );
in
{
  imports = [
    ./llama-options.nix
    ./llama-assertions.nix
    ./llama-download.nix
  ];

  config = lib.mkIf (cfg.enable && own.enable) {
    users.groups.${group} = { };

    systemd.services = lib.mapAttrs' service enabled;

    services.aistack.parts.llama = lib.mkIf (enabled ? chat) {
      inherit group;
      # Its start does not wait for the model, so nobody's start waits for it. At a stop it ends after
      # those that use it, whose last streams come from it.
      units = [ "aistack-llama-chat.service" ];
      settings = _: { llama.address = "unix:${enabled.chat.socket}"; };
    };
  };
}
