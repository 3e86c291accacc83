# The confinement of every unit of ours, and the exceptions from it, each with its reason.
#
#   hardening {
#     network = "none" | "unix" | "loopback" | "egress";   what the unit may reach; default "none"
#     gpu = true;                                          the device nodes of GPUs
#     exceptions = [ "cpuinfo" ];                          names in `named` below
#   }
#
# "none" and "unix" are the same to the kernel: no network at all. Sockets of other services are
# files, and what opens them is the group of each socket.
{ lib }:
let
  base = {
    # Identity and privileges.
    AmbientCapabilities = "";
    CapabilityBoundingSet = "";
    KeyringMode = "private";
    NoNewPrivileges = true;
    PrivateUsers = true;
    RestrictSUIDSGID = true;
    UMask = "0077";

    # Files.
    PrivateMounts = true;
    PrivateTmp = true;
    ProtectHome = true;
    ProtectSystem = "strict";
    RemoveIPC = true;

    # Devices.
    DevicePolicy = "closed";
    PrivateDevices = true;

    # The kernel and other processes.
    LockPersonality = true;
    MemoryDenyWriteExecute = true;
    PrivateIPC = true;
    ProcSubset = "pid";
    ProtectClock = true;
    ProtectControlGroups = true;
    ProtectHostname = true;
    ProtectKernelLogs = true;
    ProtectKernelModules = true;
    ProtectKernelTunables = true;
    ProtectProc = "invisible";
    RestrictNamespaces = true;
    RestrictRealtime = true;

    # System calls. Without an error number a refused one kills the process.
    SystemCallArchitectures = "native";
    SystemCallErrorNumber = "EPERM";
    SystemCallFilter = [
      "@system-service"
      "~@privileged @resources"
    ];

    # Network.
    IPAddressDeny = "any";
    PrivateNetwork = true;
    RestrictAddressFamilies = [ "AF_UNIX" ];
  };

  networks = {
    none = { };
    unix = { };
    loopback = {
      PrivateNetwork = false;
      IPAddressAllow = "localhost";
      RestrictAddressFamilies = [
        "AF_UNIX"
        "AF_INET"
        "AF_INET6"
      ];
    };
    egress = {
      PrivateNetwork = false;
      IPAddressDeny = null;
      # AF_NETLINK: getaddrinfo asks the kernel which addresses this machine has (RFC 6724); without
      # it glibc sorts IPv6 first on hosts that have none.
      RestrictAddressFamilies = [
        "AF_UNIX"
        "AF_INET"
        "AF_INET6"
        "AF_NETLINK"
      ];
    };
  };

  named = {
    # ONNX Runtime asks /proc/cpuinfo which processor this is. It starts without it, with an error
    # and two warnings each time ("Unknown CPU vendor", "performance degradation due to undetected
    # CPU features").
    cpuinfo.ProcSubset = "all";

    # Compilers at run time map writable memory executable: torch fails in its first forward pass
    # without this (oneDNN), OpenVINO when it loads a model. ONNX Runtime does not need it.
    jit.MemoryDenyWriteExecute = false;

    # A unit of root. As the one user of its own user namespace it could not make files of a group.
    root.PrivateUsers = false;

    # Makes files of root from files that another user may own: without the capability root is
    # refused what it does not own, and a secret in a home would be hidden.
    files = {
      PrivateUsers = false;
      CapabilityBoundingSet = "CAP_DAC_READ_SEARCH";
      ProtectHome = "read-only";
    };

    # Threads bound to cores (sched_setaffinity): refused, OpenMP and ONNX Runtime print an error
    # for every thread.
    affinity.SystemCallFilter = [
      "@system-service"
      "~@privileged"
    ];
  };

  gpuDevices = {
    PrivateDevices = false;
    # libcuda reads /proc/driver/nvidia and /proc/devices.
    ProcSubset = "all";
    # By the names in /proc/devices: nodes that a glob would match may not exist yet at start. With
    # frontend or uvm missing the driver finds no GPU and a program falls back to the processor.
    DeviceAllow = [
      "char-drm rw"
      "char-kfd rw" # AMD
      "char-nvidiactl rw"
      "char-nvidia-caps rw"
      "char-nvidia-frontend rw"
      "char-nvidia-modeset rw"
      "char-nvidia-uvm rw"
      "/dev/dxg rw" # Windows' subsystem for Linux
    ];
  };
in
{
  network ? "none",
  gpu ? false,
  exceptions ? [ ],
}:
lib.filterAttrs (_: value: value != null) (
  base
  // networks.${network}
  // lib.optionalAttrs gpu gpuDevices
  // lib.foldl' (all: name: all // named.${name}) { } exceptions
)
