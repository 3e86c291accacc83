# What the modules share; `config.services.aistack.lib` is this.
#
#   socketPath "aidb"             "/run/aistack/aidb.sock"
#   socketGroup "aidb"            "aistack-aidb-clients"; its members may connect
#   socketsOf "coordinator"       the services whose sockets `coordinator` may connect to
#   credential "aistack-aidb" "pepper"
#                                 "/run/credentials/aistack-aidb.service/pepper"
#   loadCredentials { pepper = "/path"; }
#                                 LoadCredential and SetCredential for programs of ours
#   secretFile given "name"       `given`, or where aistack-secrets.service makes the secret `name`
#   hardening { … }               serviceConfig of a confined unit; see modules/hardening.nix
#   unseen "/home/me/model"       whether it lies where a confined unit does not see it
#   limitsOf "aidb"               { memoryHigh, memoryMax, tasksMax } from profile.toml
#   never                         unitConfig and serviceConfig of a unit that is never given up
#   override base over            `over` on `base`, table by table (JSON-like values)
{ lib, stack }:
let
  profile = (lib.importTOML ./profile.toml).services;

  roundUp = step: value: (value + step - 1) / step * step;
  largest = field: lib.foldl' lib.max 0 (lib.catAttrs field (lib.attrValues profile));

  # The peak was measured on one machine of two cores with one mix of requests, so it gets room:
  # reclaim begins at one and a half of it and 64 MiB, the kill comes at twice and 128 MiB. A
  # service that was not measured gets what the largest one gets.
  #
  # Libraries make threads by the number of cores (tokenizers one each, OpenBLAS, gRPC), which the
  # measurement of two cores says nothing about, and one that is refused a thread ends the process.
  # So 1024 tasks beside twice the measured ones: room for hosts of some hundred cores, and still an
  # end to a program that forks without one.
  limitsOf =
    name:
    let
      peak = profile.${name}.rss_mib_peak or (largest "rss_mib_peak");
      tasks = profile.${name}.tasks_peak or (largest "tasks_peak");
      # Their limit is stack.toml's, and they are seldom there.
      children = (stack.services.${name}.limits.children_bytes or 0) / 1048576;
    in
    {
      memoryHigh = "${toString (roundUp 32 (peak * 3 / 2 + 64 + children))}M";
      memoryMax = "${toString (roundUp 32 (peak * 2 + 128 + children))}M";
      tasksMax = roundUp 16 (tasks * 2 + 1024);
    };

  override =
    base: over:
    base
    // lib.mapAttrs (
      name: value:
      if lib.isAttrs value && lib.isAttrs (base.${name} or null) then
        override base.${name} value
      else
        value
    ) over;
in
{
  inherit limitsOf override;

  stateDirectory = "/var/lib/aistack";
  keysDirectory = "/var/lib/aistack/keys";
  secretsDirectory = "/var/lib/aistack/secrets";

  socketPath = name: "/run/aistack/${name}.sock";
  socketGroup = name: "aistack-${name}-clients";
  socketsOf =
    client:
    lib.attrNames (lib.filterAttrs (_: entry: lib.elem client entry.clients) stack.services);

  credential = unit: name: "/run/credentials/${unit}.service/${name}";

  # A missing file would end the start before the program, with a line of systemd that names nothing
  # ("Protocol error"). Ours know the stand-in and say which secret is missing.
  loadCredentials = files: {
    LoadCredential = lib.mapAttrsToList (id: file: "${id}:${toString file}") files;
    SetCredential = map (id: "${id}:missing") (lib.attrNames files);
  };
  secretFile =
    given: name: if given != null then toString given else "/var/lib/aistack/secrets/${name}";

  hardening = import ./modules/hardening.nix { inherit lib; };

  # ProtectHome= and PrivateTmp= of the hardening.
  unseen =
    path:
    lib.any (directory: lib.hasPrefix directory "${toString path}/") [
      "/home/"
      "/root/"
      "/run/user/"
      "/tmp/"
      "/var/tmp/"
    ];

  # A unit that failed is started again after a growing pause, for ever: a start limit would leave
  # it down until somebody looks. A wrong configuration (exit status 78) ends there too: were it
  # exempt (RestartPreventExitStatus=), the next waiting client would start the unit again at once
  # through its socket, and the socket would give up after twenty such starts. A start that waits
  # for its pause holds them back. systemd never resets the steps by itself, so the longest pause
  # is one that clients outlast.
  never = {
    unitConfig.StartLimitIntervalSec = 0;
    serviceConfig = {
      Restart = "always";
      RestartSec = "500ms";
      RestartSteps = 6;
      RestartMaxDelaySec = 20;
    };
  };
}
